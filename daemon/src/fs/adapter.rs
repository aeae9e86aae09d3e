//! FUSE requests in, FUSE replies out. Translation and nothing else.
//!
//! Every handler runs through `Mounted::answer`, which polls its future once here and, if it
//! has to wait, moves it with the reply into a task. It catches panics at both places, so that
//! none can end a thread that serves the mount, sees to it that every request gets a reply,
//! and bounds how long that may take: a process that waits for an open cannot be killed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BackingId, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, OpenAccMode, OpenFlags, Request,
};
use tokio::runtime::Handle as Runtime;
use tracing::Instrument;

use super::handle::{Backings, Handle, Handles};
use super::ino::Ino;
use super::node::{Asker, Attr, FileKind, Found, Lifetime};
use super::open::Opened;
use super::vfs::{Listing, Vfs};
use crate::errno::{FsError, report};
use crate::mount::{Backing, Reads};

/// How long the kernel keeps what cannot change: about 34 years.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// How long it keeps what can, if no invalidation comes first.
const BRIEFLY: Duration = Duration::from_secs(2);

/// The last deadline of any request. The rooms behind have shorter ones of their own, and say
/// better what was slow; this one holds whatever they do.
const DEADLINE: Duration = Duration::from_secs(120);

/// The time of everything, counted from 1970: the second day of 1980. The same everywhere and for
/// ever, and not before what a zip archive can hold.
const AGE: Duration = Duration::from_secs(315_619_200);

/// Preferred size of a read, bytes.
const BLOCK: u32 = 4096;

/// The file system as fuser serves it.
#[derive(Debug)]
pub struct Mounted(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    vfs: Arc<Vfs>,
    runtime: Runtime,
    backing: Arc<Backing>,
    handles: Handles,
    backings: Backings<BackingId>,
}

impl Mounted {
    /// Serves `vfs`; what has to wait does so on `runtime`. `backing` is the mount's door to
    /// passthrough.
    pub fn new(vfs: Arc<Vfs>, runtime: Runtime, backing: Arc<Backing>) -> Self {
        let (handles, backings) = (Handles::default(), Backings::default());
        let inner = Arc::new(Inner { vfs, runtime, backing, handles, backings });
        let idle = Arc::downgrade(&inner);
        inner.vfs.content.when_scarce(move || {
            if let Some(inner) = idle.upgrade() {
                inner.backings.drop_idle();
            }
        });
        Self(inner)
    }

    /// Answers one request: now, if `work` is ready at its first poll, or from a task.
    fn answer<T, R>(
        &self,
        operation: &'static str,
        reply: R,
        work: impl Future<Output = Result<T, FsError>> + Send + 'static,
        send: impl FnOnce(&Inner, R, Result<T, Errno>) + Send + 'static,
    ) where
        T: Send + 'static,
        R: Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let finish = move |reply, outcome: Result<T, FsError>| {
            let outcome = outcome.map_err(|error| report(operation, &error));
            // A panic drops the reply, and fuser answers a dropped reply with an error.
            if catch_unwind(AssertUnwindSafe(|| send(&inner, reply, outcome))).is_err() {
                tracing::error!(operation, "panicked while replying");
            }
        };
        let mut work: Pin<Box<dyn Future<Output = Result<T, FsError>> + Send>> = Box::pin(work);
        let entered = self.0.runtime.enter();
        let first = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        drop(entered);
        match first {
            Ok(Poll::Ready(outcome)) => finish(reply, outcome),
            Err(_) => finish(reply, Err(FsError::Internal(format!("{operation} panicked")))),
            // The task polls anew before it sleeps, so nothing that woke nobody is missed.
            Ok(Poll::Pending) => {
                let runtime = self.0.runtime.clone();
                let span = tracing::debug_span!("fuse", operation);
                self.0.runtime.spawn(
                    async move {
                        let mut task = runtime.spawn(work.in_current_span());
                        let outcome = match tokio::time::timeout(DEADLINE, &mut task).await {
                            Ok(Ok(outcome)) => outcome,
                            Ok(Err(_)) => Err(FsError::Internal(format!("{operation} panicked"))),
                            Err(_) => {
                                task.abort();
                                Err(FsError::Deadline { what: operation, seconds: DEADLINE.as_secs() })
                            }
                        };
                        finish(reply, outcome);
                    }
                    .instrument(span),
                );
            }
        }
    }
}

