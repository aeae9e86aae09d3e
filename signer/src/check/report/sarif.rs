//! SARIF 2.1.0 (OASIS): findings at the lines of the recipe, for a forge's code scanning.
//!
//! The rules are those of [`RULES`], all of them, so that a dashboard can tell a rule that found
//! nothing from one that does not exist. A waived finding stays, as a suppressed result.

use mcpfs_trust::digest::Digest;
use serde_json::{Value, json};

use crate::check::{Checked, Finding, RULES, Severity};

const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// The whole log: one run.
pub(super) fn report(checked: &Checked) -> String {
    let rules: Vec<Value> = RULES
        .iter()
        .map(|rule| {
            let help = format!("{} See the table of rules in docs/publishing.md.", rule.about);
            json!({
                "id": rule.id,
                "shortDescription": {"text": rule.about},
                "fullDescription": {"text": rule.about},
                "help": {"text": help, "markdown": help},
                "defaultConfiguration": {"level": level(rule.severity)},
            })
        })
        .collect();
    let results: Vec<Value> = checked.findings.all().iter().map(result).collect();
    let log = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "mcpfs-signer",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{"executionSuccessful": true}],
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn result(finding: &Finding) -> Value {
    let mut text = match finding.subject.is_empty() {
        true => finding.message.clone(),
        false => format!("{}: {}", finding.subject, finding.message),
    };
    if let Some(fix) = &finding.fix {
        text = format!("{text}\nFix: {fix}");
    }
    let mut physical = json!({"artifactLocation": {"uri": uri(&finding.file)}});
    if let (Some(line), Some(map)) = (finding.line, physical.as_object_mut()) {
        let mut region = json!({"startLine": line});
        if let (Some(column), Some(region)) = (finding.column, region.as_object_mut()) {
            region.insert("startColumn".to_owned(), json!(column));
        }
        map.insert("region".to_owned(), region);
    }
    let mut location = json!({"physicalLocation": physical});
    if let (false, Some(map)) = (finding.subject.is_empty(), location.as_object_mut()) {
        map.insert("logicalLocations".to_owned(), json!([{"fullyQualifiedName": finding.subject}]));
    }
    // The same finding in the next run, though lines have moved.
    let same = Digest::of(format!("{}\0{}\0{}", finding.rule, finding.subject, finding.message).as_bytes());
    let mut result = json!({
        "ruleId": finding.rule,
        "level": level(finding.severity),
        "message": {"text": without_links(&text)},
        "locations": [location],
        "partialFingerprints": {"finding/v1": same},
    });
    if let Some(map) = result.as_object_mut() {
        if let Some(index) = RULES.iter().position(|rule| rule.id == finding.rule) {
            map.insert("ruleIndex".to_owned(), json!(index));
        }
        if let Some(waiver) = &finding.waiver {
            let suppression = json!({"kind": "external", "status": "accepted", "justification": waiver});
            map.insert("suppressions".to_owned(), json!([suppression]));
        }
    }
    result
}

/// A message may hold links, `[text](target)`; what an artefact says must not become one.
fn without_links(text: &str) -> String {
    if text.contains("](") { text.replace('[', "\\[").replace(']', "\\]") } else { text.to_owned() }
}

/// The file as a URI reference; a relative one is relative to the repository.
fn uri(file: &str) -> String {
    let mut out = if file.starts_with('/') { "file://".to_owned() } else { String::new() };
    for byte in file.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
