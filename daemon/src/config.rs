//! Host configuration: `mcpfs.toml` and the files of `conf.d` beside it.
//!
//! Only `registry.url` is mandatory. The files of `conf.d` are merged in name order, a
//! later value replacing an earlier one, tables merging key by key, so that configuration
//! tools can own one file per concern. Every file must be safe from other users (see
//! [`crate::owned`]) and is checked by itself, so that an error names its own file and
//! line. An unknown key is an error, never ignored: a misspelt `polcy` must not silently
//! leave a host open.
//!
//! What this version does not do is refused by name and never taken for granted: a setting
//! that is read and not enforced is worse than none.
//!
//! The comments of [`Config`] and its parts are the manual.

mod access;
pub(crate) mod credentials;
mod file;
mod fixed;
mod numbers;
mod place;
mod retention;
mod texts;
mod value;
mod whole;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::name::{ServerName, Version};
use url::Url;

pub(crate) use self::access::Membership;
pub use self::access::{Access, Group};
pub use self::credentials::{CredentialConfig, CredentialSource};
pub(crate) use self::numbers::{NoNumber, look_up};
pub use self::retention::{Keep, RetentionConfig};
pub use self::texts::Texts;
pub(crate) use self::value::mirror;
use crate::owned::OwnedError;

/// Longest `rundir`, bytes: the first line of every `run` carries it.
pub const RUNDIR_BYTES: usize = 48;

/// The smallest `cache.quota`, bytes: two chunks of the largest size.
pub const LEAST_QUOTA: u64 = 8 << 20;

/// A host's whole configuration, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The main file this was read from.
    pub file: PathBuf,
    /// Where things are by default for the user who read it.
    defaults: value::Places,
    /// The trust root: `trust`, by default `trust.json` beside the main file.
    pub trust: PathBuf,
    /// Where audit.db and state.db are: `state`, /var/lib/mcpfs.
    pub state: PathBuf,
    /// Control socket and launcher: `rundir`, /run/mcpfs. At most 48 bytes, no spaces.
    pub rundir: PathBuf,
    /// Whom the worker runs as if root starts mcpfs: `user`, "mcpfs". State and cache are this user's.
    pub user: String,
    /// `[registry]`
    pub registry: RegistryConfig,
    /// `[mount]`
    pub mount: MountConfig,
    /// `[cache]`
    pub cache: CacheConfig,
    /// `[network]`
    pub network: NetworkConfig,
    /// `[pins]`
    pub pins: Pins,
    /// `[policy]`
    pub policy: Policy,
    /// `[access]`: which group may use which server, such as `[access.servers]` `payroll = "finance"`.
    pub access: Arc<Access>,
    /// `[metrics]`
    pub metrics: MetricsConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// `[runtimes]`: the names a recipe's `launch.command` may use, as absolute paths.
    /// `node` and `python3` are found by themselves in the usual directories of root.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// `[credentials]`: by ref, as recipes declare it.
    pub credentials: BTreeMap<String, CredentialConfig>,
}

/// Where the registry is and how fresh it must be.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryConfig {
    /// `url`: the site, or a list of mirrors tried in turn; https:, http: or file:. Each ends in `/`.
    pub mirrors: Vec<Url>,
    /// `refresh`: time between two looks at the head, "5m"; a tenth of it is jitter.
    pub refresh: Duration,
    /// `max_stale`: how long what was admitted may run without a fresh head, counted from
    /// when that head was issued, "30d".
    pub max_stale: Duration,
    /// `max_stale_for`: less of it for what touches data of a class (`public`, `internal`, `confidential`,
    /// `restricted`), such as `restricted = "1d"`.
    pub max_stale_for: BTreeMap<String, Duration>,
    /// `ca_file`: certificates (PEM) to trust instead of the system's; nobody else may write the file.
    pub ca_file: Option<PathBuf>,
    /// `token_file`: a file whose first line is sent as a bearer token; mode 0600, nobody else may read it.
    pub token_file: Option<PathBuf>,
    /// `client_certificate`: a file with a certificate and its key (PEM), for mutual TLS; mode 0600.
    pub client_certificate: Option<PathBuf>,
    /// `proxy`: such as `http://proxy.example.com:3128`; the environment is not consulted. With a login,
    /// `http://user:password@…`, it stands in a file that others cannot read.
    pub proxy: Option<String>,
}

/// The mount.
#[derive(Debug, Clone, PartialEq)]
pub struct MountConfig {
    /// `at`: "/mcp", and `~/mcp` for a user's own daemon.
    pub at: PathBuf,
    /// `reads`: "auto" or "cached".
    pub reads: ReadsWanted,
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadsWanted {
    /// The kernel reads the cache's files itself where it can.
    Auto,
    /// Always through the daemon.
    Cached,
}

/// The cache.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheConfig {
    /// `dir`: /var/cache/mcpfs.
    pub dir: PathBuf,
    /// `quota`: bytes, "20GiB"; at least 8 MiB.
    pub quota: u64,
    /// `keep_free`: bytes of its file system that the cache leaves to others, "2GiB"; without it a
    /// twentieth, at most 5 GiB. Below it nothing more is cached and what nobody uses is evicted.
    pub keep_free: Option<u64>,
}

/// Deadlines; nothing waits past them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkConfig {
    /// `connect`: until a connection stands, "3s".
    pub connect: Duration,
    /// `stall`: how long a mirror may deliver next to nothing, "5s".
    pub stall: Duration,
    /// `metadata`: for one head, catalogue, bin or entry, over all mirrors, "10s".
    pub metadata: Duration,
    /// `object`: for one chunk, over all mirrors, "30s".
    pub object: Duration,
}

