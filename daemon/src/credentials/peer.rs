//! Who is at the other end of a connection to the control socket, by the kernel's word as of the moment it was made.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::config::{NoNumber, look_up};
use crate::control::peer_groups;

/// Whoever connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    /// His own group first.
    groups: Vec<u32>,
}

impl Peer {
    /// The one who connected to `socket`.
    ///
    /// # Errors
    /// If it is a connection to anything else.
    pub(super) fn of(connection: BorrowedFd<'_>, socket: &Path) -> io::Result<Self> {
        let named = UnixStream::from(connection.try_clone_to_owned()?).local_addr()?;
        if named.as_pathname() != Some(socket) {
            return Err(io::Error::other("it is no connection to the control socket"));
        }
        let known = rustix::net::sockopt::socket_peercred(connection)?;
        let mut groups = vec![known.gid.as_raw()];
        groups.extend(peer_groups(connection)?);
        Ok(Self { uid: known.uid.as_raw(), groups })
    }

    /// Whether he is in one of these groups.
    ///
    /// # Errors
    /// If he is in none, and one of them cannot be looked up.
    pub(super) fn is_in(&self, groups: &[String]) -> Result<bool, String> {
        let numbers = numbers(groups);
        if numbers.iter().flatten().any(|number| self.groups.contains(number)) {
            return Ok(true);
        }
        numbers.into_iter().try_for_each(|number| number.map(drop).map_err(words)).map(|()| false)
    }
}

/// Whether there are such groups.
///
/// # Errors
/// What is wrong with one of them.
pub(super) fn exist(groups: &[String]) -> Result<(), String> {
    numbers(groups).into_iter().try_for_each(|number| number.map(drop).map_err(words))
}

/// Those that are given by name are looked up.
fn numbers(groups: &[String]) -> Vec<Result<u32, NoNumber>> {
    let (given, named): (Vec<_>, Vec<_>) = groups.iter().partition(|group| group.parse::<u32>().is_ok());
    let given = given.into_iter().filter_map(|group| group.parse().ok()).map(Ok);
    given.chain(look_up(named.into_iter().map(String::as_str)).into_values()).collect()
}

fn words(why: NoNumber) -> String {
    match why {
        NoNumber::Wrong(why) | NoNumber::Unanswered(why) => why,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn of_a_connection() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let client = UnixStream::connect(&socket).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let peer = Peer::of(accepted.as_fd(), &socket).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.groups[0], rustix::process::getegid().as_raw());
        let all = rustix::process::getgroups().unwrap();
        assert!(all.iter().all(|group| peer.groups.contains(&group.as_raw())), "{peer:?}");
        let none = || "no-such-group".to_owned();
        // Not root's: by that one nothing is given to anybody.
        let member = Peer { groups: vec![70_001, 1], ..peer.clone() };
        let second = nix::unistd::Group::from_gid(1.into()).unwrap().expect("every host has it").name;
        assert_eq!(member.is_in(&[none(), second.clone()]), Ok(true), "one is enough");
        assert_eq!(member.is_in(&["70002".to_owned(), "70001".to_owned()]), Ok(true), "by number");
        assert_eq!(member.is_in(&["70002".to_owned()]), Ok(false));
        let stranger = Peer { groups: vec![70_001], ..peer };
        assert_eq!(stranger.is_in(std::slice::from_ref(&second)), Ok(false));
        let error = stranger.is_in(&[second, none()]).unwrap_err();
        assert!(error.contains("no group no-such-group"), "{error}");
        // The same two ends under another name, and a pair without any.
        assert!(Peer::of(accepted.as_fd(), &dir.path().join("other.sock")).is_err());
        let (pair, _other) = UnixStream::pair().unwrap();
        assert!(Peer::of(pair.as_fd(), &socket).is_err());
        // A client's end is named by nobody, and what is no socket has no name.
        assert!(Peer::of(client.as_fd(), &socket).is_err());
        assert!(Peer::of(std::fs::File::open("/dev/null").unwrap().as_fd(), &socket).is_err());
    }
}
