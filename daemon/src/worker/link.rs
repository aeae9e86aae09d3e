//! The worker's end of its two sockets to the supervisor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::sync::mpsc;

use crate::refusal::Refusal;
use crate::supervisor::backings::{self, Record};
use crate::supervisor::charge::Handed;
use crate::supervisor::opens::Opens;
use crate::supervisor::wire::{self, Ground, Message, Secret};

/// How long an answer may take. The supervisor does nothing slow; one that is stopped is killed by
/// systemd's watchdog before this.
const ANSWER: Duration = Duration::from_secs(60);

/// What the supervisor can be told and asked. Clones of the `Arc` share it.
#[derive(Debug)]
pub struct Link {
    /// Which worker of the session this is, from 1.
    generation: u64,
    line: OwnedFd,
    /// One question at a time.
    door: Mutex<OwnedFd>,
    mounted: OnceLock<Device>,
}

/// What the supervisor hands out of the session.
#[derive(Debug)]
pub(crate) struct Device {
    init: Vec<u8>,
    passthrough: Option<bool>,
    fuse: OwnedFd,
    table: File,
    opens: Opens,
}

impl Device {
    /// The kernel's INIT.
    pub(crate) fn init(&self) -> &[u8] {
        &self.init
    }

    /// Whether the first worker answered it with a request for passthrough; nothing if this is the first.
    pub(crate) fn passthrough(&self) -> Option<bool> {
        self.passthrough
    }

    /// `/dev/fuse` of the mount.
    pub(crate) fn fuse(&self) -> BorrowedFd<'_> {
        self.fuse.as_fd()
    }

    /// The handles that are open on files.
    pub(crate) fn opens(&self) -> &Opens {
        &self.opens
    }

    /// The backing ids that there are.
    pub(crate) fn backings(&self) -> io::Result<Vec<Record>> {
        backings::read(&self.table)
    }
}

/// What the supervisor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Read the configuration again.
    Reload,
    /// End; the mount is somebody else's from now on.
    Stop,
}

impl Link {
    /// Whether this process can be welcomed: its standard input is a socket as the supervisor makes them.
    ///
    /// # Errors
    /// If it is anything else: this process was not started by a supervisor.
    pub fn is_expected() -> io::Result<()> {
        match rustix::net::sockopt::socket_type(io::stdin())? {
            SocketType::SEQPACKET => Ok(()),
            other => Err(io::Error::other(format!("its standard input is a socket of type {other:?}"))),
        }
    }

