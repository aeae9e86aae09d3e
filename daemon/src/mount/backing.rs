//! The one door from a verified file to a backing id.
//!
//! With passthrough the kernel reads, maps and executes the cached file itself: as fast as the
//! disk's own file system, and unharmed if the daemon dies. The id belongs to the connection,
//! and making one needs CAP_SYS_ADMIN, so the supervisor answers behind this door.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use fuser::{InitFlags, KernelConfig};
use rustix::fs::{Mode, OFlags};

use crate::supervisor::backings::Record;
use crate::supervisor::opens::{Open, SLOTS};
use crate::supervisor::wire::{Ground, Message};
use crate::worker::Link;

/// How files of a tree are read; one answer per mount, shown by `mcpfs status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// By the kernel, from the cached file.
    Passthrough,
    /// By the daemon, into the kernel's page cache.
    Cached,
}

impl std::fmt::Display for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passthrough => "passthrough",
            Self::Cached => "cached",
        })
    }
}

/// A backing id that the kernel has, given back when it is dropped.
#[derive(Debug)]
pub struct Backed {
    ino: u64,
    id: u32,
    cell: u32,
    link: Arc<Link>,
}

/// A backing id that a predecessor made.
#[derive(Debug)]
pub struct Inherited {
    /// The id.
    pub backed: Backed,
    /// Device and inode number of the file that it stands for.
    pub source: (u64, u64),
    /// The handles on it: the slot of each, its number, and its request's.
    pub handles: Vec<(u32, u64, u64)>,
}

impl Backed {
    /// The inode's number in the mount.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// As the kernel numbers it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Notes for a successor that this handle is open; `unique` is the request that opens it.
    ///
    /// # Errors
    /// If it cannot be noted; then nobody may be told of the handle.
    pub fn note_open(&self, slot: u32, number: u64, unique: u64) -> io::Result<()> {
        self.link.mounted()?.opens().note(&Open { slot, number, unique, on: self.cell.into() })
    }

    /// Notes that it is closed.
    ///
    /// # Errors
    /// If it cannot be noted; then a successor keeps the file open.
    pub fn note_close(&self, slot: u32) -> io::Result<()> {
        self.link.mounted()?.opens().clear(slot)
    }
}

impl Drop for Backed {
    fn drop(&mut self) {
        if let Err(error) = self.link.ask(&Message::Unback { ino: self.ino }, &[]) {
            tracing::debug!(%error, "a backing id was not given back");
        }
    }
}

/// Makes backing ids, once it has been found out that this mount can have them.
#[derive(Debug)]
pub struct Backing {
    /// Who makes them; without a supervisor there are none.
    link: Option<Arc<Link>>,
    /// The setting `reads = "cached"`.
    forced_cached: bool,
    /// Which table of slots the inode numbers are made of.
    slots: u64,
    /// Set by [`Self::probe`], before the first request is served.
    reads: OnceLock<Reads>,
}

impl Backing {
    /// `forced_cached` keeps a mount from even trying passthrough. `slots` names the table that the inode
    /// numbers are made of.
    pub fn new(forced_cached: bool, link: Option<Arc<Link>>, slots: u64) -> Self {
        Self { link, forced_cached, slots, reads: OnceLock::new() }
    }

    /// How this mount reads. Cached until it was probed.
    pub fn reads(&self) -> Reads {
        self.reads.get().copied().unwrap_or(Reads::Cached)
    }

