//! A registry that is gone in the worst way: it takes connections and says nothing.
//!
//! docs/operating.md, "A dead registry", is what happens here.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mcpfs_tests::command::Run;
use mcpfs_tests::faulty::{Fault, FaultyServer};
use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::PATIENCE;
use mcpfs_tests::suite::Suite;
use serde_json::json;

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("gone::nobody_waits_past_the_deadline", nobody_waits_past_the_deadline);
}

/// `network.object` below: no open takes longer.
const DEADLINE: Duration = Duration::from_secs(5);
/// What this machine may add to that by being busy.
const SLACK: Duration = Duration::from_secs(20);

/// The state letter of a process in /proc, and what it waits for.
fn state(pid: u32) -> Option<(char, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the command's name, which may hold anything.
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    Some((state, std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default()))
}

fn nobody_waits_past_the_deadline(reads: Reads) {
    let world = World::new(reads);
    let tree = world.host.at("files/1.0.0/tree");
    let mount = Mount::start(&world.host);
    // Known: names, trees, and one server that ran. Not here: what files holds.
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    assert_eq!(std::fs::read_dir(tree.join("many")).unwrap().count(), 300);
    mount.stop();
    let silent = FaultyServer::over(&world.copy.path(), "", Fault::Silence);
    world.host.configure(&silent.url());
    let bounds = "[network]\nconnect = \"2s\"\nstall = \"4s\"\nmetadata = \"4s\"\nobject = \"5s\"\n";
    world.host.drop_in("50-network", bounds);
    let _mount = Mount::start(&world.host);
    let started = Instant::now();
    let open = |file: &str| {
        let mut cat = Command::new("cat");
        cat.arg(tree.join(file)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        cat.spawn().unwrap()
    };
    let files =
        ["large", "size-4096", "size-4097", "size-65536", "size-131073", "twin", "many/000.txt", "many/299.txt"];
    let mut openers: Vec<Child> = files.iter().cycle().take(32).map(|file| open(file)).collect();
    // Who is killed meanwhile is not held by the kernel for longer than the others.
    for opener in openers.iter_mut().take(8) {
        opener.kill().unwrap();
    }
    // What needs no content needs no registry.
    Run::new("ls").arg("-lR").arg(&tree).ok();
    Run::new("df").arg(world.host.mcp()).ok();
    let mut running = McpClient::start(&world.run("hello"));
    running.initialize();
    assert_eq!(running.call("add", &json!({"a": 1, "b": 1})), "2");
    world.host.mcpfs(["status"]).ok();

    let mut alive: Vec<&mut Child> = openers.iter_mut().collect();
    while !alive.is_empty() {
        alive.retain_mut(|opener| opener.try_wait().unwrap().is_none());
        let late: Vec<_> = alive.iter().filter_map(|opener| state(opener.id())).collect();
        let held = late.iter().any(|(state, _)| *state == 'D');
        assert!(!held || started.elapsed() < DEADLINE + SLACK, "in D after {:?}: {late:?}", started.elapsed());
        assert!(started.elapsed() < PATIENCE, "still there: {late:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut timed_out = 0;
    for opener in openers {
        let ended = opener.wait_with_output().unwrap();
        assert!(!ended.status.success());
        timed_out += usize::from(String::from_utf8_lossy(&ended.stderr).contains("timed out"));
    }
    assert!(timed_out >= 20, "{timed_out} were told that it took too long");
    world.host.refresh_fails("TooSlow");
    world.host.mcpfs(["status"]).ok().says("site: the last look").says("TooSlow");
}
