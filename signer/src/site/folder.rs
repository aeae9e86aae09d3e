//! A site in a folder: the files that any web server can serve.
//!
//! A file is written beside its place, synced and renamed. The lock keeps two publishers of one
//! folder apart; the compare-and-swap of the head also notices a publisher that does not know of
//! the lock (a copy job, a restore).

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use mcpfs_trust::digest::{Digest, Hasher};

use super::store::{Facts, Listing, Lock, Store, StoreError, Stored};
use crate::files::{self, FileError};

/// The file whose lock a publisher holds.
const LOCK: &str = ".publish.lock";

/// How long to wait for another publisher.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// A folder.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl Store for Folder {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn lock(&self) -> Result<Option<Lock>, StoreError> {
        wait_for(&self.root.join(LOCK)).map(Some)
    }

    fn get(&self, name: &str, limit: u64) -> Result<Option<Stored>, StoreError> {
        match files::read_bounded(&self.root.join(name), limit) {
            Ok(bytes) => Ok(Some(Stored { bytes, tag: None })),
            Err(error) if error.is_missing() => Ok(None),
            Err(FileError::TooLarge { limit, .. }) => {
                Err(StoreError::TooLarge { place: self.place(), name: name.to_owned(), limit })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn stat(&self, name: &str) -> Result<Option<Facts>, StoreError> {
        let path = self.root.join(name);
        match fs::metadata(&path) {
            Ok(facts) => Ok(facts.is_file().then_some(Facts { size: facts.len(), modified: modified(&facts) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::read(&path)(error).into()),
        }
    }

    fn copy_out(&self, name: &str, out: &mut dyn Write) -> Result<bool, StoreError> {
        let path = self.root.join(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(FileError::read(&path)(error).into()),
        };
        io::copy(&mut file, out).map_err(FileError::read(&path))?;
        Ok(true)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let path = self.root.join(name);
        files::make_public_folder(&path)?;
        match files::write_durably(&path, bytes, false) {
            Ok(()) => Ok(true),
            Err(FileError::Write { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn create_from(&self, name: &str, from: &Path, sha256: &Digest) -> Result<bool, StoreError> {
        let to = self.root.join(name);
        files::make_public_folder(&to)?;
        let mut source = File::open(from).map_err(FileError::read(from))?;
        let mut matched = true;
        let written = files::put_durably(&to, true, |file| {
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
            if matched { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        });
        match written {
            Ok(()) => Ok(true),
            Err(_) if !matched => Ok(false),
            Err(error) => Err(FileError::write(&to)(error).into()),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join(name);
        files::make_public_folder(&path)?;
        Ok(files::write_durably(&path, bytes, true)?)
    }

    fn swap(&self, name: &str, read: Option<&Stored>, bytes: &[u8]) -> Result<bool, StoreError> {
        // Under the lock: nobody who knows of it comes between.
        let limit = read.map_or(0, |read| read.bytes.len() as u64);
        match self.get(name, limit) {
            Ok(found) if found.as_ref().map(|found| &found.bytes) == read.map(|read| &read.bytes) => {
                self.replace(name, bytes)?;
                Ok(true)
            }
            Ok(_) | Err(StoreError::TooLarge { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listing>, StoreError> {
        let mut found = Vec::new();
        let mut folders = vec![prefix.trim_end_matches('/').to_owned()];
        while let Some(folder) = folders.pop() {
            let path = self.root.join(&folder);
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(FileError::read(&path)(error).into()),
            };
            for entry in entries {
                let entry = entry.map_err(FileError::read(&path))?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                let facts = fs::symlink_metadata(entry.path()).map_err(FileError::read(&entry.path()))?;
                if facts.is_dir() {
                    folders.push(name);
                } else if facts.is_file() {
                    let modified = modified(&facts);
                    found.push(Listing { name, size: facts.len(), modified });
                }
            }
        }
        Ok(found)
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::write(&path)(error).into()),
            _ => Ok(()),
        }
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_none()))
    }

    fn is_flat(&self) -> bool {
        false
    }

    fn is_near(&self) -> bool {
        true
    }

    fn workers(&self) -> usize {
        // Each waits for its own sync.
        4
    }
}

/// A file without a usable time counts as new: it is kept.
fn modified(facts: &fs::Metadata) -> i64 {
    let since = facts.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(i64::MAX)
}

/// Waits until the file at `path` is locked by nobody else.
///
/// # Errors
/// `Locked` after a minute.
pub(crate) fn wait_for(path: &Path) -> Result<Lock, StoreError> {
    files::make_public_folder(path)?;
    let file = File::options().create(true).append(true).open(path).map_err(FileError::write(path))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock(file)),
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: path.to_owned(), seconds: LOCK_WAIT.as_secs() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(FileError::write(path)(error).into()),
        }
    }
}
