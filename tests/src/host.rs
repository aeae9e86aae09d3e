//! One host's configuration, state and cache, all in one directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use mcpfs_trust::error::{Code, Group};

use crate::binaries::bin;
use crate::command::{Ran, Run};
use crate::scratch;

/// How files are read from a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reads {
    /// By the kernel, from the cache's files.
    Passthrough,
    /// Through the daemon.
    Cached,
}

impl Reads {
    /// How this user's mounts are read where nothing says otherwise.
    pub fn usual() -> Self {
        if scratch::is_root() { Self::Passthrough } else { Self::Cached }
    }

    /// The word that `mcpfs status` uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Cached => "cached",
        }
    }

    /// What to write as `mount.reads`.
    pub fn configured(self) -> &'static str {
        match self {
            Self::Passthrough => "auto",
            Self::Cached => "cached",
        }
    }
}

/// A host; its directory is gone on drop.
#[derive(Debug)]
pub struct Host {
    dir: tempfile::TempDir,
    /// A short place for control socket and launcher, if the directory's path is a long one.
    short: Option<tempfile::TempDir>,
    reads: Reads,
    /// Whether daemons started from now on go by this host's own clock.
    clock: AtomicBool,
}

/// The longest `rundir` that the daemon takes.
const RUNDIR_BYTES: usize = 48;

impl Host {
    /// A host that trusts `trust` and fetches from `url`; launches are allowed without a sandbox and as root.
    pub fn new(trust: &Path, url: &str, reads: Reads) -> Self {
        let dir = scratch::dir_for("host");
        let long = dir.path().join("run").as_os_str().len() > RUNDIR_BYTES;
        let host = Self { dir, short: long.then(scratch::short_dir), reads, clock: AtomicBool::new(false) };
        for name in ["etc/conf.d", "run", "state", "cache", "mcp"] {
            std::fs::create_dir_all(host.path(name)).expect("own directory");
        }
        std::fs::copy(trust, host.trust()).unwrap_or_else(|error| panic!("cannot copy {}: {error}", trust.display()));
        host.configure(url);
        host
    }

    /// Writes mcpfs.toml anew, with `url` as the registry.
    pub fn configure(&self, url: &str) {
        self.configure_url(&format!("{url:?}"));
    }

    /// The same with several mirrors, in this order.
    pub fn configure_mirrors(&self, urls: &[&str]) {
        self.configure_url(&format!("{urls:?}"));
    }

    fn configure_url(&self, url: &str) {
        let path = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "rundir = \"{}\"\nstate = \"{}\"\n\n[registry]\nurl = {url}\n\n[mount]\nat = \"{}\"\nreads = \"{}\"\n\n\
             [cache]\ndir = \"{}\"\n\n[policy]\nsandbox = \"off\"\nallow_root = true\n",
            self.rundir().display(),
            path("state"),
            path("mcp"),
            self.reads.configured(),
            path("cache"),
        );
        std::fs::write(self.config(), text).expect("own directory");
    }

    /// Writes one more file of configuration, `conf.d/<name>.toml`.
    pub fn drop_in(&self, name: &str, toml: &str) {
        std::fs::write(self.path(&format!("etc/conf.d/{name}.toml")), toml).expect("own directory");
    }

    /// A path in the host's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The main configuration file.
    pub fn config(&self) -> PathBuf {
        self.path("etc/mcpfs.toml")
    }

    /// The trust root.
    pub fn trust(&self) -> PathBuf {
        self.path("etc/trust.json")
    }

    /// The mount point.
    pub fn mcp(&self) -> PathBuf {
        self.path("mcp")
    }

    /// A path in the mount.
    pub fn at(&self, below: &str) -> PathBuf {
        self.mcp().join(below)
    }

    /// The home of the user who starts servers here, who is not whoever runs the tests.
    pub fn home(&self) -> PathBuf {
        let home = self.path("user");
        std::fs::create_dir_all(&home).expect("own directory");
        home
    }

    /// Where control socket and launcher are.
    pub fn rundir(&self) -> PathBuf {
        self.short.as_ref().map_or_else(|| self.path("run"), |dir| dir.path().to_owned())
    }

    /// The audit database.
    pub fn audit_db(&self) -> PathBuf {
        self.path("state/audit.db")
    }

    /// Sets the clock of this host: `+8d`, `-3h`, as faketime has it. Daemons that were started after it was set
    /// once go by it, at once.
    pub fn set_clock(&self, offset: &str) {
        // Replaced, since they read it at every moment.
        let written = self.path("clock.new");
        std::fs::write(&written, format!("{offset}\n")).expect("own directory");
        std::fs::rename(&written, self.clock_file()).expect("own directory");
        self.clock.store(true, Ordering::Relaxed);
    }

    /// Where a confined worker may read it.
    fn clock_file(&self) -> PathBuf {
        self.rundir().join("clock")
    }

    /// The variables by which a program has this host's clock. The time that the kernel counts by
    /// itself goes on as ever: nobody can set it, on a real host either.
    ///
    /// # Panics
    /// If libfaketime is not installed.
    pub fn clock(&self) -> Vec<(&'static str, String)> {
        if !self.clock.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
        assert!(Path::new(&library).exists(), "{library} is missing: apt-get install faketime (or: make setup)");
        vec![
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", self.clock_file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    /// Which reads this host is configured for.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// `mcpfs --config …` with these arguments.
    pub fn mcpfs<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        Run::new(bin("mcpfs")).arg("--config").arg(self.config()).args(args)
    }

    /// `mcpfs refresh`: the registry was asked, and the mount shows what it said.
    ///
    /// # Panics
    /// If it was not followed.
    pub fn refresh(&self) -> Ran {
        self.mcpfs(["refresh"]).ok()
    }

    /// The same where the look at the site must fail, with this code.
    ///
    /// # Panics
    /// If it was followed, or not for this reason.
    pub fn refresh_fails(&self, code: &str) -> Ran {
        let named = Code::ALL.into_iter().find(|one| one.to_string() == code).expect("a documented code");
        let exit = match (named, named.group()) {
            (Code::Unreachable | Code::TooSlow | Code::NotARegistry, _) => 3,
            (_, Group::Forged | Group::BrokenTransfer) => 4,
            _ => 1,
        };
        self.mcpfs(["refresh"]).exits(exit).says(code)
    }

    /// Gives everything below a directory of the daemon's to its worker, as whoever writes there as root must.
    pub fn give_to_worker(&self, directory: &str) {
        if scratch::is_root() {
            Run::new("chown").args(["-R", "mcpfs:"]).arg(self.path(directory)).ok();
        }
    }

    /// Every file in the cache that holds released content.
    pub fn cached_files(&self) -> Vec<PathBuf> {
        let root = self.path("cache");
        crate::registry::files_below(&root).into_iter().map(|file| root.join(file)).collect()
    }
}
