//! `serve.toml`: what the signing server looks at, whom it believes, and what it signs with.
//!
//! Whoever writes this file decides who may approve, so it must belong to root or to the
//! server's user, and nobody else may write it. An unknown key is an error: a misspelt
//! `require_protection` must not silently be the default.

mod checks;
mod people;

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::files::{self, FileError};
use crate::forge::{Kind, Token};
use crate::key::KeyUri;
use crate::secret::{self, SecretError};
use crate::site::public::Public;
use crate::site::{self, Address, SiteError};

pub use checks::{Artefacts, Check};
pub use people::{People, Person};

/// Longest configuration, bytes.
const BYTES: u64 = 256 << 10;
/// Longest token or webhook secret, bytes.
const SECRET_BYTES: u64 = 1_024;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} can be written by others than its owner, or belongs to somebody else: chown root {path} && chmod 644 {path}", path = path.display())]
    Writable { path: PathBuf },
    #[error("{path}: {problem}", path = path.display())]
    Toml { path: PathBuf, problem: String },
    #[error("{path}: {key}: {problem}", path = path.display())]
    Value { path: PathBuf, key: &'static str, problem: String },
    #[error("the secret for {key} cannot be used")]
    Secret { key: &'static str, source: SecretError },
}

/// The whole file; docs/publishing.md explains each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the mirror, the journal and the signer's memory lie.
    pub state: PathBuf,
    /// Where webhooks, hints, health and metrics are answered.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// How often the branch is looked at without a hint, seconds.
    #[serde(default = "default_poll", deserialize_with = "duration")]
    pub poll: u64,
    /// Whether outcomes are shown beside the commit at the forge; its token must allow that.
    #[serde(default)]
    pub report: bool,
    /// The reviewed repository.
    pub repository: Repository,
    /// Who may approve: the forge's login, the name that recipes use for that person, and other
    /// addresses that the person commits with.
    pub reviewers: People,
    /// What else counts, and how much of it is needed.
    #[serde(default)]
    pub approvals: Approvals,
    /// Who may wake the server.
    #[serde(default)]
    pub hooks: Hooks,
    /// What is published.
    pub site: Site,
    /// What signs.
    pub keys: Keys,
    /// Where artefacts may come from.
    #[serde(default)]
    pub artefacts: Artefacts,
    /// What the check looks at besides.
    #[serde(default)]
    pub check: Check,
}

/// `[repository]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// The forge's kind.
    pub forge: Kind,
    /// The address of its API.
    pub api: String,
    /// The repository's name there.
    pub name: String,
    /// Where git fetches it; this stands in statements.
    pub url: String,
    /// The protected branch.
    #[serde(default = "default_branch")]
    pub branch: String,
    /// The forge's token; by default the systemd credential `forge-token`.
    pub token_file: Option<PathBuf>,
    /// The user name that git gives with the token.
    #[serde(default = "default_user")]
    pub user: String,
    /// A further certificate authority, PEM.
    pub ca_file: Option<PathBuf>,
    /// Whether nothing is signed while the forge says that the branch is not protected.
    #[serde(default = "yes")]
    pub require_protection: bool,
}

/// `[approvals]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// Keys whose commit signatures are approvals, in ssh-keygen's format.
    pub allowed_signers: Option<PathBuf>,
    /// How many people must have approved policy and waivers, besides who wrote them.
    pub policy: NonZeroU16,
    /// A commit whose policy and waivers need no request: where the reviewed history begins.
    pub start: Option<String>,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { allowed_signers: None, policy: NonZeroU16::MIN, start: None }
    }
}

/// `[hooks]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// The secret shared with the forge; by default the systemd credential `hook-secret`.
    pub secret_file: Option<PathBuf>,
}

/// `[site]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// The site: a folder, or s3://bucket/prefix.
    pub address: String,
    /// The S3 server, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// The address that hosts read, to read the new state back from there.
    pub public: Option<String>,
    /// The trust root of its hosts.
    pub trust: PathBuf,
    /// How long a head lives, days.
    #[serde(default = "default_expires")]
    pub expires_days: NonZeroU16,
    /// The age at which a head is signed again, seconds.
    #[serde(default = "default_resign", deserialize_with = "duration")]
    pub resign_after: u64,
}

/// `[keys]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Keys that sign heads.
    #[serde(deserialize_with = "parsed_list")]
    pub head: Vec<KeyUri>,
    /// Keys that sign releases.
    #[serde(deserialize_with = "parsed_list")]
    pub release: Vec<KeyUri>,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8467))
}
fn default_poll() -> u64 {
    300
}
fn default_branch() -> String {
    "main".to_owned()
}
fn default_user() -> String {
    "x-access-token".to_owned()
}
fn default_expires() -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(6)
}
fn default_resign() -> u64 {
    86_400
}
fn yes() -> bool {
    true
}

/// What needs no thought wherever it is written.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && text.chars().all(|sign| sign.is_ascii_graphic())
}

/// `5m`, `24h`.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|span| u64::try_from(span.as_secs()).ok());
    parsed.filter(|seconds| (1..=30 * 86_400).contains(seconds)).ok_or_else(|| {
        serde::de::Error::custom(format!("{text:?} is not a time from 1s to 30d such as \"5m\" or \"24h\""))
    })
}

