//! Room: the quota, what is left free for others, and what goes when there is too little.
//!
//! A file system runs out of bytes or of inodes; the floor is for both. Eviction takes the
//! least useful first and never what is pinned or in use: a lease on the file says that nobody
//! has it open, and holds off whoever wants to until it is gone. A tree is in use as long as the
//! kernel may know an inode of it; what a dead worker told the kernel its successor does not know,
//! and spares all that it had read.
//!
//! Below the floor nothing is written, whoever took the room: the audit of this host may lie
//! on the same file system, and an open that cannot be recorded is refused. What is cached
//! stays readable.
//!
//! What nobody waits for gets room, too, by evicting what is older; but when somebody waits who finds
//! none, it gives its own back ([`Cas::calls_for_room`]), whatever it has fetched so far.
//!
//! What a file system says of its free space is no promise: others write at the same time, and some
//! have quotas of their own. A write that finds it full is tried once more after an eviction.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mcpfs_trust::error::Code;
use rustix::fs::{AtFlags, StatVfs};
use rustix::io::Errno;
use tokio::sync::watch;

use super::{Cas, place};
use crate::content::gate::Class;
use crate::content::index::on_disk;
use crate::content::lease;
use crate::metrics::COUNTS;
use crate::refusal::Refusal;
use crate::words;

/// Evicted beyond what is needed, as a share of what is held: a full cache sorts its index rarely.
const SLACK: u64 = 20;
/// And files beyond what is needed: one for each transfer that may end meanwhile.
const MORE_FILES: u64 = 16;
/// How often room is made for one who asks, as long as there is something to evict: others may take it.
const TURNS: u32 = 200;
/// What is evicted when a write finds the file system full.
const AT_LEAST: u64 = 1 << 20;
/// How often in a row, and with which pauses, eviction may find nothing before that is believed.
const IN_VAIN: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);
/// The floor without `cache.keep_free`: this share of the file system, and at most that.
const SHARE: u64 = 20;
const MOST_FREE: u64 = 5 << 30;
/// Inodes left to others: enough for the files of a database and its journal.
const INODES: u64 = 64;

/// What is left free of a file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    bytes: u64,
    inodes: u64,
}

/// What is lacking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lack {
    bytes: u64,
    files: u64,
}

impl Lack {
    const NONE: Self = Self { bytes: 0, files: 0 };

    fn covered_by(self, freed: Self) -> bool {
        freed.bytes >= self.bytes && freed.files >= self.files
    }

    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, files: self.files + other.files }
    }
}

impl Floor {
    /// `keep_free` bytes, or the default for the file system of `root`.
    pub(super) fn of(root: &OwnedFd, keep_free: Option<u64>) -> Self {
        let stat = rustix::fs::fstatvfs(root);
        let whole = stat.as_ref().map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
        let inodes = stat.as_ref().map_or(0, |stat| stat.f_files / SHARE);
        Self { bytes: keep_free.unwrap_or_else(|| default_floor(whole)), inodes: inodes.min(INODES) }
    }
}

/// What is left of a file system of so many bytes unless `cache.keep_free` says otherwise.
pub(in crate::content) fn default_floor(whole: u64) -> u64 {
    (whole / SHARE).min(MOST_FREE)
}

fn free_bytes(stat: &StatVfs) -> u64 {
    stat.f_bavail.saturating_mul(stat.f_frsize)
}

/// Somebody who waits for room.
struct Calling<'a>(&'a Cas);

impl<'a> Calling<'a> {
    fn new(cas: &'a Cas) -> Self {
        cas.calling.fetch_add(1, Ordering::SeqCst);
        Self(cas)
    }

