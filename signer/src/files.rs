//! Reading with a bound, and writing so that a crash leaves the old file or the new one.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use mcpfs_trust::digest::{Digest, Hasher};

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened.
pub enum FileError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path} is larger than {limit} bytes")]
    TooLarge { path: PathBuf, limit: u64 },
}

impl FileError {
    /// A failed read of `path`.
    pub fn read(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    /// A failed write of `path`.
    pub fn write(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }

    /// Whether it says that there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Writes to `to`, and hashes what went there.
#[derive(Debug)]
pub struct Hashing<W> {
    to: W,
    hasher: Hasher,
}

impl<W> Hashing<W> {
    /// Nothing written yet.
    pub fn new(to: W) -> Self {
        Self { to, hasher: Hasher::new() }
    }

    /// What was written to, and the digest of what went there.
    pub fn finish(self) -> (W, Digest) {
        (self.to, self.hasher.finish())
    }
}

impl<W: std::io::Write> std::io::Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Opens a file of a folder that others may have written: whatever else lies there under its name, such
/// as a pipe, is refused at once, since opening or reading that could take for ever.
///
/// # Errors
/// If it cannot be opened or is no file.
pub fn open_file(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "is not a file")),
    }
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// If it cannot be read or is larger.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::read(path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(FileError::read(path))?;
    match bytes.len() as u64 > limit {
        true => Err(FileError::TooLarge { path: path.to_owned(), limit }),
        false => Ok(bytes),
    }
}

/// Makes the folder that `path` will lie in. Those that were missing are open to everybody,
/// whatever the umask: a site is read by web servers under other users.
///
/// # Errors
/// If one cannot be made.
pub fn make_public_folder(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt as _;
    let folders: Vec<_> = path.ancestors().skip(1).take_while(|folder| !folder.as_os_str().is_empty()).collect();
    for folder in folders.into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => {
                let open = fs::Permissions::from_mode(0o755);
                fs::set_permissions(folder, open).map_err(FileError::write(folder))?;
            }
            Err(_) if folder.is_dir() => {}
            Err(error) => return Err(FileError::write(folder)(error)),
        }
    }
    Ok(())
}

/// Writes a file whole: into a temporary one beside it, synced, then renamed (`replace`) or
/// linked into place, and the folder synced.
///
/// # Errors
/// If it cannot be written, or exists and `replace` is false.
pub fn write_durably(path: &Path, bytes: &[u8], replace: bool) -> Result<(), FileError> {
    let write = FileError::write(path);
    put_durably(path, replace, |file| file.write_all(bytes)).map_err(write)
}

/// As [`write_durably`], filled by `fill`.
///
/// # Errors
/// As [`write_durably`], and whatever `fill` says.
pub fn put_durably(
    path: &Path,
    replace: bool,
    fill: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    // The prefix hides it from web servers' listings and tells what a crash left behind.
    let mut temporary = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    fill(temporary.as_file_mut())?;
    // Read by web servers under other users.
    temporary.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    temporary.as_file().sync_all()?;
    match replace {
        true => temporary.persist(path).map_err(|error| error.error)?,
        false => temporary.persist_noclobber(path).map_err(|error| error.error)?,
    };
    File::open(folder)?.sync_all()
}
