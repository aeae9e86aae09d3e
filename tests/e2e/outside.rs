//! Signers and verifiers that others wrote: they take our envelopes, and a host takes theirs.
//!
//! For P-256 and securesystemslib there is `keys::securesystemslib_and_we_agree`.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_tests::host::Reads;
use mcpfs_tests::hsm::Hsm;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::outside::{OutsideKey, openssl};
use mcpfs_tests::registry::HEAD_KEY;
use mcpfs_tests::suite::Suite;
use mcpfs_tests::{forge, scratch, servers};
use serde_json::{Value, json};

use crate::keys::{Publisher, shown};
use crate::tuf::Settled;
use crate::tuf::roles::{add_keys, deploy, deploy_heads, next_head_by, next_payload, release_hello_by, role};
use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("outside::openssl_verifies_what_we_sign", openssl_verifies_what_we_sign);
    suite.mounted("outside::a_site_signed_by_openssl", a_site_signed_by_openssl);
    suite.plain("outside::securesystemslib_and_we_agree_on_ed25519", securesystemslib_and_we_agree_on_ed25519);
}

/// An envelope's signed bytes and its signature, in files.
fn taken_apart(envelope: &Value, into: &Path) -> (PathBuf, PathBuf) {
    let bytes = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
    let (message, signature) = (into.join("message"), into.join("signature"));
    std::fs::write(&message, forge::pae(&bytes(&envelope["payload"]))).unwrap();
    std::fs::write(&signature, bytes(&envelope["signatures"][0]["sig"])).unwrap();
    (message, signature)
}

/// openssl's word on it: Ed25519 over the bytes themselves, ECDSA over their SHA-256.
fn verified(algorithm: &str, pem: &Path, message: &Path, signature: &Path) -> bool {
    let run = match algorithm {
        "ed25519" => openssl().args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"]).arg(pem).arg("-sigfile"),
        _ => openssl().args(["dgst", "-sha256", "-verify"]).arg(pem).arg("-signature"),
    };
    let run = run.arg(signature);
    let run = if algorithm == "ed25519" { run.arg("-in") } else { run };
    run.arg(message).run().code == 0
}

fn openssl_verifies_what_we_sign() {
    let hsm = Hsm::new();
    let (head, release) = (hsm.uri("head"), hsm.uri("release"));
    hsm.signer().args(["keys", "generate", "--key", &head]).ok();
    hsm.signer().args(["keys", "generate", "--algorithm", "ecdsa-p256", "--key", &release]).ok();
    let publisher = Publisher::new(head, release, || hsm.signer());
    publisher.release().ok();
    let entry = forge::read(&publisher.site().join("servers/hello.json"));
    let envelopes = [
        ("ed25519", "head", forge::read(&publisher.site().join("head.json"))),
        ("ecdsa-p256", "release", entry["signature"].clone()),
    ];
    for (algorithm, key, envelope) in envelopes {
        let dir = scratch::dir();
        let pem = dir.path().join("key.pem");
        std::fs::write(&pem, shown(hsm.signer(), &hsm.uri(key))["pem"].as_str().unwrap()).unwrap();
        let (message, signature) = taken_apart(&envelope, dir.path());
        assert!(verified(algorithm, &pem, &message, &signature), "{key}");
        for file in [&message, &signature] {
            crate::world::flip(file, 30);
            assert!(!verified(algorithm, &pem, &message, &signature), "{key}: {} with another bit", file.display());
            crate::world::flip(file, 30);
        }
        assert!(verified(algorithm, &pem, &message, &signature), "{key}");
    }
}

/// Head, team and approver have keys that openssl made, of both algorithms; a host starts what they signed.
fn a_site_signed_by_openssl(reads: Reads) {
    let world = World::new(reads);
    let (head, team, approver) = (OutsideKey::ed25519(), OutsideKey::p256(), OutsideKey::ed25519());
    deploy_heads(&world.host, &[&head], 1);
    deploy(&world.host, |root| {
        add_keys(root, &[&team, &approver]);
        let rule = json!({"scope": "hello", "require": [role(&[&team], 1), role(&[&approver], 1)]});
        root["release"].as_array_mut().unwrap().push(rule);
    });
    release_hello_by(&world, &[&team, &approver]);
    next_head_by(&world, &[&head]);
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    let mut client = McpClient::start(&world.run("hello"));
    assert_eq!(client.initialize()["serverInfo"]["version"], "1.1.0");
    client.end();
    let entry = forge::read(&world.file("servers/hello.json"));
    let ids: Vec<_> = entry["signature"]["signatures"].as_array().unwrap().iter().map(|it| &it["keyid"]).collect();
    assert_eq!(ids, [team.id(), approver.id()]);
    // One of the two groups is not enough.
    release_hello_by(&world, &[&team]);
    next_head_by(&world, &[&head]);
    world.host.refresh();
    crate::tuf::is_refused(&world, "hello", "1.1.0", "KeyNotAuthorised");
}

/// It verifies a head of ours, and signs the next one, which a host then follows.
fn securesystemslib_and_we_agree_on_ed25519() {
    let world = World::new(Reads::Cached);
    let pem = world.registry.hsm().public_pem(HEAD_KEY);
    let question = json!({
        "envelope": forge::read(&world.file("head.json")),
        "pem": pem,
        "id": world.registry.hsm().key_id(HEAD_KEY),
        "payload": STANDARD.encode(next_payload(&world)),
    });
    let script = r#"
import base64, hashlib, json, sys
from cryptography.hazmat.primitives import serialization
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

question = json.load(sys.stdin)
encoding, form = serialization.Encoding, serialization.PublicFormat
raw = serialization.load_pem_public_key(question["pem"].encode()).public_bytes(encoding.Raw, form.Raw)
ours = SSlibKey(question["id"], "ed25519", "ed25519", {"public": raw.hex()})
envelope = Envelope.from_dict(question["envelope"])
assert list(envelope.verify([ours], 1)) == [question["id"]]
envelope.payload_type += "x"
try:
    envelope.verify([ours], 1)
    sys.exit("another payload type was taken")
except VerificationError:
    pass
signer = CryptoSigner.generate_ed25519()
theirs = Envelope(base64.b64decode(question["payload"]), "application/vnd.in-toto+json", {})
theirs.sign(signer)
raw = bytes.fromhex(signer.public_key.keyval["public"])
spki = bytes.fromhex("302a300506032b6570032100") + raw
print(json.dumps({"envelope": theirs.to_dict(), "key": {
    "id": hashlib.sha256(spki).hexdigest(), "algorithm": "ed25519", "public": base64.b64encode(raw).decode()}}))
"#;
    let answer = servers::securesystemslib().args(["-c", script]).stdin(question.to_string()).ok().json();
    deploy(&world.host, |root| {
        root["keys"].as_array_mut().unwrap().push(answer["key"].clone());
        root["head"] = json!({"keys": [answer["key"]["id"]], "threshold": 1});
    });
    forge::write(&world.file("head.json"), &answer["envelope"]);
    // Their name for the key is not ours; it is a hint and decides nothing.
    assert_ne!(answer["envelope"]["signatures"][0]["keyid"], answer["key"]["id"]);
    let settled = Settled::on(&world);
    crate::world::flip(&world.file("head.json"), 100);
    assert_ne!(world.host.mcpfs(["refresh"]).run().code, 0);
    settled.is_unchanged();
}
