//! Publishing with the demo key: every interruption, every refusal, seen as a host sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use mcpfs_trust::verify::{self, Seen};

use super::*;
use crate::check::CheckOptions;
use crate::fetch::FetchPolicy;
use crate::key::demo::DemoKey;
use crate::log::Row;
use crate::pack::KnownChunks;
use crate::progress::Progress;
use crate::release::{self, ReleaseError, Released};
use crate::revoke;
use crate::scratch;
use crate::sign::SignError;
use crate::source::Origin;
use crate::trust_cmd::{self, NewRoot};

/// A signer, its site and what it releases.
pub(crate) struct Signer {
    folder: tempfile::TempDir,
    pub(crate) site: Site,
    pub(crate) root: TrustRoot,
    state: SignerState,
}

/// A host that remembers what it accepted.
#[derive(Default)]
struct Host(Seen);

fn at_second(second: i64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000 + second).unwrap()
}

fn keys(names: &[&str]) -> Vec<Box<dyn SigningKey>> {
    names.iter().map(|name| Box::new(DemoKey::new(name).unwrap()) as Box<dyn SigningKey>).collect()
}

impl Signer {
    pub(crate) fn new() -> Self {
        let folder = scratch::in_memory();
        let site = Site::folder(&folder.path().join("site"));
        let new = NewRoot {
            registry: "demo/test".parse().unwrap(),
            version: 1,
            epoch: 1,
            minimum_head: 1,
            head: vec!["demo:head".to_owned()],
            head_threshold: NonZeroU32::MIN,
            release: vec!["demo:release".to_owned(), "demo:second".to_owned()],
            release_threshold: NonZeroU32::MIN,
        };
        let mut keyring = key::Keyring::new(crate::pin::Pins::default());
        let root = trust_cmd::init(&mut keyring, new, &folder.path().join("trust.json"), false).unwrap();
        let state = SignerState::new(&folder.path().join("state"), &root.registry);
        std::fs::create_dir_all(folder.path().join("servers")).unwrap();
        Self { folder, site, root, state }
    }

