//! What a reviewer tried to break: races, leftovers, and hosts that are set up oddly.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::registry::{RELEASE_KEY, Registry, UNKNOWN_KEY};
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::site::Fault;
use mcpfs_tests::suite::Suite;
use mcpfs_tests::{audit, forge};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("review::files_that_nobody_has_open_are_evicted", files_that_nobody_has_open_are_evicted);
    suite.mounted("review::an_open_directory_outlives_no_key", an_open_directory_outlives_no_key);
    suite.mounted("review::revoked_while_it_is_fetched", revoked_while_it_is_fetched);
    suite.plain("review::an_emptied_state_is_a_reset", an_emptied_state_is_a_reset);
    suite.plain("review::a_removed_audit_is_a_row", a_removed_audit_is_a_row);
    suite.plain("review::asked_to_end_during_a_reload", asked_to_end_during_a_reload);
    suite.plain("review::a_umask_shuts_nobody_out", a_umask_shuts_nobody_out);
}

/// Opens a file below an open directory: no name above it is looked up again.
fn open_below(directory: &File, name: &str) -> std::io::Result<File> {
    let opened = rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.map(File::from).map_err(Into::into)
}

fn files_that_nobody_has_open_are_evicted(reads: Reads) {
    let world = World::new(reads);
    let program = world.source("hello-1.1.0/bin/hello-mcp").metadata().unwrap().len();
    let large = world.source("files/large");
    let quota = large.metadata().unwrap().len() + program / 2;
    world.host.drop_in("50-cache", &format!("[cache]\nquota = \"{}KiB\"\n", quota >> 10));
    let _mount = Mount::start(&world.host);
    // With passthrough the kernel keeps a file ready for the next open: that is no use of it.
    for _ in 0..2 {
        // The kernel tells of a close after close(2) has returned, so room may come a moment later.
        let read = |file: &str| wait_for("room for it", || std::fs::read(world.host.at(file)).ok());
        assert_eq!(read("hello/1.1.0/tree/bin/hello-mcp").len() as u64, program);
        assert!(read("files/1.0.0/tree/large") == std::fs::read(&large).unwrap());
    }
    // What is open stays.
    let held = File::open(world.host.at("files/1.0.0/tree/large")).unwrap();
    assert_eq!(errno(std::fs::read(world.host.at("hello/1.1.0/tree/bin/hello-mcp"))), libc::ENOSPC);
    drop(held);
}

fn an_open_directory_outlives_no_key(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let tree = File::open(world.host.at("hello/1.1.0/tree")).unwrap();
    open_below(&tree, "README").unwrap();
    // The platform team found its release key stolen and gives hosts another one.
    let hsm = world.registry.hsm();
    let pem = hsm.public_pem(UNKNOWN_KEY);
    let der = STANDARD.decode(pem.lines().filter(|line| !line.starts_with("---")).collect::<String>()).unwrap();
    let (old, new) = (hsm.key_id(RELEASE_KEY), hsm.key_id(UNKNOWN_KEY));
    let mut root = forge::read(&world.host.trust());
    root["version"] = json!(root["version"].as_u64().unwrap() + 1);
    for key in root["keys"].as_array_mut().unwrap().iter_mut().filter(|key| key["id"] == old.as_str()) {
        key["id"] = json!(new);
        key["public"] = json!(STANDARD.encode(&der[der.len() - 32..]));
    }
    for role in root["release"][0]["require"].as_array_mut().unwrap() {
        role["keys"] = json!([new]);
    }
    forge::write(&world.host.trust(), &root);
    kill_process(Pid::from_raw(mount.pid().cast_signed()).unwrap(), Signal::HUP).unwrap();
    wait_for("the reload", || std::fs::read(world.host.at("hello/1.1.0/tree/README")).is_err().then_some(()));
    // Not by its name, and not by a directory that was opened before.
    assert_eq!(errno(std::fs::read(world.host.at("hello/1.1.0/tree/README"))), libc::EACCES);
    assert_eq!(errno(open_below(&tree, "README")), libc::EACCES);
    audit::expect(&world.host, "KeyNotAuthorised", Some("hello"));
    drop(tree);
}

