#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use ed25519_dalek::{Signer, SigningKey};
use mcpfs_trust::catalogue::{Bin, BinServer, Blob, Catalogue};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, PlatformLayout, Status, StoredLayout};
use mcpfs_trust::envelope::{Envelope, Signature};
use mcpfs_trust::error::Code;
use mcpfs_trust::head::{CatalogueSize, HEAD_TYPE, Head};
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::name::Version;
use mcpfs_trust::release::{RELEASE_TYPE, Release, TreeSummary};
use mcpfs_trust::root::{ReleaseRule, Role, TrustRoot};
use mcpfs_trust::site;
use mcpfs_trust::statement::{Statement, Subject};
use mcpfs_trust::time::Timestamp;
use serde_json::json;
use tokio::runtime::Handle;

use super::clock::Clock;
use super::state::State;
use super::{Parts, Registry, now};
use crate::audit::{Audit, AuditOptions};
use crate::config::Config;
use crate::content::{Content, ContentSettings};
use crate::scratch;

mod closed;
mod following;
mod selection;

/// The keys of RFC 8032, section 7.1: for tests only, as everybody has them.
pub(crate) fn key(number: usize) -> SigningKey {
    let seed = [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
    ][number - 1];
    let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&seed[2 * at..2 * at + 2], 16).unwrap()).collect();
    SigningKey::from_bytes(&bytes.try_into().unwrap())
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(Algorithm::Ed25519, key.verifying_key().as_bytes()).unwrap()
}

/// A trust root of (version, epoch, minimum head) with one head key and one release key for all names.
pub(crate) fn root(registry: &str, numbers: (u64, u64, u64), head: &SigningKey, release: &SigningKey) -> TrustRoot {
    let role = |key: &SigningKey| Role { keys: vec![public(key).id()], threshold: 1.try_into().unwrap() };
    let keys = [head, release].map(|key| (public(key), String::new())).to_vec();
    let rules = vec![ReleaseRule { scope: "*".parse().unwrap(), require: vec![role(release)] }];
    TrustRoot::new(registry.parse().unwrap(), numbers, keys, role(head), rules).unwrap()
}

/// An envelope around a statement's bytes.
pub(crate) fn sign(payload: Vec<u8>, key: &SigningKey) -> Envelope {
    let mut envelope = Envelope::new(payload).unwrap();
    let sig = key.sign(&envelope.signed_bytes()).to_bytes().to_vec();
    envelope.signatures.push(Signature { keyid: public(key).id(), sig });
    envelope
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds).unwrap()
}

/// A listed release with a tree that is nowhere.
fn listed(name: &str, number: &str, platform: &str, signer: &SigningKey) -> Listed {
    let of = |text: &str| Digest::of(text.as_bytes());
    let chunk = |plain_size| Chunk { sha256: of("s"), size: 20, plain_sha256: of("p"), plain_size };
    let stored = PlatformLayout {
        platform: platform.parse().unwrap(),
        tree: vec![chunk(9)],
        layout: StoredLayout { sha256: of("layout"), size: 4, chunks: vec![chunk(4)] },
        first: vec![],
    };
    listed_as(name, number, TreeSummary { sha256: of("tree"), size: 9, files: 1, bytes: 1 }, stored, signer)
}

/// A listed release, issued at its version's number, signed by `signer`. The artefact is
/// the version's text.
pub(crate) fn listed_as(
    name: &str,
    number: &str,
    tree: TreeSummary,
    stored: PlatformLayout,
    signer: &SigningKey,
) -> Listed {
    let release: Release = serde_json::from_value(json!({
        "registry": "demo/cases", "name": name, "version": number,
        "maintainer": "team@example.com", "description": "Says hello.", "data_classification": "public",
        "reviewed_at": "2026-04-15", "reviewers": ["r@example.com"],
        "artefact": {"platform": stored.platform, "url": "file:///x.tar", "sha256": Digest::of(number.as_bytes()),
                     "size": number.len(), "tree": tree},
        "issued": time(number.parse().unwrap()).to_string(),
    }))
    .unwrap();
    let payload = Statement { subject: release.subjects(), predicate: release.clone() }.encode(RELEASE_TYPE);
    let envelope = sign(payload, signer);
    Listed { release, envelope, status: Status::Active, reason: None, layout: vec![stored], details: None }
}

/// A site in a directory, and a host's registry that follows it.
pub(crate) struct Live {
    pub(crate) dir: tempfile::TempDir,
    head: std::cell::Cell<u64>,
    previous: std::cell::Cell<Option<Digest>>,
}

