//! The command line: arguments in, one call, a summary out.
//!
//! The summary goes to stdout (`--json` for programs), steps and errors to stderr.

mod bundle;
mod change;
mod check;
mod comment;
mod countersign;
mod deps;
mod gc;
mod init;
mod inspect;
mod keys;
mod options;
mod pages;
mod promote;
mod publish;
mod rebuild;
mod serve;
mod source;
mod transfer;
mod trial;
mod trust;
mod tryout;
mod withdraw;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mcpfs_trust::entry::Status;
use mcpfs_trust::error::VerifyError;
use serde::Serialize;

use crate::forge::ForgeError;
use crate::init::InitError;
use crate::key::awskms::KmsError;
use crate::key::{KeyError, Keyring};
use crate::mirror::GitError;
use crate::pin::Pins;
use crate::policy;
use crate::rebuild::RebuildError;
use crate::release::ReleaseError;
use crate::secret;
use crate::serve::ServeError;
use crate::sign::SignError;
use crate::site::{SiteError, StoreError};
use crate::trust_cmd::TrustError;

/// Turns reviewed recipes into a signed static registry, with keys that never leave their token or KMS.
#[derive(Debug, Parser)]
#[command(name = "mcpfs-signer", version, max_term_width = 100)]
#[command(after_help = "\
The whole way:
  mcpfs-signer keys generate --key 'pkcs11:token=mcpfs;object=head?module-path=MODULE'
  mcpfs-signer keys generate --key 'pkcs11:token=mcpfs;object=release?module-path=MODULE'
  mcpfs-signer trust init --registry mcp.example.com/prod --head-key URI --release-key URI
  mcpfs-signer release servers/NAME.yaml --site DIR --trust trust.json --head-key URI --key URI

A key in AWS KMS is 'awskms:///alias/NAME?region=REGION', wherever a key's URI stands. Its AWS
credentials come from the systemd credential mcpfs-kms, AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, the profile in ~/.aws, or the machine's own identity.

A PIN comes from the systemd credential mcpfs-pin, the file that MCPFS_PIN_FILE names, or a
question on the terminal; never from an argument.

Exit codes: 0 done, 1 refused, 2 wrong usage, 3 unreachable, 4 something does not verify.")]
struct Cli {
    /// Print the result as one JSON value
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make and show signing keys in PKCS#11 tokens; show keys in AWS KMS
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Make, change, compare and show trust roots, the file that hosts believe
    #[command(subcommand)]
    Trust(trust::Trust),
    /// Write a first recipe from an artefact: digest, name, version and launch are filled in
    Init(init::Init),
    /// Check a recipe: its fields, its artefact, what is in it, and how that is started
    Check(check::Check),
    /// Show a server on this machine: demo key, site, mount, and MCP spoken to it from the mount
    Try(tryout::Try),
    /// Write a folder, a package of npm or PyPI, or a git tag as a .tar that has the same digest everywhere
    Bundle(bundle::Bundle),
    /// Check, sign and publish a recipe: the whole way
    Release(publish::ReleaseArgs),
    /// Publish what `check --staging` left, or sign the head again (daily)
    Publish(publish::PublishArgs),
    /// Withdraw a release, except where a host pins it; final
    Yank(withdraw::Withdraw),
    /// Withdraw a release everywhere, also where it is pinned; final
    Revoke(withdraw::Withdraw),
    /// Add signatures of further keys to published releases; what they say does not change
    Countersign(countersign::Countersign),
    /// Publish a release of another registry's site here, by this registry's rules
    Promote(promote::Promote),
    /// Remove from a site what no host can ask for any more
    Gc(gc::Gc),
    /// Make a lost site again from git, artefacts and the signing log
    Rebuild(rebuild::Rebuild),
    /// Write a site as one file, for a network that is not connected
    BundleSite(transfer::BundleSite),
    /// Take a site's file in, verified before its head moves
    UnbundleSite(transfer::UnbundleSite),
    /// Watch a protected branch, and sign and publish what is approved on it
    Serve(serve::Serve),
    /// Write a check's result on a pull request, or what was written before anew
    Comment(comment::Comment),
    /// Show what a site says, verified on the way
    Inspect(inspect::Inspect),
    /// Write a site's pages for people and IDEs again; every publish keeps them up to date
    Pages(pages::Pages),
    /// Find the servers of a site that carry a package
    Deps(deps::Deps),
    /// Print a JSON Schema, for editors
    Schema {
        /// Of which file
        #[arg(value_enum, default_value = "recipe")]
        of: SchemaOf,
    },
}

/// The files that have a JSON Schema.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SchemaOf {
    /// servers/NAME.yaml
    Recipe,
    /// policy.yaml
    Policy,
    /// waivers.yaml
    Waivers,
    /// What `check --json` prints
    Report,
}

