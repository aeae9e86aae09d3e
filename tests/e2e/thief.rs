//! What whoever has a head key can do to hosts that know better, and to those that do not.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::outside::OutsideKey;
use mcpfs_tests::registry::files_below;
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{audit, forge};
use mcpfs_trust::time::Timestamp;
use serde_json::json;

use crate::boundary::HEAD_THIEF;
use crate::tuf::roles::{add_keys, deploy, publish_head, role};
use crate::tuf::{Settled, head_of, is_refused, shown};
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted_attack(
        Attack::new(
            HEAD_THIEF,
            "thief::a_downgrade",
            "a head that names an entry of before: a host without a pin starts the older release, which is an \
             authentic one; a host that pins the newer one starts none",
            &["PinUnknown", "ok"],
        ),
        a_downgrade,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "thief::a_revocation_taken_back",
            "a head that takes a revocation back: not on a host that has seen it, nor after a restart",
            &["Revoked", "EACCES"],
        ),
        a_revocation_taken_back,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "thief::a_good_release_revoked",
            "a head that revokes a good release, an earlier one of its server: refused until the epoch rises, then as \
             before, also after a restart",
            &["Revoked", "EACCES", "ok"],
        ),
        a_good_release_revoked,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "thief::a_head_of_next_year",
            "a head of next year, shown to a host whose clock is there for a moment: nothing new until the epoch rises",
            &["ClockRollback", "ok"],
        ),
        a_head_of_next_year,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "thief::a_yank_taken_back",
            "a head that takes a yank back: used again, as every head may say",
            &["Yanked", "EACCES", "ok"],
        ),
        a_yank_taken_back,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "thief::a_release_hidden",
            "a head that names a server no more: a new host never hears of it, one that admitted it goes on with it \
             until `max_stale`",
            &["ENOENT", "ok"],
        ),
        a_release_hidden,
    );
}

/// The entry of hello when 1.0.0 was its only release, which stays on a site.
fn entry_of_before(world: &World) -> PathBuf {
    let folder = world.file("entries");
    let mut files = files_below(&folder).into_iter().map(|file| folder.join(file));
    let of_before = |file: &PathBuf| {
        let entry = forge::read(file);
        entry["name"] == "hello" && entry["version"] == "1.0.0"
    };
    files.find(of_before).expect("it is kept")
}

/// As if whoever has the head key published the entry of before under a new head.
pub(crate) fn downgrade(world: &World) {
    let old = forge::read(&entry_of_before(world));
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| *entry = old);
}

fn version_started(host: &Host) -> String {
    let mut client = mcpfs_tests::mcp::McpClient::start(&host.at("hello/run"));
    client.initialize()["serverInfo"]["version"].as_str().unwrap().to_owned()
}

fn a_downgrade(reads: Reads) {
    let world = World::new(reads);
    let pinned = Host::new(&world.registry.trust(), &world.site.url(), reads);
    pinned.drop_in("50-pins", "[pins]\nhello = \"1.1.0\"\n");
    let (_mount, _other) = (Mount::start(&world.host), Mount::start(&pinned));
    for host in [&world.host, &pinned] {
        host.refresh();
        assert_eq!(version_started(host), "1.1.0");
    }
    downgrade(&world);
    world.host.refresh();
    assert_eq!(version_started(&world.host), "1.0.0");
    audit::wait(&world.host, "ok", Some("hello"));
    pinned.refresh();
    let ran = Run::new(pinned.at("hello/run")).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("PinUnknown"), "{ran}");
    audit::expect(&pinned, "PinUnknown", Some("hello"));
    // Nor is the older one's content under the name of the newer one.
    if let Ok(content) = std::fs::read(pinned.at("hello/1.1.0/tree/README")) {
        assert_eq!(content, crate::tuf::CONTENT);
    }
}

/// Gives hello's selected release this status under a new head.
fn status(world: &World, status: &str) {
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        entry["status"] = json!(status);
        match status {
            "active" => drop(entry.as_object_mut().unwrap().remove("reason")),
            _ => entry["reason"] = json!("CVE-2026-1234"),
        }
    });
}

fn a_revocation_taken_back() {
    let world = World::new(Reads::Cached);
    status(&world, "revoked");
    let mount = Mount::start(&world.host);
    world.host.refresh();
    is_refused(&world, "hello", "1.1.0", "Revoked");
    status(&world, "active");
    world.host.refresh();
    is_refused(&world, "hello", "1.1.0", "Revoked");
    audit::expect(&world.host, "Revoked", Some("hello"));
    mount.stop();
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    is_refused(&world, "hello", "1.1.0", "Revoked");
}

