//! A user's own mount, from the first start to a crash: what they type without root, and what they are told.

use std::fs;
use std::path::{Path, PathBuf};

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::is_mounted;
use mcpfs_tests::people::Person;
use mcpfs_tests::scratch::{self, is_root, need, wait_for};
use mcpfs_tests::suite::Suite;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::World;

/// fusermount3 wants somebody with a name.
const NOBODY: u32 = 65_534;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("own::from_the_first_start_to_a_crash", from_the_first_start_to_a_crash);
}

/// Somebody's home, with nothing of mcpfs in it but the program.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(scratch::dir());
        // By another process: a file that this one writes could not be started while any of its threads forks.
        Run::new("cp").arg(bin("mcpfs")).arg(home.path("mcpfs-program")).ok();
        fs::create_dir(home.path("run")).unwrap();
        if is_root() {
            for place in ["", "run"] {
                std::os::unix::fs::chown(home.path(place), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As a login has it: 1,024 open files, and what names places is the home alone.
    fn runs(&self, line: &str) -> Run {
        let script = format!("ulimit -Sn 1024; cd; mcpfs() {{ ~/mcpfs-program \"$@\"; }}; {line}");
        let shell = if is_root() { Person::new(NOBODY).runs("sh") } else { Run::new("sh") };
        let path = std::env::var("PATH").unwrap();
        let run = self.path("run");
        shell.args(["-c", &script]).env_clear().env("PATH", path).env("HOME", self.0.path()).env("XDG_RUNTIME_DIR", run)
    }
}

fn from_the_first_start_to_a_crash() {
    let (world, home) = (World::new(Reads::Cached), Home::new());
    let mcp = home.path("mcp");
    home.runs("mcpfs mount").exits(2).says(".config/mcpfs/mcpfs.toml: does not exist; write it");
    home.runs("mcpfs doctor").exits(1).says(".config/mcpfs/mcpfs.toml: does not exist; write it");
    home.runs("mkdir -p .config/mcpfs && cat >.config/mcpfs/trust.json")
        .stdin(fs::read(world.host.trust()).unwrap())
        .ok();
    let toml = format!("[registry]\nurl = {:?}\n[policy]\nsandbox = \"off\"\n", world.site.url());
    home.runs("cat >.config/mcpfs/mcpfs.toml").stdin(toml).ok();
    home.runs("mcpfs config check").ok().says("mcp.example.com/test");
    home.runs("mcpfs mount").exits(1).says(&format!("create it: mkdir -p {}", mcp.display()));
    home.runs("mkdir mcp").ok();
    // Before the first start, while it is served and after a crash: what a user types, and nothing of systemd's.
    let doctor = |wrong: &[&str]| {
        let ran = home.runs("mcpfs --json doctor").run();
        let report = ran.json();
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().filter(|finding| finding["state"] == "wrong").map(|finding| &finding["code"]);
        assert_eq!(found.collect::<Vec<_>>(), wrong, "{ran}");
        assert!(!ran.stdout.contains("systemctl"), "{ran}");
        ran
    };
    doctor(&[]).says("\"fix\": \"mcpfs mount\"");
    home.runs("mcpfs mount").ok().says("reads cached");
    let limit = home.runs("ulimit -Hn").ok().stdout.trim().parse().unwrap_or(u64::MAX).min(65_536);
    doctor(&[]).says(&format!("up to {limit} files can be open")).says("a user's own is one process");
    home.runs("mcpfs mount").exits(1).says("`mcpfs unmount` ends that daemon");
    home.runs("mcpfs ls").ok().says("hello");
    let read = "cat mcp/hello/1.1.0/tree/bin/VERSION";
    assert_eq!(home.runs(read).ok().stdout, "1.1.0\n");

    kill_process(daemon_of(&home.path("")), Signal::KILL).unwrap();
    // What is asked while it ends is cut off in other words.
    let is_stale = || home.runs(read).exits(1).stderr.contains("Transport endpoint is not connected").then_some(());
    wait_for("a stale mount", is_stale);
    home.runs("mcpfs status").exits(3).says("Start it with `mcpfs mount`");
    doctor(&["mount", "daemon"]).says("mcpfs unmount, then mcpfs mount; a new start also clears it");
    home.runs("mcpfs doctor || mcpfs mount").ok().says("reads cached");
    assert_eq!(home.runs(read).ok().stdout, "1.1.0\n");

    home.runs(&format!("{} -u mcp", need("fusermount3", "fuse3").display())).ok();
    wait_for("its daemon to end", || (home.runs("mcpfs status").run().code == 3).then_some(()));
    home.runs("mcpfs mount && mcpfs unmount").ok();
    assert!(!is_mounted(&mcp));
    home.runs("mcpfs unmount").exits(1).says("nothing of mcpfs is mounted at");
}

/// The one process that runs the program in `home`.
fn daemon_of(home: &Path) -> Pid {
    let program = home.join("mcpfs-program");
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let runs: Vec<i32> =
        pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)).collect();
    let [pid] = runs.as_slice() else { panic!("{runs:?}") };
    Pid::from_raw(*pid).unwrap()
}
