//! `deps`: which servers carry a package.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use mcpfs_trust::package::PackageQuery;

use super::options::{StoreArgs, Usage, shown};
use super::{Cli, print};
use crate::deps::{Carrier, carriers, indexed};
use crate::site::Site;
use crate::site::public::Public;
use crate::trust_cmd;

#[derive(Debug, Args)]
pub(super) struct Deps {
    /// The package: lodash, npm:lodash or npm:lodash@4.17.20 (npm, pypi, cargo or go)
    package: PackageQuery,
    /// The site: a folder, s3://bucket/prefix, or the https: address that hosts have
    #[arg(long, value_name = "SITE")]
    site: String,
    #[command(flatten)]
    store: StoreArgs,
    /// The trust root that hosts use. Without it the site's index is believed, which is not signed
    #[arg(long, value_name = "FILE", required_if_eq("all", "true"))]
    trust: Option<PathBuf>,
    /// Look into every release, not only into those that hosts start
    #[arg(long)]
    all: bool,
}

pub(super) fn deps(cli: &Cli, args: &Deps) -> anyhow::Result<()> {
    let site = match args.site.starts_with("https://") || args.site.starts_with("http://") {
        true => Site::within(Arc::new(Public::new(&args.site).map_err(|error| Usage(error.to_string()))?)),
        false => args.store.open(&args.site)?,
    };
    let found = match &args.trust {
        Some(trust) => carriers(&site, &trust_cmd::read(trust)?, &args.package, args.all, &shown(cli))?,
        None => {
            let indexed = indexed(&site, &args.package)?;
            tell!(
                "warning    this is the site's index, which is not signed; --trust FILE asks what the head vouches for"
            );
            for name in &indexed.unlisted {
                tell!("warning    {name}: its packages are not all listed; --trust FILE reads its files");
            }
            indexed.found
        }
    };
    print(cli, &found, || text(&found, args.all));
    Ok(())
}

fn text(found: &[Carrier], all: bool) -> String {
    let mut text = String::new();
    for one in found {
        let mark = if one.selected { "*" } else { " " };
        let platforms: Vec<&str> = one.platforms.iter().map(|platform| platform.as_str()).collect();
        let platforms = if platforms.is_empty() { String::new() } else { format!("  ({})", platforms.join(", ")) };
        let (server, version, status) = (one.server.as_str(), one.version.as_str(), one.status);
        let _ = writeln!(text, "{mark} {server} {version}  {status}  {}{platforms}", one.package);
    }
    if text.is_empty() {
        let which = if all { "release" } else { "selected release" };
        text = format!("no {which} of this site carries it\n");
    }
    text
}
