//! The command line: arguments in, one call, a summary out.
//!
//! The summary goes to stdout (`--json` for programs), steps and errors to stderr.

mod publish;

use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mcpfs_trust::entry::Status;
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::name::RegistryName;
use serde::Serialize;
use serde_json::json;

use crate::key::{KeyError, KeyUri, Keyring};
use crate::pin::Pins;
use crate::policy;
use crate::site::SiteError;
use crate::trust_cmd::{self, KeyFacts, NewRoot, TrustError};

/// Turns reviewed recipes into a signed static registry, with keys that never leave their token.
#[derive(Debug, Parser)]
#[command(name = "mcpfs-signer", version, max_term_width = 100)]
#[command(after_help = "\
The whole way:
  mcpfs-signer keys generate --key 'pkcs11:token=mcpfs;object=head?module-path=MODULE'
  mcpfs-signer keys generate --key 'pkcs11:token=mcpfs;object=release?module-path=MODULE'
  mcpfs-signer trust init --registry mcp.example.com/prod --head-key URI --release-key URI
  mcpfs-signer release servers/NAME.yaml --site DIR --trust trust.json --head-key URI --key URI

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
    /// Make and show signing keys in PKCS#11 tokens
    #[command(subcommand)]
    Keys(Keys),
    /// Make and show trust roots, the file that hosts believe
    #[command(subcommand)]
    Trust(Trust),
    /// Check a recipe: its fields, its artefact, what is in it, and how that is started
    Check(publish::Check),
    /// Write a folder as a .tar that has the same digest everywhere
    Bundle(publish::Bundle),
    /// Check, sign and publish a recipe: the whole way
    Release(publish::ReleaseArgs),
    /// Publish what `check --staging` left, or sign the head again (daily)
    Publish(publish::PublishArgs),
    /// Withdraw a release, except where a host pins it; final
    Yank(publish::Withdraw),
    /// Withdraw a release everywhere, also where it is pinned; final
    Revoke(publish::Withdraw),
    /// Show what a site says, verified on the way
    Inspect(publish::Inspect),
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
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// Make an Ed25519 key in a token: sensitive, never extractable
    Generate {
        #[command(flatten)]
        key: KeyArg,
        /// The key's label, if the URI has no object=
        #[arg(long)]
        label: Option<String>,
    },
    /// List the keys of a token: label, id, algorithm, public key, and whether it can be read
    List {
        /// 'pkcs11:token=LABEL?module-path=FILE'; object= or id= list only what they name
        #[arg(long = "token", value_name = "URI")]
        uri: String,
    },
    /// Open a key, check what the token promises about it, and show its public half
    Show(KeyArg),
    /// Try to get the private key out of the token; fails if the token lets it
    Prove(KeyArg),
}

#[derive(Debug, Args)]
struct KeyArg {
    /// 'pkcs11:token=LABEL;object=LABEL?module-path=FILE' (RFC 7512)
    // Not parsed by clap, which would echo a PIN that somebody put into it.
    #[arg(long = "key", value_name = "URI")]
    uri: String,
}

