//! Backing ids: made for what the worker may show, and remembered for its successor.
//!
//! The kernel reads whatever file an id stands for, and making one needs CAP_SYS_ADMIN. So the
//! worker passes the open file, and this asks what a worker that had been taken over could abuse:
//! a regular file, open for reading only, that belongs to the worker's own user and lies on the
//! cache's file system below the cache. Such a worker can show any file of the cache then, and no
//! other file of the host.
//!
//! An id belongs to the connection and outlives every process. The kernel insists on one id per
//! inode while it is open anywhere, so a successor has to know them all: they are kept in a memory
//! file that systemd can keep for us too. Which handles are open is the worker's to note, in
//! a second memory file ([`Opens`]), so that it survives the worker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fuser::BackingId;
use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom, Statx, StatxFlags};
use rustix::io::Errno;

use super::handle::{self, FileHandle};
use super::opens::Opens;

/// Ids at most: as many files as a busy host has open, many times over.
const CELLS: u32 = 1 << 16;
/// Bytes of a record: inode in the mount, device and inode of the file, id, whether it is in use, and
/// the file's handle: length, kind, bytes.
const RECORD: u64 = 40 + handle::LONGEST as u64;

/// A backing id that the kernel has, as a successor finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// The inode's number in the mount.
    pub(crate) ino: u64,
    /// Device and inode number of the file in the cache.
    pub(crate) source: (u64, u64),
    /// As the kernel numbers it.
    pub(crate) id: u32,
    /// Its place.
    pub(crate) cell: u32,
    /// What finds the file whatever becomes of its path, if its file system can do that.
    pub(crate) handle: Option<FileHandle>,
}

impl Record {
    fn encode(&self) -> [u8; RECORD as usize] {
        let mut bytes = [0; RECORD as usize];
        bytes[..8].copy_from_slice(&self.ino.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.source.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.source.1.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.id.to_le_bytes());
        bytes[28..32].copy_from_slice(&1u32.to_le_bytes());
        if let Some(handle) = &self.handle {
            bytes[32..36].copy_from_slice(&handle.length.to_le_bytes());
            bytes[36..40].copy_from_slice(&handle.kind.to_le_bytes());
            bytes[40..].copy_from_slice(&handle.bytes);
        }
        bytes
    }

    fn decode(cell: u32, bytes: &[u8]) -> Option<Self> {
        let eight = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let four = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let handle =
            FileHandle { length: four(32)?, kind: four(36)?.cast_signed(), bytes: bytes.get(40..)?.try_into().ok()? };
        let handle = Some(handle).filter(|handle| handle.length > 0);
        let record = Self { ino: eight(0)?, source: (eight(8)?, eight(16)?), id: four(24)?, cell, handle };
        (four(28)? == 1).then_some(record)
    }
}

/// Every id in a table, which is read as it lies there.
pub(crate) fn read(table: &File) -> io::Result<Vec<Record>> {
    let end = table.metadata()?.len().min(RECORD * u64::from(CELLS));
    let (mut records, mut from) = (Vec::new(), 0);
    // Nearly all of it was never written, and whoever reads this is waited for.
    while let Some(written) = written(table, from)? {
        let first = written.start / RECORD;
        from = (written.end.div_ceil(RECORD) * RECORD).min(end);
        let Some(length) = from.checked_sub(first * RECORD).filter(|length| *length > 0) else { break };
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        table.read_exact_at(&mut bytes, first * RECORD)?;
        let cells = (first as u32..CELLS).zip(bytes.chunks_exact(RECORD as usize));
        records.extend(cells.filter_map(|(cell, bytes)| Record::decode(cell, bytes)));
    }
    Ok(records)
}

/// The next part of a file from a place on that was ever written.
fn written(file: &File, from: u64) -> io::Result<Option<Range<u64>>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Err(Errno::NXIO) => return Ok(None),
        found => found?,
    };
    Ok(Some(start..rustix::fs::seek(file, SeekFrom::Hole(start))?))
}

/// The supervisor's side.
#[derive(Debug)]
pub(super) struct Backings {
    /// The cache's directory without links, and its device.
    cache: (PathBuf, (u32, u32)),
    /// The same, open.
    root: File,
    /// The worker's user.
    user: u32,
    table: File,
    opens: OwnedFd,
    known: BTreeMap<u64, Record>,
    free: BTreeSet<u32>,
}