    /// Has those give back room who can do without.
    fn call(&self) {
        self.0.calls.send_modify(|calls| *calls += 1);
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.calling.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Cas {
    /// Changes when somebody waits who found no room: what nobody waits for is to give its own back.
    pub(in crate::content) fn calls_for_room(&self) -> watch::Receiver<u64> {
        self.calls.subscribe()
    }

    /// Reserves `bytes` within the quota and above the floor.
    pub(super) fn make_room(&self, bytes: u64, class: Class) -> Result<(), Refusal> {
        if self.lack(bytes) == Lack::NONE && self.index.reserve(bytes).is_ok() {
            return Ok(());
        }
        let calling = (class == Class::Foreground).then(|| Calling::new(self));
        if calling.is_none() && self.calling.load(Ordering::SeqCst) > 0 {
            return Err(Refusal::new(Code::CacheFull, "somebody waits for the room that is left in the cache"));
        }
        let mut in_vain = 0;
        for turn in 0..=TURNS {
            let evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
            let lack = self.lack(bytes);
            let missing = match self.index.reserve(bytes) {
                Ok(()) if lack == Lack::NONE => return Ok(()),
                Ok(()) => {
                    self.index.release(bytes);
                    lack
                }
                Err(excess) => Lack { bytes: excess.max(lack.bytes), ..lack },
            };
            if turn == TURNS || bytes > self.quota {
                break;
            }
            if self.free_up(missing) != Lack::NONE {
                in_vain = 0;
                continue;
            }
            drop(evicting);
            let Some(calling) = &calling else { break };
            // Who has just closed a file, or opens one and is not answered yet, holds it for a moment more.
            if self.unhurried.load(Ordering::SeqCst) == 0 {
                in_vain += 1;
            }
            if in_vain > IN_VAIN {
                break;
            }
            calling.call();
            std::thread::sleep(PAUSE);
        }
        let advice = "what is open or pinned is not evicted";
        let path = self.path.display();
        let lack = self.lack(bytes);
        let detail = if lack.bytes > 0 {
            let (free, floor) = (self.free().0.unwrap_or(0), words::size(self.floor.bytes));
            let free = words::size(free);
            format!("its file system has {free} free, and {floor} of it stay free (cache.keep_free); free space there")
        } else if lack.files > 0 {
            "its file system has no inodes left; remove files there".to_owned()
        } else {
            format!("cache.quota is {}; raise it", words::size(self.quota))
        };
        Err(Refusal::new(Code::CacheFull, format!("no room for {bytes} bytes in the cache {path}: {detail}; {advice}")))
    }

    /// Whether the file system is below the floor: nothing that nobody waits for is written then.
    pub(in crate::content) fn is_scarce(&self) -> bool {
        self.lack(0) != Lack::NONE
    }

    /// Evicts what nobody uses if the file system is below the floor.
    pub(in crate::content) fn relieve(&self) {
        if self.lack(0) == Lack::NONE || !self.index.is_walked() {
            return;
        }
        let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        let lack = self.lack(0);
        if lack == Lack::NONE || self.usage().1 == 0 {
            return;
        }
        let freed = self.free_up(lack);
        if freed != Lack::NONE {
            tracing::info!(freed.bytes, freed.files, "evicted: the cache's file system is below cache.keep_free");
        }
    }

    /// Does what needs `bytes` and a file. If the file system is full, against its own word or because
    /// others took what was free, makes room and does it once more.
    pub(super) fn with_room<T>(&self, bytes: u64, act: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        let full = match act() {
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => errno,
            done => return done,
        };
        let evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        // More than is missing: who filled it goes on.
        let freed = self.free_up(Lack { bytes: on_disk(bytes).max(AT_LEAST), files: 1 });
        drop(evicting);
        tracing::info!(freed.bytes, freed.files, error = %full, "evicted: the cache's file system is full");
        act()
    }

    /// Evicts at least `missing`, if that much can go, and some more.
    fn free_up(&self, missing: Lack) -> Lack {
        let (held, files) = self.usage();
        let slack = Lack {
            bytes: if missing.bytes > 0 { held / SLACK } else { 0 },
            files: if missing.files > 0 { files as u64 / SLACK + MORE_FILES } else { 0 },
        };
        let target = missing.plus(slack);
        let mut freed = self.evict(target);
        if !missing.covered_by(freed)
            && let Some(let_go) = self.let_go.get()
        {
            let_go();
            let rest = Lack {
                bytes: target.bytes.saturating_sub(freed.bytes),
                files: target.files.saturating_sub(freed.files),
            };
            freed = freed.plus(self.evict(rest));
        }
        freed
    }

    /// Removes what nobody uses, the least useful first, until `target` is free. Returns what is.
    fn evict(&self, target: Lack) -> Lack {
        let mut freed = Lack::NONE;
        for name in self.index.candidates() {
            if target.covered_by(freed) {
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
            // Looked at again under it: who holds a tree does so before opening it.
            let free = lease::take(&file) && !self.index.is_spared(name);
            if free && rustix::fs::unlinkat(&self.root, place(name), AtFlags::empty()).is_ok() {
                freed = freed.plus(Lack { bytes: self.index.forget(name), files: 1 });
                COUNTS.evicted();
            }
        }
        freed
    }

    /// Free bytes of the file system, if it says so, and how many of them are left to others.
    pub(in crate::content) fn free(&self) -> (Option<u64>, u64) {
        (rustix::fs::fstatvfs(&self.root).ok().map(|stat| free_bytes(&stat)), self.floor.bytes)
    }

    /// What the file system lacks to hold `bytes` more above the floor.
    fn lack(&self, bytes: u64) -> Lack {
        let Ok(stat) = rustix::fs::fstatvfs(&self.root) else { return Lack::NONE };
        // No inodes at all: a file system that makes them as it goes.
        let files = if stat.f_files == 0 { 0 } else { self.floor.inodes.saturating_sub(stat.f_favail) };
        Lack { bytes: self.floor.bytes.saturating_add(bytes).saturating_sub(free_bytes(&stat)), files }
    }
}
