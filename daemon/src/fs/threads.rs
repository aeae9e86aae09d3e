//! Which thread asks: its number and its start time, for numbers are used again.
//!
//! The start time stands in `/proc/PID/stat`, which the kernel writes anew for each reader, with all that it says
//! of the process: on the machine of docs/performance.md 10 µs, more than everything else that an open takes
//! here. So a thread is looked up once and then known by a descriptor of it (pidfd_open(2)). Until that says that
//! the thread has ended, nobody else has its number; asking it takes 0.2 µs. Nothing else is remembered of it.
//!
//! Rejected: a descriptor of its `/proc/PID/stat` (5 µs), and to remember a number for a while, which is wrong
//! in the moments that matter.

use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::groups;

/// Threads that are known by a descriptor. A server starts with five of them; others are looked up at each open.
const KNOWN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
/// How many of those that opened nothing for longest are asked whether they have ended, when another one comes.
const ASKED: usize = 8;

/// PIDFD_THREAD of <linux/pidfd.h>, since Linux 6.9; before, it is refused, and each open looks.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.unsigned_abs());

/// A thread, or a process by the first of its threads: number and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Task {
    pub(super) pid: u32,
    /// In the unit of its source, which is always the same.
    pub(super) start: u64,
}

/// The threads that opened something last.
#[derive(Debug)]
pub(super) struct Threads(Mutex<LruCache<u32, (Task, OwnedFd)>>);

impl Default for Threads {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(KNOWN)))
    }
}

impl Threads {
    /// The thread `pid`; `None` if it is in another pid namespace or gone.
    pub(super) fn of(&self, pid: u32) -> Option<Task> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((task, life)) = known().get(&pid)
            && lives(life)
        {
            return Some(*task);
        }
        let life = life_of(pid);
        let task = Task::read(pid)?;
        // It lived before its start time was read and does so afterwards: it is that one's.
        if let Some(life) = life.filter(lives) {
            let mut known = known();
            let oldest = known.iter().rev().take(ASKED);
            let gone: Vec<u32> = oldest.filter(|(_, (_, life))| !lives(life)).map(|(pid, _)| *pid).collect();
            gone.iter().for_each(|pid| drop(known.pop(pid)));
            known.put(pid, (task, life));
        }
        Some(task)
    }
}

/// A descriptor of the thread, if this kernel gives one and its numbers are those of /proc.
fn life_of(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(pid.try_into().ok()?)?;
    groups::is_ours("/proc").then(|| pidfd_open(pid, THREAD).ok())?
}

/// Whether it says that the thread has not ended.
fn lives(life: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(life, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0)
}

impl Task {
    fn read(pid: u32) -> Option<Self> {
        if pid == 0 {
            return None;
        }
        // In one read: a line of it has 52 numbers and a name of at most 64 bytes.
        let mut stat = [0; 1024];
        let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut stat)).ok()?;
        Some(Self { pid, start: start_time(&stat[..length])? })
    }
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
    use std::sync::mpsc;
    use std::thread;

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

    fn tid() -> u32 {
        rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
    }

    /// How many are known, and how many of them live.
    fn count(threads: &Threads) -> (usize, usize) {
        let known = threads.0.lock().unwrap();
        (known.len(), known.iter().filter(|(_, (_, life))| lives(life)).count())
    }

    #[test]
    fn a_thread_is_the_same_for_as_long_as_it_lives() {
        let threads = Threads::default();
        let process = threads.of(std::process::id()).unwrap();
        assert!(process.start > 0);
        assert_eq!((threads.of(process.pid), threads.of(0)), (Some(process), None));
        let (go, wait) = mpsc::channel::<()>();
        let (say, said) = mpsc::channel();
        let other = thread::spawn(move || {
            say.send(tid()).unwrap();
            wait.recv().unwrap_err();
        });
        let number = said.recv().unwrap();
        let task = threads.of(number).unwrap();
        assert_eq!((task.pid, threads.of(number)), (number, Some(task)));
        assert_eq!(Task::read(number), Some(task), "as /proc has it");
        // A kernel that knows no threads by a descriptor gives none.
        let known = count(&threads).0;
        assert!([0, 2].contains(&known) && count(&threads).1 == known);
        drop(go);
        other.join().unwrap();
    }

    #[test]
    fn a_number_used_again_is_somebody_new() {
        let threads = Threads::default();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let task = threads.of(child.id()).unwrap();
        assert_eq!((threads.of(child.id()), count(&threads)), (Some(task), (1, 1)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(count(&threads), (1, 0));
        // Nobody has it now, and what was known of it does not count; nor does it stay.
        assert_ne!(threads.of(child.id()), Some(task));
        threads.of(std::process::id()).unwrap();
        assert_eq!(count(&threads), (1, 1));
    }

    #[test]
    fn so_many_are_known_and_no_more() {
        let threads = Threads::default();
        let mut children: Vec<_> =
            (0..KNOWN.get() + 8).map(|_| std::process::Command::new("sleep").arg("60").spawn().unwrap()).collect();
        let first: Vec<_> = children.iter().map(|child| threads.of(child.id())).collect();
        assert_eq!(count(&threads), (KNOWN.get(), KNOWN.get()));
        let again: Vec<_> = children.iter().map(|child| threads.of(child.id())).collect();
        assert!(first == again && first.iter().all(Option::is_some));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