#[derive(Debug, Subcommand)]
enum Trust {
    /// Write the trust root of a new registry
    Init(TrustInit),
    /// Check a trust root and show it
    Show {
        /// The trust root
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct TrustInit {
    /// The registry's name, such as mcp.example.com/prod
    #[arg(long)]
    registry: RegistryName,
    /// A key that signs heads: its URI, or the base64 of its public half; may be repeated
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

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("MCPFS_LOG"))
        .without_time()
        .init();
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mcpfs-signer: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let mut keyring = Keyring::new(Pins::from_environment());
    match &cli.command {
        Command::Keys(command) => keys(cli, &mut keyring, command),
        Command::Trust(command) => trust(cli, &mut keyring, command),
        Command::Check(args) => publish::check(cli, args),
        Command::Bundle(args) => publish::bundle(cli, args),
        Command::Release(args) => publish::release(cli, &mut keyring, args),
        Command::Publish(args) => publish::publish(cli, &mut keyring, args),
        Command::Yank(args) => publish::withdraw(cli, &mut keyring, args, Status::Yanked),
        Command::Revoke(args) => publish::withdraw(cli, &mut keyring, args, Status::Revoked),
        Command::Inspect(args) => publish::inspect(cli, args),
        Command::Schema { of } => {
            print_text(&match of {
                SchemaOf::Recipe => crate::recipe::json_schema(),
                SchemaOf::Policy => policy::json_schema::<policy::Policy>(),
                SchemaOf::Waivers => policy::json_schema::<policy::Waivers>(),
            });
            Ok(())
        }
    }
}

fn keys(cli: &Cli, keyring: &mut Keyring, command: &Keys) -> anyhow::Result<()> {
    match command {
        Keys::Generate { key, label } => {
            let uri = labelled(key.uri.parse()?, label.as_deref())?;
            let facts = trust_cmd::generate(keyring, &uri)?;
            print_key(cli, &facts);
            if !cli.json {
                eprintln!("Next: mcpfs-signer keys prove --key '{uri}', then mcpfs-signer trust init");
            }
        }
        Keys::List { uri } => {
            let listed = trust_cmd::list(keyring, &uri.parse()?)?;
            print(cli, &listed, || trust_cmd::table(&listed));
        }
        Keys::Show(key) => print_key(cli, &trust_cmd::show(keyring, &key.uri.parse()?)?),
        Keys::Prove(key) => {
            let refusals = trust_cmd::prove(keyring, &key.uri.parse()?)?;
            print(cli, &json!({"read": refusals.read, "make_extractable": refusals.unlock}), || {
                format!(
                    "refused by the token, as it must be:\n  read the private value   {}\n  make it extractable      {}\n",
                    refusals.read, refusals.unlock
                )
            });
        }
    }
    Ok(())
}

fn labelled(uri: KeyUri, label: Option<&str>) -> Result<KeyUri, KeyError> {
    match (uri, label) {
        (KeyUri::Pkcs11(mut uri), Some(label)) => {
            if uri.object.as_deref().is_some_and(|object| object != label) {
                let problem = format!("its object= is not the --label {label:?}");
                return Err(KeyError::BadUri { uri: uri.to_string(), problem });
            }
            uri.object = Some(label.to_owned());
            Ok(KeyUri::Pkcs11(uri))
        }
        (uri, _) => Ok(uri),
    }
}

fn print_key(cli: &Cli, facts: &KeyFacts) {
    print(cli, facts, || {
        format!(
            "key        {}\nid         {}\nalgorithm  {}\npublic     {}\n{}",
            facts.uri, facts.id, facts.algorithm, facts.public, facts.pem
        )
    });
}

fn trust(cli: &Cli, keyring: &mut Keyring, command: &Trust) -> anyhow::Result<()> {
    match command {
        Trust::Init(args) => {
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
                eprintln!(
                    "Wrote {}. Next: put it on each host as /etc/mcpfs/trust.json, owned by root and writable by nobody \
                     else, by package or configuration management; then publish: mcpfs-signer release servers/NAME.yaml \
                     --site DIR --trust {}",
                    args.out.display(),
                    args.out.display()
                );
            }
        }
        Trust::Show { file } => {
            let root = trust_cmd::read(file)?;
            let value: serde_json::Value = serde_json::from_slice(&root.encode())?;
            print(cli, &value, || trust_cmd::describe(&root));
        }
    }
    Ok(())
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
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The exit code that fits an error: 1 refused, 2 usage, 4 integrity.
fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<TrustError>() {
            return if matches!(error, TrustError::NotAKey(_) | TrustError::Key(KeyError::BadUri { .. })) {
                2
            } else {
                1
            };
        }
        if matches!(cause.downcast_ref(), Some(KeyError::BadUri { .. })) || cause.is::<publish::Usage>() {
            return 2;
        }
        let integrity = matches!(cause.downcast_ref(), Some(KeyError::SelfVerifyFailed { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(SiteError::Damaged { .. } | SiteError::SetBack { .. } | SiteError::Forked { .. })
            )
            || cause.is::<VerifyError>();
        if integrity {
            return 4;
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
