//! `mcpfs doctor`: for each thing that a mount needs, whether it is right, and if not, the fix.
//!
//! It asks a host that may be in any state, so it leans on nothing: it works without a
//! configuration, without a daemon, as root and as anybody. A dead mount, a silent daemon or a
//! disk that hangs must not take it along. What is mounted is read from mountinfo and never by a
//! stat; paths below a FUSE or network file system are not touched; every look has a thread and a
//! deadline of its own, and one that does not come back is itself a finding.
//!
//! Rules about the host that this host may not show (SELinux, fapolicyd, hidepid) are pure
//! functions of the files they are read from (`host`, `walls`), tested on such files.
//!
//! [`Check::code`] is public: monitoring and tickets name it, docs/operating.md lists it.

mod access;
mod credentials;
mod finding;
mod host;
mod kept;
mod orders;
mod places;
mod registry;
mod running;
mod walls;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

pub use self::finding::{Check, Finding, State};
use crate::config::Config;
use crate::control::client;
use crate::control::facts::Status;
use crate::control::protocol::Request;
use crate::mount::{MountEntry, mounted};
use crate::refusal::with_cause;

/// How long any look may take: longer than the daemon's answer and than the site's deadlines together.
const DEADLINE: Duration = Duration::from_secs(15);

/// What the looks start from.
#[derive(Debug)]
pub(crate) struct Subject {
    /// The configuration, if it can be used.
    pub(crate) config: Config,
    /// What is mounted.
    pub(crate) mounts: Vec<MountEntry>,
    /// What the daemon says; why it says nothing.
    pub(crate) status: Result<Status, client::ClientError>,
}

impl Subject {
    /// The mount that a path lies on, by its name and without touching it.
    pub(crate) fn mount_of(&self, path: &Path) -> Option<&MountEntry> {
        mount_of(&self.mounts, path)
    }

    /// Whether a look at the path cannot wait for another process or host.
    pub(crate) fn is_near(&self, path: &Path) -> bool {
        self.mount_of(path).is_none_or(|mount| !walls::is_far(&mount.kind.to_string_lossy()))
    }

    /// What to type about it.
    fn orders(&self) -> &'static orders::Orders {
        if self.is_roots() { &orders::SERVICE } else { &orders::OWN }
    }

    /// Whether root's daemon, with a worker of its own user, is meant: whose is the configuration?
    pub(crate) fn is_roots(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        is_root() || std::fs::metadata(&self.config.file).is_ok_and(|found| found.uid() == 0)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The last mount whose place is `path` or above it.
pub(crate) fn mount_of<'a>(mounts: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    let depth = |entry: &MountEntry| entry.at.components().count();
    mounts.iter().filter(|entry| path.starts_with(&entry.at)).max_by_key(|entry| depth(entry))
}

/// Looks at everything. `file` is the main configuration file.
pub fn examine(file: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let config = within(Check::Config, {
        let file = file.to_owned();
        move || Config::load(&file)
    });
    let config = match config {
        Ok(Ok(config)) => {
            findings.push(places::configured(&config));
            Some(config)
        }
        Ok(Err(error)) => {
            findings.push(Finding::wrong(
                Check::Config,
                with_cause(&error),
                "correct that; `mcpfs config check` tells when it is good",
            ));
            None
        }
        Err(late) => {
            findings.push(late);
            None
        }
    };
    let Some(config) = config else {
        let mounts = mounted().unwrap_or_default();
        findings.extend(together(vec![
            (Check::Kernel, Box::new(|| host::look(true, Path::new(host::BUBBLEWRAP)))),
            (Check::Fapolicyd, Box::new(move || walls::look(&mounts, Path::new("/mcp")))),
        ]));
        return findings;
    };
    let rundir = config.rundir.clone();
    let status = match within(Check::Daemon, move || client::ask::<Status>(&rundir, &Request::Status {})) {
        Ok(status) => status,
        Err(_) => Err(client::ClientError::Silent { path: config.rundir.join("control.sock"), waited: DEADLINE }),
    };
    let subject = Arc::new(Subject { config, mounts: mounted().unwrap_or_default(), status });
    let look = |check: Check, look: fn(&Subject) -> Vec<Finding>| -> Look {
        let subject = Arc::clone(&subject);
        (check, Box::new(move || look(&subject)))
    };
    findings.extend(together(vec![
        look(Check::User, places::user),
        look(Check::StateOwner, places::state),
        look(Check::CacheOwner, places::cache),
        look(Check::RundirExec, places::rundir),
        look(Check::Mount, running::mount),
        look(Check::Kernel, |subject| {
            let named = subject.config.runtimes.get("bwrap");
            host::look(subject.wants_sandbox(), named.map_or(Path::new(host::BUBBLEWRAP), PathBuf::as_path))
        }),
        look(Check::OpenFiles, running::open_files),
        look(Check::Fapolicyd, |subject| walls::look(&subject.mounts, &subject.config.mount.at)),
        look(Check::Access, access::look),
        look(Check::TrustRoot, registry::look),
        look(Check::Daemon, running::daemon),
        look(Check::Credentials, credentials::look),
        look(Check::Audit, running::audit),
        look(Check::Retention, kept::look),
        look(Check::MetricsListen, running::metrics),
    ]));
    findings
}

/// A check that stands for a look when it does not come back, and the look.
type Look = (Check, Box<dyn FnOnce() -> Vec<Finding> + Send>);

/// All looks at once, in the order given, within one deadline.
fn together(looks: Vec<Look>) -> Vec<Finding> {
    let end = Instant::now() + DEADLINE;
    let started: Vec<_> = looks.into_iter().map(|(check, look)| (check, start(look))).collect();
    let answer = |(check, answer): (Check, mpsc::Receiver<Vec<Finding>>)| {
        let left = end.saturating_duration_since(Instant::now());
        answer.recv_timeout(left).unwrap_or_else(|_| vec![late(check)])
    };
    started.into_iter().flat_map(answer).collect()
}

fn within<T: Send + 'static>(check: Check, look: impl FnOnce() -> T + Send + 'static) -> Result<T, Finding> {
    start(look).recv_timeout(DEADLINE).map_err(|_| late(check))
}

/// A thread that nobody joins: one that hangs ends with the process.
fn start<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (answer, waiting) = mpsc::sync_channel(1);
    std::thread::spawn(move || drop(answer.send(look())));
    waiting
}

fn late(check: Check) -> Finding {
    let found = format!("the look did not come back within {} s: a disk or a server that hangs", DEADLINE.as_secs());
    Finding::wrong(check, found, "look at dmesg and at what the configured paths lie on (findmnt -T PATH)")
}

/// The main configuration file that is meant: this user's own, else the system's, else the one that is to be written.
pub fn file(given: Option<&Path>) -> PathBuf {
    let own = crate::config::default_file();
    match given {
        Some(file) => file.to_owned(),
        None if own.exists() || !Path::new(crate::commands::SYSTEM_FILE).exists() => own,
        None => PathBuf::from(crate::commands::SYSTEM_FILE),
    }
}

#[cfg(test)]
mod tests;
