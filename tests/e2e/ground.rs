//! What a session stands on is the same for all its workers, or it ends. Root only.

use std::fs::File;
use std::os::unix::fs::FileExt;

use mcpfs_tests::disk::Disk;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::suite::Suite;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.mounted("ground::a_disk_that_cannot_be_written", a_disk_that_cannot_be_written);
    suite.plain("ground::what_could_not_be_tried_at_the_start", what_could_not_be_tried_at_the_start);
    suite.mounted("ground::another_state_ends_the_session", another_state_ends_the_session);
    suite.mounted("ground::a_stopped_standby_is_passed_over", a_stopped_standby_is_passed_over);
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

const FILES: [&str; 2] = ["size-4096", "size-65536"];

/// Opens files, and says whether all that is open reads as it should, opened before and opened now.
struct Held<'w> {
    world: &'w World,
    open: Vec<(File, Vec<u8>)>,
}

impl<'w> Held<'w> {
    fn new(world: &'w World) -> Self {
        let one = |file: &&str| {
            let open = File::open(world.host.at("files/1.0.0/tree").join(file)).unwrap();
            (open, std::fs::read(world.source("files").join(file)).unwrap())
        };
        Self { world, open: FILES.iter().map(one).collect() }
    }

    fn reads(&self) {
        std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        for (name, (file, content)) in FILES.iter().zip(&self.open) {
            let mut read = vec![0; content.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            assert!(read == *content, "{name}");
            assert!(std::fs::read(self.world.host.at("files/1.0.0/tree").join(name)).unwrap() == *content, "{name}");
        }
    }
}

/// No worker can try anything on it: the successor reads as its predecessor did.
fn a_disk_that_cannot_be_written(reads: Reads) {
    let world = World::new(reads);
    let disk = Disk::at(world.host.path("cache"), "64m");
    let mount = Mount::start(&world.host);
    let held = Held::new(&world);
    let takes_over = || {
        mount.kill_worker();
        held.reads();
        world.host.mcpfs(["status"]).ok().says(reads.word());
    };
    disk.remount("ro");
    takes_over();
    takes_over();
    disk.remount("rw");
    takes_over();
    mount.stop();
}

/// A mount that began with the one way of reading goes on with it, even if there would be a better one.
fn what_could_not_be_tried_at_the_start() {
    let world = World::new(Reads::Passthrough);
    let disk = Disk::at(world.host.path("cache"), "64m");
    let mount = Mount::start(&world.host);
    Held::new(&world).reads();
    mount.stop();
    disk.remount("ro");
    let mount = Mount::start_as(&world.host, Reads::Cached);
    let held = Held::new(&world);
    disk.remount("rw");
    for _ in 0..2 {
        mount.kill_worker();
        held.reads();
        world.host.mcpfs(["status"]).ok().says(Reads::Cached.word());
    }
    drop(held);
    mount.stop();
    Mount::start(&world.host).stop();
}

/// The kernel's inodes are numbered by `state.db`. With another one they would mean other releases.
fn another_state_ends_the_session(reads: Reads) {
    let world = World::new(reads);
    let mut mount = Mount::start(&world.host);
    Held::new(&world).reads();
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        std::fs::remove_file(world.host.path("state").join(name)).unwrap();
    }
    signal(mount.server(), Signal::KILL);
    assert_eq!(mount.ended(), Some(1));
    assert!(!is_mounted(&world.host.mcp()), "{}", mount.log());
    assert!(mount.log().contains("another state.db"), "{}", mount.log());
    let _mount = Mount::start(&world.host);
    Held::new(&world).reads();
}

/// The next worker is there and says nothing, as the one before: a fresh one serves.
fn a_stopped_standby_is_passed_over(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let held = Held::new(&world);
    let (worker, standby) = (mount.server(), mount.standby());
    signal(standby, Signal::STOP);
    signal(worker, Signal::STOP);
    held.reads();
    assert!(![worker, standby].contains(&mount.server()));
    wait_for("word of it", || mount.log().contains("the worker that stood by does not serve").then_some(()));
}
