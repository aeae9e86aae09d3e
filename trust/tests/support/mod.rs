//! A small signed registry for tests: keys of RFC 8032 section 7.1 and, for P-256, of RFC 6979 and
//! RFC 5903; fixed times and names.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use ed25519_dalek::{Signer, SigningKey};
use mcpfs_trust::catalogue::{Bin, BinServer, Blob, Catalogue};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, PlatformLayout, Status, StoredLayout};
use mcpfs_trust::envelope::{Envelope, Signature};
use mcpfs_trust::head::{CATALOGUE_SUBJECT, CatalogueSize, HEAD_TYPE, Head};
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::layout::{Extent, Layout};
use mcpfs_trust::release::{AcceptArgs, Artefact, Artefacts, Launch, RELEASE_TYPE, Release, Runtime};
use mcpfs_trust::root::{ReleaseRule, Role, TrustRoot};
use mcpfs_trust::statement::{Statement, Subject};
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::tree::{Tree, TreeBuilder};
use proptest::prelude::*;

/// RFC 8032 tests 1, 2, 3, 1024 and SHA(abc).
const SEEDS: [&str; 5] = [
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
    "f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5",
    "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
];

/// P-256: RFC 6979 A.2.5, and both sides of RFC 5903 section 8.1.
const P256_SCALARS: [&str; 3] = [
    "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
    "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
    "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
];

/// Who signs what in the test registry.
pub(crate) const HEAD: usize = 0;
pub(crate) const TEAM: usize = 1;
pub(crate) const SECOND: usize = 2;
pub(crate) const APPROVER: usize = 3;
pub(crate) const STRANGER: usize = 4;
/// These have P-256 keys; [`mixed_root`] knows the first two.
pub(crate) const P_TEAM: usize = 5;
pub(crate) const P_HEAD: usize = 6;
pub(crate) const P_STRANGER: usize = 7;

pub(crate) const REGISTRY: &str = "mcp.example.com/test";
pub(crate) const NOW: &str = "2026-05-01T12:00:00Z";

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn key(who: usize) -> SigningKey {
    let seed: Digest = SEEDS[who].parse().unwrap();
    SigningKey::from_bytes(seed.as_bytes())
}

pub(crate) fn p256_key(who: usize) -> p256::ecdsa::SigningKey {
    let scalar: Digest = P256_SCALARS[who - SEEDS.len()].parse().unwrap();
    p256::ecdsa::SigningKey::from_slice(scalar.as_bytes()).unwrap()
}

pub(crate) fn public(who: usize) -> PublicKey {
    if who < SEEDS.len() {
        return PublicKey::from_bytes(Algorithm::Ed25519, key(who).verifying_key().as_bytes()).unwrap();
    }
    PublicKey::from_bytes(Algorithm::EcdsaP256, p256_key(who).verifying_key().to_sec1_point(false).as_bytes()).unwrap()
}

pub(crate) fn id(who: usize) -> Digest {
    public(who).id()
}

pub(crate) fn sign(payload: Vec<u8>, who: &[usize]) -> Envelope {
    let mut envelope = Envelope::new(payload).unwrap();
    for who in who {
        sign_more(&mut envelope, *who, id(*who));
    }
    envelope
}

pub(crate) fn sign_more(envelope: &mut Envelope, who: usize, keyid: Digest) {
    let message = envelope.signed_bytes();
    let sig = match public(who).algorithm() {
        Algorithm::Ed25519 => key(who).sign(&message).to_bytes().to_vec(),
        Algorithm::EcdsaP256 => ecdsa(who, &message).normalize_s().to_der().as_bytes().to_vec(),
    };
    envelope.signatures.push(Signature { keyid, sig });
}

/// The signature of RFC 6979, which is the same each time.
pub(crate) fn ecdsa(who: usize, message: &[u8]) -> p256::ecdsa::Signature {
    p256_key(who).sign(message)
}

pub(crate) fn role(keys: &[usize], threshold: u32) -> Role {
    Role { keys: keys.iter().map(|who| id(*who)).collect(), threshold: NonZeroU32::new(threshold).unwrap() }
}

