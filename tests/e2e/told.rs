//! What people are told: words that name the cause and what to do, and nothing instead of them.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use mcpfs_tests::audit;
use mcpfs_tests::command::Ran;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::{need, wait_for};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("told::explain_takes_the_configured_path", explain_takes_the_configured_path);
    suite.plain("told::a_check_is_what_mount_does", a_check_is_what_mount_does);
    suite.plain("told::secrets_of_others_are_refused", secrets_of_others_are_refused);
    suite.plain("told::configuration_that_is_nearly_right", configuration_that_is_nearly_right);
    suite.plain("told::a_trust_root_that_is_a_web_page", a_trust_root_that_is_a_web_page);
    suite.plain("told::a_trust_root_that_others_write_has_its_row", a_trust_root_that_others_write_has_its_row);
    suite.plain("told::the_root_directory_is_no_mount_point", the_root_directory_is_no_mount_point);
    suite.plain("told::a_failed_mount_says_one_thing", a_failed_mount_says_one_thing);
    suite.plain("told::a_code_is_said_once", a_code_is_said_once);
    suite.plain("told::a_first_pin", a_first_pin);
    suite.plain("told::ls_without_a_head", ls_without_a_head);
    suite.plain("told::nobody_and_nothing_are_not_alike", nobody_and_nothing_are_not_alike);
}

fn mount_refuses(host: &Host, code: i32) -> Ran {
    host.mcpfs(["mount", "--foreground"]).limit(Duration::from_secs(30)).exits(code)
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn explain_takes_the_configured_path() {
    let world = World::new(Reads::Cached);
    let link = world.host.path("link");
    symlink(world.host.mcp(), &link).unwrap();
    world.host.drop_in("50-at", &format!("[mount]\nat = \"{}\"\n", link.display()));
    let _mount = Mount::start(&world.host);
    for at in [link, world.host.mcp()] {
        let path = at.join("hello/run").display().to_string();
        world.host.mcpfs(["explain", &path]).ok().says("hello 1.1.0: admitted");
    }
    world.host.mcpfs(["explain", "/elsewhere/hello"]).exits(1).says("no path of a server below");
}

fn a_check_is_what_mount_does() {
    let world = World::new(Reads::Cached);
    world.host.mcpfs(["config", "check"]).ok();
    let missing = world.host.path("etc/ca.pem").display().to_string();
    for (toml, says) in [
        (format!("[registry]\nca_file = {missing:?}\n"), missing.as_str()),
        ("[registry]\nproxy = \"http://[::1\"\n".to_owned(), "proxy"),
        ("[cache]\nquota = \"0\"\n".to_owned(), "8.0 MiB"),
    ] {
        world.host.drop_in("50-bad", &toml);
        world.host.mcpfs(["config", "check"]).exits(2).says(says);
        mount_refuses(&world.host, 2).says(says);
    }
}

fn secrets_of_others_are_refused() {
    let world = World::new(Reads::Cached);
    let token = world.host.path("etc/token");
    std::fs::write(&token, "secret\n").unwrap();
    world.host.drop_in("50-token", &format!("[registry]\ntoken_file = {:?}\n", token.display().to_string()));
    for bad in [0o666, 0o644, 0o620] {
        mode(&token, bad);
        let checked = world.host.mcpfs(["config", "check"]).exits(2).says("by others").says("chmod ");
        assert!(!checked.text().contains("secret\n"), "{checked}");
        mount_refuses(&world.host, 2).says(token.to_str().unwrap());
    }
    mode(&token, 0o600);
    world.host.mcpfs(["config", "check"]).ok();
    let _mount = Mount::start(&world.host);
    world.host.mcpfs(["explain", "hello"]).ok();
}

fn configuration_that_is_nearly_right() {
    let world = World::new(Reads::Cached);
    for (toml, says) in [
        ("[registry]\nurl = \"mcp.example.com/prod\"\n", "write https://mcp.example.com/prod/"),
        ("[pins]\ndefault = \"all\"\n", "\"catalogue\""),
    ] {
        world.host.drop_in("50-bad", toml);
        world.host.mcpfs(["config", "check"]).exits(2).says(says).says("50-bad.toml:2");
    }
    std::fs::remove_file(world.host.config()).unwrap();
    world.host.mcpfs(["mount"]).exits(2).says("[registry] url = ");
    // No unit comes with this version.
    let ran = world.host.mcpfs(["status"]).run();
    assert!(!ran.text().contains("systemctl"), "{ran}");
}

fn a_trust_root_that_is_a_web_page() {
    let world = World::new(Reads::Cached);
    std::fs::write(world.host.trust(), "<!DOCTYPE html><html><body>Log in</body></html>").unwrap();
    for ran in [world.host.mcpfs(["config", "check"]).exits(4), mount_refuses(&world.host, 4)] {
        let ran = ran.says("holds a web page (HTML) and not a trust root");
        assert!(!ran.text().contains("captive"), "{ran}");
    }
}

fn a_trust_root_that_others_write_has_its_row() {
    let world = World::new(Reads::Cached);
    mode(&world.host.trust(), 0o666);
    mount_refuses(&world.host, 1).says("chmod go-w");
    let rows = audit::rows(&world.host);
    let row = rows.iter().find(|row| row.event == "trust" && row.outcome == "TrustRootUnsafe");
    let reason = row.unwrap_or_else(|| panic!("{}", audit::listing(&rows))).reason.clone().unwrap();
    assert!(reason.contains("can be written by others"), "{reason}");
}

fn the_root_directory_is_no_mount_point() {
    let world = World::new(Reads::Cached);
    for at in ["/", "/tmp/.."] {
        world.host.mcpfs(["mount", "--foreground", "--at", at]).exits(1).says("cannot be a mount point; name an empty");
    }
}

fn a_failed_mount_says_one_thing() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    // Everything of its own but the run directory, which is found taken when the site is looked at already.
    let other = Host::new(&world.registry.trust(), &world.site.url(), Reads::Cached);
    other.drop_in("50-rundir", &format!("rundir = {:?}\n", world.host.rundir().display().to_string()));
    for _ in 0..5 {
        let ran = mount_refuses(&other, 1).says("another mcpfs daemon answers");
        assert!(!ran.text().contains("AuditUnavailable"), "{ran}");
    }
}

