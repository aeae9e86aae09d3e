//! The control socket: how everything but the kernel talks to the daemon.
//!
//! `<rundir>/control.sock` is one Unix stream socket that anybody may connect to. What a
//! caller may do is decided for each operation from `SO_PEERCRED` and `SO_PEERGROUPS`, never from anything the
//! caller says: `launch`, `status`, `list` and `explain` are for all, `refresh` and `reload`
//! for root and the daemon's own user, and a server that `[access]` gives to a group is launched for its members. File permissions could not say that, and a second
//! socket for administrators would be a second thing to protect.
//!
//! The language is one JSON text a line, with its version in each request ([`protocol`]):
//! it can be read with a terminal, and an old client gets a sentence instead of a guess.
//! D-Bus, gRPC and HTTP were rejected: each brings a parser and a policy language for five
//! operations. Requests are small and strict (bounded line, bounded depth, no unknown or
//! duplicate fields), connections are counted for each user, and every read and write has a
//! deadline, so that one user cannot close the service to others.
//!
//! The blocking client is for short-lived programs without a runtime (the launcher must
//! start in a millisecond); the server lives on the daemon's runtime.

pub mod client;
mod credentials;
mod explain;
pub mod facts;
mod ops;
mod peer;
mod plan;
pub mod protocol;
pub mod server;
mod status;

pub use ops::serve;
pub(crate) use peer::groups as peer_groups;
pub use server::{bind, link_launcher, listen, make_rundir, on_runtime};

#[cfg(test)]
mod tests;
