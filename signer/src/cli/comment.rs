//! `comment`: the check's result, where reviewers read it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::options::Usage;
use super::{Cli, print};
use crate::files;
use crate::forge::{Api, Forge, Kind, Token};
use crate::secret;

/// The first line of our comments, by which they are found again.
const MARKER: &str = "<!-- mcpfs-signer check -->";
/// Longest comment, bytes: GitHub takes 65,536 characters.
const BYTES: u64 = 256 << 10;

#[derive(Debug, Args)]
pub(super) struct Comment {
    /// The comment's text, as `check --format markdown --out` writes it
    file: PathBuf,
    /// Whose API it is
    #[arg(long)]
    forge: Kind,
    /// The API's address, such as https://api.github.com
    #[arg(long, value_name = "URL")]
    api: String,
    /// The repository, such as acme/mcp-registry
    #[arg(long, value_name = "NAME")]
    repository: String,
    /// The request's number
    #[arg(long, value_name = "NUMBER")]
    request: u64,
    /// The file with the token; else it is in the variable MCPFS_FORGE_TOKEN, as CI systems give it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A further certificate authority (PEM)
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

pub(super) fn comment(cli: &Cli, args: &Comment) -> anyhow::Result<()> {
    let token = match &args.token_file {
        Some(file) => secret::read_line(file, 1_024)?,
        None => std::env::var("MCPFS_FORGE_TOKEN")
            .ok()
            .filter(|token| !token.is_empty())
            .ok_or_else(|| Usage("no token: name its file with --token-file, or set MCPFS_FORGE_TOKEN".to_owned()))?,
    };
    let bytes = files::read_bounded(&args.file, BYTES)?;
    let text = String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", args.file.display()))?;
    let authorities =
        args.ca_file.iter().map(|file| files::read_bounded(file, 1 << 20)).collect::<Result<Vec<_>, _>>()?;
    let api = Api::new(args.forge, &args.api, Some(&Token::new(token)), &authorities)?;
    let done = Forge::new(args.forge, api, &args.repository).comment(args.request, MARKER, &text)?;
    let facts = serde_json::json!({"comment": done, "request": args.request});
    print(cli, &facts, || format!("commented  request {} of {}\n", args.request, args.repository));
    Ok(())
}
