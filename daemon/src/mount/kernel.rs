//! mount(2) and umount2(2), for root.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::{FS_NAME, FS_TYPE, MountError};

/// Opens `/dev/fuse` and mounts it at `at`. The kernel's INIT waits in the descriptor.
pub(super) fn mount(at: &Path) -> Result<OwnedFd, MountError> {
    let device =
        rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| match error {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => MountError::NoDevice,
            Errno::PERM | Errno::ACCESS => not_allowed(at, "opening /dev/fuse was refused"),
            other => MountError::io("opening /dev/fuse failed", "/dev/fuse", other),
        })?;
    // rootmode is the type of the root, a directory (octal, as the kernel reads it).
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions,allow_other",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let options = CString::new(options).map_err(|error| MountError::io("building mount options failed", at, error))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    match rustix::mount::mount(FS_NAME, at, FS_TYPE, flags, options.as_c_str()) {
        Ok(()) => Ok(device),
        Err(Errno::PERM | Errno::ACCESS) => {
            Err(not_allowed(at, "root lacks CAP_SYS_ADMIN here (a container?), or a security module forbids it"))
        }
        Err(Errno::NODEV) => Err(MountError::NoDevice),
        Err(other) => Err(MountError::io("mounting failed", at, other)),
    }
}

/// Unmounts; if it is busy, takes it out of the tree and lets its last users finish.
pub(super) fn unmount(at: &Path) -> io::Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => detach(at),
        other => Ok(other?),
    }
}

/// Lazily unmounts: never waits for a dead daemon.
pub(super) fn detach(at: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(at, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
}

/// Ends the connection of a FUSE mount, so that every waiting request gets an error, and takes it
/// out of the tree.
pub(super) fn abort(at: &Path) -> io::Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE) {
        // Somebody has something of it open. It is aborted all the same.
        Err(Errno::BUSY) => detach(at),
        other => Ok(other?),
    }
}

fn not_allowed(at: &Path, why: &str) -> MountError {
    MountError::NotAllowed { at: at.to_owned(), why: why.to_owned() }
}
