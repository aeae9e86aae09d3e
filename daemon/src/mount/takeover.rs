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

/// Opens a session on what the supervisor hands out.
pub(super) fn session<F: Filesystem>(
    link: &Link,
    open: impl FnOnce(OwnedFd) -> io::Result<Session<F>>,
) -> io::Result<Session<F>> {
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
    Ok(session)
}
