//! Faults that other clients of update systems had, tried here: by their number where they have one.
//!
//! Some are scenarios of tuf-conformance as well and stand there; docs/tuf-conformance.md has the list.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::outside::OutsideKey;
use mcpfs_tests::registry::RELEASE_KEY;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{audit, forge};
use serde_json::json;

use crate::boundary::{CONFIGURATION, HEAD_THIEF, RELEASE_THIEF, SITE};
use crate::tuf::roles::{deploy, deploy_hello, mount_refuses};
use crate::tuf::{Settled, is_refused};
use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.attack(
        Attack::new(
            CONFIGURATION,
            "bugs::a_threshold_of_zero",
            "a threshold of zero, for heads or for releases (CVE-2026-23992), at a start and at a reload",
            &["Malformed"],
        ),
        a_threshold_of_zero,
    );
    suite.attack(
        Attack::new(
            CONFIGURATION,
            "bugs::half_a_trust_root",
            "a trust.json that was cut off, at a start and at a reload: the root before stays in force, and both say why",
            &["Malformed"],
        ),
        half_a_trust_root,
    );
    suite.attack(
        Attack::new(
            CONFIGURATION,
            "bugs::two_scopes_that_tie",
            "two rules for the same scope, with other keys",
            &["TrustRootUnsafe"],
        ),
        two_scopes_that_tie,
    );
    suite.attack(
        Attack::new(
            RELEASE_THIEF,
            "bugs::one_key_counted_twice",
            "one signature under both names of a role in which two must sign (GHSA-r7vq-5w7j-6q48)",
            &["ThresholdNotMet", "EACCES"],
        ),
        one_key_counted_twice,
    );
    suite.attack(
        Attack::new(
            RELEASE_THIEF,
            "bugs::a_release_of_staging",
            "a release that staging's keys signed for staging, which are production's too",
            &["WrongRegistry", "EACCES"],
        ),
        a_release_of_staging,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "bugs::a_refused_head_is_not_kept",
            "heads of high numbers that are refused, as expired or for what they name (CVE-2025-2888): the next \
             honest one counts, also after a restart without a network",
            &["HeadExpired", "Unreachable", "ok"],
        ),
        a_refused_head_is_not_kept,
    );
    suite.attack(
        Attack::new(
            SITE,
            "bugs::a_rollback_over_a_restart",
            "an older site, after each of two restarts (CVE-2022-29173, and clients that never read back what they keep)",
            &["HeadRollback"],
        ),
        a_rollback_over_a_restart,
    );
}

fn a_threshold_of_zero() {
    let world = World::new(Reads::Cached);
    let sound = std::fs::read(world.host.trust()).unwrap();
    let both: [fn(&mut serde_json::Value); 2] =
        [|root| root["head"]["threshold"] = json!(0), |root| root["release"][0]["require"][0]["threshold"] = json!(0)];
    for change in both {
        std::fs::write(world.host.trust(), &sound).unwrap();
        deploy(&world.host, change);
        mount_refuses(&world.host, "Malformed");
    }
    // While it runs: the reload is refused and the root before stays in force.
    std::fs::write(world.host.trust(), &sound).unwrap();
    let settled = Settled::on(&world);
    let before = audit::rows(&world.host).len();
    deploy(&world.host, both[0]);
    settled.mount.reload();
    mcpfs_tests::scratch::wait_for("a row of the refused reload", || {
        let rows = audit::rows(&world.host);
        rows[before..].iter().any(|row| row.outcome == "Malformed").then_some(())
    });
    world.host.refresh();
    settled.is_unchanged();
}

fn half_a_trust_root() {
    let world = World::new(Reads::Cached);
    let sound = std::fs::read(world.host.trust()).unwrap();
    let cut = &sound[..sound.len() / 2];
    std::fs::write(world.host.trust(), cut).unwrap();
    mount_refuses(&world.host, "Malformed");
    let said = ["it ends in the middle (line ", "then mv it there"];
    for command in [["config", "check"].as_slice(), &["doctor"], &["mount", "--foreground"]] {
        let ran = world.host.mcpfs(command).run();
        assert!(ran.code != 0 && said.iter().all(|words| ran.text().contains(words)), "{ran}");
    }
    std::fs::write(world.host.trust(), &sound).unwrap();
    let settled = Settled::on(&world);
    let before = audit::rows(&world.host);
    assert!(before.iter().any(|row| (row.event.as_str(), row.outcome.as_str()) == ("trust", "Malformed")));
    std::fs::write(world.host.trust(), cut).unwrap();
    settled.mount.reload();
    let row = mcpfs_tests::scratch::wait_for("a row of the refused reload", || {
        audit::rows(&world.host).into_iter().skip(before.len()).find(|row| row.outcome == "Malformed")
    });
    assert_eq!(row.event, "trust");
    assert!(row.reason.unwrap().contains(said[0]));
    world.host.refresh();
    settled.is_unchanged();
}

