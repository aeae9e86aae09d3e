//! Sitting down at a session that others have served before.
//!
//! fuser wants to hear INIT first, and the kernel has said it once, to the supervisor. So fuser
//! gets one end of a socket on which that INIT lies; its answer is read off the other end and
//! compared by the supervisor; then the real device takes the socket's place under the same
//! number. A first worker goes the same way, so that there is one way, and it is always tried.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use fuser::{Filesystem, Session};
use rustix::io::DupFlags;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::supervisor::wire::{self, INIT_REPLY, Message};
use crate::worker::Link;

/// Opens a session on what the supervisor hands out, and says whether another process can take it over: whether the
/// kernel sends again what this one has taken and not answered.
pub(super) fn session<F: Filesystem>(
    link: &Link,
    open: impl FnOnce(OwnedFd) -> io::Result<Session<F>>,
) -> io::Result<(Session<F>, bool)> {
    let device = link.mounted()?;
    let (ours, stand_in) = wire::pair()?;
    send(&ours, device.init(), SendFlags::NOSIGNAL)?;
    let session = open(stand_in)?;
    let mut reply = [0; INIT_REPLY];
    let (length, whole) = recv(&ours, &mut reply, RecvFlags::TRUNC | RecvFlags::DONTWAIT)?;
    if length != INIT_REPLY || whole != INIT_REPLY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an INIT answer of {whole} bytes")));
    }
    link.ask(&Message::Init(reply), &[])?;
    // SAFETY: the number belongs to `session`, which keeps it open; here it is only written over,
    // and `forget` leaves it to its owner.
    let mut place = unsafe { OwnedFd::from_raw_fd(session.as_fd().as_raw_fd()) };
    let placed = rustix::io::dup3(device.fuse(), &mut place, DupFlags::CLOEXEC);
    std::mem::forget(place);
    placed?;
    Ok((session, resends(device.init())))
}

/// Whether a kernel that says this INIT knows FUSE_NOTIFY_RESEND, which came with Linux 6.9: FUSE_HAS_RESEND among
/// the flags of <linux/fuse.h>, whose upper half counts with FUSE_INIT_EXT alone.
fn resends(init: &[u8]) -> bool {
    const EXTENDED: u32 = 1 << 30;
    const RESENDS: u32 = 1 << 7;
    // Behind the header of 40 bytes: major, minor, max_readahead, flags, flags2.
    let word = |at: usize| init.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    word(52) & EXTENDED != 0 && word(56) & RESENDS != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_says_whether_it_sends_again() {
        let init = |flags: u32, upper: u32| {
            let mut init = vec![0xff; 52];
            init.extend(flags.to_ne_bytes());
            init.extend(upper.to_ne_bytes());
            init
        };
        assert!(resends(&init(1 << 30, 1 << 7)));
        assert!(!resends(&init(0, 1 << 7)), "not its upper half");
        assert!(!resends(&init(1 << 30, !(1 << 7))));
        assert!(!resends(&init(1 << 30, 1 << 7)[..56]), "a kernel of before");
    }
}
