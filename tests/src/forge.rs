//! Making what an honest signer never makes.
//!
//! Nothing of the project's own signing is used: DSSE's pre-authentication encoding is
//! written here from its specification, and signatures come from OpenSC's client, so that a
//! forgery is refused for the reason under test and not for being misshapen by our own code.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::hsm::Hsm;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// The payload of a DSSE envelope, parsed.
pub fn payload(envelope: &Value) -> Value {
    let bytes = STANDARD.decode(envelope["payload"].as_str().expect("a payload")).expect("base64");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// An envelope over `payload`, signed by `key` under the name `keyid`.
pub fn envelope(hsm: &Hsm, key: &str, keyid: &str, payload: &[u8]) -> Value {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    let sig = hsm.sign(key, &[head.as_bytes(), payload].concat());
    json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": STANDARD.encode(payload),
        "signatures": [{"keyid": keyid, "sig": STANDARD.encode(sig)}],
    })
}

/// Changes what a signed JSON file says and signs it again.
pub fn resign(file: &Path, hsm: &Hsm, key: &str, keyid: &str, change: impl FnOnce(&mut Value)) {
    let old = read(file);
    let mut statement = payload(&old);
    change(&mut statement);
    let bytes = serde_json::to_vec(&statement).expect("a Value serialises");
    write(file, &envelope(hsm, key, keyid, &bytes));
}

/// A JSON file.
pub fn read(file: &Path) -> Value {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Writes a JSON file.
pub fn write(file: &Path, value: &Value) {
    std::fs::write(file, serde_json::to_vec(value).expect("a Value serialises")).expect("own file");
}
