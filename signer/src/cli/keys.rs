//! `keys`: what signs.

use clap::{Args, Subcommand};
use mcpfs_trust::key::Algorithm;
use serde_json::json;

use super::{Cli, print};
use crate::key::{KeyError, KeyUri, Keyring};
use crate::trust_cmd::{self, KeyFacts};

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
