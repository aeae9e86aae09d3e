//! The file system's decisions against a real registry, cache and audit that follow a real
//! site; only the kernel is missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::FileExt;
use std::path::Path;

use mcpfs_trust::catalogue::{Bin, BinServer, Blob, Catalogue};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, PlatformLayout, Status, StoredLayout};
use mcpfs_trust::error::Code;
use mcpfs_trust::head::{CatalogueSize, HEAD_TYPE, Head};
use mcpfs_trust::layout::{Extent, Layout};
use mcpfs_trust::release::{RELEASE_TYPE, Release};
use mcpfs_trust::statement::{Statement, Subject};
use mcpfs_trust::tree::TreeBuilder;
use mcpfs_trust::verify::SeenTrust;
use serde_json::json;

use super::ino::{Ino, ReleasePlace};
use super::*;
use crate::audit::query::{AccessRow, Filter, Reader};
use crate::audit::{Audit, AuditOptions};
use crate::config::Config;
use crate::content::{Content, ContentSettings};
use crate::errno::FsError;
use crate::launched::Launches;
use crate::registry::state::State;
use crate::registry::tests::{key, root, sign};
use crate::registry::{Parts, Registry, now};
use crate::scratch;

const REGISTRY: &str = "demo/fs";
const HELLO: &[u8] = b"#!/bin/sh\necho hello\n";

struct Host {
    dir: tempfile::TempDir,
    head: Digest,
    vfs: Vfs,
}

fn object(site: &Path, plain: &[u8]) -> Chunk {
    let stored = zstd::bulk::compress(plain, 3).unwrap();
    let sha256 = Digest::of(&stored);
    write(site, &mcpfs_trust::site::object(&sha256), &stored);
    Chunk { sha256, size: stored.len() as u32, plain_sha256: Digest::of(plain), plain_size: plain.len() as u32 }
}

