//! `bundle`: a folder, a package or a commit as an artefact.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::Platform;
use serde_json::json;

use super::options::{FetchArgs, Usage};
use super::{Cli, print};
use crate::bundle::{self, Built, CommitId, Gathered, Order, PythonVersion, Source, SourceError};
use crate::check::dependencies;
use crate::fetch::FetchPolicy;
use crate::files::Hashing;
use crate::{fetch, files, launch, pack, unpack};

#[derive(Debug, Args)]
#[command(after_help = "\
Without --lock a package is resolved once; the lock is written beside the output, to be committed
beside the recipe. With it the same bytes come out again, here and elsewhere.")]
pub(super) struct Bundle {
    /// A folder, npm:NAME@VERSION, pypi:NAME==VERSION or git+https://HOST/REPOSITORY#TAG
    source: PathBuf,
    /// The .tar to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Of npm and PyPI: the lockfile (package-lock.json, or requirements.txt with hashes)
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Of git: the full id of the commit that the tag must point to
    #[arg(long, value_name = "ID")]
    commit: Option<CommitId>,
    /// Of git: fetch submodules too, from hosts that are allowed
    #[arg(long)]
    submodules: bool,
    /// Of git: fetch files of Git LFS too, from hosts that are allowed
    #[arg(long)]
    lfs: bool,
    /// Of npm and PyPI: where it is to run, any or such as linux/arm64 [default: this machine]
    #[arg(long)]
    platform: Option<Platform>,
    /// Of PyPI: the version of Python that it is for [default: that of python3 here]
    #[arg(long, value_name = "VERSION")]
    python: Option<PythonVersion>,
    /// Build once only, without comparing
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    fetch: FetchArgs,
}

pub(super) fn bundle(cli: &Cli, args: &Bundle) -> anyhow::Result<()> {
    let named = args.source.to_str().filter(|text| Source::is_one(text) && !args.source.exists());
    match named {
        Some(text) => source(cli, args, text, &text.parse().map_err(|error: SourceError| Usage(error.to_string()))?),
        None => folder(cli, args),
    }
}

fn folder(cli: &Cli, args: &Bundle) -> anyhow::Result<()> {
    let (mut bundled, mut sha256) = (Ok(()), Digest::EMPTY);
    files::put_durably(&args.out, true, |file| {
        let mut out = Hashing::new(io::BufWriter::new(file));
        bundled = fetch::bundle(&args.source, &mut out);
        if bundled.is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (mut out, found) = out.finish();
        sha256 = found;
        out.flush()
    })
    .or_else(|error| bundled.map_err(anyhow::Error::from).and(Err(error.into())))
    .with_context(|| not_written(&args.out))?;
    print(cli, &json!({"file": args.out, "sha256": sha256}), || format!("{sha256}  {}\n", args.out.display()));
    Ok(())
}

fn source(cli: &Cli, args: &Bundle, url: &str, source: &Source) -> anyhow::Result<()> {
    let mut policy = args.fetch.policy(cli)?;
    // Who types a registry's name here means it, and the operator's configuration says where it is. A host is
    // listed like anywhere else: an address that was pasted connects to nothing.
    policy.registries.extend(source.registry());
    let lock = match &args.lock {
        Some(path) => Some(String::from_utf8(files::read_bounded(path, bundle::LOCK_BYTES)?)?),
        None => None,
    };
    let new_lock = new_lock(args, source)?;
    let here = Platform::from_rust(std::env::consts::OS, std::env::consts::ARCH);
    let order = Order {
        source,
        platform: args.platform.as_ref().unwrap_or(&here),
        lock: lock.as_deref(),
        commit: args.commit.as_ref(),
        submodules: args.submodules,
        lfs: args.lfs,
        python: args.python,
    };
    let mut gathered = bundle::gather(&order, &policy)?;
    let made = make(&mut gathered, args, &policy).with_context(|| not_written(&args.out))?;
    files::put_durably(&args.out, true, |file| {
        io::copy(&mut File::open(&made.file)?, file)?;
        Ok(())
    })
    .with_context(|| not_written(&args.out))?;
    if let (Some(path), Some(text)) = (&new_lock, gathered.lock()) {
        files::write_durably(path, text.as_bytes(), false)?;
        tell!("lock       {} (commit it beside the recipe)", path.display());
    }
    for note in made.built.notes.iter().chain(&made.built.native) {
        tell!("note       {note}");
    }
    let platform = if made.is_native { order.platform.clone() } else { Platform::any() };
    let lock = args.lock.as_ref().or(new_lock.as_ref());
    let mut recipe = lines(url, &made, &gathered, lock.map(PathBuf::as_path), &platform);
    for (name, asked) in [("submodules", args.submodules), ("lfs", args.lfs)] {
        if asked {
            recipe.push_str(&format!("  {name}: true\n"));
        }
    }
    let json = json!({
        "file": args.out,
        "sha256": made.sha256,
        "url": url,
        "platform": platform,
        "lock": lock,
        "submodules": args.submodules,
        "lfs": args.lfs,
        "commit": gathered.commit().map(ToString::to_string),
        "python": gathered.python().map(|python| python.to_string()),
        "launch": made.built.launch,
        "native": made.built.native,
        "notes": made.built.notes,
    });
    print(cli, &json, || format!("{}  {}\n{recipe}", made.sha256, args.out.display()));
    Ok(())
}

