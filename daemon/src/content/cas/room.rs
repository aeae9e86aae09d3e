//! Room: the quota, the floor of free space, and what goes when there is too little.
//!
//! Eviction takes the least useful first and never what is kept or in use: a lease on the file
//! says that nobody has it open, and holds off whoever wants to until it is gone.

use std::sync::PoisonError;

use mcpfs_trust::error::Code;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{Cas, place};
use crate::content::lease;
use crate::refusal::Refusal;

/// Evicted beyond what is needed, as a share of the quota: a full cache sorts its index rarely.
const SLACK: u64 = 20;

impl Cas {
    /// Reserves `bytes` within the quota and above the free-space floor.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), Refusal> {
        if self.scarcity(bytes) == 0 && self.index.reserve(bytes).is_ok() {
            return Ok(());
        }
        let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        for last in [false, true] {
            let scarce = self.scarcity(bytes);
            let missing = match self.index.reserve(bytes) {
                Ok(()) if scarce == 0 => return Ok(()),
                Ok(()) => {
                    self.index.release(bytes);
                    scarce
                }
                Err(excess) => excess.max(scarce),
            };
            if !last && bytes <= self.quota {
                let target = missing + self.quota / SLACK;
                let freed = self.evict(target);
                if freed < missing
                    && let Some(let_go) = self.let_go.get()
                {
                    let_go();
                    self.evict(target - freed);
                }
            }
        }
        let detail = format!("no room for {bytes} bytes in the cache {}", self.path.display());
        let advice = "what is open or pinned is not evicted; raise the quota or free space on its file system";
        Err(Refusal::new(Code::CacheFull, format!("{detail}: {advice}")))
    }

    /// Removes what nobody uses, the least useful first, until `target` bytes are free. Returns
    /// how many are.
    fn evict(&self, target: u64) -> u64 {
        let mut freed = 0;
        for name in self.index.candidates() {
            if freed >= target {
                break;
            }
            let last_use = self.index.last_use(name);
            let file = match self.open_file(name) {
                Ok(file) => file,
                Err(Errno::NOENT) => {
                    self.index.missing(name, last_use);
                    continue;
                }
                Err(_) => continue,
            };
            // The lease lasts until `file` is closed, so nobody opens it before it is gone.
            if lease::take(&file) && rustix::fs::unlinkat(&self.root, place(name), AtFlags::empty()).is_ok() {
                freed += self.index.forget(name);
            }
        }
        freed
    }

    /// How many bytes the file system lacks to hold `bytes` more above the floor.
    fn scarcity(&self, bytes: u64) -> u64 {
        match rustix::fs::fstatvfs(&self.root) {
            Ok(stat) => (self.free_floor + bytes).saturating_sub(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(_) => 0,
        }
    }
}
