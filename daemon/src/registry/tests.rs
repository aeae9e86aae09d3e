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
use mcpfs_trust::key::PublicKey;
use mcpfs_trust::name::Version;
use mcpfs_trust::release::{RELEASE_TYPE, Release, TreeSummary};
use mcpfs_trust::root::{ReleaseRule, Role, TrustRoot};
use mcpfs_trust::site;
use mcpfs_trust::statement::{Statement, Subject};
use mcpfs_trust::time::Timestamp;
use serde_json::json;
use tokio::runtime::Handle;

use super::admit::{Rules, decide};
use super::state::{Known, State};
use super::{Parts, Registry, Slot, now};
use crate::audit::{Audit, AuditOptions};
use crate::config::{Config, DowngradePolicy, Pins, PinsDefault, Policy, SandboxPolicy, TreeExec};
use crate::content::{Content, ContentSettings};

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
    PublicKey::from_bytes(key.verifying_key().to_bytes()).unwrap()
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
    let sig = key.sign(&envelope.signed_bytes()).to_bytes();
    envelope.signatures.push(Signature { keyid: public(key).id(), sig });
    envelope
}

/// A registry with one server in memory: hello 2 selected, 1 and 0 earlier.
struct Case {
    entry: Entry,
    root: TrustRoot,
    pins: Pins,
    policy: Policy,
    known: Known,
    expired: Option<Timestamp>,
    before: Vec<Version>,
    platform: &'static str,
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
    Listed { release, envelope, status: Status::Active, reason: None, layout: vec![stored] }
}

impl Case {
    fn new() -> Self {
        let listed = |number| listed("hello", number, "any", &key(2));
        Self {
            entry: Entry { selected: listed("2"), earlier: vec![listed("1"), listed("0")] },
            root: root("demo/cases", (1, 1, 1), &key(1), &key(2)),
            pins: Pins::default(),
            policy: Policy {
                sandbox: SandboxPolicy::Off,
                allow_root: false,
                downgrade: DowngradePolicy::Allow,
                tree_exec: TreeExec::Allow,
                expose: vec![],
                hide: vec![],
                scanners: vec![],
            },
            known: Known::default(),
            expired: None,
            before: vec![],
            platform: "linux/amd64",
        }
    }

    fn listed(&mut self, number: &str) -> &mut Listed {
        let mut all = std::iter::once(&mut self.entry.selected).chain(&mut self.entry.earlier);
        all.find(|one| one.release.version.as_str() == number).unwrap()
    }

    fn status(&mut self, number: &str, status: Status) {
        let one = self.listed(number);
        (one.status, one.reason) = (status, Some("because".to_owned()));
    }

    fn pin(&mut self, text: &str) {
        self.pins.by_name.insert("hello".parse().unwrap(), text.parse().unwrap());
    }

    /// The selected version or why none, the others shown, and the version that was gone back from.
    fn decide(&self) -> String {
        let platform = self.platform.parse().unwrap();
        let rules = Rules {
            root: &self.root,
            platform: &platform,
            pins: &self.pins,
            policy: &self.policy,
            known: &self.known,
            expired: self.expired,
        };
        let decision = decide(&self.entry, &self.before, &rules);
        let mut text = match &decision.selected {
            Ok(version) => version.to_string(),
            Err(refusal) => refusal.code.to_string(),
        };
        for chosen in &decision.chosen {
            if decision.selected.as_ref() != Ok(&chosen.release.version) {
                text += &format!(" +{}", chosen.release.version);
            }
        }
        if let Some(last) = &decision.downgrade {
            text += &format!(" back from {last}");
        }
        text
    }
}