fn a_yank_taken_back() {
    let world = World::new(Reads::Cached);
    status(&world, "yanked");
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    is_refused(&world, "hello", "1.1.0", "Yanked");
    audit::expect(&world.host, "Yanked", Some("hello"));
    status(&world, "active");
    world.host.refresh();
    assert_eq!(version_started(&world.host), "1.1.0");
    audit::wait(&world.host, "ok", Some("hello"));
}

fn a_release_hidden() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!(version_started(&world.host), "1.1.0");
    forge::replace_bins(&world.copy.path(), &world.registry, |servers| servers.retain(|it| it["name"] != "hello"));
    world.host.refresh();
    assert_eq!(version_started(&world.host), "1.1.0");
    audit::wait(&world.host, "ok", Some("hello"));
    let new = Host::new(&world.registry.trust(), &world.site.url(), Reads::Cached);
    let _other = Mount::start(&new);
    new.refresh();
    assert!(!shown(&new).iter().any(|line| line.starts_with("hello")));
    assert_eq!(errno(std::fs::read(new.at("hello/1.1.0/tree/README"))), libc::ENOENT);
}

/// Another head key, the next epoch, and in it the head of before: what docs/keys.md does after a theft.
fn recover(world: &World, honest: &[u8]) {
    let key = OutsideKey::ed25519();
    deploy(&world.host, |root| {
        add_keys(root, &[&key]);
        root["head"] = role(&[&key], 1);
        root["epoch"] = json!(root["epoch"].as_u64().unwrap() + 1);
        root["minimum_head"] = json!(100);
    });
    std::fs::write(world.file("head.json"), honest).unwrap();
    let mut statement = forge::payload(&forge::read(&world.file("head.json")));
    let head = &mut statement["predicate"];
    (head["epoch"], head["version"]) = (json!(head["epoch"].as_u64().unwrap() + 1), json!(100));
    let payload = serde_json::to_vec(&statement).unwrap();
    publish_head(world, &payload, vec![key.signature(&payload)]);
}

/// An earlier version of hello.
const EARLIER: &str = "hello/1.0.0/tree/README";

fn a_good_release_revoked() {
    let world = World::new(Reads::Cached);
    let honest = std::fs::read(world.file("head.json")).unwrap();
    let mount = Mount::start(&world.host);
    world.host.refresh();
    let before = std::fs::read(world.host.at(EARLIER)).unwrap();
    assert_eq!(version_started(&world.host), "1.1.0");
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        let earlier = &mut entry["earlier"][0];
        assert_eq!(earlier["version"], "1.0.0");
        (earlier["status"], earlier["reason"]) = (json!("revoked"), json!("a thief's word"));
    });
    world.host.refresh();
    assert_eq!(errno(std::fs::read(world.host.at(EARLIER))), libc::EACCES);
    audit::wait(&world.host, "Revoked", Some("hello"));
    // What the thief does not touch goes on, and from now on rests on his entry.
    assert_eq!(version_started(&world.host), "1.1.0");
    // The root comes while the site cannot be asked: all that the host has is the thief's entry.
    recover(&world, &honest);
    let head = std::fs::read(world.file("head.json")).unwrap();
    std::fs::write(world.file("head.json"), "{}").unwrap();
    mount.reload();
    wait_for("the new trust root", || {
        (world.host.mcpfs(["--json", "status"]).ok().json()["trust_version"] == 2).then_some(())
    });
    world.host.refresh_fails("Malformed");
    std::fs::write(world.file("head.json"), head).unwrap();
    world.host.refresh();
    assert_eq!(std::fs::read(world.host.at(EARLIER)).unwrap(), before);
    audit::wait(&world.host, "ok", Some("hello"));
    mount.stop();
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!(std::fs::read(world.host.at(EARLIER)).unwrap(), before);
    assert_eq!(version_started(&world.host), "1.1.0");
}

fn a_head_of_next_year() {
    let world = World::new(Reads::Cached);
    let honest = std::fs::read(world.file("head.json")).unwrap();
    let before = Settled::on(&world).stop();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let then = Timestamp::from_unix(i64::try_from(now).unwrap() + 365 * 86_400).unwrap();
    forge::next_head(&world.copy.path(), &world.registry);
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["issued"] = json!(then.to_string());
        head["expires"] = json!(then.plus(7 * 86_400).to_string());
    });
    world.host.set_clock("+366d");
    let mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!(head_of(&world.host), before.0 + 1);
    mount.stop();
    world.host.set_clock("+0");
    std::fs::write(world.file("head.json"), &honest).unwrap();
    let mount = Mount::start(&world.host);
    world.host.refresh_fails("ClockRollback");
    audit::wait(&world.host, "ClockRollback", None);
    mount.stop();
    recover(&world, &honest);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!((head_of(&world.host), shown(&world.host)), (100, before.1));
    assert_eq!(version_started(&world.host), "1.1.0");
    audit::wait(&world.host, "ok", Some("hello"));
    mount.stop();
}
