//! What a worker leaves to its successor, beside files of releases that are shown: files of releases that
//! are not any more, mappings, and what it knew of its registry. Root only.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};

use mcpfs_tests::audit;
use mcpfs_tests::faulty::{Fault, FaultyServer};
use mcpfs_tests::fixture;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::scratch::{is_root, need, wait_for};
use mcpfs_tests::suite::Suite;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.mounted("inherited::what_was_withdrawn_stays_open", what_was_withdrawn_stays_open);
    suite.mounted("inherited::a_mapping_goes_on", a_mapping_goes_on);
    suite.mounted("inherited::what_is_known_of_the_registry", what_is_known_of_the_registry);
    suite.mounted("inherited::a_tree_that_cannot_be_had_is_a_row", a_tree_that_cannot_be_had_is_a_row);
}

/// The kernel knows the name from before, so the successor is asked for nothing but the open.
fn a_tree_that_cannot_be_had_is_a_row(reads: Reads) {
    let quick = Quick::new();
    let recipe = quick.recipe("data", "1.0.0", &[("data", b"what is in it")]);
    quick.release(&recipe, &quick.site()).ok();
    let server = FaultyServer::healthy(&quick.path("site"));
    let host = Host::new(&quick.trust(), &server.url(), reads);
    let mount = Mount::start(&host);
    let file = host.at("data/1.0.0/tree/data");
    assert_eq!(std::fs::read(&file).unwrap(), b"what is in it");
    let tree = File::open(host.at("data/1.0.0/tree")).unwrap();
    let open = || {
        let opened = rustix::fs::openat(&tree, "data", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        opened.map(File::from).map_err(std::io::Error::from)
    };
    open().unwrap();
    server.turn(Some(Fault::Refuse));
    for file in host.cached_files() {
        std::fs::remove_file(file).unwrap();
    }
    mount.kill_worker();
    assert_eq!(errno(open()), libc::EHOSTUNREACH);
    let rows = host.mcpfs(["--json", "audit", "query", "--server", "data", "--outcome", "Unreachable"]).ok().stdout;
    assert!(rows.contains("data/1.0.0/tree"), "{rows}");
    server.turn(None);
    assert!(open().is_ok());
}

/// A release that somebody has open in three ways.
struct Held {
    name: &'static str,
    tree: File,
    data: File,
    statement: File,
    said: Vec<u8>,
}

impl Held {
    fn new(host: &Host, name: &'static str) -> Self {
        let at = |below: &str| File::open(host.at(&format!("{name}/1.0.0/{below}"))).unwrap();
        let (tree, data, mut statement) = (at("tree"), at("tree/data"), at("release.json"));
        let mut said = Vec::new();
        statement.read_to_end(&mut said).unwrap();
        Self { name, tree, data, statement, said }
    }

    fn open(&self, name: &str) -> std::io::Result<File> {
        let opened = rustix::fs::openat(&self.tree, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        opened.map(File::from).map_err(Into::into)
    }

    /// What is open reads on and is where it was, and a further open ends with `expected`.
    fn check(&self, content: &[u8], turn: usize, expected: Option<i32>) {
        // Nothing in the page cache may hide that somebody has to answer.
        std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        let name = self.name;
        for (file, bytes) in [(&self.data, content), (&self.statement, &self.said)] {
            let mut read = vec![0; bytes.len()];
            file.read_exact_at(&mut read, 0).unwrap_or_else(|error| panic!("{name}, turn {turn}: {error}"));
            assert!(read == bytes, "{name}, turn {turn}");
        }
        // A name that the kernel was never told before, and a directory that it never listed.
        let below = format!("turn-{turn}");
        let found = rustix::fs::statat(&self.tree, format!("{below}/file"), AtFlags::empty()).unwrap();
        assert_eq!(found.st_size, 4, "{name}, turn {turn}");
        let listed = self.open(&below).unwrap_or_else(|error| panic!("{name}, turn {turn}: {error}"));
        let names = Dir::read_from(&listed).unwrap().map(|entry| entry.unwrap().file_name().to_owned());
        assert!(names.into_iter().any(|entry| entry.as_c_str() == c"file"), "{name}, turn {turn}");
        for below in [format!("{below}/file"), "data".to_owned()] {
            match expected {
                Some(expected) => assert_eq!(errno(self.open(&below)), expected, "{name}, turn {turn}: {below}"),
                None => assert!(self.open(&below).is_ok(), "{name}, turn {turn}: {below}"),
            }
        }
    }
}

/// Revoked, yanked, hidden, not listed any more: who has it open notices nothing, whoever opens more is told.
fn what_was_withdrawn_stays_open(reads: Reads) {
    let quick = Quick::new();
    let content = fixture::bytes(3, 200_000);
    let names = ["revoked", "yanked", "hidden"];
    for name in names {
        let mut files: Vec<(&str, &[u8])> = vec![("data", &content)];
        files.extend(["turn-0/file", "turn-1/file", "turn-2/file"].map(|file| (file, &b"here"[..])));
        quick.release(&quick.recipe(name, "1.0.0", &files), &quick.site()).ok();
    }
    let server = FaultyServer::healthy(&quick.path("site"));
    let host = Host::new(&quick.trust(), &server.url(), reads);
    let mount = Mount::start(&host);
    let held = names.map(|name| Held::new(&host, name));
    let numbers =
        || held.each_ref().map(|one| [&one.tree, &one.data, &one.statement].map(|file| file.metadata().unwrap().ino()));
    let before = numbers();
    for word in ["revoke", "yank"] {
        let release = format!("{word}ed@1.0.0").replace("revokeed", "revoked");
        quick.publishing(word, &quick.site()).arg("--publish").args([release.as_str(), "--reason", "a test"]).ok();
    }
    host.refresh();
    host.drop_in("50-hide", "[policy]\nhide = [\"hidden\"]\n");
    mount.reload();
    wait_for("the reload", || (!host.at("hidden/1.0.0").exists()).then_some(()));
    for turn in 0..3 {
        if turn > 0 {
            mount.kill_worker();
        }
        for one in &held {
            let expected = if one.name == "yanked" { None } else { Some(libc::EACCES) };
            one.check(&content, turn, expected);
        }
        assert_eq!(numbers(), before);
        for name in names {
            assert_eq!(errno(host.at(&format!("{name}/1.0.0/tree/data")).symlink_metadata()), libc::EACCES, "{name}");
        }
    }
    audit::expect(&host, "Revoked", Some("revoked"));
    audit::expect(&host, "PolicyRefused", Some("hidden"));
    host.mcpfs(["audit", "verify"]).ok();
}

/// Maps a file, touches its first page, and all of it each time that it is told to.
const MAPPED: &str = "import hashlib, mmap, sys
with open(sys.argv[1], 'rb') as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print(mapped[0], flush=True)
for line in sys.stdin:
    print(hashlib.sha256(mapped).hexdigest(), flush=True)
";

/// A page that is not in memory is fetched from whoever serves then; no SIGBUS.
fn a_mapping_goes_on(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let source = world.source("files/large");
    let mut child = Command::new(need("python3", "python3"))
        .args(["-c", MAPPED])
        .arg(world.host.at("files/1.0.0/tree/large"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut tell, mut said) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut hear = || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(hear(), std::fs::read(&source).unwrap()[0].to_string());
    for _ in 0..2 {
        mount.kill_worker();
        std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        tell.write_all(b"again\n").unwrap();
        assert_eq!(hear(), fixture::sha256_of(&source));
    }
    drop(tell);
    assert!(child.wait().unwrap().success());
}

/// What it says first is what its predecessor knew, not that it knows nothing yet.
fn what_is_known_of_the_registry(reads: Reads) {
    let world = World::new(reads);
    let server = FaultyServer::healthy(&world.copy.path());
    world.host.configure(&server.url());
    let mount = Mount::start(&world.host);
    let lines = || -> Vec<String> {
        let log = mount.log();
        let said = log.lines().filter_map(|line| line.split_once(" mounted at ").map(|(_, rest)| rest.to_owned()));
        said.collect()
    };
    let status = || world.host.mcpfs(["status"]).ok().stdout;
    mount.kill_worker();
    let first = lines();
    assert!(!first.is_empty() && !first.iter().any(|line| line.contains("Unreachable")), "{first:?}");
    // A registry that is gone stays gone, in the same words.
    server.turn(Some(Fault::Refuse));
    world.host.refresh_fails("Unreachable");
    let (told, before) = (lines().len(), status());
    assert!(before.contains("failed: Unreachable"), "{before}");
    mount.kill_worker();
    let first = lines().swap_remove(told);
    assert!(first.contains("Unreachable") && !first.contains("not been asked"), "{first}");
    assert!(status().contains("failed: Unreachable"));
}
