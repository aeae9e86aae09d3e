//! How soon a daemon answers: on a host that knows everything, after the host's own start, and on one that knows
//! nothing; with many files, and with many servers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mcpfs_tests::bench::Figure;
use mcpfs_tests::faulty::FaultyServer;
use mcpfs_tests::history::History;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::quick::Quick;

const SERVERS: usize = 4;
const FILES: usize = 25_000;
const NAMES: usize = 1_000;
const ROUNDS: usize = 5;

/// A site, and what everybody asks for first.
struct Asked<'a> {
    /// In words.
    what: String,
    site: PathBuf,
    trust: PathBuf,
    first: &'a [String],
}

impl Asked<'_> {
    /// A start and the first answers: until it serves, and then until all have been given.
    fn start(&self, host: &Host) -> (Duration, Duration) {
        let mount = Mount::start(host);
        let served = mount.started_in();
        let started = Instant::now();
        for file in self.first {
            let file = host.at(file);
            assert!(file.symlink_metadata().is_ok_and(|found| found.is_file()), "{}", file.display());
        }
        let first = started.elapsed();
        mount.stop();
        (served, first)
    }

    fn figures(&self) -> Vec<Figure> {
        let server = FaultyServer::healthy(&self.site);
        let host = Host::new(&self.trust, &server.url(), Reads::Passthrough);
        let nothing = self.start(&host);
        // What follows the first look may still be on its way then.
        self.start(&host);
        let mut times: Vec<(Duration, Duration)> = (0..ROUNDS).map(|_| self.start(&host)).collect();
        times.sort();
        rustix::fs::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3").expect("root");
        let cold = self.start(&host);
        let row = |when: &str, (served, first): (Duration, Duration), goal: &str| {
            let figure = format!("{} ms, {} ms", served.as_millis(), first.as_millis());
            Figure::plain(&format!("start with {}, {when}: until it serves, then the stats", self.what), figure, goal)
        };
        vec![
            row("known", times[ROUNDS / 2], "< 300 ms"),
            row("known, nothing of them in memory (once)", cold, "-"),
            row("nothing known (once)", nothing, "-"),
        ]
    }
}

/// A daemon that starts.
pub(super) fn start() -> Vec<Figure> {
    let quick = Quick::new();
    for server in 0..SERVERS {
        let file = |at: usize| (format!("d{}/file-{at}.txt", at / 250), format!("{server} {at}\n"));
        let files: Vec<(String, String)> = (0..FILES).map(file).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
        let recipe = quick.recipe(&format!("many-{server}"), "1.0.0", &files);
        quick.release(&recipe, &quick.site()).limit(Duration::from_secs(1_800)).ok();
    }
    let first: Vec<String> =
        (0..SERVERS).map(|server| format!("many-{server}/1.0.0/tree/d99/file-24999.txt")).collect();
    let what = format!("{} files of {SERVERS} servers", SERVERS * FILES);
    let files = Asked { what, site: quick.path("site"), trust: quick.trust(), first: &first };

    let history = History::new(NAMES, 1);
    let site = history.path("site");
    history.rebuild(&site).limit(Duration::from_secs(3_600)).ok();
    let first: Vec<String> =
        [0, NAMES / 2, NAMES - 1].map(|server| format!("server-{server:04}/1.0.0/tree/server.txt")).into();
    let names = Asked { what: format!("{NAMES} servers"), trust: history.trust(), site, first: &first };
    let mut figures = files.figures();
    figures.extend(names.figures());
    figures
}
