//! A site: static files that any web server can serve, in a folder or in a bucket.
//!
//! Everything but `head.json` and `servers/*.json` is immutable and named by its digest, so
//! publishing is: put new files beside the old ones, then move the head. Whoever stops
//! anywhere before that leaves the old site whole; what was put already is found again by the
//! next publisher. One that is there already is verified and never rewritten.
//!
//! What of this depends on where the files lie is in [`store`], the rest is here.

pub mod address;
mod folder;
pub mod gc;
pub mod parallel;
pub mod public;
pub mod publish;
pub mod reach;
mod s3;
pub mod state;
pub mod store;
pub mod transfer;

use std::path::Path;
use std::sync::Arc;

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::{Digest, Hasher};
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::site as path;

use crate::files::FileError;
use crate::sign::SignError;
use crate::staging::StagingError;

pub use address::Address;
pub use store::{Lock, Store, StoreError, Stored};

pub(crate) use folder::wait_for as wait_for_lock;

/// Why a site was not changed. Nothing of it is undone: the old head still stands.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum SiteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error(
        "{path} is published but does not hold what its name says; restore it from a backup or another mirror. \
             Nothing was changed"
    )]
    Damaged { path: String },
    #[error("{path} of the site does not verify; nothing was changed")]
    Verify { path: String, source: Box<VerifyError> },
    #[error(
        "the head of the site changed while this command worked (version {found} where {expected} was); \
             nothing was published, run the command again"
    )]
    Conflict { expected: u64, found: u64 },
    #[error(
        "the site's head is version {found}, but this signer has published version {known}: the folder was set \
             back or is another one. Restore the newest folder: signing now would give hosts two heads of one number. \
             If this is a new registry that only has an old one's name, give it a --state DIR of its own"
    )]
    SetBack { found: u64, known: u64 },
    #[error(
        "the site has another head of version {version} than this signer published: two signers are at work on \
             one registry, or somebody else has the head key"
    )]
    Forked { version: u64 },
    #[error(
        "the new head was published, but what hosts read at {place} does not verify. Run the same command again; \
             if that does not help, what lies between the store and {place} is at fault, and hosts keep the state they have"
    )]
    ReadBack { place: String, source: Box<SiteError> },
    #[error(
        "the head is published and hosts follow it, but the pages for people and IDEs are not up to date: \
             mcpfs-signer pages writes them again, and so does the next publish"
    )]
    Pages { source: Box<SiteError> },
    #[error("the head there is still version {found}, not {expected}: a cache in between keeps it too long")]
    StillOld { expected: u64, found: u64 },
    #[error("no new epoch begins: {problem}; nothing was published")]
    Epoch { problem: String },
    #[error("the signing log is broken at {path}: {problem}; restore it from a copy")]
    Log { path: String, problem: String },
    #[error("{name} {version} is pinned, but not in the site; nothing was removed. See that the pin is right")]
    PinMissing { name: ServerName, version: Version },
    #[error("{what}: the artefact gives another tree here than the one that was signed; nothing was published")]
    OtherTree { what: String },
    #[error("the site keeps no head {version}; without --since the bundle has everything")]
    NoHead { version: u64 },
    #[error("this is no bundle of a site that can be used: {problem}")]
    Transfer { problem: String },
    #[error("a head may live for 1 hour to 30 days, not {seconds} seconds")]
    Lifetime { seconds: i64 },
    #[error("{place} holds no published site: it has no head.json")]
    NothingPublished { place: String },
    #[error("{name} is not in the registry")]
    NoServer { name: ServerName },
    #[error("{name} {version} is not in the registry; there is {present}")]
    NoVersion { name: ServerName, version: Version, present: String },
    #[error("{name} is too like {other}, which is in the registry: names must differ in more than - _ and .")]
    SimilarName { name: ServerName, other: ServerName },
    #[error("{name} {version} was {status} ({reason}), which is final; publish a new version instead")]
    Withdrawn { name: ServerName, version: Version, status: &'static str, reason: String },
    #[error(
        "the entry of {name} would be {what}; an entry holds at most 128 releases and 1 MiB. \
             Publish further versions under a new server name"
    )]
    EntryFull { name: ServerName, what: String },
    #[error("a reason is one line of 1 to 1024 bytes")]
    BadReason,
}

impl SiteError {
    /// The same, of pages.
    pub(crate) fn pages(source: Self) -> Self {
        Self::Pages { source: Box::new(source) }
    }
}

/// A site, wherever it lies.
#[derive(Debug, Clone)]
pub struct Site {
    store: Arc<dyn Store>,
}

impl Site {
    /// The site at an address; it need not exist yet.
    ///
    /// # Errors
    /// If the address cannot be used.
    pub fn open(address: &Address) -> Result<Self, SiteError> {
        Ok(match address {
            Address::Folder(root) => Self::folder(root),
            Address::S3(address) => Self { store: Arc::new(s3::S3::new(address)?) },
        })
    }

