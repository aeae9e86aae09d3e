//! The next worker, which is there before it is needed. Root only.

use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::suite::Suite;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.mounted("standby::it_is_the_next_worker", it_is_the_next_worker);
    suite.mounted("standby::without_it_another_is_started", without_it_another_is_started);
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

fn read(world: &World) {
    let file = world.host.at("hello/1.1.0/tree/bin/VERSION");
    assert!(std::fs::read(file).unwrap() == std::fs::read(world.source("hello-1.1.0").join("bin/VERSION")).unwrap());
}

/// It has no rights and nothing of the mount, and after its predecessor's death it serves.
fn it_is_the_next_worker(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    for _ in 0..3 {
        let standby = mount.standby();
        let status = std::fs::read_to_string(format!("/proc/{standby}/status")).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
        let descriptors = std::fs::read_dir(format!("/proc/{standby}/fd")).unwrap();
        let open: Vec<_> = descriptors.filter_map(|entry| entry.unwrap().path().read_link().ok()).collect();
        let of_the_mount = |path: &std::path::PathBuf| {
            let name = path.to_string_lossy();
            name.contains("/dev/fuse") || name.contains("memfd") || name.contains(".db")
        };
        assert!(!open.iter().any(of_the_mount), "{open:?}");
        mount.kill_worker();
        assert_eq!(mount.server(), standby, "{}", mount.log());
        read(&world);
    }
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}

fn without_it_another_is_started(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let (worker, standby) = (mount.server(), mount.standby());
    kill(standby);
    wait_for("word of its end", || mount.log().contains("the worker that stood by ended or spoke").then_some(()));
    assert_eq!(mount.server(), worker, "whoever serves goes on");
    mount.kill_worker();
    read(&world);
    // Both at once.
    let (worker, standby) = (mount.server(), mount.standby());
    kill(standby);
    kill(worker);
    read(&world);
    assert!(mount.server() != worker && mount.server() != standby);
}
