//! First accesses: one audit row per process and release, not one per open.
//!
//! A process is its thread group and start time, so that a number used again is somebody new.
//! The kernel names the thread that asks, and finding the process costs several reads of
//! /proc. Threads seen before are looked up by their own number and start time ([`Threads`]).

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::OnceCell;

use super::shares::Payer;
use super::threads::{Task, Threads};

/// Threads and processes remembered, each with a release. One that was dropped gets a second
/// row: too many rather than too few.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

type Key = (Task, u32);

/// Set once the row is committed.
pub(super) type Recorded = Arc<OnceCell<()>>;

#[derive(Debug)]
pub(super) struct Accesses {
    pub(super) threads: Threads,
    known: Mutex<LruCache<Key, Payer>>,
    processes: Mutex<LruCache<Key, Recorded>>,
}

impl Default for Accesses {
    fn default() -> Self {
        let (known, processes) = (LruCache::new(REMEMBERED), LruCache::new(REMEMBERED));
        Self { threads: Threads::default(), known: Mutex::new(known), processes: Mutex::new(processes) }
    }
}

impl Accesses {
    /// Whose this thread is, if it has opened something of the release before.
    pub(super) fn known(&self, thread: Task, slot: u32) -> Option<Payer> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&(thread, slot)).copied()
    }

    /// Remembers a thread whose process has its row.
    pub(super) fn remember(&self, thread: Task, slot: u32, payer: Payer) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).put((thread, slot), payer);
    }

    /// Whether the row of a process and a release is committed.
    pub(super) fn has_row(&self, process: Task, slot: u32) -> bool {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.get(&(process, slot)).is_some_and(|recorded| recorded.initialized())
    }

    /// The one cell of a process and a release: whoever comes first records, others wait.
    pub(super) fn of_process(&self, process: Task, slot: u32) -> Recorded {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(processes.get_or_insert((process, slot), Recorded::default))
    }
}

/// The name of the thread's program, as the kernel shows it.
pub(super) fn program(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_number_used_again_is_somebody_new() {
        let accesses = Accesses::default();
        let (old, new) = (Task { pid: 5, start: 1 }, Task { pid: 5, start: 2 });
        accesses.remember(old, 7, Some(1000));
        assert_eq!(
            [accesses.known(old, 7), accesses.known(new, 7), accesses.known(old, 8)],
            [Some(Some(1000)), None, None]
        );
        let recorded = accesses.of_process(old, 7);
        assert!(Arc::ptr_eq(&recorded, &accesses.of_process(old, 7)));
        assert!(!accesses.has_row(old, 7), "not yet");
        recorded.set(()).unwrap();
        assert_eq!(
            [(old, 7), (new, 7), (old, 8)].map(|(task, slot)| accesses.has_row(task, slot)),
            [true, false, false]
        );
        assert!(!Arc::ptr_eq(&accesses.of_process(old, 7), &accesses.of_process(new, 7)));
    }
}
