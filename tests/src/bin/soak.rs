//! `make soak`: everything at once while everything goes wrong, for as many minutes as `MINUTES` says.
#![allow(clippy::expect_used, reason = "a program for developers: it stops with what went wrong")]

use std::process::ExitCode;
use std::time::Duration;

use mcpfs_tests::chaos::{Plan, run};
use mcpfs_tests::host::Reads;

fn main() -> ExitCode {
    mcpfs_tests::guard::run(soak)
}

fn soak() -> ExitCode {
    mcpfs_tests::scratch::usual_umask();
    let minutes: f64 = std::env::var("MINUTES").map_or(10.0, |text| text.parse().expect("MINUTES is a number"));
    let mut good = true;
    for reads in [Reads::Passthrough, Reads::Cached] {
        let lasts = Duration::from_secs_f64(minutes * 30.0);
        let report = run(&Plan { reads, lasts, kills: usize::MAX, troubles: true });
        println!("--- reads {}\n{report}", reads.word());
        good &= report.is_good();
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
