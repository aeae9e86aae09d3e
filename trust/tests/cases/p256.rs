//! Vectors of ECDSA P-256 keys and signatures: one spelling of each, and no way to have one
//! algorithm's signature taken for another's (docs/format.md sections 5 and 6).

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Entry;
use mcpfs_trust::envelope::{Envelope, Signature};
use p256::ecdsa::signature::hazmat::{PrehashSigner as _, RandomizedPrehashSigner as _};
use p256::ecdsa::signature::rand_core::{TryCryptoRng, TryRng};
use serde_json::{Value, json};

use super::{Add, Bytes, Input};
use crate::support::{self, HEAD, NOW, P_HEAD, P_STRANGER, P_TEAM, STRANGER, TEAM, time};

/// A file name, what is wrong, and the bytes in place of the good key's.
type Key = (&'static str, &'static str, Vec<u8>);

/// A file name, what is wrong, the outcome, and the signature in place of the good one.
type Sig = (&'static str, &'static str, &'static str, Vec<u8>);

/// The generator of secp256k1, whose coordinates are as long as those of P-256.
const SECP256K1: [&str; 2] = [
    "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
];
/// The modulus of P-256, which as X means the same as zero, and the Y that goes with it.
const UNREDUCED: [&str; 2] = [
    "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
    "66485c780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4",
];

pub(crate) fn all(add: &mut Add<'_>) {
    trust_roots(add);
    heads(add);
    releases(add);
}

fn point([x, y]: [&str; 2]) -> Vec<u8> {
    let number = |text: &str| text.parse::<Digest>().unwrap().as_bytes().to_vec();
    [vec![4], number(x), number(y)].concat()
}

fn trust_roots(add: &mut Add<'_>) {
    // Of the mixed root's keys, the second is P-256.
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&support::mixed_root().encode()).unwrap();
        edit(&mut value);
        Bytes(serde_json::to_vec_pretty(&value).unwrap())
    };
    let mut root = |name: &str, about: &str, outcome: &str, bytes: Bytes| {
        add(&format!("trust-p256-{name}"), about, outcome, Input::TrustRoot { bytes, seen: None });
    };
    root("good", "both algorithms in each role", "ok", edited(&|_| ()));

    let key = support::p256_key(P_HEAD);
    let good = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
    let compressed = key.verifying_key().to_sec1_point(true).as_bytes().to_vec();
    let hybrid = [&[6 | (good[64] & 1)][..], &good[1..]].concat();
    let mut beside = good.clone();
    beside[64] ^= 1;
    let keys: [Key; 8] = [
        ("compressed", "the compressed form of a good key", compressed.clone()),
        ("hybrid", "the hybrid form of a good key", hybrid),
        ("off-curve", "a point that is not on the curve", beside),
        ("other-curve", "a point of secp256k1", point(SECP256K1)),
        ("unreduced", "a coordinate that is the field's modulus", point(UNREDUCED)),
        ("identity", "the point at infinity", vec![0]),
        ("zeros", "65 zero bytes", vec![0; 65]),
        ("spki", "the whole SubjectPublicKeyInfo", support::public(P_HEAD).spki_der()),
    ];
    for (name, about, bytes) in keys {
        let public = String::from(Bytes(bytes));
        root(name, about, "TrustRootUnsafe", edited(&|v| v["keys"][1]["public"] = json!(public)));
    }
    root(
        "as-ed25519",
        "a P-256 key that says it is Ed25519",
        "TrustRootUnsafe",
        edited(&|v| {
            v["keys"][1]["algorithm"] = json!("ed25519");
        }),
    );
    root(
        "from-ed25519",
        "an Ed25519 key that says it is P-256",
        "TrustRootUnsafe",
        edited(&|v| {
            v["keys"][0]["algorithm"] = json!("ecdsa-p256");
        }),
    );
    root(
        "twice",
        "one key in two spellings, the second with the id of that spelling",
        "TrustRootUnsafe",
        edited(&|v| {
            let prefix = b"\x30\x39\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x22\x00";
            let mut again = v["keys"][1].clone();
            again["public"] = json!(String::from(Bytes(compressed.clone())));
            again["id"] = json!(Digest::of(&[&prefix[..], &compressed].concat()).to_string());
            v["keys"].as_array_mut().unwrap().push(again);
        }),
    );
    root(
        "algorithm-case",
        "the algorithm in capitals",
        "Malformed",
        edited(&|v| {
            v["keys"][1]["algorithm"] = json!("ECDSA-P256");
        }),
    );
}

