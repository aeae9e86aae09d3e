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
