//! The operations against a real registry that follows a real site of one server, and a
//! real audit: only the network and the mount are missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mcpfs_trust::catalogue::{Bin, BinServer, Blob, Catalogue};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, PlatformLayout, Status, StoredLayout};
use mcpfs_trust::head::{CatalogueSize, HEAD_TYPE, Head};
use mcpfs_trust::release::{RELEASE_TYPE, Release};
use mcpfs_trust::statement::{Statement, Subject};
use serde_json::json;
use tokio::runtime::Handle;

use crate::audit::query::{AccessRow, Filter, Reader};
use crate::audit::{Audit, AuditOptions, EventKind};
use crate::commands::Door;
use crate::commands::pin::{self, PinArgs, UnpinArgs};
use crate::config::Config;
use crate::content::{Content, ContentSettings};
use crate::control::client::{self, ClientError};
use crate::control::facts;
use crate::control::protocol::{Launch, Request, Target};
use crate::daemon::{self, Daemon, MountFacts};
use crate::launched::Launches;
use crate::mount::Reads;
use crate::registry::state::State;
use crate::registry::tests::{key, root, sign};
use crate::registry::{Parts, Registry, now};
use crate::scratch;
use crate::site::Secrets;

const REGISTRY: &str = "demo/control";

/// A daemon without a mount, its socket, and the statement of hello 1.0.0.
struct Host {
    dir: tempfile::TempDir,
    content: Content,
    statement: Digest,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Writes a site with hello 1.0.0, and gives its statement.
fn publish(site: &Path) -> Digest {
    let of = |text: &str| Digest::of(text.as_bytes());
    let write = |path: String, bytes: &[u8]| {
        let path = site.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let release: Release = serde_json::from_value(json!({
        "registry": REGISTRY, "name": "hello", "version": "1.0.0",
        "maintainer": "team@example.com", "description": "Says hello.", "data_classification": "public",
        "reviewed_at": "2026-04-15", "reviewers": ["r@example.com"],
        "artefact": {"platform": "any", "url": "file:///x.tar", "sha256": of("artefact"), "size": 1,
                     "tree": {"sha256": of("tree"), "size": 9, "files": 1, "bytes": 1}},
        "launch": {"command": "bin/hello", "args": ["${TREE}"]},
        "issued": "2026-04-15T09:30:00Z",
    }))
    .unwrap();
    let subject = |name: &str, digest| Subject { name: name.to_owned(), digest };
    let statement = Statement {
        subject: vec![subject("artefact/any", of("artefact")), subject("tree/any", of("tree"))],
        predicate: release.clone(),
    };
    let envelope = sign(statement.encode(RELEASE_TYPE), &key(2));
    let digest = envelope.statement();
    let chunk = |plain_size| Chunk { sha256: of("s"), size: 20, plain_sha256: of("p"), plain_size };
    let layout = PlatformLayout {
        platform: "any".parse().unwrap(),
        tree: vec![chunk(9)],
        layout: StoredLayout { sha256: of("layout"), size: 4, chunks: vec![chunk(4)] },
        first: vec![],
    };
    let selected =
        Listed { release, envelope, status: Status::Active, reason: None, layout: vec![layout], details: None };
    let entry = Entry { selected, earlier: vec![] }.encode();
    write(mcpfs_trust::site::entry(&Digest::of(&entry)), &entry);
    let server = BinServer { name: "hello".parse().unwrap(), sha256: Digest::of(&entry), size: entry.len() as u64 };
    let bin = Bin::new(vec![server]).encode();
    write(mcpfs_trust::site::bin(&Digest::of(&bin)), &bin);
    let blob = Blob { sha256: Digest::of(&bin), size: bin.len() as u64 };
    let catalogue = Catalogue::new(REGISTRY.parse().unwrap(), vec![blob]).encode();
    write(mcpfs_trust::site::catalogue(&Digest::of(&catalogue)), &catalogue);
    let head = Head {
        registry: REGISTRY.parse().unwrap(),
        epoch: 1,
        version: 7,
        issued: now(),
        expires: now().plus(7 * 86_400),
        catalogue: CatalogueSize { size: catalogue.len() as u64 },
        previous: None,
    };
    let statement = Statement { subject: vec![subject("catalogue", Digest::of(&catalogue))], predicate: head };
    write("head.json".to_owned(), &sign(statement.encode(HEAD_TYPE), &key(1)).encode());
    digest
}

impl Host {
    async fn start(policy: &str) -> Self {
        let dir = scratch::in_memory();
        let statement = publish(&dir.path().join("site"));
        let at = dir.path().display();
        let file = dir.path().join("mcpfs.toml");
        std::fs::write(
            &file,
            format!("state = \"{at}/state\"\n[registry]\nurl = \"file://{at}/site\"\n[policy]\n{policy}\n"),
        )
        .unwrap();
        let config = Arc::new(Config::load(&file).unwrap());
        let audit =
            Audit::open(&AuditOptions { reserve_bytes: 0, ..AuditOptions::at(dir.path().join("audit.db")) }).unwrap();
        let (state, _) = State::open_with(&dir.path().join("state"), 0).unwrap();
        let trust = root(REGISTRY, (1, 1, 1), &key(1), &key(2));
        std::fs::write(&config.trust, trust.encode()).unwrap();
        let trust = daemon::trust(&config.trust, |_| Ok(None)).unwrap();
        let site = daemon::site(&config, &Handle::current(), &Secrets::Own).unwrap();
        let (events, _) = tokio::sync::mpsc::channel(1);
        let settings = ContentSettings::new(dir.path().join("cache"), dir.path().join("content"));
        let content = Content::open(settings, site.clone(), Handle::current(), events).unwrap();
        let parts = Parts { config, trust, site, content: content.clone(), audit: audit.clone(), state };
        let registry = Registry::open(parts).await.unwrap();
        registry.refresh_now().await.unwrap();
        let mount = MountFacts {
            at: PathBuf::from("/mcp"),
            named: PathBuf::from("/link"),
            reads: Reads::Cached,
            takeover: false,
        };
        let daemon = Daemon {
            registry,
            content: content.clone(),
            audit,
            launches: Launches::default(),
            mount,
            secrets: Secrets::Own,
            started: now(),
            runtime: Handle::current(),
            reloading: Arc::default(),
        };
        let listener = crate::control::listen(&dir.path().join("run")).unwrap();
        Self { serving: tokio::spawn(crate::control::serve(listener, daemon)), dir, content, statement }
    }

    async fn ask<T: serde::de::DeserializeOwned + Send + 'static>(&self, request: Request) -> Result<T, ClientError> {
        let rundir = self.dir.path().join("run");
        tokio::task::spawn_blocking(move || client::ask(&rundir, &request)).await.unwrap()
    }

    async fn launch(&self, identity: String, args: &[&str]) -> Result<Launch, String> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        match self.ask(Request::Launch { identity, args }).await {
            Ok(launch) => Ok(launch),
            Err(ClientError::Refused(refused)) => Err(format!("{refused} {}", refused.advice)),
            Err(other) => panic!("{other}"),
        }
    }

