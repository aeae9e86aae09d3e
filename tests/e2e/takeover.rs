//! A worker that dies is replaced, and nobody notices. Root only: an ordinary user's daemon is one process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::registry::files_below;
use mcpfs_tests::scratch::{Until, is_root, wait_for};
use mcpfs_tests::suite::{Attack, Suite};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::boundary::WORKER;
use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.root_mounted_attack(
        Attack::new(
            WORKER,
            "takeover::killed_workers_are_not_noticed",
            "workers killed one after another, under load",
            &["nobody notices"],
        ),
        killed_workers_are_not_noticed,
    );
    if is_root() {
        suite.mounted("takeover::what_is_open_stays_open", what_is_open_stays_open);
        suite.mounted("takeover::many_takeovers_leave_nothing", many_takeovers_leave_nothing);
    }
    suite.root_mounted_attack(
        Attack::new(
            WORKER,
            "takeover::a_stopped_worker_is_replaced",
            "a worker that stands still",
            &["another serves"],
        ),
        a_stopped_worker_is_replaced,
    );
    suite.root_mounted_attack(
        Attack::new(
            WORKER,
            "takeover::without_a_worker_nobody_waits_for_ever",
            "every worker ends before it serves: nobody waits for ever",
            &["the mount ends"],
        ),
        without_a_worker_nobody_waits_for_ever,
    );
    suite.root_attack(
        Attack::new(
            WORKER,
            "takeover::a_worker_has_no_rights",
            "the rights of a worker, all its threads, and the connections of its supervisor",
            &["none"],
        ),
        a_worker_has_no_rights,
    );
    suite.root_attack(
        Attack::new(WORKER, "takeover::a_worker_is_not_started_by_hand", "a worker started by hand", &["exit 2"]),
        a_worker_is_not_started_by_hand,
    );
}

/// Workers killed under load. `make bench` has the stalls, and more of them.
const KILLS: usize = 12;

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Opens, reads and compares files of a tree until it is told to stop; how many.
pub(crate) fn compare(tree: &Path, source: &Path, files: &[String], over: &AtomicBool, seed: usize) -> u64 {
    let mut done = 0;
    for turn in seed.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let file = &files[(turn * 7919) % files.len()];
        let path = tree.join(file);
        let read = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(read == std::fs::read(source.join(file)).unwrap(), "{} has other bytes", path.display());
        let parent = path.parent().unwrap();
        assert!(std::fs::read_dir(parent).unwrap().any(|entry| entry.unwrap().path() == path));
        assert_eq!(path.symlink_metadata().unwrap().len(), read.len() as u64);
        let missing = path.with_file_name("no-such-file").metadata().unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
        done += 1;
    }
    done
}

