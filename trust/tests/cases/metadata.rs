//! Vectors of trust roots and heads.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::head::{HEAD_TYPE, Head};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::statement::{Statement, Subject};
use serde_json::{Value, json};

use super::{Add, Bytes, Input, SeenHead, SeenRoot};
use crate::support::{self, HEAD, NOW, STRANGER, TEAM, time};

/// A file name, what is wrong, and the change of the good JSON that makes it so.
pub(super) type Edit = (&'static str, &'static str, fn(&mut Value));

pub(super) fn root_bytes() -> Vec<u8> {
    support::root().encode()
}

/// The test root with its JSON changed.
pub(super) fn edited_root(edit: impl FnOnce(&mut Value)) -> Bytes {
    let mut value: Value = serde_json::from_slice(&root_bytes()).unwrap();
    edit(&mut value);
    Bytes(serde_json::to_vec_pretty(&value).unwrap())
}

pub(crate) fn trust_roots(add: &mut Add<'_>) {
    let mut root = |name: &str, about: &str, outcome: &str, bytes: Bytes, seen: Option<SeenRoot>| {
        add(&format!("trust-{name}"), about, outcome, Input::TrustRoot { bytes, seen });
    };
    let good = || Bytes(root_bytes());
    let seen = |version: u64, bytes: &[u8]| {
        let sha256 = Digest::of(&TrustRoot::parse(bytes).unwrap().encode());
        Some(SeenRoot { version, epoch: None, sha256 })
    };
    root("good", "three scopes, thresholds, two groups", "ok", good(), None);
    root("same", "the root used last", "ok", good(), seen(3, &root_bytes()));
    let spaced = edited_root(|_| ());
    root("spaced", "the same root with other white space", "ok", spaced, seen(3, &root_bytes()));
    let older = seen(4, &root_bytes());
    root("rollback", "version 3 after version 4", "TrustRollback", good(), older);
    let other = edited_root(|value| value["minimum_head"] = json!(11));
    let lower = Some(SeenRoot { version: 2, epoch: Some(3), sha256: Digest::of(b"another root") });
    root("epoch-rollback", "version 3 of epoch 2 after version 2 of epoch 3", "TrustRollback", good(), lower);
    root("equivocation", "another root of the same version", "TrustEquivocation", other, seen(3, &root_bytes()));

    let bad: [Edit; 18] = [
        ("threshold-zero", "a threshold of zero", |v| v["head"]["threshold"] = json!(0)),
        ("threshold-high", "2 of 1", |v| v["head"]["threshold"] = json!(2)),
        ("unknown-field", "a field this version does not know", |v| v["extra"] = json!(1)),
        ("schema", "another schema", |v| v["schema"] = json!("mcpfs.trust/v2")),
        ("algorithm", "another algorithm", |v| v["keys"][0]["algorithm"] = json!("rsa")),
        ("wrong-id", "an id that is another key's", |v| v["keys"][0]["id"] = v["keys"][1]["id"].clone()),
        ("weak-key", "the identity point as a key", |v| {
            let weak = [&[1_u8][..], &[0; 31]].concat();
            v["keys"][0]["public"] = Value::String(Bytes(weak).into());
        }),
        ("key-form", "a key whose coordinate is written as itself and 2^255 - 19", |v| {
            let three_and_p = [&[0xf0_u8][..], &[0xff; 30], &[0x7f]].concat();
            let id = "946c3a2f9d1a79875581362220f46aa6eeca5f25b31e4063e638476964b1c35f";
            let key = json!({"id": id, "algorithm": "ed25519", "public": String::from(Bytes(three_and_p))});
            v["keys"].as_array_mut().unwrap().push(key);
        }),
        ("not-a-key", "31 bytes as a key", |v| v["keys"][0]["public"] = Value::String(Bytes(vec![7; 31]).into())),
        ("duplicate-key", "one key twice", |v| {
            let again = v["keys"][0].clone();
            v["keys"].as_array_mut().unwrap().push(again);
        }),
        ("duplicate-in-role", "one key twice in a role", |v| {
            v["release"][0]["require"][0]["keys"][1] = v["release"][0]["require"][0]["keys"][0].clone();
        }),
        ("both-roles", "a key for heads and for releases", |v| {
            v["release"][0]["require"][0]["keys"][0] = v["head"]["keys"][0].clone();
        }),
        ("unknown-key", "a role with a key that is not there", |v| {
            v["head"]["keys"][0] = json!(Digest::of(b"nobody").to_string());
        }),
        ("duplicate-scope", "one scope twice", |v| v["release"][1]["scope"] = json!("*")),
        ("scope-star", "a star in the middle", |v| v["release"][1]["scope"] = json!("a*b")),
        ("empty-require", "a scope that requires nobody", |v| v["release"][1]["require"] = json!([])),
        ("version-zero", "version 0", |v| v["version"] = json!(0)),
        ("no-keys", "no keys at all", |v| v["keys"] = json!([])),
    ];
    let malformed = ["threshold-zero", "unknown-field", "schema", "algorithm", "scope-star"];
    for (name, about, edit) in bad {
        let outcome = if malformed.contains(&name) { "Malformed" } else { "TrustRootUnsafe" };
        root(name, about, outcome, edited_root(edit), None);
    }
    let text = String::from_utf8(root_bytes()).unwrap();
    let twice = text.replacen("\"version\": 3,", "\"version\": 3, \"version\": 4,", 1);
    root("duplicate-json-key", "version twice", "Malformed", Bytes(twice.into_bytes()), None);
    root("huge", "300 kB of blanks", "SizeExceeded", Bytes(vec![b' '; 300_000]), None);
}

