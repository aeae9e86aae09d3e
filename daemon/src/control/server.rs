//! The listening side: who connects, within which bounds. What an operation does is the
//! handler's business.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::IoSlice;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::peer::Peer;
use crate::control::protocol::{DESCRIPTORS, Fault, REQUEST_BYTES, Refused, Request, answer_line};

/// How long a request may take to arrive, and an answer to leave.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections of one user at a time: an editor that starts all its servers fits.
const PER_USER: usize = 32;
/// Connections of all users but root and our own.
const IN_ALL: usize = 512;

/// What goes back, and what travels with its first byte.
#[derive(Debug, Default)]
pub struct Reply {
    /// The answer.
    pub value: Value,
    /// Descriptors for whoever asked.
    pub with: Vec<OwnedFd>,
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Self { value, with: Vec::new() }
    }
}

/// Makes the launcher's name and the listening socket in the run directory.
///
/// # Errors
/// `AddrInUse` if another daemon answers there; else what the system says.
pub fn bind(rundir: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let path = rundir.join("control.sock");
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another mcpfs daemon answers at {}: stop it, or set another rundir", path.display()),
        ));
    }
    link_launcher(rundir)?;
    remove(&path)?;
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Makes the run directory, what belongs into it, and listens there.
///
/// # Errors
/// As [`bind`].
pub fn listen(rundir: &Path) -> io::Result<UnixListener> {
    make_rundir(rundir).map_err(io::Error::other)?;
    on_runtime(bind(rundir)?)
}

/// A bound socket, for the runtime.
///
/// # Errors
/// What the system says.
pub fn on_runtime(listener: std::os::unix::net::UnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Makes `launch`, the name under which every `run` starts this program. By rename: a launch at
/// this moment finds the old link or the new one.
///
/// # Errors
/// What the system says.
pub fn link_launcher(rundir: &Path) -> io::Result<()> {
    let new = rundir.join(".launch");
    remove(&new)?;
    symlink(std::env::current_exe()?, &new)?;
    std::fs::rename(&new, rundir.join("launch"))
}

/// Makes the run directory: everybody must reach the socket and the launcher in it, nobody else
/// may put another launcher there.
///
/// # Errors
/// What is wrong with it, for people.
pub fn make_rundir(directory: &Path) -> Result<(), String> {
    let made = !directory.exists();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|error| format!("cannot be made: {error}"))?;
    if made {
        // UMask=0077 is a usual setting of services, and would keep everybody from the launcher.
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
            .map_err(|error| error.to_string())?;
    }
    let metadata = directory.metadata().map_err(|error| error.to_string())?;
    let user = rustix::process::geteuid().as_raw();
    if (metadata.uid() != user && metadata.uid() != 0) || metadata.mode() & 0o022 != 0 {
        return Err("belongs to another user or can be written by others".to_owned());
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Serves until it is dropped. Each connection may ask several things, one after the other.
pub async fn serve<H, F>(listener: UnixListener, handler: H)
where
    H: Fn(Peer, OwnedFd, Request) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Reply, Refused>> + Send,
{
    let seats = Seats::default();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: others will be given back.
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Without credentials it is gone already.
        let Ok(peer) = Peer::of(&stream) else { continue };
        match seats.take(&peer) {
            Some(seat) => {
                let handler = handler.clone();
                connections.spawn(async move {
                    converse(stream, peer, handler, PATIENCE).await;
                    drop(seat);
                });
            }
            None => {
                let busy = Refused::fault(Fault::Busy, "too many control connections", "try again in a moment");
                // One write into an empty socket buffer: it fits, or the caller gets nothing.
                let _ = stream.try_write(&answer_line::<Value>(Err(busy)));
            }
        }
    }
}

/// One connection: lines in, lines out, until it ends, stalls for so long or talks nonsense.
async fn converse<H, F>(mut stream: UnixStream, peer: Peer, handler: H, patience: Duration)
where
    H: Fn(Peer, OwnedFd, Request) -> F,
    F: Future<Output = Result<Reply, Refused>>,
{
    let mut buffer = Vec::new();
    loop {
        let line = match timeout(patience, read_line(&mut stream, &mut buffer)).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None) | Err(_)) => return,
            Err(_) if buffer.is_empty() => return,
            Err(_) => Err(format!("no whole line within {} s", patience.as_secs())),
        };
        // A line without an end is over: nobody knows where the next one would begin.
        let last = !line.as_ref().is_ok_and(|line| line.len() <= REQUEST_BYTES);
        let request = line
            .map_err(|message| Refused::fault(Fault::BadRequest, &message, ""))
            .and_then(|line| Request::from_line(&line));
        let answer = match (request, stream.as_fd().try_clone_to_owned()) {
            (Ok(request), Ok(connection)) => handler(peer.clone(), connection, request).await,
            (Err(refused), _) => Err(refused),
            (Ok(_), Err(error)) => Err(Refused::fault(Fault::Busy, &error.to_string(), "try again in a moment")),
        };
        let (answer, with) = match answer {
            Ok(Reply { value, with }) => (Ok(value), with),
            Err(refused) => (Err(refused), Vec::new()),
        };
        let written = timeout(patience, write(&mut stream, &answer_line(answer), with)).await;
        if last || !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

/// Writes a line, with what travels with its first byte.
async fn write(stream: &mut UnixStream, line: &[u8], with: Vec<OwnedFd>) -> io::Result<()> {
    let mut sent = 0;
    while !with.is_empty() && sent == 0 {
        stream.writable().await?;
        let descriptors: Vec<BorrowedFd<'_>> = with.iter().map(OwnedFd::as_fd).collect();
        let first = stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            Ok(rustix::net::sendmsg(&*stream, &[IoSlice::new(line)], &mut ancillary, flags)?)
        });
        match first {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            other => sent = other?,
        }
    }
    stream.write_all(&line[sent..]).await
}

/// The next line without its newline; `None` at the end. A line that is too long is cut
/// just above the limit.
async fn read_line(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut searched = 0;
    loop {
        if let Some(at) = buffer[searched..].iter().position(|&byte| byte == b'\n') {
            let rest = buffer.split_off(searched + at + 1);
            let mut line = std::mem::replace(buffer, rest);
            line.pop();
            return Ok(Some(line));
        }
        if buffer.len() > REQUEST_BYTES {
            return Ok(Some(std::mem::take(buffer)));
        }
        searched = buffer.len();
        if stream.take(8192).read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Who holds how many connections.
#[derive(Debug, Clone, Default)]
struct Seats(Arc<Mutex<HashMap<u32, usize>>>);

/// One connection's place; given back when dropped.
#[derive(Debug)]
struct Seat {
    seats: Seats,
    uid: u32,
}

impl Seats {
    fn take(&self, peer: &Peer) -> Option<Seat> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = held.values().sum();
        let mine = held.entry(peer.uid).or_default();
        if *mine >= PER_USER || (all >= IN_ALL && !peer.administers()) {
            return None;
        }
        *mine += 1;
        Some(Seat { seats: self.clone(), uid: peer.uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = held.get_mut(&self.uid) {
            *mine -= 1;
            if *mine == 0 {
                held.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests;