fn killed_workers_are_not_noticed(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let (tree, source) = (world.host.at("hello/1.1.0/tree"), world.source("hello-1.1.0"));
    let files = files_below(&source);
    let mut session = McpClient::start(&world.run("hello"));
    session.initialize();
    let (over, launched) = (AtomicBool::new(false), AtomicU64::new(0));
    let compared: u64 = std::thread::scope(|scope| {
        let until = Until(&over);
        let readers: Vec<_> = (0..3)
            .map(|seed| {
                scope.spawn({
                    let (tree, source, files, over) = (&tree, &source, &files, &over);
                    move || compare(tree, source, files, over, seed)
                })
            })
            .collect();
        let launcher = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
                launched.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..KILLS {
            mount.kill_worker();
            assert_eq!(session.call("echo", &json!({"message": "still here"})), "still here");
        }
        drop(until);
        launcher.join().unwrap();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(compared > 0 && launched.into_inner() > 0);
    assert!(mount.log().matches("the worker died").count() >= KILLS, "{}", mount.log());
    world.host.mcpfs(["status"]).ok().says("takeover");
    world.host.mcpfs(["audit", "verify"]).ok();
    mcpfs_tests::proof::note("nobody notices");
}

fn what_is_open_stays_open(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let (tree, source) = (world.host.at("hello/1.1.0/tree"), world.source("hello-1.1.0"));
    let mut files = files_below(&source);
    files.sort();
    let mut open: Vec<(File, Vec<u8>)> = files
        .iter()
        .map(|file| (File::open(tree.join(file)).unwrap(), std::fs::read(source.join(file)).unwrap()))
        .collect();
    let mut text = File::open(world.host.at("hello/1.1.0/release.json")).unwrap();
    let mut said = String::new();
    text.read_to_string(&mut said).unwrap();
    let mut listing = std::fs::read_dir(world.host.mcp()).unwrap();
    let first = listing.next().unwrap().unwrap().file_name();
    for _ in 0..2 {
        mount.kill_worker();
        // Nothing in the page cache may hide that somebody has to answer.
        std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        for (file, content) in &mut open {
            let mut read = vec![0; content.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            assert!(read == *content);
        }
        let mut again = String::new();
        text.seek(SeekFrom::Start(0)).unwrap();
        text.read_to_string(&mut again).unwrap();
        assert_eq!(again, said);
        // The same inode, opened again while it is open: the kernel insists on one backing id.
        for file in &files {
            assert!(std::fs::read(tree.join(file)).unwrap() == std::fs::read(source.join(file)).unwrap());
        }
    }
    let rest: Vec<_> = listing.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!rest.contains(&first) && !rest.is_empty(), "a listing goes on where it was: {first:?} {rest:?}");
    drop((open, text));
    for file in &files {
        assert!(std::fs::read(tree.join(file)).unwrap() == std::fs::read(source.join(file)).unwrap());
    }
}

/// It is alive, and says nothing: that counts as dead.
fn a_stopped_worker_is_replaced(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let stopped = mount.server();
    kill(stopped, Signal::STOP);
    let version = &McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"];
    assert_eq!(version, "1.1.0");
    assert_ne!(mount.server(), stopped);
    // Nobody serves beside another: it was not only passed over.
    assert!(!Path::new(&format!("/proc/{stopped}")).exists());
    assert!(mount.log().contains("has said nothing"), "{}", mount.log());
    mcpfs_tests::proof::note("another serves");
}

fn without_a_worker_nobody_waits_for_ever(reads: Reads) {
    let world = World::new(reads);
    let mut mount = Mount::start(&world.host);
    // What is open and mapped in passthrough goes on; the rest gets an error, and in time.
    let mut session = McpClient::start(&world.run("hello"));
    session.initialize();
    // Nothing that a worker could open, and no right to make it.
    std::fs::rename(world.host.path("state"), world.host.path("state-gone")).unwrap();
    kill(mount.server(), Signal::KILL);
    let error = wait_for("an error", || std::fs::read(world.host.at("hello/1.0.0/tree/package.json")).err());
    assert!(error.kind() != std::io::ErrorKind::NotFound || !is_mounted(&world.host.mcp()), "{error}");
    assert_eq!(mount.ended(), Some(1));
    assert!(!is_mounted(&world.host.mcp()), "{}", mount.log());
    assert!(mount.log().contains("no worker serves"), "{}", mount.log());
    if reads == Reads::Passthrough {
        assert_eq!(session.call("echo", &json!({"message": "still here"})), "still here");
    }
    mcpfs_tests::proof::note("the mount ends");
}

/// What a process holds, seen from outside.
#[derive(Debug, PartialEq)]
struct Held {
    /// What it has open, without the numbers of sockets and pipes.
    descriptors: Vec<String>,
    threads: usize,
    children: usize,
}

impl Held {
    fn by(pid: u32) -> Self {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let open = open.filter_map(|entry| entry.unwrap().path().read_link().ok());
        let kind = |path: std::path::PathBuf| {
            let name = path.to_string_lossy().into_owned();
            name.split_once(":[").map_or(name.clone(), |(kind, _)| kind.to_owned())
        };
        let mut descriptors: Vec<String> = open.map(kind).collect();
        descriptors.sort();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        Self { descriptors, threads: count("task"), children: children.split_whitespace().count() }
    }
}

/// Memory of a process's own, KiB.
fn anonymous(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Descriptors, threads, processes and memory of the supervisor after each of 50 takeovers are what they were.
fn many_takeovers_leave_nothing(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let (tree, source) = (world.host.at("hello/1.1.0/tree"), world.source("hello-1.1.0"));
    let files = files_below(&source);
    let held = File::open(tree.join("bin/VERSION")).unwrap();
    let turn = || {
        mount.kill_worker();
        for file in &files {
            assert!(std::fs::read(tree.join(file)).unwrap() == std::fs::read(source.join(file)).unwrap(), "{file}");
        }
        mount.standby();
    };
    // What is made once, and what an allocator keeps, is there after a few.
    (0..5).for_each(|_| turn());
    let (before, memory) = (Held::by(mount.pid()), anonymous(mount.pid()));
    assert_eq!(before.children, 2, "{before:?}");
    for number in 0..50 {
        turn();
        // A worker's death and the next one's start are not one moment.
        wait_for(&format!("what takeover {number} has left"), || (Held::by(mount.pid()) == before).then_some(()));
    }
    let after = anonymous(mount.pid());
    assert!(after <= memory + 512, "{memory} KiB before, {after} KiB after");
    let open = || world.host.mcpfs(["--json", "status"]).ok().json()["open_handles"].as_u64().unwrap();
    // Of which its worker knows by its predecessors alone.
    wait_for("the end of all handles but one", || (open() == 1).then_some(()));
    drop(held);
    wait_for("the end of all handles", || (open() == 0).then_some(()));
}

fn a_worker_has_no_rights() {
    let world = World::new(Reads::Passthrough);
    let mount = Mount::start(&world.host);
    let status = std::fs::read_to_string(format!("/proc/{}/status", mount.server())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {status}")).split_whitespace().collect::<Vec<_>>()
    };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let user: Vec<&str> =
        passwd.lines().find(|line| line.starts_with("mcpfs:")).expect("tests/setup").split(':').collect();
    assert_eq!(field("Uid:"), [user[2]; 4]);
    assert_eq!(field("Gid:"), [user[3]; 4]);
    assert_eq!(field("Groups:"), [user[3]]);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(field("Seccomp:"), ["2"]);
    // Every thread of it, not only the first.
    for task in std::fs::read_dir(format!("/proc/{}/task", mount.server())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2") && status.contains("CapEff:\t0000000000000000"), "{status}");
    }
    // And the supervisor has no connection but to its worker.
    let sockets = std::fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap();
    let inet = ["tcp", "tcp6", "udp", "udp6"]
        .map(|table| std::fs::read_to_string(format!("/proc/{}/net/{table}", mount.pid())).unwrap_or_default());
    for socket in sockets.filter_map(|fd| fd.unwrap().path().read_link().ok()) {
        let name = socket.to_string_lossy().into_owned();
        if let Some(inode) = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            let used = inet.iter().any(|table| table.split_whitespace().any(|word| word == inode));
            assert!(!used, "the supervisor has a network socket");
        }
    }
    mcpfs_tests::proof::note("none");
}

fn a_worker_is_not_started_by_hand() {
    let world = World::new(Reads::Passthrough);
    let ran = world.host.mcpfs(["mount", "--foreground", "--worker"]).exits(2);
    ran.says("a worker is started by `mcpfs mount`");
}
