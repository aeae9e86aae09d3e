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
//! file that systemd can keep for us too. How often an inode is open is the worker's to count, in
//! a second memory file, so that the count survives it. A count may come out too high, when a
//! worker dies between counting and answering; then an id is kept that nobody needs. It never
//! comes out too low.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fuser::BackingId;
use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, SealFlags, Statx, StatxFlags};
use rustix::io::Errno;

/// Ids at most: as many files as a busy host has open, many times over.
const CELLS: u32 = 1 << 16;
/// Bytes of a record: inode in the mount, device and inode of the file, id, and whether it is in use.
const RECORD: u64 = 32;
/// Bytes of a count.
const COUNT: u64 = 4;

/// A backing id that the kernel has, as a successor finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// The inode's number in the mount.
    pub(crate) ino: u64,
    /// Device and inode number of the file in the cache.
    pub(crate) source: (u64, u64),
    /// As the kernel numbers it.
    pub(crate) id: u32,
    /// Its place, here and among the counts.
    pub(crate) cell: u32,
}

impl Record {
    fn encode(&self) -> [u8; RECORD as usize] {
        let mut bytes = [0; RECORD as usize];
        bytes[..8].copy_from_slice(&self.ino.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.source.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.source.1.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.id.to_le_bytes());
        bytes[28..].copy_from_slice(&1u32.to_le_bytes());
        bytes
    }

    fn decode(cell: u32, bytes: &[u8]) -> Option<Self> {
        let eight = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let four = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let record = Self { ino: eight(0)?, source: (eight(8)?, eight(16)?), id: four(24)?, cell };
        (four(28)? == 1).then_some(record)
    }
}

/// Every id in a table, which is read as it lies there.
pub(crate) fn read(table: &File) -> io::Result<Vec<Record>> {
    let mut bytes = vec![0; usize::try_from(table.metadata()?.len().min(RECORD * u64::from(CELLS))).unwrap_or(0)];
    table.read_exact_at(&mut bytes, 0)?;
    let records = (0..CELLS).zip(bytes.chunks_exact(RECORD as usize));
    Ok(records.filter_map(|(cell, bytes)| Record::decode(cell, bytes)).collect())
}

/// How often each inode is open; one number per cell.
#[derive(Debug)]
pub(crate) struct Counts(File);

impl Counts {
    pub(crate) fn of(file: File) -> Self {
        Self(file)
    }

    pub(crate) fn get(&self, cell: u32) -> u64 {
        let mut bytes = [0; COUNT as usize];
        match self.0.read_exact_at(&mut bytes, u64::from(cell) * COUNT) {
            Ok(()) => u64::from(u32::from_le_bytes(bytes)),
            // Never written: nobody has it open.
            Err(_) => 0,
        }
    }

    /// # Errors
    /// If memory is short; then the open must fail, for a successor would not know of it.
    pub(crate) fn set(&self, cell: u32, handles: u64) -> io::Result<()> {
        let handles = u32::try_from(handles).unwrap_or(u32::MAX);
        self.0.write_all_at(&handles.to_le_bytes(), u64::from(cell) * COUNT)
    }
}

/// The supervisor's side.
#[derive(Debug)]
pub(super) struct Backings {
    /// The cache's directory without links, and its device.
    cache: (PathBuf, (u32, u32)),
    /// The worker's user.
    user: u32,
    table: File,
    counts: OwnedFd,
    known: BTreeMap<u64, Record>,
    free: BTreeSet<u32>,
}

impl Backings {
    /// With new tables, or with those that an earlier supervisor left.
    pub(super) fn new(cache: &Path, user: u32, tables: Option<(OwnedFd, OwnedFd)>) -> io::Result<Self> {
        let (table, counts) = match tables {
            Some(tables) => tables,
            None => (
                memory("mcpfs-backings", RECORD * u64::from(CELLS))?,
                memory("mcpfs-counts", COUNT * u64::from(CELLS))?,
            ),
        };
        let cache = cache.canonicalize()?;
        let device = about(File::open(&cache)?)?;
        let device = (device.stx_dev_major, device.stx_dev_minor);
        let table = File::from(table);
        let known: BTreeMap<u64, Record> = read(&table)?.into_iter().map(|record| (record.ino, record)).collect();
        let used: BTreeSet<u32> = known.values().map(|record| record.cell).collect();
        let free = (0..CELLS).filter(|cell| !used.contains(cell)).collect();
        Ok(Self { cache: (cache, device), user, table, counts, known, free })
    }

    /// The tables, for systemd.
    pub(super) fn tables(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.table.as_fd(), self.counts.as_fd())
    }

    /// The tables for the worker, who may only read the first. Opened anew, since flags such as
    /// O_APPEND are everybody's who shares one opening.
    pub(super) fn shared(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let again = |file: &dyn AsRawFd, access| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())
        };
        Ok((again(&self.table, OFlags::RDONLY)?, again(&self.counts, OFlags::RDWR)?))
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
        let record = Record { ino, source, id, cell };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};

    use super::*;

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
        let one = Record { ino: 7 << 32, source: (1, 2), id: 3, cell: 0 };
        let two = Record { ino: 9, source: (1, u64::MAX), id: u32::MAX, cell: 5 };
        for record in [one, two] {
            backings.write(record.cell, &record.encode()).unwrap();
        }
        let tables = (backings.table.try_clone().unwrap().into(), backings.counts.try_clone().unwrap());
        let counts = Counts::of(tables.1.try_clone().unwrap().into());
        counts.set(5, 2).unwrap();
        let again = Backings::new(dir.path(), 0, Some(tables)).unwrap();
        assert_eq!(again.known.values().copied().collect::<Vec<_>>(), [two, one]);
        assert!(!again.free.contains(&0) && !again.free.contains(&5) && again.free.contains(&1));
        assert_eq!((counts.get(5), counts.get(0), counts.get(CELLS)), (2, 0, 0));
        let (table, shared) = again.shared().unwrap();
        assert_eq!(read(&File::from(table.try_clone().unwrap())).unwrap(), [one, two]);
        assert!(rustix::io::write(&table, b"x").is_err(), "the worker only reads it");
        rustix::fs::fcntl_setfl(&shared, OFlags::APPEND).unwrap();
        counts.set(4, 1).unwrap();
        assert_eq!(counts.get(4), 1, "another opening's flags");
        assert!(rustix::fs::ftruncate(&shared, 1 << 40).is_err() && rustix::fs::ftruncate(&shared, 0).is_err());
        assert!(rustix::fs::fcntl_add_seals(&shared, SealFlags::WRITE).is_err());
    }
}
