//! Signals as descriptors, since everything else here is waited for as one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::End;

/// Readable when a signal has come.
#[derive(Debug)]
pub struct Signals {
    /// SIGHUP: read the configuration again.
    pub(super) reload: OwnedFd,
    /// SIGTERM: end.
    pub(super) end: OwnedFd,
    /// SIGINT: make room for another process, if somebody keeps the mount for it; else as SIGTERM.
    pub(super) relieve: OwnedFd,
}

impl Signals {
    /// From now on these signals do nothing else.
    ///
    /// # Errors
    /// If the system has no room for a pipe.
    pub fn new() -> io::Result<Self> {
        Ok(Self { reload: on(SIGHUP)?, end: on(SIGTERM)?, relieve: on(SIGINT)? })
    }

    /// The reload was heard; several at once are one.
    pub(super) fn reload_taken(&self) {
        let mut bytes = [0; 64];
        while matches!(rustix::io::read(&self.reload, &mut bytes), Ok(read) if read > 0) {}
    }
}

fn on(signal: i32) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    signal_hook::low_level::pipe::register(signal, write)?;
    Ok(read)
}

/// Rests, until this process is asked to end at the latest; which end that is.
pub(crate) fn rest(time: Duration) -> Option<End> {
    let asked = Signals::new().and_then(|signals| {
        let of = [signals.end.as_fd(), signals.relieve.as_fd()];
        wait(of, time)?;
        // The signal that ends the rest interrupts it as well, and then nothing was said of it yet.
        wait(of, Duration::ZERO)
    });
    match asked {
        Ok([true, _]) => Some(End::Over),
        Ok([false, true]) => Some(End::Relieved),
        Ok([false, false]) => None,
        Err(error) => {
            tracing::debug!(%error, "no signal can be watched for");
            None
        }
    }
}

/// Ends this process as SIGINT does, which is how systemd knows that it made room and was not stopped.
pub(crate) fn end_relieved() {
    if let Err(error) = signal_hook::low_level::emulate_default_handler(SIGINT) {
        tracing::debug!(%error, "ending in the usual way");
    }
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
