//! What a worker's death costs those who use the mount, and how soon a daemon answers.

use std::time::{Duration, Instant};

use mcpfs_tests::bench::Figure;
use mcpfs_tests::chaos::{Plan, run};
use mcpfs_tests::faulty::FaultyServer;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::quick::Quick;

const KILLS: usize = 50;
const SERVERS: usize = 4;
const FILES: usize = 25_000;
const ROUNDS: usize = 5;

/// Workers killed under load: readers, a session, launches.
pub(super) fn takeover() -> Vec<Figure> {
    let of = |reads: Reads| {
        let report = run(&Plan { reads, lasts: Duration::from_secs(3_600), kills: KILLS, troubles: false });
        eprintln!("{report}");
        let (operations, failed, wrong) = report.outcomes();
        let (kills, median, longest) = report.kills();
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

/// A daemon that starts on a host that knows many files already.
pub(super) fn start() -> Vec<Figure> {
    let quick = Quick::new();
    for server in 0..SERVERS {
        let file = |at: usize| (format!("d{}/file-{at}.txt", at / 250), format!("{server} {at}\n"));
        let files: Vec<(String, String)> = (0..FILES).map(file).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
        let recipe = quick.recipe(&format!("many-{server}"), "1.0.0", &files);
        quick.release(&recipe, &quick.site()).limit(Duration::from_secs(1_800)).ok();
    }
    let server = FaultyServer::healthy(&quick.path("site"));
    let host = Host::new(&quick.trust(), &server.url(), Reads::Passthrough);
    let ask = || {
        let mount = Mount::start(&host);
        let served = mount.started_in();
        let started = Instant::now();
        for server in 0..SERVERS {
            let file = host.at(&format!("many-{server}/1.0.0/tree/d99/file-24999.txt"));
            assert!(file.symlink_metadata().is_ok_and(|found| found.is_file()), "{}", file.display());
        }
        let first = started.elapsed();
        mount.stop();
        (served, first)
    };
    ask();
    let mut times: Vec<(Duration, Duration)> = (0..ROUNDS).map(|_| ask()).collect();
    times.sort();
    let (served, first) = times[ROUNDS / 2];
    vec![Figure::plain(
        &format!("start with {} files known: until it serves, and a stat in each tree", SERVERS * FILES),
        format!("{} ms, {} ms", served.as_millis(), first.as_millis()),
        "< 300 ms",
    )]
}