fn parsed_list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<KeyUri>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

impl Config {
    /// Reads and judges the file; the secrets it names are read by [`Config::token`] and
    /// [`Config::hook_secret`].
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let facts = std::fs::metadata(path).map_err(FileError::read(path))?;
        let user = rustix::process::geteuid().as_raw();
        if facts.mode() & 0o022 != 0 || (facts.uid() != user && facts.uid() != 0) {
            return Err(ConfigError::Writable { path: path.to_owned() });
        }
        let bytes = files::read_bounded(path, BYTES)?;
        let problem = |problem: String| ConfigError::Toml { path: path.to_owned(), problem };
        let text = String::from_utf8(bytes).map_err(|_| problem("is not UTF-8".to_owned()))?;
        let config: Self = toml::from_str(&text).map_err(|error| problem(error.to_string().trim().to_owned()))?;
        config.judge(path)?;
        Ok(config)
    }

    fn judge(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse =
            |key, problem: &str| Err(ConfigError::Value { path: path.to_owned(), key, problem: problem.to_owned() });
        let name = &self.repository.name;
        if !is_plain(name) || !name.contains('/') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return refuse("repository.name", "is not a name such as acme/mcp-registry");
        }
        let branch = &self.repository.branch;
        if !is_plain(branch)
            || branch.starts_with(['-', '/'])
            || branch.contains("..")
            || branch.contains([':', '^', '~', '*', '?', '[', '\\'])
        {
            return refuse("repository.branch", "is not a branch such as main");
        }
        match url::Url::parse(&self.repository.url) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                return refuse(
                    "repository.url",
                    "holds a user or password: it is published in statements; use token_file",
                );
            }
            Ok(url) if matches!(url.scheme(), "https" | "file") => {}
            Ok(url) if url.scheme() == "http" && crate::forge::api::is_loopback(&url) => {}
            _ => return refuse("repository.url", "is not https:// or file:// (http:// only on this machine)"),
        }
        if self.keys.head.is_empty() || self.keys.release.is_empty() {
            return refuse("keys", "needs at least one head key and one release key");
        }
        if let Err(problem) = self.reviewers.judge() {
            return refuse("reviewers", &problem);
        }
        if usize::from(self.approvals.policy.get()) > self.reviewers.persons() {
            return refuse("approvals.policy", "is more than there are reviewers");
        }
        if self.approvals.start.as_deref().is_some_and(|commit| !crate::mirror::is_commit_id(commit)) {
            return refuse("approvals.start", "is not a full commit id");
        }
        if self.site.expires_days.get() > 30 {
            return refuse("site.expires_days", "is more than 30, the longest life of a head");
        }
        if self.site.resign_after >= u64::from(self.site.expires_days.get()) * 86_400 {
            return refuse("site.resign_after", "is not before the head expires (site.expires_days)");
        }
        if self.poll < 1 {
            return refuse("poll", "is too short");
        }
        if Address::parse(&self.site.address).is_err() {
            return refuse("site.address", "is neither a folder nor s3://bucket/prefix");
        }
        self.artefacts.fetch_policy().map(drop).or_else(|error| refuse("artefacts", &error))?;
        self.check.judge().or_else(|(key, error)| refuse(key, &error))?;
        self.artefacts.lookups(&self.check).map(drop).or_else(|error| refuse("artefacts.osv_sha256", &error))
    }

    /// The site that is published, and where it is read back.
    ///
    /// # Errors
    /// If an address cannot be used.
    pub fn open_site(&self) -> Result<(site::Site, Option<Public>), SiteError> {
        let mut address = Address::parse(&self.site.address)?;
        if let Address::S3(s3) = &mut address {
            s3.endpoint.clone_from(&self.site.endpoint);
            s3.region.clone_from(&self.site.region);
        }
        let public = self.site.public.as_deref().map(Public::new).transpose()?;
        Ok((site::Site::open(&address)?, public))
    }

    /// The forge's token, if there is one.
    ///
    /// # Errors
    /// If its file cannot be used.
    pub fn token(&self) -> Result<Option<Token>, ConfigError> {
        let text = secret("repository.token_file", self.repository.token_file.as_deref(), "forge-token")?;
        Ok(text.map(Token::new))
    }

    /// The secret of webhooks and hints; without one all are refused.
    ///
    /// # Errors
    /// If its file cannot be used.
    pub fn hook_secret(&self) -> Result<Option<String>, ConfigError> {
        secret("hooks.secret_file", self.hooks.secret_file.as_deref(), "hook-secret")
    }
}

/// The file's line; else that of a systemd credential, if there is such a one.
fn secret(key: &'static str, file: Option<&Path>, credential: &str) -> Result<Option<String>, ConfigError> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let given = folder.map(|folder| folder.join(credential)).filter(|path| path.exists());
    match file.map(Path::to_owned).or(given) {
        Some(path) => {
            secret::read_line(&path, SECRET_BYTES).map(Some).map_err(|source| ConfigError::Secret { key, source })
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
