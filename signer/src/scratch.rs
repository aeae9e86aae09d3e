//! Folders of unit tests that ask nothing of a disk: in memory, where nobody waits for a commit.
//!
//! What such a test says must not depend on the file system. Nothing is started from here and nothing large is put
//! here: containers mount it `noexec`, and give it 64 MiB. What is about a disk takes `tempfile::tempdir`.
#![allow(clippy::unwrap_used)]

/// Where it is.
const MEMORY: &str = "/dev/shm";
/// What all tests that run at once take together is less.
const ROOM: u64 = 32 << 20;

/// A folder of its own, gone with the value; on the disk if there is no room in memory.
pub(crate) fn in_memory() -> tempfile::TempDir {
    let room = rustix::fs::statvfs(MEMORY).is_ok_and(|there| there.f_bavail * there.f_frsize >= ROOM);
    let folder = if room { tempfile::tempdir_in(MEMORY) } else { tempfile::tempdir() };
    folder.or_else(|_| tempfile::tempdir()).unwrap()
}
