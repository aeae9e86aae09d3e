//! What a worker's death costs those who use the mount.

use std::time::Duration;

use mcpfs_tests::bench::Figure;
use mcpfs_tests::chaos::blows::Blow;
use mcpfs_tests::chaos::{Plan, run};
use mcpfs_tests::host::Reads;

const KILLS: usize = 50;

/// Workers killed under load: readers, a session, launches.
pub(super) fn takeover() -> Vec<Figure> {
    let of = |reads: Reads| {
        let report = run(&Plan { reads, lasts: Duration::from_secs(3_600), kills: KILLS, troubles: false });
        eprintln!("{report}");
        let (operations, failed, wrong) = report.outcomes();
        let (kills, median, longest) = report.waits(Blow::Killed);
        let what = format!("{kills} workers killed under load, reads {}", reads.word());
        [
            Figure::plain(&what, format!("{failed} of {operations} failed, {wrong} with wrong bytes"), "0, 0"),
            Figure::plain(
                "the longest wait of anybody: median of the kills, and of all",
                format!("{} ms, {} ms", median.as_millis(), longest.as_millis()),
                "<= 300 ms",
            ),
        ]
    };
    [Reads::Passthrough, Reads::Cached].into_iter().flat_map(of).collect()
}
