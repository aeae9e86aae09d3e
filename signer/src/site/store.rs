//! Where a site's files lie: what a folder and an S3 bucket have in common.
//!
//! A [`Store`] knows bytes under names and nothing of what they mean. Three writes are enough:
//! *create* (a name that is derived from its content: never overwritten), *replace* (the few
//! names that change) and *swap* (the head: only if it is still the one that was read). A name
//! that is there is always whole: a folder renames, S3 shows nothing before an upload is done.
//!
//! Rejected: one trait method for each kind of file (the publisher would be written twice), and
//! an async trait (keys and archives are synchronous work; [`super::parallel`] gives requests
//! their company).

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use mcpfs_trust::digest::Digest;

use crate::files::FileError;

/// The shortest time for which content that nothing leads to is left alone, seconds.
pub const GRACE: i64 = 3_600;

/// Bytes under names.
pub trait Store: fmt::Debug + Send + Sync {
    /// Where it lies, for people: a folder, or `s3://bucket/prefix`.
    fn place(&self) -> String;

    /// Keeps other publishers away, where that can be done.
    ///
    /// # Errors
    /// `Locked` after a minute.
    fn lock(&self) -> Result<Option<Lock>, StoreError>;

    /// The bytes of a name, at most `limit`; `None` if it is not there.
    ///
    /// # Errors
    /// `TooLarge`, or whatever the store says.
    fn get(&self, name: &str, limit: u64) -> Result<Option<Stored>, StoreError>;

    /// The size and age of a name; `None` if it is not there.
    ///
    /// # Errors
    /// Whatever the store says.
    fn stat(&self, name: &str) -> Result<Option<Facts>, StoreError>;

    /// Writes the content of a name to `out`, of any size; `false` if it is not there.
    ///
    /// # Errors
    /// Whatever the store or `out` says.
    fn copy_out(&self, name: &str, out: &mut dyn Write) -> Result<bool, StoreError>;

    /// Puts bytes under a new name; `false` if it is there already, untouched.
    ///
    /// # Errors
    /// Whatever the store says.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError>;

    /// Puts a file of any size under a new name, unless its content turns out to be another one
    /// than `sha256` says; `false` then.
    ///
    /// # Errors
    /// Whatever the store says.
    fn create_from(&self, name: &str, file: &Path, sha256: &Digest) -> Result<bool, StoreError>;

    /// Puts bytes under a name that may change.
    ///
    /// # Errors
    /// Whatever the store says.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// As [`Store::replace`], but only if the name is still what was read (`None`: not there);
    /// `false` if it is not.
    ///
    /// # Errors
    /// Whatever the store says.
    fn swap(&self, name: &str, read: Option<&Stored>, bytes: &[u8]) -> Result<bool, StoreError>;

    /// Every name that begins with `prefix`, which ends with `/` or is empty, in any order.
    ///
    /// # Errors
    /// Whatever the store says.
    fn list(&self, prefix: &str) -> Result<Vec<Listing>, StoreError>;

    /// Removes a name; one that is gone already is no error.
    ///
    /// # Errors
    /// Whatever the store says.
    fn remove(&self, name: &str) -> Result<(), StoreError>;

    /// Whether it is there and holds nothing.
    ///
    /// # Errors
    /// If that cannot be told, such as `NoBucket`.
    fn is_empty(&self) -> Result<bool, StoreError>;

    /// Whether a name may also be the beginning of other names, as in a bucket.
    fn is_flat(&self) -> bool;

    /// Whether reading everything again costs little.
    fn is_near(&self) -> bool;

    /// How many requests may be under way at once.
    fn workers(&self) -> usize;
}

/// Bytes as they were read, and what tells them from later ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The store's own mark of this version (S3: the ETag).
    pub tag: Option<String>,
}

/// What is known of a name without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Bytes.
    pub size: u64,
    /// When it was written, by the store's clock: seconds since 1970.
    pub modified: i64,
}

impl Facts {
    /// Whether the shortest grace period of a collection may be over before a publisher is done.
    pub fn is_old(&self) -> bool {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        i64::try_from(since).is_ok_and(|now| self.modified < now - GRACE / 2)
    }
}

/// A name in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was written, by the store's clock: seconds since 1970.
    pub modified: i64,
}

/// Held while publishing; released when dropped, and by the kernel if the process dies.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] pub(crate) std::fs::File); // Held, never read.

/// Why a store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum StoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("another publisher has held {path} for {seconds} seconds; try again when it is done", path = path.display())]
    Locked { path: PathBuf, seconds: u64 },
    #[error("{place}: {name} is larger than {limit} bytes")]
    TooLarge { place: String, name: String, limit: u64 },
    #[error("{place}: {name} is not there")]
    Missing { place: String, name: String },
    #[error("{0:?} is not a site: give a folder, or s3://bucket/prefix")]
    Address(String),
    #[error("cannot use {place}: {problem}")]
    Unusable { place: String, problem: String },
    #[error("{place}: there is no such bucket; make it, or correct the name in --site")]
    NoBucket { place: String },
    #[error(
        "{place} refuses {name} ({problem}); see that the credentials are right and may read, list and write there"
    )]
    Refused { place: String, name: String, problem: String },
    #[error("{place} cannot be reached for {name}: {problem}; try again")]
    Unreachable { place: String, name: String, problem: String },
    #[error("{place}: {name}: {problem}")]
    Failed { place: String, name: String, problem: String },
}

/// What web servers and CDNs should say of a name: its type, and how long it may be kept.
///
/// Immutable names may be kept for ever. The head must be asked for again soon, since hosts
/// refresh every five minutes and a revocation waits for it.
pub fn headers(name: &str) -> (&'static str, &'static str) {
    const FOR_EVER: &str = "public, max-age=31536000, immutable";
    const SOON: &str = "public, max-age=30, must-revalidate";
    let top = name.split('/').next().unwrap_or_default();
    let content = match name.rsplit_once('.').map(|(_, extension)| extension) {
        _ if matches!(top, "objects" | "artefacts") => "application/octet-stream",
        Some("json") => "application/json",
        // Of the registry API: names without an ending.
        _ if top == "v0.1" => "application/json",
        Some("jsonl") => "application/x-ndjson",
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    let immutable = matches!(top, "objects" | "artefacts" | "entries" | "details" | "catalogue" | "log" | "heads");
    (content, if immutable { FOR_EVER } else { SOON })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_asked_for_again_and_what_does_not_is_kept() {
        for (name, content, kept) in [
            ("head.json", "application/json", false),
            ("servers/hello.json", "application/json", false),
            ("catalogue/00.json", "application/json", true),
            ("catalogue/bins/00.json", "application/json", true),
            ("objects/00/00ff", "application/octet-stream", true),
            ("artefacts/00ff", "application/octet-stream", true),
            ("log/1-00.jsonl", "application/x-ndjson", true),
            ("heads/1-00.json", "application/json", true),
            ("details/00.json", "application/json", true),
            ("index.html", "text/html; charset=utf-8", false),
            ("browse/hello/index.html", "text/html; charset=utf-8", false),
            ("deps.json", "application/json", false),
            ("v0.1/servers", "application/json", false),
            ("v0.1/servers/com.example/hello/versions/1.0.0", "application/json", false),
        ] {
            let (is, cache) = headers(name);
            assert_eq!((is, cache.contains("immutable")), (content, kept), "{name}");
        }
    }
}
