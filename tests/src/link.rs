//! A slow line to a server: a TCP proxy with a rate and a round-trip time.
//!
//! The kernel's own emulator (netem) is not everywhere, and shaping with it needs root. This
//! delays each piece by half the round trip in each direction, a new connection by one more
//! round trip (its handshake), and shares one rate among all connections' answers, as one
//! access line does. TCP's slow start is not modelled, so short transfers look a little
//! better than in life, for every peer alike.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::accepting::Accepting;

/// A running proxy; connections end with it.
#[derive(Debug)]
pub struct Link {
    accepting: Accepting,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    /// Payload bytes a second, of answers.
    rate: f64,
    round_trip: Duration,
    /// When the line is free for the next piece.
    free_at: Mutex<Instant>,
    carried: AtomicU64,
}

impl Link {
    /// A line to `port` of this machine. Of `megabits` a second about 5 % go to headers.
    pub fn to(port: u16, megabits: f64, round_trip: Duration) -> Self {
        let shared = Arc::new(Shared {
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            rate: megabits * 1e6 / 8.0 * 0.95,
            round_trip,
            free_at: Mutex::new(Instant::now()),
            carried: AtomicU64::new(0),
        });
        let line = Arc::clone(&shared);
        Self { accepting: Accepting::new(move |client| connect(client, &line)), shared }
    }

    /// The address to use instead of the server's, with a final slash.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.accepting.port())
    }

    /// Bytes of answers carried so far.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }
}

fn connect(client: TcpStream, shared: &Arc<Shared>) {
    std::thread::sleep(shared.round_trip);
    let Ok(server) = TcpStream::connect(shared.to) else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a TCP socket");
    }
    let (back_from, back_to) = (server.try_clone().expect("socket"), client.try_clone().expect("socket"));
    let shaped = Arc::clone(shared);
    std::thread::spawn(move || carry(back_from, back_to, &shaped, true));
    carry(client, server, shared, false);
}

/// Moves one direction: read at once, hold for half a round trip and the line's turn, write.
fn carry(mut from: TcpStream, mut to: TcpStream, shared: &Arc<Shared>, limited: bool) {
    // About 1 MiB on its way: more than rate times round trip, so it never limits.
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(64);
    let writer = std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        // The other side may have closed first.
        drop(to.shutdown(Shutdown::Write));
    });
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut sent = Instant::now();
        if limited {
            shared.carried.fetch_add(count as u64, Ordering::Relaxed);
            let mut free_at = shared.free_at.lock().expect("no panic holds it");
            sent = sent.max(*free_at) + Duration::from_secs_f64(count as f64 / shared.rate);
            *free_at = sent;
        }
        if sender.send((sent + shared.round_trip / 2, buffer[..count].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    drop(writer.join());
}