impl Live {
    pub(crate) fn new() -> Self {
        let live = Self { dir: scratch::in_memory(), head: 0.into(), previous: None.into() };
        let at = live.dir.path().display();
        live.write("mcpfs.toml", format!("[registry]\nurl = \"file://{at}/site\"\n").as_bytes());
        live.write("trust.json", &root("demo/cases", (1, 1, 1), &key(1), &key(2)).encode());
        live
    }

    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Publishes these entries under the next head, issued `age` seconds ago for a week.
    pub(crate) fn publish(&self, entries: &[Entry], age: i64) {
        let mut servers = Vec::new();
        for entry in entries {
            let (name, bytes) = (entry.selected.release.name.clone(), entry.encode());
            let sha256 = Digest::of(&bytes);
            self.write(&format!("site/{}", site::entry(&sha256)), &bytes);
            self.write(&format!("site/{}", site::server(&name)), &bytes);
            servers.push(BinServer { name, sha256, size: bytes.len() as u64 });
        }
        let bin = Bin::new(servers).encode();
        self.write(&format!("site/{}", site::bin(&Digest::of(&bin))), &bin);
        let blob = Blob { sha256: Digest::of(&bin), size: bin.len() as u64 };
        let catalogue = Catalogue::new("demo/cases".parse().unwrap(), vec![blob]).encode();
        let sha256 = Digest::of(&catalogue);
        self.write(&format!("site/{}", site::catalogue(&sha256)), &catalogue);
        self.head.set(self.head.get() + 1);
        let predicate = Head {
            registry: "demo/cases".parse().unwrap(),
            epoch: 1,
            version: self.head.get(),
            issued: now().plus(-age),
            expires: now().plus(7 * 86_400 - age),
            catalogue: CatalogueSize { size: catalogue.len() as u64 },
            previous: self.previous.get(),
        };
        let subject = vec![Subject { name: "catalogue".to_owned(), digest: sha256 }];
        let envelope = sign(Statement { subject, predicate }.encode(HEAD_TYPE), &key(1));
        self.previous.set(Some(envelope.statement()));
        self.write("site/head.json", &envelope.encode());
    }

    /// A host that starts on what the last one left.
    async fn host(&self) -> (Registry, Audit) {
        self.host_by(Clock::default()).await
    }

    /// The same by another clock.
    async fn host_by(&self, clock: Clock) -> (Registry, Audit) {
        let config = Arc::new(Config::load(&self.dir.path().join("mcpfs.toml")).unwrap());
        let audit =
            Audit::open(&AuditOptions { reserve_bytes: 0, ..AuditOptions::at(self.dir.path().join("audit.db")) })
                .unwrap();
        let (state, _) = State::open_with(&self.dir.path().join("state"), 0).unwrap();
        let trust = crate::daemon::trust(&config.trust, |root| Ok(state.trust(&root.registry)?)).unwrap();
        let site = crate::daemon::site(&config, &Handle::current(), &crate::site::Secrets::Own).unwrap();
        let (events, _) = tokio::sync::mpsc::channel(1);
        let settings = ContentSettings::new(self.dir.path().join("cache"), self.dir.path().join("content"));
        let content = Content::open(settings, site.clone(), Handle::current(), events).unwrap();
        let parts = Parts { config, trust, site, content, audit: audit.clone(), state };
        (Registry::open_by(parts, clock).await.unwrap(), audit)
    }

    /// Reads mcpfs.toml again, with `more` at its end, and puts it into force.
    async fn reload(&self, registry: &Registry, more: &str) {
        let text = std::fs::read_to_string(self.dir.path().join("mcpfs.toml")).unwrap();
        self.write("mcpfs.toml", format!("{text}{more}").as_bytes());
        let config = Arc::new(Config::load(&self.dir.path().join("mcpfs.toml")).unwrap());
        let site = crate::daemon::site(&config, &Handle::current(), &crate::site::Secrets::Own).unwrap();
        registry.reconfigure(config, registry.trust(), site).await.unwrap();
    }

    fn take_away_the_site(&self) {
        std::fs::rename(self.dir.path().join("site"), self.dir.path().join("gone")).unwrap();
    }
}

async fn selected(registry: &Registry) -> Result<(String, bool), Code> {
    let server = registry.server(&"hello".parse().unwrap()).await.unwrap().unwrap();
    let admitted = server.selected.clone().map_err(|refusal| refusal.code)?;
    let stale = registry.check_open(&admitted).map_err(|refusal| refusal.code)?.stale;
    Ok((admitted.version().to_string(), stale))
}

fn fresh(version: &str) -> Result<(String, bool), Code> {
    Ok((version.to_owned(), false))
}

fn stale(version: &str) -> Result<(String, bool), Code> {
    Ok((version.to_owned(), true))
}
