//! `trust`: what hosts believe.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mcpfs_trust::name::RegistryName;
use mcpfs_trust::root::{Scope, TrustRoot};
use serde_json::json;

use super::options::{StoreArgs, Usage, shown};
use super::{Cli, print};
use crate::key::Keyring;
use crate::trust_cmd::cut_off::{CutOff, cut_off};
use crate::trust_cmd::edit::{self, Edit, GroupName, ScopeSpec};
use crate::trust_cmd::transition::{self, Transition};
use crate::trust_cmd::{self, NewRoot, TrustError};

#[derive(Debug, Subcommand)]
pub(super) enum Trust {
    /// Write the trust root of a new registry
    Init(TrustInit),
    /// Change a trust root: keys, thresholds, scopes, epoch. Shows what changes, refuses what is
    /// unsafe, and raises the version
    Edit(Box<TrustEdit>),
    /// Show what changes between two trust roots; fails if that step is unsafe
    Diff {
        /// The one that hosts have
        old: PathBuf,
        /// The one that they are to get
        new: PathBuf,
        #[command(flatten)]
        site: OfferedArgs,
    },
    /// Check a trust root and show it
    Show {
        /// The trust root
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct TrustInit {
    /// The registry's name, such as mcp.example.com/prod
    #[arg(long)]
    registry: RegistryName,
    /// A key that signs heads: its URI, or its public half as base64 or a .pem file; may be repeated
    #[arg(long, value_name = "KEY", required = true)]
    head_key: Vec<String>,
    /// A key that signs releases: likewise; another one than any head key
    #[arg(long, value_name = "KEY", required = true)]
    release_key: Vec<String>,
    /// How many head keys must sign
    #[arg(long, value_name = "N", default_value = "1")]
    head_threshold: NonZeroU32,
    /// How many release keys must sign
    #[arg(long, value_name = "N", default_value = "1")]
    release_threshold: NonZeroU32,
    /// The root's version: raise it with every change
    #[arg(long, value_name = "N", default_value_t = 1)]
    version: u64,
    /// The epoch: raise it when a head key was stolen
    #[arg(long, value_name = "N", default_value_t = 1)]
    epoch: u64,
    /// Hosts believe no head below this one
    #[arg(long, value_name = "N", default_value_t = 1)]
    minimum_head: u64,
    /// Where to write it
    #[arg(long, value_name = "FILE", default_value = "trust.json")]
    out: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// A KEY is its URI, its public half as base64 or a .pem file, or the id of a key in the trust root, of
/// which 8 digits are enough.
#[derive(Debug, Args)]
pub(super) struct TrustEdit {
    /// The trust root
    file: PathBuf,
    /// A key that signs heads from now on; may be repeated
    #[arg(long, value_name = "KEY")]
    add_head_key: Vec<String>,
    /// How many head keys must sign
    #[arg(long, value_name = "N")]
    head_threshold: Option<NonZeroU32>,
    /// A key that signs releases from now on, where --in says; may be repeated
    #[arg(long, value_name = "KEY")]
    add_release_key: Vec<String>,
    /// How many release keys must sign, where --in says
    #[arg(long, value_name = "N")]
    release_threshold: Option<NonZeroU32>,
    /// The scope of the two options above, with :N for its N-th group [default: *]
    #[arg(long = "in", value_name = "SCOPE[:N]")]
    within: Option<GroupName>,
    /// Who signs the names of a scope: 'payments-* = 1 of KEY KEY and 1 of KEY'. All groups must
    /// sign; the scope is made, or its groups replaced; may be repeated
    #[arg(long, value_name = "SPEC")]
    scope: Vec<ScopeSpec>,
    /// A scope that goes; its names are decided by the next wider one; may be repeated
    #[arg(long, value_name = "SCOPE")]
    remove_scope: Vec<Scope>,
    /// A key that signs nothing any more; may be repeated
    #[arg(long, value_name = "KEY")]
    remove_key: Vec<String>,
    /// What stands beside the keys that are new, such as 'HSM B, slot 2'
    #[arg(long, value_name = "TEXT", value_parser = comment)]
    comment: Option<String>,
    /// Raise the epoch: a head key was stolen, or a revocation is to be taken back
    #[arg(long)]
    raise_epoch: bool,
    /// Hosts believe no head below this one
    #[arg(long, value_name = "N")]
    minimum_head: Option<u64>,
    /// The new version [default: the present one and 1]
    #[arg(long, value_name = "N")]
    to_version: Option<u64>,
    /// Show what would change, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the new root here instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    site: OfferedArgs,
}

/// The site whose head and releases must go on to verify.
#[derive(Debug, Args)]
pub(super) struct OfferedArgs {
    /// The site that hosts read: refuse if its head or a release would stop verifying
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Accept that what --site finds stops verifying, as after the theft of a key
    #[arg(long, requires = "site")]
    cut_off: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl OfferedArgs {
    /// What the step cuts off; an error unless that is wanted.
    fn look(&self, cli: &Cli, old: &TrustRoot, new: &TrustRoot) -> anyhow::Result<Vec<CutOff>> {
        let Some(site) = &self.site else { return Ok(Vec::new()) };
        Ok(cut_off(&self.store.open(site)?, old, new, &shown(cli)).map_err(TrustError::from)?)
    }
}

/// What a step came to, for programs.
#[derive(Debug, serde::Serialize)]
struct Step<'a> {
    file: &'a Path,
    written: bool,
    version: u64,
    #[serde(flatten)]
    transition: &'a Transition,
    cut_off: &'a [CutOff],
}

pub(super) fn trust(cli: &Cli, keyring: &mut Keyring, command: &Trust) -> anyhow::Result<()> {
    match command {
        Trust::Init(args) => init(cli, keyring, args),
        Trust::Edit(args) => edited(cli, keyring, args),
        Trust::Diff { old, new, site } => {
            let (before, after) = (trust_cmd::read(old)?, trust_cmd::read(new)?);
            let transition = transition::between(&before, &after);
            let cut_off = site.look(cli, &before, &after)?;
            let step =
                Step { file: new, written: false, version: after.version, transition: &transition, cut_off: &cut_off };
            print(cli, &step, || text(&step));
            judge(&transition, &cut_off, site.cut_off)
        }
        Trust::Show { file } => {
            let root = trust_cmd::read(file)?;
            let value: serde_json::Value = serde_json::from_slice(&root.encode())?;
            print(cli, &value, || trust_cmd::describe(&root));
            Ok(())
        }
    }
}

fn init(cli: &Cli, keyring: &mut Keyring, args: &TrustInit) -> anyhow::Result<()> {
    let new = NewRoot {
        registry: args.registry.clone(),
        version: args.version,
        epoch: args.epoch,
        minimum_head: args.minimum_head,
        head: args.head_key.clone(),
        head_threshold: args.head_threshold,
        release: args.release_key.clone(),
        release_threshold: args.release_threshold,
    };
    let root = trust_cmd::init(keyring, new, &args.out, args.force)?;
    let facts = json!({"file": args.out, "registry": root.registry, "version": root.version});
    print(cli, &facts, || trust_cmd::describe(&root));
    if !cli.json {
        tell!(
            "Wrote {}. Next: put it on each host as /etc/mcpfs/trust.json, owned by root and writable by nobody \
             else, by package or configuration management; then publish: mcpfs-signer release servers/NAME.yaml \
             --site DIR --trust {}",
            args.out.display(),
            args.out.display()
        );
    }
    Ok(())
}

fn edited(cli: &Cli, keyring: &mut Keyring, args: &TrustEdit) -> anyhow::Result<()> {
    if args.within.is_some() && args.add_release_key.is_empty() && args.release_threshold.is_none() {
        let problem = "--in says where --add-release-key and --release-threshold count; neither is given";
        return Err(Usage(problem.to_owned()).into());
    }
    let wanted = Edit {
        scopes: args.scope.clone(),
        remove_scopes: args.remove_scope.clone(),
        add_head: args.add_head_key.clone(),
        add_release: args.add_release_key.clone(),
        remove: args.remove_key.clone(),
        head_threshold: args.head_threshold,
        release_threshold: args.release_threshold,
        within: args.within.clone(),
        comment: args.comment.clone(),
        raise_epoch: args.raise_epoch,
        minimum_head: args.minimum_head,
        version: args.to_version,
    };
    let out = args.out.as_deref().unwrap_or(&args.file);
    let done = match edit::edit(keyring, &args.file, &wanted) {
        Err(TrustError::Unsafe { problems }) if cli.json => {
            let transition = Transition { problems, ..Transition::default() };
            let version = trust_cmd::read(&args.file)?.version;
            let step = Step { file: out, written: false, version, transition: &transition, cut_off: &[] };
            print(cli, &step, String::new);
            return judge(&transition, &[], false);
        }
        other => other?,
    };
    let cut_off = args.site.look(cli, &done.before, &done.after)?;
    let refused = !cut_off.is_empty() && !args.site.cut_off;
    let written = !args.dry_run && !refused && done.changes();
    if written {
        done.write(&args.file, out)?;
    }
    let step =
        Step { file: out, written, version: done.after.version, transition: &done.transition, cut_off: &cut_off };
    print(cli, &step, || text(&step));
    judge(&done.transition, &cut_off, args.site.cut_off)?;
    if written && !cli.json {
        tell!(
            "Wrote {}. Next: roll it out to each host as /etc/mcpfs/trust.json; mcpfs takes it up at once",
            out.display()
        );
    }
    Ok(())
}

/// The step's own verdict.
fn judge(transition: &Transition, cut_off: &[CutOff], wanted: bool) -> anyhow::Result<()> {
    if !transition.problems.is_empty() {
        return Err(TrustError::Unsafe { problems: transition.problems.clone() }.into());
    }
    match cut_off.is_empty() || wanted {
        true => Ok(()),
        false => Err(TrustError::CutOff { cut_off: cut_off.to_vec() }.into()),
    }
}

fn text(step: &Step<'_>) -> String {
    if step.transition.changes.is_empty() {
        return format!("nothing changes: version {}\n", step.version);
    }
    let mut text: String = step.transition.changes.iter().map(|line| format!("{line}\n")).collect();
    for note in &step.transition.notes {
        text.push_str(&format!("note          {note}\n"));
    }
    for cut_off in step.cut_off {
        text.push_str(&format!("cut off       {cut_off}\n"));
    }
    text
}

/// What stands on one line of `trust show`.
fn comment(text: &str) -> Result<String, String> {
    match text.trim().is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
        true => Err("a comment is one line of 1 to 200 bytes".to_owned()),
        false => Ok(text.to_owned()),
    }
}
