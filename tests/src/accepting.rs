//! A port of a loopback and a thread that hands out its connections, for servers that misbehave on purpose.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{Shutdown, shutdown};

/// Accepts until it is dropped.
#[derive(Debug)]
pub struct Accepting {
    listener: TcpListener,
    stop: Arc<AtomicBool>,
}

impl Accepting {
    /// Each connection goes to `serve`, in a thread of its own.
    pub fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback"), serve)
    }

    /// The same on a port that was chosen, also of another network namespace.
    pub fn on(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let accepting = listener.try_clone().expect("a socket");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (Arc::clone(&stop), Arc::new(serve));
        std::thread::spawn(move || {
            for client in accepting.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(client) = client {
                    let serve = Arc::clone(&serve);
                    std::thread::spawn(move || serve(client));
                }
            }
        });
        Self { listener, stop }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("bound").port()
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, wherever its port is; if that fails there is nobody to wake.
        let _woken = shutdown(&self.listener, Shutdown::Read);
    }
}
