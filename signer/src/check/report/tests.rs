#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::check::capability::{Capability, Evidence};
use crate::check::changes::{FieldChange, Gained, NewCapability, Paths, PlatformChanges, Previous};
use crate::check::tests::Place;
use crate::check::{Finding, Findings, RULES, Severity, check};

/// A release whose every text tries to be more than text, with an error, warnings and changes.
fn hostile() -> (String, Checked) {
    let place = Place::new();
    for name in ["hello/x` @everyone [a](https://evil.example.com) <img src=x>", "hello/| a |\u{202e}", "hello/README"]
    {
        place.write(name, b"x", 0o644);
    }
    place.write("hello/readme", b"other", 0o644);
    let path = place.recipe(
        "scope: ['# heading', '![x](https://evil.example.com/x.png)', 'Fixes #1, <script>']\n\
         credentials:\n  - {env: TOKEN, ref: 'a``b @admin', scope: read}\n",
    );
    let text = fs::read_to_string(&path).unwrap();
    let text = text
        .replace("says hello", "'``` @all [x](javascript:x) <!-- '")
        .replace("data_classification: public", "data_classification: restricted")
        .replace("[r@example.com]", "['@octocat', r@example.com]");
    fs::write(&path, text).unwrap();
    let mut checked = check(&path, &place.options()).unwrap();
    // The scratch folder has another name in every run.
    let folder = format!("{}/", place.path("").display()).replace("//", "/");
    let json = String::from_utf8(checked.findings.json()).unwrap().replace(&folder, "");
    checked.findings = serde_json::from_str(&json).unwrap();
    let mut waived = Finding::new(Severity::Warning, "link-dangling", "a", "is broken").at("servers/hello.yaml", None);
    waived.waiver = Some("until 2027-01-01 by r@example.com: `known` @all".to_owned());
    checked.findings.push(waived);
    let paths =
        |list: &[&str]| Paths { count: list.len() + 7, paths: list.iter().map(|one| (*one).to_owned()).collect() };
    checked.changes = Some(Changes {
        previous: Some(Previous { version: "0.9.0".parse().unwrap(), statement: Digest::of(b"statement") }),
        published_already: false,
        fields: vec![FieldChange { field: "launch".to_owned(), before: None, after: Some("`[x](y)".to_owned()) }],
        platforms: vec![PlatformChanges {
            platform: "any".parse().unwrap(),
            added: paths(&["bin/@all", "b`", "](https://evil.example.com) <!--"]),
            removed: paths(&["c"]),
            changed: Paths::default(),
            packages_added: paths(&["npm:@evil/x@1.0.0"]),
            packages_removed: Paths::default(),
            packages_changed: paths(&["npm:zod 4.0.0 -> 4.1.0"]),
            executables: paths(&["bin/@all"]),
            capabilities_added: Gained {
                count: 1,
                first: vec![NewCapability {
                    package: "npm:@evil/x".to_owned(),
                    capability: Capability::Exec,
                    evidence: Evidence { file: "a/`@all`.js".to_owned(), line: Some(3), marker: "child_process" },
                }],
            },
            capabilities_removed: paths(&["npm:gone network"]),
        }],
    });
    ("servers/hello.yaml".to_owned(), checked)
}