/// Numbers for monitoring; none go out by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// `textfile`: a file for node_exporter's textfile collector, ending in `.prom`, in a directory of the worker's own.
    pub textfile: Option<PathBuf>,
    /// `listen`: a loopback address that answers `GET /metrics`, "127.0.0.1:9911".
    pub listen: Option<SocketAddr>,
}

/// The log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// `format`: "text" or "json"; `--log-format` says otherwise.
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Which versions this host wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pins {
    /// `default`: what a name without a pin shows.
    pub default: PinsDefault,
    /// By name: `hello = "1.0.0"` or `"1.0.0@sha256:<artefact digest>"`.
    pub by_name: BTreeMap<ServerName, Pin>,
    /// `[stops]`: names that this host opens nothing of, and why; `mcpfs stop` writes it.
    pub stopped: BTreeMap<ServerName, String>,
}

impl RegistryConfig {
    /// `max_stale` of what touches data of this class, and the setting that says so.
    pub fn max_stale_of(&self, class: &str) -> (Duration, String) {
        match self.max_stale_for.get(class) {
            Some(span) => (*span, format!("registry.max_stale_for.{class}")),
            None => (self.max_stale, "registry.max_stale".to_owned()),
        }
    }
}

/// What a name without a pin shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PinsDefault {
    /// "catalogue": the release that the reviewed YAML names.
    #[default]
    Catalogue,
    /// "none": nothing.
    None,
}

/// One exact version, optionally one exact artefact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The version.
    pub version: Version,
    /// The artefact's digest on this host's platform.
    pub sha256: Option<Digest>,
}

/// What this host permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `sandbox`: "required" (a launch that cannot be sandboxed is refused) or "off".
    pub sandbox: SandboxPolicy,
    /// `allow_root`: whether uid 0 may launch, false.
    pub allow_root: bool,
    /// `downgrade`: "allow", or "pin-only": an older release than the one last seen needs a pin.
    pub downgrade: DowngradePolicy,
    /// `expose`: names or prefixes with a final `*` that are shown; empty means all.
    pub expose: Vec<String>,
    /// `hide`: names or prefixes that are not, even if exposed.
    pub hide: Vec<String>,
    /// `scanners`: process names whose opens never cause a fetch.
    pub scanners: Vec<String>,
}

/// Whether launches need the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxPolicy {
    /// Refuse what cannot be sandboxed.
    Required,
    /// Launch without, audited.
    Off,
}

/// Whether the catalogue may select an older release than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DowngradePolicy {
    /// Yes, with an audit row.
    Allow,
    /// Only by a pin.
    PinOnly,
}

impl Policy {
    /// Whether this host shows `name` at all.
    pub fn exposes(&self, name: &ServerName) -> bool {
        let listed = |list: &[String]| list.iter().any(|pattern| covers(pattern, name.as_str()));
        (self.expose.is_empty() || listed(&self.expose)) && !listed(&self.hide)
    }
}

/// Whether configuration shows any version of `name`: the one answer, for decisions, opens and status.
///
/// # Errors
/// Which rule hides it, for people.
pub(crate) fn shows(policy: &Policy, pins: &Pins, name: &ServerName) -> Result<(), String> {
    if let Some(reason) = pins.stopped.get(name) {
        return Err(format!("stopped on this host: {}; to take that back: mcpfs resume {name}", bounded(reason)));
    }
    if !policy.exposes(name) {
        return Err("policy.expose and policy.hide of this host do not show it".to_owned());
    }
    if pins.default == PinsDefault::None && !pins.by_name.contains_key(name) {
        return Err(format!("this host shows pinned servers only: mcpfs pin {name} VERSION"));
    }
    Ok(())
}

/// A name, or a prefix and one final `*`.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.sha256 {
            Some(sha256) => write!(f, "{}@sha256:{sha256}", self.version),
            None => write!(f, "{}", self.version),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is missing, or others can write it.
    #[error("configuration is not usable")]
    File(#[from] OwnedError),
    /// `conf.d` cannot be listed.
    #[error("cannot list {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file says something that is not configuration.
    #[error("{path}:{line}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with a suggestion if there is one.
        problem: String,
    },
    /// A file names a group, and nobody says whether there is one.
    #[error("{path}:{line}: {problem}")]
    Unanswered {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What was not answered.
        problem: String,
    },
    /// All files together do not make a configuration.
    #[error("{path}: {problem}")]
    Incomplete {
        /// The main file.
        path: PathBuf,
        /// What is missing or does not fit, and what to write.
        problem: String,
    },
}

/// The main file when no `--config` is given: /etc/mcpfs/mcpfs.toml for root,
/// `$XDG_CONFIG_HOME/mcpfs/mcpfs.toml` for others.
pub fn default_file() -> PathBuf {
    value::Places::of_this_user().config
}

/// Where audit.db and state.db are when no configuration says so.
pub fn default_state() -> PathBuf {
    value::Places::of_this_user().state
}

impl Config {
    /// Reads `file`, then `conf.d/*.toml` beside it in name order.
    ///
    /// # Errors
    /// The first problem found, with its file and line.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Texts::read(file)?.config()
    }

    /// Reads the same files again. Defaults are those of whoever read them first.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<Self, ConfigError> {
        self.reloaded(&Texts::read(&self.file)?.with_groups()?)
    }

    /// The same of files that somebody else has read: the worker of a mount of root's has root's defaults.
    ///
    /// # Errors
    /// As [`Texts::config`].
    pub fn reloaded(&self, texts: &Texts) -> Result<Self, ConfigError> {
        texts.config_at(self.defaults.clone())
    }

    /// Whether this host shows any version of `name`.
    ///
    /// # Errors
    /// Which rule hides it, for people.
    pub fn shows(&self, name: &ServerName) -> Result<(), String> {
        shows(&self.policy, &self.pins, name)
    }
}

#[cfg(test)]
mod tests;
