//! `inspect`: what a site says.

use clap::Args;
use mcpfs_trust::name::Version;

use super::options::{LookArgs, name_and_version};
use super::{Cli, print};
use crate::inspect as views;

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// `head`, `log`, NAME or NAME@VERSION
    what: String,
    #[command(flatten)]
    look: LookArgs,
    /// Show what changed from version A to version B
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    diff: Option<Vec<Version>>,
}

pub(super) fn inspect(cli: &Cli, args: &Inspect) -> anyhow::Result<()> {
    let (site, root) = args.look.open()?;
    let view = match (args.what.as_str(), args.diff.as_deref()) {
        ("head", None) => views::head(&site, &root)?,
        ("log", None) => views::log(&site, &root)?,
        (what, diff) => {
            let (name, version) = name_and_version(what)?;
            match diff {
                Some([from, to]) => views::diff(&site, &root, &name, (from, to))?,
                _ => views::server(&site, &root, &name, version.as_ref())?,
            }
        }
    };
    print(cli, &view.value, || view.text);
    Ok(())
}