/// The command line as a tree, for man pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Tokens' modules are asked for mechanisms that they need not have, and the library calls that errors.
    let default = || tracing_subscriber::EnvFilter::new("error,cryptoki=off");
    let filter = tracing_subscriber::EnvFilter::try_from_env("MCPFS_LOG").unwrap_or_else(|_| default());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(crate::progress::Progress::may_colour())
        .with_env_filter(filter)
        .without_time()
        .init();
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // Which repeats what was typed.
        let said = error.to_string();
        if secret::has_login(&said) {
            tell!("{}", said.trim_end());
            std::process::exit(error.exit_code());
        }
        error.exit()
    });
    if let Err(error) = crate::descriptors::close_on_exec() {
        tell!("mcpfs-signer: cannot keep open files from the programs it starts: {error}; is /proc mounted?");
        return ExitCode::from(1);
    }
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell!("mcpfs-signer: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let mut keyring = Keyring::new(Pins::from_environment());
    match &cli.command {
        Command::Keys(command) => keys::keys(cli, &mut keyring, command),
        Command::Trust(command) => trust::trust(cli, &mut keyring, command),
        Command::Init(args) => init::init(cli, args),
        Command::Check(args) => check::check(cli, args),
        Command::Try(args) => tryout::try_out(cli, args),
        Command::Bundle(args) => bundle::bundle(cli, args),
        Command::Release(args) => publish::release(cli, &mut keyring, args),
        Command::Publish(args) => publish::publish(cli, &mut keyring, args),
        Command::Yank(args) => withdraw::withdraw(cli, &mut keyring, args, Status::Yanked),
        Command::Revoke(args) => withdraw::withdraw(cli, &mut keyring, args, Status::Revoked),
        Command::Countersign(args) => countersign::run(cli, &mut keyring, args),
        Command::Promote(args) => promote::promote(cli, &mut keyring, args),
        Command::Gc(args) => gc::gc(cli, args),
        Command::Rebuild(args) => rebuild::rebuild(cli, &mut keyring, args),
        Command::BundleSite(args) => transfer::bundle(cli, args),
        Command::UnbundleSite(args) => transfer::unbundle(cli, args),
        Command::Serve(args) => serve::serve(cli, args),
        Command::Comment(args) => comment::comment(cli, args),
        Command::Inspect(args) => inspect::inspect(cli, args),
        Command::Pages(args) => pages::pages(cli, args),
        Command::Deps(args) => deps::deps(cli, args),
        Command::Schema { of } => {
            print_text(&match of {
                SchemaOf::Recipe => crate::recipe::json_schema(),
                SchemaOf::Policy => policy::json_schema::<policy::Policy>(),
                SchemaOf::Waivers => policy::json_schema::<policy::Waivers>(),
                SchemaOf::Report => policy::json_schema::<crate::check::report::Report<'_>>(),
            });
            Ok(())
        }
    }
}

/// The result: for programs as one JSON value, else for people.
fn print(cli: &Cli, value: &impl Serialize, text: impl FnOnce() -> String) {
    let text = match serde_json::to_string(value) {
        Ok(json) if cli.json => format!("{json}\n"),
        _ => text(),
    };
    print_text(&text);
}

fn print_text(text: &str) {
    // A reader that went away (`| head`) is not this command's failure: its work is done.
    let _ = std::io::stdout().write_all(secret::without_logins(text).as_bytes());
}

/// The exit code that fits an error: 1 refused, 2 usage, 3 unreachable, 4 integrity.
fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(code) = key_error(cause).and_then(key_code) {
            return code;
        }
        if let Some(error) = cause.downcast_ref::<TrustError>() {
            return match error {
                TrustError::NotAKey(_)
                | TrustError::NoSuchKey(_)
                | TrustError::NoScope { .. }
                | TrustError::WhichGroup { .. } => 2,
                TrustError::Site(error) => site_code(error).unwrap_or(1),
                _ => 1,
            };
        }
        if cause.is::<options::Usage>() || cause.downcast_ref().is_some_and(InitError::is_usage) {
            return 2;
        }
        if matches!(cause.downcast_ref(), Some(ServeError::Config(_) | ServeError::Forge(_)))
            || matches!(cause.downcast_ref(), Some(ForgeError::BadAddress(_)))
        {
            return 2;
        }
        if matches!(cause.downcast_ref(), Some(ForgeError::Unreachable(_) | ForgeError::RateLimited { .. }))
            || cause.is::<GitError>()
        {
            return 3;
        }
        if let Some(code) = site_error(cause).and_then(site_code) {
            return code;
        }
        if cause.is::<VerifyError>() {
            return 4;
        }
    }
    1
}

/// A key's error, by itself or within those that say nothing more.
fn key_error<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e KeyError> {
    if let Some(TrustError::Key(error)) = cause.downcast_ref() {
        return Some(error);
    }
    let sign = match site_error(cause) {
        Some(SiteError::Sign(error)) => Some(error),
        _ => cause.downcast_ref(),
    };
    match sign {
        Some(SignError::Key(error)) => Some(error),
        _ => cause.downcast_ref(),
    }
}

fn key_code(error: &KeyError) -> Option<u8> {
    match error {
        KeyError::BadUri { .. } => Some(2),
        KeyError::Kms(KmsError::Unreachable { .. }) => Some(3),
        KeyError::SelfVerifyFailed { .. } => Some(4),
        _ => None,
    }
}

/// A site's error, by itself or within one that says nothing more.
fn site_error<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e SiteError> {
    match cause.downcast_ref() {
        Some(ReleaseError::Site(error)) => Some(error),
        _ => match cause.downcast_ref() {
            Some(RebuildError::Site(error)) => Some(error),
            _ => cause.downcast_ref(),
        },
    }
}

fn site_code(error: &SiteError) -> Option<u8> {
    match error {
        SiteError::Store(StoreError::Unreachable { .. }) => Some(3),
        SiteError::Pages { source } => site_code(source),
        SiteError::Verify { .. }
        | SiteError::Damaged { .. }
        | SiteError::SetBack { .. }
        | SiteError::Forked { .. }
        | SiteError::ReadBack { .. }
        | SiteError::Log { .. }
        | SiteError::OtherTree { .. } => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod templates;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
    }
}
