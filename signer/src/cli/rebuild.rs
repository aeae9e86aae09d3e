//! `rebuild`: a lost site made again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::Args;
use mcpfs_trust::digest::{Digest, Hasher};

use super::Cli;
use super::change::at_site;
use super::options::{SiteArgs, Usage, shown};
use super::publish::print_outcome;
use crate::files::{self, FileError};
use crate::image::{DOCUMENT_BYTES, Manifest};
use crate::key::Keyring;
use crate::log;
use crate::rebuild::{Rebuild as Work, Recipes};
use crate::trust_cmd;

#[derive(Debug, Args)]
pub(super) struct Rebuild {
    /// The git repository of the recipes, with its whole history
    #[arg(long, value_name = "DIR")]
    git: PathBuf,
    /// A folder of artefacts, found by their digest; may be repeated
    #[arg(long, value_name = "DIR", required = true)]
    artefacts: Vec<PathBuf>,
    /// The signing log: a copy of the folder log/, or of a site (s3:// too)
    #[arg(long, value_name = "DIR|SITE")]
    log: String,
    #[command(flatten)]
    site: SiteArgs,
}

pub(super) fn rebuild(cli: &Cli, keyring: &mut Keyring, args: &Rebuild) -> anyhow::Result<()> {
    let root = trust_cmd::read(&args.site.trust)?;
    let segments = log::copied(&args.site.store.open(&args.log)?, &root)?;
    let wanted: HashSet<Digest> = segments.iter().flat_map(|one| &one.rows).filter_map(|row| row.recipe).collect();
    let recipes = Recipes::find(&args.git, &wanted)?;
    let named = tempfile::tempdir()?;
    let artefacts = segments.iter().flat_map(|one| &one.rows).flat_map(|row| row.artefacts.iter().copied());
    let mut wanted: HashSet<Digest> = artefacts.collect();
    for folder in &args.artefacts {
        name_by_digest(folder, named.path(), &wanted, 0)?;
    }
    let parts = parts(named.path())?;
    wanted.extend(&parts);
    for folder in args.artefacts.iter().filter(|_| !parts.is_empty()) {
        name_by_digest(folder, named.path(), &wanted, 0)?;
    }
    at_site(cli, keyring, &args.site, "rebuild", &log::public::name(Path::new(&args.log)), |_, publisher| {
        let notes = publisher.state.notes("rebuild");
        let work =
            Work { segments: &segments, recipes: &recipes, artefacts: named.path(), notes: &notes, shown: shown(cli) };
        print_outcome(cli, &work.publish(publisher)?);
        Ok(())
    })
}

/// What the OCI manifests among the artefacts name besides.
fn parts(named: &Path) -> anyhow::Result<Vec<Digest>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(named).map_err(FileError::read(named))? {
        let path = entry.map_err(FileError::read(named))?.path();
        // Another artefact is no manifest, or too large for one.
        let Ok(bytes) = files::read_bounded(&path, DOCUMENT_BYTES) else { continue };
        if let Ok(manifest) = Manifest::parse(&bytes) {
            found.extend(manifest.parts().iter().map(|part| part.sha256));
        }
    }
    Ok(found)
}

/// Links each file of `folder` into `into` under its digest. A file that has a digest for a name, as in
/// a site, is believed for now: it is hashed when it is used.
fn name_by_digest(folder: &Path, into: &Path, wanted: &HashSet<Digest>, depth: usize) -> anyhow::Result<()> {
    if depth > 16 {
        return Err(Usage(format!("{} has too many levels", folder.display())).into());
    }
    for entry in fs::read_dir(folder).map_err(FileError::read(folder))? {
        let path = entry.map_err(FileError::read(folder))?.path();
        let facts = fs::symlink_metadata(&path).map_err(FileError::read(&path))?;
        if facts.is_dir() {
            name_by_digest(&path, into, wanted, depth + 1)?;
            continue;
        }
        if !facts.is_file() {
            continue;
        }
        let named = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Digest>().ok());
        let sha256 = match named.filter(|sha256| wanted.contains(sha256)) {
            Some(sha256) => sha256,
            None => {
                let mut hasher = Hasher::new();
                let mut file = File::open(&path).map_err(FileError::read(&path))?;
                std::io::copy(&mut file, &mut hasher).map_err(FileError::read(&path))?;
                hasher.finish()
            }
        };
        let link = into.join(sha256.to_string());
        if wanted.contains(&sha256) && !link.exists() {
            let path = path.canonicalize().map_err(FileError::read(&path))?;
            std::os::unix::fs::symlink(&path, &link).map_err(FileError::write(&link))?;
        }
    }
    Ok(())
}
