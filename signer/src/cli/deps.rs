//! `deps`: which servers carry a package.

use std::fmt::Write as _;

use clap::Args;

use super::options::LookArgs;
use super::{Cli, print};
use crate::deps::{Wanted, carriers};

#[derive(Debug, Args)]
pub(super) struct Deps {
    /// The package: lodash, npm:lodash or npm:lodash@4.17.20 (npm, pypi, cargo or go)
    package: Wanted,
    #[command(flatten)]
    look: LookArgs,
    /// Look into every release, not only into those that hosts start
    #[arg(long)]
    all: bool,
}

pub(super) fn deps(cli: &Cli, args: &Deps) -> anyhow::Result<()> {
    let (site, root) = args.look.open()?;
    let found = carriers(&site, &root, &args.package, args.all)?;
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
