//! What the check of a release may reach, and what it looks at: the options of `check`, as keys.
//!
//! A policy of the repository can demand a look (`require`); whether this machine can make it, and
//! from where artefacts and advisories come, is said here. Secrets are only ever files or systemd
//! credentials.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpfs_trust::digest::Digest;
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::bundle::{Registry, Tools};
use crate::check::advisories::{Asking, Program};
use crate::check::patterns::{RuleSet, RuleSource};
use crate::check::{Lookups, Patterns, chain};
use crate::fetch::{FetchPolicy, Logins};
use crate::files;
use crate::progress::Progress;
use crate::trial::TrialOptions;

/// `[artefacts]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Artefacts {
    /// The folder that `file:` artefacts must lie in.
    pub file_root: Option<PathBuf>,
    /// Hosts that artefacts may be fetched from.
    pub allow_hosts: Vec<String>,
    /// Private networks that those may lie in.
    pub allow_networks: Vec<String>,
    /// Further certificate authorities, PEM.
    pub ca_files: Vec<PathBuf>,
    /// Registries that recipes may name packages of.
    #[serde(deserialize_with = "words")]
    pub allow_registries: Vec<Registry>,
    /// npm's configuration, beside that of the system.
    pub npmrc: Option<PathBuf>,
    /// pip's configuration, beside that of the system.
    pub pip_conf: Option<PathBuf>,
    /// Who may sign git tags; every tag must then be signed by one of them.
    pub tag_signers: Option<PathBuf>,
    /// Logins of OCI registries; by default the systemd credential `mcpfs-registry-auth`.
    pub registry_auth: Option<PathBuf>,
    /// Snapshots of OSV advisories.
    pub osv: Vec<PathBuf>,
    /// Digests that snapshots may have, besides those of the policy.
    pub osv_sha256: Vec<String>,
}

/// `[check]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// Programs that ask the network about known vulnerabilities, besides those of the policy.
    #[serde(deserialize_with = "words")]
    pub audit: Vec<Program>,
    /// An OSV API for pip-audit.
    pub audit_osv_url: Option<String>,
    /// Longest time for one of these programs, seconds.
    #[serde(deserialize_with = "super::duration")]
    pub audit_timeout: u64,
    /// Whether each server is started once, in a sandbox.
    pub run: bool,
    /// Where runtimes of a trial are, by the name that recipes use.
    pub runtimes: std::collections::BTreeMap<String, PathBuf>,
    /// How long each answer of a trial may take, seconds.
    #[serde(deserialize_with = "super::duration")]
    pub patience: u64,
    /// Rules of malicious patterns: `builtin`, and folders.
    pub patterns: Vec<String>,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            audit: Vec::new(),
            audit_osv_url: None,
            audit_timeout: Asking::default().limit.as_secs(),
            run: false,
            runtimes: std::collections::BTreeMap::new(),
            patience: 60,
            patterns: Vec::new(),
        }
    }
}

/// The words that the command line has for the same.
fn words<'de, D: Deserializer<'de>, T: clap::ValueEnum>(from: D) -> Result<Vec<T>, D::Error> {
    let one = |text: &String| {
        let known =
            || T::value_variants().iter().filter_map(|one| Some(one.to_possible_value()?.get_name().to_owned()));
        T::from_str(text, false).map_err(|_| {
            serde::de::Error::custom(format!("{text:?} is none of {}", known().collect::<Vec<_>>().join(", ")))
        })
    };
    Vec::<String>::deserialize(from)?.iter().map(one).collect()
}

impl Artefacts {
    /// Where artefacts may come from.
    ///
    /// # Errors
    /// What is wrong with the lists, or which file cannot be read.
    pub fn fetch_policy(&self) -> Result<FetchPolicy, String> {
        fn list<T: std::str::FromStr<Err: std::fmt::Display>>(texts: &[String]) -> Result<Vec<T>, String> {
            texts.iter().map(|text| text.parse().map_err(|error: T::Err| error.to_string())).collect()
        }
        let authority = |path: &PathBuf| files::read_bounded(path, 1 << 20).map_err(|error| chain(&error));
        Ok(FetchPolicy {
            file_root: self.file_root.clone(),
            hosts: list(&self.allow_hosts)?,
            networks: list(&self.allow_networks)?,
            authorities: self.ca_files.iter().map(authority).collect::<Result<_, _>>()?,
            registries: self.allow_registries.clone(),
            tools: Tools {
                npmrc: self.npmrc.clone(),
                pip_conf: self.pip_conf.clone(),
                allowed_signers: self.tag_signers.clone(),
                ..Tools::default()
            },
            logins: Logins::find(self.registry_auth.as_deref()).map_err(|error| chain(&error))?,
            ..FetchPolicy::default()
        })
    }

    /// Where known vulnerabilities are looked up.
    ///
    /// # Errors
    /// If a digest is none.
    pub fn lookups(&self, check: &Check) -> Result<Lookups, String> {
        let digest = |text: &String| text.parse::<Digest>().map_err(|_| format!("{text:?} is not a SHA-256"));
        Ok(Lookups {
            snapshots: self.osv.clone(),
            pins: self.osv_sha256.iter().map(digest).collect::<Result<_, _>>()?,
            audit: check.audit.clone(),
            asking: Asking { osv_url: check.osv_url()?, limit: Duration::from_secs(check.audit_timeout) },
            shown: Progress::silent(),
        })
    }
}

impl Check {
    /// What is wrong, and with which key.
    pub(super) fn judge(&self) -> Result<(), (&'static str, String)> {
        self.osv_url().map_err(|error| ("check.audit_osv_url", error))?;
        if self.audit_timeout > u64::from(NonZeroU16::MAX.get()) {
            return Err(("check.audit_timeout", "is more than 18h".to_owned()));
        }
        if !(1..=600).contains(&self.patience) {
            return Err(("check.patience", "is not a time from 1s to 10m".to_owned()));
        }
        let good =
            |(name, path): (&String, &PathBuf)| mcpfs_trust::name::check_file_name(name).is_ok() && path.is_absolute();
        if !self.runtimes.iter().all(good) {
            return Err(("check.runtimes", "is not a table such as node = \"/opt/node/bin/node\"".to_owned()));
        }
        self.patterns().map(drop).map_err(|error| ("check.patterns", error))
    }

    fn osv_url(&self) -> Result<Option<Url>, String> {
        let parse = |text: &String| Url::parse(text).map_err(|_| format!("{text:?} is not a URL"));
        self.audit_osv_url.as_ref().map(parse).transpose()
    }

    /// How to try a server out, if that is wanted.
    pub fn trial(&self) -> Option<TrialOptions> {
        let patience = Duration::from_secs(self.patience);
        self.run.then(|| TrialOptions { runtimes: self.runtimes.clone(), patience, call: None })
    }

    /// How to look for malicious patterns, if that is wanted.
    ///
    /// # Errors
    /// If rules cannot be read.
    pub fn patterns(&self) -> Result<Option<Patterns>, String> {
        if self.patterns.is_empty() {
            return Ok(None);
        }
        let source = |text: &String| match text.as_str() {
            "builtin" => RuleSource::Builtin,
            folder => RuleSource::Folder(Path::new(folder).to_owned()),
        };
        let sources: Vec<RuleSource> = self.patterns.iter().map(source).collect();
        let rules = RuleSet::new(&sources).map_err(|error| chain(&error))?;
        Ok(Some(Patterns { rules, engine: None, limit: Patterns::LIMIT }))
    }
}
