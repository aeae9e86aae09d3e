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
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::fd::AsRawFd as _;

    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;
    use crate::control::client;
    use crate::control::protocol::parse_answer;

    struct Running {
        dir: tempfile::TempDir,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    /// Answers `status` with the caller, and nothing else.
    async fn answer(peer: Peer, connection: OwnedFd, request: Request) -> Result<Reply, Refused> {
        match request {
            Request::Status {} => Ok(serde_json::json!([peer.pid, peer.uid, peer.gid]).into()),
            // Two descriptors, and an answer that does not fit into the socket in one go.
            Request::Refresh {} => {
                let with = vec![connection, std::fs::File::open("/dev/null").unwrap().into()];
                Ok(Reply { value: "x".repeat(900_000).into(), with })
            }
            other => Err(Refused::fault(Fault::NotFound, &format!("{other:?}"), "")),
        }
    }

    fn running() -> Running {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(dir.path()).unwrap();
        Running { task: tokio::spawn(serve(listener, answer)), dir }
    }

    impl Running {
        async fn connect(&self) -> BufReader<UnixStream> {
            BufReader::new(UnixStream::connect(self.dir.path().join("control.sock")).await.unwrap())
        }

        /// The answer to raw bytes; empty if the connection just ends.
        async fn answer(&self, bytes: &[u8]) -> String {
            let mut stream = self.connect().await;
            let _ = stream.write_all(bytes).await;
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            line
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_kernel_says_who_asks() {
        let running = running();
        let dir = running.dir.path().to_owned();
        let asked = tokio::task::spawn_blocking(move || client::ask::<[u32; 3]>(&dir, &Request::Status {})).await;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert_eq!(asked.unwrap().unwrap(), [std::process::id(), uid, gid]);
        let mode = |name: &str| running.dir.path().join(name).symlink_metadata().unwrap().permissions().mode();
        assert_eq!(mode("control.sock") & 0o777, 0o666);
        assert_eq!(running.dir.path().join("launch").read_link().unwrap(), std::env::current_exe().unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn descriptors_come_with_an_answer() {
        let running = running();
        let dir = running.dir.path().to_owned();
        let asked = tokio::task::spawn_blocking(move || client::ask_with::<String>(&dir, &Request::Refresh {})).await;
        let (text, with) = asked.unwrap().unwrap();
        assert_eq!((text.len(), with.len()), (900_000, 2));
        let named = |at: usize| std::fs::read_link(format!("/proc/self/fd/{}", with[at].as_raw_fd())).unwrap();
        assert!(named(0).to_string_lossy().starts_with("socket:"), "{:?}", named(0));
        assert_eq!(named(1), Path::new("/dev/null"));
        assert!(with.iter().all(|one| rustix::io::fcntl_getfd(one).unwrap() == rustix::io::FdFlags::CLOEXEC));
    }

    #[tokio::test]
    async fn several_lines_on_one_connection() {
        let running = running();
        let mut stream = running.connect().await;
        for part in ["{\"v\":1,\"op\":\"status\"}\n{\"v\":1,", "\"op\":\"refresh\"}\n"] {
            stream.write_all(part.as_bytes()).await.unwrap();
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let answer = parse_answer::<Value>(line.as_bytes());
            match part.ends_with("refresh\"}\n") {
                true => assert_eq!(answer.unwrap().as_str().unwrap().len(), 900_000),
                false => assert!(answer.unwrap().is_array()),
            }
        }
    }

    #[tokio::test]
    async fn hostile_lines() {
        let running = running();
        let long = vec![b'a'; REQUEST_BYTES + 100];
        let deep = [vec![b'['; 20_000], b"\n".to_vec()].concat();
        for (bytes, fault, part) in [
            (&b"\n"[..], Fault::BadRequest, "request"),
            (b"\xff\xfe\n", Fault::BadRequest, "request"),
            (b"GET / HTTP/1.1\r\n\r\n", Fault::BadRequest, "request"),
            (b"{\"v\":7,\"op\":\"status\"}\n", Fault::UnknownVersion, "version 7"),
            (&long, Fault::BadRequest, "larger"),
            (&deep, Fault::BadRequest, "request"),
        ] {
            let line = running.answer(bytes).await;
            let refused = parse_answer::<Value>(line.as_bytes()).unwrap_err();
            assert!(refused.is(fault) && refused.message.contains(part), "{refused:?}");
        }
        // The server still serves.
        assert!(parse_answer::<Value>(running.answer(b"{\"v\":1,\"op\":\"status\"}\n").await.as_bytes()).is_ok());
    }

    #[tokio::test]
    async fn half_a_line_and_then_silence() {
        for (sent, told) in [(&b"{\"v\":1,"[..], true), (b"", false)] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(sent).await.unwrap();
            // Nothing but the server's patience ends this.
            let peer = Peer::of(&theirs).unwrap();
            converse(theirs, peer, answer, Duration::from_millis(50)).await;
            let mut line = String::new();
            BufReader::new(ours).read_line(&mut line).await.unwrap();
            let refused = |line: &str| parse_answer::<Value>(line.as_bytes()).unwrap_err().message;
            assert!(if told { refused(&line).contains("no whole line") } else { line.is_empty() }, "{line}");
        }
    }

    #[tokio::test]
    async fn one_user_cannot_take_all_connections() {
        let running = running();
        let mut held = Vec::new();
        let full = loop {
            let mut stream = running.connect().await;
            let mut line = String::new();
            // Who is one too many is told so at once, asked or not, and may find it closed already.
            let _ = stream.write_all(b"{\"v\":1,\"op\":\"status\"}\n").await;
            stream.read_line(&mut line).await.unwrap();
            match parse_answer::<Value>(line.as_bytes()) {
                Err(refused) => break refused,
                Ok(_) => held.push(stream),
            }
            // On a machine that stands still the first are given up while the last are made.
            assert!(held.len() < PER_USER * 50, "no end of them");
        };
        assert!(full.is(Fault::Busy), "{full:?}");
        assert!(held.len() >= PER_USER, "{} places", held.len());
        held.clear();
        let dir = running.dir.path().to_owned();
        let asked = tokio::task::spawn_blocking(move || client::ask::<Value>(&dir, &Request::Status {})).await;
        assert!(asked.unwrap().is_ok(), "the places were given back");
    }

    #[tokio::test]
    async fn one_daemon_for_a_run_directory() {
        let running = running();
        assert_eq!(bind(running.dir.path()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let dir = running.dir.path().to_owned();
        running.task.abort();
        while std::os::unix::net::UnixStream::connect(dir.join("control.sock")).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(bind(&dir).is_ok(), "a dead daemon's socket is in nobody's way");
    }
}