/// The lengths and numbers of a DER signature: `30 len 02 len r 02 len s`.
fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| [&[2, bytes.len() as u8], bytes].concat();
    let body = [number(r), number(s)].concat();
    [&[0x30, body.len() as u8], body.as_slice()].concat()
}

fn heads(add: &mut Add<'_>) {
    let catalogue = b"{}\n";
    let payload = support::head_payload(support::head_predicate(catalogue), catalogue);
    let mut head = |name: &str, about: &str, outcome: &str, head: Envelope| {
        let trust = Bytes(support::mixed_root().encode());
        let input = Input::Head { trust, head: Bytes(head.encode()), floor: None, signed_time: None, now: time(NOW) };
        add(&format!("head-{name}"), about, outcome, input);
    };
    let by = |who: usize| support::sign(payload.clone(), &[who]);
    head("p256-good", "signed by the P-256 key", "ok", by(P_HEAD));
    head("p256-beside", "signed by the Ed25519 key of the same role", "ok", by(HEAD));
    head("p256-release-key", "signed by a P-256 release key", "KeyNotAuthorised", by(P_TEAM));
    head("p256-stranger", "signed by a P-256 key nobody knows", "KeyNotAuthorised", by(P_STRANGER));
    let mut hint = by(P_HEAD);
    hint.signatures[0].keyid = support::id(HEAD);
    head("p256-wrong-hint", "named after an Ed25519 key: the key decides the algorithm, not its name", "ok", hint);
    let mut flipped = by(P_HEAD);
    flipped.payload[100] ^= 1;
    head("p256-bad-payload", "one bit of the payload", "SignatureInvalid", flipped);

    let message = by(P_HEAD).signed_bytes();
    let signature = support::ecdsa(P_HEAD, &message).normalize_s();
    let good = by(P_HEAD).signatures[0].sig.clone();
    let (r, s) = signature.split_bytes();
    let high = p256::ecdsa::Signature::from_scalars(r, (-signature.s()).to_bytes()).unwrap();
    // In DER: no zero before a first bit of 0, one before a first bit of 1.
    let minimal = |number: &[u8]| {
        let number: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        if number[0] >= 0x80 { [vec![0], number].concat() } else { number }
    };
    let (r, s) = (minimal(&r), minimal(&s));
    assert_eq!(good, der(&r, &s));
    let padded = |number: &[u8]| [&[0], number].concat();
    let other_hash: p256::ecdsa::Signature = {
        let hash = <sha2::Sha512 as sha2::Digest>::digest(&message);
        support::p256_key(P_HEAD).sign_prehash(&hash).unwrap()
    };
    let no_hash: p256::ecdsa::Signature =
        support::p256_key(P_HEAD).sign_prehash(&message[message.len() - 32..]).unwrap();
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551".parse::<Digest>().unwrap();
    let invalid = "SignatureInvalid";
    let signatures: [Sig; 17] = [
        ("high-s", "the other S that verifies", invalid, high.to_der().as_bytes().to_vec()),
        ("raw", "R and S of 32 bytes each, without DER", invalid, signature.to_bytes().to_vec()),
        ("r-padded", "a zero before R", invalid, der(&padded(&r), &s)),
        ("s-padded", "a zero before S", invalid, der(&r, &padded(&s))),
        ("long-length", "a length of two bytes", invalid, [&[0x30, 0x81, good[1]], &good[2..]].concat()),
        ("indefinite", "the indefinite length of BER", invalid, [&[0x30, 0x80], &good[2..], &[0, 0]].concat()),
        ("trailing", "a byte after it", invalid, [good.as_slice(), &[0]].concat()),
        ("trailing-inside", "a null after S", invalid, [&[0x30, good[1] + 2], &good[2..], &[5, 0]].concat()),
        ("cut", "its last byte is missing", invalid, good[..good.len() - 1].to_vec()),
        ("zeros", "R and S are zero", invalid, der(&[0], &[0])),
        ("order", "S is the group's order", invalid, der(&r, &padded(order.as_bytes()))),
        ("negative", "R with its first bit set", invalid, der(&[&[0x80], &r[r.len() - 31..]].concat(), &s)),
        ("other-hash", "over SHA-512", invalid, other_hash.normalize_s().to_der().as_bytes().to_vec()),
        ("no-hash", "over bytes that were not hashed", invalid, no_hash.normalize_s().to_der().as_bytes().to_vec()),
        (
            "ed25519-signature",
            "an Ed25519 signature under this key's id",
            invalid,
            by(STRANGER).signatures[0].sig.clone(),
        ),
        ("empty", "a signature of no bytes", "Malformed", vec![]),
        ("long", "a signature of 73 bytes", "Malformed", vec![0x30; 73]),
    ];
    for (name, about, outcome, sig) in signatures {
        let mut envelope = by(P_HEAD);
        envelope.signatures = vec![Signature { keyid: support::id(P_HEAD), sig }];
        head(&format!("p256-{name}"), about, outcome, envelope);
    }
    let mut envelope = by(HEAD);
    envelope.signatures[0].sig.truncate(63);
    head("short-signature", "63 bytes of an Ed25519 signature", invalid, envelope);
}

