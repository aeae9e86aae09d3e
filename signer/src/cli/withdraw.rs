//! `yank` and `revoke`: shown first, since neither is taken back, and done with `--publish`.
//!
//! Whoever is called at night types one line, reads what it will do, and adds one word. The head key alone
//! signs it; no recipe, review, check or release key is asked, and no other release waits for it.

use clap::Args;
use mcpfs_trust::entry::Status;
use serde::Serialize;

use super::change::at_site;
use super::options::{SiteArgs, Usage, name_and_version};
use super::publish::print_outcome;
use super::{Cli, print};
use crate::key::Keyring;
use crate::revoke::{self, Prospect};
use crate::site::SiteError;

#[derive(Debug, Args)]
pub(super) struct Withdraw {
    /// NAME@VERSION
    release: String,
    /// Why, in one line; every host shows it
    #[arg(long, value_parser = one_line)]
    reason: String,
    /// Sign and publish the head with it now. Without this it is only shown, and the exit code is 1
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    site: SiteArgs,
}

/// Nothing was asked to be published, so nothing is withdrawn: no success for a script that believes so.
#[derive(Debug, thiserror::Error)]
#[error("nothing is withdrawn yet, and this cannot be taken back: if it is right, say it again with --publish")]
struct NotPublished;

#[derive(Debug, Serialize)]
struct Shown {
    published: bool,
    #[serde(flatten)]
    prospect: Prospect,
}

pub(super) fn withdraw(cli: &Cli, keyring: &mut Keyring, args: &Withdraw, status: Status) -> anyhow::Result<()> {
    let (name, version) = name_and_version(&args.release)?;
    let version = version.ok_or_else(|| Usage(format!("{:?} names no version; write NAME@VERSION", args.release)))?;
    let action = if status == Status::Revoked { "revoke" } else { "yank" };
    at_site(cli, keyring, &args.site, action, &args.release, |_, publisher| {
        if args.publish {
            print_outcome(cli, &revoke::withdraw(publisher, &name, &version, status, &args.reason)?);
        } else {
            let prospect = revoke::prospect(publisher, &name, &version, status)?;
            print(cli, &Shown { published: false, prospect: prospect.clone() }, || text(&prospect, status));
        }
        Ok(())
    })?;
    if args.publish { Ok(()) } else { Err(NotPublished.into()) }
}

fn text(prospect: &Prospect, status: Status) -> String {
    let Prospect { name, version, now, selected, usable, .. } = prospect;
    let (action, hosts) = match status {
        Status::Revoked => ("revoke    ", "refuse each new open of it, pinned or not; what is open stays open"),
        _ => ("yank      ", "use it only where it is pinned, with a warning"),
    };
    let start = match selected {
        true => "nothing: it is the selected release, and no other is started until one is released".to_owned(),
        false => format!("{}, as before", prospect.starts),
    };
    let others = if usable.is_empty() { "none".to_owned() } else { usable.join(", ") };
    format!(
        "{action} {name} {version}, which is {now} now\nhosts      {hosts}\nstart      {start}\nothers     {others}\n"
    )
}

/// What hosts show on a line of its own.
fn one_line(text: &str) -> Result<String, SiteError> {
    revoke::check_reason(text).map(|()| text.to_owned())
}
