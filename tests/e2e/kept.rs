//! The session that systemd hands on is looked at before it is believed. Root only.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;

use mcpfs_tests::host::Reads;
use mcpfs_tests::kept::{Kept, device};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::suite::Suite;
use rustix::fs::{Mode, OFlags};

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.mounted("kept::a_session_is_taken_over", a_session_is_taken_over);
    suite.mounted("kept::reads_hold_as_long_as_the_mount", reads_hold_as_long_as_the_mount);
    suite.plain("kept::what_is_no_device_is_not_written_to", what_is_no_device_is_not_written_to);
    suite.plain("kept::another_mounts_device_is_left_alone", another_mounts_device_is_left_alone);
    suite.plain("kept::a_dead_device_is_given_up", a_dead_device_is_given_up);
    suite.plain("kept::half_a_session_is_none", half_a_session_is_none);
    suite.plain("kept::another_control_socket_is_replaced", another_control_socket_is_replaced);
}

const FILE: &str = "hello/1.1.0/tree/bin/VERSION";

fn read(world: &World) {
    let expected = std::fs::read(world.source("hello-1.1.0").join("bin/VERSION")).unwrap();
    assert!(std::fs::read(world.host.at(FILE)).unwrap() == expected);
}

/// The number by which the kernel knows the mount.
fn number(world: &World) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = world.host.mcp();
    let line = table.lines().find(|line| line.split(' ').nth(4) == at.to_str());
    line.expect("it is mounted").split(' ').next().unwrap().to_owned()
}

/// A supervisor that was killed, and what systemd would have of it.
fn killed(world: &World) -> Kept {
    kill(world, Mount::start(&world.host))
}

fn kill(world: &World, mount: Mount<'_>) -> Kept {
    let (supervisor, worker) = (mount.pid(), mount.server());
    let kept = Kept::of(supervisor, &world.host.rundir());
    mount.kill();
    // It goes with its supervisor.
    wait_for("the worker's end", || (!std::path::Path::new(&format!("/proc/{worker}")).exists()).then_some(()));
    kept
}

fn a_session_is_taken_over(reads: Reads) {
    let world = World::new(reads);
    let kept = killed(&world);
    let before = number(&world);
    // Waits for whoever comes.
    let asked = world.host.at(FILE);
    let waits = std::thread::spawn(move || std::fs::read(asked));
    let mount = Mount::start_with(&world.host, &kept);
    assert!(waits.join().unwrap().is_ok());
    assert!(mount.log().contains("taking over the mount that systemd kept"), "{}", mount.log());
    assert_eq!(number(&world), before);
    read(&world);
    drop(kept);
    mount.kill_worker();
    read(&world);
}

/// Another setting waits on the disk, and the supervisor dies.
fn reads_hold_as_long_as_the_mount(reads: Reads) {
    let world = World::new(reads);
    let (other, written) = match reads {
        Reads::Cached => (Reads::Passthrough, "auto"),
        Reads::Passthrough => (Reads::Cached, "cached"),
    };
    let large = std::fs::read(world.source("files").join("large")).unwrap();
    let mut mount = Mount::start(&world.host);
    let before = number(&world);
    let open = File::open(world.host.at("files/1.0.0/tree/large")).unwrap();
    let reads_on = || {
        let mut bytes = vec![0; 4096];
        open.read_exact_at(&mut bytes, 1 << 16).unwrap();
        assert!(bytes == large[1 << 16..(1 << 16) + 4096]);
        assert!(std::fs::read(world.host.at("files/1.0.0/tree/large")).unwrap() == large);
        read(&world);
    };
    world.host.drop_in("50-reads", &format!("[mount]\nreads = {written:?}\n"));
    // The second one began with the other setting.
    for _ in 0..2 {
        let kept = kill(&world, mount);
        let asked = world.host.at("hello/1.0.0/tree/bin/VERSION");
        let waits = std::thread::spawn(move || std::fs::read(asked));
        mount = Mount::start_with(&world.host, &kept);
        assert!(waits.join().unwrap().is_ok());
        let log = mount.log();
        assert!(log.contains(&format!("reads: {}, as since this was mounted", reads.word())), "{log}");
        assert_eq!(number(&world), before);
        reads_on();
        drop(kept);
        mount.kill_worker();
        reads_on();
    }
    drop(open);
    mount.stop();
    let anew = Mount::start_as(&world.host, other);
    read(&world);
    assert!(!anew.log().contains("as since this was mounted"), "{}", anew.log());
}

