//! What a reader is told, and what it answers.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use super::reader;
use crate::config::CredentialConfig;

/// Bytes of an order or an answer: a command with all of its words, twice.
const BYTES: usize = 32 << 10;
/// How much longer than its source a reader may take, to be started on a busy host.
const GRACE: Duration = Duration::from_secs(1);
/// Where systemd puts a service's credentials.
pub(super) const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// What one reader does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// What the recipe calls it.
    pub(crate) reference: String,
    /// Where it comes from, and for whom.
    pub(crate) config: CredentialConfig,
    /// Whether it becomes a variable, and so can have no NUL.
    pub(crate) env: bool,
    /// The socket at which whoever is to get it has asked.
    pub(crate) socket: PathBuf,
    /// Who that can be.
    pub(crate) whom: Whom,
}

/// Users by what this process is to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Whom {
    /// Of root's mount: everybody but the worker itself.
    AllBut(u32),
    /// Of a user's own.
    Only(u32),
}

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// Whether it is this caller who may not have it.
    pub(crate) caller: bool,
    /// What happened, one line.
    pub(crate) message: String,
    /// What to do, one sentence without a full stop.
    pub(crate) advice: String,
}

/// With the memory, or why there is none.
type Answer = Result<(), Refused>;

impl Order {
    /// How long its answer is waited for.
    pub(crate) fn patience(&self) -> Duration {
        self.config.patience() + GRACE
    }

    /// How long its reader may run: somewhat longer, so that nobody who still waits sees it end.
    pub(crate) fn lasts(&self) -> Duration {
        self.patience() + GRACE
    }

    /// Starts a reader for whoever is at the other end of `connection`; it answers on `reply`. Neither waits.
    ///
    /// # Errors
    /// If the system has no room for a process.
    pub(crate) fn start(&self, connection: BorrowedFd<'_>, reply: BorrowedFd<'_>) -> io::Result<Child> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let directory = std::env::var_os(DIRECTORY).map(|directory| (DIRECTORY, directory));
        let child = Command::new("/proc/self/exe")
            .arg0(reader::NAME)
            .env_clear()
            .envs(directory)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        // One that is dead already is seen to be by whoever waits for its answer.
        drop(send(&ours, &serde_json::to_vec(self)?, &[connection, reply]));
        Ok(child)
    }

    /// What this process was started for: the order, the connection, and where the answer goes.
    pub(super) fn receive(from: impl AsFd) -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let (bytes, mut with) = receive(from)?;
        let order = serde_json::from_slice(&bytes)?;
        match (with.pop(), with.pop(), with.is_empty()) {
            (Some(reply), Some(connection), true) => Ok((order, connection, reply)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Where an answer is waited for.
#[derive(Debug)]
pub(crate) struct Receiver(OwnedFd);

impl Receiver {
    /// With the end for a reader, who has so long.
    ///
    /// # Errors
    /// If the system has no room for a socket.
    pub(crate) fn new(patience: Duration) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(patience))?;
        Ok((Self(ours), theirs))
    }

    /// The memory that holds the value, which this process need not be able to read.
    ///
    /// # Errors
    /// `WouldBlock` if there was no answer in time, `UnexpectedEof` if the reader ended without one.
    pub(crate) fn answer(self) -> io::Result<Result<OwnedFd, Refused>> {
        let (bytes, mut with) = receive(&self.0)?;
        match (serde_json::from_slice::<Answer>(&bytes)?, with.pop()) {
            (Ok(()), Some(memory)) => Ok(Ok(memory)),
            (Err(refused), None) => Ok(Err(refused)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Answers on `reply`; whoever asked may be gone.
pub(super) fn answer(reply: impl AsFd, answer: Result<File, Refused>) -> io::Result<()> {
    match answer {
        Ok(memory) => send(reply, &serde_json::to_vec(&Answer::Ok(()))?, &[memory.as_fd()]),
        Err(refused) => send(reply, &serde_json::to_vec(&Answer::Err(refused))?, &[]),
    }
}

fn send(socket: impl AsFd, bytes: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
    Ok(())
}

fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; BYTES + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let found = loop {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut with = vec![];
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            with.extend(descriptors);
        }
    }
    if found.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if found.bytes > BYTES || found.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(found.bytes);
    Ok((bytes, with))
}
