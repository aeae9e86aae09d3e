//! Whether servers can have walls on this machine.
//!
//! A host confines every server; a developer's machine may lack bubblewrap, or forbid namespaces to
//! users. Then a try goes on without, and says so, since its point is to see the server start. What a
//! recipe declares is never started with less.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::trial::find_program;

/// Longest that the smallest sandbox may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a try confines its server with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walls {
    /// This bubblewrap.
    By(PathBuf),
    /// Nothing, and why.
    Missing(String),
}

impl Walls {
    /// Looks for bubblewrap, or takes the one that is named, and sees whether it can make a sandbox like a host's.
    pub fn find(named: Option<&PathBuf>) -> Self {
        let Some(bwrap) = named.cloned().or_else(|| find_program("bwrap")) else {
            return Self::Missing("bubblewrap is not installed (apt-get install bubblewrap)".to_owned());
        };
        let words = ["--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--", "true"];
        let mut command = Command::new(&bwrap);
        command.args(words).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stdout(Stdio::null());
        let Ok(mut probe) = command.stderr(Stdio::null()).spawn() else {
            return Self::Missing(format!("{} does not start", bwrap.display()));
        };
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            match probe.try_wait() {
                Ok(Some(status)) if status.success() => return Self::By(bwrap),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                _ => break,
            }
        }
        // It has ended, or is ended now.
        let _ = probe.kill();
        let _ = probe.wait();
        Self::Missing("bubblewrap makes no sandbox here (are namespaces forbidden to users?)".to_owned())
    }
}