    /// The site in a folder, which need not exist yet.
    pub fn folder(root: &Path) -> Self {
        Self { store: Arc::new(folder::Folder::new(root)) }
    }

    /// A site in a store of the caller's own.
    pub fn within(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Where it lies, for people.
    pub fn place(&self) -> String {
        self.store.place()
    }

    /// Where its files lie.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// If it cannot be read, is larger or is missing.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, SiteError> {
        let missing = || StoreError::Missing { place: self.place(), name: path.to_owned() };
        Ok(self.find(path, limit)?.ok_or_else(missing)?)
    }

    /// As [`Site::read`]; `None` if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read or is larger.
    pub fn find(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, SiteError> {
        Ok(self.store.get(path, limit)?.map(|stored| stored.bytes))
    }

    /// Puts bytes under a name that is derived from their digest; `false` if they were there already.
    ///
    /// # Errors
    /// `Damaged` if the name holds something else.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<bool, SiteError> {
        // Far away, asking first would cost a request for each new file.
        if !self.store.is_near() && self.store.create(path, bytes)? {
            return Ok(true);
        }
        match self.find(path, bytes.len() as u64) {
            Ok(Some(found)) if found == bytes => {
                // Written again it counts as new to whoever collects; in a folder the lock keeps them apart.
                if !self.store.is_near() && self.store.stat(path)?.is_some_and(|facts| facts.is_old()) {
                    self.store.replace(path, bytes)?;
                }
                Ok(false)
            }
            Ok(None) => match self.store.create(path, bytes)? {
                true => Ok(true),
                // Somebody was faster, such as another worker with an equal bin.
                false if self.find(path, bytes.len() as u64)?.as_deref() == Some(bytes) => Ok(false),
                false => Err(SiteError::Damaged { path: path.to_owned() }),
            },
            Ok(Some(_)) | Err(SiteError::Store(StoreError::TooLarge { .. })) => {
                Err(SiteError::Damaged { path: path.to_owned() })
            }
            Err(error) => Err(error),
        }
    }

    /// Puts bytes under a name that may change.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn replace(&self, path: &str, bytes: &[u8]) -> Result<(), SiteError> {
        Ok(self.store.replace(path, bytes)?)
    }

    /// Copies the original artefact, hashing what is written; `false` if it was there already. One
    /// that is there is hashed again where that is cheap, else its size is compared.
    ///
    /// # Errors
    /// `Damaged` if source or published file are not `sha256`.
    pub fn put_artefact(&self, from: &Path, sha256: &Digest) -> Result<bool, SiteError> {
        let name = path::artefact(sha256);
        if let Some(facts) = self.store.stat(&name)? {
            let own = std::fs::metadata(from).map_err(FileError::read(from))?.len();
            let same = facts.size == own && (!self.store.is_near() || self.digest(&name)? == Some(*sha256));
            return if same { Ok(false) } else { Err(SiteError::Damaged { path: name }) };
        }
        match self.store.create_from(&name, from, sha256)? {
            true => Ok(true),
            false => Err(SiteError::Damaged { path: from.display().to_string() }),
        }
    }

    /// The digest of a file of any size; `None` if it is missing.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn digest(&self, name: &str) -> Result<Option<Digest>, SiteError> {
        let mut hasher = Hasher::new();
        Ok(self.store.copy_out(name, &mut hasher)?.then(|| hasher.finish()))
    }

    /// Whether a published chunk is there: read and decoded where that is cheap, else by its size.
    ///
    /// # Errors
    /// `Damaged` if it is not, or is something else.
    pub fn has_chunk(&self, chunk: &Chunk) -> Result<(), SiteError> {
        if self.store.is_near() {
            return self.chunk(chunk).map(drop);
        }
        self.has_size(chunk)
    }

    /// Whether something of a chunk's size lies under its name.
    ///
    /// # Errors
    /// `Damaged` if not.
    pub fn has_size(&self, chunk: &Chunk) -> Result<(), SiteError> {
        let path = path::object(&chunk.sha256);
        match self.store.stat(&path)?.map(|facts| facts.size) == Some(u64::from(chunk.size)) {
            true => Ok(()),
            false => Err(SiteError::Damaged { path }),
        }
    }

    /// A published chunk's plain bytes.
    ///
    /// # Errors
    /// If it is missing or is not the chunk.
    pub fn chunk(&self, chunk: &Chunk) -> Result<Vec<u8>, SiteError> {
        let path = path::object(&chunk.sha256);
        let stored = self.read(&path, u64::from(chunk.size))?;
        chunk.decode(&stored).map_err(|source| SiteError::Verify { path, source: Box::new(source) })
    }

    /// Chunks put together, such as an encoded tree.
    ///
    /// # Errors
    /// As [`Site::chunk`].
    pub fn chunks(&self, chunks: &[Chunk]) -> Result<Vec<u8>, SiteError> {
        Ok(parallel::map(chunks, self.workers(), |chunk| self.chunk(chunk))?.concat())
    }

    /// How many requests may be under way at once.
    pub(crate) fn workers(&self) -> usize {
        self.store.workers()
    }
}
