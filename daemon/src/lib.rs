//! mcpfs mounts a signed MCP registry: only what verifies is readable, every access is recorded.
//!
//! Bird's eye. A host's configuration names a *site* (static files) and deploys a *trust
//! root* (the keys that count). The registry room follows the site's signed head and keeps
//! one immutable snapshot of what verified; the mount shows that snapshot; an open fetches
//! and verifies one whole file before its first byte; the audit commits a row before the
//! answer leaves.
//!
//! | room | what it decides |
//! |---|---|
//! | [`config`], [`owned`] | what the host's files say, and that nobody else could have written them |
//! | [`site`] | which mirror answers, within bounds and deadlines; trusts nothing it gets |
//! | [`registry`] | which releases are admitted, and why others are refused |
//! | [`content`] | that a file is exactly what the verified tree names; the cache |
//! | `mount`, `fs` | what a path means, and which error it gives |
//! | [`audit`], [`caller`] | who did what; the store that everything waits for |
//! | `control`, `launch` | the socket, and `run` turned into a process |
//! | [`credentials`] | how a secret gets from its source to one server |
//! | [`supervisor`], [`worker`] | root's part and everybody else's; how one worker follows another |
//! | [`doctor`] | what on a host stands in the way of all that |
//! | `metrics` | what monitoring is told |
//! | `retention` | when rows of the audit are old enough to go |
//! | `run`, `daemon` | the only wiring |
//!
//! Arrows point one way: `fs` → `registry`, `content`, `audit`; `registry` → `site`,
//! `content`, `audit`, state. What stands between a person and a server crosses rooms as a
//! [`refusal::Refusal`] and in no other form.
//!
//! Async meets sync at three doors: FUSE threads answer from memory and hand only a first
//! lookup or an uncached open to a task; the audit is one thread behind a bounded channel;
//! disk work of the cache runs in `spawn_blocking`. The runtime handle is passed in.

mod announce;
pub mod audit;
pub mod caller;
pub mod cli;
pub mod commands;
pub mod config;
pub mod content;
pub mod control;
pub mod credentials;
pub mod daemon;
#[doc(hidden)]
pub mod decoders;
pub mod doctor;
pub mod errno;
pub mod fs;
mod groups;
pub mod launch;
pub mod launched;
mod lock;
mod memory;
mod metrics;
pub mod mount;
mod open_files;
pub mod owned;
pub mod refusal;
pub mod registry;
mod retention;
pub mod run;
#[cfg(test)]
mod scratch;
pub mod site;
pub mod supervisor;
pub mod words;
pub mod worker;
