//! First accesses: one audit row per process and release, not one per open.
//!
//! A process is its thread group and start time, so that a number used again is somebody new.
//! The kernel names the thread that asks, so finding the process costs several reads of
//! /proc; the thread's own start time costs one. Threads seen before are looked up by that.

use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::OnceCell;

use super::shares::Payer;

/// Threads and processes remembered, each with a release. One that was dropped gets a second
/// row: too many rather than too few.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// A thread, or a process by the first of its threads: number and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Task {
    pub(super) pid: u32,
    /// In the unit of its source, which is always the same.
    pub(super) start: u64,
}

type Key = (Task, u32);

/// Set once the row is committed.
pub(super) type Recorded = Arc<OnceCell<()>>;

#[derive(Debug)]
pub(super) struct Accesses {
    threads: Mutex<LruCache<Key, Payer>>,
    processes: Mutex<LruCache<Key, Recorded>>,
}

impl Default for Accesses {
    fn default() -> Self {
        Self { threads: Mutex::new(LruCache::new(REMEMBERED)), processes: Mutex::new(LruCache::new(REMEMBERED)) }
    }
}

impl Accesses {
    /// Whose this thread is, if it has opened something of the release before.
    pub(super) fn known(&self, thread: Task, slot: u32) -> Option<Payer> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).get(&(thread, slot)).copied()
    }

    /// Remembers a thread whose process has its row.
    pub(super) fn remember(&self, thread: Task, slot: u32, payer: Payer) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).put((thread, slot), payer);
    }

    /// The one cell of a process and a release: whoever comes first records, others wait.
    pub(super) fn of_process(&self, process: Task, slot: u32) -> Recorded {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(processes.get_or_insert((process, slot), Recorded::default))
    }
}

impl Task {
    /// The thread `pid`; `None` if it is in another pid namespace or gone.
    pub(super) fn thread(pid: u32) -> Option<Self> {
        if pid == 0 {
            return None;
        }
        // At each open, so in one read: a line of it has 52 numbers and a name of at most 64 bytes.
        let mut stat = [0; 1024];
        let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut stat)).ok()?;
        Some(Self { pid, start: start_time(&stat[..length])? })
    }
}

/// The name of the thread's program, as the kernel shows it.
pub(super) fn program(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned())
}

/// Field 22 of /proc/PID/stat. The name in field 2 may hold anything, so it ends at the last `)`.
fn start_time(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_name_cannot_forge_a_start_time() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        for name in ["node", ") S 1 1 1", "a b\n(c", "\u{fffd}"] {
            assert_eq!(start_time(format!("77 ({name}) {fields}\n").as_bytes()), Some(4242), "{name:?}");
        }
        assert_eq!(start_time(b"77 (x) S 1"), None);
        assert_eq!(start_time(b""), None);
    }

    #[test]
    fn this_thread_has_a_start() {
        let me = Task::thread(std::process::id()).unwrap();
        assert!(me.start > 0);
        assert_eq!(Task::thread(me.pid), Some(me));
        assert_eq!(Task::thread(0), None);
    }

    #[test]
    fn a_number_used_again_is_somebody_new() {
        let accesses = Accesses::default();
        let (old, new) = (Task { pid: 5, start: 1 }, Task { pid: 5, start: 2 });
        accesses.remember(old, 7, Some(1000));
        assert_eq!(
            [accesses.known(old, 7), accesses.known(new, 7), accesses.known(old, 8)],
            [Some(Some(1000)), None, None]
        );
        assert!(Arc::ptr_eq(&accesses.of_process(old, 7), &accesses.of_process(old, 7)));
        assert!(!Arc::ptr_eq(&accesses.of_process(old, 7), &accesses.of_process(new, 7)));
    }
}