impl Backings {
    /// With new tables, or with those that an earlier supervisor left.
    pub(super) fn new(cache: &Path, user: u32, tables: Option<(OwnedFd, OwnedFd)>) -> io::Result<Self> {
        let (table, opens) = match tables {
            Some((table, opens)) => {
                is_memory(&table, RECORD * u64::from(CELLS))?;
                is_memory(&opens, Opens::BYTES)?;
                (table, opens)
            }
            None => (memory("mcpfs-backings", RECORD * u64::from(CELLS))?, memory("mcpfs-opens", Opens::BYTES)?),
        };
        let cache = cache.canonicalize()?;
        let root = File::open(&cache)?;
        let device = about(&root)?;
        let device = (device.stx_dev_major, device.stx_dev_minor);
        let table = File::from(table);
        let known: BTreeMap<u64, Record> = read(&table)?.into_iter().map(|record| (record.ino, record)).collect();
        let used: BTreeSet<u32> = known.values().map(|record| record.cell).collect();
        let free = (0..CELLS).filter(|cell| !used.contains(cell)).collect();
        Ok(Self { cache: (cache, device), root, user, table, opens, known, free })
    }

    /// The tables, for systemd.
    pub(super) fn tables(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.table.as_fd(), self.opens.as_fd())
    }

    /// The tables for the worker, who may only read the first. Opened anew, since flags such as
    /// O_APPEND are everybody's who shares one opening.
    pub(super) fn shared(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let again = |file: &dyn AsRawFd, access| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())
        };
        Ok((again(&self.table, OFlags::RDONLY)?, again(&self.opens, OFlags::RDWR)?))
    }

    /// An id for `ino` and `file`.
    ///
    /// # Errors
    /// EPERM for a file that the worker may not show, EEXIST if the inode has an id, ENFILE if there
    /// are too many, and what the kernel says: ELOOP for a cache on a stacked file system.
    pub(super) fn open(&mut self, fuse: impl AsFd, ino: u64, file: &OwnedFd) -> Result<Record, Errno> {
        let source = self.check(file)?;
        if self.known.contains_key(&ino) {
            return Err(Errno::EXIST);
        }
        let cell = *self.free.first().ok_or(Errno::NFILE)?;
        let id =
            BackingId::create_raw(fuse, file).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let record = Record { ino, source, id, cell, handle: FileHandle::of(file) };
        self.write(cell, &record.encode())?;
        self.free.remove(&cell);
        self.known.insert(ino, record);
        Ok(record)
    }

    /// Gives the id of `ino` back. The kernel keeps the file for those who have it open.
    ///
    /// # Errors
    /// ENOENT if it has none.
    pub(super) fn close(&mut self, fuse: impl AsFd, ino: u64) -> Result<(), Errno> {
        let record = self.known.remove(&ino).ok_or(Errno::NOENT)?;
        // An id that a successor would believe in and the kernel has not is worse than a lost one.
        self.write(record.cell, &[0; RECORD as usize])?;
        self.free.insert(record.cell);
        super::ioctl::close_backing(fuse, record.id)
    }

    /// The file that the id of `ino` stands for, opened once more: it may have lost its path.
    ///
    /// # Errors
    /// ENOENT if the inode has no id, EOPNOTSUPP if its file cannot be found by a handle, and what the
    /// kernel says.
    pub(super) fn again(&self, ino: u64) -> Result<OwnedFd, Errno> {
        let record = self.known.get(&ino).ok_or(Errno::NOENT)?;
        record.handle.ok_or(Errno::OPNOTSUPP)?.open(&self.root)
    }

    fn write(&self, cell: u32, record: &[u8]) -> Result<(), Errno> {
        let written = self.table.write_all_at(record, u64::from(cell) * RECORD);
        written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Whether the worker may show this file; its device and inode number.
    fn check(&self, file: &OwnedFd) -> Result<(u64, u64), Errno> {
        let flags = rustix::fs::fcntl_getfl(file)?;
        let readable = (flags & (OFlags::RWMODE | OFlags::PATH)) == OFlags::RDONLY;
        let found = about(file)?;
        let mode = found.stx_mode.into();
        let regular = rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::RegularFile;
        let device = (found.stx_dev_major, found.stx_dev_minor);
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        let ours = found.stx_uid == self.user && device == self.cache.1 && path.starts_with(&self.cache.0);
        match readable && regular && ours {
            true => Ok((rustix::fs::makedev(device.0, device.1), found.stx_ino)),
            false => Err(Errno::PERM),
        }
    }
}

/// What is known of a file without asking whoever serves it: on a FUSE mount that might be one who
/// never answers, and this process would wait for ever.
fn about(file: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)
}