    /// Writes a folder of `content` and a recipe for it.
    pub(crate) fn recipe(&self, name: &str, version: &str, content: &str, description: &str) -> PathBuf {
        let source = self.folder.path().join(format!("{name}-{version}-{}", content.len()));
        std::fs::create_dir_all(&source).unwrap();
        std::fs::write(source.join("server.sh"), content).unwrap();
        std::fs::write(source.join("same.txt"), "the same in every version").unwrap();
        let tar = source.with_extension("tar");
        crate::fetch::bundle(&source, std::fs::File::create(&tar).unwrap()).unwrap();
        let sha256 = Digest::of(&std::fs::read(&tar).unwrap());
        let file = self.folder.path().join("servers").join(format!("{name}.yaml"));
        let text = format!(
            "name: {name}\nversion: {version}\nmaintainer: a@example.com\ndescription: {description}\nscope: [read:x]\n\
             data_classification: public\nlawful_basis: contract\nreviewed_at: 2026-04-15\nreviewers: [b@example.com]\n\
             artefact:\n  url: file:{}\n  sha256: {sha256}\n",
            tar.display()
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    pub(crate) fn publisher<T>(
        &self,
        second: i64,
        head_key: &str,
        stop: Option<Step>,
        work: impl FnOnce(&mut Publisher<'_>) -> T,
    ) -> T {
        let head_keys = keys(&[head_key]);
        let mut progress = |step| {
            if Some(step) == stop {
                resume_unwind(Box::new("power cut"));
            }
        };
        work(&mut Publisher {
            site: &self.site,
            root: &self.root,
            state: &self.state,
            head_keys: &head_keys,
            now: at_second(second),
            lifetime: LIFETIME_SECONDS,
            progress: &mut progress,
            shown: Progress::silent(),
            public: None,
        })
    }

    pub(crate) fn release_with(
        &self,
        recipe: &Path,
        second: i64,
        (head_key, release_keys): (&str, &[&str]),
        stop: Option<Step>,
    ) -> Result<Released, ReleaseError> {
        let name = recipe.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let known = release::known_chunks(&self.site, &self.root, &name).unwrap_or(KnownChunks::none());
        let fetch = FetchPolicy { file_root: Some(self.folder.path().to_owned()), ..FetchPolicy::default() };
        let registry = Some(self.root.registry.clone());
        let options = CheckOptions {
            registry,
            fetch,
            known,
            level: 3,
            now: at_second(second),
            published: None,
            trial: None,
            patterns: None,
            gate: Default::default(),
            lookups: Default::default(),
        };
        let staged = scratch::in_memory();
        let staging = release::ingest(recipe, staged.path(), &options)?;
        let keys = keys(release_keys);
        self.publisher(second, head_key, stop, |publisher| {
            release::publish(publisher, &staging, &Origin::default(), &keys, "test")
        })
    }

    fn release(&self, version: &str, content: &str, second: i64) -> Result<Released, ReleaseError> {
        let recipe = self.recipe("hello", version, content, "Says hi.");
        self.release_with(&recipe, second, ("head", &["release"]), None)
    }

    pub(crate) fn withdraw(&self, version: &str, status: Status, second: i64) -> Result<Outcome, SiteError> {
        let (name, version) = ("hello".parse().unwrap(), version.parse().unwrap());
        self.publisher(second, "head", None, |publisher| revoke::withdraw(publisher, &name, &version, status, "why"))
    }

    fn head(&self) -> Vec<u8> {
        self.site.read(path::HEAD, limits::HEAD_BYTES).unwrap()
    }
}

impl Host {
    /// Refreshes and reads every selected release to its last byte: (head version, name → version).
    fn refresh(&mut self, signer: &Signer, second: i64) -> (u64, BTreeMap<String, String>) {
        let accepted = verify::head(&signer.head(), &signer.root, &self.0, at_second(second)).unwrap();
        self.0 = accepted.seen;
        let published = signer.site.published(&signer.root).unwrap();
        let mut selected = BTreeMap::new();
        for server in published.servers() {
            let entry = signer.site.entry(&published, &server.name).unwrap().unwrap();
            let version = match verify::select(&entry, None) {
                Ok(listed) => {
                    let version = listed.release.version.clone();
                    verify::release(&entry, &version, &signer.root, None).unwrap();
                    for chunk in signer.site.release_chunks(listed).unwrap() {
                        signer.site.chunk(&chunk).unwrap();
                    }
                    version.to_string()
                }
                Err(error) => format!("{:?}", error.code()),
            };
            selected.insert(server.name.to_string(), version);
        }
        (accepted.head.version, selected)
    }
}

/// The bytes under the server's name, and those that the head leads to.
fn named_and_listed(signer: &Signer) -> (Vec<u8>, Vec<u8>) {
    let published = signer.site.published(&signer.root).unwrap();
    let entry = signer.site.entry(&published, &"hello".parse().unwrap()).unwrap().unwrap();
    (signer.site.read("servers/hello.json", limits::ENTRY_BYTES).unwrap(), entry.encode())
}

fn one(version: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("hello".to_owned(), version.to_owned())])
}

#[test]
fn a_crash_after_any_step_leaves_a_valid_site_and_the_next_run_finishes() {
    for stop in Step::ALL {
        let signer = Signer::new();
        let mut host = Host::default();
        signer.release("1.0.0", "one", 0).unwrap();
        assert_eq!(host.refresh(&signer, 1), (1, one("1.0.0")));
        let recipe = signer.recipe("hello", "1.1.0", "two", "Says hi.");
        let crash = || signer.release_with(&recipe, 2, ("head", &["release"]), Some(stop));
        assert!(catch_unwind(AssertUnwindSafe(crash)).is_err(), "{stop:?}");
        let moved = matches!(stop, Step::Head | Step::Server | Step::ReadBack | Step::Pages);
        let expected = if moved { (2, one("1.1.0")) } else { (1, one("1.0.0")) };
        assert_eq!(host.refresh(&signer, 3), expected, "{stop:?}");
        let again = signer.release_with(&recipe, 4, ("head", &["release"]), None).unwrap();
        assert_eq!(again.site.changed, !moved, "{stop:?}");
        let (named, listed) = named_and_listed(&signer);
        assert!(named == listed, "{stop:?}: servers/hello.json is the entry under the head");
        assert_eq!(host.refresh(&signer, 5), (2, one("1.1.0")), "{stop:?}");
        signer.release("1.2.0", "three", 6).unwrap();
        assert_eq!(host.refresh(&signer, 7), (3, one("1.2.0")), "{stop:?}");
        let anew = pages::write(&signer.site, &signer.root, true, &Progress::silent()).unwrap();
        assert_eq!(anew.files, 0, "{stop:?}: pages are those of the head");
    }
}

#[test]
fn two_publishers_at_once_both_succeed_one_after_the_other() {
    let signer = Signer::new();
    let recipes: Vec<_> = ["alpha", "beta", "gamma"].map(|name| signer.recipe(name, "1.0.0", name, "Text.")).into();
    std::thread::scope(|scope| {
        for recipe in &recipes {
            scope.spawn(|| signer.release_with(recipe, 0, ("head", &["release"]), None).unwrap());
        }
    });
    let (head, servers) = Host::default().refresh(&signer, 1);
    assert_eq!((head, servers.len()), (3, 3));
}

#[test]
fn the_same_again_changes_nothing_and_resign_moves_the_head_alone() {
    let signer = Signer::new();
    let first = signer.release("1.0.0", "one", 0).unwrap();
    let head = signer.head();
    let again = signer.release("1.0.0", "one", 100).unwrap();
    assert!(first.site.changed && !again.site.changed);
    assert_eq!((first.statement, &head), (again.statement, &signer.head()));
    let resigned = signer.publisher(200, "head", None, |publisher| publisher.resign(Row::default())).unwrap();
    assert_eq!((resigned.changed, resigned.head_version), (true, 2));
    assert_eq!(Host::default().refresh(&signer, 201), (2, one("1.0.0")));
    // A further key adds its signature; the statement stays what it was.
    let recipe = signer.recipe("hello", "1.0.0", "one", "Says hi.");
    let more = signer.release_with(&recipe, 300, ("head", &["second"]), None).unwrap();
    assert_eq!((more.statement, more.keys.len(), more.site.head_version), (first.statement, 2, 3));
}

#[test]
fn a_rollback_selects_the_older_release_and_needs_no_release_key() {
    let signer = Signer::new();
    let mut host = Host::default();
    let first = signer.release("1.0.0", "one", 0).unwrap();
    signer.release("1.1.0", "two", 1).unwrap();
    assert_eq!(host.refresh(&signer, 2), (2, one("1.1.0")));
    let recipe = signer.recipe("hello", "1.0.0", "one", "Says hi.");
    let back = signer.release_with(&recipe, 3, ("head", &[]), None).unwrap();
    assert_eq!(back.statement, first.statement);
    assert_eq!(host.refresh(&signer, 4), (3, one("1.0.0")));
    // A new version does need one.
    let recipe = signer.recipe("hello", "1.2.0", "three", "Says hi.");
    let unsigned = signer.release_with(&recipe, 5, ("head", &[]), None);
    assert!(matches!(unsigned, Err(ReleaseError::Site(SiteError::Sign(SignError::NoKey)))));
}

#[test]
fn a_published_version_never_changes() {
    let signer = Signer::new();
    signer.release("1.0.0", "one", 0).unwrap();
    let head = signer.head();
    for (content, description, field) in [("other", "Says hi.", "artefact"), ("one", "Else.", "description")] {
        let recipe = signer.recipe("hello", "1.0.0", content, description);
        let error = signer.release_with(&recipe, 1, ("head", &["release"]), None).unwrap_err();
        let ReleaseError::Site(SiteError::Sign(SignError::ReleaseChanged { fields, next, .. })) = error else {
            panic!("{error}")
        };
        assert_eq!((fields.as_slice(), next.as_str()), ([field.to_owned()].as_slice(), "1.0.0+r2"));
    }
    assert_eq!(signer.head(), head);
}

#[test]
fn yanked_and_revoked_are_final() {
    let signer = Signer::new();
    let mut host = Host::default();
    signer.release("1.0.0", "one", 0).unwrap();
    signer.release("1.1.0", "two", 1).unwrap();
    signer.withdraw("1.1.0", Status::Yanked, 2).unwrap();
    assert_eq!(host.refresh(&signer, 3), (3, one("Yanked")));
    assert!(!signer.withdraw("1.1.0", Status::Yanked, 4).unwrap().changed);
    let again = signer.release("1.1.0", "two", 5);
    assert!(matches!(again, Err(ReleaseError::Site(SiteError::Withdrawn { .. }))));
    signer.withdraw("1.1.0", Status::Revoked, 6).unwrap();
    assert_eq!(host.refresh(&signer, 7), (4, one("Revoked")));
    assert!(matches!(signer.withdraw("1.1.0", Status::Yanked, 8), Err(SiteError::Withdrawn { .. })));
    assert!(matches!(signer.withdraw("9.9.9", Status::Yanked, 8), Err(SiteError::NoVersion { .. })));
    signer.release("1.0.0", "one", 9).unwrap();
    assert_eq!(host.refresh(&signer, 10), (5, one("1.0.0")));
}

#[test]
fn what_hosts_would_refuse_is_not_published() {
    let signer = Signer::new();
    let recipe = signer.recipe("hello", "1.0.0", "one", "Says hi.");
    for (head_key, release_key) in [("stranger", "release"), ("head", "stranger"), ("release", "head")] {
        let refused = signer.release_with(&recipe, 0, (head_key, &[release_key]), None);
        assert!(matches!(refused, Err(ReleaseError::Site(SiteError::Verify { .. }))), "{head_key} {release_key}");
        assert!(signer.site.find(path::HEAD, limits::HEAD_BYTES).unwrap().is_none());
    }
    signer.release("1.0.0", "one", 1_000).unwrap();
    // A clock that was set back would make a head that hosts take for a replay.
    let early = signer.release("1.1.0", "two", 0);
    assert!(matches!(early, Err(ReleaseError::Site(SiteError::Verify { .. }))));
    let similar = signer.recipe("hel.lo", "1.0.0", "x", "Text.");
    signer.release_with(&similar, 1_001, ("head", &["release"]), None).unwrap();
    let similar = signer.recipe("hel-lo", "1.0.0", "x", "Text.");
    std::fs::remove_file(signer.folder.path().join("servers/hel.lo.yaml")).unwrap();
    let refused = signer.release_with(&similar, 1_002, ("head", &["release"]), None);
    assert!(matches!(refused, Err(ReleaseError::Site(SiteError::SimilarName { .. }))));
}

#[test]
fn a_damaged_or_set_back_site_is_noticed() {
    let signer = Signer::new();
    signer.release("1.0.0", "one", 0).unwrap();
    let first = signer.head();
    signer.release("1.1.0", "two", 1).unwrap();
    let second = signer.head();
    signer.site.replace(path::HEAD, &first).unwrap();
    assert!(matches!(
        signer.release("1.2.0", "three", 2),
        Err(ReleaseError::Site(SiteError::SetBack { found: 1, known: 2 }))
    ));
    signer.site.replace(path::HEAD, &second).unwrap();
    // Another signer of the same keys, without this one's memory, forks the registry.
    let other = SignerState::new(&signer.folder.path().join("elsewhere"), &signer.root.registry);
    other.set_floor(&signer.root.registry, 1, 2, Digest::EMPTY).unwrap();
    let forked = Signer { state: other, ..signer };
    assert!(matches!(forked.withdraw("1.0.0", Status::Yanked, 3), Err(SiteError::Forked { version: 2 })));
    let signer =
        Signer { state: SignerState::new(&forked.folder.path().join("state"), &forked.root.registry), ..forked };
    let published = signer.site.published(&signer.root).unwrap();
    let entry = path::entry(&published.servers().next().unwrap().sha256);
    let mut bytes = signer.site.read(&entry, limits::ENTRY_BYTES).unwrap();
    bytes[100] ^= 1;
    signer.site.replace(&entry, &bytes).unwrap();
    assert!(matches!(signer.withdraw("1.0.0", Status::Yanked, 3), Err(SiteError::Verify { .. })));
    assert_eq!(signer.head(), second);
}

#[test]
fn existing_files_are_verified_never_rewritten() {
    let signer = Signer::new();
    signer.release("1.0.0", "one", 0).unwrap();
    let artefacts = signer.folder.path().join("site/artefacts");
    let artefact = std::fs::read_dir(&artefacts).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&artefact).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&artefact, &bytes).unwrap();
    // A further signature makes a new entry, so the artefact is looked at again.
    let recipe = signer.recipe("hello", "1.0.0", "one", "Says hi.");
    let refused = signer.release_with(&recipe, 1, ("head", &["second"]), None);
    assert!(matches!(refused, Err(ReleaseError::Site(SiteError::Damaged { .. }))));
    assert_eq!(std::fs::read(&artefact).unwrap(), bytes);
}

