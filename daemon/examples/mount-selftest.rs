//! Tries the mount room against the real kernel, with a file system of one file.
//!
//! Run it as root (mount(2)) and as an ordinary user (fusermount3):
//! `cargo run --example mount-selftest`. It exits with 1 at the first thing that is not as it
//! should be. The end-to-end suite covers the same through the real daemon.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

use anyhow::{Context, Result, bail, ensure};
use fuser::{
    FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, OpenFlags, Request,
};
use mcpfs::mount::{Backing, MountError, Mountpoint, Options, Reads, Session, Stopped, mounted_at};

const TEXT: &[u8] = b"hello from the mount\n";
const FOREVER: Duration = Duration::from_secs(1 << 30);

struct OneFile(Arc<Backing>);

fn attr(ino: u64) -> FileAttr {
    let file = ino != 1;
    FileAttr {
        ino: INodeNo(ino),
        size: if file { TEXT.len() as u64 } else { 0 },
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: if file { FileType::RegularFile } else { FileType::Directory },
        perm: if file { 0o444 } else { 0o555 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.0.negotiate(config);
        Ok(())
    }
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: fuser::ReplyEntry) {
        match name == "file" {
            true => reply.entry(&FOREVER, &attr(2), Generation(0)),
            false => reply.error(fuser::Errno::ENOENT),
        }
    }
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: fuser::ReplyAttr) {
        reply.attr(&FOREVER, &attr(ino.0));
    }
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: fuser::ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }
    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<fuser::LockOwner>,
        reply: fuser::ReplyData,
    ) {
        reply.data(TEXT.get(offset as usize..).unwrap_or(&[]));
    }
}

fn serve(at: &Path, cache: &Path) -> Result<Session, MountError> {
    let backing = Arc::new(Backing::new(false));
    let options = Options { cache: cache.to_owned(), threads: 2 };
    Session::start(Mountpoint::prepare(at)?, OneFile(Arc::clone(&backing)), &backing, &options)
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned())).init();
    let mut args = env::args_os().skip(1);
    if let (Some(at), Some(cache)) = (args.next(), args.next()) {
        // The child that is to be killed.
        let _session = serve(Path::new(&at), Path::new(&cache))?;
        println!("served");
        thread::sleep(Duration::from_secs(60));
        return Ok(());
    }

    let base = tempfile::tempdir()?;
    let at = base.path().join("mcp with space");
    let cache = base.path().join("cache");
    fs::create_dir(&at)?;
    fs::create_dir(&cache)?;
    let root = rustix::process::geteuid().is_root();

    let session = serve(&at, &cache)?;
    println!("reads: {}", session.reads());
    ensure!((session.reads() == Reads::Passthrough) == root, "only root gets passthrough (Linux 6.9, plain disk)");
    let entry = mounted_at(session.path())?.context("not in mountinfo")?;
    ensure!(entry.kind == "fuse.mcpfs" && entry.source == "mcpfs", "{entry:?}");
    ensure!(fs::read(at.join("file"))? == TEXT, "wrong content");
    ensure!(fs::write(at.join("new"), "x").is_err(), "it took a write");
    match serve(&at, &cache) {
        Err(error @ MountError::AlreadyServed(_)) => println!("second mount: {error}"),
        other => bail!("a second mount over a live one: {:?}", other.map(|_| ())),
    }
    ensure!(session.stop(Duration::from_secs(5))? == Stopped::Clean, "not clean");
    ensure!(mounted_at(&at)?.is_none(), "still mounted");
    println!("clean stop: ok");

    let session = serve(&at, &cache)?;
    let held = fs::File::open(at.join("file"))?;
    ensure!(session.stop(Duration::from_millis(200))? == Stopped::StillInUse, "somebody had it open");
    ensure!(mounted_at(&at)?.is_none(), "still mounted");
    let mut text = vec![];
    (&held).read_to_end(&mut text)?;
    ensure!(text == TEXT, "an open file went away");
    drop(held);
    println!("busy stop: ok");

    let mut child =
        Command::new(env::current_exe()?).arg(&at).arg(&cache).stdout(Stdio::piped()).process_group(0).spawn()?;
    let mut served = [0; 7];
    child.stdout.take().context("no stdout")?.read_exact(&mut served)?;
    child.kill()?;
    child.wait()?;
    ensure!(mounted_at(&at)?.is_some(), "a killed daemon unmounted");
    ensure!(fs::read(at.join("none")).is_err_and(|error| error.raw_os_error() == Some(107)), "expected ENOTCONN");
    let session = serve(&at, &cache)?;
    ensure!(fs::read(at.join("file"))? == TEXT, "wrong content after a stale mount");
    println!("stale mount cleared: ok");

    let notifier = session.notifier();
    notifier.inval_inode(INodeNo(2), 0, 0)?;
    let mut outside = Command::new(if root { "umount" } else { "fusermount3" });
    if !root {
        outside.arg("-u");
    }
    ensure!(outside.arg(&at).status()?.success(), "umount from outside");
    ensure!(session.stop(Duration::from_secs(5))? == Stopped::Clean, "unmounted from outside");
    println!("unmounted from outside: ok");
    Ok(())
}
