//! Withdrawal: from the decision to the first refusal, on a host that is told and on one that is not.

use std::time::{Duration, Instant};

use mcpfs_tests::bench::Figure;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::site::Site;

/// Enough for a median.
const ROUNDS: usize = 5;

/// `revoke` to refused opens, and the same by `stop` on the host.
pub(super) fn withdraw() -> Vec<Figure> {
    let (mut published, mut followed, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let registry = Registry::new();
        registry.release(&registry.hello("1.0.0"));
        registry.release(&registry.files());
        let site = Site::serve(&registry.site());
        let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
        let _mount = Mount::start(&host);
        host.refresh();
        let opens = |file: &str| std::fs::read(host.at(file)).is_ok();
        assert!(opens("hello/1.0.0/tree/README") && opens("files/1.0.0/tree/twin"), "both are there");
        let begun = Instant::now();
        registry.publishing("revoke").arg("--publish").args(["hello@1.0.0", "--reason", "measured"]).ok();
        published.push(begun.elapsed());
        let begun = Instant::now();
        host.refresh();
        assert!(!opens("hello/1.0.0/tree/README"), "it was revoked");
        followed.push(begun.elapsed());
        let begun = Instant::now();
        host.mcpfs(["stop", "files", "--reason", "measured"]).ok();
        assert!(!opens("files/1.0.0/tree/twin"), "it was stopped");
        stopped.push(begun.elapsed());
    }
    vec![
        Figure::plain("`mcpfs-signer revoke`, until the new head lies in the site", shown(published), "< 10 s"),
        Figure::plain("from a look at that head to the first refused open", shown(followed), "< 1 s"),
        Figure::plain("`mcpfs stop` on a host, until the first refused open", shown(stopped), "< 1 s"),
    ]
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("{:.0} ms", times[times.len() / 2].as_secs_f64() * 1e3)
}
