//! `deps`: which servers carry a package.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::options::StoreArgs;
use super::{Cli, print};
use crate::deps::{Wanted, carriers};
use crate::trust_cmd;

#[derive(Debug, Args)]
pub(super) struct Deps {
    /// The package: lodash, npm:lodash or npm:lodash@4.17.20 (npm, pypi, cargo or go)
    package: Wanted,
    /// The site: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "SITE")]
    site: String,
    #[command(flatten)]
    store: StoreArgs,
    /// The trust root that hosts use
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// Look into every release, not only into those that hosts start
    #[arg(long)]
    all: bool,
}

pub(super) fn deps(cli: &Cli, args: &Deps) -> anyhow::Result<()> {
    let root = trust_cmd::read(&args.trust)?;
    let found = carriers(&args.store.open(&args.site)?, &root, &args.package, args.all)?;
    print(cli, &found, || {
        let mut text = String::new();
        for one in &found {
            let mark = if one.selected { "*" } else { " " };
            let platforms: Vec<&str> = one.platforms.iter().map(|platform| platform.as_str()).collect();
            let (server, version, status) = (one.server.as_str(), one.version.as_str(), one.status);
            let _ = writeln!(text, "{mark} {server} {version}  {status}  {}  ({})", one.package, platforms.join(", "));
        }
        if text.is_empty() {
            let which = if args.all { "release" } else { "selected release" };
            text = format!("no {which} of this site carries it\n");
        }
        text
    });
    Ok(())
}
