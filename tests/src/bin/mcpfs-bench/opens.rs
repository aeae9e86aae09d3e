//! What one open costs, against a FUSE file system that does nothing: what is above that is ours, what is below it
//! the kernel's, and the sleep of the processor that has to answer.

use std::ffi::OsStr;
use std::fs::File;
use std::hint::spin_loop;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use mcpfs_tests::bench::{Figure, Pair, interleave};
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::{self, Mount};
use mcpfs_tests::scratch::{self, wait_for};
use mcpfs_tests::site::Site;

use super::mounted::Bench;

/// The argument with which this program is the file system that does nothing.
pub(super) const NOTHING: &str = "nothing-at";
/// As many threads as the daemon has for requests.
const THREADS: usize = 3;
const ROUNDS: usize = 15;
/// Opens of a round, one after the other, and with other work in between.
const MANY: u32 = 1000;
const SOME: u32 = 200;
/// About what Node does between two opens of a start.
const BETWEEN: Duration = Duration::from_micros(300);

const FOREVER: Duration = Duration::from_secs(1 << 30);
const FILE: INodeNo = INodeNo(2);

/// One file below a root.
struct Nothing;

fn attributes(ino: INodeNo) -> FileAttr {
    let is_file = ino == FILE;
    let time = UNIX_EPOCH;
    FileAttr {
        ino,
        size: 1,
        blocks: 1,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if is_file { FileType::RegularFile } else { FileType::Directory },
        perm: if is_file { 0o444 } else { 0o555 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Nothing {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == "file" {
            true => reply.entry(&FOREVER, &attributes(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

/// Serves it until it is unmounted.
pub(super) fn serve_nothing(at: &OsStr) {
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.mount_options = vec![MountOption::RO, MountOption::DefaultPermissions];
    fuser::mount(Nothing, Path::new(at), &config).expect("root");
}

/// It, in a process of its own.
struct Served {
    at: tempfile::TempDir,
    child: Child,
}

impl Served {
    fn start() -> Self {
        let at = scratch::dir();
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program).arg(NOTHING).arg(at.path()).spawn().expect("this program");
        wait_for("a file system that does nothing", || mount::is_mounted(at.path()).then_some(()));
        Self { at, child }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        mount::unmount(self.at.path());
        self.child.wait().expect("it ends with its mount");
    }
}

fn work(time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        spin_loop();
    }
}

/// An open and its close, one of `count`, each after `between` of other work.
fn one(path: &Path, count: u32, between: Duration) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..count {
        work(between);
        let started = Instant::now();
        drop(File::open(path).expect("readable"));
        took += started.elapsed();
    }
    took / count
}

/// Opens of one file of the mount, against one of nothing and one of the disk.
pub(super) fn opens(bench: &Bench) -> Vec<Figure> {
    let site = Site::serve(&bench.site());
    let nothing = Served::start();
    let nothing = nothing.at.path().join("file");
    let plain = scratch::dir();
    let plain = plain.path().join("file");
    std::fs::write(&plain, "x").expect("own directory");
    let mut figures = Vec::new();
    for (word, reads) in [("passthrough", Reads::Passthrough), ("cached", Reads::Cached)] {
        let host = bench.host_reading(&site.url(), reads);
        let mount = Mount::start(&host);
        let ours = host.at("idle/1.0.0/tree/bin/VERSION");
        let pair = |count, between| -> Pair {
            let look = |path: &Path| one(path, count, between);
            interleave(ROUNDS, || look(&ours), || look(&nothing))
        };
        let micros = |time: Duration| format!("{:.1} us", time.as_secs_f64() * 1e6);
        let peer = "a FUSE file system that does nothing";
        let name = |how: &str| format!("open and close, reads {word}, {how}");
        figures.push(pair(MANY, Duration::ZERO).figure(&name("one after the other"), peer, micros, "-"));
        let apart = name(&format!("after {} us of other work", BETWEEN.as_micros()));
        figures.push(pair(SOME, BETWEEN).figure(&apart, peer, micros, "-"));
        mount.stop();
    }
    let disk = interleave(ROUNDS, || one(&plain, MANY, Duration::ZERO), || one(&nothing, MANY, Duration::ZERO));
    let micros = |time: Duration| format!("{:.1} us", time.as_secs_f64() * 1e6);
    figures.push(disk.figure("the same of a file on ext4", "a FUSE file system that does nothing", micros, "-"));
    figures
}
