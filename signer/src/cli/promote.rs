//! `promote`: a release of one registry, published in another.

use std::path::PathBuf;

use clap::Args;

use super::Cli;
use super::change::at_site;
use super::options::{GateArgs, LookupArgs, SiteArgs, Usage, name_and_version, now, open};
use super::publish::{print_released, show_findings};
use crate::key::Keyring;
use crate::promote::Source;
use crate::release::ReleaseError;
use crate::site::{Address, Site};
use crate::trust_cmd;

#[derive(Debug, Args)]
pub(super) struct Promote {
    /// NAME@VERSION
    release: String,
    /// The site that has it: a folder, or s3://bucket/prefix at the same S3 server
    #[arg(long, value_name = "SITE")]
    from: String,
    /// The trust root of that site's hosts
    #[arg(long, value_name = "FILE")]
    from_trust: PathBuf,
    #[command(flatten)]
    site: SiteArgs,
    /// A key that signs the release here; may be repeated
    #[arg(long = "key", value_name = "URI")]
    keys: Vec<String>,
    /// This registry has no policy: without it, --policy must say which one it is
    #[arg(long, conflicts_with = "policy")]
    no_policy: bool,
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    lookups: LookupArgs,
}

pub(super) fn promote(cli: &Cli, keyring: &mut Keyring, args: &Promote) -> anyhow::Result<()> {
    let (name, version) = name_and_version(&args.release)?;
    let version = version.ok_or_else(|| Usage(format!("{:?} names no version; write NAME@VERSION", args.release)))?;
    // There is no recipe here that a policy could lie beside.
    let gate = args.gate.of_publisher(None, args.no_policy)?;
    let from_root = trust_cmd::read(&args.from_trust)?;
    let from = match Address::parse(&args.from).map_err(|error| Usage(error.to_string()))? {
        Address::Folder(root) => Site::folder(&root),
        Address::S3(_) => args.site.store.open(&args.from)?,
    };
    at_site(cli, keyring, &args.site, "promote", &args.release, |keyring, publisher| {
        let keys = open(keyring, &args.keys)?;
        let source = Source::find(&from, &from_root, (&name, &version), now()?)?;
        let released = match source.publish(publisher, (gate, args.lookups.lookups(cli)), &keys) {
            Err(ReleaseError::Findings { file, findings }) => {
                show_findings(&findings);
                return Err(ReleaseError::Findings { file, findings }.into());
            }
            other => other?,
        };
        print_released(cli, &released, &args.site);
        Ok(())
    })
}
