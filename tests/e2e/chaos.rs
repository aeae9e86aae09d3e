//! Everything at once while everything goes wrong, for less than a minute; `make soak` for longer. Root only.

use std::time::{Duration, Instant};

use mcpfs_tests::chaos::blows::{Blow, Stalls, Struck, Wait};
use mcpfs_tests::chaos::{Plan, run};
use mcpfs_tests::host::Reads;
use mcpfs_tests::scratch::is_root;
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("chaos::a_wait_belongs_to_what_it_lasted_through", a_wait_belongs_to_what_it_lasted_through);
    if is_root() {
        suite.mounted("chaos::nobody_notices_anything", nobody_notices_anything);
    }
}

fn nobody_notices_anything(reads: Reads) {
    let report = run(&Plan { reads, lasts: Duration::from_secs(40), kills: usize::MAX, troubles: true });
    assert!(report.is_good(), "\n{report}");
    let (operations, ..) = report.outcomes();
    assert!(operations > 0 && report.waits(Blow::Killed).0 > 0, "\n{report}");
}

fn a_wait_belongs_to_what_it_lasted_through() {
    let zero = Instant::now();
    let at = |millis: u64| zero + Duration::from_millis(millis);
    let struck = |blow, began, over| Struck { blow, began: at(began), over: at(over) };
    let blows = [
        struck(Blow::Killed, 0, 50),
        struck(Blow::Stopped, 300, 5_400),
        struck(Blow::Killed, 5_700, 5_800),
        struck(Blow::Network, 5_000, 9_000),
        struck(Blow::Killed, 20_000, 20_010),
    ];
    let wait =
        |what, started, ended, fetched| Wait { what, started: at(started), took: at(ended) - at(started), fetched };
    let waits = [
        wait("at the first kill", 10, 60, false),
        // Through the end of the stop and the kill after it.
        wait("through a stop", 500, 5_790, false),
        wait("at the second kill", 5_690, 5_800, false),
        wait("a fetch", 5_000, 8_000, true),
        wait("not a fetch, between the blows", 8_000, 8_400, false),
    ];
    let stalls = Stalls::of(&blows, &waits);
    assert_eq!(stalls.each[&Blow::Killed], [0, 50, 110].map(Duration::from_millis));
    let longest = |blow: Blow| {
        let (count, wait) = stalls.longest[&blow];
        (count, wait.map(|wait| wait.what))
    };
    assert_eq!(longest(Blow::Killed), (3, Some("at the second kill")));
    assert_eq!(longest(Blow::Stopped), (1, Some("through a stop")));
    assert_eq!(longest(Blow::Network), (1, Some("a fetch")));
    assert_eq!(longest(Blow::Nothing), (0, Some("not a fetch, between the blows")));
    assert!(!stalls.longest.contains_key(&Blow::Disk));
}
