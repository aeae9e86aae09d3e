//! A real HTTP server for tests that misbehaves on request.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// One way to misbehave.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// An empty answer with that status.
    Status(u16),
    /// The same with a wish to be left alone for so many seconds.
    Later(u16, u64),
    /// Half of the body, then a TCP reset.
    Reset,
    /// Half of the body under the whole length, then an orderly close.
    Half,
    /// The whole body under a length that is one byte too large.
    WrongLength,
    /// A claim of that many bytes.
    Claim(u64),
    /// A body without length and end.
    Endless,
    /// One byte a second.
    Trickle,
    /// Nothing after the request.
    Silence,
    /// Status 200 and a web page.
    Html,
    /// To another place.
    Redirect(String),
    /// One byte of the body is another one.
    Corrupt,
    /// The right answer once the server is healed.
    Held,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    /// For the next requests of a path, in turn.
    once: HashMap<String, VecDeque<Trouble>>,
    /// For every request of a path, and of all paths under "*".
    always: HashMap<String, Trouble>,
    requests: Vec<Request>,
    tags: HashMap<String, String>,
    not_modified: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) head: String,
}

/// The server; it stops when dropped.
pub(crate) struct Toxic {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
    listening: AbortHandle,
}

impl Toxic {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { url, state, listening: listening.abort_handle() }
    }

    pub(crate) fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.state.lock().unwrap().files.insert(path.to_owned(), bytes.into());
    }

    pub(crate) fn once(&self, path: &str, troubles: impl IntoIterator<Item = Trouble>) {
        self.state.lock().unwrap().once.insert(path.to_owned(), troubles.into_iter().collect());
    }

    pub(crate) fn always(&self, path: &str, trouble: Trouble) {
        self.state.lock().unwrap().always.insert(path.to_owned(), trouble);
    }

    /// Serves the path with this entity tag from now on.
    pub(crate) fn tag(&self, path: &str, tag: &str) {
        self.state.lock().unwrap().tags.insert(path.to_owned(), tag.to_owned());
    }

    /// How many answers said that nothing changed.
    pub(crate) fn not_modified(&self) -> usize {
        self.state.lock().unwrap().not_modified
    }

    pub(crate) fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.always.clear();
        state.once.clear();
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests().iter().filter(|request| request.path == path).count()
    }
}

impl Drop for Toxic {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    while let Some((path, head)) = request(&mut stream).await {
        let (body, trouble, tag, known) = {
            let mut state = state.lock().unwrap();
            let tag = state.tags.get(&path).cloned();
            let known = tag.as_ref().is_some_and(|tag| head.contains(&format!("if-none-match: {tag}\r\n")));
            state.requests.push(Request { path: path.clone(), head });
            state.not_modified += usize::from(known);
            let next = state.once.get_mut(&path).and_then(VecDeque::pop_front);
            let always = state.always.get(&path).or_else(|| state.always.get("*")).cloned();
            (state.files.get(&path).cloned(), next.or(always), tag, known)
        };
        if matches!(trouble, Some(Trouble::Held)) {
            while !state.lock().unwrap().always.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        if known {
            if status(stream.get_mut(), 304, "").await.is_none() {
                return;
            }
            continue;
        }
        if let (Some(tag), Some(body), None) = (tag, &body, &trouble) {
            let head = format!("HTTP/1.1 200 OK\r\netag: {tag}\r\ncontent-length: {}\r\n\r\n", body.len());
            if stream.get_mut().write_all(&[head.as_bytes(), body].concat()).await.is_err() {
                return;
            }
            continue;
        }
        if answer(stream.get_mut(), body, trouble).await.is_none() {
            return;
        }
    }
}

async fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let path = head.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    Some((path, head))
}

/// `None` when the connection is to be closed.
async fn answer(stream: &mut TcpStream, body: Option<Vec<u8>>, trouble: Option<Trouble>) -> Option<()> {
    let Some(mut body) = body else { return status(stream, 404, "").await };
    let length = body.len();
    match trouble {
        None | Some(Trouble::Held) => whole(stream, length, "application/octet-stream", &body).await,
        // Web servers say it with a page.
        Some(Trouble::Status(code)) => status(stream, code, "content-type: text/html\r\n").await,
        Some(Trouble::Later(code, seconds)) => status(stream, code, &format!("retry-after: {seconds}\r\n")).await,
        Some(Trouble::Redirect(to)) => status(stream, 302, &format!("location: {to}\r\n")).await,
        Some(Trouble::Html) => {
            let page = b"<!DOCTYPE html><title>Log in</title>";
            whole(stream, page.len(), "text/html; charset=utf-8", page).await
        }
        Some(Trouble::Corrupt) => {
            body[length / 2] ^= 1;
            whole(stream, length, "application/octet-stream", &body).await
        }
        Some(Trouble::Half) => {
            whole(stream, length, "application/octet-stream", &body[..length / 2]).await?;
            None
        }
        Some(Trouble::WrongLength) => {
            whole(stream, length + 1, "application/octet-stream", &body).await?;
            None
        }
        Some(Trouble::Reset) => {
            whole(stream, length, "application/octet-stream", &body[..length / 2]).await?;
            stream.set_zero_linger().unwrap();
            None
        }
        Some(Trouble::Claim(claim)) => {
            whole(stream, claim as usize, "application/octet-stream", &body).await?;
            std::future::pending().await
        }
        Some(Trouble::Silence) => std::future::pending().await,
        Some(Trouble::Endless) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.ok()?;
            loop {
                stream.write_all(&[b'x'; 4096]).await.ok()?;
            }
        }
        Some(Trouble::Trickle) => {
            whole(stream, length, "application/octet-stream", &[]).await?;
            for byte in body {
                stream.write_all(&[byte]).await.ok()?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Some(())
        }
    }
}

async fn status(stream: &mut TcpStream, code: u16, header: &str) -> Option<()> {
    let head = format!("HTTP/1.1 {code} Trouble\r\n{header}content-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()
}

async fn whole(stream: &mut TcpStream, length: usize, kind: &str, body: &[u8]) -> Option<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body).await.ok()
}
