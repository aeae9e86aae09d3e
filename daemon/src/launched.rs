//! Which process belongs to which launch.
//!
//! `exec` keeps a process's number and start time, so the launcher that asked is the server
//! now. What it starts is found by climbing the parents at the time of the question: a process
//! belongs to the nearest launch above it. A process whose parents have ended belongs to none
//! that we could name, and is not guessed at.
//!
//! A number is nothing without the start time: it is used again. Memory is bounded, and what
//! has ended makes room before anything that still runs.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use mcpfs_trust::name::{ServerName, Version};

use crate::caller;

/// Launches remembered, at most. Beyond it the one that was asked for least recently is forgotten.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// Launches that are kept before ended ones are looked for.
const FIRST_SWEEP: usize = 64;

/// One launch that was answered with yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// When the process began, microseconds after the host's boot; with its number that names it for good.
    pub start_us: u64,
    /// `seq` of its launch row.
    pub seq: i64,
    /// What it was to become.
    pub name: ServerName,
    /// What it was to become.
    pub version: Version,
}

/// The launches of this daemon, by process. Clones share them.
#[derive(Debug, Clone)]
pub struct Launches(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    by_pid: LruCache<u32, Launched>,
    /// How many there may be before ended ones are looked for.
    sweep_at: usize,
}

impl Default for Launches {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Known { by_pid: LruCache::new(REMEMBERED), sweep_at: FIRST_SWEEP })))
    }
}

impl Launches {
    /// Remembers a launch; says whether [`Launches::sweep`] is due.
    pub fn add(&self, pid: u32, launched: Launched) -> bool {
        let mut known = self.lock();
        known.by_pid.put(pid, launched);
        known.by_pid.len() >= known.sweep_at
    }

    /// The launch of this very process.
    pub fn of_process(&self, pid: u32, start_us: Option<u64>) -> Option<Launched> {
        self.lock().by_pid.get(&pid).filter(|one| Some(one.start_us) == start_us).cloned()
    }

    /// Forgets the launch of this very process, and gives it back.
    pub fn take(&self, pid: u32, start_us: Option<u64>) -> Option<Launched> {
        let mut known = self.lock();
        known.by_pid.peek(&pid).filter(|one| Some(one.start_us) == start_us)?;
        known.by_pid.pop(&pid)
    }

    /// The row of the launch that a process belongs to: its own or its nearest ancestor's.
    /// Reads /proc, so it is not for a runtime thread.
    pub fn row_of(&self, pid: Option<u32>, start_us: Option<u64>) -> Option<i64> {
        self.row_in("/proc", pid?, start_us?)
    }

    fn row_in(&self, proc: &str, pid: u32, start_us: u64) -> Option<i64> {
        if self.lock().by_pid.is_empty() {
            return None;
        }
        caller::lineage(proc, pid, start_us)
            .find_map(|(pid, start_us)| self.of_process(pid, Some(start_us)))
            .map(|launched| launched.seq)
    }

    /// Forgets the processes that have ended. Reads /proc, so it is not for a runtime thread.
    pub fn sweep(&self) {
        self.sweep_in("/proc");
    }

    fn sweep_in(&self, proc: &str) {
        // Not under the lock: opens wait for it.
        let all: Vec<(u32, u64)> = self.lock().by_pid.iter().map(|(pid, one)| (*pid, one.start_us)).collect();
        let ended = all.into_iter().filter(|(pid, start_us)| caller::start_us(proc, *pid) != Some(*start_us));
        for (pid, start_us) in ended.collect::<Vec<_>>() {
            self.take(pid, Some(start_us));
        }
        let mut known = self.lock();
        known.sweep_at = known.by_pid.len().saturating_mul(2).clamp(FIRST_SWEEP, REMEMBERED.get());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::caller::tests::fake;

    /// A launch that began at this many clock ticks.
    fn launched(seq: i64, ticks: u64) -> Launched {
        Launched { start_us: ticks * 10_000, seq, name: "a".parse().unwrap(), version: "1.0.0".parse().unwrap() }
    }

    #[test]
    fn children_belong_to_the_nearest_launch() {
        let dir = tempfile::tempdir().unwrap();
        let (root, proc) = (dir.path(), dir.path().to_str().unwrap());
        for (pid, comm, parent, start) in
            [(1, "init", 0, 1), (10, "host", 1, 2), (20, "server", 10, 3), (21, "sh", 20, 4), (22, "node", 21, 5)]
        {
            fake(root, pid, comm, parent, start);
        }
        let launches = Launches::default();
        assert_eq!(launches.row_in(proc, 22, 50_000), None);
        launches.add(20, launched(7, 3));
        for (pid, start_us) in [(20, 30_000), (21, 40_000), (22, 50_000)] {
            assert_eq!(launches.row_in(proc, pid, start_us), Some(7), "{pid}");
        }
        // The application that started it does not belong to it.
        assert_eq!(launches.row_in(proc, 10, 20_000), None);
        // One server that starts another.
        launches.add(22, launched(9, 5));
        assert_eq!(launches.row_in(proc, 22, 50_000), Some(9));
        assert_eq!(launches.row_in(proc, 21, 40_000), Some(7));
        // Whose parent ended belongs to nobody we could name.
        fake(root, 21, "sh", 1, 4);
        assert_eq!(launches.row_in(proc, 21, 40_000), None);
    }

    #[test]
    fn a_number_used_again_is_somebody_new() {
        let dir = tempfile::tempdir().unwrap();
        let (root, proc) = (dir.path(), dir.path().to_str().unwrap());
        let launches = Launches::default();
        launches.add(20, launched(7, 3));
        fake(root, 20, "other", 1, 9);
        fake(root, 30, "child", 20, 10);
        assert_eq!(launches.row_in(proc, 20, 90_000), None);
        assert_eq!(launches.row_in(proc, 30, 100_000), None);
        // Who asked has ended, and its number is another's: its parents are not that one's.
        launches.add(20, launched(8, 9));
        assert_eq!(launches.row_in(proc, 30, 99_000), None);
        assert_eq!(launches.row_in(proc, 30, 100_000), Some(8));
        // Nobody's parent is younger than it.
        fake(root, 30, "child", 20, 5);
        assert_eq!(launches.row_in(proc, 30, 50_000), None);
        assert_eq!(launches.take(20, Some(30_000)), None);
        assert_eq!(launches.take(20, Some(90_000)), Some(launched(8, 9)));
        assert_eq!(launches.of_process(20, Some(90_000)), None);
    }

    #[test]
    fn what_ended_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let (root, proc) = (dir.path(), dir.path().to_str().unwrap());
        fake(root, 1, "alive", 0, 3);
        let launches = Launches::default();
        launches.add(1, launched(1, 3));
        let due: Vec<u32> = (2..100).filter(|pid| launches.add(*pid, launched(2, 3))).collect();
        assert_eq!(due.first(), Some(&64));
        launches.sweep_in(proc);
        assert_eq!(launches.of_process(1, Some(30_000)), Some(launched(1, 3)));
        assert_eq!(launches.lock().by_pid.len(), 1);
        for pid in 100..30_000 {
            launches.add(pid, launched(2, 3));
        }
        assert_eq!(launches.lock().by_pid.len(), REMEMBERED.get());
    }
}
