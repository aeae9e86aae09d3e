//! `make bench`: what the mount costs, as ratios against a named peer in the same run, and how long
//! publishing takes.
//!
//! Pairs are interleaved (A B A B …) and reported as medians, because the machine's speed
//! drifts more than what is measured. Nothing is asserted: figures are for people and for
//! docs/performance.md. `mcpfs-bench NAME …` runs only the named parts.
#![allow(clippy::expect_used, clippy::panic, reason = "a program for developers: it stops with what went wrong")]

mod mounted;
mod opens;
mod publishing;
mod start;
mod systemd;
mod takeover;
mod withdrawal;

use std::cell::LazyCell;
use std::process::ExitCode;

use mcpfs_tests::bench::Figure;
use mcpfs_tests::registry::Registry;

use mounted::Bench;

/// One part of the table.
type Part<'a> = Box<dyn Fn() -> Vec<Figure> + 'a>;

fn main() -> ExitCode {
    if let [_, role, at] = std::env::args_os().collect::<Vec<_>>().as_slice()
        && role == opens::NOTHING
    {
        opens::serve_nothing(at);
        return ExitCode::SUCCESS;
    }
    mcpfs_tests::guard::run(bench)
}

fn bench() -> ExitCode {
    mcpfs_tests::scratch::usual_umask();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    // Only what is mounted needs it.
    let bench = &LazyCell::new(Bench::new);
    let mounted = |part: fn(&Bench) -> Vec<Figure>| -> Part<'_> { Box::new(move || part(bench)) };
    let parts: [(&str, Part<'_>); 13] = [
        ("read", mounted(mounted::read)),
        ("warm", mounted(mounted::warm)),
        ("opens", mounted(opens::opens)),
        ("launch", mounted(mounted::launch)),
        ("cold", mounted(mounted::cold)),
        ("tree", mounted(mounted::tree)),
        ("memory", mounted(mounted::memory)),
        ("takeover", Box::new(takeover::takeover)),
        ("systemd", Box::new(systemd::systemd)),
        ("start", Box::new(start::start)),
        ("publish", Box::new(publishing::publish)),
        ("rebuild", Box::new(publishing::rebuild)),
        ("withdraw", Box::new(withdrawal::withdraw)),
    ];
    println!("| what | mcpfs | peer | figure | goal |\n|---|---|---|---|---|");
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|one| one == name) {
            for figure in part() {
                println!("{figure}");
            }
        }
    }
    Registry::drop_shared();
    ExitCode::SUCCESS
}
