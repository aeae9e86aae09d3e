//! The rules of format.md section 13 that need a history, from outside: a real host that saw
//! one thing and is then shown another.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use mcpfs_tests::audit;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::{Until, wait_for};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::{Attack, Suite};
use serde_json::{Value, json};

use crate::boundary::{CONFIGURATION, HEAD_THIEF, RELEASE_THIEF};
use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("rules::another_registry_begins_with_nothing", another_registry_begins_with_nothing);
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "rules::two_heads_of_one_version",
            "the same, with another past",
            &["HeadEquivocation"],
        ),
        two_heads_of_one_version,
    );
    suite.attack(
        Attack::new(HEAD_THIEF, "rules::a_head_of_another_epoch", "the next head, of another epoch", &["HeadRollback"]),
        a_head_of_another_epoch,
    );
    suite.attack(
        Attack::new(
            CONFIGURATION,
            "rules::a_trust_root_never_goes_back",
            "an older trust.json, while the daemon runs and at a start",
            &["TrustRollback"],
        ),
        a_trust_root_never_goes_back,
    );
    suite.attack(
        Attack::new(
            CONFIGURATION,
            "rules::an_epoch_never_goes_back",
            "a newer trust.json of an earlier epoch, whose stolen keys and heads would count again",
            &["TrustRollback"],
        ),
        an_epoch_never_goes_back,
    );
    suite.attack(
        Attack::new(
            CONFIGURATION,
            "rules::two_trust_roots_of_one_version",
            "another trust.json with the version of the last one",
            &["TrustEquivocation"],
        ),
        two_trust_roots_of_one_version,
    );
    suite.attack(
        Attack::new(
            CONFIGURATION,
            "rules::exchanged_in_the_moment_of_a_reload",
            "trust.json written over, cut, renamed and taken back a hundred times while it is being reloaded: one whole \
             root is in force at each moment, and none older than the newest",
            &["Malformed", "TrustRollback", "ok"],
        ),
        exchanged_in_the_moment_of_a_reload,
    );
    suite.attack(
        Attack::new(
            RELEASE_THIEF,
            "rules::a_published_version_never_changes",
            "other content for a version that the host has seen, signed by both keys",
            &["ReleaseChanged"],
        ),
        a_published_version_never_changes,
    );
}

/// Nothing of the registry before is said to be of the next one, also before its site answers.
fn another_registry_begins_with_nothing() {
    let world = World::new(Reads::Cached);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    assert!(head(&world.host) > 0);
    let other = Registry::named("mcp.example.com/other");
    std::fs::copy(other.trust(), world.host.trust()).unwrap();
    world.host.configure("http://127.0.0.1:9/");
    mount.reload();
    let status = || world.host.mcpfs(["--json", "status"]).ok().json();
    wait_for("the other registry", || (status()["registry"] == "mcp.example.com/other").then_some(()));
    world.host.refresh_fails("Unreachable");
    assert!(status()["head"].is_null(), "{}", status());
    world.host.mcpfs(["explain", "hello"]).run().says("Unreachable");
}

/// The version of the head that a host rests on.
fn head(host: &Host) -> u64 {
    host.mcpfs(["--json", "status"]).ok().json()["head"]["version"].as_u64().expect("a head")
}

fn two_heads_of_one_version() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    let before = head(&world.host);
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["previous"] = json!("0".repeat(64));
    });
    world.host.mcpfs(["refresh"]).exits(4).says("HeadEquivocation");
    audit::expect(&world.host, "HeadEquivocation", None);
    assert_eq!(head(&world.host), before);
    // What was admitted stays.
    assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n");
}

fn a_head_of_another_epoch() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    let before = head(&world.host);
    forge::next_head(&world.copy.path(), &world.registry);
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["epoch"] = json!(head["epoch"].as_u64().expect("a number") + 1);
    });
    let ran = world.host.mcpfs(["refresh"]).exits(1).says("HeadRollback");
    assert!(ran.text().contains("epoch"), "{ran}");
    audit::expect(&world.host, "HeadRollback", None);
    assert_eq!(head(&world.host), before);
}

/// Writes the host's trust root with a change.
fn deploy(host: &Host, root: &Value, change: impl FnOnce(&mut Value)) {
    let mut root = root.clone();
    change(&mut root);
    forge::write(&host.trust(), &root);
}

fn trust_version(host: &Host) -> u64 {
    host.mcpfs(["--json", "status"]).ok().json()["trust_version"].as_u64().expect("a version")
}

fn a_trust_root_never_goes_back() {
    let world = World::new(Reads::Cached);
    let first = forge::read(&world.registry.trust());
    let version = first["version"].as_u64().expect("a number");
    deploy(&world.host, &first, |root| root["version"] = json!(version + 1));
    let mount = Mount::start(&world.host);
    assert_eq!(trust_version(&world.host), version + 1);
    // While it runs: the older one is refused, and the newer one stays in force.
    deploy(&world.host, &first, |_| ());
    mount.reload();
    audit::wait(&world.host, "TrustRollback", None);
    assert_eq!(trust_version(&world.host), version + 1);
    mount.stop();
    // And at a start, which ends there.
    let ran = world.host.mcpfs(["mount", "--foreground"]).run().says("TrustRollback");
    assert_eq!(ran.code, 1, "{ran}");
    let rows = audit::rows(&world.host);
    let found = rows.iter().filter(|row| row.event == "trust" && row.outcome == "TrustRollback").count();
    assert_eq!(found, 2, "{}", audit::listing(&rows));
}

