//! When in doubt, no: rows that cannot be written, clocks that went back, and reloads that
//! hide what somebody holds open.

use std::fs::File;
use std::io::Read;

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::{Attack, Suite};
use rustix::fs::{Mode, OFlags};
use serde_json::json;

use crate::boundary::{LOCAL_ROOT, LOCAL_USER};
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted_attack(
        Attack::new(
            LOCAL_ROOT,
            "closed::a_first_lookup_that_cannot_be_recorded",
            "an audit store that takes no row of a new name",
            &["AuditUnavailable", "EIO"],
        ),
        a_first_lookup_that_cannot_be_recorded,
    );
    suite.mounted_attack(
        Attack::new(
            LOCAL_ROOT,
            "closed::a_store_that_refuses_rows",
            "an audit store that takes no row of an open",
            &["EIO"],
        ),
        a_store_that_refuses_rows,
    );
    if is_root() {
        // Only root can make a read-only disk.
        suite.plain("closed::a_read_only_store", a_read_only_store);
    }
    suite.attack(
        Attack::new(
            LOCAL_ROOT,
            "closed::a_clock_that_went_back_does_not_stop_max_stale",
            "the same, against `max_stale` and for versions that were not admitted",
            &["ClockRollback", "EACCES"],
        ),
        a_clock_that_went_back,
    );
    suite.mounted_attack(
        Attack::new(
            LOCAL_USER,
            "closed::what_a_reload_hides_is_not_opened_again",
            "what a reload hides, opened below a directory that is still held open",
            &["PolicyRefused", "EACCES"],
        ),
        what_a_reload_hides_is_not_opened_again,
    );
    suite.attack(
        Attack::new(
            LOCAL_USER,
            "closed::made_up_names_take_nothing_from_others",
            "six thousand names that nobody has, while the site is down",
            &["Unreachable", "ENOENT"],
        ),
        made_up_names_take_nothing_from_others,
    );
    suite.mounted("closed::a_reload_moves_to_another_site", a_reload_moves_to_another_site);
}

const NO_ROWS: &str = "CREATE TRIGGER no BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'the disk says no'); END";

fn a_first_lookup_that_cannot_be_recorded(reads: Reads) {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let _mount = Mount::start(&host);
    host.refresh();
    registry.release(&registry.files());
    // The head is recorded; then the disk is full.
    audit::alter(&host, &NO_ROWS.replace("ON event", "ON event WHEN NEW.event = 'verify'"));
    host.refresh_fails("AuditUnavailable");
    let new = host.at("files");
    assert_eq!(errno(new.symlink_metadata()), libc::EIO, "it is there, but nobody may see it unrecorded");
    assert_eq!(errno(std::fs::read(new.join("1.0.0/tree/twin"))), libc::EIO);
    host.mcpfs(["explain", "files"]).exits(1).says("AuditUnavailable");
    assert_eq!(errno(host.at("nobody").symlink_metadata()), libc::ENOENT);
    audit::alter(&host, "DROP TRIGGER no");
    assert_eq!(std::fs::read(new.join("1.0.0/tree/twin")).unwrap(), b"deep\n");
}

fn a_store_that_refuses_rows(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    let file = world.host.at("files/1.0.0/tree/size-4096");
    let mut running = McpClient::start(&world.run("hello"));
    running.initialize();
    audit::alter(&world.host, NO_ROWS);
    assert_eq!(errno(std::fs::read(&file)), libc::EIO);
    let ran = Run::new(world.run("hello")).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("AuditUnavailable"), "{ran}");
    let status = world.host.mcpfs(["status"]).ok();
    assert!(status.stdout.contains("audit FAILING") && status.stdout.contains("the disk says no"), "{status}");
    assert_eq!(running.call("add", &json!({"a": 1, "b": 1})), "2", "what runs goes on");
    audit::alter(&world.host, "DROP TRIGGER no");
    assert_eq!(std::fs::read(&file).unwrap().len(), 4096);
    world.host.mcpfs(["status"]).ok().says("audit ok");
}

fn a_read_only_store() {
    let world = World::new(Reads::Cached);
    let state = world.host.path("state");
    Run::new("mount").args(["-t", "tmpfs", "-o", "ro,size=1m,mode=700", "none"]).arg(&state).ok();
    let ran = world.host.mcpfs(["mount", "--foreground"]).run();
    mcpfs_tests::mount::unmount(&state);
    let named = ran.text().contains("state") && ran.text().contains("Read-only file system");
    assert!(ran.code == 1 && named, "{ran}");
    assert!(!is_mounted(&world.host.mcp()));
}

