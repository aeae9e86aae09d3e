//! An HTTP proxy that loses one request, or its answer, or all from one on.
//!
//! One connection carries one request: the client is told so. What a network does at the worst
//! moment is then a number.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::accepting::Accepting;

/// What gets lost; requests count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// This request and all after it never arrive.
    From(usize),
    /// The answer to this one alone; it was carried out.
    Answer(usize),
    /// Nothing.
    Nothing,
}

/// A running proxy.
#[derive(Debug)]
pub struct Cutting {
    accepting: Accepting,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    loss: Loss,
    seen: AtomicUsize,
}

impl Cutting {
    /// A proxy to `port` of this machine.
    pub fn to(port: u16, loss: Loss) -> Self {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let shared = Arc::new(Shared { to, loss, seen: AtomicUsize::new(0) });
        let carrying = Arc::clone(&shared);
        // A connection that breaks is what this is for.
        let accepting = Accepting::new(move |client| drop(carrying.carry(client)));
        Self { accepting, shared }
    }

    /// Its address, for `--s3-endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.accepting.port())
    }

    /// Requests that arrived here so far.
    pub fn seen(&self) -> usize {
        self.shared.seen.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn carry(&self, client: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if !lower.starts_with("connection:") {
                head.push_str(&line);
            }
        }
        let number = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        if matches!(self.loss, Loss::From(first) if number >= first) {
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut server = TcpStream::connect(self.to)?;
        server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
        server.write_all(&body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        match self.loss == Loss::Answer(number) {
            true => Ok(()),
            false => (&client).write_all(&answer),
        }
    }
}
