//! ed25519-speccheck: twelve signatures that verifiers of Ed25519 disagree about (Chalkias, Garillot and
//! Nikolaenko, "Taming the many EdDSAs", 2020), through the path by which every signature here is verified.
//!
//! Verification here is the strict kind: no point of small order as key or as R, no form but the
//! canonical one, and the equation without the cofactor. One of the twelve is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use mcpfs_trust::key::{Algorithm, PublicKey};
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    licence: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    about: String,
    message: String,
    pub_key: String,
    signature: String,
    /// What we say.
    verdict: Verdict,
}

#[derive(Deserialize, Debug, PartialEq, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Verifies,
    Refused,
    /// It is not even a key of a trust root.
    NoKey,
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn the_twelve_cases_have_their_verdicts() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/ed25519-speccheck.json");
    let set: Cases = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(set.licence.starts_with("Apache-2.0"));
    let mut verdicts = Vec::new();
    for (number, case) in set.cases.iter().enumerate() {
        let found = match PublicKey::from_bytes(Algorithm::Ed25519, &bytes(&case.pub_key)) {
            Err(_) => Verdict::NoKey,
            Ok(key) if key.verify(&bytes(&case.message), &bytes(&case.signature)) => Verdict::Verifies,
            Ok(_) => Verdict::Refused,
        };
        assert_eq!(found, case.verdict, "{number}: {}", case.about);
        verdicts.push(found == Verdict::Verifies);
    }
    // The row that the authors publish for the strict verification of ed25519-dalek.
    let strict = "X X X V X X X X X X X X".split(' ').map(|word| word == "V");
    assert_eq!(verdicts, strict.collect::<Vec<_>>());
}
