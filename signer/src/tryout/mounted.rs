//! The mount of a try, the servers started from it, and their end.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcpfs_trust::name::ServerName;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{MOUNT, Place, TryError, Walls, configuration, io, run_path};
use crate::trial::{Limit, Process, TrialOptions, Trouble, is_set, set};

/// How long the daemon may take to unmount.
const UNMOUNT: Duration = Duration::from_secs(20);

/// Notes Ctrl-C and SIGTERM instead of dying of them, so that a mount is never left behind.
#[derive(Debug, Clone)]
pub struct Stop(Limit);

impl Stop {
    /// From now on.
    ///
    /// # Errors
    /// If signals cannot be watched.
    pub fn watch() -> std::io::Result<Self> {
        let (mut signals, limit) = (Signals::new([SIGINT, SIGTERM])?, Limit::default());
        let noted = Arc::clone(&limit);
        std::thread::spawn(move || signals.forever().for_each(|_| set(&noted, Trouble::Stopped)));
        Ok(Self(limit))
    }

    /// Whether somebody asked.
    pub fn asked(&self) -> bool {
        is_set(&self.0)
    }

    /// Where it is noted.
    pub(crate) fn limit(&self) -> &Limit {
        &self.0
    }

    /// Waits until somebody asks.
    pub fn wait(&self) {
        while !self.asked() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The daemon's program: beside this one, else in PATH.
///
/// # Errors
/// `NoMcpfs`.
pub fn find_mcpfs() -> Result<PathBuf, TryError> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("mcpfs")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join("mcpfs"));
    beside.into_iter().chain(all).find(|file| file.is_file()).ok_or(TryError::NoMcpfs)
}

/// A mount that is served. Unmounted on drop.
#[derive(Debug)]
pub struct Mounted<'p> {
    place: &'p Place,
    daemon: Child,
}

impl<'p> Mounted<'p> {
    /// Starts the daemon, and waits until it serves.
    ///
    /// # Errors
    /// `Mount` with what it said, `Stopped`.
    pub fn start(
        place: &'p Place,
        mcpfs: &std::path::Path,
        how: &TrialOptions,
        walls: &Walls,
        stop: &Stop,
    ) -> Result<Self, TryError> {
        let config = place.path("etc/mcpfs.toml");
        std::fs::write(&config, configuration(place, how, walls)).map_err(io(&config))?;
        let log = place.path("mount.log");
        let file = File::create(&log).map_err(io(&log))?;
        let mut command = Command::new(mcpfs);
        command.arg("--config").arg(&config).args(["mount", "--foreground"]).stdin(Stdio::null());
        command.stdout(file.try_clone().map_err(io(&log))?).stderr(file);
        // Ctrl-C is for this program, which ends its parts in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let daemon = command.spawn().map_err(io(mcpfs))?;
        let mut mounted = Self { place, daemon };
        let started = Instant::now();
        loop {
            let status = Command::new(mcpfs)
                .arg("--config")
                .arg(&config)
                .arg("status")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if status.is_ok_and(|status| status.success()) {
                return Ok(mounted);
            }
            if stop.asked() {
                return Err(TryError::Stopped);
            }
            let ended = mounted.daemon.try_wait().ok().flatten();
            if ended.is_some() || started.elapsed() > MOUNT {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                return Err(TryError::Mount(mcpfs_trust::error::bounded(&last.join("; "))));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a server as an MCP host does, in a home of its own.
    pub(super) fn server(&self, name: &ServerName, stop: &Limit) -> Result<Server, TryError> {
        let run = run_path(self.place, name);
        let mut command = Command::new(&run);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.place.path("home"));
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(io(&run))?;
        Ok(Server { child, stop: Arc::clone(stop) })
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let pid = i32::try_from(self.daemon.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let started = Instant::now();
        while matches!(self.daemon.try_wait(), Ok(None)) {
            if started.elapsed() > UNMOUNT {
                let _ = self.daemon.kill();
                let _ = self.daemon.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // A daemon that had to be killed leaves its mount, and the folder could not be removed.
        let mcp = self.place.path("mcp");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| mcp.to_str() == Some(at))) {
            for command in [&["fusermount3", "-uz"][..], &["umount", "--lazy"]] {
                let mut unmount = Command::new(command[0]);
                unmount.args(&command[1..]).arg(&mcp).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                if unmount.status().is_ok_and(|status| status.success()) {
                    break;
                }
            }
        }
    }
}

/// A server that was started from the mount. Ended on drop.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    stop: Limit,
}

impl Process for Server {
    fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take())
    }

    fn limit(&self) -> Limit {
        Arc::clone(&self.stop)
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.status().is_none() {
            // With whatever it started, unless that went away by itself.
            if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}
