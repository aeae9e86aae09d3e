//! The same use of a mount while things happen to its service: under real systemd, on a machine of its own.

use std::time::{Duration, Instant};

use super::actors::{self, ANSWERS, Place};
use super::blows::Blow;
use super::tally::{Report, Tally};
use super::{Usage, load};
use crate::installed::Installed;
use crate::scratch::wait_for;

/// What is done to the service, and how often.
#[allow(missing_debug_implementations, reason = "it holds what is done")]
pub struct Blows<'a> {
    /// Of which kind.
    pub blow: Blow,
    /// How often.
    pub times: usize,
    /// One of them, until the service runs again; which of them.
    pub strike: &'a dyn Fn(usize),
}

/// Does it again and again while others use the mount. After each the session that was there before the first has to answer.
///
/// # Panics
/// If nothing is served to begin with.
pub fn run(on: &Installed, blows: &Blows<'_>) -> Report {
    let tally = Tally::default();
    let place = Place {
        mount: on.machine.path("/mcp"),
        cache: on.machine.path("/var/cache/mcpfs"),
        sources: on.registry.artefacts(),
    };
    let all = actors::all(&place, &tally);
    let start = || on.hello();
    let before = usage(on);
    std::thread::scope(|scope| {
        load(scope, &start, &all, &tally);
        tally.guard("what was done to the service", || {
            for turn in 0..blows.times {
                std::thread::sleep(Duration::from_millis(300));
                let began = Instant::now();
                (blows.strike)(turn);
                tally.struck(blows.blow, began);
                // One call may have been under way.
                let answered = tally.counted(ANSWERS);
                wait_for("an answer of the session", || (tally.counted(ANSWERS) > answered + 1).then_some(()));
                tally.count(AFTER);
            }
        });
        tally.finish();
    });
    all.read(&tally);
    wait_for("the end of all that was open", || (usage(on).open_handles == 0).then_some(()));
    tally.report(before, usage(on))
}

/// What is counted when the session has answered after a blow.
pub(super) const AFTER: &str = "blows after which the session answered";

fn usage(on: &Installed) -> Usage {
    let (worker, supervisor) = on.processes();
    let status = on.mcpfs(["--json", "status"]).ok().json();
    Usage::of([supervisor, worker], status["open_handles"].as_u64().expect("a number"))
}
