//! `countersign`: further signatures on what is published.

use clap::Args;
use mcpfs_trust::name::{ServerName, Version};

use super::change::at_site;
use super::options::{SiteArgs, name_and_version, open};
use super::publish::outcome_text;
use super::{Cli, print};
use crate::countersign::{COUNTERSIGN, Countersigned, Which, countersign};
use crate::key::Keyring;

#[derive(Debug, Args)]
pub(super) struct Countersign {
    /// NAME@VERSION, also of releases that verify no more because their key was removed: have each of them
    /// looked at before. NAME: all of its releases that verify
    #[arg(value_name = "RELEASE", required_unless_present = "all", conflicts_with = "all")]
    releases: Vec<String>,
    /// Every release that verifies now
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    site: SiteArgs,
    /// A key that signs, which the trust root must have for these names; may be repeated
    #[arg(long = "key", value_name = "URI", required = true)]
    keys: Vec<String>,
}

pub(super) fn run(cli: &Cli, keyring: &mut Keyring, args: &Countersign) -> anyhow::Result<()> {
    let named = args.releases.iter().map(|release| name_and_version(release));
    let named: Vec<(ServerName, Option<Version>)> = named.collect::<Result<_, _>>()?;
    let (which, request) = match args.all {
        true => (Which::All, "--all".to_owned()),
        false => (Which::Named(named), args.releases.join(" ")),
    };
    at_site(cli, keyring, &args.site, COUNTERSIGN, &mcpfs_trust::error::bounded(&request), |keyring, publisher| {
        let keys = open(keyring, &args.keys)?;
        let done = countersign(publisher, &which, &keys)?;
        print(cli, &done, || text(&done));
        Ok(())
    })
}

fn text(done: &Countersigned) -> String {
    let mut text = String::new();
    for one in &done.signed {
        text.push_str(&format!("signed     {} {}  {}\n", one.name, one.version, one.statement));
        if let Some(lacks) = &one.lacks {
            text.push_str(&format!("           hosts with this trust root do not accept it yet: {lacks}\n"));
        }
    }
    text + &format!("unchanged  {}\n", done.unchanged) + &outcome_text(&done.site)
}
