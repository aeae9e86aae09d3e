//! The list of parts inside a bundle, in the form of CycloneDX 1.5.
//!
//! It is part of what is hashed, so it says only what follows from the lock and the packages:
//! no time, no serial number, nothing of the machine. The check lists the same packages from
//! what the package managers left in the tree.

use serde_json::{Map, Value, json};

use crate::check::dependencies::{Ecosystem, Package};

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) package: Package,
    /// CycloneDX's name of the algorithm, and the digest in hexadecimal; of the archive it came in.
    pub(super) hash: Option<(&'static str, String)>,
}

/// The text of `sbom.cdx.json`: `main` is what was asked for, `parts` all the others.
pub(super) fn text(main: &Part, mut parts: Vec<Part>) -> String {
    parts.sort();
    parts.dedup();
    let components: Vec<Value> = parts.iter().map(|part| component(part, "library")).collect();
    let bom = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(main, "application")},
        "components": components,
    });
    let mut text = serde_json::to_string_pretty(&bom).unwrap_or_default();
    text.push('\n');
    text
}

fn component(part: &Part, kind: &str) -> Value {
    let package = &part.package;
    let purl = purl(package);
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("type", json!(kind));
    put("bom-ref", json!(purl));
    match package.name.split_once('/') {
        Some((group, name)) if package.ecosystem == Ecosystem::Npm => {
            put("group", json!(group));
            put("name", json!(name));
        }
        _ => put("name", json!(package.name)),
    }
    put("version", json!(package.version));
    put("purl", json!(purl));
    if let Some((algorithm, digest)) = &part.hash {
        put("hashes", json!([{"alg": algorithm, "content": digest}]));
    }
    if let Some(licence) = &package.licence {
        let licence = match is_expression(licence) {
            true => json!({"expression": licence}),
            false => json!({"license": {"name": licence}}),
        };
        put("licenses", json!([licence]));
    }
    Value::Object(fields)
}

/// The package's address as purl-spec writes it.
pub(super) fn purl(package: &Package) -> String {
    let escape = |text: &str| -> String {
        let kept = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_~".contains(byte);
        text.bytes()
            .map(|byte| if kept(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    let name = match package.ecosystem {
        Ecosystem::Pypi => escape(&super::pypi::normal(&package.name)),
        _ => package.name.split('/').map(escape).collect::<Vec<_>>().join("/"),
    };
    format!("pkg:{}/{name}@{}", package.ecosystem.as_str(), escape(&package.version))
}

/// Whether it looks like an SPDX expression and not like a sentence or a file's name.
fn is_expression(licence: &str) -> bool {
    let spaced = licence.replace(['(', ')'], " ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let id = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+:".contains(&byte));
    let alternating = words.iter().enumerate().all(|(index, word)| match index % 2 {
        0 => id(word) && !["AND", "OR", "WITH"].contains(word),
        _ => ["AND", "OR", "WITH"].contains(word),
    });
    words.len() % 2 == 1 && alternating && !["UNLICENSED", "UNKNOWN", "Proprietary"].contains(&words[0])
}
