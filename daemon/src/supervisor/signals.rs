//! Signals as descriptors, since everything else here is waited for as one.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Readable when a signal has come.
#[derive(Debug)]
pub(super) struct Signals {
    /// SIGHUP: read the configuration again.
    pub(super) reload: OwnedFd,
    /// SIGTERM or SIGINT: end.
    pub(super) end: OwnedFd,
}

impl Signals {
    /// From now on these signals do nothing else.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { reload: on(&[SIGHUP])?, end: on(&[SIGTERM, SIGINT])? })
    }

    /// The reload was heard; several at once are one.
    pub(super) fn reload_taken(&self) {
        let mut bytes = [0; 64];
        while matches!(rustix::io::read(&self.reload, &mut bytes), Ok(read) if read > 0) {}
    }
}

fn on(signals: &[i32]) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
    }
    Ok(read)
}

/// Which of the descriptors have something to say.
pub(super) fn wait<const N: usize>(of: [BorrowedFd<'_>; N], patience: Duration) -> io::Result<[bool; N]> {
    let mut asked = of.map(|one| PollFd::from_borrowed_fd(one, PollFlags::IN));
    let left = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: patience.subsec_nanos().into() };
    match poll(&mut asked, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(asked.map(|one| !one.revents().is_empty()))
}
