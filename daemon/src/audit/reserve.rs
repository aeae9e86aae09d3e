//! A file of allocated blocks beside the store, given up when the disk is full.
//!
//! The audit must go on when something else has filled the disk: opens fail without it.
//! The reserve buys the time in which an administrator can act, and its loss is a row.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::schema::beside;

/// The reserve of one store.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// Takes the blocks, if the disk has them. Zero bytes: none is kept.
    pub(super) fn new(store: &Path, bytes: u64) -> Self {
        let mut reserve = Self { path: beside(store, "-reserve"), bytes, held: false };
        reserve.held = reserve.is_whole() || reserve.fill();
        reserve
    }

    /// Whether an earlier process took the blocks: taking them again would sync the disk while others
    /// wait for this one to serve.
    fn is_whole(&self) -> bool {
        let whole = |found: fs::Metadata| found.is_file() && found.blocks().saturating_mul(512) >= self.bytes;
        self.bytes > 0 && fs::symlink_metadata(&self.path).is_ok_and(whole)
    }

    /// Whether the blocks are there.
    pub(super) fn held(&self) -> bool {
        self.held
    }

    fn fill(&self) -> bool {
        if self.bytes == 0 {
            return false;
        }
        let allocate = || {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.bytes)?;
            file.sync_all()
        };
        let result: std::io::Result<()> = allocate();
        if let Err(error) = &result {
            tracing::warn!(path = %self.path.display(), %error, "no reserve for the audit");
            let _ = fs::remove_file(&self.path);
        }
        result.is_ok()
    }

    /// Gives the blocks back to the disk; says whether there were any.
    pub(super) fn release(&mut self) -> bool {
        let had = self.held && fs::remove_file(&self.path).is_ok();
        self.held = false;
        had
    }

    /// Takes the blocks again once the disk has four times as much room; says whether it did.
    pub(super) fn restore(&mut self) -> bool {
        if self.held || self.bytes == 0 {
            return false;
        }
        let room = self.path.parent().and_then(|dir| rustix::fs::statvfs(dir).ok());
        let enough =
            room.is_some_and(|room| room.f_bavail.saturating_mul(room.f_frsize) >= self.bytes.saturating_mul(4));
        self.held = enough && self.fill();
        self.held
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn blocks_are_taken_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("audit.db");
        let mut reserve = Reserve::new(&store, 1 << 20);
        let meta = fs::metadata(beside(&store, "-reserve")).unwrap();
        assert!(reserve.held() && meta.blocks() * 512 >= 1 << 20, "{meta:?}");
        assert_eq!(meta.mode() & 0o777, 0o600);
        assert!(!reserve.restore());
        assert!(reserve.release() && !reserve.held());
        assert!(!beside(&store, "-reserve").exists());
        assert!(!reserve.release());
        assert!(reserve.restore() && reserve.held());
        assert!(Reserve::new(&store, 1 << 20).held());
        let short = fs::File::create(beside(&store, "-reserve")).unwrap();
        short.set_len(1 << 20).unwrap();
        assert!(Reserve::new(&store, 1 << 20).held() && short.metadata().unwrap().blocks() * 512 >= 1 << 20);
        // More than any disk has: none, and no half of one.
        let none = Reserve::new(&dir.path().join("b"), 1 << 60);
        assert!(!none.held() && !dir.path().join("b-reserve").exists());
    }
}
