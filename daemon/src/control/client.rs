//! A blocking client with one deadline for everything: connect, send, answer.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::IoSliceMut;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, socket_with,
};
use serde::de::DeserializeOwned;

use crate::control::protocol::{ANSWER_BYTES, DESCRIPTORS, Fault, Refused, Request, parse_answer};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there.
    #[error("no mcpfs daemon answers at {}", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// It listens, and says nothing in time.
    #[error("the mcpfs daemon at {} did not answer within {} s", path.display(), waited.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The connection broke before the answer was whole.
    #[error("the mcpfs daemon at {} closed the connection without an answer", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// It answered no.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl ClientError {
    /// The exit code of a command that met this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoDaemon { .. } | Self::Silent { .. } | Self::Broken { .. } => 3,
            Self::Refused(refused) => refused.exit_code(),
        }
    }

    /// Whether the other side ended in the middle, as one that is killed does.
    fn is_cut_off(&self) -> bool {
        let ends = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        matches!(self, Self::Broken { source, .. } if ends.contains(&source.kind()))
    }

    /// What to do next, one sentence without a full stop; empty if there is nothing to say.
    pub fn advice(&self) -> &str {
        match self {
            Self::NoDaemon { .. } => "start it with `mcpfs mount`",
            Self::Silent { .. } | Self::Broken { .. } => {
                "see its log (journalctl -u mcpfs, or mcpfs.log in its run directory, by default /run/mcpfs), or restart it"
            }
            Self::Refused(refused) => &refused.advice,
        }
    }
}

/// How often a question is put again to a successor: each try met another worker's death.
const TRIES: usize = 10;

/// Asks the daemon at `<rundir>/control.sock` one thing.
///
/// A worker that dies over a question is replaced, and the socket stays: the question is put to the
/// next one. So a daemon may hear a question twice, and each answer stands for itself.
///
/// # Errors
/// That none answered in time, or what it refused.
pub fn ask<T: DeserializeOwned>(rundir: &Path, request: &Request) -> Result<T, ClientError> {
    ask_with(rundir, request).map(|(answer, _)| answer)
}

/// The same with the descriptors that come with the answer.
///
/// # Errors
/// As [`ask`].
pub fn ask_with<T: DeserializeOwned>(rundir: &Path, request: &Request) -> Result<(T, Vec<OwnedFd>), ClientError> {
    let path = rundir.join("control.sock");
    let line = request.to_line()?;
    let patience = request.patience();
    let end = Instant::now() + patience;
    let mut broken = vec![];
    loop {
        let answer = match (exchange(&path, &line, (patience, end)), broken.pop()) {
            // It was no death of a worker's: nobody listens any more, and what happened first is said.
            (Err(ClientError::NoDaemon { .. }), Some(first)) => return Err(first),
            (Err(error), last) if error.is_cut_off() && broken.len() < TRIES && end > Instant::now() => {
                broken.extend(last);
                broken.push(error);
                continue;
            }
            (answer, _) => answer?,
        };
        let (answer, with) = answer;
        match parse_answer(&answer) {
            // Many servers of one user start at once when an editor opens: that is no reason to fail.
            Err(refused) if refused.is(Fault::Busy) && end > Instant::now() + Duration::from_millis(100) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(refused) => return Err(refused.into()),
            Ok(ok) => return Ok((ok, with)),
        }
    }
}

/// A line, and the descriptors that came with it.
type Heard = (Vec<u8>, Vec<OwnedFd>);

fn exchange(path: &Path, line: &[u8], (patience, end): (Duration, Instant)) -> Result<Heard, ClientError> {
    let missing = |source| match io::Error::kind(&source) {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            ClientError::Silent { path: path.to_owned(), waited: patience }
        }
        _ => ClientError::NoDaemon { path: path.to_owned(), source },
    };
    let broken = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            ClientError::Silent { path: path.to_owned(), waited: patience }
        }
        _ => ClientError::Broken { path: path.to_owned(), source },
    };
    let mut stream = dial(path, end).map_err(missing)?;
    arm(&stream, end).map_err(broken)?;
    // A daemon that has something against this caller may answer and close before it read
    // the request: its answer matters more than the failed write.
    let written = stream.write_all(line);
    let mut answer = Vec::new();
    let mut part = [0; 8192];
    let mut with = Vec::new();
    loop {
        arm(&stream, end).map_err(broken)?;
        match receive(&stream, &mut part, &mut with) {
            Ok(0) => {
                let source = written.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                return Err(broken(source));
            }
            Ok(read) => match part[..read].iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    answer.extend_from_slice(&part[..end]);
                    return Ok((answer, with));
                }
                None => answer.extend_from_slice(&part[..read]),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
        if answer.len() > ANSWER_BYTES {
            return Err(broken(io::ErrorKind::InvalidData.into()));
        }
    }
}

/// Reads some bytes, and takes what descriptors came with them.
fn receive(stream: &UnixStream, part: &mut [u8], with: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(part)];
    let found = rustix::net::recvmsg(stream, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            with.extend(descriptors);
        }
    }
    match found.flags.contains(ReturnFlags::CTRUNC) || with.len() > DESCRIPTORS {
        true => Err(io::ErrorKind::InvalidData.into()),
        false => Ok(found.bytes),
    }
}

/// Connects within the deadline: a full backlog blocks, and std offers no timeout here.
fn dial(path: &Path, end: Instant) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    arm(&stream, end)?;
    connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream)
}

/// Gives each direction what is left of the deadline.
fn arm(stream: &UnixStream, end: Instant) -> io::Result<()> {
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    set_socket_timeout(stream, Timeout::Recv, Some(left))?;
    set_socket_timeout(stream, Timeout::Send, Some(left))?;
    match Instant::now() >= end {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::BufRead as _;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::control::protocol::answer_line;

    fn answering(answers: Vec<Vec<u8>>) -> (tempfile::TempDir, std::thread::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        let served = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                io::BufReader::new(&stream).read_line(&mut line).unwrap();
                assert_eq!(Request::from_line(line.as_bytes()), Ok(Request::Status {}));
                stream.write_all(&answer).unwrap();
            }
        });
        (dir, served)
    }

    #[test]
    fn busy_is_tried_again() {
        let busy = answer_line::<String>(Err(Refused::fault(Fault::Busy, "many", "")));
        let (dir, served) = answering(vec![busy.clone(), busy, answer_line(Ok("now"))]);
        assert_eq!(ask::<String>(dir.path(), &Request::Status {}).unwrap(), "now");
        served.join().unwrap();
    }

    #[test]
    fn a_cut_answer_is_no_answer() {
        let mut half = answer_line(Ok("whole"));
        half.truncate(half.len() - 2);
        let (dir, served) = answering(vec![half]);
        let error = ask::<String>(dir.path(), &Request::Status {}).unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
        assert_eq!(error.exit_code(), 3);
        served.join().unwrap();
    }

    #[test]
    fn an_endless_answer_ends() {
        let (dir, served) = answering(vec![vec![b' '; ANSWER_BYTES + 10_000]]);
        assert!(matches!(ask::<String>(dir.path(), &Request::Status {}), Err(ClientError::Broken { .. })));
        let _ = served.join(); // its write fails when we leave
    }

    #[test]
    fn nobody_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = ask::<String>(dir.path(), &Request::Status {}).unwrap_err();
        assert!(matches!(error, ClientError::NoDaemon { .. }) && error.exit_code() == 3, "{error:?}");
    }
}
