//! From `run` to a running server.
//!
//! `run` is a text of one line that the daemon makes up from the verified statement:
//! `#!<rundir>/launch <name>@<version>#<statement>`. The kernel starts `<rundir>/launch` (a
//! link to this binary) with that identity as its first argument, as the user who wants the
//! server. The launcher asks the daemon beside it how that very release is started, makes
//! an environment from nothing, and becomes the server by `exec`: no process stays between
//! the host and the server, so signals, pipes and the exit status need no forwarding. A sandbox
//! is the one exception: it has a keeper (`sandbox`).
//!
//! The identity is an argument of the kernel's making, not a path that is looked up again:
//! between reading `run` and starting it the selected release may change, and what is
//! started is what was read, or nothing. A shell script as `run` was rejected (quoting, a
//! shell's start-up files, no room for a decision), and so was a set-uid launcher: the
//! launcher has no right that its user has not. What it could be lied to about is only its
//! own user's; the daemon believes `SO_PEERCRED` alone.
//!
//! Nothing is ever written on stdout, which belongs to the protocol of the server. A refusal
//! is one line on stderr, where MCP hosts show it, and exit status 77.

pub(crate) mod descriptors;
mod environment;
mod identity;
mod launcher;
mod sandbox;
mod secrets;
mod state;

pub(crate) use environment::sets;
pub use identity::{BadIdentity, Identity, identity_line, refused_line};
pub use launcher::{EXIT_REFUSED, invoked, run};
