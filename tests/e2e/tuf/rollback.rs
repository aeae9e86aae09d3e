//! tuf_conformance/test_rollback.py: what was, and numbers that run ahead.

use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::outside::OutsideKey;
use mcpfs_tests::{audit, forge};
use serde_json::json;

use super::roles::{deploy, next_head_by, publish_head, role};
use super::{Port, Scenario, Settled, head_of, shown};
use crate::world::World;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "test_simple_snapshot_rollback",
        here: "An older catalogue in the place of the one that the accepted head names: it is not even asked for.",
        port: Port::Plain(&["ok"], simple_snapshot_rollback),
    },
    Scenario {
        name: "test_new_timestamp_version_rollback",
        here: "The head before, as it was signed.",
        port: Port::Plain(&["HeadRollback"], timestamp_version_rollback),
    },
    Scenario {
        name: "test_snapshot_rollback[basic, with hashes]",
        here: "The same in the site's whole former state, catalogue and entries too, and after a restart. (The head \
               is timestamp and snapshot in one, and always names by digest.)",
        port: Port::Mounted(&["HeadRollback"], snapshot_rollback),
    },
    Scenario {
        name: "test_targets_rollback[basic, with hashes]",
        here: "An older entry under the next head, signed with the true key. TUF refuses it by the number that targets \
               carry; an entry carries none, since what is selected is the catalogue's say: it is followed to the older, \
               authentic release, recorded as a downgrade, and refused where policy.downgrade is `pin-only`. A head of a \
               lower number over what is there is refused.",
        port: Port::Plain(&["ok", "PolicyRefused", "HeadRollback"], targets_rollback),
    },
    Scenario {
        name: "test_new_targets_fast_forward_recovery",
        here: "A stolen head key numbers its heads from a million on, so that no honest one counts. Another head \
               key and the next epoch in trust.json: the honest numbers count again.",
        port: Port::Plain(&["HeadRollback", "ok"], fast_forward_recovery),
    },
    Scenario {
        name: "test_new_snapshot_fast_forward_recovery",
        here: "The same, and heads of the stolen key are refused from then on, however high their number.",
        port: Port::Plain(&["KeyNotAuthorised", "ok"], stolen_key_after_recovery),
    },
    Scenario {
        name: "test_new_timestamp_fast_forward_recovery",
        here: "The same, with `minimum_head`: of the new epoch no head below it counts.",
        port: Port::Plain(&["HeadRollback", "ok"], minimum_after_recovery),
    },
    Scenario {
        name: "test_new_snapshot_version_mismatch",
        here: "A newer catalogue lies on the site, and no head names it: nothing changes.",
        port: Port::Plain(&["ok"], snapshot_version_mismatch),
    },
];

fn simple_snapshot_rollback() {
    let world = World::new(Reads::Cached);
    forge::replace_bins(&world.copy.path(), &world.registry, |_| ());
    let mut settled = Settled::on(&world);
    let before = world.site.requests().len();
    for entry in std::fs::read_dir(world.file("catalogue")).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            std::fs::write(file, "an older one\n").unwrap();
        }
    }
    settled.follows(0);
    assert!(world.site.requests()[before..].iter().all(|request| request.path == "/head.json"));
}

fn timestamp_version_rollback() {
    let world = World::new(Reads::Cached);
    let old = std::fs::read(world.file("head.json")).unwrap();
    forge::next_head(&world.copy.path(), &world.registry);
    let settled = Settled::on(&world);
    std::fs::write(world.file("head.json"), old).unwrap();
    settled.resists("HeadRollback");
}

fn snapshot_rollback(reads: Reads) {
    let world = World::new(reads);
    let old = world.copy.path().with_extension("old");
    mcpfs_tests::scratch::copy_dir(&world.copy.path(), &old);
    forge::replace_entry(&world.copy.path(), &world.registry, "files", |entry| {
        entry["status"] = json!("yanked");
        entry["reason"] = json!("a fault");
    });
    let settled = Settled::on(&world);
    assert!(!shown(&world.host).iter().any(|line| line.starts_with("files")), "it is yanked");
    // The new state's files go, the old one's come.
    std::fs::remove_dir_all(world.copy.path()).unwrap();
    std::fs::rename(&old, world.copy.path()).unwrap();
    settled.resists("HeadRollback");
    let head = head_of(&world.host);
    settled.stop();
    let _mount = Mount::start(&world.host);
    world.host.refresh_fails("HeadRollback");
    assert_eq!(head_of(&world.host), head);
    assert!(!shown(&world.host).iter().any(|line| line.starts_with("files")), "it is still yanked");
}

