//! What is said of a source that a person types, for `init` and `try`.

use std::path::PathBuf;

use clap::Args;
use mcpfs_trust::name::Platform;

use crate::bundle::{self, PythonVersion};
use crate::fetch::{AllowedHost, FetchPolicy, Wanted};
use crate::files;

/// What an address leaves open.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Of images, npm and PyPI: where it is to run, such as linux/arm64 [default: this machine]
    #[arg(long)]
    platform: Option<Platform>,
    /// Of PyPI: the version of Python that it is for [default: that of python3 here]
    #[arg(long, value_name = "VERSION")]
    python: Option<PythonVersion>,
    /// Of npm and PyPI: a lockfile to bundle by [default: it is resolved now]
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Of git: fetch submodules too, from hosts that are allowed
    #[arg(long)]
    submodules: bool,
    /// Of git: fetch files of Git LFS too, from hosts that are allowed
    #[arg(long)]
    lfs: bool,
}

impl SourceArgs {
    pub(super) fn wanted(&self) -> anyhow::Result<Wanted> {
        let lock = match &self.lock {
            Some(path) => Some(String::from_utf8(files::read_bounded(path, bundle::LOCK_BYTES)?)?),
            None => None,
        };
        let own = Wanted::default();
        let platform = self.platform.clone().unwrap_or(own.platform.clone());
        Ok(Wanted { platform, python: self.python, submodules: self.submodules, lfs: self.lfs, lock, ..own })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.platform.is_none() && self.python.is_none() && self.lock.is_none() && !self.submodules && !self.lfs
    }
}

/// Who types a registry's name means it, and the operator's configuration says where it is. A host
/// is listed like anywhere else: an address that was pasted connects to nothing.
pub(super) fn allow_typed(policy: &mut FetchPolicy, url: &str) {
    if let Ok(source) = url.parse::<bundle::Source>() {
        policy.registries.extend(source.registry());
    }
}

/// The options by which a check of a recipe with this address may fetch it.
pub(super) fn options_for(policy: &FetchPolicy, url: &str) -> String {
    match url.parse::<bundle::Source>() {
        Ok(bundle::Source::Npm(_)) => return " --allow-registry npm".to_owned(),
        Ok(bundle::Source::Pypi(_)) => return " --allow-registry pypi".to_owned(),
        _ => {}
    }
    let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.is_empty() {
        return String::new();
    }
    let plain = format!("http://{authority}").parse::<AllowedHost>();
    match scheme == "http" || plain.is_ok_and(|plain| policy.hosts.contains(&plain)) {
        true => format!(" --allow-host http://{authority}"),
        false => format!(" --allow-host {authority}"),
    }
}
