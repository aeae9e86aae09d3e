//! A web server of one file that gives it out when the test says so: until then whoever asks is in the middle of it.
//!
//! A byte comes every second meanwhile, so that nobody takes it for dead.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::accepting::Accepting;
use crate::machine::Machine;
use crate::scratch::PATIENCE;

/// The server; whoever still waits when it is dropped gets nothing.
#[derive(Debug)]
pub struct Gate {
    accepting: Accepting,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes: Vec<u8>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    came: usize,
}

impl Gate {
    /// Closed, on the loopback of a machine.
    pub fn in_machine(machine: &Machine, bytes: Vec<u8>) -> Self {
        let shared = Arc::new(Shared { bytes, state: Mutex::default(), changed: Condvar::new() });
        let serving = Arc::clone(&shared);
        // A client that was killed is what this is for.
        Self { accepting: machine.serves(move |client| drop(serving.answer(client))), shared }
    }

    /// The address of its file, which may have any name that ends in `.tar`.
    pub fn url(&self) -> String {
        format!("{}/artefact.tar", self.host())
    }

    /// Its address, as an operator lists a host.
    pub fn host(&self) -> String {
        format!("http://127.0.0.1:{}", self.accepting.port())
    }

    /// Waits until somebody asks who has not asked before.
    ///
    /// # Panics
    /// If nobody comes.
    pub fn comes(&self) {
        let mut state = self.shared.until(PATIENCE, |state| state.came > 0);
        assert!(state.came > 0, "nobody came within {PATIENCE:?}");
        state.came = 0;
    }

    /// From now on everybody gets an answer, also who waits.
    pub fn open(&self) {
        self.shared.change(|state| state.open = true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits, at most so long.
    fn until(&self, limit: Duration, ready: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, limit, |state| !ready(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn answer(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(client.try_clone()?).lines();
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", self.bytes.len());
        client.write_all(head.as_bytes())?;
        self.change(|state| state.came += 1);
        let mut left = self.bytes.as_slice();
        while !self.until(Duration::from_secs(1), |state| state.open).open {
            let (byte, rest) = left.split_at(1);
            client.write_all(byte)?;
            left = rest;
        }
        client.write_all(left)
    }
}
