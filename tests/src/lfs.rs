//! The side of a forge that Git LFS asks: its batch API over the stores of bare repositories, as
//! `git lfs` keeps them, and whatever a hostile one would answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::accepting::Accepting;

/// How it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Not at all.
    None,
    /// Other bytes of the same size.
    Bytes,
    /// Fewer bytes.
    Short,
    /// More bytes than announced.
    Long,
    /// A place that nobody listed.
    Elsewhere,
    /// A login that would go out in the clear.
    Clear,
    /// An object that it does not have.
    Missing,
    /// Not JSON.
    Garbage,
}

/// Answers behind a [`crate::git::GitHost`]; stops on drop.
#[derive(Debug)]
pub struct LfsServer {
    accepting: Accepting,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// What its answers begin their addresses with.
    public: String,
    lie: Mutex<Lie>,
}

impl LfsServer {
    /// Serves the repositories in `root`, which people reach below `public`.
    pub fn start(root: &Path, public: String) -> Self {
        let shared = Arc::new(Shared { root: root.to_owned(), public, lie: Mutex::new(Lie::None) });
        let own = Arc::clone(&shared);
        // A client that hung up is not its concern.
        let accepting = Accepting::new(move |stream| drop(own.answer(&stream)));
        Self { accepting, shared }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.accepting.port()
    }

    /// From now on it lies like this.
    pub fn lies(&self, lie: Lie) {
        *self.shared.lie.lock().unwrap_or_else(PoisonError::into_inner) = lie;
    }
}

impl Shared {
    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut head: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let length = head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let lie = *self.lie.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, bytes) = match path.split_once("/info/lfs/objects/") {
            Some((repository, "batch")) => (200, self.batch(repository, &body, lie)),
            Some((repository, oid)) => match (self.object(repository, oid), lie) {
                (Some(bytes), Lie::Bytes) => (200, vec![b'x'; bytes.len()]),
                (Some(bytes), Lie::Short) => (200, bytes[1..].to_vec()),
                (Some(bytes), Lie::Long) => (200, [bytes, b"more".to_vec()].concat()),
                (Some(bytes), _) => (200, bytes),
                (None, _) => (404, Vec::new()),
            },
            None => (404, Vec::new()),
        };
        let kind = "application/vnd.git-lfs+json";
        let head = format!(
            "HTTP/1.1 {status} Answer\r\nContent-Type: {kind}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&bytes)
    }

    fn object(&self, repository: &str, oid: &str) -> Option<Vec<u8>> {
        let store = self.root.join(repository.trim_start_matches('/')).join("lfs/objects");
        std::fs::read(store.join(oid.get(..2)?).join(oid.get(2..4)?).join(oid)).ok()
    }

    fn batch(&self, repository: &str, body: &[u8], lie: Lie) -> Vec<u8> {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        if lie == Lie::Garbage || asked["operation"] != "download" {
            return b"<html>".to_vec();
        }
        let objects = asked["objects"].as_array().into_iter().flatten().map(|one| {
            let oid = one["oid"].as_str().unwrap_or_default();
            if lie == Lie::Missing || self.object(repository, oid).is_none() {
                return json!({"oid": oid, "size": one["size"], "error": {"code": 404, "message": "no such object"}});
            }
            let own = format!("{}{repository}/info/lfs/objects/{oid}", self.public);
            let (href, header) = match lie {
                Lie::Elsewhere => ("https://elsewhere.example.com/x".to_owned(), json!({})),
                Lie::Clear => ("http://git.example.com/x".to_owned(), json!({"Authorization": "Bearer secret"})),
                _ => (own, json!({})),
            };
            let download = json!({"href": href, "header": header, "expires_in": 60});
            json!({"oid": oid, "size": one["size"], "authenticated": true, "actions": {"download": download}})
        });
        json!({"transfer": "basic", "objects": objects.collect::<Vec<_>>()}).to_string().into_bytes()
    }
}
