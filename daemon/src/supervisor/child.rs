//! One worker as a process: started, watched, ended, and never believed dead before it is.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::charge::Charge;
use super::wire::{self, Message};

/// How long a worker may take to end when it was asked to, before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the kernel may take to end a killed one. It waits for a disk at worst.
const KILLED: Duration = Duration::from_secs(60);
/// How long this process may be silent itself while it waits for a worker's end.
const TURN: Duration = Duration::from_secs(1);
/// From when on a turn of its supervisor is late: the host or the service was frozen, a container paused.
const LATE: Duration = Duration::from_secs(1);

/// Messages on the line within a second: one is usual.
const TALK: u32 = 100;

/// How a worker is started: this program again, or in a test another one.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// A running worker with its two sockets.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    pidfd: OwnedFd,
    line: OwnedFd,
    door: OwnedFd,
    /// Its end of the door, until it gets it.
    asking: Option<OwnedFd>,
    /// Whether it was started before it was needed.
    pub(super) stood_by: bool,
    /// Messages on the line within the second that began then.
    said: (Instant, u32),
    /// When it first said something.
    pub(super) first: Option<Instant>,
    /// When it last said something.
    pub(super) heard: Instant,
    /// Whether it has the device and may answer requests: from then on it can die of one.
    pub(super) seated: bool,
    /// Since when it serves.
    pub(super) serves: Option<Instant>,
}

impl Worker {
    /// Starts one, which is handed what it decides by and waits for its welcome.
    ///
    /// # Errors
    /// If the system has no room for a process or a socket.
    pub(super) fn start(command: &WorkerCommand, charge: &Charge) -> io::Result<Self> {
        let charge = charge.for_worker()?;
        let (line, theirs) = wire::pair()?;
        let (door, asking) = wire::pair()?;
        // The line is the worker's standard input: the one descriptor that std hands on.
        let mut child = Command::new(&command.program).args(&command.args).stdin(Stdio::from(theirs)).spawn()?;
        let started = Pid::from_raw(child.id().cast_signed())
            .ok_or(io::ErrorKind::InvalidData.into())
            .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        match started {
            Ok(pidfd) => {
                // One that is dead already is seen to be.
                drop(wire::send(&line, &Message::Configuration, &[charge.as_fd()]));
                let (now, asking) = (Instant::now(), Some(asking));
                let said = (now, 0);
                let (stood_by, seated, first, serves) = (false, false, None, None);
                Ok(Self { child, pidfd, line, door, asking, stood_by, said, first, heard: now, seated, serves })
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Welcomes it with the control socket's `listener`: from now on it may ask, and is to serve.
    ///
    /// # Errors
    /// If it is gone, or was welcomed before.
    pub(super) fn welcome(&mut self, generation: u64, listener: BorrowedFd<'_>) -> io::Result<()> {
        let asking = self.asking.take().ok_or(io::ErrorKind::InvalidInput)?;
        self.heard = Instant::now();
        wire::send(&self.line, &Message::Welcome { generation }, &[asking.as_fd(), listener])
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What is to be waited for: its end, the line, the door.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.pidfd.as_fd(), self.line.as_fd(), self.door.as_fd()]
    }

    /// Notes that it said something on the line; false if it talks more than any use could need,
    /// since all of that goes on to systemd.
    pub(super) fn speaks(&mut self) -> bool {
        self.heard = Instant::now();
        self.first.get_or_insert(self.heard);
        if self.heard.duration_since(self.said.0) >= Duration::from_secs(1) {
            self.said = (self.heard, 0);
        }
        self.said.1 += 1;
        self.said.1 <= TALK
    }

    /// Whoever waits for it stood still himself for so long beyond what he wanted: its silence begins after that,
    /// and so does that of all workers since one `served`.
    pub(super) fn excuse(&mut self, late: Duration, served: &mut Option<Instant>) {
        if late >= LATE {
            tracing::info!(?late, "everything stood still; the worker's silence is excused");
            self.heard += late;
            self.first = self.first.map(|first| first + late);
            *served = served.map(|served| served + late);
        }
    }

    /// Tells it something; a worker that cannot be told is soon found dead or silent.
    pub(super) fn tell(&self, message: &Message) {
        if let Err(error) = wire::send(&self.line, message, &[]) {
            tracing::debug!(%error, ?message, "the worker cannot be told");
        }
    }

    /// Answers that it is done.
    ///
    /// # Errors
    /// If it does not hear that.
    pub(super) fn done(&self) -> Result<(), Errno> {
        self.answer(&Message::Done, &[]).map_err(|_| Errno::IO)
    }

    /// Answers what was asked at the door.
    pub(super) fn answer(&self, message: &Message, with: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::send(&self.door, message, with)
    }

    /// Ends it at once, and returns when it is dead. Meanwhile, as in all that waits here, `alive` is
    /// called every second: this process has not hung up itself.
    ///
    /// # Errors
    /// If it could not be seen to end: then nothing may take its place.
    pub(super) fn kill(&mut self, alive: impl FnMut()) -> io::Result<ExitStatus> {
        // ESRCH: it has ended by itself.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        // A stopped process dies of SIGKILL as well.
        if !self.ended_within(KILLED, alive) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it was killed and does not end: a disk that hangs?"));
        }
        self.child.wait()
    }

    /// Asks it to end, and kills it if it does not.
    ///
    /// # Errors
    /// As [`Self::kill`].
    pub(super) fn stop(&mut self, alive: impl FnMut()) -> io::Result<ExitStatus> {
        self.tell(&Message::Stop);
        self.join(alive)
    }

    /// Waits for it to end by itself, and kills it if it does not.
    ///
    /// # Errors
    /// As [`Self::kill`].
    pub(super) fn join(&mut self, mut alive: impl FnMut()) -> io::Result<ExitStatus> {
        match self.ended_within(PATIENCE, &mut alive) {
            true => self.child.wait(),
            false => {
                tracing::warn!(pid = self.id(), "the worker does not end; killing it");
                self.kill(alive)
            }
        }
    }

    fn ended_within(&self, patience: Duration, mut alive: impl FnMut()) -> bool {
        let end = Instant::now() + patience;
        loop {
            alive();
            let whole = end.saturating_duration_since(Instant::now());
            let left = whole.min(TURN);
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                Ok(0) if whole > TURN => {}
                Ok(found) => return found > 0,
                Err(_) => return false,
            }
        }
    }
}
