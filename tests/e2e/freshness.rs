//! What a host does, and says, as the word of its registry grows old or never came.
//!
//! Clocks are set by faketime, an outside tool.

use std::path::Path;

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("freshness::restricted_data_stops_first", restricted_data_stops_first);
    suite.plain("freshness::a_first_boot_without_a_network", a_first_boot_without_a_network);
    suite.plain("freshness::classes_that_are_not_right", classes_that_are_not_right);
}

/// A launch that nobody speaks to, so that the server itself soon ends: what the launcher says on stderr, or 77.
fn said(run: &Path) -> Ran {
    Run::new(run).run()
}

fn says_nothing_of_age(run: &Path) -> bool {
    let ran = said(run);
    assert_ne!(ran.code, 77, "{ran}");
    !ran.stderr.contains("stops starting")
}

fn restricted_data_stops_first() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    // The same server, for other data.
    let yaml = registry.hello("1.0.0").yaml();
    let vault =
        yaml.replace("name: hello", "name: vault").replace("classification: internal", "classification: restricted");
    std::fs::write(registry.recipe("vault"), vault).unwrap();
    registry.release_command("vault").ok();
    let mut site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    host.drop_in("50-stale", "[registry]\nmax_stale = \"20d\"\n[registry.max_stale_for]\nrestricted = \"1d\"\n");
    let mount = Mount::start(&host);
    host.refresh();
    assert!(says_nothing_of_age(&host.at("vault/run")));
    mount.stop();
    site.stop();
    // Half, 80 and 95 % of its day; the other one has twenty.
    for (clock, words) in
        [("+13h", "stops starting"), ("+20h", "Tell your administrator. "), ("+23h", "administrator now")]
    {
        host.set_clock(clock);
        let mount = Mount::start(&host);
        let ran = said(&host.at("vault/run"));
        assert!(ran.code != 77 && ran.stderr.contains(words), "{clock}: {ran}");
        assert!(says_nothing_of_age(&host.at("hello/run")), "{clock}");
        host.mcpfs(["status"]).ok().says("vault stops starting in");
        mount.stop();
    }
    host.set_clock("+25h");
    let mount = Mount::start(&host);
    let ran = said(&host.at("vault/run"));
    assert!(ran.code == 77 && ran.stderr.contains("registry.max_stale_for.restricted ended"), "{ran}");
    host.mcpfs(["explain", "vault"]).run().says("HeadExpired").says("is the site reachable");
    assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"], "1.0.0");
    mount.stop();
    // The clock was wrong: nothing of it stays.
    host.set_clock("+0");
    site.restart(&[]);
    let _mount = Mount::start(&host);
    host.refresh();
    assert!(says_nothing_of_age(&host.at("vault/run")));
}

fn a_first_boot_without_a_network() {
    let mut world = World::new(Reads::Cached);
    world.site.stop();
    let _mount = Mount::start(&world.host);
    world.host.refresh_fails("Unreachable");
    let ran = said(&world.run("hello"));
    assert!(ran.code == 77 && ran.stdout.is_empty() && ran.stderr.contains("Unreachable"), "{ran}");
    world.host.mcpfs(["explain", "hello"]).run().says("Unreachable");
    let doctor = world.host.mcpfs(["doctor"]).exits(1);
    let doctor = doctor.says("fix: curl -v the address above");
    assert!(!doctor.text().contains("panicked"), "{doctor}");
    // The network comes, and nobody restarts anything.
    world.site.restart(&[]);
    world.host.refresh();
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}

fn classes_that_are_not_right() {
    let world = World::new(Reads::Cached);
    for (text, words) in [
        ("[registry.max_stale_for]\nsecret = \"1d\"\n", "there is no such class"),
        ("[registry.max_stale_for]\nrestricted = \"31d\"\n", "is longer than registry.max_stale"),
        ("[registry.max_stale_for]\nrestricted = 3\n", "50-stale.toml:2"),
    ] {
        world.host.drop_in("50-stale", text);
        world.host.mcpfs(["config", "check"]).exits(2).says(words);
    }
}
