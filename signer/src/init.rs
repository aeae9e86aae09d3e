//! A first recipe, written from a source: what it can say of itself is guessed and marked, what
//! only people know is left to them.
//!
//! ```text
//! source → fetched artefact with its digest → unpacked tree → guesses → YAML
//! ```
//!
//! A recipe is a reviewed document, so nothing in it may look reviewed that was not: each guess
//! says where it comes from, and what is missing is an empty field, which `check` refuses at its
//! line. A default value for a reviewer or a data class would be signed by somebody in a hurry.
//! The same source gives the same bytes.

mod guess;
mod node;
mod python;
mod words;
mod write;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{BadName, ServerName};

use crate::fetch::{self, FetchError, FetchPolicy};
use crate::pack;
use crate::unpack::{self, UnpackError};

pub use guess::{Guess, Guesses};
pub use write::{Draft, guessed_lines, open_lines};

/// Where a recipe's artefact comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The address as the recipe writes it.
    pub url: String,
    /// The folder that a `file:` address lies below.
    pub file_root: Option<PathBuf>,
}

/// Why no recipe is written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Neither an address nor a file.
    #[error("{0:?} is neither an address such as https://… nor a file or folder that is there")]
    Source(String),
    /// A package or commit, of which somebody has to make one file.
    #[error("{0} becomes one file first: mcpfs-signer bundle {0} --out FILE.tar, then init --from FILE.tar")]
    Build(String),
    /// A local source outside of the folder for such.
    #[error("{path} lies outside of --file-root {root}")]
    Outside {
        /// The source.
        path: PathBuf,
        /// The folder.
        root: PathBuf,
    },
    /// The artefact cannot be fetched.
    #[error("the artefact cannot be fetched")]
    Fetch(#[from] FetchError),
    /// It is not an archive.
    #[error("the artefact is refused")]
    Unpack(#[from] UnpackError),
    /// Its entries make no tree.
    #[error("the artefact makes no tree")]
    Tree(#[from] mcpfs_trust::tree::BadTree),
    /// No name was given, and none can be guessed.
    #[error("the artefact does not say a name: give one, as in mcpfs-signer init NAME --from SOURCE")]
    NoName(#[source] Option<BadName>),
    /// A folder or file.
    #[error("cannot use {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Source {
    /// What a person typed: an address, or a file or folder.
    ///
    /// # Errors
    /// If it is neither, or lies outside of `file_root`.
    pub fn parse(text: &str, file_root: Option<&Path>) -> Result<Self, InitError> {
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        let known = ["https", "http", "file", "oci", "git+https", "git+file", "npm", "pypi"];
        if scheme.is_some_and(|scheme| known.contains(&scheme)) {
            return Ok(Self { url: text.to_owned(), file_root: file_root.map(Path::to_owned) });
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| InitError::Io { path, source }
        };
        let path = Path::new(text);
        if path.symlink_metadata().is_err() {
            return Err(InitError::Source(text.to_owned()));
        }
        let path = path.canonicalize().map_err(io(path))?;
        let root = match file_root {
            Some(root) => root.canonicalize().map_err(io(root))?,
            None => path.parent().unwrap_or(Path::new("/")).to_owned(),
        };
        let Ok(below) = path.strip_prefix(&root) else { return Err(InitError::Outside { path, root }) };
        let address = url::Url::from_file_path(Path::new("/").join(below)).ok();
        let below = address.as_ref().and_then(|url| url.path().strip_prefix('/')).unwrap_or_default();
        let below = if below.is_empty() { "." } else { below };
        Ok(Self { url: format!("file:{below}"), file_root: Some(root) })
    }
}

/// Fetches a source, looks into it, and drafts its recipe.
///
/// # Errors
/// If it cannot be fetched or read, or has no name.
pub fn draft(name: Option<&ServerName>, source: &Source, policy: &FetchPolicy) -> Result<Draft, InitError> {
    if crate::bundle::Source::is_one(&source.url) {
        return Err(InitError::Build(mcpfs_trust::error::bounded(&source.url)));
    }
    let temporary = |error| InitError::Io { path: std::env::temp_dir(), source: error };
    let folder = tempfile::tempdir().map_err(temporary)?;
    let policy = FetchPolicy { file_root: source.file_root.clone(), ..policy.clone() };
    let (sha256, fetched): (Digest, _) = fetch::pin(&source.url, &policy, folder.path())?;
    let file = File::open(&fetched.path).map_err(temporary)?;
    let archive = unpack::unpack(file, folder.path())?;
    let tree = pack::tree(&archive.entries)?;
    let guesses = guess::all(&guess::Looked { tree: &tree, archive: &archive });
    let name = match (name, &guesses.name) {
        (Some(name), _) => name.clone(),
        (None, Some(guess)) => words::server_name(&guess.value).map_err(|error| InitError::NoName(Some(error)))?,
        (None, None) => return Err(InitError::NoName(None)),
    };
    Ok(Draft { name, url: source.url.clone(), sha256, guesses })
}
