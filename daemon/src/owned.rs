//! Files that decide what is trusted.
//!
//! `trust.json` and the configuration are only as good as the list of people who can write
//! them, so both are read through this one door: the file and every directory above it belong
//! to root or to the daemon's own user and nobody else can write them (but for sticky ones
//! further above, such as /tmp). What is checked is the open descriptor and the directories
//! that really hold it (links resolved), so that nothing can be exchanged between the check
//! and the read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a file that must be safe is not, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OwnedError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could have written it.
    #[error("{path} {problem}: {remedy}")]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// It is larger than such a file can sensibly be.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, bytes.
        limit: u64,
    },
}

/// Reads at most `limit` bytes of a file that only root or this process's user can write.
///
/// # Errors
/// As [`OwnedError`]; a missing file is `Unreadable`.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, OwnedError> {
    let unreadable = |source| OwnedError::Unreadable { path: path.to_owned(), source };
    let real = path.canonicalize().map_err(unreadable)?;
    let file = File::open(&real).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(OwnedError::Unsafe {
            path: real,
            problem: "is not a regular file".to_owned(),
            remedy: "put the file itself there".to_owned(),
        });
    }
    check(&real, &metadata)?;
    for holder in [path.parent(), real.parent()].into_iter().flatten() {
        let holder = if holder.as_os_str().is_empty() { Path::new(".") } else { holder };
        check(holder, &holder.metadata().map_err(unreadable)?)?;
    }
    // Who can write further above can put another directory in the place of these.
    let named = std::path::absolute(path).map_err(unreadable)?;
    for above in [named.as_path(), real.as_path()].into_iter().flat_map(|path| path.ancestors().skip(2)) {
        let metadata = above.metadata().map_err(unreadable)?;
        // In a sticky directory nobody can exchange what belongs to another.
        if metadata.mode() & 0o1000 == 0 || metadata.mode() & 0o022 == 0 {
            check(above, &metadata)?;
        }
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(OwnedError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// The rule itself, for a file or a directory.
fn check(path: &Path, metadata: &std::fs::Metadata) -> Result<(), OwnedError> {
    let user = rustix::process::geteuid().as_raw();
    let problem = |problem: String, remedy: String| Err(OwnedError::Unsafe { path: path.to_owned(), problem, remedy });
    if metadata.uid() != 0 && metadata.uid() != user {
        return problem(format!("belongs to user {}", metadata.uid()), format!("chown root {}", path.display()));
    }
    if metadata.mode() & 0o022 != 0 {
        return problem(
            format!("can be written by others (mode {:04o})", metadata.mode() & 0o7777),
            format!("chmod go-w {}", path.display()),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn others_must_not_write() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trust.json");
        std::fs::write(&file, "{}").unwrap();
        set_mode(&file, 0o644);
        assert_eq!(read(&file, 10).unwrap(), b"{}");
        assert!(matches!(read(&file, 1), Err(OwnedError::TooLarge { .. })));
        for mode in [0o664, 0o646, 0o666] {
            set_mode(&file, mode);
            assert!(matches!(read(&file, 10), Err(OwnedError::Unsafe { .. })), "{mode:o}");
        }
        set_mode(&file, 0o600);
        set_mode(dir.path(), 0o777);
        let error = read(&file, 10).unwrap_err().to_string();
        assert!(error.contains("chmod go-w"), "{error}");
        set_mode(dir.path(), 0o700);
    }

    #[test]
    fn nobody_may_exchange_a_directory_further_above() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("a/etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("trust.json"), "{}").unwrap();
        set_mode(&etc.join("trust.json"), 0o644);
        set_mode(&etc, 0o755);
        set_mode(&dir.path().join("a"), 0o777);
        let error = read(&etc.join("trust.json"), 10).unwrap_err().to_string();
        assert!(error.contains(&format!("{} can be written by others", dir.path().join("a").display())), "{error}");
        // As /tmp is: there only the owner can rename or remove a directory.
        set_mode(&dir.path().join("a"), 0o1777);
        assert!(read(&etc.join("trust.json"), 10).is_ok());
        set_mode(&dir.path().join("a"), 0o755);
        assert!(read(&etc.join("trust.json"), 10).is_ok());
    }

    #[test]
    fn a_link_is_as_safe_as_both_its_directories() {
        let (dir, open) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(open.path().join("real"), "x").unwrap();
        set_mode(&open.path().join("real"), 0o644);
        std::os::unix::fs::symlink(open.path().join("real"), dir.path().join("link")).unwrap();
        assert!(read(&dir.path().join("link"), 10).is_ok());
        set_mode(open.path(), 0o777);
        assert!(matches!(read(&dir.path().join("link"), 10), Err(OwnedError::Unsafe { .. })));
        assert!(matches!(read(dir.path(), 10), Err(OwnedError::Unsafe { .. })));
        assert!(matches!(read(&dir.path().join("none"), 10), Err(OwnedError::Unreadable { .. })));
    }
}
