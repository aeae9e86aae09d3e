//! The end-to-end tests: real binaries, real mounts, real parts.
//!
//! `make test` runs all of them; `cargo test -p mcpfs-tests -- attacks` some;
//! `MODES=cached` only one read mode.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::ExitCode;

use mcpfs_tests::suite::Suite;

mod parts;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    parts::register(&mut suite);
    suite.run()
}
