//! A site in a folder: the files that any web server can serve.
//!
//! Everything but `head.json` and `servers/*.json` is immutable and named by its digest, so
//! publishing is: put new files beside the old ones, then move the head. Whoever stops
//! anywhere before that last rename leaves the old site whole; what was put already is found
//! again by the next publisher. A file is written beside its place, synced and renamed;
//! one that is there already is verified and never rewritten.
//!
//! The lock keeps two publishers of one folder apart; the compare-and-swap of the head
//! would also notice a publisher that does not know of the lock (a copy job, a restore).

pub mod publish;
pub mod state;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::{Digest, Hasher};
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::site as path;

use crate::files::{self, FileError};
use crate::sign::SignError;
use crate::staging::StagingError;

/// The file whose lock a publisher holds.
const LOCK: &str = ".publish.lock";

/// How long to wait for another publisher.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// Why a site was not changed. Nothing of it is undone: the old head still stands.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum SiteError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error("another publisher has held {path} for {seconds} seconds; try again when it is done", path = path.display(), seconds = LOCK_WAIT.as_secs())]
    Locked { path: PathBuf },
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
    #[error("a head may live for 1 hour to 30 days, not {seconds} seconds")]
    Lifetime { seconds: i64 },
    #[error("{path} holds no published site: it has no head.json", path = path.display())]
    NothingPublished { path: PathBuf },
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

/// A site's folder.
#[derive(Debug, Clone)]
pub struct SiteFolder {
    root: PathBuf,
}

/// Held while publishing; released when dropped, and by the kernel if the process dies.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File); // Held, never read.

impl SiteFolder {
    /// The site at `root`, which need not exist yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the folder is there and holds nothing.
    pub fn is_empty(&self) -> bool {
        fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Waits for the right to publish.
    ///
    /// # Errors
    /// `Locked` after a minute.
    pub fn lock(&self) -> Result<Lock, SiteError> {
        let path = self.root.join(LOCK);
        files::make_public_folder(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(FileError::write(&path))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(fs::TryLockError::WouldBlock) => return Err(SiteError::Locked { path }),
                Err(fs::TryLockError::Error(error)) => return Err(FileError::write(&path)(error).into()),
            }
        }
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// If it cannot be read or is larger.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, SiteError> {
        Ok(files::read_bounded(&self.root.join(path), limit)?)
    }

    /// As [`SiteFolder::read`]; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`SiteFolder::read`].
    pub fn find(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, SiteError> {
        match files::read_bounded(&self.root.join(path), limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts bytes under a name that is derived from their digest.
    ///
    /// # Errors
    /// `Damaged` if the name holds something else.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), SiteError> {
        match self.find(path, bytes.len() as u64) {
            Ok(None) => self.replace(path, bytes),
            Ok(Some(found)) if found == bytes => Ok(()),
            Ok(Some(_)) | Err(SiteError::File(FileError::TooLarge { .. })) => {
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
        let path = self.root.join(path);
        files::make_public_folder(&path)?;
        Ok(files::write_durably(&path, bytes, true)?)
    }

    /// Copies the original artefact, hashing what is written.
    ///
    /// # Errors
    /// `Damaged` if source or published file are not `sha256`.
    pub fn put_artefact(&self, from: &Path, sha256: &Digest) -> Result<(), SiteError> {
        let name = path::artefact(sha256);
        let to = self.root.join(&name);
        let damaged = |path: String| SiteError::Damaged { path };
        if let Ok(mut file) = File::open(&to) {
            let mut hasher = Hasher::new();
            std::io::copy(&mut file, &mut hasher).map_err(FileError::read(&to))?;
            return if hasher.finish() == *sha256 { Ok(()) } else { Err(damaged(name)) };
        }
        files::make_public_folder(&to)?;
        let mut source = File::open(from).map_err(FileError::read(from))?;
        let mut matched = true;
        files::put_durably(&to, true, |file| {
            let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 1 << 20]);
            loop {
                match source.read(&mut buffer)? {
                    0 => break,
                    count => {
                        hasher.update(&buffer[..count]);
                        file.write_all(&buffer[..count])?;
                    }
                }
            }
            matched = hasher.finish() == *sha256;
            // An error here drops the temporary file: what is wrong is never named.
            if matched { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
        })
        .map_err(|error| {
            if matched { FileError::write(&to)(error).into() } else { damaged(from.display().to_string()) }
        })
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
    /// As [`SiteFolder::chunk`].
    pub fn chunks(&self, chunks: &[Chunk]) -> Result<Vec<u8>, SiteError> {
        let mut bytes = Vec::new();
        for chunk in chunks {
            bytes.extend(self.chunk(chunk)?);
        }
        Ok(bytes)
    }
}
