//! The daemon's control socket, spoken to by hand.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::host::Host;

/// What the daemon answers whoever this thread is.
///
/// # Panics
/// If it does not answer with JSON.
pub fn asks(host: &Host, request: &Value) -> Value {
    let mut socket = UnixStream::connect(host.rundir().join("control.sock")).expect("a daemon listens");
    writeln!(socket, "{request}").expect("it listens");
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).expect("an answer");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("no answer ({error}): {line:?}"))
}
