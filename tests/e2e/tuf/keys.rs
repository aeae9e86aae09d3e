//! tuf_conformance/test_keys.py: thresholds, and one key that pretends to be several.

use mcpfs_tests::forge;
use mcpfs_tests::host::Reads;
use mcpfs_tests::outside::OutsideKey;
use serde_json::json;

use super::roles::{add_keys, deploy, deploy_heads, mount_refuses, next_head_by, next_payload, publish_head, role};
use super::{Port, Scenario, Settled, shows_nothing};
use crate::world::World;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "test_snapshot_does_not_meet_threshold",
        here: "Three of three must sign a head. Three did; of the next one two.",
        port: Port::Plain(&["ok", "ThresholdNotMet"], does_not_meet_threshold),
    },
    Scenario {
        name: "test_snapshot_has_too_few_keys",
        here: "Six of five must sign: such a trust root is refused as a whole.",
        port: Port::Plain(&["TrustRootUnsafe"], too_few_keys),
    },
    Scenario {
        name: "test_duplicate_keys",
        here: "One key nine times in a role, and in the list of keys. In a head its signature nine times, under \
               nine names, where two must sign.",
        port: Port::Plain(&["TrustRootUnsafe", "ThresholdNotMet", "EACCES"], duplicate_keys),
    },
    Scenario {
        name: "test_duplicate_sig_keyids",
        here: "One signature twice in a head. TUF refuses it; here it counts once, as DSSE has it: enough where \
               one must sign, and not where two must.",
        port: Port::Plain(&["ok", "ThresholdNotMet"], duplicate_sig_keyids),
    },
    Scenario {
        name: "test_keytype_and_scheme[rsa/rsassa-pss-sha256, ecdsa/ecdsa-sha2-nistp256, ed25519/ed25519]",
        here: "Heads by Ed25519 and P-256 keys of openssl's; then the same with a signature over something else. \
               RSA is no algorithm here: a trust root that has it is refused.",
        port: Port::Plain(&["ok", "SignatureInvalid", "Malformed"], keytype_and_scheme),
    },
    Scenario {
        name: "test_invalid_sig_in_valid_metadata",
        here: "Beside a good signature one that does not fit: it does no harm. One without bytes: no signature of \
               any algorithm, so the head is in no form that is read.",
        port: Port::Plain(&["ok", "Malformed"], invalid_sig_in_valid_metadata),
    },
];

fn does_not_meet_threshold() {
    let world = World::new(Reads::Cached);
    let keys = [(); 3].map(|()| OutsideKey::ed25519());
    let [a, b, c] = &keys;
    deploy_heads(&world.host, &[a, b, c], 3);
    next_head_by(&world, &[a, b, c]);
    let settled = Settled::on(&world);
    next_head_by(&world, &[a, c]);
    settled.resists("ThresholdNotMet");
    // One of them twice is not a third.
    next_head_by(&world, &[a, c, a]);
    settled.resists("ThresholdNotMet");
    mcpfs_tests::audit::expect(&world.host, "ok", None);
}

fn too_few_keys() {
    let world = World::new(Reads::Cached);
    let keys = [(); 5].map(|()| OutsideKey::ed25519());
    deploy_heads(&world.host, &keys.each_ref(), 6);
    mount_refuses(&world.host, "TrustRootUnsafe");
}

fn duplicate_keys() {
    let world = World::new(Reads::Cached);
    let (key, other) = (OutsideKey::ed25519(), OutsideKey::ed25519());
    let sound = std::fs::read(world.host.trust()).unwrap();
    // In the role, and then also among the keys.
    deploy_heads(&world.host, &[&key; 9], 6);
    mount_refuses(&world.host, "TrustRootUnsafe");
    std::fs::write(world.host.trust(), &sound).unwrap();
    deploy(&world.host, |root| {
        add_keys(root, &[&key]);
        let again = std::iter::repeat_n(key.entry(), 8);
        root["keys"].as_array_mut().unwrap().extend(again);
        root["head"] = role(&[&key], 1);
    });
    mount_refuses(&world.host, "TrustRootUnsafe");
    // In the head.
    std::fs::write(world.host.trust(), &sound).unwrap();
    deploy_heads(&world.host, &[&key, &other], 2);
    let payload = next_payload(&world);
    let (id, signature) = key.signature(&payload);
    let names = (0..8).map(|number| format!("{number:064x}"));
    let mut signatures = vec![(id, signature.clone()), (other.id().to_owned(), signature.clone())];
    signatures.extend(names.map(|name| (name, signature.clone())));
    publish_head(&world, &payload, signatures);
    shows_nothing(&world, "ThresholdNotMet");
}

fn duplicate_sig_keyids() {
    let world = World::new(Reads::Cached);
    let (key, other) = (OutsideKey::ed25519(), OutsideKey::ed25519());
    deploy_heads(&world.host, &[&key, &other], 1);
    next_head_by(&world, &[&key, &key]);
    let settled = Settled::on(&world);
    mcpfs_tests::audit::wait(&world.host, "ok", None);
    settled.stop();
    deploy_heads(&world.host, &[&key, &other], 2);
    next_head_by(&world, &[&key, &other]);
    let settled = Settled::on(&world);
    next_head_by(&world, &[&key, &key]);
    settled.resists("ThresholdNotMet");
}

fn keytype_and_scheme() {
    for key in [OutsideKey::ed25519(), OutsideKey::p256()] {
        let world = World::new(Reads::Cached);
        deploy_heads(&world.host, &[&key], 1);
        next_head_by(&world, &[&key]);
        let settled = Settled::on(&world);
        let payload = next_payload(&world);
        publish_head(&world, &payload, vec![(key.id().to_owned(), key.sign(b"another message"))]);
        settled.resists("SignatureInvalid");
        mcpfs_tests::audit::expect(&world.host, "ok", None);
    }
    let world = World::new(Reads::Cached);
    let mut root = forge::read(&world.host.trust());
    root["keys"][0]["algorithm"] = json!("rsassa-pss-sha256");
    forge::write(&world.host.trust(), &root);
    mount_refuses(&world.host, "Malformed");
}

fn invalid_sig_in_valid_metadata() {
    let world = World::new(Reads::Cached);
    let (key, other) = (OutsideKey::ed25519(), OutsideKey::ed25519());
    deploy_heads(&world.host, &[&key, &other], 1);
    let payload = next_payload(&world);
    let wrong = (other.id().to_owned(), other.sign(b"another message"));
    publish_head(&world, &payload, vec![wrong, key.signature(&payload)]);
    let settled = Settled::on(&world);
    mcpfs_tests::audit::wait(&world.host, "ok", None);
    let payload = next_payload(&world);
    publish_head(&world, &payload, vec![(other.id().to_owned(), Vec::new()), key.signature(&payload)]);
    settled.resists("Malformed");
}
