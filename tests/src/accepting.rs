//! A port of this machine and a thread that hands out its connections, for servers that misbehave on purpose.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Accepts until it is dropped.
#[derive(Debug)]
pub struct Accepting {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl Accepting {
    /// Each connection goes to `serve`, in a thread of its own.
    pub fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (Arc::clone(&stop), Arc::new(serve));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(client) = client {
                    let serve = Arc::clone(&serve);
                    std::thread::spawn(move || serve(client));
                }
            }
        });
        Self { port, stop }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread; if that fails there is nobody to wake.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}