    /// What this worker decides by, which is the first that the supervisor says on the standard input.
    ///
    /// # Errors
    /// `UnexpectedEof` if the supervisor ended before; any other if it was none.
    pub fn charge() -> io::Result<Handed> {
        let (message, mut with) = wire::receive(io::stdin())?;
        let (Message::Configuration, Some(memory)) = (message, with.pop()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Handed::of(&memory.into())?.map_err(|refusal| io::Error::other(refusal.to_string()))
    }

    /// Waits for the supervisor's welcome on the standard input; with the control socket. It comes at once
    /// to a worker that is to serve, and to one that stands by when the one that serves is dead.
    ///
    /// # Errors
    /// `UnexpectedEof` if the supervisor ended before; any other if it was none.
    pub fn welcome() -> io::Result<(Self, UnixListener)> {
        let line = io::stdin().as_fd().try_clone_to_owned()?;
        let (message, mut with) = wire::receive(&line)?;
        let (Message::Welcome { generation }, Some(listener), Some(door)) = (message, with.pop(), with.pop()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        set_socket_timeout(&door, Timeout::Recv, Some(ANSWER))?;
        let link = Self { generation, line, door: Mutex::new(door), mounted: OnceLock::new() };
        Ok((link, UnixListener::from(listener)))
    }

    /// Which worker of the session this is, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Asks one thing; the answer, which is not `No`.
    ///
    /// # Errors
    /// The errno that the supervisor gives, or that it cannot be reached.
    pub(crate) fn ask(&self, question: &Message, with: &[BorrowedFd<'_>]) -> io::Result<Message> {
        self.ask_for(question, with).map(|(answer, _)| answer)
    }

    fn ask_for(&self, question: &Message, with: &[BorrowedFd<'_>]) -> io::Result<(Message, Vec<OwnedFd>)> {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        wire::send(&*door, question, with)?;
        match wire::receive(&*door)? {
            (Message::No(errno), _) => Err(Errno::from_raw_os_error(errno).into()),
            answer => Ok(answer),
        }
    }

    /// The mount, which the first question makes.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn mounted(&self) -> io::Result<&Device> {
        if let Some(device) = self.mounted.get() {
            return Ok(device);
        }
        let (answer, mut with) = self.ask_for(&Message::Mount, &[])?;
        let (Message::Mounted { init, passthrough }, Some(opens), Some(table), Some(fuse)) =
            (answer, with.pop(), with.pop(), with.pop())
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let device = Device { init, passthrough, fuse, table: table.into(), opens: Opens::of(opens.into()) };
        Ok(self.mounted.get_or_init(|| device))
    }

    /// Configuration and trust root as they are on the disk now; or why they cannot be used.
    ///
    /// # Errors
    /// If the supervisor cannot be asked.
    pub(crate) fn configuration(&self) -> io::Result<Result<Handed, Refusal>> {
        Handed::of(&self.file(&Message::Configuration)?)
    }

    /// Says what this worker stands on; what the session stands on.
    ///
    /// # Errors
    /// If that is something else. Then this process is ended.
    pub(crate) fn stand_on(&self, ground: Ground) -> io::Result<Ground> {
        match self.ask(&Message::Ground(ground), &[])? {
            Message::Ground(ground) => Ok(ground),
            other => Err(io::Error::other(format!("the supervisor answers {other:?}"))),
        }
    }

    /// A file that only root can open.
    ///
    /// # Errors
    /// What root met there.
    pub(crate) fn secret(&self, secret: Secret) -> io::Result<File> {
        self.file(&Message::Secret(secret))
    }

    /// Has a credential read for whoever is at the other end of `connection`; the answer comes on `reply`.
    ///
    /// # Errors
    /// ENOENT if the supervisor knows of no such entry (a reload is on its way), EAGAIN if too many are being read.
    pub(crate) fn credential(
        &self,
        (reference, mark, env): (&str, u64, bool),
        connection: BorrowedFd<'_>,
        reply: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let question = Message::Credential { mark, env, reference: reference.to_owned() };
        self.ask(&question, &[connection, reply]).map(drop)
    }

    /// The file that an inode's backing id stands for, whether it still has a path or not.
    ///
    /// # Errors
    /// If there is none, or it cannot be found.
    pub(crate) fn again(&self, ino: u64) -> io::Result<File> {
        self.file(&Message::Again { ino })
    }

    fn file(&self, question: &Message) -> io::Result<File> {
        match self.ask_for(question, &[])? {
            (Message::Opened, mut with) if with.len() == 1 => {
                with.pop().map(File::from).ok_or(io::ErrorKind::InvalidData.into())
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// What process `pid` runs, which only root may ask of others.
    pub(crate) fn executable(&self, pid: u32) -> Option<Vec<u8>> {
        match self.ask(&Message::Executable { pid }, &[]) {
            Ok(Message::Path(path)) => Some(path),
            _ => None,
        }
    }

    /// Tells the supervisor something. If it is gone, so is this process soon.
    pub(crate) fn tell(&self, message: &Message) {
        if let Err(error) = wire::send(&self.line, message, &[]) {
            tracing::warn!(%error, "the supervisor cannot be told");
        }
    }

    /// What the supervisor wants, one wish after the other; the end of it is the supervisor's end.
    /// A thread of its own waits for them.
    ///
    /// # Errors
    /// If there is no room for a thread.
    pub fn wishes(self: &Arc<Self>) -> io::Result<mpsc::Receiver<Wish>> {
        let (wish, wishes) = mpsc::channel(8);
        let line = self.line.try_clone()?;
        let listen = move || {
            loop {
                let wanted = match wire::receive(&line) {
                    Ok((Message::Reload, _)) => Wish::Reload,
                    Ok((Message::Stop, _)) => Wish::Stop,
                    other => {
                        tracing::error!(?other, "the supervisor is gone");
                        return;
                    }
                };
                if wish.blocking_send(wanted).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("supervisor".to_owned()).spawn(listen)?;
        Ok(wishes)
    }
}
