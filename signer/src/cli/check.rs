//! `check`: the pull request's gate.

use std::path::{Path, PathBuf};

use clap::Args;
use mcpfs_trust::name::RegistryName;

use super::Cli;
use super::options::{CheckArgs, StoreArgs, Usage};
use crate::check::report::{Format, report};
use crate::check::{self, Published};
use crate::files;
use crate::pack::KnownChunks;
use crate::trust_cmd;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The recipe: servers/NAME.yaml
    file: PathBuf,
    /// The registry it is for: checks also that its statement can be signed
    #[arg(long)]
    registry: Option<RegistryName>,
    /// Leave the checked release in this folder, for `publish --staging`
    #[arg(long, value_name = "DIR")]
    staging: Option<PathBuf>,
    /// The form of the result: json is that of --json, sarif for code scanning, markdown for a
    /// comment on a pull request [default: text]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write the result in that form to this file, and show text on the terminal
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The published site, a folder or s3://bucket/prefix: shows what changed since the selected version
    #[arg(long, value_name = "SITE", requires = "trust")]
    site: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    /// The trust root that hosts use, for --site
    #[arg(long, value_name = "FILE", requires = "site")]
    trust: Option<PathBuf>,
    #[command(flatten)]
    how: CheckArgs,
}

pub(super) fn check(cli: &Cli, args: &Check) -> anyhow::Result<()> {
    let screen = match (cli.json, args.format, &args.out) {
        (true, None | Some(Format::Json), _) | (true, _, Some(_)) => Format::Json,
        (true, Some(_), None) => {
            return Err(Usage("--json is --format json: give one of them, or --out FILE".to_owned()).into());
        }
        (false, format, None) => format.unwrap_or(Format::Text),
        (false, _, Some(_)) => Format::Text,
    };
    if let Some(folder) = args.out.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        return Err(
            Usage(format!("--out: there is no folder {}; make it, or name another file", folder.display())).into()
        );
    }
    let published = match (&args.site, &args.trust) {
        (Some(site), Some(trust)) => Some(Published { site: args.store.open(site)?, root: trust_cmd::read(trust)? }),
        _ => None,
    };
    let root = published.as_ref().map(|published| &published.root.registry);
    let registry = match (&args.registry, root) {
        (Some(registry), Some(root)) if registry != root => {
            return Err(Usage(format!("--registry is {registry}, but --trust is of {root}")).into());
        }
        (registry, root) => registry.as_ref().or(root).cloned(),
    };
    let options = args.how.options(cli, &args.file, registry, KnownChunks::none(), published)?;
    let mut checked = match &args.staging {
        Some(folder) => check::ingest(&args.file, folder, &options)?,
        None => check::check(&args.file, &options)?,
    };
    let kept = checked.staging.as_ref().filter(|_| args.staging.is_some());
    checked.record = kept.map(|staging| staging.record.digest());
    let file = args.file.display().to_string();
    if let Some(out) = &args.out {
        let format = args.format.unwrap_or(Format::Text);
        files::write_durably(out, report(format, &file, &checked).as_bytes(), true)?;
    }
    super::print_text(&report(screen, &file, &checked));
    match checked.findings.has_errors() {
        true => Err(anyhow::anyhow!("{file} did not pass: {}", checked.findings.summary())),
        false => Ok(()),
    }
}
