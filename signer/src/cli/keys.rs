//! `keys` and `trust`: what signs, and what hosts believe.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use mcpfs_trust::key::Algorithm;
use mcpfs_trust::name::RegistryName;
use serde_json::json;

use super::{Cli, print};
use crate::key::{KeyError, KeyUri, Keyring};
use crate::trust_cmd::{self, KeyFacts, NewRoot};

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make a key in a token: sensitive, never extractable
    Generate {
        #[command(flatten)]
        key: KeyArg,
        /// The key's label, if the URI has no object=
        #[arg(long)]
        label: Option<String>,
        /// What it signs with: ed25519, or ecdsa-p256 where a token has only that, as TPMs do
        #[arg(long, default_value = "ed25519", value_parser = algorithm)]
        algorithm: Algorithm,
    },
    /// List the keys of a token: label, id, algorithm, public key, and whether it can be read
    List {
        /// 'pkcs11:token=LABEL?module-path=FILE'; object= or id= list only what they name
        #[arg(long = "token", value_name = "URI")]
        uri: String,
    },
    /// Open a key, check what its token or KMS promises about it, and show its public half
    Show(KeyArg),
    /// Try to get the private key out of the token; fails if the token lets it
    Prove(KeyArg),
}

#[derive(Debug, Args)]
pub(super) struct KeyArg {
    /// 'pkcs11:token=LABEL;object=LABEL?module-path=FILE' (RFC 7512), or for `show` also
    /// 'awskms:///alias/NAME?region=REGION'
    // Not parsed by clap, which would echo a PIN that somebody put into it.
    #[arg(long = "key", value_name = "URI")]
    uri: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Trust {
    /// Write the trust root of a new registry
    Init(TrustInit),
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

pub(super) fn keys(cli: &Cli, keyring: &mut Keyring, command: &Keys) -> anyhow::Result<()> {
    match command {
        Keys::Generate { key, label, algorithm } => {
            let uri = labelled(key.uri.parse()?, label.as_deref())?;
            let facts = trust_cmd::generate(keyring, &uri, *algorithm)?;
            print_key(cli, &facts);
            if !cli.json {
                tell!("Next: mcpfs-signer keys prove --key '{uri}', then mcpfs-signer trust init");
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

fn algorithm(name: &str) -> Result<Algorithm, String> {
    let known = || Algorithm::ALL.map(Algorithm::as_str).join(" or ");
    Algorithm::ALL.into_iter().find(|one| one.as_str() == name).ok_or_else(|| format!("it is {}", known()))
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

pub(super) fn trust(cli: &Cli, keyring: &mut Keyring, command: &Trust) -> anyhow::Result<()> {
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
                tell!(
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
