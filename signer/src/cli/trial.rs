//! Options of a trial.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use mcpfs_trust::name::check_file_name;

use super::options::Usage;
use crate::trial::TrialOptions;

/// Whether and how the server is tried.
#[derive(Debug, Args)]
pub(super) struct TrialArgs {
    /// Also start the server once, in a sandbox without network (needs the Debian packages bubblewrap
    /// and strace): records its tools, and finds what it writes, reads, starts and tries to reach
    #[arg(long)]
    run: bool,
    #[command(flatten)]
    how: HowArgs,
}

/// How the server is tried.
#[derive(Debug, Args)]
pub(super) struct HowArgs {
    /// Where a runtime of the host is, such as node=/opt/node/bin/node; may be repeated
    /// [default: /usr/local/bin, /usr/bin, /bin]
    #[arg(long, value_name = "NAME=PATH")]
    pub(super) runtime: Vec<Named>,
    /// A tool to call besides
    #[arg(long, value_name = "TOOL")]
    pub(super) call: Option<String>,
    /// Its arguments, as a JSON object
    #[arg(long, value_name = "JSON", requires = "call")]
    pub(super) args: Option<String>,
    /// Seconds that each of the server's answers may take
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) patience: u64,
}

/// A runtime and its path.
#[derive(Debug, Clone)]
pub(super) struct Named(pub(super) String, pub(super) PathBuf);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = text.split_once('=').filter(|(name, path)| check_file_name(name).is_ok() && path.starts_with('/'));
        let (name, path) = named.ok_or_else(|| format!("{text:?} is not NAME=/absolute/path"))?;
        Ok(Self(name.to_owned(), PathBuf::from(path)))
    }
}

impl TrialArgs {
    /// The options; `None` if nothing is to be started.
    pub(super) fn options(&self) -> anyhow::Result<Option<TrialOptions>> {
        let how = self.how.options()?;
        if !self.run && (how.call.is_some() || !how.runtimes.is_empty()) {
            return Err(Usage("--runtime and --call are for a trial: add --run".to_owned()).into());
        }
        Ok(self.run.then_some(how))
    }
}

impl HowArgs {
    pub(super) fn options(&self) -> anyhow::Result<TrialOptions> {
        let runtimes: BTreeMap<_, _> =
            self.runtime.iter().map(|Named(name, path)| (name.clone(), path.clone())).collect();
        let call = self.call.clone().map(|tool| anyhow::Ok((tool, self.arguments()?))).transpose()?;
        Ok(TrialOptions { runtimes, patience: Duration::from_secs(self.patience), call })
    }

    fn arguments(&self) -> anyhow::Result<serde_json::Value> {
        let text = self.args.as_deref().unwrap_or("{}");
        let value = serde_json::from_str(text).ok().filter(serde_json::Value::is_object);
        Ok(value.ok_or_else(|| Usage(format!("--args {text:?} is not a JSON object")))?)
    }
}