/// design.md sections 3 and 12.5 to 12.7: what a host shows of one entry.
#[test]
fn the_selection_matrix() {
    let digest = |text: &str| Digest::of(text.as_bytes());
    type Edit<'a> = &'a dyn Fn(&mut Case);
    let cases: &[(&str, Edit<'_>, &str)] = &[
        ("the catalogue's choice", &|_| {}, "2"),
        ("what was shown stays", &|case| case.before = vec![version("1")], "2 +1"),
        ("a pin overrides", &|case| case.pin("1"), "1"),
        ("a pin of what is not there", &|case| case.pin("9"), "PinUnknown"),
        ("a pin of the artefact", &|case| case.pin(&format!("1@sha256:{}", digest("1"))), "1"),
        ("a pin of another artefact", &|case| case.pin(&format!("1@sha256:{}", digest("2"))), "PinDigestMismatch"),
        ("pins only, without one", &|case| case.pins.default = PinsDefault::None, "PolicyRefused"),
        (
            "pins only, with one",
            &|case| {
                case.pins.default = PinsDefault::None;
                case.pin("1");
            },
            "1",
        ),
        ("hidden", &|case| case.policy.hide = vec!["he*".to_owned()], "PolicyRefused"),
        (
            "hidden, and shown before",
            &|case| {
                case.policy.hide = vec!["hello".to_owned()];
                case.before = vec![version("1")];
            },
            "PolicyRefused",
        ),
        ("yanked", &|case| case.status("2", Status::Yanked), "Yanked"),
        (
            "yanked, and pinned",
            &|case| {
                case.status("2", Status::Yanked);
                case.pin("2");
            },
            "2",
        ),
        (
            "yanked, and another is pinned",
            &|case| {
                case.status("2", Status::Yanked);
                case.before = vec![version("2")];
                case.pin("1");
            },
            "1",
        ),
        ("revoked", &|case| case.status("2", Status::Revoked), "Revoked"),
        (
            "revoked, and pinned; the other stays",
            &|case| {
                case.status("2", Status::Revoked);
                case.before = vec![version("1")];
                case.pin("2");
            },
            "Revoked +1",
        ),
        (
            "revoked once is revoked for ever",
            &|case| drop(case.known.revoked.insert(version("2"), "because".to_owned())),
            "Revoked",
        ),
        (
            "published with the same statement",
            &|case| {
                let statement = case.entry.selected.envelope.statement();
                case.known.published.insert(version("2"), statement);
            },
            "2",
        ),
        (
            "published with another",
            &|case| {
                case.known.published.insert(version("2"), Digest::EMPTY);
            },
            "ReleaseChanged",
        ),
        ("went back", &|case| case.known.selected = Some((version("3"), time(3))), "2 back from 3"),
        ("went on", &|case| case.known.selected = Some((version("1"), time(1))), "2"),
        (
            "went back where only a pin may",
            &|case| {
                case.known.selected = Some((version("3"), time(3)));
                case.policy.downgrade = DowngradePolicy::PinOnly;
                case.before = vec![version("1")];
            },
            "PolicyRefused +1 back from 3",
        ),
        (
            "a pin that goes back is no downgrade",
            &|case| {
                case.known.selected = Some((version("2"), time(2)));
                case.policy.downgrade = DowngradePolicy::PinOnly;
                case.pin("1");
            },
            "1",
        ),
        (
            "another platform only",
            &|case| case.entry.selected = listed("hello", "2", "linux/arm64", &key(2)),
            "PlatformMissing",
        ),
        ("this platform", &|case| case.entry.selected = listed("hello", "2", "linux/amd64", &key(2)), "2"),
        ("expired, never admitted", &|case| case.expired = Some(time(5)), "HeadExpired"),
        (
            "expired, admitted before",
            &|case| {
                case.expired = Some(time(5));
                case.known.admitted.insert(version("2"), Digest::EMPTY);
            },
            "2",
        ),
        (
            "signed by the head's key",
            &|case| {
                case.entry.selected = listed("hello", "2", "any", &key(1));
                case.before = vec![version("1")];
            },
            "KeyNotAuthorised +1",
        ),
        (
            "signed by an unknown key",
            &|case| case.entry.selected = listed("hello", "2", "any", &key(3)),
            "KeyNotAuthorised",
        ),
        (
            "another server's statement",
            &|case| {
                let other = listed("other", "2", "any", &key(2));
                case.entry.selected.envelope = other.envelope;
            },
            "EntryMismatch",
        ),
        (
            "readable fields that lie",
            &|case| "Does more.".clone_into(&mut case.listed("2").release.description),
            "EntryMismatch",
        ),
        ("no scope covers it", &|case| case.root.release.retain(|_| false), "ScopeDenied"),
    ];
    for (what, edit, expected) in cases {
        let mut case = Case::new();
        edit(&mut case);
        assert_eq!(case.decide(), *expected, "{what}");
    }
}

/// A site in a directory, and a host's registry that follows it.
pub(crate) struct Live {
    pub(crate) dir: tempfile::TempDir,
    head: std::cell::Cell<u64>,
    previous: std::cell::Cell<Option<Digest>>,
}

impl Live {
    pub(crate) fn new() -> Self {
        let live = Self { dir: tempfile::tempdir().unwrap(), head: 0.into(), previous: None.into() };
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
        let config = Arc::new(Config::load(&self.dir.path().join("mcpfs.toml")).unwrap());
        let audit = Audit::open(&AuditOptions::at(self.dir.path().join("audit.db"))).unwrap();
        let (state, _) = State::open(&self.dir.path().join("state")).unwrap();
        let trust = crate::daemon::trust(&config.trust, |root| Ok(state.trust(&root.registry)?)).unwrap();
        let site = crate::daemon::site(&config, &Handle::current()).unwrap();
        let (events, _) = tokio::sync::mpsc::channel(1);
        let settings = ContentSettings::new(self.dir.path().join("cache"), self.dir.path().join("content"));
        let content = Content::open(settings, site.clone(), Handle::current(), events).unwrap();
        let parts = Parts { config, trust, site, content, audit: audit.clone(), state };
        (Registry::open(parts).await.unwrap(), audit)
    }

    fn take_away_the_site(&self) {
        std::fs::rename(self.dir.path().join("site"), self.dir.path().join("gone")).unwrap();
    }
}

async fn selected(registry: &Registry) -> Result<(String, bool), Code> {
    let server = registry.server(&"hello".parse().unwrap()).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_host_follows_goes_offline_and_comes_back() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let (registry, audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, fresh("2"));
    let hello = registry.server(&"hello".parse().unwrap()).await.unwrap();
    assert!(registry.server(&"nobody".parse().unwrap()).await.is_none());
    assert!(registry.version(&hello, &version("7")).await.is_none());
    let first = registry.version(&hello, &version("1")).await.unwrap().unwrap();
    assert!(matches!(registry.by_slot(first.slot), Some(Slot::Release(same)) if same.statement == first.statement));

    // Without the site everything admitted runs on, stale.
    live.take_away_the_site();
    assert!(registry.refresh_now().await.is_err());
    assert_eq!(selected(&registry).await, stale("2"));
    audit.close();
    drop(registry);

    // A restart without the site shows what was admitted, under the same slots, and nothing else.
    let (registry, _audit) = live.host().await;
    assert_eq!(selected(&registry).await, stale("2"), "nothing says yet that it is still the newest");
    let again = registry.server(&"hello".parse().unwrap()).await.unwrap();
    let shown: Vec<_> = again.admitted().iter().map(|one| (one.version().to_string(), one.slot)).collect();
    let slot = hello.selected.as_ref().unwrap().slot;
    assert_eq!(shown, [("2".to_owned(), slot), ("1".to_owned(), first.slot)]);
    assert!(registry.refresh_now().await.is_err());
    assert_eq!(selected(&registry).await, stale("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_never_go_back_and_revocations_are_final() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let (registry, _audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    let yesterday = std::fs::read(live.dir.path().join("site/head.json")).unwrap();
    let hello = registry.server(&"hello".parse().unwrap()).await.unwrap();
    let running = hello.selected.clone().unwrap();

    let mut case = Case::new();
    case.status("2", Status::Revoked);
    live.publish(&[case.entry], 0);
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, Err(Code::Revoked));
    assert_eq!(registry.check_open(&running).unwrap_err().code, Code::Revoked);

    live.write("site/head.json", &yesterday);
    assert_eq!(registry.refresh_now().await.unwrap_err().code, Code::HeadRollback);
    assert_eq!(registry.snapshot().head.as_ref().unwrap().version, 2);
    assert!(!registry.snapshot().refreshed.stale, "a mirror that lags is no failure yet");

    // Active again under a newer head: a revocation seen stays.
    live.publish(&[Case::new().entry], 0);
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, Err(Code::Revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_missing_or_forged_under_a_newer_head() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let (registry, _audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    live.publish(&[], 0);
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, stale("2"));

    let mut case = Case::new();
    case.entry.selected = listed("hello", "3", "any", &key(3));
    case.entry.earlier.push(listed("hello", "2", "any", &key(2)));
    live.publish(&[case.entry], 0);
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, Err(Code::KeyNotAuthorised));
    let hello = registry.server(&"hello".parse().unwrap()).await.unwrap();
    assert_eq!(hello.admitted().len(), 1, "the version admitted before stays usable by path");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_catalogue_every_name_says_why() {
    let live = Live::new();
    live.write("site/head.json", b"<html>log in</html>");
    let (registry, _audit) = live.host().await;
    assert_eq!(registry.refresh_now().await.unwrap_err().code, Code::NotARegistry);
    assert_eq!(selected(&registry).await, Err(Code::NotARegistry));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hard_stop_at_max_stale() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 3 * 86_400);
    let (registry, _audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, fresh("2"));
    let text = std::fs::read_to_string(live.dir.path().join("mcpfs.toml")).unwrap();
    live.write("mcpfs.toml", format!("{text}max_stale = \"2d\"\n").as_bytes());
    let config = Arc::new(Config::load(&live.dir.path().join("mcpfs.toml")).unwrap());
    let site = crate::daemon::site(&config, &Handle::current()).unwrap();
    registry.reconfigure(config, registry.trust(), site).await.unwrap();
    assert_eq!(selected(&registry).await, Err(Code::HeadExpired));
}
