//! One process at a time for a store: an exclusive `flock`.
//!
//! Such a lock belongs to the open file description, and a child shares those between its
//! fork and its exec. So what a closed store held may look taken for a moment longer because
//! some other thread is just starting a program: a lock is refused only if it stays taken.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// How often, and how long each time, to wait for a child on its way to exec: 1 s together.
const TURNS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock of an open file or directory; it ends when the last copy of the descriptor closes.
///
/// Blocks up to 1 s.
///
/// # Errors
/// `WOULDBLOCK` if somebody else keeps it; others as `flock(2)`.
pub(crate) fn exclusive(file: impl AsFd) -> Result<(), Errno> {
    for _ in 0..TURNS {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(PAUSE),
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
}
