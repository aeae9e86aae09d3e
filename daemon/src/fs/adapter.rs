//! FUSE requests in, FUSE replies out. Translation and nothing else: what is decided is in
//! `vfs` and `open`, how and when an answer goes out in `answer`, values are put in the
//! kernel's form in `wire`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    OpenAccMode, OpenFlags, Request,
};

use super::answer::Mounted;
use super::handle::Handle;
use super::ino::Ino;
use super::node::{Attr, Found, Lifetime};
use super::open::Opened;
use super::vfs::Listing;
use super::wire::{BLOCK, asker, attributes, fit, kind, nothing, read, send_sized, text_at, ttl};
use crate::errno::{FsError, report};

fn read_only() -> Errno {
    report("write", &FsError::ReadOnly)
}

fn unsupported(operation: &'static str) -> Errno {
    report(operation, &FsError::Unsupported)
}

impl Filesystem for Mounted {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.0.backing.negotiate(config)?;
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
                reply.entry_with_ttls(&ttl(attr.lifetime), &ttl(lifetime), &attributes(&attr), Generation(0));
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
            Ok(attr) => reply.attr(&ttl(attr.lifetime), &attributes(&attr)),
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
        let (unique, inner) = (self.0.opening(request.unique()), Arc::clone(&self.0));
        let work = async move {
            let opened = vfs.open(ino, asker).await?;
            if let Opened::File(file, _) = &opened {
                inner.settle(ino, file).await;
            }
            Ok(opened)
        };
        self.answer("open", reply, work, move |inner, reply, opened| match opened {
            Ok(opened) => inner.opened(reply, ino, unique, opened),
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
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
            match &*inner.handle(Ino(ino.0), handle).await? {
                Handle::Text(text) => Ok(text_at(text, offset, size).to_vec()),
                Handle::Cached(file) => read(file, offset, size),
                Handle::Listing(_) | Handle::Kept { .. } => Err(FsError::BadHandle),
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

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: fuser::ReplyOpen) {
        let (vfs, asker) = (Arc::clone(&self.0.vfs), asker(request));
        let work = async move { vfs.open_directory(Ino(ino.0), asker).await };
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
        self.0.close_listing(handle);
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
