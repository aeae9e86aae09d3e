//! `pages`: what people and IDEs read, written again.

use clap::Args;

use super::options::{LookArgs, shown};
use super::{Cli, print};
use crate::pages as site_pages;

#[derive(Debug, Args)]
pub(super) struct Pages {
    #[command(flatten)]
    look: LookArgs,
}

pub(super) fn pages(cli: &Cli, args: &Pages) -> anyhow::Result<()> {
    let (site, root) = args.look.open()?;
    let _lock = site.store().lock()?;
    let done = site_pages::write(&site, &root, true, &shown(cli))?;
    print(cli, &done, || {
        let servers = if done.servers == 1 { "server" } else { "servers" };
        format!("pages      {} files written, of {} {servers}\n", done.files, done.servers)
    });
    Ok(())
}