fn write(site: &Path, path: &str, bytes: &[u8]) {
    let path = site.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Writes a head, a catalogue and one server's entry with release 1.0.0 of this status. Gives
/// the head's digest, which the next one must name.
fn publish(site: &Path, head: u64, previous: Option<Digest>, status: Status) -> Digest {
    let mut builder = TreeBuilder::new();
    builder.file("bin/hello", true, HELLO.len() as u64, Digest::of(HELLO)).unwrap();
    builder.file("empty", false, 0, Digest::EMPTY).unwrap();
    builder.link("start", "bin/hello").unwrap();
    let tree = builder.build().unwrap();
    let layout = Layout { chunks: vec![object(site, HELLO)], contents: vec![Extent { chunk: 0, offset: 0 }] };
    let (tree_bytes, layout_bytes) = (tree.encode(), layout.encode());
    let release: Release = serde_json::from_value(json!({
        "registry": REGISTRY, "name": "hello", "version": "1.0.0",
        "maintainer": "team@example.com", "description": "Says hello.", "data_classification": "public",
        "reviewed_at": "2026-04-15", "reviewers": ["r@example.com"],
        "artefact": {"platform": "any", "url": "file:///x.tar", "sha256": Digest::of(b"artefact"), "size": 1,
                     "tree": tree.summary()},
        "launch": {"command": "bin/hello"},
        "issued": "2026-04-15T09:30:00Z",
    }))
    .unwrap();
    let subject = |name: &str, digest| Subject { name: name.to_owned(), digest };
    let statement = Statement {
        subject: vec![subject("artefact/any", Digest::of(b"artefact")), subject("tree/any", Digest::of(&tree_bytes))],
        predicate: release.clone(),
    };
    let layout = PlatformLayout {
        platform: "any".parse().unwrap(),
        tree: vec![object(site, &tree_bytes)],
        layout: StoredLayout {
            sha256: Digest::of(&layout_bytes),
            size: layout_bytes.len() as u64,
            chunks: vec![object(site, &layout_bytes)],
        },
        first: vec![],
    };
    let envelope = sign(statement.encode(RELEASE_TYPE), &key(2));
    let reason = (status != Status::Active).then(|| "it leaks".to_owned());
    let entry = Entry {
        selected: Listed { release, envelope, status, reason, layout: vec![layout], details: None },
        earlier: vec![],
    };
    let entry = entry.encode();
    write(site, &mcpfs_trust::site::entry(&Digest::of(&entry)), &entry);
    let server = BinServer { name: "hello".parse().unwrap(), sha256: Digest::of(&entry), size: entry.len() as u64 };
    let bin = Bin::new(vec![server]).encode();
    write(site, &mcpfs_trust::site::bin(&Digest::of(&bin)), &bin);
    let blob = Blob { sha256: Digest::of(&bin), size: bin.len() as u64 };
    let catalogue = Catalogue::new(REGISTRY.parse().unwrap(), vec![blob]).encode();
    write(site, &mcpfs_trust::site::catalogue(&Digest::of(&catalogue)), &catalogue);
    let predicate = Head {
        registry: REGISTRY.parse().unwrap(),
        epoch: 1,
        version: head,
        issued: now(),
        expires: now().plus(7 * 86_400),
        catalogue: CatalogueSize { size: catalogue.len() as u64 },
        previous,
    };
    let statement = Statement { subject: vec![subject("catalogue", Digest::of(&catalogue))], predicate };
    let envelope = sign(statement.encode(HEAD_TYPE), &key(1));
    write(site, "head.json", &envelope.encode());
    envelope.statement()
}

fn me() -> Asker {
    Asker { pid: std::process::id(), uid: 0, gid: 0 }
}

impl Host {
    async fn start(policy: &str) -> Self {
        let dir = scratch::in_memory();
        let head = publish(&dir.path().join("site"), 7, None, Status::Active);
        let at = dir.path().display();
        let file = dir.path().join("mcpfs.toml");
        let text = format!("state = \"{at}/state\"\n[registry]\nurl = \"file://{at}/site\"\n[policy]\n{policy}\n");
        std::fs::write(&file, text).unwrap();
        let config = Arc::new(Config::load(&file).unwrap());
        let audit =
            Audit::open(&AuditOptions { reserve_bytes: 0, ..AuditOptions::at(dir.path().join("audit.db")) }).unwrap();
        let (state, _) = State::open_with(&dir.path().join("state"), 0).unwrap();
        let trust = root(REGISTRY, (1, 1, 1), &key(1), &key(2));
        let seen = SeenTrust { version: 1, epoch: 1, sha256: Digest::of(b"root") };
        let site = crate::daemon::site(&config, &Handle::current(), &crate::site::Secrets::Own).unwrap();
        let settings = ContentSettings::new(dir.path().join("cache"), dir.path().join("verified"));
        let events = tokio::sync::mpsc::channel(8).0;
        let content = Content::open(settings, site.clone(), Handle::current(), events).unwrap();
        let parts = Parts { config, trust: (trust, seen), site, content: content.clone(), audit: audit.clone(), state };
        let registry = Registry::open(parts).await.unwrap();
        registry.refresh_now().await.unwrap();
        Self { dir, head, vfs: Vfs::new(registry, content, audit, Launches::default(), "/run/mcpfs".into()) }
    }

    /// What a path leads to, as the kernel would walk it.
    async fn walk(&self, path: &str) -> Result<Attr, FsError> {
        let mut at = Attr::directory(Ino::ROOT);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = match self.vfs.lookup(at.ino, name.as_bytes(), me()).await? {
                Found::Here(attr, _) => attr,
                Found::Nothing(_) => return Err(FsError::NoSuchName),
            };
            assert_eq!(self.vfs.attributes(at.ino).await, Ok(at), "stat says what lookup said: {path}");
        }
        Ok(at)
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let ino = self.walk(path).await.unwrap().ino;
        let mut names = vec![];
        let (listing, _) = self.vfs.listing(ino).await.unwrap();
        listing.from(0, |_, name, _, _| {
            names.push(name.to_owned());
            false
        });
        names
    }

    async fn read(&self, path: &str, asker: Asker) -> Result<Vec<u8>, FsError> {
        let attr = self.walk(path).await?;
        Ok(match self.vfs.open(attr.ino, asker).await? {
            Opened::Text(text) => {
                assert_eq!(text.len() as u64, attr.size);
                text.to_vec()
            }
            Opened::File(file, _) => {
                let mut bytes = vec![0; attr.size as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            }
        })
    }

    /// (event, outcome, path) of the rows that this file system wrote.
    fn rows(&self) -> Vec<(String, String, String)> {
        let rows = Reader::open(&self.dir.path().join("audit.db")).unwrap().rows(&Filter::default()).unwrap();
        let row = |row: &AccessRow| {
            Some((row.text("event")?, row.text("verification_outcome")?, row.text("path")?))
                .filter(|(event, ..)| ["access", "fetch", "refusal"].contains(&event.as_str()))
        };
        rows.iter().filter_map(row).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_where() {
    let host = Host::start("").await;
    assert_eq!(host.names("").await, ["hello"]);
    assert_eq!(host.names("hello").await, ["run", "1.0.0"]);
    assert_eq!(host.names("hello/1.0.0").await, ["run", "release.json", "tree"]);
    assert_eq!(host.names("hello/1.0.0/tree").await, ["bin", "empty", "start"]);
    assert_eq!(host.walk("hello/run").await.unwrap().ino, host.walk("hello/1.0.0/run").await.unwrap().ino);
    let hello = host.walk("hello/1.0.0/tree/bin/hello").await.unwrap();
    assert_eq!((hello.kind, hello.mode, hello.size), (FileKind::File, 0o555, HELLO.len() as u64));
    let link = host.walk("hello/1.0.0/tree/start").await.unwrap();
    assert_eq!((link.kind, host.vfs.link_target(link.ino).await), (FileKind::Link, Ok("bin/hello".to_owned())));
    for nothing in
        ["none", "NOT-A-NAME", "node_modules", "hello/2.0.0", "hello/x", "hello/1.0.0/x", "hello/1.0.0/tree/x"]
    {
        assert_eq!(host.walk(nothing).await, Err(FsError::NoSuchName), "{nothing}");
    }
    assert_eq!(host.walk("hello/run/x").await, Err(FsError::NotADirectory));
    assert_eq!(host.walk("hello/1.0.0/tree/empty/x").await, Err(FsError::NotADirectory));
    assert_eq!(host.walk(&"n".repeat(256)).await, Err(FsError::NameTooLong));
    assert_eq!(host.vfs.attributes(Ino::release(4242, ReleasePlace::Run)).await, Err(FsError::NoSuchName));
    assert_eq!(host.vfs.link_target(hello.ino).await, Err(FsError::WrongKind));
    assert!(host.rows().is_empty(), "looking around leaves no row: {:?}", host.rows());

    let parent = host.vfs.parent(hello.ino).await.unwrap();
    assert_eq!(parent, host.walk("hello/1.0.0/tree/bin").await.unwrap().ino);
    let version = host.walk("hello/1.0.0").await.unwrap().ino;
    assert_eq!(host.vfs.parent(version).await.unwrap(), host.walk("hello").await.unwrap().ino);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_on_where_it_stopped() {
    let host = Host::start("").await;
    let tree = host.walk("hello/1.0.0/tree").await.unwrap().ino;
    let (listing, _) = host.vfs.listing(tree).await.unwrap();
    let (mut names, mut offset) = (vec![], 0);
    loop {
        let before = offset;
        // Room for one entry: the second does not fit.
        let mut room = 1;
        listing.from(before, |next, name, _, _| {
            if room == 0 {
                return true;
            }
            room -= 1;
            names.push(name.to_owned());
            offset = next;
            false
        });
        if offset == before {
            break;
        }
    }
    assert_eq!(names, ["bin", "empty", "start"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_open_is_fetched_and_recorded_and_later_ones_are_not() {
    let host = Host::start("").await;
    let path = "hello/1.0.0/tree/bin/hello";
    assert_eq!(host.read(path, me()).await.unwrap(), HELLO);
    let row = |event: &str| (event.to_owned(), "ok".to_owned(), path.to_owned());
    assert_eq!(host.rows(), [row("fetch"), row("access")]);
    assert_eq!(host.read(path, me()).await.unwrap(), HELLO);
    assert_eq!(host.read("hello/1.0.0/tree/empty", me()).await.unwrap(), b"");
    assert!(host.read("hello/1.0.0/release.json", me()).await.unwrap().starts_with(b"{"));
    assert_eq!(host.rows().len(), 2, "one row per process and release");

    let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let asker = Asker { pid: other.id(), ..me() };
    assert_eq!(host.read(path, asker).await.unwrap(), HELLO);
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(host.rows()[2..], [row("access")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_names_the_release_and_is_no_access() {
    let host = Host::start("").await;
    let line = String::from_utf8(host.read("hello/run", me()).await.unwrap()).unwrap();
    assert!(line.starts_with("#!/run/mcpfs/launch hello@1.0.0#") && line.ends_with('\n'), "{line}");
    assert!(host.rows().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_counts_at_the_next_open() {
    let host = Host::start("").await;
    let path = "hello/1.0.0/tree/bin/hello";
    let ino = host.walk(path).await.unwrap().ino;
    assert_eq!(host.read(path, me()).await.unwrap(), HELLO);
    publish(&host.dir.path().join("site"), 8, Some(host.head), Status::Revoked);
    host.vfs.registry.refresh_now().await.unwrap();

    // The kernel still knows the inode.
    let Err(FsError::Refused(refusal)) = host.vfs.open(ino, me()).await else { panic!("it opened") };
    assert_eq!(refusal.code, Code::Revoked);
    assert!(host.rows().contains(&("refusal".to_owned(), "Revoked".to_owned(), path.to_owned())), "{:?}", host.rows());

    // The name is no longer listed, but resolves to a run that says why, and to nothing else.
    assert!(host.names("").await.is_empty());
    assert_eq!(host.names("hello").await, ["run"]);
    assert_eq!(host.read("hello/run", me()).await.unwrap(), b"#!/run/mcpfs/launch hello@!\n");
    for other in ["hello/1.0.0", "hello/2.0.0", "hello/x"] {
        let error = host.walk(other).await.unwrap_err();
        assert_eq!(error.answer().symbol, "EACCES", "{other}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_never_causes_a_fetch() {
    let program = access::program(std::process::id()).unwrap();
    let host = Host::start(&format!("scanners = [{program:?}]")).await;
    let error = host.read("hello/1.0.0/tree/bin/hello", me()).await.unwrap_err();
    assert_eq!(error, FsError::ScannerWouldFetch { scanner: program });
    assert!(host.rows().is_empty());
    // Somebody else brings it, and then the scanner may read it.
    let nobody = Asker { pid: 0, uid: 1, gid: 1 };
    assert_eq!(host.read("hello/1.0.0/tree/bin/hello", nobody).await.unwrap(), HELLO);
    assert_eq!(host.read("hello/1.0.0/tree/bin/hello", me()).await.unwrap(), HELLO);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_nowhere_is_an_io_error_with_a_row() {
    let host = Host::start("").await;
    let path = "hello/1.0.0/tree/bin/hello";
    let ino = host.walk(path).await.unwrap().ino;
    let chunk = zstd::bulk::compress(HELLO, 3).unwrap();
    write(&host.dir.path().join("site"), &mcpfs_trust::site::object(&Digest::of(&chunk)), b"something else");
    let error = host.vfs.open(ino, me()).await.unwrap_err();
    assert_eq!(error.answer().symbol, "EIO", "{error:?}");
    assert!(
        host.rows().contains(&("fetch".to_owned(), "DigestMismatch".to_owned(), path.to_owned())),
        "{:?}",
        host.rows()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_name_the_statement() {
    let host = Host::start("").await;
    let value = |all: &[(String, String)], name: &str| {
        all.iter().find(|(known, _)| known == &format!("user.mcpfs.{name}")).map(|(_, value)| value.clone())
    };
    let file = host.walk("hello/1.0.0/tree/bin/hello").await.unwrap().ino;
    let of_file = host.vfs.extended(file).await.unwrap();
    assert_eq!(value(&of_file, "sha256"), Some(Digest::of(HELLO).to_string()));
    assert_eq!(value(&of_file, "head"), Some("7".to_owned()));
    let of_name = host.vfs.extended(host.walk("hello").await.unwrap().ino).await.unwrap();
    assert_eq!(value(&of_name, "version"), Some("1.0.0".to_owned()));
    assert_eq!(value(&of_name, "sha256"), Some(Digest::of(b"artefact").to_string()));
    assert_eq!(value(&of_name, "statement"), value(&of_file, "statement"));
    assert!(host.vfs.extended(Ino::ROOT).await.unwrap().is_empty());
}