#[test]
fn more_than_512_servers_make_256_bins() {
    let signer = Signer::new();
    signer.release("1.0.0", "one", 0).unwrap();
    let many = |count: usize, second: i64| {
        signer.publisher(second, "head", None, |publisher| {
            let published = publisher.present().unwrap();
            let mut servers: Vec<BinServer> = published.servers().cloned().collect();
            servers.retain(|one| one.name.as_str() == "hello");
            let entry = servers[0].clone();
            servers.extend(
                (1..count).map(|index| BinServer { name: format!("s{index}").parse().unwrap(), ..entry.clone() }),
            );
            publisher.advance(&published, servers, None, Row::default().into(), Put::default()).unwrap()
        })
    };
    for (second, count, bins) in [(1, 512, 1), (2, 513, 256), (3, 1, 1)] {
        assert_eq!(many(count, second).servers, count);
        let published = signer.site.published(&signer.root).unwrap();
        assert_eq!((published.bins.len(), published.servers().count()), (bins, count));
        assert!(signer.site.entry(&published, &"hello".parse().unwrap()).unwrap().is_some());
    }
}

#[test]
fn the_log_is_chained_and_takes_up_refusals() {
    let signer = Signer::new();
    signer.release("1.0.0", "one", 0).unwrap();
    let refusal = Row { action: "release".to_owned(), reason: Some("wrong PIN".to_owned()), ..Row::default() };
    signer.state.refuse(refusal).unwrap();
    // A crash between taking the refusals and moving the head loses none of them.
    let recipe = signer.recipe("hello", "1.1.0", "two", "Says hi.");
    let crash = || signer.release_with(&recipe, 1, ("head", &["release"]), Some(Step::Log));
    assert!(catch_unwind(AssertUnwindSafe(crash)).is_err());
    signer.release_with(&recipe, 2, ("head", &["release"]), None).unwrap();
    signer.release("1.2.0", "three", 3).unwrap();
    let segments = signer.site.store().list("log/").unwrap();
    let parse = |name: &str| -> Row {
        let bytes = signer.site.read(name, 1 << 20).unwrap();
        serde_json::from_slice(bytes.split(|byte| *byte == b'\n').next().unwrap()).unwrap()
    };
    let last = segments.iter().find(|one| one.name.starts_with("log/3-")).unwrap();
    // The crash left a segment of a head that never came beside the one of the head that did.
    let second = format!("log/2-{}.jsonl", parse(&last.name).previous_head.unwrap());
    let segment = |version: u64| {
        let named =
            |name: &str| if version == 2 { name == second } else { name.starts_with(&format!("log/{version}-")) };
        let found = segments.iter().find(|one| named(&one.name)).unwrap();
        signer.site.read(&found.name, 1 << 20).unwrap()
    };
    let rows = |version| -> Vec<Row> {
        segment(version)
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    };
    let digest = |version| Digest::of(&segment(version));
    let (first, second, third) = (rows(1), rows(2), rows(3));
    assert_eq!((first.len(), first[0].previous, first[0].keys.len()), (1, None, 1));
    assert_eq!((second.len(), second[0].previous), (2, Some(digest(1))));
    assert_eq!((second[1].refused, second[1].reason.as_deref()), (true, Some("wrong PIN")));
    assert_eq!((third.len(), third[0].previous, third[0].head_version), (1, Some(digest(2)), Some(3)));
}
