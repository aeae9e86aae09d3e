//! The commands that bring releases to sites: release and publish.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use mcpfs_trust::digest::Digest;

use super::change::at_site;
use super::options::{CheckArgs, GateArgs, SiteArgs, open, origin, read_name};
use super::{Cli, print};
use crate::check::Findings;
use crate::key::Keyring;
use crate::log::{Row, public};
use crate::pack::KnownChunks;
use crate::release::{self, ReleaseError, Released};
use crate::site::publish::Outcome;
use crate::source::Origin;
use crate::staging::Staging;
use crate::trust_cmd;

#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// The recipe: servers/NAME.yaml
    file: PathBuf,
    #[command(flatten)]
    site: SiteArgs,
    /// A key that signs the release; may be repeated. Not needed to select a published version again
    #[arg(long = "key", value_name = "URI")]
    keys: Vec<String>,
    #[command(flatten)]
    how: CheckArgs,
}

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The folder that `check --staging` left
    #[arg(long, value_name = "DIR", required_unless_present = "resign", conflicts_with = "resign")]
    staging: Option<PathBuf>,
    /// The recipe's file in its git repository: names the commit in the statement
    #[arg(long, value_name = "FILE", requires = "staging")]
    recipe: Option<PathBuf>,
    /// The digest of the check record that `check --staging` printed: refuses any other
    #[arg(long, value_name = "SHA256", requires = "staging")]
    record: Option<Digest>,
    /// This registry has no policy: without it, --policy (or --recipe) must say which one it is
    #[arg(long, requires = "staging", conflicts_with = "policy")]
    no_policy: bool,
    /// Only sign the head again, so that it does not expire
    #[arg(long)]
    resign: bool,
    /// Begin the epoch of --trust, after the theft of a head key: OLD is the trust root of the epoch
    /// before. Servers are those of the last head that this signer made, not of what head.json says now
    #[arg(long, value_name = "OLD", requires = "resign")]
    new_epoch: Option<PathBuf>,
    /// The digest of the head to begin with, if this signer does not know the last good one
    #[arg(long, value_name = "SHA256", requires = "new_epoch")]
    good_head: Option<Digest>,
    #[command(flatten)]
    site: SiteArgs,
    /// A key that signs the release; may be repeated
    #[arg(long = "key", value_name = "URI")]
    keys: Vec<String>,
    #[command(flatten)]
    gate: GateArgs,
}

pub(super) fn release(cli: &Cli, keyring: &mut Keyring, args: &ReleaseArgs) -> anyhow::Result<()> {
    let request = public::name(&args.file);
    at_site(cli, keyring, &args.site, "release", &request, |keyring, publisher| {
        let keys = open(keyring, &args.keys)?;
        let registry = publisher.root.registry.clone();
        // Only to find its server's chunks: the check reads the recipe again, and reports what is wrong with it.
        let known = match read_name(&args.file) {
            Some(name) => release::known_chunks(publisher.site, publisher.root, &name)?,
            None => KnownChunks::none(),
        };
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        // What came with this version is asked here too: the policy may make it an error.
        let published = release::compared(publisher.site, publisher.root)?;
        let options = args.how.options(cli, &args.file, Some(registry), known, published)?;
        let staging = match release::ingest(&args.file, folder.path(), &options) {
            Err(ReleaseError::Findings { file, findings }) => {
                tell!("{findings}");
                return Err(ReleaseError::Findings { file, findings }.into());
            }
            other => other?,
        };
        show_findings(&staging.findings);
        let origin = origin(&args.file, &staging)?;
        let released = release::publish(publisher, &staging, &origin, &keys, &request)?;
        print_released(cli, &released, &args.site);
        Ok(())
    })
}

pub(super) fn publish(cli: &Cli, keyring: &mut Keyring, args: &PublishArgs) -> anyhow::Result<()> {
    if let Some(old) = &args.new_epoch {
        let old = trust_cmd::read(old)?;
        return at_site(cli, keyring, &args.site, "new-epoch", "", |_, publisher| {
            let row = Row { action: "new-epoch".to_owned(), ..Row::default() };
            print_outcome(cli, &publisher.begin_epoch(&old, args.good_head, row)?);
            Ok(())
        });
    }
    let Some(folder) = &args.staging else {
        return at_site(cli, keyring, &args.site, "resign", "", |_, publisher| {
            let outcome = publisher.resign(Row { action: "resign".to_owned(), ..Row::default() })?;
            print_outcome(cli, &outcome);
            Ok(())
        });
    };
    let gate = args.gate.of_publisher(args.recipe.as_deref(), args.no_policy)?;
    let staging = Staging::read(folder);
    let request = staging.as_ref().map_or_else(|_| public::name(folder), |staging| staging.recipe_file.clone());
    at_site(cli, keyring, &args.site, "release", &request, |keyring, publisher| {
        let keys = open(keyring, &args.keys)?;
        let staging = staging?;
        staging.demand(&gate, args.record)?;
        if args.record.is_none() && !staging.record.observations.is_empty() {
            tell!(
                "warning    the check's observations are taken on trust; if this folder was carried here, pin what check \
                 printed: --record SHA256"
            );
        }
        show_findings(&staging.findings);
        let origin = match &args.recipe {
            Some(recipe) => origin(recipe, &staging)?,
            None => Origin::default(),
        };
        let released = release::publish(publisher, &staging, &origin, &keys, &request)?;
        print_released(cli, &released, &args.site);
        Ok(())
    })
}

pub(super) fn show_findings(findings: &Findings) {
    tell!("{findings}");
}

pub(super) fn print_released(cli: &Cli, released: &Released, site: &SiteArgs) {
    print(cli, released, || {
        let what = if released.site.changed { "released" } else { "unchanged" };
        let mut text = format!("{what}   {} {}\nstatement  {}\n", released.name, released.version, released.statement);
        for (platform, sha256) in &released.artefacts {
            text.push_str(&format!("artefact   {sha256} ({platform})\n"));
        }
        if released.site.new_objects > 0 {
            let (objects, bytes) = (released.site.new_objects, released.site.new_bytes);
            text.push_str(&format!(
                "stored     {objects} new object{} ({bytes} bytes)\n",
                if objects == 1 { "" } else { "s" }
            ));
        }
        text + &outcome_text(&released.site) + &format!("site       {}\n", site.site)
    });
}

pub(super) fn print_outcome(cli: &Cli, outcome: &Outcome) {
    print(cli, outcome, || {
        let what = if outcome.changed { "published" } else { "unchanged" };
        format!("{what}\n{}", outcome_text(outcome))
    });
}

pub(super) fn outcome_text(outcome: &Outcome) -> String {
    let note = match outcome.after_others {
        true => {
            "note       the head before was not made by this signer: if nobody else publishes here, the head key was \
             stolen (docs/keys.md)\n"
        }
        false => "",
    };
    let head = format!(
        "head       {} ({} server{}), expires {}\n",
        outcome.head_version,
        outcome.servers,
        if outcome.servers == 1 { "" } else { "s" },
        outcome.expires
    );
    head + note
}
