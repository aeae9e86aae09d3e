//! `policy.expose`, `hide`, `downgrade` and `scanners`, each as a user of the mount meets it.

use std::time::{SystemTime, UNIX_EPOCH};

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("exposure::only_exposed_names_are_shown", only_exposed_names_are_shown);
    suite.mounted("exposure::hidden_names_say_that_they_are", hidden_names_say_that_they_are);
    suite.mounted("exposure::a_downgrade_is_told_or_refused", a_downgrade_is_told_or_refused);
    suite.mounted("exposure::a_scanner_never_causes_a_fetch", a_scanner_never_causes_a_fetch);
}

fn names(host: &Host) -> Vec<String> {
    host.refresh();
    let mut names: Vec<String> =
        std::fs::read_dir(host.mcp()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// `files` is hidden: not listed, not opened, and its `run` says which rule it is.
fn is_hidden(host: &Host) {
    assert_eq!(names(host), ["hello"]);
    let ran = Run::new(host.at("files/run")).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("PolicyRefused") && ran.stderr.contains("policy."), "{ran}");
    assert_eq!(errno(std::fs::read(host.at("files/1.0.0/tree/twin"))), libc::EACCES);
    assert_eq!(errno(std::fs::read(host.at("files/1.0.0/release.json"))), libc::EACCES);
    audit::expect(host, "PolicyRefused", Some("files"));
    // What is hidden on purpose is no fault.
    let status = host.mcpfs(["status"]).ok();
    assert!(status.stdout.contains("1 server") && !status.stdout.contains("refused"), "{status}");
    assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"], "1.1.0");
}

fn only_exposed_names_are_shown(reads: Reads) {
    let world = World::new(reads);
    world.host.drop_in("50-policy", "[policy]\nexpose = [\"hel*\", \"nobody\"]\n");
    let _mount = Mount::start(&world.host);
    is_hidden(&world.host);
}

fn hidden_names_say_that_they_are(reads: Reads) {
    let world = World::new(reads);
    world.host.drop_in("50-policy", "[policy]\nexpose = [\"*\"]\nhide = [\"files\"]\n");
    let _mount = Mount::start(&world.host);
    is_hidden(&world.host);
}

fn a_downgrade_is_told_or_refused(reads: Reads) {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    // Statements carry whole seconds: the second one must be of a later one.
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let first = second();
    wait_for("the next second", || (second() > first).then_some(()));
    registry.release(&registry.hello("1.1.0"));
    let site = Site::serve(&registry.site());
    let host = |policy: &str| {
        let host = Host::new(&registry.trust(), &site.url(), reads);
        host.drop_in("50-policy", &format!("[policy]\ndowngrade = \"{policy}\"\n"));
        host
    };
    let (allow, pin_only) = (host("allow"), host("pin-only"));
    let (_first, _second) = (Mount::start(&allow), Mount::start(&pin_only));
    for host in [&allow, &pin_only] {
        host.refresh();
        assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"], "1.1.0");
    }
    // The commit is reverted: the catalogue selects the older release again.
    registry.release(&registry.hello("1.0.0"));
    for host in [&allow, &pin_only] {
        host.refresh();
        let rows = audit::rows(host);
        let told = |why: &String| why.contains("Downgrade") && why.contains("1.1.0");
        assert!(rows.iter().any(|row| row.reason.as_ref().is_some_and(told)), "{}", audit::listing(&rows));
    }
    assert_eq!(McpClient::start(&allow.at("hello/run")).initialize()["serverInfo"]["version"], "1.0.0");
    let ran = Run::new(pin_only.at("hello/run")).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("PolicyRefused") && ran.stderr.contains("pin-only"), "{ran}");
    audit::expect(&pin_only, "PolicyRefused", Some("hello"));
    // What was admitted stays usable by its path, and a pin goes back on purpose.
    assert_eq!(std::fs::read(pin_only.at("hello/1.1.0/tree/bin/VERSION")).unwrap(), b"1.1.0\n");
    pin_only.mcpfs(["pin", "hello", "1.0.0"]).ok();
    assert_eq!(McpClient::start(&pin_only.at("hello/run")).initialize()["serverInfo"]["version"], "1.0.0");
}

fn a_scanner_never_causes_a_fetch(reads: Reads) {
    let world = World::new(reads);
    world.host.drop_in("50-policy", "[policy]\nscanners = [\"sha256sum\"]\n");
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    let file = world.host.at("files/1.0.0/tree/large");
    assert!(file.metadata().is_ok());
    let asked = || world.site.requests().iter().filter(|request| request.path.starts_with("/objects/")).count();
    let before = asked();
    let ran = Run::new("sha256sum").arg(&file).run();
    assert!(ran.code != 0 && ran.stderr.contains("No route to host"), "{ran}");
    assert_eq!(asked(), before, "nothing was fetched for it");
    // Somebody else brings it, and then the scanner may read it.
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes == std::fs::read(world.source("files/large")).unwrap());
    assert!(asked() > before);
    Run::new("sha256sum").arg(&file).ok();
}