fn head_with(edit: impl FnOnce(&mut Head), who: &[usize]) -> Vec<u8> {
    let catalogue = b"{}\n";
    let mut head = support::head_predicate(catalogue);
    edit(&mut head);
    support::sign(support::head_payload(head, catalogue), who).encode()
}

pub(crate) fn heads(add: &mut Add<'_>) {
    let trust = Bytes(root_bytes());
    let floor = |version: u64, of: &[u8]| Some(SeenHead { epoch: 2, version, sha256: Digest::of(of) });
    let good = || head_with(|_| (), &[HEAD]);
    let mut case = |name: &str, about: &str, outcome: &str, head: Vec<u8>, floor: Option<SeenHead>| {
        let input = Input::Head { trust: trust.clone(), head: Bytes(head), floor, signed_time: None, now: time(NOW) };
        add(&format!("head-{name}"), about, outcome, input);
    };
    case("good", "the first head of a new host", "ok", good(), None);
    case("next", "the head after the one this host has", "ok", good(), floor(11, b"head 11"));
    case("later", "two heads later: the chain cannot be checked, the number can", "ok", good(), floor(10, b"head 10"));
    case(
        "new-epoch",
        "the floor was of an older epoch",
        "ok",
        good(),
        Some(SeenHead { epoch: 1, version: 999, sha256: Digest::of(b"x") }),
    );
    case("url-safe", "base64 of the URL-safe alphabet", "ok", url_safe(&good()), None);
    case("rollback", "head 12 after head 13", "HeadRollback", good(), floor(13, b"head 13"));
    let old = head_with(|head| head.version = 9, &[HEAD]);
    case("below-minimum", "head 9 where the root says 10", "HeadRollback", old, None);
    case("equivocation", "another head 12", "HeadEquivocation", good(), floor(12, b"another head 12"));
    case(
        "chain-broken",
        "head 12 that does not name this host's head 11",
        "ChainBroken",
        good(),
        floor(11, b"another head 11"),
    );
    let no_previous = head_with(|head| head.previous = None, &[HEAD]);
    case("chain-absent", "head 12 that names no head before it", "ChainBroken", no_previous, floor(11, b"head 11"));
    let expired = head_with(|head| head.expires = time(NOW), &[HEAD]);
    case("expired", "expires this very second", "HeadExpired", expired, None);
    let future = head_with(|head| head.issued = time("2026-05-01T12:05:01Z"), &[HEAD]);
    case("future", "issued in five minutes and a second", "ClockRollback", future, None);
    let long = head_with(|head| head.expires = time("2026-06-02T06:00:00Z"), &[HEAD]);
    case("long-lived", "32 days from issue to expiry", "Malformed", long, None);
    let never = head_with(|head| head.expires = head.issued, &[HEAD]);
    case("no-lifetime", "expires when it is issued", "Malformed", never, None);
    let epoch = head_with(|head| head.epoch = 1, &[HEAD]);
    case("epoch", "a head of the epoch before", "HeadRollback", epoch, None);
    let registry = head_with(|head| head.registry = "mcp.example.com/staging".parse().unwrap(), &[HEAD]);
    case("other-registry", "the staging registry's head", "WrongRegistry", registry, None);
    let large = head_with(|head| head.catalogue.size = 10 << 30, &[HEAD]);
    case("large-catalogue", "a catalogue of 10 GB", "SizeExceeded", large, None);
    case("stranger", "signed by a key nobody knows", "KeyNotAuthorised", head_with(|_| (), &[STRANGER]), None);
    case("release-key", "signed by a release key", "KeyNotAuthorised", head_with(|_| (), &[TEAM]), None);
    case("unsigned", "no signatures", "ThresholdNotMet", head_with(|_| (), &[]), None);
    let mut envelope: Envelope = serde_json::from_slice(&good()).unwrap();
    envelope.signatures[0].sig[0] ^= 1;
    case("bad-signature", "one bit of the signature", "SignatureInvalid", envelope.encode(), None);
    let mut envelope: Envelope = serde_json::from_slice(&good()).unwrap();
    let last = envelope.payload.len() - 30;
    envelope.payload[last] ^= 1;
    case("bad-payload", "one bit of the payload", "SignatureInvalid", envelope.encode(), None);
    let mut envelope: Envelope = serde_json::from_slice(&good()).unwrap();
    envelope.payload_type = "application/json".into();
    case("payload-type", "another payload type", "WrongPredicate", envelope.encode(), None);
    let payload = support::release_payload(&support::release("postgres", "1.2.0"));
    case(
        "release-as-head",
        "a release statement signed by the head key",
        "WrongPredicate",
        support::sign(payload, &[HEAD]).encode(),
        None,
    );
    let mut envelope: Envelope = serde_json::from_slice(&good()).unwrap();
    let one = envelope.signatures[0].clone();
    envelope.signatures = vec![one; 17];
    case("many-signatures", "17 signatures", "Malformed", envelope.encode(), None);
    let catalogue = b"{}\n";
    let subjects = |subject: Vec<Subject>| {
        let statement = Statement { subject, predicate: support::head_predicate(catalogue) };
        support::sign(statement.encode(HEAD_TYPE), &[HEAD]).encode()
    };
    case("no-subject", "a head about nothing", "Malformed", subjects(vec![]), None);
    let other = Subject { name: "tree".into(), digest: Digest::of(catalogue) };
    case("other-subject", "a head about a tree", "Malformed", subjects(vec![other]), None);
    case("html", "a captive portal's page", "NotARegistry", b"<!DOCTYPE html><html>Log in</html>".to_vec(), None);
    case("huge", "more than 16 KiB", "SizeExceeded", vec![b' '; 17 << 10], None);
    case("empty", "nothing", "Malformed", vec![], None);
    let trailing = [good().as_slice(), b"{}"].concat();
    case("trailing", "two JSON texts", "Malformed", trailing, None);
    let clock = |floor| Input::Head {
        trust: Bytes(root_bytes()),
        head: Bytes(good()),
        floor,
        signed_time: Some(time("2026-05-01T12:05:01Z")),
        now: time(NOW),
    };
    let about = "this host's clock is five minutes and a second before a signed time";
    add("head-clock", about, "ClockRollback", clock(None));
    let of_epoch = |epoch| Some(SeenHead { epoch, version: 10, sha256: Digest::of(b"head 10") });
    add("head-clock-same-epoch", "the same, of a head of this epoch", "ClockRollback", clock(of_epoch(2)));
    add("head-clock-new-epoch", "the signed time is of a head of the epoch before", "ok", clock(of_epoch(1)));
}

fn url_safe(envelope: &[u8]) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(envelope).unwrap();
    let safe = |text: &str| Value::String(text.replace('+', "-").replace('/', "_"));
    value["payload"] = safe(value["payload"].as_str().unwrap());
    value["signatures"][0]["sig"] = safe(value["signatures"][0]["sig"].as_str().unwrap());
    serde_json::to_vec(&value).unwrap()
}