/// `*` needs the team; `pay-*` the team and the approver; `solo` two of two; nobody has `x-*`.
pub(crate) fn root() -> TrustRoot {
    let rule = |scope: &str, require: Vec<Role>| ReleaseRule { scope: scope.parse().unwrap(), require };
    let keys = [HEAD, TEAM, SECOND, APPROVER].map(|who| (public(who), format!("key {who}"))).to_vec();
    let release = vec![
        rule("*", vec![role(&[TEAM, SECOND], 1)]),
        rule("pay-*", vec![role(&[TEAM], 1), role(&[APPROVER], 1)]),
        rule("solo", vec![role(&[TEAM, SECOND], 2)]),
    ];
    TrustRoot::new(REGISTRY.parse().unwrap(), (3, 2, 10), keys, role(&[HEAD], 1), release).unwrap()
}

/// Both algorithms in each role: either head key will do, `*` needs a team, `solo` both of them.
pub(crate) fn mixed_root() -> TrustRoot {
    let rule = |scope: &str, require: Vec<Role>| ReleaseRule { scope: scope.parse().unwrap(), require };
    let keys = [HEAD, P_HEAD, TEAM, P_TEAM].map(|who| (public(who), format!("key {who}"))).to_vec();
    let release = vec![rule("*", vec![role(&[TEAM, P_TEAM], 1)]), rule("solo", vec![role(&[TEAM, P_TEAM], 2)])];
    TrustRoot::new(REGISTRY.parse().unwrap(), (3, 2, 10), keys, role(&[HEAD, P_HEAD], 1), release).unwrap()
}

/// A zstd frame made by hand of one raw block, so that no compressor is frozen.
pub(crate) fn frame(plain: &[u8]) -> Vec<u8> {
    assert!(!plain.is_empty() && plain.len() < 100_000);
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    bytes.extend((plain.len() as u32).to_le_bytes());
    bytes.extend(&(((plain.len() as u32) << 3) | 1).to_le_bytes()[..3]);
    bytes.extend(plain);
    bytes
}

pub(crate) fn chunk(plain: &[u8]) -> Chunk {
    let stored = frame(plain);
    Chunk {
        sha256: Digest::of(&stored),
        size: stored.len() as u32,
        plain_sha256: Digest::of(plain),
        plain_size: plain.len() as u32,
    }
}

pub(crate) const SERVER: &[u8] = b"#!/bin/sh\necho hello\n";
pub(crate) const LIBRARY: &[u8] = b"export const answer = 42;\n";

pub(crate) fn tree() -> Tree {
    let mut builder = TreeBuilder::new();
    builder.file("bin/server", true, SERVER.len() as u64, Digest::of(SERVER)).unwrap();
    builder.file("lib/answer.js", false, LIBRARY.len() as u64, Digest::of(LIBRARY)).unwrap();
    builder.file("lib/copy.js", false, LIBRARY.len() as u64, Digest::of(LIBRARY)).unwrap();
    builder.file("lib/empty", false, 0, Digest::EMPTY).unwrap();
    builder.link("lib/latest.js", "answer.js").unwrap();
    builder.link("server", "bin/../bin/server").unwrap();
    builder.directory("ünï/çødé").unwrap();
    builder.build().unwrap()
}

pub(crate) fn layout() -> Layout {
    let plain = [SERVER, LIBRARY].concat();
    let at = |offset: usize| Extent { chunk: 0, offset: offset as u32 };
    Layout { chunks: vec![chunk(&plain)], contents: vec![at(0), at(SERVER.len())] }
}

