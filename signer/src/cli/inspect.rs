//! `inspect`: what a site says.

use std::path::PathBuf;

use clap::Args;
use mcpfs_trust::name::Version;

use super::options::{StoreArgs, name_and_version};
use super::{Cli, print};
use crate::inspect as views;
use crate::trust_cmd;

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// `head`, `log`, NAME or NAME@VERSION
    what: String,
    /// The site: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "SITE")]
    site: String,
    #[command(flatten)]
    store: StoreArgs,
    /// The trust root that hosts use
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// Show what changed from version A to version B
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    diff: Option<Vec<Version>>,
}

pub(super) fn inspect(cli: &Cli, args: &Inspect) -> anyhow::Result<()> {
    let root = trust_cmd::read(&args.trust)?;
    let site = args.store.open(&args.site)?;
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
