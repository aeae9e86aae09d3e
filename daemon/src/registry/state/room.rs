//! Room that the state has for itself: a host whose disk others have filled must go on following revocations.
//!
//! It is taken behind the ends of the two files that grow, as blocks that belong to them and are no part of them. So
//! a write needs none of the disk's, and nobody can be quicker. A file beside them that is given up when the disk is
//! full, as the audit has one, leaves a moment in which somebody who goes on filling takes that too; the audit can
//! refuse then, and here a refusal is what he wants.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// Bytes behind each of the files. SQLite begins its log anew at 4 MiB.
pub(super) const BYTES: u64 = 8 << 20;

/// The room of one `state.db`.
#[derive(Debug)]
pub(super) struct Room {
    /// Never closed before the database: with any descriptor of it go all locks that this process has there.
    database: File,
    log: PathBuf,
    /// Behind each of them.
    bytes: u64,
}

impl Room {
    /// For the database at `path`, which is open already; nothing if it cannot be written.
    pub(super) fn of(path: &Path, bytes: u64) -> Option<Self> {
        if bytes == 0 {
            return None;
        }
        let database = OpenOptions::new().write(true).open(path).ok()?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let room = Self { database, log: log.into(), bytes };
        room.take();
        Some(room)
    }

    /// Takes what has been used since.
    pub(super) fn take(&self) {
        take(&self.database, self.bytes);
        if let Ok(log) = OpenOptions::new().write(true).open(&self.log) {
            take(&log, self.bytes);
        }
    }
}

/// As much as there is: without it the state can do as long as nobody fills the disk.
fn take(file: &File, bytes: u64) {
    let Ok(found) = file.metadata() else { return };
    if found.blocks().saturating_mul(512) >= found.size().saturating_add(bytes / 2) {
        return;
    }
    if let Err(error) = fallocate(file, FallocateFlags::KEEP_SIZE, found.size(), bytes) {
        tracing::debug!(%error, "no room behind a file of the state");
    }
}
