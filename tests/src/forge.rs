//! Making what an honest signer never makes.
//!
//! Nothing of the project's own signing is used: DSSE's pre-authentication encoding is
//! written here from its specification, and signatures come straight from the token, so that a
//! forgery is refused for the reason under test and not for being misshapen by our own code.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::command::Run;
use crate::hsm::Hsm;
use crate::registry::{HEAD_KEY, Registry};

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// The payload of a DSSE envelope, parsed.
pub fn payload(envelope: &Value) -> Value {
    let bytes = STANDARD.decode(envelope["payload"].as_str().expect("a payload")).expect("base64");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The bytes that are signed for `payload`.
pub fn pae(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// An envelope over `payload`, signed by `key` under the name `keyid`.
pub fn envelope(hsm: &Hsm, key: &str, keyid: &str, payload: &[u8]) -> Value {
    let sig = hsm.sign(key, &pae(payload));
    signed(payload, &[(keyid.to_owned(), sig.to_vec())])
}

/// An envelope over `payload` with these signatures, each with the id that it goes by.
pub fn signed(payload: &[u8], signatures: &[(String, Vec<u8>)]) -> Value {
    let one = |(keyid, sig): &(String, Vec<u8>)| json!({"keyid": keyid, "sig": STANDARD.encode(sig)});
    json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": STANDARD.encode(payload),
        "signatures": signatures.iter().map(one).collect::<Vec<_>>(),
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

/// Changes the signed head and signs it again with the site's own head key.
///
/// `change` gets the predicate; the chain to the previous head is kept as it is.
pub fn resign_head(site: &Path, registry: &Registry, change: impl FnOnce(&mut Value)) {
    let keyid = registry.hsm().key_id(HEAD_KEY);
    resign(&site.join("head.json"), registry.hsm(), HEAD_KEY, &keyid, |statement| change(&mut statement["predicate"]));
}

/// Makes the next head over the same catalogue: version plus one, chained to this one.
pub fn next_head(site: &Path, registry: &Registry) {
    let previous = payload_sha256(&read(&site.join("head.json")));
    resign_head(site, registry, |head| {
        head["version"] = json!(head["version"].as_u64().expect("a number") + 1);
        head["previous"] = json!(previous);
    });
}

/// Replaces the entry of `name` and everything above it, as whoever holds the head key can.
pub fn replace_entry(site: &Path, registry: &Registry, name: &str, change: impl FnOnce(&mut Value)) {
    let mut entry = read(&site.join(format!("servers/{name}.json")));
    change(&mut entry);
    let bytes = serde_json::to_vec(&entry).expect("a Value serialises");
    let (sha256, size) = store(&site.join("entries"), &bytes);
    std::fs::write(site.join(format!("servers/{name}.json")), &bytes).expect("own site");
    replace_bins(site, registry, |servers| {
        for server in servers.iter_mut().filter(|server| server["name"] == name) {
            server["sha256"] = json!(sha256);
            server["size"] = json!(size);
        }
    });
}

/// Changes the list of servers and names it in a new head.
pub fn replace_bins(site: &Path, registry: &Registry, change: impl Fn(&mut Vec<Value>)) {
    let head = read(&site.join("head.json"));
    let catalogue_sha256 = payload(&head)["subject"][0]["digest"]["sha256"].as_str().expect("a digest").to_owned();
    let mut catalogue = read(&site.join(format!("catalogue/{catalogue_sha256}.json")));
    for blob in catalogue["bins"].as_array_mut().expect("bins") {
        let mut bin = read(&site.join(format!("catalogue/bins/{}.json", blob["sha256"].as_str().expect("a digest"))));
        change(bin["servers"].as_array_mut().expect("servers"));
        let (sha256, size) =
            store(&site.join("catalogue/bins"), &serde_json::to_vec(&bin).expect("a Value serialises"));
        *blob = json!({"sha256": sha256, "size": size});
    }
    let (sha256, size) = store(&site.join("catalogue"), &serde_json::to_vec(&catalogue).expect("a Value serialises"));
    let previous = payload_sha256(&head);
    let keyid = registry.hsm().key_id(HEAD_KEY);
    resign(&site.join("head.json"), registry.hsm(), HEAD_KEY, &keyid, |statement| {
        statement["subject"][0]["digest"]["sha256"] = json!(sha256);
        let head = &mut statement["predicate"];
        head["catalogue"]["size"] = json!(size);
        head["version"] = json!(head["version"].as_u64().expect("a number") + 1);
        head["previous"] = json!(previous);
    });
}

/// The digest of an envelope's payload.
pub fn payload_sha256(envelope: &Value) -> String {
    let bytes = STANDARD.decode(envelope["payload"].as_str().expect("a payload")).expect("base64");
    sha256(&bytes)
}

fn sha256(bytes: &[u8]) -> String {
    let ran = Run::new("sha256sum").stdin(bytes).ok();
    ran.stdout.split(' ').next().expect("sha256sum prints a digest").to_owned()
}

/// Writes a JSON file under its digest; gives digest and size.
pub fn store(dir: &Path, bytes: &[u8]) -> (String, usize) {
    let sha256 = sha256(bytes);
    std::fs::write(dir.join(format!("{sha256}.json")), bytes).expect("own site");
    (sha256, bytes.len())
}
