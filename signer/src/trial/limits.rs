//! Whose processes a trial's are, and how many the kernel lets it have.
//!
//! Whoever counts processes from outside is too late for one that doubles every millisecond: on a
//! busy machine the counter is what does not run any more. So the kernel counts. Its limit is for a
//! user, and it does not hold for root, not even without capabilities; root's trials are made as
//! nobody therefore, which is a user of less anyway.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// nobody and nogroup, which every system has under these numbers.
const NOBODY: Identity = Identity { uid: 65_534, gid: 65_534 };

/// Processes and threads that the kernel lets one trial have: more than the watcher allows, so
/// that a server that is only too large is told so.
const TASKS: u64 = 512;

/// Who makes the trial: somebody else only where this is root.
pub(super) fn identity() -> Option<Identity> {
    rustix::process::geteuid().is_root().then_some(NOBODY)
}

/// The words of `prlimit` that bound the processes of what follows them. The kernel counts all of
/// the user's; those that are there already are not the trial's.
pub(super) fn words(identity: Option<Identity>) -> [OsString; 2] {
    let uid = identity.map_or(rustix::process::geteuid().as_raw(), |identity| identity.uid);
    let tasks = tasks_of(uid) + TASKS;
    [format!("--nproc={tasks}:{tasks}").into(), "--".into()]
}

/// Tasks of a user, by the owners of /proc/PID.
fn tasks_of(uid: u32) -> u64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = processes.filter(|entry| entry.metadata().is_ok_and(|facts| facts.uid() == uid));
    let tasks = own.filter_map(|entry| fs::metadata(entry.path().join("task")).ok());
    // Each task is a folder in it, and counts as a link; the folder itself has two.
    tasks.map(|facts| facts.nlink().saturating_sub(2)).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn own_tasks_are_counted() {
        let uid = rustix::process::geteuid().as_raw();
        let before = tasks_of(uid);
        assert!(before >= 1);
        let [limit, end] = words(None);
        let limit: u64 = limit.to_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
        assert!(limit > TASKS && end == "--");
    }
}
