//! Mounting as an ordinary user, through the setuid `fusermount3`.
//!
//! Its protocol: the environment variable `_FUSE_COMMFD` names a socket among its descriptors;
//! it mounts, and sends the `/dev/fuse` descriptor over that socket. We give it the socket as
//! standard input, so that no descriptor has to be made inheritable in this process, where a
//! child started by another thread could catch it.

use std::io;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::{FS_NAME, MountError};

const PROGRAM: &str = "fusermount3";

/// How long the program may take. It only opens, checks and mounts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mounts at `at` and receives the descriptor.
pub(super) fn mount(at: &Path) -> Result<OwnedFd, MountError> {
    // It opens the device with our rights, and its own words on failing are not much help.
    match rustix::fs::access("/dev/fuse", Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Err(MountError::NoDevice),
        Err(_) => {
            let why = "/dev/fuse is closed to this user; udev gives it mode 0666, check: ls -l /dev/fuse".to_owned();
            return Err(MountError::NotAllowed { at: at.to_owned(), why });
        }
    }
    let (ours, theirs) = UnixStream::pair().map_err(|error| MountError::io("making a socket failed", at, error))?;
    ours.set_read_timeout(Some(PATIENCE)).map_err(|error| MountError::io("setting a timeout failed", at, error))?;
    let mut options = format!("ro,nosuid,nodev,default_permissions,fsname={FS_NAME},subtype={FS_NAME}");
    if allows_other(&std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default()) {
        options.push_str(",allow_other");
    }
    let mut child = Command::new(PROGRAM)
        .args(["-o", &options, "--"])
        .arg(at)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| spawn_error(at, error))?;
    let received = receive(&ours);
    if received.is_err() {
        // It has said no and ended, or it hangs: in neither case is there anything to lose.
        let _ = child.kill();
    }
    let output =
        child.wait_with_output().map_err(|error| MountError::io("waiting for fusermount3 failed", at, error))?;
    let said = mcpfs_trust::error::bounded(String::from_utf8_lossy(&output.stderr).trim());
    match received {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(MountError::Fusermount { at: at.to_owned(), said }),
        Err(error) if said.is_empty() => Err(MountError::io("fusermount3 gave no answer", at, error)),
        Err(_) => Err(MountError::Fusermount { at: at.to_owned(), said }),
    }
}

/// Unmounts; if it is busy, lazily.
pub(super) fn unmount(at: &Path) -> io::Result<()> {
    run_unmount(at, &["-u", "-q"]).or_else(|_| detach(at))
}

/// Lazily unmounts.
pub(super) fn detach(at: &Path) -> io::Result<()> {
    run_unmount(at, &["-u", "-z"])
}

fn run_unmount(at: &Path, flags: &[&str]) -> io::Result<()> {
    let output = Command::new(PROGRAM).args(flags).arg("--").arg(at).stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(mcpfs_trust::error::bounded(String::from_utf8_lossy(&output.stderr).trim()))),
    }
}

/// One message with one descriptor, or `None` if the other side closed without sending one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let device = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(device)
}

fn spawn_error(at: &Path, error: io::Error) -> MountError {
    match error.kind() {
        io::ErrorKind::NotFound => MountError::NoFusermount,
        _ => MountError::io("starting fusermount3 failed", at, error),
    }
}

/// Whether `/etc/fuse.conf` lets users open their mounts to others.
fn allows_other(conf: &str) -> bool {
    conf.lines().any(|line| line.trim() == "user_allow_other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bare_line_counts() {
        assert!(allows_other("# a comment\nuser_allow_other\nmount_max = 10\n"));
        for not in ["", "#user_allow_other", "user_allow_other = 1", "no_user_allow_other"] {
            assert!(!allows_other(not), "{not}");
        }
    }
}
