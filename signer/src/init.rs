//! A first recipe, written from a source: what it can say of itself is guessed and marked, what
//! only people know is left to them.
//!
//! ```text
//! source → fetched artefact with its digest → unpacked tree → guesses → YAML
//! ```
//!
//! A package or a tag is bundled on the way: the lock and the commit that it was bundled by are a
//! part of what the recipe pins, so that every later check builds the same bytes.
//!
//! A recipe is a reviewed document, so nothing in it may look reviewed that was not: each guess
//! says where it comes from, and what is missing is an empty field, which `check` refuses at its
//! line. A default value for a reviewer or a data class would be signed by somebody in a hurry.
//! The same source gives the same bytes.

mod guess;
mod image;
mod node;
mod python;
mod typed;
mod words;
mod write;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};

use mcpfs_trust::name::{BadName, ServerName};

use crate::fetch::{self, FetchError, FetchNote, FetchPolicy, Pinned, Wanted};
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
    /// An address with a login in it.
    #[error(
        "the address has a user or password in it, and a recipe is signed and published: leave them out, and give \
         them by --registry-auth"
    )]
    Login,
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

impl InitError {
    /// Whether what was typed is wrong, whatever is there.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Source(_) | Self::Login => true,
            Self::Fetch(FetchError::Source(error)) => error.is_usage(),
            _ => false,
        }
    }
}

/// Fetches a source into `folder`, looks into it, and drafts its recipe.
///
/// # Errors
/// If it cannot be fetched or read, or has no name.
pub fn draft(
    name: Option<&ServerName>,
    source: &Source,
    wanted: &Wanted,
    policy: &FetchPolicy,
    folder: &Path,
) -> Result<Draft, InitError> {
    let policy = FetchPolicy { file_root: source.file_root.clone(), ..policy.clone() };
    let pinned = fetch::pin(&source.url, wanted, &policy, folder)?;
    let unread = |error| InitError::Io { path: pinned.fetched.path.clone(), source: error };
    let file = File::open(&pinned.fetched.path).map_err(unread)?;
    let archive = unpack::of_source(&pinned.source, file, folder, folder)?;
    let tree = pack::tree(&archive.entries)?;
    let named = typed::Named::of(&pinned.source.url);
    let mut guesses = guess::all(&guess::Looked { tree: &tree, archive: &archive, named: &named }, &pinned);
    guesses.remarks.extend(pinned.fetched.notes.iter().filter_map(|note| match note {
        FetchNote::Said(text) | FetchNote::MovedTag(text) => Some(text.clone()),
        FetchNote::PlainHttp => None,
    }));
    // Texts of others: each stays one line of a comment.
    for remark in &mut guesses.remarks {
        *remark = mcpfs_trust::text::visible(&remark.chars().take(400).collect::<String>());
    }
    let name = match (name, &guesses.name) {
        (Some(name), _) => name.clone(),
        (None, Some(guess)) => words::server_name(&guess.value).map_err(|error| InitError::NoName(Some(error)))?,
        (None, None) => return Err(InitError::NoName(None)),
    };
    let Pinned { mut source, lock, .. } = pinned;
    source.inputs.lock = lock.as_ref().map(|_| typed::lock_name(&name, &source.url));
    Ok(Draft { name, source, lock, guesses })
}
