//! tuf_conformance/test_expiration.py and test_delegated_expiration.py: what has had its time.
//!
//! The head alone carries a time: it covers everything below it. Days go by for a host's daemon
//! by faketime, from outside.

use std::time::{SystemTime, UNIX_EPOCH};

use mcpfs_tests::audit;
use mcpfs_tests::forge;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::Mount;
use mcpfs_trust::time::Timestamp;
use serde_json::json;

use super::{Port, Scenario, Settled, head_of, shown};
use crate::world::{World, errno};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "test_root_expired",
        here: "Not ported: trust.json carries no time. It is replaced by configuration, and an older one is refused: \
               `rules::a_trust_root_never_goes_back`.",
        port: Port::None,
    },
    Scenario {
        name: "test_timestamp_expired",
        here: "The next head, and its time has passed.",
        port: Port::Plain(&["HeadExpired"], timestamp_expired),
    },
    Scenario {
        name: "test_snapshot_expired",
        here: "The same over a new catalogue, in which a name is gone: the catalogue is not even asked for.",
        port: Port::Plain(&["HeadExpired"], snapshot_expired),
    },
    Scenario {
        name: "test_targets_expired",
        here: "Not ported: bins and entries carry no time of their own; their head's covers them, as above.",
        port: Port::None,
    },
    Scenario { name: "test_expired_local_root", here: "Not ported: as `test_root_expired`.", port: Port::None },
    Scenario {
        name: "test_expired_local_timestamp",
        here: "A host that was off for eighteen days, with a head of seven: the site's newer one is followed.",
        port: Port::Plain(&["ok"], expired_local_timestamp),
    },
    Scenario {
        name: "test_delegated_targets_expired",
        here: "Not ported: a release does not expire, it is yanked or revoked: `errno::withdrawn_releases`.",
        port: Port::None,
    },
    Scenario {
        name: "test_expired_local_delegated_targets",
        here: "Eighteen days on, the site still has the head of seven. What was admitted is served and recorded as \
               stale; another version of the same server is not admitted any more.",
        port: Port::Mounted(&["HeadExpired", "EACCES"], expired_local_releases),
    },
    Scenario {
        name: "test_expired_local_delegated_targets_updates",
        here: "The same, and then the site has a newer head: the other version is admitted.",
        port: Port::Mounted(&["HeadExpired", "ok"], expired_local_releases_update),
    },
];

const DAY: i64 = 86_400;

/// The next head, signed `from` days from now, for `days` days.
fn next_head(world: &World, from: i64, days: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let issued = Timestamp::from_unix(i64::try_from(now).unwrap() + from * DAY).unwrap();
    forge::next_head(&world.copy.path(), &world.registry);
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["issued"] = json!(issued.to_string());
        head["expires"] = json!(issued.plus(days * DAY).to_string());
    });
}

fn timestamp_expired() {
    let world = World::new(Reads::Cached);
    let settled = Settled::on(&world);
    next_head(&world, -12, 7);
    settled.resists("HeadExpired");
}

fn snapshot_expired() {
    let world = World::new(Reads::Cached);
    let settled = Settled::on(&world);
    forge::replace_bins(&world.copy.path(), &world.registry, |servers| servers.retain(|it| it["name"] != "files"));
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["issued"] = json!("2026-01-01T00:00:00Z");
        head["expires"] = json!("2026-01-08T00:00:00Z");
    });
    settled.resists("HeadExpired");
    assert_eq!(world.site.requests().into_iter().next_back().unwrap().path, "/head.json");
}

fn expired_local_timestamp() {
    let world = World::new(Reads::Cached);
    let (head, before) = Settled::on(&world).stop();
    next_head(&world, 0, 21);
    world.host.set_clock("+18d");
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!((head_of(&world.host), shown(&world.host)), (head + 1, before));
    audit::expect(&world.host, "ok", None);
}

/// The other version, which nobody has opened yet.
const OTHER: &str = "hello/1.0.0/tree/README";

fn expired_local_releases(reads: Reads) {
    let world = World::new(reads);
    Settled::on(&world).stop();
    world.host.set_clock("+18d");
    let _mount = Mount::start(&world.host);
    world.host.refresh_fails("HeadExpired");
    assert_eq!(std::fs::read(world.host.at(super::README)).unwrap(), super::CONTENT);
    let rows = audit::rows(&world.host);
    let last = rows.iter().rfind(|row| row.event == "access").expect("an access");
    assert!(last.stale && last.outcome == "ok", "{}", audit::listing(&rows));
    assert_eq!(errno(std::fs::read(world.host.at(OTHER))), libc::EACCES);
    audit::expect(&world.host, "HeadExpired", Some("hello"));
}

fn expired_local_releases_update(reads: Reads) {
    let world = World::new(reads);
    Settled::on(&world).stop();
    world.host.set_clock("+18d");
    let mount = Mount::start(&world.host);
    world.host.refresh_fails("HeadExpired");
    assert_eq!(errno(std::fs::read(world.host.at(OTHER))), libc::EACCES);
    next_head(&world, 0, 21);
    world.host.refresh();
    let other = std::fs::read(world.host.at(OTHER)).unwrap();
    assert_eq!(other, b"hello 1.0.0: echo, add, whoami\n");
    audit::wait(&world.host, "ok", Some("hello"));
    mount.stop();
}