impl Inner {
    fn opened(&self, reply: fuser::ReplyOpen, ino: Ino, opened: Opened) {
        // Flush says nothing to us, and would cost a round trip at every close.
        let cached = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        match opened {
            Opened::Text(text) => reply.opened(FileHandle(self.handles.insert(Handle::Text(text))), cached),
            Opened::File(file) => match self.backing.reads() {
                Reads::Cached => reply.opened(FileHandle(self.handles.insert(Handle::Cached(file))), cached),
                Reads::Passthrough => match self.back(ino, &reply, &file) {
                    // KEEP_CACHE must not go with it: the kernel would fail the open.
                    Ok(id) => {
                        let handle = FileHandle(self.handles.insert(Handle::Backed(ino)));
                        reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &id);
                    }
                    // Not read through us instead: an inode must never have two ways of reading.
                    Err(error) => {
                        let error = FsError::Internal(format!("the kernel refused a backing file: {error}"));
                        reply.error(report("open", &error));
                    }
                },
            },
        }
    }

    fn back(&self, ino: Ino, reply: &fuser::ReplyOpen, file: &std::fs::File) -> std::io::Result<Arc<BackingId>> {
        let found = file.metadata()?;
        self.backings.open(ino, (found.dev(), found.ino()), || self.backing.open(reply, file))
    }

    fn close(&self, handle: FileHandle) {
        if let Some(handle) = self.handles.remove(handle.0)
            && let Handle::Backed(ino) = *handle
        {
            self.backings.close(ino);
        }
    }

    /// The listing that a directory's handle stands for: the one taken when it was opened, so
    /// that entries neither double nor vanish under a reader, or the unchangeable one.
    async fn listing(self: Arc<Self>, ino: Ino, handle: FileHandle) -> Result<(Listing, Ino), FsError> {
        let parent = self.vfs.parent(ino).await?;
        match self.handles.get(handle.0).as_deref() {
            Some(Handle::Listing(items)) => Ok((Listing::Items(Arc::clone(items)), parent)),
            Some(Handle::Text(_) | Handle::Cached(_) | Handle::Backed(_)) => Err(FsError::BadHandle),
            None => Ok((self.vfs.listing(ino).await?.0, parent)),
        }
    }
}

/// Up to `size` bytes at `offset`; fewer only at the end.
fn read(file: &std::fs::File, offset: u64, size: u32) -> Result<Vec<u8>, FsError> {
    let mut buffer = vec![0; size as usize];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FsError::Internal(format!("reading a cached file failed: {error}"))),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn text_at(text: &[u8], offset: u64, size: u32) -> &[u8] {
    let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
    rest.get(..size as usize).unwrap_or(rest)
}

fn asker(request: &Request) -> Asker {
    Asker { pid: request.pid(), uid: request.uid(), gid: request.gid() }
}

fn ttl(lifetime: Lifetime) -> Duration {
    match lifetime {
        Lifetime::Immutable => FOREVER,
        Lifetime::Changing => BRIEFLY,
    }
}

fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Link => FileType::Symlink,
    }
}

