//! The errno table of docs/semantics.md, from outside.

use std::os::unix::fs::PermissionsExt;

use mcpfs_tests::command::Run;
use mcpfs_tests::disk::Disk;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::site::Fault;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{audit, forge};
use serde_json::json;

use crate::boundary::{LOCAL_USER, NETWORK};
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("errno::what_is_not_there", what_is_not_there);
    suite.mounted_attack(
        Attack::new(
            LOCAL_USER,
            "errno::withdrawn_releases",
            "a release that was revoked, or yanked and is not pinned",
            &["Revoked", "Yanked", "EACCES"],
        ),
        withdrawn_releases,
    );
    suite.mounted_attack(
        Attack::new(
            NETWORK,
            "errno::slow_and_missing_content",
            "content at a hundred bytes a second, or not at all",
            &["ETIMEDOUT", "EHOSTUNREACH"],
        ),
        slow_and_missing_content,
    );
    suite.mounted("errno::an_audit_that_cannot_be_written", an_audit_that_cannot_be_written);
    suite.mounted("errno::a_full_cache", a_full_cache);
    if mcpfs_tests::scratch::is_root() {
        // Only root can make a disk.
        suite.plain("errno::a_full_disk_below_the_audit", a_full_disk_below_the_audit);
        suite.plain("errno::a_cache_that_cannot_be_written", a_cache_that_cannot_be_written);
    }
}

fn what_is_not_there(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let before = audit::rows(&world.host).len();
    for below in
        ["nobody", "Not.A.Name", "hello/9.9.9", "hello/1.1.0/tree/none", "hello/1.1.0/none", "hello/1.1.0/tree/bin/x"]
    {
        assert_eq!(errno(world.host.at(below).symlink_metadata()), libc::ENOENT, "{below}");
        assert_eq!(errno(std::fs::read(world.host.at(below))), libc::ENOENT, "{below}");
    }
    let long = "x".repeat(256);
    assert_eq!(errno(world.host.at(&long).symlink_metadata()), libc::ENAMETOOLONG);
    assert_eq!(errno(std::fs::read(world.host.at("hello/1.1.0/tree"))), libc::EISDIR);
    assert_eq!(errno(std::fs::read_dir(world.host.at("hello/run"))), libc::ENOTDIR);
    assert_eq!(errno(std::fs::read_link(world.host.at("hello/run"))), libc::EINVAL);
    let after = audit::rows(&world.host);
    assert!(!after.iter().any(|row| row.server.as_deref() == Some("nobody")), "unknown names leave no row");
    // The daemon's own rows of its first look may still be coming.
    let asked = after.iter().skip(before).filter(|row| !["refresh", "verify"].contains(&row.event.as_str())).count();
    assert!(asked <= 1, "nothing here is an access: {}", audit::listing(&after));
}

fn withdrawn_releases(reads: Reads) {
    for (status, code) in [("revoked", "Revoked"), ("yanked", "Yanked")] {
        let world = World::new(reads);
        forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
            entry["status"] = json!(status);
            entry["reason"] = json!("CVE-2026-1234");
        });
        let _mount = Mount::start(&world.host);
        assert_eq!(errno(std::fs::read(world.host.at("hello/1.1.0/tree/README"))), libc::EACCES, "{status}");
        let ran = Run::new(world.run("hello")).exits(77);
        assert!(ran.stderr.contains(code) && ran.stderr.contains("CVE-2026-1234"), "{ran}");
        audit::expect(&world.host, code, Some("hello"));
    }
}

fn slow_and_missing_content(reads: Reads) {
    let mut world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let tree = world.host.at("files/1.0.0/tree");
    assert_eq!(std::fs::read_dir(tree.join("many")).unwrap().count(), 300);
    world.site.restart(&[Fault::Rate("^/objects/", 100)]);
    assert_eq!(errno(std::fs::read(tree.join("large"))), libc::ETIMEDOUT);
    world.site.restart(&[Fault::Status("^/objects/", 500)]);
    assert_eq!(errno(std::fs::read(tree.join("large"))), libc::EHOSTUNREACH);
    world.site.stop();
    assert_eq!(errno(std::fs::read(tree.join("large"))), libc::EHOSTUNREACH);
    world.site.restart(&[]);
    let content = wait_for("the content once the site is back", || std::fs::read(tree.join("large")).ok());
    assert!(content == std::fs::read(world.source("files/large")).unwrap());
}

