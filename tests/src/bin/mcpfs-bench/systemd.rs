//! What happens to the service under real systemd, and what that costs those who use the mount.

use std::path::PathBuf;

use mcpfs_tests::bench::Figure;
use mcpfs_tests::chaos::blows::Blow;
use mcpfs_tests::chaos::service::{Blows, run};
use mcpfs_tests::host::Reads;
use mcpfs_tests::installed::{Installed, UNIT, kill};
use mcpfs_tests::packages::build;
use mcpfs_tests::scratch;
use rustix::process::Signal;

/// How often each thing is done.
const KILLS: usize = 50;
const BOTH: usize = 10;
const RESTARTS: usize = 20;
const UPGRADES: usize = 4;

/// A supervisor that is killed, alone and with its worker; a restart; an upgrade of the package.
pub(super) fn systemd() -> Vec<Figure> {
    let dir = scratch::dir();
    // Each is newer than the one before it.
    let debs: Vec<PathBuf> = (0..=UPGRADES)
        .map(|release| build("mcpfs", dir.path(), &(release + 1).to_string(), &["deb"]).remove(0))
        .collect();
    [Reads::Passthrough, Reads::Cached].into_iter().flat_map(|reads| all(reads, &debs)).collect()
}

/// All of it with one way of reading, on a machine with the first of these packages.
fn all(reads: Reads, debs: &[PathBuf]) -> Vec<Figure> {
    let (first, newer) = debs.split_first().expect("one at least");
    let on = Installed::of_package(first, &format!("[mount]\nreads = \"{}\"\n", reads.configured()));
    // So many in so short a time are no crash loop.
    on.drop_in(UNIT, "[Unit]\nStartLimitIntervalSec=0\n");
    let another = |act: &dyn Fn()| {
        let before = on.main_pid();
        act();
        // It waits as everybody does. To ask systemd meanwhile would wake it, and it does late what it has time for.
        let file = on.machine.path("/mcp/hello/1.1.0/tree/bin/VERSION");
        std::fs::read(file).expect("the mount is served");
        on.another_than(before);
    };
    let supervisor = |_| another(&|| kill(on.processes().1, Signal::KILL));
    let both = |_| {
        another(&|| {
            let (worker, supervisor) = on.processes();
            [worker, supervisor].into_iter().for_each(|one| kill(one, Signal::KILL));
        });
    };
    let restart = |_| another(&|| drop(on.machine.systemctl(["restart", UNIT])));
    let upgrade = |turn: usize| another(&|| on.install_package(&newer[turn]));
    let things = [
        ("supervisors killed", Blows { blow: Blow::SupervisorKilled, times: KILLS, strike: &supervisor }),
        ("supervisors killed with their workers", Blows { blow: Blow::BothKilled, times: BOTH, strike: &both }),
        ("restarts (systemctl restart)", Blows { blow: Blow::Restarted, times: RESTARTS, strike: &restart }),
        ("upgrades (dpkg --install)", Blows { blow: Blow::Upgraded, times: UPGRADES, strike: &upgrade }),
    ];
    let figures = things.into_iter().flat_map(|(words, blows)| {
        let report = run(&on, &blows);
        eprintln!("--- {words}, reads {}\n{report}", reads.word());
        let (operations, failed, wrong) = report.outcomes();
        let (count, median, longest) = report.waits(blows.blow);
        [
            Figure::plain(
                &format!("{count} {words}, reads {}", reads.word()),
                format!(
                    "{failed} of {operations} failed, {wrong} with wrong bytes; the session answered after {}",
                    report.answered()
                ),
                "0, 0, each",
            ),
            Figure::plain(
                "the longest wait of anybody: median of these, and of all",
                format!("{} ms, {} ms", median.as_millis(), longest.as_millis()),
                "<= 300 ms",
            ),
        ]
    });
    let figures = figures.collect();
    on.mcpfs(["audit", "verify"]).ok();
    figures
}
