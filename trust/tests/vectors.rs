//! The golden vectors: `testdata/vectors/*.json`, good ones and one per way of being bad.
//!
//! Each file carries its whole input and the expected outcome, so that another
//! implementation can use it. Two things are tested: the verifier gives that outcome, and
//! the builders below still give those bytes (a format change is a decision, never an
//! accident). After such a decision: `MCPFS_BLESS=1 cargo test -p mcpfs-trust --test vectors`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod cases;
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use cases::Vector;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/vectors")
}

fn stored() -> BTreeMap<String, Vector> {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let json = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    json.map(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
    })
    .collect()
}

#[test]
fn the_bytes_are_frozen() {
    let built = cases::all();
    if std::env::var_os("MCPFS_BLESS").is_some() {
        for (name, vector) in &built {
            let text = serde_json::to_string_pretty(vector).unwrap() + "\n";
            std::fs::write(folder().join(format!("{name}.json")), text).unwrap();
        }
    }
    let stored = stored();
    let names = |map: &BTreeMap<String, Vector>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&built), names(&stored));
    for (name, vector) in built {
        assert!(vector == stored[&name], "{name} is built differently than its frozen file says");
    }
}

#[test]
fn every_vector_has_its_outcome() {
    let vectors = stored();
    for (name, vector) in &vectors {
        assert_eq!(vector.run(), vector.outcome, "{name}: {}", vector.about);
    }
    println!("{} vectors", vectors.len());
}

#[test]
fn every_error_of_this_crate_has_a_vector() {
    let seen: std::collections::BTreeSet<_> = stored().into_values().map(|vector| vector.outcome).collect();
    // What only a host (or the signer's own hand) can meet.
    let elsewhere = [
        "SelfVerifyFailed",
        "TooSlow",
        "Unreachable",
        "PolicyRefused",
        "LaunchUnsupported",
        "AuditUnavailable",
        "CacheFull",
    ];
    for code in mcpfs_trust::error::Code::ALL.map(|code| code.to_string()) {
        assert_eq!(seen.contains(&code), !elsewhere.contains(&code.as_str()), "{code}");
    }
}
