//! Which cached files were verified in this boot.
//!
//! A file of the cache counts as verified while it is the same inode with the same change
//! time as when its whole content hashed to its name. The kernel sets the change time and
//! no call sets it back, so a later write, truncation, link or change of mode shows. That
//! knowledge is worth nothing in another boot, where the disk may have been elsewhere: it
//! lives in the run directory, which a reboot empties, under a header that names the boot.
//!
//! The file is append-only, one record each time a file is verified; the latest counts. A cache that
//! evicts and fetches for months would fill the memory that it lies in, so it is written anew from
//! what is known when most of its records are void.
//! Losing it costs hashing, never correctness: a torn tail is cut off, and a header of
//! another boot discards everything. It is trusted as far as its permissions go, so its
//! owner and mode are checked like those of a key.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mcpfs_trust::digest::Digest;

use super::ContentError;

const MAGIC: &[u8; 8] = b"mcpfver\x01";
/// Magic and the boot id's text.
const HEADER: usize = 8 + 36;
const RECORD: usize = 5 * 8 + 32;

/// The identity of a file's present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileKey {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) ctime: i64,
    pub(super) ctime_nsec: i64,
    pub(super) size: u64,
}

impl FileKey {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            ctime: metadata.ctime(),
            ctime_nsec: metadata.ctime_nsec(),
            size: metadata.len(),
        }
    }

    /// Appends the record that says: this state hashed to `sha256`.
    pub(super) fn record(&self, sha256: &Digest, out: &mut Vec<u8>) {
        for field in [self.dev, self.ino, self.ctime as u64, self.ctime_nsec as u64, self.size] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(sha256.as_bytes());
    }

    fn parse(record: &[u8; RECORD]) -> (Digest, Self) {
        let field = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&record[index * 8..index * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(&record[40..]);
        let (ctime, ctime_nsec) = (field(2) as i64, field(3) as i64);
        (Digest::from_bytes(digest), Self { dev: field(0), ino: field(1), ctime, ctime_nsec, size: field(4) })
    }
}

/// Records beyond two for each known file before the log is written anew.
const VOID: usize = 1 << 16;

/// The open log.
#[derive(Debug)]
pub(super) struct VerifiedLog {
    file: File,
    header: Vec<u8>,
    /// Records in it.
    records: usize,
}

impl VerifiedLog {
    /// Opens `path` for `boot` and returns what it knows, the latest state of each content.
    pub(super) fn open(path: &Path, boot: &str) -> Result<(Self, HashMap<Digest, FileKey>), ContentError> {
        let failed = |source| ContentError::Io { what: "open", path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        check_private(&file, path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let header = [MAGIC.as_slice(), format!("{boot:<36.36}").as_bytes()].concat();
        if !bytes.starts_with(&header) {
            file.set_len(0).map_err(failed)?;
            file.write_all(&header).map_err(failed)?;
            return Ok((Self { file, header, records: 0 }, HashMap::new()));
        }
        let (records, torn) = bytes[HEADER..].as_chunks::<RECORD>();
        let known: HashMap<_, _> = records.iter().map(FileKey::parse).collect();
        if !torn.is_empty() || records.len() > 2 * known.len() + 1024 {
            let mut log = Self { file, header, records: 0 };
            log.rewrite(known.iter().map(|(sha256, key)| (*sha256, *key))).map_err(failed)?;
            return Ok((log, known));
        }
        let records = records.len();
        Ok((Self { file, header, records }, known))
    }

    /// Appends whole records. After a failure nothing torn is left in front of the next ones.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.write_all(records).inspect_err(|_| {
            if let Ok(metadata) = self.file.metadata() {
                let torn = metadata.len().saturating_sub(HEADER as u64) % RECORD as u64;
                drop(self.file.set_len(metadata.len() - torn));
            }
        })?;
        self.records += records.len() / RECORD;
        Ok(())
    }

    /// Whether most records are void, if so many files are known.
    pub(super) fn is_long(&self, known: usize) -> bool {
        self.records > 2 * known + VOID
    }

    /// Writes it anew. If that ends halfway, files are hashed once more.
    pub(super) fn rewrite(&mut self, known: impl Iterator<Item = (Digest, FileKey)>) -> io::Result<()> {
        let mut bytes = self.header.clone();
        let mut records = 0;
        for (sha256, key) in known {
            key.record(&sha256, &mut bytes);
            records += 1;
        }
        self.file.set_len(0)?;
        self.file.write_all(&bytes)?;
        self.records = records;
        Ok(())
    }
}

/// A regular file of this user that nobody else can write.
fn check_private(file: &File, path: &Path) -> Result<(), ContentError> {
    let metadata =
        file.metadata().map_err(|source| ContentError::Io { what: "stat", path: path.to_owned(), source })?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_file() && own && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(ContentError::Unsafe { path: PathBuf::from(path) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const BOOT: &str = "0e1f5c2a-0000-4000-8000-000000000000";

    #[test]
    fn a_long_log_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("verified");
        let (mut log, known) = VerifiedLog::open(&path, BOOT).unwrap();
        assert!(known.is_empty());
        let (sha256, key) = (Digest::of(b"one"), FileKey { dev: 1, ino: 2, ctime: 3, ctime_nsec: 4, size: 5 });
        let mut turns = 0;
        while !log.is_long(1) {
            let mut records = Vec::new();
            (0..1024).for_each(|n| FileKey { ino: n, ..key }.record(&sha256, &mut records));
            log.append(&records).unwrap();
            turns += 1;
            assert!(turns < 1000);
        }
        log.rewrite([(sha256, key)].into_iter()).unwrap();
        assert!(!log.is_long(1));
        assert_eq!(path.metadata().unwrap().len() as usize, HEADER + RECORD);
        let other = Digest::of(b"other");
        let mut record = Vec::new();
        key.record(&other, &mut record);
        log.append(&record).unwrap();
        drop(log);
        let (_, known) = VerifiedLog::open(&path, BOOT).unwrap();
        assert_eq!(known, HashMap::from([(sha256, key), (other, key)]));
    }
}
