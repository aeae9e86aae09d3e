//! A run of these tests that is killed leaves nothing behind: no server, no daemon, no mount, no file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mcpfs_tests::git::GitHost;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::suite::Suite;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::World;

/// What is killed: a run of this one test, which only a run for that purpose has.
const VICTIM: &str = "killed::parts_that_wait";
const WANTED: &str = "MCPFS_TESTS_VICTIM";

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("killed::whoever_was_started_first", || nothing_is_left(|started, _| started));
    suite.plain("killed::the_run_itself", || nothing_is_left(|_, run| run));
    if std::env::var_os(WANTED).is_some() {
        suite.plain(VICTIM, parts_that_wait);
    }
}

/// nginx, fcgiwrap and its children, and a mount, all at once.
fn parts_that_wait() {
    let world = World::new(Reads::Cached);
    let (_git, _mount) = (GitHost::serve(), Mount::start(&world.host));
    wait_for("the end", || None::<()>);
}

/// A process for as long as it lives: numbers come back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
    started: String,
}

fn processes() -> BTreeMap<u32, Process> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (front, rest) = stat.rsplit_once(") ")?;
        let name = front.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split(' ').collect();
        let process =
            Process { pid, parent: fields.get(1)?.parse().ok()?, name, started: (*fields.get(19)?).to_owned() };
        Some((pid, process))
    };
    std::fs::read_dir("/proc").unwrap().filter_map(read).collect()
}

/// All that descend from `pid`, which is not among them.
fn below(pid: u32) -> Vec<Process> {
    let all = processes();
    let descends = |process: &&Process| {
        let mut at = process.parent;
        while at > 1 && at != pid {
            at = all.get(&at).map_or(0, |process| process.parent);
        }
        at == pid
    };
    all.values().filter(descends).cloned().collect()
}

/// Where the daemon with this number serves, if it does.
fn mounted_by(pid: u32) -> Option<PathBuf> {
    let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let config = words.split('\0').skip_while(|word| *word != "--config").nth(1)?;
    let mcp = Path::new(config).parent()?.parent()?.join("mcp");
    is_mounted(&mcp).then_some(mcp)
}

/// Kills one of the two while its parts run.
fn nothing_is_left(whom: fn(u32, u32) -> u32) {
    let mut started = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", VICTIM])
        .env(WANTED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (parts, mcp) = wait_for("its parts", || {
        assert_eq!(started.try_wait().unwrap(), None, "it ended before all of its parts were seen");
        let parts = below(started.id());
        let called = |name: &'static str| parts.iter().filter(move |process| process.name == name);
        let forked = called("fcgiwrap").any(|child| called("fcgiwrap").any(|wrap| wrap.pid == child.parent));
        let mcp = called("mcpfs").find_map(|daemon| mounted_by(daemon.pid))?;
        (forked && called("nginx").count() >= 2).then(|| (parts.clone(), mcp))
    });
    let guard = parts.iter().find(|process| process.parent == started.id()).unwrap();
    let run = parts.iter().find(|process| process.parent == guard.pid).unwrap();
    let killed = Pid::from_raw(whom(started.id(), run.pid).cast_signed()).unwrap();
    kill_process(killed, Signal::KILL).unwrap();
    assert!(!started.wait().unwrap().success());
    wait_for("the end of all of them", || {
        let now = processes();
        parts
            .iter()
            .all(|process| now.get(&process.pid).is_none_or(|other| other.started != process.started))
            .then_some(())
    });
    assert!(!is_mounted(&mcp), "{}", mcp.display());
    assert!(!mcp.parent().unwrap().exists(), "{}", mcp.display());
}
