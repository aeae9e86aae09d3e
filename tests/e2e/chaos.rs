//! Everything at once while everything goes wrong, for less than a minute; `make soak` for longer. Root only.

use std::time::Duration;

use mcpfs_tests::chaos::{Plan, run};
use mcpfs_tests::host::Reads;
use mcpfs_tests::scratch::is_root;
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    if is_root() {
        suite.mounted("chaos::nobody_notices_anything", nobody_notices_anything);
    }
}

fn nobody_notices_anything(reads: Reads) {
    let report = run(&Plan { reads, lasts: Duration::from_secs(40), kills: usize::MAX, troubles: true });
    assert!(report.is_good(), "\n{report}");
    let (operations, ..) = report.outcomes();
    assert!(operations > 0 && report.kills().0 > 0, "\n{report}");
}