fn two_scopes_that_tie() {
    let world = World::new(Reads::Cached);
    let key = OutsideKey::ed25519();
    for scope in ["*", "hel*", "hello"] {
        let sound = std::fs::read(world.host.trust()).unwrap();
        deploy(&world.host, |root| {
            crate::tuf::roles::add_keys(root, &[&key]);
            let own = root["release"][0]["require"].clone();
            let thief = json!([crate::tuf::roles::role(&[&key], 1)]);
            root["release"] = json!([{"scope": scope, "require": own}, {"scope": scope, "require": thief}]);
        });
        mount_refuses(&world.host, "TrustRootUnsafe");
        std::fs::write(world.host.trust(), sound).unwrap();
    }
}

fn one_key_counted_twice() {
    let world = World::new(Reads::Cached);
    let (key, other) = (OutsideKey::ed25519(), OutsideKey::ed25519());
    deploy_hello(&world.host, &[&key, &other], 2);
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        let payload = STANDARD.decode(entry["signature"]["payload"].as_str().unwrap()).unwrap();
        let (id, signature) = key.signature(&payload);
        let both = [(id, signature.clone()), (other.id().to_owned(), signature)];
        entry["signature"] = forge::signed(&payload, &both);
    });
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    is_refused(&world, "hello", "1.1.0", "ThresholdNotMet");
    audit::expect(&world.host, "ThresholdNotMet", Some("hello"));
}

fn a_release_of_staging() {
    let world = World::new(Reads::Cached);
    let hsm = world.registry.hsm();
    let id = hsm.key_id(RELEASE_KEY);
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        let mut statement = forge::payload(&entry["signature"]);
        statement["predicate"]["registry"] = json!("mcp.example.com/staging");
        let payload = serde_json::to_vec(&statement).unwrap();
        entry["signature"] = forge::envelope(hsm, RELEASE_KEY, &id, &payload);
        entry["registry"] = json!("mcp.example.com/staging");
    });
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    is_refused(&world, "hello", "1.1.0", "WrongRegistry");
    audit::expect(&world.host, "WrongRegistry", Some("hello"));
}

fn a_refused_head_is_not_kept() {
    let mut world = World::new(Reads::Cached);
    let honest = std::fs::read(world.file("head.json")).unwrap();
    let mut settled = Settled::on(&world);
    let far = |head: &mut serde_json::Value| head["version"] = json!(head["version"].as_u64().unwrap() + 1000);
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        far(head);
        (head["issued"], head["expires"]) = (json!("2026-01-01T00:00:00Z"), json!("2026-01-08T00:00:00Z"));
    });
    settled.resists("HeadExpired");
    std::fs::write(world.file("head.json"), &honest).unwrap();
    let hsm = world.registry.hsm();
    let key = mcpfs_tests::registry::HEAD_KEY;
    forge::resign(&world.file("head.json"), hsm, key, &hsm.key_id(key), |statement| {
        far(&mut statement["predicate"]);
        statement["subject"][0]["digest"]["sha256"] = json!("46".repeat(32));
    });
    settled.resists("Unreachable");
    std::fs::write(world.file("head.json"), &honest).unwrap();
    forge::next_head(&world.copy.path(), &world.registry);
    settled.follows(1);
    let before = settled.stop();
    world.site.stop();
    let _mount = Mount::start(&world.host);
    assert_eq!((crate::tuf::head_of(&world.host), crate::tuf::shown(&world.host)), before);
}

fn a_rollback_over_a_restart() {
    let world = World::new(Reads::Cached);
    let old = std::fs::read(world.file("head.json")).unwrap();
    forge::next_head(&world.copy.path(), &world.registry);
    let before = Settled::on(&world).stop();
    std::fs::write(world.file("head.json"), old).unwrap();
    for _ in 0..2 {
        let mount = Mount::start(&world.host);
        world.host.refresh_fails("HeadRollback");
        audit::wait(&world.host, "HeadRollback", None);
        assert_eq!((crate::tuf::head_of(&world.host), crate::tuf::shown(&world.host)), before);
        mount.stop();
    }
}
