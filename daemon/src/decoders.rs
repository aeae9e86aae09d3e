//! The doors by which bytes of others come into this host's processes, one function each: what fuzzing
//! (`daemon/fuzz`) and the walk over its committed corpora go through.
//!
//! What comes from a site is decoded by `mcpfs_trust`, which has doors of its own. Here it is what a hostile worker
//! says to root and to a user's launcher, what any user of the host says to a worker or to the launcher, and the
//! configuration, which root may have written wrong. Each may be refused; none may panic, and what is accepted must
//! read the same when it is written anew.
//!
//! Each says whether it accepted anything: a door that is closed for everything is no strong one.
//!
//! No part of the programs: it is there for tests and for `cargo fuzz` alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::config::Texts;
use crate::control::protocol::{Launch, Request, parse_answer};
use crate::launch::Identity;
use crate::supervisor::wire::Message;

/// What takes the bytes, and says whether anything was accepted.
pub type Decoder = fn(&[u8]) -> bool;

/// All of them, by the names of their fuzz targets and corpora.
pub const ALL: [(&str, Decoder); 5] =
    [("message", message), ("request", request), ("answer", answer), ("identity", identity), ("config", config)];

/// What a worker and root's process say to each other.
pub fn message(bytes: &[u8]) -> bool {
    let Some(message) = Message::decode(bytes) else { return false };
    assert_eq!(Message::decode(&message.encode()), Some(message));
    true
}

/// A line to the control socket.
pub fn request(bytes: &[u8]) -> bool {
    let Ok(request) = Request::from_line(bytes) else { return false };
    // Escapes may make it longer than it came, and then too long.
    if let Ok(line) = request.to_line() {
        assert_eq!(Request::from_line(&line).ok(), Some(request));
    }
    true
}

/// What the launcher is told: how to start a server.
pub fn answer(bytes: &[u8]) -> bool {
    parse_answer::<Launch>(bytes).is_ok()
}

/// What stands in the first line of `run`, and in the launcher's arguments whatever somebody wrote there.
pub fn identity(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(identity) = text.parse::<Identity>() else { return false };
    assert_eq!(identity.to_string(), text);
    true
}

/// A configuration file.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    Texts::one(Path::new("/etc/mcpfs/mcpfs.toml"), text).config().is_ok()
}