/// Starts with `kept`, which is not believed: whoever waited for the old mount gets an error, and the new one serves.
fn refused(world: &World, kept: &Kept, why: &str) {
    let before = number(world);
    // As long as this is open the kernel gives the mount's number to no other. Nobody is asked for it.
    let held = rustix::fs::open(world.host.mcp(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let asked = world.host.at("hello/no-such-name");
    let waits = std::thread::spawn(move || asked.symlink_metadata().map(drop).expect_err("nobody is there"));
    let mount = Mount::start_with(&world.host, kept);
    let log = mount.log();
    assert!(log.contains("cannot be taken over; mounting anew") && log.contains(why), "{log}");
    // Of the old mount, or, if it came too late for that, of the new one.
    let errno = waits.join().unwrap().raw_os_error();
    assert!([libc::ENOTCONN, libc::ECONNABORTED, libc::EIO, libc::ENOENT].map(Some).contains(&errno), "{errno:?}");
    assert_ne!(number(world), before);
    drop(held);
    read(world);
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}

fn what_is_no_device_is_not_written_to() {
    let world = World::new(Reads::Passthrough);
    let mut kept = killed(&world);
    let path = world.host.path("innocent");
    std::fs::write(&path, "nobody writes here").unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    kept.replace("fuse", file.into());
    refused(&world, &kept, "no FUSE device");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "nobody writes here");
}

fn another_mounts_device_is_left_alone() {
    let (world, other) = (World::new(Reads::Passthrough), World::new(Reads::Passthrough));
    let living = Mount::start(&other.host);
    let worker = living.server();
    let mut kept = killed(&world);
    kept.replace("fuse", device(living.pid()));
    let tells = std::fs::read_dir(format!("/proc/{}/fdinfo", living.pid())).unwrap().any(|entry| {
        std::fs::read_to_string(entry.unwrap().path()).is_ok_and(|about| about.contains("fuse_connection"))
    });
    // Before 6.18 the kernel does not say whose device it is.
    if tells {
        refused(&world, &kept, "another mount");
    } else {
        mcpfs_tests::mount::unmount(&world.host.mcp());
    }
    drop(kept);
    read(&other);
    living.kill_worker();
    read(&other);
    assert_ne!(living.server(), worker);
}

fn a_dead_device_is_given_up() {
    let world = World::new(Reads::Passthrough);
    let mut kept = killed(&world);
    // One that was never mounted answers as one whose connection is gone.
    let unmounted = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    kept.replace("fuse", unmounted.into());
    refused(&world, &kept, "its connection was aborted");
}

fn half_a_session_is_none() {
    let world = World::new(Reads::Passthrough);
    // A part that is missing, and parts under each other's names.
    let mut kept = killed(&world);
    kept.lose("counts");
    refused(&world, &kept, "only parts of it");
    for (name, why) in
        [("backings", "table of ids or handles"), ("counts", "table of ids or handles"), ("session", "invalid")]
    {
        let mut kept = killed(&world);
        let memory = rustix::fs::memfd_create("mcpfs-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 1 << 16).unwrap();
        kept.replace(name, memory);
        refused(&world, &kept, why);
    }
}

/// The mount goes on, and who asks for a launch is heard again.
fn another_control_socket_is_replaced() {
    let world = World::new(Reads::Passthrough);
    let elsewhere = world.host.path("elsewhere.sock");
    let others: OwnedFd = UnixListener::bind(&elsewhere).unwrap().into();
    let mut kept = killed(&world);
    kept.replace("control", others);
    let before = number(&world);
    let mount = Mount::start_with(&world.host, &kept);
    assert!(mount.log().contains("is not the one there; making another"), "{}", mount.log());
    assert_eq!(number(&world), before);
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    mount.kill_worker();
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}