    /// (version, outcome, process number) of the launch rows, as they are on disk now.
    fn rows(&self) -> Vec<(Option<String>, String, Option<String>)> {
        let filter = Filter { event: Some(EventKind::Launch), ..Filter::default() };
        let rows = Reader::open(&self.dir.path().join("audit.db")).unwrap().rows(&filter).unwrap();
        let row = |row: &AccessRow| (row.text("version"), row.text("verification_outcome").unwrap(), row.text("pid"));
        rows.iter().map(row).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_is_recorded_before_it_is_answered() {
    let host = Host::start("sandbox = \"off\"\nallow_root = true").await;
    let launch = host.launch(format!("hello@1.0.0#{}", host.statement), &[]).await.unwrap();
    assert_eq!(launch.command, Path::new("/mcp/hello/1.0.0/tree/bin/hello"));
    assert_eq!(launch.tree, Path::new("/mcp/hello/1.0.0/tree"));
    assert_eq!(launch.state, ["demo+control", "hello"]);
    let me = Some(std::process::id().to_string());
    assert_eq!(host.rows(), [(Some("1.0.0".to_owned()), "ok".to_owned(), me)]);

    let refused = host.launch(format!("hello@1.0.0#{}", host.statement), &["--x"]).await.unwrap_err();
    assert!(refused.starts_with("PolicyRefused (") && refused.contains("--x"), "{refused}");
    let other = host.launch(format!("hello@1.0.0#{}", Digest::of(b"other")), &[]).await.unwrap_err();
    assert!(other.starts_with("PolicyRefused (") && other.contains("another statement"), "{other}");
    let gone = host.launch(format!("hello@2.0.0#{}", host.statement), &[]).await.unwrap_err();
    assert!(gone.starts_with("PinUnknown (") && gone.contains("current is 1.0.0"), "{gone}");
    let outcomes: Vec<String> = host.rows().into_iter().map(|(_, outcome, _)| outcome).collect();
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "ok").count(), 1, "{outcomes:?}");
    for code in ["PolicyRefused", "PinUnknown"] {
        assert!(outcomes.iter().any(|outcome| outcome == code), "{outcomes:?}");
    }