fn a_code_is_said_once() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    host.mcpfs(["explain", "hello"]).ok();
    registry.publishing("revoke").arg("--publish").args(["hello@1.0.0", "--reason", "CVE-2026-1234"]).ok();
    host.refresh();
    for command in [vec!["explain", "hello"], vec!["ls", "--all"], vec!["explain", "hello@1.0.0"]] {
        let ran = host.mcpfs(&command).run().says("CVE-2026-1234");
        assert_eq!(ran.text().to_lowercase().matches("revoked").count(), 1, "{ran}");
    }
}

fn a_first_pin() {
    let world = World::new(Reads::Cached);
    world.host.drop_in("50-pins", "[pins]\ndefault = \"none\"\n");
    let _mount = Mount::start(&world.host);
    let dry = world.host.mcpfs(["pin", "hello", "1.0.0", "--dry-run"]).ok();
    assert_eq!(dry.stdout, "hello starts nothing now, and would start 1.0.0\n");
    assert_eq!(world.host.mcpfs(["pin", "hello", "1.0.0"]).ok().stdout, "hello starts 1.0.0 now\n");
}

fn ls_without_a_head() {
    let world = World::new(Reads::Cached);
    world.host.configure("http://127.0.0.1:1/");
    let mount = Mount::start(&world.host);
    world.host.refresh_fails("Unreachable");
    for command in [vec!["ls"], vec!["ls", "--all"], vec!["ls", "--json"]] {
        let ran = world.host.mcpfs(&command).exits(3);
        assert!(ran.stdout.is_empty() && ran.stderr.contains("no head of mcp.example.com/test"), "{ran}");
        assert!(ran.stderr.contains("127.0.0.1:1") && ran.stderr.contains("mcpfs refresh"), "{ran}");
    }
    world.host.configure(&world.site.url());
    mount.reload();
    // Some row says ok from the start on; only the new site knows when the reload has come to it.
    wait_for("a look at the new site", || {
        world.site.requests().iter().any(|request| request.path == "/head.json").then_some(())
    });
    world.host.refresh();
    world.host.mcpfs(["ls"]).ok().says("hello");
}

fn nobody_and_nothing_are_not_alike() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    std::fs::read(world.host.at("files/1.0.0/tree/size-1")).unwrap();
    let user = mcpfs_tests::command::Run::new(need("id", "coreutils")).arg("-un").ok();
    let query = |args: &[&str]| world.host.mcpfs(["audit", "query"].iter().chain(args));
    query(&["--user", user.stdout.trim()]).ok().says("files");
    query(&["--user", "nosuchuser-mcpfs"]).exits(1).says("there is no user");
    query(&["--user", "4000000000"]).ok().says("no rows: this audit has none of user 4000000000");
    query(&["--server", "HELLO"]).exits(2).says("HELLO");
    query(&["--server", "never-seen"]).ok().says("no rows: this audit has none of server never-seen");
    // Seen, but not so.
    assert_eq!(query(&["--server", "files", "--outcome", "Revoked"]).ok().stdout, "no rows\n");
}
