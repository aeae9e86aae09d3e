//! Values of the file system as fuser and the kernel have them.

use std::os::unix::fs::FileExt;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, Request};

use super::ino::Ino;
use super::node::{Asker, Attr, FileKind, Lifetime};
use crate::errno::FsError;
use crate::registry::KEPT;

/// How long the kernel keeps what cannot change: about 34 years.
pub(super) const FOREVER: Duration = Duration::from_secs(1 << 30);

/// The time of everything, counted from 1970: the second day of 1980. The same everywhere and for
/// ever, and not before what a zip archive can hold.
const AGE: Duration = Duration::from_secs(315_619_200);

/// Preferred size of a read, bytes.
pub(super) const BLOCK: u32 = 4096;

/// Up to `size` bytes at `offset`; fewer only at the end.
pub(super) fn read(file: &std::fs::File, offset: u64, size: u32) -> Result<Vec<u8>, FsError> {
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

pub(super) fn text_at(text: &[u8], offset: u64, size: u32) -> &[u8] {
    let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
    rest.get(..size as usize).unwrap_or(rest)
}

pub(super) fn asker(request: &Request) -> Asker {
    Asker { pid: request.pid(), uid: request.uid(), gid: request.gid() }
}

pub(super) fn ttl(lifetime: Lifetime) -> Duration {
    match lifetime {
        Lifetime::Immutable => FOREVER,
        Lifetime::Changing => KEPT,
    }
}

pub(super) fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Link => FileType::Symlink,
    }
}

pub(super) fn attributes(attr: &Attr) -> FileAttr {
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
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// An entry of inode 0 is a negative one that the kernel may keep.
pub(super) fn nothing() -> FileAttr {
    FileAttr { ino: INodeNo(0), ..attributes(&Attr::file(Ino(0), false, 0)) }
}

/// Size 0 asks how long it is; anything else must be long enough.
pub(super) fn fit(value: Vec<u8>, size: u32) -> Result<Vec<u8>, FsError> {
    match size == 0 || value.len() <= size as usize {
        true => Ok(value),
        false => Err(FsError::BufferTooSmall),
    }
}

pub(super) fn send_sized(reply: fuser::ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}