    /// Asks for passthrough in the INIT exchange, or not, as the first worker of this mount did: the setting may be
    /// another one since. A kernel that does not offer it is no error.
    ///
    /// Stack depth 1: backing files lie on a plain file system. Depth 2 would allow a cache on
    /// overlayfs, and forbid everybody to lay an overlay over this mount.
    ///
    /// # Errors
    /// If the supervisor does not hand the mount out.
    pub fn negotiate(&self, config: &mut KernelConfig) -> io::Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let asked = link.mounted()?.passthrough();
        if asked.unwrap_or(!self.forced_cached) {
            if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() {
                // Depths 0 to 2 are accepted, so this cannot fail.
                let _ = config.set_max_stack_depth(1);
            }
        } else if !self.forced_cached && config.capabilities().contains(InitFlags::FUSE_PASSTHROUGH) {
            tracing::warn!(
                "reads: cached, as since this was mounted; `reads = \"auto\"` counts from the next mount on"
            );
        }
        Ok(())
    }

    /// Tries to back with a file on the file system of `cache`, and decides for this mount. What a
    /// predecessor found holds, whatever the setting says by now: the kernel reads an inode in one way for as long as
    /// it is open.
    ///
    /// # Errors
    /// If this process cannot serve the session as its predecessors did.
    pub(super) fn probe(&self, cache: &Path) -> io::Result<Reads> {
        let Some(link) = &self.link else {
            tracing::info!("reads: cached; the kernel reads the cache itself only for mounts of root");
            return Ok(*self.reads.get_or_init(|| Reads::Cached));
        };
        let stand = |passthrough| link.stand_on(Ground { passthrough, slots: self.slots });
        let before = stand(None)?.passthrough;
        if before == Some(true) && self.forced_cached {
            tracing::warn!(
                "reads: passthrough, as since this was mounted; `reads = \"cached\"` counts from the next mount on"
            );
        }
        let passthrough = match before {
            Some(false) => false,
            None if self.forced_cached => {
                tracing::info!("reads: cached, as configured");
                false
            }
            _ => match try_backing(link, cache) {
                Ok(()) => true,
                // A disk that is full or read-only has no say in what was found out before.
                Err(Tried::NoFile(error)) if before == Some(true) => {
                    tracing::warn!(%error, "nothing can be written into the cache; the kernel goes on reading it");
                    true
                }
                Err(Tried::NoFile(error) | Tried::NoId(error)) => {
                    tracing::info!(%error, reason = hint(&error), "reads: cached, because the kernel refused a backing file");
                    false
                }
            },
        };
        stand(Some(passthrough))?;
        Ok(*self.reads.get_or_init(|| if passthrough { Reads::Passthrough } else { Reads::Cached }))
    }

    /// The file that the backing id of `ino` stands for, which may have lost its path since.
    ///
    /// # Errors
    /// Whatever the supervisor or the kernel answers.
    pub fn again(&self, ino: u64) -> io::Result<File> {
        self.link.as_ref().ok_or(io::ErrorKind::Unsupported)?.again(ino)
    }

    /// A backing id for `file`, which must be read-only, verified and complete: the kernel will
    /// serve whatever is in it. The same inode needs the same id for as long as it is open.
    ///
    /// # Errors
    /// Whatever the supervisor or the kernel answers; ELOOP on a stacked file system.
    pub fn open(&self, ino: u64, file: &File) -> io::Result<Backed> {
        let link = self.link.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        match link.ask(&Message::Back { ino }, &[file.as_fd()])? {
            Message::Backed { id, cell } => Ok(Backed { ino, id, cell, link: Arc::clone(link) }),
            other => Err(io::Error::other(format!("the supervisor answers {other:?}"))),
        }
    }

    /// The ids that a predecessor had.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn inherited(&self) -> io::Result<Vec<Inherited>> {
        let Some(link) = self.link.as_ref().filter(|_| self.reads() == Reads::Passthrough) else { return Ok(vec![]) };
        let device = link.mounted()?;
        let mut handles: HashMap<u64, Vec<(u32, u64, u64)>> = HashMap::new();
        for Open { slot, number, unique, on } in device.opens().all()? {
            handles.entry(on).or_default().push((slot, number, unique));
        }
        let inherited = |record: Record| Inherited {
            source: record.source,
            handles: handles.remove(&record.cell.into()).unwrap_or_default(),
            backed: Backed { ino: record.ino, id: record.id, cell: record.cell, link: Arc::clone(link) },
        };
        let found = device.backings()?.into_iter().map(inherited).collect();
        // Of ids that are no more: the next id in that cell must not have them.
        for (slot, ..) in handles.into_values().flatten() {
            device.opens().clear(slot)?;
        }
        Ok(found)
    }
}

/// Notes for a successor which files this process has open where it reads them itself. Without a
/// supervisor there is none.
impl Backing {
    /// How many handles on files there are for all users; nothing for a mount of one's own.
    pub fn most_open(&self) -> Option<u64> {
        self.link.as_ref().map(|_| SLOTS.into())
    }

    /// Notes that a handle is open on the file with inode number `on` in the cache; `unique` is the
    /// request that opens it.
    ///
    /// # Errors
    /// If it cannot be noted; then nobody may be told of the handle.
    pub fn note_open(&self, slot: u32, number: u64, unique: u64, on: u64) -> io::Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        link.mounted()?.opens().note(&Open { slot, number, unique, on })
    }

    /// Notes that it is closed.
    ///
    /// # Errors
    /// If it cannot be noted; then a successor keeps the file open.
    pub fn note_close(&self, slot: u32) -> io::Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        link.mounted()?.opens().clear(slot)
    }

    /// What a predecessor had open and read itself: the slot of each handle, its number, its request's
    /// and the file's inode number in the cache.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn left_open(&self) -> io::Result<Vec<(u32, u64, u64, u64)>> {
        let Some(link) = self.link.as_ref().filter(|_| self.reads() == Reads::Cached) else { return Ok(vec![]) };
        let left = link.mounted()?.opens().all()?;
        Ok(left.into_iter().map(|Open { slot, number, unique, on }| (slot, number, unique, on)).collect())
    }
}

/// The inode under which a backing file is tried: none that a mount has.
const NOBODY: u64 = 0;

/// Why a file could not be backed.
enum Tried {
    /// There is none to try with.
    NoFile(io::Error),
    /// It was refused.
    NoId(io::Error),
}

fn try_backing(link: &Arc<Link>, cache: &Path) -> Result<(), Tried> {
    let file = || -> io::Result<OwnedFd> {
        let file = rustix::fs::open(cache, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR)?;
        let readable = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(rustix::fs::open(readable, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    };
    let readable = file().map_err(Tried::NoFile)?;
    let tried = || match link.ask(&Message::Back { ino: NOBODY }, &[readable.as_fd()]) {
        // A predecessor died between trying and giving back.
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::EXIST) => {
            link.ask(&Message::Unback { ino: NOBODY }, &[])?;
            link.ask(&Message::Back { ino: NOBODY }, &[readable.as_fd()])
        }
        tried => tried,
    };
    tried().and_then(|_| link.ask(&Message::Unback { ino: NOBODY }, &[])).map(drop).map_err(Tried::NoId)
}

fn hint(error: &io::Error) -> &'static str {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::PERM) => {
            "the supervisor needs CAP_SYS_ADMIN, the cache must be the worker's own, and the kernel must offer passthrough"
        }
        Some(rustix::io::Errno::LOOP) => "the cache lies on a stacked file system such as overlayfs",
        Some(rustix::io::Errno::NOTTY | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => "needs Linux 6.9",
        _ => "see the error",
    }
}