fn attributes(attr: &Attr) -> FileAttr {
    let time = UNIX_EPOCH + AGE;
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(attr.kind),
        perm: attr.mode,
        // 1 for directories too: "not counted", so that find does not stop early.
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// An entry of inode 0 is a negative one that the kernel may keep.
fn nothing() -> FileAttr {
    FileAttr { ino: INodeNo(0), ..attributes(&Attr::file(Ino(0), false, 0)) }
}

fn read_only() -> Errno {
    report("write", &FsError::ReadOnly)
}

fn unsupported(operation: &'static str) -> Errno {
    report(operation, &FsError::Unsupported)
}

impl Filesystem for Mounted {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.0.backing.negotiate(config);
        let wanted = [
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel does not offer this");
            }
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: fuser::ReplyEntry) {
        let (vfs, name, asker) = (Arc::clone(&self.0.vfs), name.as_bytes().to_vec(), asker(request));
        let work = async move { vfs.lookup(Ino(parent.0), &name, asker).await };
        self.answer("lookup", reply, work, |inner, reply, found| match found {
            Ok(Found::Here(attr, lifetime)) => {
                inner.vfs.hold(attr.ino);
                reply.entry_with_ttls(&FOREVER, &ttl(lifetime), &attributes(&attr), Generation(0));
            }
            Ok(Found::Nothing(lifetime)) => reply.entry(&ttl(lifetime), &nothing(), Generation(0)),
            Err(errno) => reply.error(errno),
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.0.vfs.forget(Ino(ino.0), count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: fuser::ReplyAttr) {
        let vfs = Arc::clone(&self.0.vfs);
        let work = async move { vfs.attributes(Ino(ino.0)).await };
        self.answer("getattr", reply, work, |_, reply, attr| match attr {
            Ok(attr) => reply.attr(&FOREVER, &attributes(&attr)),
            Err(errno) => reply.error(errno),
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: fuser::ReplyData) {
        let vfs = Arc::clone(&self.0.vfs);
        let work = async move { vfs.link_target(Ino(ino.0)).await };
        self.answer("readlink", reply, work, |_, reply, target| match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: fuser::ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return reply.error(read_only());
        }
        let (vfs, ino, asker) = (Arc::clone(&self.0.vfs), Ino(ino.0), asker(request));
        let work = async move { vfs.open(ino, asker).await };
        self.answer("open", reply, work, move |inner, reply, opened| match opened {
            Ok(opened) => inner.opened(reply, ino, opened),
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<fuser::LockOwner>,
        reply: fuser::ReplyData,
    ) {
        let inner = Arc::clone(&self.0);
        // The one handler that may wait for the disk here: that is what the second thread is for.
        let work = async move {
            match inner.handles.get(handle.0).as_deref() {
                Some(Handle::Text(text)) => Ok(text_at(text, offset, size).to_vec()),
                Some(Handle::Cached(file)) => read(file, offset, size),
                Some(Handle::Backed(_) | Handle::Listing(_)) | None => Err(FsError::BadHandle),
            }
        };
        self.answer("read", reply, work, |_, reply, data| match data {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: fuser::LockOwner, reply: fuser::ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<fuser::LockOwner>,
        _: bool,
        reply: fuser::ReplyEmpty,
    ) {
        self.0.close(handle);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: fuser::ReplyOpen) {
        let vfs = Arc::clone(&self.0.vfs);
        let work = async move { vfs.listing(Ino(ino.0)).await };
        self.answer("opendir", reply, work, |inner, reply, listing| match listing {
            Ok((Listing::Items(items), Lifetime::Changing)) => {
                reply.opened(FileHandle(inner.handles.insert(Handle::Listing(items))), FopenFlags::empty());
            }
            // The kernel keeps it, and if it asks again, it needs no handle to get the same.
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE),
            Err(errno) => reply.error(errno),
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, reply: fuser::ReplyDirectory) {
        let work = Arc::clone(&self.0).listing(Ino(ino.0), handle);
        self.answer("readdir", reply, work, move |_, mut reply, listing| match listing {
            Ok((listing, parent)) => {
                let dots = [(".", ino.0), ("..", parent.0)];
                for (index, (name, dot)) in dots.iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(*dot), index as u64 + 1, FileType::Directory, name) {
                        return reply.ok();
                    }
                }
                listing.from(offset.saturating_sub(2), |next, name, attr, _| {
                    reply.add(INodeNo(attr.ino.0), next + 2, kind(attr.kind), name)
                });
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: fuser::ReplyDirectoryPlus,
    ) {
        let work = Arc::clone(&self.0).listing(Ino(ino.0), handle);
        self.answer("readdirplus", reply, work, move |inner, mut reply, listing| match listing {
            Ok((listing, parent)) => {
                // The kernel takes no reference on these two, and no lifetime from them.
                let dots = [(".", ino.0), ("..", parent.0)];
                for (index, (name, dot)) in dots.iter().enumerate().skip(offset as usize) {
                    let attr = attributes(&Attr::directory(Ino(*dot)));
                    if reply.add(INodeNo(*dot), index as u64 + 1, name, &Duration::ZERO, &attr, Generation(0)) {
                        return reply.ok();
                    }
                }
                listing.from(offset.saturating_sub(2), |next, name, attr, lifetime| {
                    let entry = attributes(attr);
                    let full = reply.add(entry.ino, next + 2, name, &ttl(lifetime), &entry, Generation(0));
                    if !full {
                        inner.vfs.hold(attr.ino);
                    }
                    full
                });
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: fuser::ReplyEmpty) {
        self.0.close(handle);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: fuser::ReplyStatfs) {
        // No blocks: df leaves out what has none, and what would fill up is the cache's disk.
        reply.statfs(0, 0, 0, 0, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: fuser::ReplyXattr) {
        let (vfs, name) = (Arc::clone(&self.0.vfs), name.as_bytes().to_vec());
        let work = async move {
            // Others ask for capabilities and labels at every exec; that must cost nothing.
            if !super::synth::is_ours(&name) {
                return Err(FsError::NoAttribute);
            }
            let found = vfs.extended(Ino(ino.0)).await?.into_iter().find(|(known, _)| known.as_bytes() == name);
            fit(found.ok_or(FsError::NoAttribute)?.1.into_bytes(), size)
        };
        self.answer("getxattr", reply, work, move |_, reply, value| send_sized(reply, size, value));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: fuser::ReplyXattr) {
        let vfs = Arc::clone(&self.0.vfs);
        let work = async move { fit(super::synth::name_list(&vfs.extended(Ino(ino.0)).await?), size) };
        self.answer("listxattr", reply, work, move |_, reply, names| send_sized(reply, size, names));
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: fuser::ReplyEmpty) {
        // With default_permissions the kernel does not even ask.
        match mask.contains(AccessFlags::W_OK) {
            true => reply.error(read_only()),
            false => reply.ok(),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: fuser::ReplyAttr,
    ) {
        reply.error(read_only());
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: fuser::ReplyEntry) {
        reply.error(read_only());
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: fuser::ReplyEntry) {
        reply.error(read_only());
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: fuser::ReplyEmpty) {
        reply.error(read_only());
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: fuser::ReplyEmpty) {
        reply.error(read_only());
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: fuser::ReplyEntry) {
        reply.error(read_only());
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: fuser::RenameFlags,
        reply: fuser::ReplyEmpty,
    ) {
        reply.error(read_only());
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: fuser::ReplyEntry) {
        reply.error(read_only());
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: fuser::WriteFlags,
        _: OpenFlags,
        _: Option<fuser::LockOwner>,
        reply: fuser::ReplyWrite,
    ) {
        reply.error(read_only());
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: fuser::ReplyCreate) {
        reply.error(read_only());
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: fuser::ReplyEmpty) {
        reply.error(read_only());
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: fuser::ReplyEmpty) {
        reply.error(read_only());
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: fuser::ReplyEmpty) {
        reply.error(read_only());
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: fuser::ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: fuser::ReplyEmpty) {
        reply.ok();
    }

    // After one of these answers the kernel does by itself what it would have asked for.

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: fuser::ReplyLseek) {
        reply.error(unsupported("lseek"));
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: fuser::ReplyIoctl,
    ) {
        reply.error(unsupported("ioctl"));
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::PollNotifier,
        _: fuser::PollEvents,
        _: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        reply.error(unsupported("poll"));
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: fuser::ReplyBmap) {
        reply.error(unsupported("bmap"));
    }
}

/// Size 0 asks how long it is; anything else must be long enough.
fn fit(value: Vec<u8>, size: u32) -> Result<Vec<u8>, FsError> {
    match size == 0 || value.len() <= size as usize {
        true => Ok(value),
        false => Err(FsError::BufferTooSmall),
    }
}

fn send_sized(reply: fuser::ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}
