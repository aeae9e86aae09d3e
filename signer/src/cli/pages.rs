//! `pages`: what people and IDEs read, written again.

use std::path::PathBuf;

use clap::Args;

use super::options::{StoreArgs, shown};
use super::{Cli, print};
use crate::{pages as written, trust_cmd};

#[derive(Debug, Args)]
pub(super) struct Pages {
    /// The site: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "SITE")]
    site: String,
    #[command(flatten)]
    store: StoreArgs,
    /// The trust root that hosts use
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
}

pub(super) fn pages(cli: &Cli, args: &Pages) -> anyhow::Result<()> {
    let root = trust_cmd::read(&args.trust)?;
    let site = args.store.open(&args.site)?;
    let _lock = site.store().lock()?;
    let done = written::write(&site, &root, true, &shown(cli))?;
    print(cli, &done, || {
        format!(
            "pages      {} of {} server{} written\n",
            done.files,
            done.servers,
            if done.servers == 1 { "" } else { "s" }
        )
    });
    Ok(())
}
