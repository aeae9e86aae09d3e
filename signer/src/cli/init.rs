//! `init`: a first recipe from a source.

use std::path::{Path, PathBuf};

use clap::Args;
use mcpfs_trust::name::ServerName;
use serde_json::json;

use super::options::{FetchArgs, Usage, options};
use super::{Cli, print};
use crate::init::{self, Source};
use crate::pack::KnownChunks;
use crate::{files, recipe::Recipe};

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The server's name [default: the artefact's own, made to fit]
    name: Option<ServerName>,
    /// An archive, a folder, or an address such as https://…
    #[arg(long, value_name = "SOURCE")]
    from: String,
    /// The recipe to write; it must be called NAME.yaml [default: servers/NAME.yaml]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace a recipe that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    fetch: FetchArgs,
}

pub(super) fn init(cli: &Cli, args: &Init) -> anyhow::Result<()> {
    let fetch = options(&args.fetch, None, KnownChunks::none())?.fetch;
    let source = Source::parse(&args.from, fetch.file_root.as_deref())?;
    let draft = init::draft(args.name.as_ref(), &source, &fetch)?;
    let yaml = draft.yaml();
    let name = format!("{}.yaml", draft.name);
    let out = args.out.clone().unwrap_or_else(|| Path::new("servers").join(&name));
    if out.file_name().is_none_or(|own| own != name.as_str()) {
        return Err(Usage(format!("--out must end in {name}: a recipe is called by its server's name")).into());
    }
    let there = match files::read_bounded(&out, Recipe::BYTES as u64) {
        Ok(there) => Some(there),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error.into()),
    };
    let same = there.as_deref() == Some(yaml.as_bytes());
    if there.is_some() && !same && !args.force {
        anyhow::bail!("{} is there already and says something else: --force replaces it", out.display());
    }
    if !same {
        files::write_durably(&out, yaml.as_bytes(), true)?;
    }
    let open = init::open_lines(&yaml);
    let guessed = init::guessed_lines(&yaml);
    let value = json!({
        "file": out, "name": draft.name, "sha256": draft.sha256, "changed": !same, "open": open, "guessed": guessed,
        "remarks": draft.guesses.remarks,
    });
    print(cli, &value, || {
        let what = if same { "unchanged" } else { "wrote" };
        let lines: Vec<String> = open.iter().map(usize::to_string).collect();
        let mut text = format!("{what}   {}\nsha256  {}\n", out.display(), draft.sha256);
        for remark in &draft.guesses.remarks {
            text.push_str(&format!("note    {remark}\n"));
        }
        if !lines.is_empty() {
            text.push_str(&format!("fill in lines {} (marked FILL IN)\n", lines.join(", ")));
        }
        let root = match &source.file_root {
            Some(root) => format!(" --file-root {}", root.display()),
            None => String::new(),
        };
        text.push_str(&format!(
            "look at {guessed} guesses (marked guessed), then:\n  mcpfs-signer check {0} --run{root}\n  mcpfs-signer try {0}{root}\n",
            out.display()
        ));
        text
    });
    Ok(())
}
