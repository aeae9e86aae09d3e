//! `init`: a first recipe from a source.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use mcpfs_trust::name::ServerName;
use serde_json::json;

use super::options::{FetchArgs, Usage};
use super::source::{SourceArgs, allow_typed, options_for};
use super::{Cli, print};
use crate::init::{self, Source};
use crate::{bundle, files};

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The server's name [default: the artefact's own, made to fit]
    name: Option<ServerName>,
    /// An archive, a folder, or an address: https://…, npm:NAME@VERSION, pypi:NAME==VERSION,
    /// git+https://HOST/REPOSITORY#TAG, git+file:PATH#TAG, oci:HOST/NAME:TAG, oci:HOST/NAME@sha256:…
    #[arg(long, value_name = "SOURCE")]
    from: String,
    /// The recipe to write; it must be called NAME.yaml [default: servers/NAME.yaml]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace a recipe that is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    fetch: FetchArgs,
}

pub(super) fn init(cli: &Cli, args: &Init) -> anyhow::Result<()> {
    let mut fetch = args.fetch.policy(cli)?;
    let source = Source::parse(&args.from, fetch.file_root.as_deref())?;
    allow_typed(&mut fetch, &source.url);
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let draft = init::draft(args.name.as_ref(), &source, &args.source.wanted()?, &fetch, folder.path())?;
    let yaml = draft.yaml();
    let name = format!("{}.yaml", draft.name);
    let out = args.out.clone().unwrap_or_else(|| Path::new("servers").join(&name));
    if out.file_name().is_none_or(|own| own != name.as_str()) {
        return Err(Usage(format!("--out must end in {name}: a recipe is called by its server's name")).into());
    }
    let lock = draft.source.inputs.lock.as_ref().zip(draft.lock.as_ref());
    let lock = lock.map(|(name, text)| (out.with_file_name(name), text));
    // Both are looked at before either is written.
    let same = is_there(&out, yaml.as_bytes(), args.force)?;
    let same_lock = lock.as_ref().map(|(path, text)| is_there(path, text.as_bytes(), args.force)).transpose()?;
    if let (Some((path, text)), Some(false)) = (&lock, same_lock) {
        files::write_durably(path, text.as_bytes(), true)?;
    }
    if !same {
        files::write_durably(&out, yaml.as_bytes(), true)?;
    }
    let changed = !same || same_lock == Some(false);
    let open = init::open_lines(&yaml);
    let guessed = init::guessed_lines(&yaml);
    let value = json!({
        "file": out, "name": draft.name, "sha256": draft.source.sha256, "changed": changed, "url": draft.source.url,
        "lock": lock.as_ref().map(|(path, _)| path), "open": open, "guessed": guessed,
        "remarks": draft.guesses.remarks,
    });
    print(cli, &value, || {
        let what = if changed { "wrote" } else { "unchanged" };
        let lines: Vec<String> = open.iter().map(usize::to_string).collect();
        let mut text = format!("{what}   {}\nsha256  {}\n", out.display(), draft.source.sha256);
        if let Some((path, _)) = &lock {
            text.push_str(&format!("lock    {} (commit it with the recipe)\n", path.display()));
        }
        for remark in &draft.guesses.remarks {
            text.push_str(&format!("note    {remark}\n"));
        }
        if !lines.is_empty() {
            text.push_str(&format!("fill in lines {} (marked FILL IN)\n", lines.join(", ")));
        }
        let root = source.file_root.as_ref().filter(|_| draft.source.url.contains("file:"));
        let root = root.map(|root| format!(" --file-root {}", root.display())).unwrap_or_default();
        let from = root + &options_for(&fetch, &draft.source.url);
        text.push_str(&format!(
            "look at {guessed} guesses (marked guessed), then:\n  mcpfs-signer check {0} --run{from}\n  mcpfs-signer try {0}{from}\n",
            out.display()
        ));
        text
    });
    Ok(())
}

/// Whether a file says just this; one that says something else is in the way, unless it may go.
fn is_there(path: &Path, text: &[u8], force: bool) -> anyhow::Result<bool> {
    let there = match files::read_bounded(path, bundle::LOCK_BYTES) {
        Ok(there) => there,
        Err(error) if error.is_missing() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let same = there == text;
    anyhow::ensure!(same || force, "{} is there already and says something else: --force replaces it", path.display());
    Ok(same)
}