pub(crate) fn release(name: &str, version: &str) -> Release {
    let artefact = Artefact {
        platform: "any".parse().unwrap(),
        url: format!("https://artefacts.example.com/{name}-{version}.tar"),
        sha256: Digest::of(format!("{name} {version}").as_bytes()),
        size: 10_240,
        tree: tree().summary(),
    };
    Release {
        registry: REGISTRY.parse().unwrap(),
        name: name.parse().unwrap(),
        version: version.parse().unwrap(),
        maintainer: "data-platform@example.com".into(),
        description: "Read-only access to the finance data warehouse.".into(),
        scope: vec!["read:finance.*".into()],
        data_classification: "confidential".into(),
        lawful_basis: Some("contract".into()),
        reviewed_at: "2026-04-15".parse().unwrap(),
        reviewers: vec!["security@example.com".into(), "data-platform@example.com".into()],
        artefact: Artefacts::new(vec![artefact]).unwrap(),
        launch: Some(Launch {
            command: "bin/server".into(),
            args: vec!["--state=${STATE}".into()],
            env: BTreeMap::from([("LOG_LEVEL".into(), "info".into())]),
            accept_args: AcceptArgs::default(),
            runtime: Runtime::Host,
            workdir: None,
            platform: None,
        }),
        credentials: vec![],
        sandbox: None,
        source: None,
        issued: time("2026-04-20T08:00:00Z"),
    }
}

pub(crate) fn release_payload(release: &Release) -> Vec<u8> {
    Statement { subject: release.subjects(), predicate: release.clone() }.encode(RELEASE_TYPE)
}

pub(crate) fn listed(release: Release, who: &[usize]) -> Listed {
    let envelope = sign(release_payload(&release), who);
    let (tree, layout) = (tree().encode(), layout().encode());
    let stored = StoredLayout { sha256: Digest::of(&layout), size: layout.len() as u64, chunks: vec![chunk(&layout)] };
    let platform = PlatformLayout {
        platform: "any".parse().unwrap(),
        tree: vec![chunk(&tree)],
        layout: stored,
        first: vec![chunk(&[SERVER, LIBRARY].concat())],
    };
    Listed { release, envelope, status: Status::Active, reason: None, layout: vec![platform], details: None }
}

pub(crate) fn entry(name: &str) -> Entry {
    Entry { selected: listed(release(name, "1.2.0"), &[TEAM]), earlier: vec![listed(release(name, "1.1.0"), &[TEAM])] }
}

/// The mutable head and the immutable files below it, as the site serves them.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) head: Vec<u8>,
    pub(crate) catalogue: Vec<u8>,
    pub(crate) bin: Vec<u8>,
    pub(crate) entry: Vec<u8>,
}

pub(crate) fn head_predicate(catalogue: &[u8]) -> Head {
    Head {
        registry: REGISTRY.parse().unwrap(),
        epoch: 2,
        version: 12,
        issued: time("2026-05-01T06:00:00Z"),
        expires: time("2026-05-08T06:00:00Z"),
        catalogue: CatalogueSize { size: catalogue.len() as u64 },
        previous: Some(Digest::of(b"head 11")),
    }
}

pub(crate) fn head_payload(head: Head, catalogue: &[u8]) -> Vec<u8> {
    let subject = Subject { name: CATALOGUE_SUBJECT.into(), digest: Digest::of(catalogue) };
    Statement { subject: vec![subject], predicate: head }.encode(HEAD_TYPE)
}

/// A consistent site with one server whose entry is `entry`.
pub(crate) fn site(name: &str, entry: Vec<u8>) -> Site {
    let server = BinServer { name: name.parse().unwrap(), sha256: Digest::of(&entry), size: entry.len() as u64 };
    let bin = Bin::new(vec![server]).encode();
    let blob = Blob { sha256: Digest::of(&bin), size: bin.len() as u64 };
    let catalogue = Catalogue::new(REGISTRY.parse().unwrap(), vec![blob]).encode();
    let head = sign(head_payload(head_predicate(&catalogue), &catalogue), &[HEAD]).encode();
    Site { head, catalogue, bin, entry }
}

/// Bytes with so many changes: some replaced, put in or taken out.
pub(crate) fn edited(bytes: Vec<u8>, changes: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0_u8..3, any::<u8>());
    prop::collection::vec(edit, changes).prop_map(move |edits| {
        let mut bytes = bytes.clone();
        for (at, how, byte) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}
