//! A web server with faults that no real server can be configured to have.
//!
//! It serves a directory like any static server, but for one path, where it does what the
//! [`Fault`] says. One thread for each connection, one request for each connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens when the path is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The right bytes, one a second.
    Drip,
    /// Claims ten gigabytes and sends as much as is taken.
    TenGigabytes,
    /// The same without saying how much it will be.
    Endless,
    /// Resets the connection after the first bytes.
    Reset,
    /// Takes the request and never answers.
    Silence,
    /// Announces all and closes in the middle.
    Cut,
    /// One byte is another one.
    Corrupt,
    /// Closes every connection before it says anything.
    Refuse,
}

/// The server; stops on drop.
#[derive(Debug)]
pub struct FaultyServer {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    path: String,
    fault: Mutex<Option<Fault>>,
    stopping: AtomicBool,
    sent: AtomicU64,
}

impl FaultyServer {
    /// Serves `root`; requests whose path starts with `path` meet the fault.
    pub fn over(root: &Path, path: &str, fault: Fault) -> Self {
        Self::start(root, path, Some(fault))
    }

    /// Serves `root` well until it is told otherwise by [`Self::turn`].
    pub fn healthy(root: &Path) -> Self {
        Self::start(root, "", None)
    }

    /// From the next request on there is this fault, or none.
    pub fn turn(&self, fault: Option<Fault>) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn start(root: &Path, path: &str, fault: Option<Fault>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free loopback port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            path: path.to_owned(),
            fault: Mutex::new(fault),
            stopping: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        });
        let own = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let own = Arc::clone(&own);
                // Whatever goes wrong here, the client hung up: that is what is tested.
                std::thread::spawn(move || drop(stream.and_then(|stream| own.answer(stream))));
            }
        });
        Self { port, shared, acceptor: Some(acceptor) }
    }

    /// The base address, with a final slash.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// How many bytes of faulty bodies the clients took.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Drop for FaultyServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the acceptor does not panic");
        }
    }
}

impl Shared {
    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?.take(16 << 10));
        let mut request = String::new();
        reader.read_line(&mut request)?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
        if path.contains("..") {
            return write(&stream, b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let body = std::fs::read(self.root.join(&path));
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = fault.filter(|_| path.starts_with(&self.path)) {
            return self.misbehave(fault, &stream, &body.unwrap_or_default());
        }
        match body {
            Err(_) => write(&stream, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            Ok(body) => {
                write(&stream, head(body.len()).as_bytes())?;
                write(&stream, &body)
            }
        }
    }

    fn misbehave(&self, fault: Fault, stream: &TcpStream, body: &[u8]) -> std::io::Result<()> {
        match fault {
            Fault::Drip => {
                write(stream, head(body.len()).as_bytes())?;
                for byte in body {
                    self.send(stream, &[*byte])?;
                    self.pause(Duration::from_secs(1))?;
                }
                Ok(())
            }
            Fault::TenGigabytes => {
                write(stream, head(10_000_000_000).as_bytes())?;
                self.flood(stream, 10_000_000_000)
            }
            Fault::Endless => {
                write(stream, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                self.flood(stream, u64::MAX)
            }
            Fault::Reset => {
                write(stream, head(body.len().max(64)).as_bytes())?;
                self.send(stream, &body[..body.len() / 2])?;
                // Closing with lingering switched off sends RST.
                rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
                Ok(())
            }
            Fault::Silence => loop {
                self.pause(Duration::from_secs(1))?;
            },
            Fault::Refuse => Ok(()),
            Fault::Corrupt => {
                let mut other = body.to_vec();
                if let Some(byte) = other.get_mut(body.len() / 2) {
                    *byte ^= 1;
                }
                write(stream, head(other.len()).as_bytes())?;
                self.send(stream, &other)
            }
            Fault::Cut => {
                write(stream, head(body.len().max(64)).as_bytes())?;
                self.send(stream, &body[..body.len() / 2])
            }
        }
    }

    fn flood(&self, stream: &TcpStream, total: u64) -> std::io::Result<()> {
        let block = [b' '; 64 << 10];
        let mut left = total;
        while left > 0 && !self.stopping.load(Ordering::SeqCst) {
            let size = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.send(stream, &block[..size])?;
            left -= size as u64;
        }
        Ok(())
    }

    fn send(&self, stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        write(stream, bytes)?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    /// Sleeps in short steps; an error once the server stops.
    fn pause(&self, time: Duration) -> std::io::Result<()> {
        let step = Duration::from_millis(50);
        for _ in 0..time.as_millis() / step.as_millis() {
            if self.stopping.load(Ordering::SeqCst) {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            std::thread::sleep(step);
        }
        Ok(())
    }
}

fn head(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
}

fn write(mut stream: &TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes)
}