    let before = host.rows().len();
    assert!(host.launch("nobody@!".to_owned(), &[]).await.unwrap_err().starts_with("NotFound ("));
    assert!(host.launch("hello@!".to_owned(), &[]).await.unwrap_err().starts_with("Outdated ("));
    assert!(host.launch("hello".to_owned(), &[]).await.unwrap_err().starts_with("BadRequest ("));
    assert_eq!(host.rows().len(), before, "unknown names leave no row");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sandbox_nothing_starts_unasked() {
    let host = Host::start("allow_root = true\n[runtimes]\nbwrap = \"/nowhere/bwrap\"").await;
    let refused = host.launch(format!("hello@1.0.0#{}", host.statement), &[]).await.unwrap_err();
    assert!(refused.starts_with("LaunchUnsupported (") && refused.contains("needs bubblewrap"), "{refused}");
    assert_eq!(host.rows()[0].1, "LaunchUnsupported");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_ask() {
    let host = Host::start("sandbox = \"off\"\nallow_root = true").await;
    let status: facts::Status = host.ask(Request::Status {}).await.unwrap();
    assert_eq!((status.registry.as_str(), status.servers, status.refused_count), (REGISTRY, 1, 0));
    assert_eq!(status.head.map(|head| head.version), Some(7));
    assert_eq!((status.reads.as_str(), status.sandbox.as_str(), status.takeover), ("cached", "off", false));
    let usage = host.content.usage();
    assert_eq!((status.cache_bytes, status.cache_quota), (usage.cached, usage.quota));
    assert!(usage.quota > 0);

    let page: facts::Page = host.ask(Request::List { all: true, after: None }).await.unwrap();
    assert_eq!(page.servers.len(), 1);
    assert_eq!((page.servers[0].name.as_str(), page.servers[0].version.as_deref()), ("hello", Some("1.0.0")));
    assert_eq!(page.next, None);
    let rest: facts::Page = host.ask(Request::List { all: true, after: Some("hello".to_owned()) }).await.unwrap();
    assert!(rest.servers.is_empty());

    let target = Target::Path("/mcp/hello/1.0.0/tree/bin/hello".into());
    let explained: facts::Explained = host.ask(Request::Explain { target }).await.unwrap();
    assert_eq!((explained.version.as_deref(), explained.head_version), (Some("1.0.0"), Some(7)));
    assert_eq!(explained.release.as_ref().map(|release| release.statement), Some(host.statement));
    assert!(explained.refused.is_none() && !explained.stale);
    let unknown = host.ask::<facts::Explained>(Request::Explain { target: Target::Name("hello@9".to_owned()) }).await;
    let ClientError::Refused(unknown) = unknown.unwrap_err() else { panic!("it answered") };
    assert_eq!((unknown.code.as_str(), unknown.advice.as_str()), ("PinUnknown", "it has 1.0.0"));

    // Our own process becomes known as what it launched.
    let pid = Target::Pid(std::process::id());
    assert!(host.ask::<facts::Explained>(Request::Explain { target: pid.clone() }).await.is_err());
    host.launch(format!("hello@1.0.0#{}", host.statement), &[]).await.unwrap();
    let explained: facts::Explained = host.ask(Request::Explain { target: pid }).await.unwrap();
    assert_eq!(explained.process.map(|process| process.known_by).as_deref(), Some("launch"));
    assert_eq!(explained.name, "hello");

    let refreshed: facts::Refreshed = host.ask(Request::Refresh {}).await.unwrap();
    assert_eq!(refreshed, facts::Refreshed { head_version: Some(7), before: Some(7), error: None });
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_are_taken_at_once() {
    let host = Host::start("sandbox = \"off\"").await;
    let door = Door { rundir: host.dir.path().join("run"), config: host.dir.path().join("mcpfs.toml"), json: false };
    let file = host.dir.path().join("conf.d/90-pins.toml");
    let pin = |version: &str, dry_run| {
        let args = PinArgs {
            name: "hello".parse().unwrap(),
            pin: version.parse().unwrap(),
            reason: Some("until June".to_owned()),
            dry_run,
        };
        let door = door.clone();
        async move { tokio::task::spawn_blocking(move || pin::pin(&door, &args)).await.unwrap() }
    };
    let wrong = pin("1.0.0@sha256:0000000000000000000000000000000000000000000000000000000000000000", false).await;
    assert!(wrong.unwrap_err().to_string().starts_with("the artefact of hello 1.0.0 on this host is "));
    let unknown = pin("2.0.0", false).await.unwrap_err();
    assert!(unknown.to_string().contains("PinUnknown") && unknown.exit_code() == 1, "{unknown}");
    assert_eq!(pin("1.0.0", true).await.unwrap(), "would stay at 1.0.0\n");
    assert!(!file.exists(), "nothing was written so far");

    assert_eq!(pin("1.0.0", false).await.unwrap(), "hello stays at 1.0.0\n");
    assert!(std::fs::read_to_string(&file).unwrap().contains("# until June\nhello = \"1.0.0\"\n"));
    let asked = || host.ask::<facts::Explained>(Request::Explain { target: Target::Name("hello".to_owned()) });
    assert_eq!(asked().await.unwrap().pin.as_deref(), Some("1.0.0"));

    let unpinned = tokio::task::spawn_blocking(move || {
        let args = UnpinArgs { name: "hello".parse().unwrap(), dry_run: false };
        (pin::unpin(&door, &args), pin::unpin(&door, &args))
    });
    let (first, second) = unpinned.await.unwrap();
    assert_eq!(first.unwrap(), "hello follows the registry again, which selects 1.0.0 too\n");
    assert!(second.unwrap_err().to_string().ends_with("has no pin of hello"));
    assert_eq!(asked().await.unwrap().pin, None);
}