/// `UPDATE_REPORTS=1 cargo test -p mcpfs-signer report` writes the files after a change on purpose.
#[test]
fn reports_are_golden() {
    let (file, checked) = hostile();
    for (format, name) in [
        (Format::Text, "text.txt"),
        (Format::Json, "report.json"),
        (Format::Sarif, "report.sarif"),
        (Format::Markdown, "comment.md"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/report").join(name);
        let mut report = report(format, &file, &checked);
        if format == Format::Sarif {
            report = without_rules(&report);
        }
        if std::env::var_os("UPDATE_REPORTS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &report).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), report, "{name} changed: see UPDATE_REPORTS above");
    }
}

/// The table of rules grows; it has its own test.
fn without_rules(log: &str) -> String {
    let mut log: Value = serde_json::from_str(log).unwrap();
    log["runs"][0]["tool"]["driver"]["rules"] = Value::Null;
    for result in log["runs"][0]["results"].as_array_mut().unwrap() {
        result["ruleIndex"] = Value::Null;
    }
    format!("{log:#}\n")
}

/// What is left of a comment when its code spans are taken out.
fn outside(markdown: &str) -> String {
    let mut rest = markdown;
    let mut out = String::new();
    while let Some(start) = rest.find('`') {
        let fence = rest[start..].chars().take_while(|c| *c == '`').count();
        out.push_str(&rest[..start]);
        rest = &rest[start + fence..];
        // The next run of just this length closes it.
        let (mut at, mut closed) = (0, false);
        while let Some(next) = rest[at..].find('`') {
            let run = rest[at + next..].chars().take_while(|c| *c == '`').count();
            at += next + run;
            if run == fence {
                assert!(!rest[..at].contains('\n'), "a span goes over lines: {}", &rest[..at]);
                rest = &rest[at..];
                closed = true;
                break;
            }
        }
        assert!(closed, "a span is not closed: {rest}");
    }
    out + rest
}

#[test]
fn a_comment_cannot_be_forged() {
    let (file, checked) = hostile();
    let comment = report(Format::Markdown, &file, &checked);
    let outside = outside(&comment);
    for bad in ["@", "http", "](", "<", "evil", "Fixes", "<script", "\\"] {
        assert!(!outside.contains(bad), "{bad:?} stands outside of code: {outside}");
    }
    // Its own headings, in order, and no others: the verdict is first.
    let headings: Vec<&str> = comment.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(
        headings,
        [
            "## mcpfs check: refused",
            "### What would be signed",
            "### Findings",
            "#### Errors: nothing is signed while they stand",
            "#### Warnings: a reviewer decides",
            "#### Waived",
            "### Changes since version `0.9.0`",
        ]
    );
    assert!(comment.starts_with(headings[0]));
    assert!(outside.contains("## mcpfs check: refused") && !outside.contains("passed"));
}

#[test]
fn a_comment_fits() {
    let (file, mut checked) = hostile();
    let mut findings = Findings::new();
    for index in 0..2_000 {
        let finding =
            Finding::new(Severity::Warning, "name-form", &format!("{index}{}", "`".repeat(190)), "x".repeat(200));
        findings.push(finding.fix("y".repeat(5_000)));
    }
    checked.findings = findings;
    let comment = report(Format::Markdown, &file, &checked);
    assert!(comment.len() < 65_536, "{}", comment.len());
    assert!(comment.starts_with("## mcpfs check: passed\n"));
    assert!(comment.ends_with("**The rest does not fit into a comment: run `mcpfs-signer check`.**\n"));
}

/// What the SARIF schema and code scanning demand, said here since no schema is at hand offline.
#[test]
fn sarif_is_well_formed() {
    let (file, checked) = hostile();
    let log: Value = serde_json::from_str(&report(Format::Sarif, &file, &checked)).unwrap();
    assert_eq!(log["version"], "2.1.0");
    assert!(log["$schema"].as_str().unwrap().ends_with("/sarif-schema-2.1.0.json"));
    let run = &log["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), RULES.len());
    for rule in rules {
        assert!(
            !rule["help"]["text"].as_str().unwrap().is_empty()
                && !rule["shortDescription"]["text"].as_str().unwrap().is_empty()
        );
        assert!(["error", "warning", "note"].contains(&rule["defaultConfiguration"]["level"].as_str().unwrap()));
    }
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), checked.findings.all().len());
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert!(!result["message"]["text"].as_str().unwrap().contains("](h"), "{result}");
        assert_eq!(result["partialFingerprints"]["finding/v1"].as_str().unwrap().len(), 64);
    }
    let place = &results[0]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "servers/hello.yaml");
    assert_eq!((place["region"]["startLine"].as_u64(), place["region"]["startColumn"].as_u64()), (Some(5), Some(22)));
    assert_eq!(results.last().unwrap()["suppressions"][0]["status"], "accepted");
}