fn an_epoch_never_goes_back() {
    let world = World::new(Reads::Cached);
    let first = forge::read(&world.registry.trust());
    let version = first["version"].as_u64().expect("a number");
    deploy(&world.host, &first, |root| (root["version"], root["epoch"]) = (json!(version + 1), json!(2)));
    let mount = Mount::start(&world.host);
    world.host.refresh_fails("HeadRollback");
    deploy(&world.host, &first, |root| root["version"] = json!(version + 2));
    mount.reload();
    audit::wait(&world.host, "TrustRollback", None);
    assert_eq!(trust_version(&world.host), version + 1);
    world.host.refresh_fails("HeadRollback");
    mount.stop();
    world.host.mcpfs(["mount", "--foreground"]).exits(1).says("TrustRollback").says("epoch");
}

fn exchanged_in_the_moment_of_a_reload() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    let first = forge::read(&world.registry.trust());
    let version = first["version"].as_u64().expect("a number");
    let root = |version: u64| {
        let mut root = first.clone();
        root["version"] = json!(version);
        serde_json::to_vec(&root).expect("a Value serialises")
    };
    let (old, new) = (root(version), root(version + 1));
    let mount = Mount::start(host);
    host.refresh();
    let served = mount.server();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let until = Until(&over);
        scope.spawn(|| {
            let beside = host.trust().with_extension("new");
            for turn in 0_usize.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let bytes = if turn % 3 == 0 { &new } else { &old };
                match turn % 4 {
                    // Written over, so that a reader may see any part of it.
                    0 | 1 => std::fs::write(host.trust(), bytes).unwrap(),
                    2 => std::fs::write(host.trust(), &bytes[..turn % bytes.len()]).unwrap(),
                    _ => {
                        std::fs::write(&beside, bytes).unwrap();
                        std::fs::rename(&beside, host.trust()).unwrap();
                    }
                }
            }
        });
        let mut newest = version;
        for turn in 0..100 {
            mount.reload();
            let now = trust_version(host);
            assert!((newest..=version + 1).contains(&now), "{now} after {newest}, at turn {turn}");
            newest = now;
            let read = std::fs::read(host.at("files/1.0.0/tree/twin"));
            assert_eq!(read.unwrap_or_else(|error| panic!("turn {turn}: {error}\n{}", mount.log())), b"deep\n");
        }
        drop(until);
    });
    // What lies there in the end counts as ever.
    let reloaded = |bytes: &[u8], outcome: &str| {
        let count = || audit::rows(host).iter().filter(|row| is_judgement(row) && row.outcome == outcome).count();
        let before = count();
        std::fs::write(host.trust(), bytes).unwrap();
        mount.reload();
        wait_for(outcome, || (count() > before).then_some(()));
        audit::expect(host, outcome, None);
        assert_eq!(trust_version(host), version + 2);
    };
    reloaded(&root(version + 2), "ok");
    reloaded(&new, "TrustRollback");
    reloaded(&new[..new.len() / 2], "Malformed");
    host.refresh();
    assert_eq!(mount.server(), served, "nobody had to be replaced");
}

/// Whether a row says what became of a reload.
fn is_judgement(row: &audit::Row) -> bool {
    row.event == "trust" || row.event == "config"
}

fn two_trust_roots_of_one_version() {
    let world = World::new(Reads::Cached);
    Mount::start(&world.host).stop();
    let first = forge::read(&world.registry.trust());
    deploy(&world.host, &first, |root| {
        root["minimum_head"] = json!(root["minimum_head"].as_u64().unwrap_or(0) + 1);
    });
    world.host.mcpfs(["mount", "--foreground"]).exits(1).says("TrustEquivocation");
    audit::expect(&world.host, "TrustEquivocation", None);
}

fn a_published_version_never_changes() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    host.mcpfs(["explain", "hello"]).ok().says("hello 1.0.0: admitted");
    let seen = forge::read(&registry.site().join("head.json"));
    let version = forge::payload(&seen)["predicate"]["version"].clone();

    // Whoever has both keys begins again elsewhere and signs other content as 1.0.0, under a head
    // that follows the one seen.
    std::fs::remove_dir_all(registry.site()).unwrap();
    let tree = fixture::hello_tree(&registry.artefacts(), "1.0.0");
    std::fs::write(tree.join("more"), "other content\n").unwrap();
    let recipe = Recipe::new("hello", "1.0.0", &fixture::tar(&tree)).with(fixture::HELLO_LAUNCH);
    std::fs::write(registry.recipe("hello"), recipe.yaml()).unwrap();
    registry.release_command("hello").env("MCPFS_SIGNER_STATE", registry.artefacts().join("another-signer")).ok();
    let payload = base64::engine::general_purpose::STANDARD.decode(seen["payload"].as_str().unwrap()).unwrap();
    let bytes = host.path("payload");
    std::fs::write(&bytes, payload).unwrap();
    let previous = fixture::sha256_of(&bytes);
    forge::resign_head(&registry.site(), &registry, |head| {
        head["version"] = json!(version.as_u64().expect("a number") + 1);
        head["previous"] = json!(previous);
    });
    host.refresh();
    host.mcpfs(["explain", "hello"]).run().says("ReleaseChanged");
    audit::wait(&host, "ReleaseChanged", Some("hello"));
    let ran = mcpfs_tests::command::Run::new(host.at("hello/run")).exits(77);
    assert!(ran.stderr.contains("ReleaseChanged") && ran.stdout.is_empty(), "{ran}");
}