fn a_clock_that_went_back() {
    let world = World::new(Reads::Cached);
    Mount::start(&world.host).stop();
    // To set the clock of this machine back is to set forward what was signed last.
    let state = rusqlite::Connection::open(world.host.path("state/state.db")).unwrap();
    assert_eq!(state.execute("UPDATE floor SET signed_time = signed_time + 86400", []).unwrap(), 1);
    drop(state);
    let mount = Mount::start(&world.host);
    // Admitted before: it runs, stale. Another version is new, and not admitted by such a clock.
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    assert_eq!(errno(std::fs::read(world.host.at("hello/1.0.0/tree/README"))), libc::EACCES);
    audit::expect(&world.host, "ClockRollback", Some("hello"));
    mount.stop();
    // A day has passed for sure, whatever the clock says.
    world.host.drop_in("50-stale", "[registry]\nmax_stale = \"12h\"\n");
    let _mount = Mount::start(&world.host);
    let ran = Run::new(world.run("hello")).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("HeadExpired"), "{ran}");
    assert_eq!(errno(std::fs::read(world.host.at("hello/1.1.0/tree/README"))), libc::EACCES);
}

fn open_below(directory: &File, name: &str) -> std::io::Result<File> {
    let opened = rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.map(File::from).map_err(Into::into)
}

fn what_a_reload_hides_is_not_opened_again(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let tree = File::open(world.host.at("files/1.0.0/tree")).unwrap();
    let mut held = open_below(&tree, "size-4097").unwrap();
    world.host.drop_in("50-pins", "[pins]\ndefault = \"none\"\nhello = \"1.0.0\"\n");
    mount.reload();
    wait_for("the reload", || (!world.host.at("files/1.0.0").exists()).then_some(()));
    // Not by its name, and not by a directory that was opened before.
    assert_eq!(errno(std::fs::read(world.host.at("files/1.0.0/tree/twin"))), libc::EACCES);
    assert_eq!(errno(open_below(&tree, "twin")), libc::EACCES);
    assert_eq!(errno(open_below(&tree, "size-4097")), libc::EACCES);
    audit::expect(&world.host, "PolicyRefused", Some("files"));
    let explained = world.host.mcpfs(["explain", "files"]).ok();
    assert!(explained.stdout.contains("mcpfs pin files"), "{explained}");
    // As the refusal advises; a pin shows it again, and takes the place of no version that is not there.
    world.host.mcpfs(["pin", "files", "9.9.9"]).exits(1).says("PinUnknown");
    world.host.mcpfs(["pin", "files", "1.0.0"]).ok();
    assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n");
    // What was open stayed readable.
    let mut bytes = Vec::new();
    held.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, std::fs::read(world.source("files/size-4097")).unwrap());
    drop((held, tree));
}

fn made_up_names_take_nothing_from_others() {
    let mut world = World::new(Reads::Cached);
    world.site.stop();
    let _mount = Mount::start(&world.host);
    world.host.refresh_fails("Unreachable");
    for index in 0..6000 {
        assert!(world.host.at(&format!("made-up-{index}")).symlink_metadata().is_ok(), "every name answers");
    }
    let ran = Run::new(world.run("hello")).exits(77);
    assert!(ran.stderr.contains("Unreachable"), "a name of another user: {ran}");
    world.site.restart(&[]);
    world.host.refresh();
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    // The kernel keeps a name for two seconds.
    wait_for("the made-up names to go", || world.host.at("made-up-5999").symlink_metadata().is_err().then_some(()));
    assert_eq!(errno(world.host.at("made-up-1").symlink_metadata()), libc::ENOENT);
}

fn a_reload_moves_to_another_site(reads: Reads) {
    let mut world = World::new(reads);
    let mount = Mount::start(&world.host);
    // Its tree is known, its content is not here yet.
    let large = world.host.at("files/1.0.0/tree/large");
    assert!(large.metadata().is_ok());
    let other = Site::serve(&world.copy.path());
    world.host.configure(&other.url());
    mount.reload();
    wait_for("a look at the new site", || {
        other.requests().iter().any(|request| request.path == "/head.json").then_some(())
    });
    world.site.stop();
    assert!(std::fs::read(&large).unwrap() == std::fs::read(world.source("files/large")).unwrap());
    assert!(other.requests().iter().any(|request| request.path.starts_with("/objects/")));
}