fn revoked_while_it_is_fetched(reads: Reads) {
    let mut world = World::new(reads);
    world.host.drop_in("50-network", "[network]\nstall = \"1h\"\nobject = \"1h\"\n");
    let _mount = Mount::start(&world.host);
    let large = world.host.at("files/1.0.0/tree/large");
    assert!(large.metadata().is_ok(), "the tree is here before the objects are slow");
    // It does not end by itself, however long the next steps take.
    world.site.restart(&[Fault::Rate("^/objects/", 1)]);
    let opening = std::thread::spawn(move || std::fs::read(large).map(|bytes| bytes.len()));
    wait_for("a transfer under way", || world.site.is_connected().then_some(()));
    assert!(!opening.is_finished(), "this test is about a slow fetch");
    forge::replace_entry(&world.copy.path(), &world.registry, "files", |entry| {
        entry["status"] = json!("revoked");
        entry["reason"] = json!("CVE-2026-1234");
    });
    world.host.refresh();
    assert!(!opening.is_finished(), "the revocation came while the fetch was under way");
    world.site.restart(&[]);
    assert_eq!(errno(opening.join().unwrap()), libc::EACCES);
    audit::expect(&world.host, "Revoked", Some("files"));
}

fn remove(host: &mcpfs_tests::host::Host, name: &str) {
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(host.path(&format!("state/{name}{suffix}"))));
    }
}

fn an_emptied_state_is_a_reset() {
    let world = World::new(Reads::Cached);
    Mount::start(&world.host).stop();
    let resets = || {
        let rows = audit::rows(&world.host);
        rows.iter().filter(|row| row.reason.as_deref().is_some_and(|why| why.contains("StateReset"))).count()
    };
    assert_eq!(resets(), 1, "the first start");
    remove(&world.host, "state.db");
    File::create(world.host.path("state/state.db")).unwrap();
    if is_root() {
        // Whoever restores a file as root may forget whose it must be.
        let ran = world.host.mcpfs(["mount", "--foreground"]).exits(1).says("state.db").says("chown -R");
        assert!(!ran.text().contains("panicked"), "{ran}");
    }
    world.host.give_to_worker("state");
    Mount::start(&world.host).stop();
    assert_eq!(resets(), 2, "SQLite takes an empty file for an empty database");
}

fn a_removed_audit_is_a_row() {
    let world = World::new(Reads::Cached);
    Mount::start(&world.host).stop();
    let restarts = || audit::rows(&world.host).iter().filter(|row| row.event == "audit-restarted").count();
    Mount::start(&world.host).stop();
    assert_eq!(restarts(), 0, "a first and a second start");
    remove(&world.host, "audit.db");
    Mount::start(&world.host).stop();
    assert_eq!(restarts(), 1, "{}", audit::listing(&audit::rows(&world.host)));
    Mount::start(&world.host).stop();
    assert_eq!(restarts(), 1, "said once");
}

fn asked_to_end_during_a_reload() {
    let mut world = World::new(Reads::Cached);
    world.host.drop_in("50-network", "[network]\nstall = \"1h\"\nmetadata = \"1h\"\n");
    let mount = Mount::start(&world.host);
    world.site.restart(&[Fault::Rate("^/head.json", 1)]);
    // A look at the site that takes an hour, and a reload that waits for it.
    let refresh = world.host.mcpfs(["refresh"]);
    let looking = std::thread::spawn(move || refresh.run());
    wait_for("the look under way", || world.site.is_connected().then_some(()));
    kill_process(Pid::from_raw(mount.pid().cast_signed()).unwrap(), Signal::HUP).unwrap();
    // It waits for the look, so nothing outside shows that it began: this only gives it the time to.
    std::thread::sleep(Duration::from_millis(500));
    mount.stop();
    drop(looking.join().unwrap());
}

fn modes(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let (path, meta) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
        found.push(format!("{:03o} {}", meta.permissions().mode() & 0o777, path.display()));
        if meta.is_dir() {
            found.extend(modes(&path));
        }
    }
    found
}

fn a_umask_shuts_nobody_out() {
    let registry = Registry::new();
    let recipe = registry.hello("1.0.0");
    std::fs::write(registry.recipe("hello"), recipe.yaml()).unwrap();
    registry.release_command("hello").umask("077").ok();
    let shut: Vec<String> = modes(&registry.site())
        .into_iter()
        .filter(|line| !line.ends_with(".lock") && !line.starts_with("755") && !line.starts_with("644"))
        .collect();
    assert!(shut.is_empty(), "a web server under another user cannot read:\n{}", shut.join("\n"));
    let root = registry.site().metadata().unwrap().permissions().mode();
    assert_eq!(root & 0o777, 0o755);

    let world = World::new(Reads::Cached);
    std::fs::remove_dir_all(world.host.rundir()).unwrap();
    world.host.mcpfs(["mount"]).umask("077").ok();
    let socket = world.host.rundir().join("control.sock");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.host.rundir()), 0o755, "everybody starts servers by it");
    assert_eq!(mode(&socket), 0o666);
    let pid = rustix::net::sockopt::socket_peercred(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    kill_process(pid.unwrap().pid, Signal::TERM).unwrap();
    wait_for("the mount to go", || (!is_mounted(&world.host.mcp())).then_some(()));
}
