//! The harness: every real part as a value that owns it.
//!
//! A part starts in its constructor, is ready when that returns, and is gone when the value
//! is dropped. Each owns a directory below /tmp and a free loopback port, so tests run side
//! by side; nothing is shared but finished, read-only fixtures. There are no mocks: the site
//! is nginx, the token is SoftHSM, the mount is the built binary on a real kernel mount, and
//! only faults that no honest server has come from [`faulty::FaultyServer`].
//!
//! A missing part is a failure that names the package to install, never a skipped test.
//! Errors panic with what happened: the callers are tests and the demo, where a message and
//! unwinding (which stops all parts) are just what is wanted.
//!
//! ```text
//! Hsm ── Registry ── site directory ── Site (nginx) ── Host (etc, state, cache) ── Mount ── McpClient
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code: see above")]

pub mod accepting;
pub mod advisories;
pub mod audit;
pub mod author;
pub mod bench;
pub mod binaries;
pub mod chaos;
pub mod codehost;
pub mod command;
pub mod control;
pub mod cutting;
pub mod disk;
pub mod faulty;
pub mod fixture;
pub mod forge;
pub mod gate;
pub mod git;
pub mod guard;
pub mod history;
pub mod host;
pub mod hsm;
pub mod installed;
pub mod kept;
pub mod kernel;
pub mod kms;
pub mod lfs;
pub mod link;
pub mod machine;
pub mod mcp;
pub mod mcpb;
pub mod moto;
pub mod mount;
mod nginx;
pub mod oci;
pub mod once;
pub mod outside;
pub mod packages;
pub mod people;
pub mod proof;
pub mod proxy;
pub mod quick;
pub mod registry;
pub mod s3;
pub mod scratch;
pub mod servers;
pub mod signing;
pub mod silent;
pub mod site;
pub mod suite;
pub mod terminal;
pub mod tls;
pub mod tpm;
