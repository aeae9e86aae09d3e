//! A served mount: the daemon as a child process.
//!
//! Nothing here stats the mount point before it is served: a FUSE mount without a server
//! makes such a call wait for ever. /proc/self/mountinfo and the control socket tell.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::binaries::bin;
use crate::command::{Ran, exit_within};
use crate::host::{Host, Reads};
use crate::kept::Kept;
use crate::scratch::{PATIENCE, wait_for};
use crate::suite;

/// A running daemon. On drop it gets SIGTERM and must exit cleanly and leave no mount.
#[derive(Debug)]
pub struct Mount<'h> {
    host: &'h Host,
    child: Child,
    stopped: bool,
    started_in: Duration,
}

impl<'h> Mount<'h> {
    /// Mounts and waits until it is served in the host's read mode.
    ///
    /// # Panics
    /// If it ends instead, is not served at all, or in another mode.
    pub fn start(host: &'h Host) -> Self {
        Self::start_as(host, host.reads())
    }

    /// The same for a host whose configuration asks for one mode and must get `expected`.
    pub fn start_as(host: &'h Host, expected: Reads) -> Self {
        Self::start_by(host, Command::new(bin("mcpfs")), expected)
    }

    /// The same with descriptors that an earlier supervisor left with its parent.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with(host: &'h Host, kept: &Kept) -> Self {
        Self::start_by(host, kept.hand_to(&bin("mcpfs")), host.reads())
    }

    /// The same with one more variable.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_told(host: &'h Host, name: &str, value: &Path) -> Self {
        let mut command = Command::new(bin("mcpfs"));
        command.env(name, value);
        Self::start_by(host, command, host.reads())
    }

    fn start_by(host: &'h Host, mut command: Command, expected: Reads) -> Self {
        let started = Instant::now();
        let log = File::create(host.path("mount.log")).expect("own directory");
        let child = command
            .arg("--config")
            .arg(host.config())
            .args(["mount", "--foreground"])
            .envs(host.clock())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("own file"))
            .stderr(log)
            .spawn()
            .expect("cannot start mcpfs");
        let mut mount = Self { host, child, stopped: false, started_in: Duration::ZERO };
        let status = mount.wait_served();
        // Its own word for it, which comes when it has looked at the registry.
        // Not the worker's own line in the log: until the supervisor has heard of it, a worker that is
        // killed has never served.
        let said = |log: &str| log.lines().any(|line| line.contains(" mounted at ") && !line.contains("::announce"));
        wait_for("the daemon's word that it serves", || said(&mount.log()).then_some(()));
        mount.started_in = started.elapsed();
        assert!(
            status.stdout.contains(expected.word()),
            "expected reads {}: {status}\n--- daemon\n{}",
            expected.word(),
            mount.log()
        );
        suite::ran(expected);
        mount
    }

    /// From start to served.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that serves: the supervisor's worker, or with an ordinary user's daemon itself.
    ///
    /// # Panics
    /// If none does.
    pub fn server(&self) -> u32 {
        if !crate::scratch::is_root() {
            return self.pid();
        }
        wait_for("a worker", || self.worker())
    }

    /// The supervisor's worker, if there is one just now.
    pub fn worker(&self) -> Option<u32> {
        self.children().first().copied()
    }

    /// The worker that stands by, once there is one that has given up its rights.
    ///
    /// # Panics
    /// If there is none.
    pub fn standby(&self) -> u32 {
        wait_for("a worker that stands by", || {
            let standby = *self.children().get(1)?;
            let status = std::fs::read_to_string(format!("/proc/{standby}/status")).ok()?;
            status.contains("Seccomp:\t2").then_some(standby)
        })
    }

    /// The supervisor's processes, the oldest first.
    fn children(&self) -> Vec<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Kills the worker and waits until another one serves.
    ///
    /// # Panics
    /// If none does.
    pub fn kill_worker(&self) {
        let served = |log: &str| log.matches(" mounted at ").count();
        let before = served(&self.log());
        let worker = self.server();
        kill_process(Pid::from_raw(worker.cast_signed()).expect("a process id"), Signal::KILL).expect("a worker");
        wait_for("another worker", || (served(&self.log()) > before).then_some(()));
    }

    /// What the daemon wrote to its standard outputs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.host.path("mount.log")).unwrap_or_default()
    }

    /// Asks it to read its configuration again; returns before it has.
    pub fn reload(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("own child");
    }

    /// Waits until it has ended by itself; its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let code = exit_within(&mut self.child, PATIENCE);
        self.stopped = code.is_some();
        code
    }

    /// Stops it and checks that it ended well. Dropping does the same.
    pub fn stop(mut self) {
        self.end();
    }

    /// Kills it at once; its mount stays behind, stale.
    pub fn kill(mut self) {
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
        self.stopped = true;
    }

    fn wait_served(&mut self) -> Ran {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("own child") {
                self.stopped = true;
                panic!("mcpfs mount ended with {status}:\n{}", self.log());
            }
            if is_mounted(&self.host.mcp()) {
                let status = self.host.mcpfs(["status"]).run();
                // A host whose registry is at fault serves, and status says what is wrong.
                if status.stdout.contains("reads") {
                    return status;
                }
                assert!(started.elapsed() < PATIENCE, "mounted but {status}\n{}", self.log());
            }
            assert!(started.elapsed() < PATIENCE, "not served within {PATIENCE:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("own child");
        let code = exit_within(&mut self.child, PATIENCE);
        if code.is_none() {
            self.child.kill().expect("own child");
            self.child.wait().expect("own child");
        }
        let left = is_mounted(&self.host.mcp());
        if left {
            unmount(&self.host.mcp());
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
            return;
        }
        assert!(code == Some(0), "mcpfs did not end well after SIGTERM: {code:?}\n{}", self.log());
        assert!(!left, "mcpfs left its mount behind:\n{}", self.log());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether something is mounted at exactly `path`, without touching it.
pub fn is_mounted(path: &Path) -> bool {
    let path = path.to_str().expect("our paths are ASCII");
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    table.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

/// Detaches whatever is mounted at `path`: the last resort.
pub fn unmount(path: &Path) {
    detach(path).unwrap_or_else(|problem| panic!("cannot unmount {}: {problem}", path.display()));
}

/// The same for somebody who goes on if it fails.
pub(crate) fn detach(path: &Path) -> Result<(), String> {
    if crate::scratch::is_root() {
        let done = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
        return done.map_err(|error| error.to_string());
    }
    let ran = crate::command::Run::new(crate::scratch::need("fusermount3", "fuse3")).arg("-uz").arg(path).run();
    if ran.code == 0 { Ok(()) } else { Err(ran.to_string()) }
}

/// Where something is mounted in or below `dir`, in the order in which it was.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    places.filter(|place| place.starts_with(dir)).collect()
}
