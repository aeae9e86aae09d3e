//! The worker: everything that mcpfs does, by a user who may do nothing else.
//!
//! What it reads from the network and from its own disk is hostile until verified, and a fault in
//! a parser must not become root's. So before the first of those bytes it has given up what it had:
//! it is another user without a capability, cannot gain any, sees of the host's files only what it
//! needs ([`confine`]), and the kernel refuses it every call that it has no use for
//! (`calls`). What it still needs root for, mounting and backing ids, it asks the
//! supervisor for ([`Link`]), which gives it no more than a worker of this kind needs.
//!
//! It starts as root, for long enough to read what belongs to root alone: configuration, trust
//! root, token and key. All of these come from the host itself.

mod calls;
pub mod confine;
mod link;

pub use self::link::{Link, Wish};