/// No randomness, but not RFC 6979's nonce either.
struct Sevens;

impl TryRng for Sevens {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(7)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(7)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        bytes.fill(7);
        Ok(())
    }
}

impl TryCryptoRng for Sevens {}

fn releases(add: &mut Add<'_>) {
    let mut case = |name: &str, about: &str, outcome: &str, server: &str, envelope: fn(&mut Envelope)| {
        let mut listed = support::listed(support::release(server, "1.2.0"), &[]);
        envelope(&mut listed.envelope);
        let site = support::site(server, Entry { selected: listed, earlier: vec![] }.encode());
        let input = Input::Release {
            trust: Bytes(support::mixed_root().encode()),
            head: Bytes(site.head),
            catalogue: Bytes(site.catalogue),
            bin: Bytes(site.bin),
            entry: Bytes(site.entry),
            now: time(NOW),
            name: server.parse().unwrap(),
            pin: None,
            platform: "linux/amd64".parse().unwrap(),
            published: None,
        };
        add(&format!("release-p256-{name}"), about, outcome, input);
    };
    fn by(envelope: &mut Envelope, who: usize) {
        support::sign_more(envelope, who, support::id(who));
    }
    case("good", "signed by the P-256 key alone", "ok", "postgres", |envelope| by(envelope, P_TEAM));
    case("two-of-two", "a threshold over both algorithms", "ok", "solo", |envelope| {
        by(envelope, P_TEAM);
        by(envelope, TEAM);
    });
    case("one-of-two", "one of the two algorithms", "ThresholdNotMet", "solo", |envelope| by(envelope, P_TEAM));
    case("one-key-twice", "two different signatures of one key, both genuine", "ThresholdNotMet", "solo", |envelope| {
        by(envelope, P_TEAM);
        // Another nonce, as a token picks one at random each time.
        let hash = <sha2::Sha256 as sha2::Digest>::digest(envelope.signed_bytes());
        let other: p256::ecdsa::Signature =
            support::p256_key(P_TEAM).sign_prehash_with_rng(&mut Sevens, &hash).unwrap();
        let sig = other.normalize_s().to_der().as_bytes().to_vec();
        assert_ne!(sig, envelope.signatures[0].sig);
        assert!(support::public(P_TEAM).verify(&envelope.signed_bytes(), &sig));
        envelope.signatures.push(Signature { keyid: support::id(TEAM), sig });
    });
    case("head-key", "signed by the P-256 head key", "KeyNotAuthorised", "postgres", |envelope| by(envelope, P_HEAD));
}
