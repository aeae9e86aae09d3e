//! The one request of <linux/fuse.h> that fuser makes only when it drops an id of its own.
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Setter, opcode};

/// FUSE_DEV_IOC_BACKING_CLOSE.
const BACKING_CLOSE: rustix::ioctl::Opcode = opcode::write::<u32>(229, 2);

/// Gives a backing id back to the kernel.
///
/// # Errors
/// ENOENT if there is no such id, EPERM without CAP_SYS_ADMIN.
pub(super) fn close_backing(fuse: impl AsFd, id: u32) -> Result<(), Errno> {
    // SAFETY: the request reads one u32 through the pointer, and that is what `Setter` passes.
    unsafe { rustix::ioctl::ioctl(fuse, Setter::<BACKING_CLOSE, u32>::new(id)) }
}
