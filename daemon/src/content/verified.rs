//! Which cached files were verified in this boot.
//!
//! A file of the cache counts as verified while it is the same inode with the same change
//! time as when its whole content hashed to its name. The kernel sets the change time and
//! no call sets it back, so a later write, truncation, link or change of mode shows. That
//! knowledge is worth nothing in another boot, where the disk may have been elsewhere: it
//! lives in the run directory, which a reboot empties, under a header that names the boot.
//!
//! The file is append-only, one record each time a file is verified; the latest counts.
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

/// The open log.
#[derive(Debug)]
pub(super) struct VerifiedLog(File);

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
            return Ok((Self(file), HashMap::new()));
        }
        let (records, torn) = bytes[HEADER..].as_chunks::<RECORD>();
        let known: HashMap<_, _> = records.iter().map(FileKey::parse).collect();
        if !torn.is_empty() || records.len() > 2 * known.len() + 1024 {
            let mut kept = header;
            known.iter().for_each(|(sha256, key)| key.record(sha256, &mut kept));
            file.set_len(0).map_err(failed)?;
            file.write_all(&kept).map_err(failed)?;
        }
        Ok((Self(file), known))
    }

    /// Appends whole records. After a failure nothing torn is left in front of the next ones.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.0.write_all(records).inspect_err(|_| {
            if let Ok(metadata) = self.0.metadata() {
                let torn = metadata.len().saturating_sub(HEADER as u64) % RECORD as u64;
                drop(self.0.set_len(metadata.len() - torn));
            }
        })
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