fn targets_rollback() {
    let world = World::new(Reads::Cached);
    let careful = Host::new(&world.registry.trust(), &world.site.url(), Reads::Cached);
    careful.drop_in("50-downgrade", "[policy]\ndowngrade = \"pin-only\"\n");
    let (_mount, _other) = (Mount::start(&world.host), Mount::start(&careful));
    let newest = |host: &Host| host.mcpfs(["--json", "explain", "hello"]).ok().json()["selected"].clone();
    for host in [&world.host, &careful] {
        host.refresh();
        assert_eq!(newest(host), "1.1.0");
    }
    crate::thief::downgrade(&world);
    world.host.refresh();
    assert_eq!(newest(&world.host), "1.0.0");
    audit::wait(&world.host, "ok", Some("hello"));
    let went_back = |row: &audit::Row| {
        row.reason.as_ref().is_some_and(|why| why.contains("Downgrade") && why.contains("from 1.1.0 to 1.0.0"))
    };
    let rows = audit::rows(&world.host);
    assert!(rows.iter().any(went_back), "{}", audit::listing(&rows));
    careful.refresh();
    Run::new(careful.at("hello/run")).exits(77).says("PolicyRefused").says("went back from 1.1.0 to 1.0.0");
    audit::expect(&careful, "PolicyRefused", Some("hello"));
    drop((_mount, _other));

    let world = World::new(Reads::Cached);
    forge::next_head(&world.copy.path(), &world.registry);
    forge::next_head(&world.copy.path(), &world.registry);
    let settled = Settled::on(&world);
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["version"] = json!(head["version"].as_u64().unwrap() - 1);
    });
    settled.resists("HeadRollback");
}

const FAR: u64 = 1_000_000;

/// A host that followed a thief's head of a very high number, and what the honest one was before.
fn followed_a_thief(world: &World) -> Vec<u8> {
    let honest = std::fs::read(world.file("head.json")).unwrap();
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["version"] = json!(FAR);
        head["previous"] = json!("00".repeat(32));
    });
    honest
}

/// Another head key and the next epoch, by configuration; gives the honest owner's new key.
fn recover(world: &World, minimum: u64) -> OutsideKey {
    let key = OutsideKey::ed25519();
    deploy(&world.host, |root| {
        super::roles::add_keys(root, &[&key]);
        root["head"] = role(&[&key], 1);
        root["epoch"] = json!(root["epoch"].as_u64().unwrap() + 1);
        root["minimum_head"] = json!(minimum);
    });
    key
}

/// The honest head again, in the next epoch and with this number.
fn honest_again(world: &World, honest: &[u8], key: &OutsideKey, number: u64) {
    std::fs::write(world.file("head.json"), honest).unwrap();
    let mut statement = forge::payload(&forge::read(&world.file("head.json")));
    let head = &mut statement["predicate"];
    head["epoch"] = json!(head["epoch"].as_u64().unwrap() + 1);
    head["version"] = json!(number);
    let payload = serde_json::to_vec(&statement).unwrap();
    publish_head(world, &payload, vec![key.signature(&payload)]);
}

fn fast_forward_recovery() {
    let world = World::new(Reads::Cached);
    let honest = followed_a_thief(&world);
    let settled = Settled::on(&world);
    assert_eq!(head_of(&world.host), FAR);
    std::fs::write(world.file("head.json"), &honest).unwrap();
    settled.resists("HeadRollback");
    settled.stop();
    let key = recover(&world, 1);
    honest_again(&world, &honest, &key, 7);
    let mut settled = Settled::on(&world);
    assert_eq!(head_of(&world.host), 7);
    next_head_by(&world, &[&key]);
    settled.follows(1);
}

fn stolen_key_after_recovery() {
    let world = World::new(Reads::Cached);
    let honest = followed_a_thief(&world);
    let stolen = std::fs::read(world.file("head.json")).unwrap();
    Settled::on(&world).stop();
    let key = recover(&world, 1);
    honest_again(&world, &honest, &key, 7);
    let settled = Settled::on(&world);
    std::fs::write(world.file("head.json"), stolen).unwrap();
    settled.resists("KeyNotAuthorised");
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["version"] = json!(FAR + 1);
        head["epoch"] = json!(head["epoch"].as_u64().unwrap() + 1);
    });
    settled.resists("KeyNotAuthorised");
    audit::expect(&world.host, "ok", None);
}

fn minimum_after_recovery() {
    let world = World::new(Reads::Cached);
    let honest = followed_a_thief(&world);
    Settled::on(&world).stop();
    let key = recover(&world, 8);
    honest_again(&world, &honest, &key, 8);
    let settled = Settled::on(&world);
    honest_again(&world, &honest, &key, 7);
    settled.resists("HeadRollback");
    audit::expect(&world.host, "ok", None);
}

fn snapshot_version_mismatch() {
    let world = World::new(Reads::Cached);
    let mut settled = Settled::on(&world);
    let head = std::fs::read(world.file("head.json")).unwrap();
    forge::replace_bins(&world.copy.path(), &world.registry, |servers| servers.retain(|it| it["name"] != "hello"));
    std::fs::write(world.file("head.json"), head).unwrap();
    settled.follows(0);
}
