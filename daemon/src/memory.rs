//! What this process keeps of memory that it needs no more.
//!
//! The C library's allocator keeps what was freed for the next to ask, in as many pools as eight
//! times the processors, and each buffer of megabytes that is freed teaches it to keep larger ones.
//! A daemon that fetched a few large files held 80 MiB for ever that way, of which it used 5, and
//! at its peak twice what its own budget of memory allows. So large buffers come from the kernel
//! and go back to it, always, and the rest lies in two pools. Fetching is bound by the network;
//! what the kernel's zeroing costs is not seen there.
//!
//! Rejected: another allocator (jemalloc, mimalloc): a build in C, for what two settings do.
#![allow(unsafe_code)]

/// Buffers from this size on are the kernel's: below are requests, rows and names, above are chunks.
const LARGE: libc::c_int = 256 << 10;
/// Pools for all else. Threads have a small store of their own besides.
const POOLS: libc::c_int = 2;

/// To be called before there is a second thread.
pub(crate) fn keep_little() {
    // Others than the GNU C library have no such settings, and keep less.
    #[cfg(target_env = "gnu")]
    for (setting, value) in [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_ARENA_MAX, POOLS)] {
        // SAFETY: two numbers for the allocator; it refuses what it does not know.
        let taken = unsafe { libc::mallopt(setting, value) };
        if taken != 1 {
            tracing::debug!(setting, value, "the allocator does not take this");
        }
    }
}