/// Where the lock goes of what is resolved now: beside the output.
fn new_lock(args: &Bundle, source: &Source) -> anyhow::Result<Option<PathBuf>> {
    let ending = match source {
        Source::Npm(_) => "lock.json",
        Source::Pypi(_) => "lock.txt",
        Source::Git(_) => return Ok(None),
    };
    if args.lock.is_some() {
        return Ok(None);
    }
    let name = args.out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let path = args.out.with_file_name(format!("{}.{ending}", name.strip_suffix(".tar").unwrap_or(&name)));
    match path.exists() {
        false => Ok(Some(path)),
        true => anyhow::bail!(
            "{path} is there already: use it with --lock {path}, or remove it to resolve anew",
            path = path.display()
        ),
    }
}

/// A tar in a folder of its own.
struct Made {
    file: PathBuf,
    sha256: Digest,
    built: Built,
    is_native: bool,
    _folder: tempfile::TempDir,
}

/// Builds, compares with a second time, and looks whether a check could read it.
fn make(gathered: &mut Gathered, args: &Bundle, policy: &FetchPolicy) -> anyhow::Result<Made> {
    let temporary = tempfile::tempdir()?;
    let file = temporary.path().join("bundle.tar");
    let built = gathered.folder()?;
    let sha256 = tar(&built.folder, File::create(&file)?)?;
    if !args.once {
        let again = gathered.folder()?;
        let found = tar(&again.folder, io::sink())?;
        anyhow::ensure!(found == sha256, "built twice, and the digests differ: {sha256} and {found}");
    }
    let opened = File::open(&file)?;
    let size = opened.metadata()?.len();
    anyhow::ensure!(size <= policy.limit, "it has {size} bytes; an artefact has at most {}", policy.limit);
    let archive = unpack::unpack(opened, temporary.path()).context("no release could be made of it")?;
    // In words: an error of the tree's own would be that of a site that does not verify.
    let tree = pack::tree(&archive.entries)
        .map_err(|error| anyhow::anyhow!("no release could be made of it: {:#}", anyhow::Error::from(error)))?;
    let native = dependencies::native(&tree, &archive.spool);
    let is_native = !built.native.is_empty() || dependencies::for_one_platform(&native).is_some();
    Ok(Made { file, sha256, built, is_native, _folder: temporary })
}

fn tar(folder: &Path, to: impl Write) -> anyhow::Result<Digest> {
    let mut to = Hashing::new(io::BufWriter::with_capacity(1 << 20, to));
    fetch::bundle(folder, &mut to)?;
    let (mut to, sha256) = to.finish();
    to.flush()?;
    Ok(sha256)
}

/// What the recipe says of it.
fn lines(url: &str, made: &Made, gathered: &Gathered, lock: Option<&Path>, platform: &Platform) -> String {
    let mut text = format!("artefact:\n  url: {url}\n  sha256: {}\n", made.sha256);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("  {name}: {value}\n"));
        }
    };
    line("platform", (!platform.is_any()).then(|| platform.to_string()));
    line("commit", gathered.commit().map(ToString::to_string));
    line("lock", lock.and_then(|lock| Some(launch::quoted(lock.file_name()?.to_str()?))));
    line("python", gathered.python().map(|python| format!("\"{python}\"")));
    if let Some(launch) = &made.built.launch {
        text.push_str(&format!("{}\n", launch::yaml(launch)));
    }
    text
}

fn not_written(out: &Path) -> String {
    format!("{} was not written", out.display())
}