fn an_audit_that_cannot_be_written(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let file = world.host.at("files/1.0.0/tree/size-4096");
    // Known before, so that only the open is refused: under load the first look is still to come.
    world.host.refresh();
    assert_eq!(file.metadata().unwrap().len(), 4096);
    // Somebody holds the write lock and does not let go.
    let store = rusqlite::Connection::open(world.host.audit_db()).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(errno(std::fs::read(&file)), libc::EIO);
    store.execute_batch("ROLLBACK").unwrap();
    let content = wait_for("opens once the store is free", || std::fs::read(&file).ok());
    assert_eq!(content.len(), 4096);
}

fn a_full_disk_below_the_audit() {
    let world = World::new(Reads::Cached);
    let disk = Disk::at(world.host.path("state"), "40m");
    let mount = Mount::start(&world.host);
    world.host.refresh();
    let file = world.host.at("files/1.0.0/tree/twin");
    let mut running = McpClient::start(&world.run("hello"));
    running.initialize();
    // Each process leaves a row.
    let opens_until = |wanted: i32| (0..3000).any(|_| Run::new("cat").arg(&file).run().code == wanted);
    // The first full disk is met with the reserve, and that is a row.
    disk.fill("first");
    let reserve = world.host.path("state/audit.db-reserve");
    assert!(reserve.exists());
    assert!((0..3000).any(|_| {
        assert_eq!(Run::new("cat").arg(&file).run().code, 0, "the reserve is there for this");
        !reserve.exists()
    }));
    audit::expect(&world.host, "ok", None);
    assert!(audit::rows(&world.host).iter().any(|row| row.event == "audit-reserve"));
    // The second one is not: nothing is opened unrecorded.
    disk.fill("second");
    assert!(opens_until(1), "opens went on without their rows");
    assert_eq!(errno(std::fs::read(&file)), libc::EIO);
    let ran = Run::new(world.run("hello")).exits(77);
    assert!(ran.stderr.contains("AuditUnavailable"), "{ran}");
    world.host.mcpfs(["status"]).ok().says("audit FAILING");
    // What runs goes on.
    assert_eq!(running.call("add", &json!({"a": 1, "b": 1})), "2");
    for name in ["first", "second"] {
        std::fs::remove_file(disk.path().join(name)).unwrap();
    }
    wait_for("opens once there is room", || std::fs::read(&file).ok());
    drop(running);
    mount.stop();
    world.host.mcpfs(["audit", "verify"]).ok();
}

fn a_full_cache(reads: Reads) {
    let world = World::new(reads);
    world.host.drop_in("50-cache", "[cache]\nquota = \"8MiB\"\n");
    let _mount = Mount::start(&world.host);
    assert_eq!(errno(std::fs::read(world.host.at("files/1.0.0/tree/large"))), libc::ENOSPC);
    audit::expect(&world.host, "CacheFull", Some("files"));
    // What fits goes on.
    assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n");
    let mode = world.host.at("files/1.0.0/tree/twin").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
}

/// A file system that went read-only under the cache is a fault and not a lack of room.
fn a_cache_that_cannot_be_written() {
    let world = World::new(Reads::Cached);
    // It takes memory only as it fills.
    let disk = Disk::at(world.host.path("cache"), "1g");
    let mount = Mount::start(&world.host);
    let tree = world.host.at("files/1.0.0/tree");
    // The tree is here, and nothing of its files: only an open fetches, and then also ahead.
    assert_eq!(std::fs::read_dir(tree.join("many")).unwrap().count(), 300);
    disk.remount("ro");
    assert_eq!(errno(std::fs::read(tree.join("large"))), libc::EIO);
    audit::expect(&world.host, "CacheFault", Some("files"));
    assert_eq!(std::fs::read_dir(tree.join("many")).unwrap().count(), 300, "what is known stays visible");
    disk.remount("rw");
    assert!(!std::fs::read(tree.join("large")).unwrap().is_empty());
    mount.stop();
}