/// A memory file of one size for ever that only root can open anew: the worker has what it was
/// handed, opened as it was.
fn memory(name: &str, size: u64) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&file, size)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// Checks that a file is one that [`memory`] makes of this size; other versions' tables have others.
fn is_memory(file: &OwnedFd, size: u64) -> io::Result<()> {
    let seals = rustix::fs::fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    let found = rustix::fs::fstat(file)?;
    match seals.contains(SealFlags::GROW | SealFlags::SHRINK) && u64::try_from(found.st_size) == Ok(size) {
        true => Ok(()),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "a table of ids or handles is not one of this version's"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};

    use super::*;
    use crate::supervisor::opens::Open;

    #[test]
    fn only_whole_readable_files_of_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        std::fs::create_dir_all(cache.join("sub")).unwrap();
        std::fs::create_dir(dir.path().join("cache2")).unwrap();
        for file in ["cache/a", "cache/sub/b", "outside", "cache2/c"] {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        symlink("../outside", cache.join("link")).unwrap();
        let mine = rustix::process::geteuid().as_raw();
        let backings = Backings::new(&cache, mine, None).unwrap();
        let open = |path: &str, flags: i32| -> OwnedFd {
            let mut options = File::options();
            options.read(true).custom_flags(flags).open(dir.path().join(path)).unwrap().into()
        };
        for good in ["cache/a", "cache/sub/b"] {
            let file = File::from(open(good, 0));
            let found = file.metadata().unwrap();
            assert_eq!(backings.check(&file.into()), Ok((found.dev(), found.ino())), "{good}");
        }
        let gone = open("cache/a", 0);
        std::fs::remove_file(cache.join("a")).unwrap();
        assert!(backings.check(&gone).is_ok(), "a file that was evicted meanwhile is still the cache's");
        for bad in ["outside", "cache2/c", "cache/link", "cache"] {
            assert_eq!(backings.check(&open(bad, 0)), Err(Errno::PERM), "{bad}");
        }
        let writable: OwnedFd = File::options().read(true).write(true).open(cache.join("sub/b")).unwrap().into();
        assert_eq!(backings.check(&writable), Err(Errno::PERM));
        assert_eq!(backings.check(&open("cache/sub/b", libc::O_PATH)), Err(Errno::PERM));
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        assert_eq!(backings.check(&pipe), Err(Errno::PERM));
        let other = Backings::new(&cache, mine + 1, None).unwrap();
        assert_eq!(other.check(&open("cache/sub/b", 0)), Err(Errno::PERM), "a file of another user");
    }

    #[test]
    fn tables_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let backings = Backings::new(dir.path(), 0, None).unwrap();
        let one = Record { ino: 7 << 32, source: (1, 2), id: 3, cell: 0, handle: None };
        let handle = Some(FileHandle { length: 8, kind: -1, bytes: [7; handle::LONGEST] });
        let two = Record { ino: 9, source: (1, u64::MAX), id: u32::MAX, cell: 5, handle };
        for record in [one, two] {
            backings.write(record.cell, &record.encode()).unwrap();
        }
        let tables = (backings.table.try_clone().unwrap().into(), backings.opens.try_clone().unwrap());
        let again = Backings::new(dir.path(), 0, Some(tables)).unwrap();
        assert_eq!(again.known.values().copied().collect::<Vec<_>>(), [two, one]);
        assert!(!again.free.contains(&0) && !again.free.contains(&5) && again.free.contains(&1));
        let (table, shared) = again.shared().unwrap();
        assert_eq!(read(&File::from(table.try_clone().unwrap())).unwrap(), [one, two]);
        assert!(rustix::io::write(&table, b"x").is_err(), "the worker only reads it");
        rustix::fs::fcntl_setfl(&shared, OFlags::APPEND).unwrap();
        let open = Open { slot: 3, number: 7, unique: 2, on: 5 };
        let opens = Opens::of(again.opens.try_clone().unwrap().into());
        opens.note(&open).unwrap();
        assert_eq!(opens.all().unwrap(), [open], "another opening's flags");
        assert!(rustix::fs::ftruncate(&shared, 1 << 40).is_err() && rustix::fs::ftruncate(&shared, 0).is_err());
        assert!(rustix::fs::fcntl_add_seals(&shared, SealFlags::WRITE).is_err());
        // Neither another one's, nor in another order, nor an ordinary file.
        let memory = |size| memory("mcpfs-test", size).unwrap();
        let file = || OwnedFd::from(tempfile::tempfile_in(dir.path()).unwrap());
        let sizes = (RECORD * u64::from(CELLS), Opens::BYTES);
        for tables in
            [(memory(sizes.1), memory(sizes.0)), (memory(sizes.0), memory(sizes.1 - 1)), (file(), memory(sizes.1))]
        {
            let refused = Backings::new(dir.path(), 0, Some(tables)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        }
    }
}
