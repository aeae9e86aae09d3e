//! A worker that cannot write the audit or the state takes over from one that could. Root only.

use std::os::unix::fs::{PermissionsExt, chown};

use mcpfs_tests::command::Run;
use mcpfs_tests::disk::Disk;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::suite::Suite;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.mounted("unwritable::a_full_audit_is_taken_over", a_full_audit_is_taken_over);
    suite.mounted("unwritable::for_a_moment_nobody_notices", for_a_moment_nobody_notices);
    suite.mounted("unwritable::for_longer_nobody_waits", for_longer_nobody_waits);
}

/// What is done to the host.
type Act<'a> = &'a dyn Fn();

const FILE: &str = "hello/1.1.0/tree/bin/VERSION";

fn content(world: &World) -> Vec<u8> {
    std::fs::read(world.source("hello-1.1.0").join("bin/VERSION")).unwrap()
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Kills the worker, and does something before the supervisor learns of it: a disk can become read-only only when
/// nobody has a file of it open for writing.
fn between(mount: &Mount<'_>, act: impl FnOnce()) {
    let worker = mount.server();
    mount.standby();
    signal(mount.pid(), Signal::STOP);
    signal(worker, Signal::KILL);
    act();
    signal(mount.pid(), Signal::CONT);
}

/// The audit's disk is full, its reserve used up: the worker serves, what runs goes on, and nothing is opened until
/// there is room.
fn a_full_audit_is_taken_over(reads: Reads) {
    let world = World::new(reads);
    let disk = Disk::at(world.host.path("state"), "40m");
    let mount = Mount::start(&world.host);
    let mut running = McpClient::start(&world.run("hello"));
    running.initialize();
    let file = world.host.at(FILE);
    let opens_until = |wanted: i32| (0..3000).any(|_| Run::new("cat").arg(&file).run().code == wanted);
    disk.fill("first");
    let reserve = world.host.path("state/audit.db-reserve");
    assert!((0..3000).any(|_| Run::new("cat").arg(&file).run().code == 0 && !reserve.exists()));
    disk.fill("second");
    assert!(opens_until(1), "opens went on without their rows");
    for _ in 0..2 {
        mount.kill_worker();
        assert_eq!(errno(std::fs::read(&file)), libc::EIO, "{}", mount.log());
        Run::new(world.run("hello")).exits(77).says("AuditUnavailable");
        world.host.mcpfs(["status"]).ok().says("audit FAILING");
        assert_eq!(running.call("echo", &json!({"message": "still here"})), "still here");
        assert_eq!(std::fs::metadata(&file).unwrap().len(), content(&world).len() as u64);
    }
    for name in ["first", "second"] {
        std::fs::remove_file(disk.path().join(name)).unwrap();
    }
    assert!(wait_for("opens once there is room", || std::fs::read(&file).ok()) == content(&world));
    drop(running);
    mount.stop();
    world.host.mcpfs(["audit", "verify"]).ok();
}

/// What the worker needs is not there for a moment: whoever asks waits, and gets an answer.
fn for_a_moment_nobody_notices(reads: Reads) {
    let world = World::new(reads);
    let disk = Disk::at(world.host.path("state"), "80m");
    let mount = Mount::start(&world.host);
    let audit = world.host.audit_db();
    let (mcpfs, group) = {
        use std::os::unix::fs::MetadataExt;
        let found = audit.metadata().unwrap();
        (found.uid(), found.gid())
    };
    let mut running = McpClient::start(&world.run("hello"));
    running.initialize();
    // A disk that turned read-only, and an audit that somebody gave to root.
    let breaks: [(&str, Act<'_>, Act<'_>); 2] = [
        ("cannot", &|| disk.remount("ro"), &|| disk.remount("rw")),
        (
            "chown -R",
            &|| {
                chown(&audit, Some(0), Some(0)).unwrap();
                std::fs::set_permissions(&audit, PermissionsExt::from_mode(0o600)).unwrap();
            },
            &|| chown(&audit, Some(mcpfs), Some(group)).unwrap(),
        ),
    ];
    for (word, breaks, mends) in breaks {
        let died = || mount.log().matches("the worker died").count();
        let before = died();
        between(&mount, breaks);
        let file = world.host.at(FILE);
        let waits = std::thread::spawn(move || std::fs::read(file));
        // The one that served, and more that could not begin than a deadly request is granted.
        wait_for("workers that cannot begin", || (died() > before + 4).then_some(()));
        mends();
        let read = waits.join().unwrap().unwrap_or_else(|error| panic!("{error}:\n{}", mount.log()));
        assert!(read == content(&world));
        assert_eq!(running.call("echo", &json!({"message": "still here"})), "still here");
        let log = mount.log();
        assert!(log.contains(word) && !log.contains("answered with EIO"), "{log}");
        assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    }
    drop(running);
    mount.stop();
    world.host.mcpfs(["audit", "verify"]).ok();
}

/// It stays so: after ten seconds whoever waits gets an error, the mount is gone, and a start says what is wrong.
fn for_longer_nobody_waits(reads: Reads) {
    let world = World::new(reads);
    let disk = Disk::at(world.host.path("state"), "80m");
    let mut mount = Mount::start(&world.host);
    let mut running = McpClient::start(&world.run("hello"));
    running.initialize();
    between(&mount, || disk.remount("ro"));
    let file = world.host.at("hello/no-such-name");
    let waits = std::thread::spawn(move || file.symlink_metadata().map(drop).expect_err("nobody answers"));
    assert_eq!(mount.ended(), Some(1), "{}", mount.log());
    let answered = waits.join().unwrap().raw_os_error();
    assert!([libc::EIO, libc::ENOTCONN, libc::ECONNABORTED].map(Some).contains(&answered), "{answered:?}");
    assert!(!is_mounted(&world.host.mcp()), "{}", mount.log());
    let log = mount.log();
    assert!(log.contains("no worker serves: none was ready within 10 s"), "{log}");
    assert!(log.contains("the worker died") && log.contains("audit.db"), "{log}");
    // Not without a pause, and not at once: each try of these took its time.
    assert!((6..30).contains(&log.matches("the worker died").count()), "{log}");
    if reads == Reads::Passthrough {
        assert_eq!(running.call("echo", &json!({"message": "still here"})), "still here");
    }
    drop(mount);
    let refused = world.host.mcpfs(["mount", "--foreground"]).exits(1);
    refused.says("audit.db");
    assert!(!is_mounted(&world.host.mcp()));
    disk.remount("rw");
    let mount = Mount::start(&world.host);
    assert!(std::fs::read(world.host.at(FILE)).unwrap() == content(&world));
    mount.stop();
    world.host.mcpfs(["audit", "verify"]).ok();
}
