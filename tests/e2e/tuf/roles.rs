//! Trust roots with roles of other keys, as configuration management would deploy them, and heads
//! and releases signed by those keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_tests::host::Host;
use mcpfs_tests::mount::is_mounted;
use mcpfs_tests::outside::OutsideKey;
use mcpfs_tests::{audit, forge};
use serde_json::{Value, json};

use crate::world::World;

/// A mount that must be refused because of the trust root, with a row that says so.
pub(crate) fn mount_refuses(host: &Host, code: &str) {
    let ran = host.mcpfs(["mount", "--foreground"]).run();
    assert!(ran.code != 0 && ran.code < 100 && !ran.text().contains("panicked"), "{ran}");
    ran.says(code).says("trust.json");
    assert!(!is_mounted(&host.mcp()));
    audit::expect(host, code, None);
}

/// Changes the host's trust root, which gets the next version.
pub(crate) fn deploy(host: &Host, change: impl FnOnce(&mut Value)) {
    let mut root = forge::read(&host.trust());
    root["version"] = json!(root["version"].as_u64().expect("a number") + 1);
    change(&mut root);
    forge::write(&host.trust(), &root);
}

/// Adds keys to a trust root, each once.
pub(crate) fn add_keys(root: &mut Value, keys: &[&OutsideKey]) {
    let list = root["keys"].as_array_mut().expect("keys");
    for key in keys {
        if !list.iter().any(|one| one["id"] == key.id()) {
            list.push(key.entry());
        }
    }
}

/// A role of these keys.
pub(crate) fn role(keys: &[&OutsideKey], threshold: usize) -> Value {
    json!({"keys": keys.iter().map(|key| key.id()).collect::<Vec<_>>(), "threshold": threshold})
}

/// From now on the host believes heads that `threshold` of `keys` signed, and those alone.
pub(crate) fn deploy_heads(host: &Host, keys: &[&OutsideKey], threshold: usize) {
    deploy(host, |root| {
        add_keys(root, keys);
        root["head"] = role(keys, threshold);
    });
}

/// From now on the host believes releases of hello that `threshold` of `keys` signed.
pub(crate) fn deploy_hello(host: &Host, keys: &[&OutsideKey], threshold: usize) {
    deploy(host, |root| {
        add_keys(root, keys);
        let rule = json!({"scope": "hello", "require": [role(keys, threshold)]});
        let rules = root["release"].as_array_mut().expect("rules");
        rules.retain(|rule| rule["scope"] != "hello");
        rules.push(rule);
    });
}

/// The payload of the next head over what is there.
pub(crate) fn next_payload(world: &World) -> Vec<u8> {
    let head = forge::read(&world.file("head.json"));
    let mut statement = forge::payload(&head);
    let predicate = &mut statement["predicate"];
    predicate["version"] = json!(predicate["version"].as_u64().expect("a number") + 1);
    predicate["previous"] = json!(forge::payload_sha256(&head));
    serde_json::to_vec(&statement).expect("a Value serialises")
}

/// Publishes the next head, signed by these keys.
pub(crate) fn next_head_by(world: &World, keys: &[&OutsideKey]) {
    let payload = next_payload(world);
    publish_head(world, &payload, keys.iter().map(|key| key.signature(&payload)).collect());
}

/// Publishes this head with these signatures.
pub(crate) fn publish_head(world: &World, payload: &[u8], signatures: Vec<(String, Vec<u8>)>) {
    forge::write(&world.file("head.json"), &forge::signed(payload, &signatures));
}

/// Publishes hello's selected release with the signatures of these keys, under a head of the registry's own.
pub(crate) fn release_hello_by(world: &World, keys: &[&OutsideKey]) {
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        let payload = STANDARD.decode(entry["signature"]["payload"].as_str().expect("a payload")).expect("base64");
        let signatures: Vec<_> = keys.iter().map(|key| key.signature(&payload)).collect();
        entry["signature"] = forge::signed(&payload, &signatures);
    });
}
