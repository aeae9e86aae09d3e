//! Who is at the other end of the control socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use crate::config::Membership;

/// The most groups that Linux gives a process.
const MOST: usize = 65_536;

/// Whoever connected, as the kernel noted him then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The process that connected; 0 if it is outside our pid namespace.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its other groups; `None` if the kernel does not say.
    pub groups: Option<Arc<[u32]>>,
}

impl Peer {
    /// The peer of a connected socket.
    ///
    /// # Errors
    /// If it is gone already.
    pub(super) fn of(stream: &tokio::net::UnixStream) -> io::Result<Self> {
        use std::os::fd::AsFd as _;
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let groups = groups(stream.as_fd()).inspect_err(|error| {
            tracing::debug!(%error, "the kernel does not say what groups a caller has");
        });
        Ok(Self { pid, uid: credentials.uid(), gid: credentials.gid(), groups: groups.ok().map(Arc::from) })
    }

    /// Whether it may change what the daemon does: root and the daemon's own user.
    pub fn administers(&self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }

    /// Whether it has `group` among its other groups.
    pub(super) fn has(&self, group: u32) -> Membership {
        match &self.groups {
            Some(groups) if groups.contains(&group) => Membership::Member,
            Some(_) => Membership::Stranger,
            None => Membership::Unknown("this kernel does not say what groups a caller has"),
        }
    }
}

/// The groups of whoever connected a socket, of the moment when that was: not what stands in /proc by now.
#[allow(unsafe_code)]
pub(crate) fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let room = groups.len() * size_of::<u32>();
        let mut length = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: `groups` has `length` bytes, of which the kernel writes no more, and says how many.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).map_err(io::Error::other)? / size_of::<u32>();
        match io::Error::last_os_error() {
            _ if outcome == 0 => {
                groups.truncate(count);
                return Ok(groups);
            }
            // It says how much it wants.
            error if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() && count <= MOST => {
                groups.resize(count, 0);
            }
            error => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_kernel_says_the_groups() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut ours: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(rustix::process::Gid::as_raw).collect();
        let mut told = groups(one.as_fd()).unwrap();
        drop(other);
        ours.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, ours);
        assert!(groups(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }

    #[test]
    fn what_is_not_said_is_unknown() {
        let peer = |groups: Option<&[u32]>| Peer { pid: 1, uid: 7, gid: 7, groups: groups.map(Arc::from) };
        assert_eq!(peer(Some(&[4, 5])).has(5), Membership::Member);
        assert_eq!(peer(Some(&[])).has(7), Membership::Stranger);
        assert!(matches!(peer(None).has(5), Membership::Unknown(_)));
    }
}
