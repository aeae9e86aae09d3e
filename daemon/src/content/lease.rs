//! Whether anybody holds a file open, asked of the kernel.
//!
//! Eviction must not take a file that is open, mapped or a passthrough backing file. This
//! process does not know all of those: backing ids outlive it and live in the kernel. A
//! write lease is granted only if no other open file description of the inode exists, so
//! asking for one is an exact answer, whoever the holder is. Losing the lease raises a
//! signal, by default the deadly SIGIO; SIGURG, which does nothing, is chosen instead.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `F_SETSIG` of <asm-generic/fcntl.h>, which the libc crate leaves out.
const F_SETSIG: libc::c_int = 10;

/// Takes a write lease that lasts until `file`, opened read-only, is closed. `false` if
/// another description of the same file is open. A file system without leases grants all:
/// there the readers of a removed file still keep its bytes.
pub(super) fn take(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: both calls take a descriptor that `file` keeps open and plain integers, and
    // neither reads nor writes memory of this process.
    let taken = unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0 && libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) == 0
    };
    taken || io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN)
}
