//! A folder as a deterministic tar: the same files give the same bytes on any machine.
//!
//! Sorted by name, times zero, owners zero, modes 0644 or 0755; hard links become files of
//! their own. Anyone can bundle the folder again and compare digests, which is what makes a
//! directory, an npm or a PyPI install something that can be reviewed and pinned.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use mcpfs_trust::limits;
use rustix::fs::OFlags;
use tar::{EntryType, Header};

/// Why a folder is not bundled; paths are below it.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It holds something a tree cannot.
    #[error("{path:?} {problem}")]
    Entry {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The folder (as it was given) or a file of it cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The entry.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tar cannot be written.
    #[error("cannot write the tar")]
    Write(#[source] io::Error),
}

/// Errors of a bundle whose bytes go to a function that can fail its own way.
pub(super) enum Failed<E> {
    Folder(BundleError),
    Sink(E),
}

/// Writes the folder `from` as a deterministic tar to `to`.
///
/// # Errors
/// Files that change while they are read, special files, names that are not UTF-8.
pub fn bundle(from: &Path, mut to: impl Write) -> Result<(), BundleError> {
    bundle_into(from, |bytes| to.write_all(bytes)).map_err(|failed| match failed {
        Failed::Folder(error) => error,
        Failed::Sink(error) => BundleError::Write(error),
    })
}

pub(super) fn bundle_into<E>(from: &Path, put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), Failed<E>> {
    let mut bundle = Bundle { from, put };
    bundle.folder(Path::new(""), 0)?;
    // The end mark: two blocks of zeros.
    bundle.put(&[0; 1024])
}

struct Bundle<'a, P> {
    from: &'a Path,
    put: P,
}

impl<E, P: FnMut(&[u8]) -> Result<(), E>> Bundle<'_, P> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Failed<E>> {
        (self.put)(bytes).map_err(Failed::Sink)
    }

    /// Everything in one folder, by the bytes of the names.
    fn folder(&mut self, below: &Path, depth: usize) -> Result<(), Failed<E>> {
        if depth > limits::TREE_DEPTH {
            return Err(refuse(below, "is too deep"));
        }
        // The folder itself has no name below itself.
        let path = if depth == 0 { self.from } else { below };
        let unreadable = |source| Failed::Folder(BundleError::Read { path: path.to_owned(), source });
        let mut names: Vec<OsString> = Vec::new();
        for entry in fs::read_dir(self.from.join(below)).map_err(unreadable)? {
            names.push(entry.map_err(unreadable)?.file_name());
        }
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for name in names {
            self.entry(&below.join(name), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, below: &Path, depth: usize) -> Result<(), Failed<E>> {
        let Some(name) = below.to_str() else { return Err(refuse(below, "has a name that is not UTF-8")) };
        let path = self.from.join(below);
        let unreadable = |source| Failed::Folder(BundleError::Read { path: below.to_owned(), source });
        let metadata = fs::symlink_metadata(&path).map_err(unreadable)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.header(&format!("{name}/"), EntryType::Directory, 0o755, 0, "")?;
            self.folder(below, depth + 1)
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(unreadable)?;
            let Some(target) = target.to_str() else { return Err(refuse(below, "links to a path that is not UTF-8")) };
            self.header(name, EntryType::Symlink, 0o777, 0, target)
        } else if kind.is_file() {
            let mode = if metadata.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
            self.header(name, EntryType::Regular, mode, metadata.len(), "")?;
            self.content(&path, below, metadata.len())
        } else {
            Err(refuse(below, "is a device, pipe or socket"))
        }
    }

    /// Exactly the announced bytes, and zeros up to the next block.
    fn content(&mut self, path: &Path, below: &Path, size: u64) -> Result<(), Failed<E>> {
        let unreadable = |source| Failed::Folder(BundleError::Read { path: below.to_owned(), source });
        let opened = File::options().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path);
        let mut file = opened.map_err(unreadable)?.take(size.saturating_add(1));
        let mut buffer = vec![0; 128 << 10];
        let mut done = 0;
        loop {
            let read = file.read(&mut buffer).map_err(unreadable)?;
            done += read as u64;
            if done > size || (read == 0 && done < size) {
                return Err(refuse(below, "changed while it was read"));
            }
            if read == 0 {
                let padding = [0; 512];
                return self.put(&padding[..(512 - (size % 512) as usize) % 512]);
            }
            self.put(&buffer[..read])?;
        }
    }

    /// A header, and before it GNU long names where 100 bytes are too few.
    fn header(&mut self, name: &str, kind: EntryType, mode: u32, size: u64, target: &str) -> Result<(), Failed<E>> {
        for (text, long) in [(name, EntryType::GNULongName), (target, EntryType::GNULongLink)] {
            if text.len() > NAME_FIELD {
                let header = plain_header("././@LongLink", long, 0o644, text.len() as u64 + 1, "");
                self.put(header.as_bytes())?;
                self.put(text.as_bytes())?;
                let padding = [0; 512];
                self.put(&padding[..512 - text.len() % 512])?;
            }
        }
        self.put(plain_header(name, kind, mode, size, target).as_bytes())
    }
}

/// Bytes that a name has in a header.
const NAME_FIELD: usize = 100;

/// A header with what fits of its names.
fn plain_header(name: &str, kind: EntryType, mode: u32, size: u64, target: &str) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    let gnu = header.as_old_mut();
    let cut = |text: &str| text.as_bytes()[..text.len().min(NAME_FIELD)].to_vec();
    let (name, target) = (cut(name), cut(target));
    gnu.name[..name.len()].copy_from_slice(&name);
    gnu.linkname[..target.len()].copy_from_slice(&target);
    header.set_cksum();
    header
}

fn refuse<E>(path: &Path, problem: &'static str) -> Failed<E> {
    Failed::Folder(BundleError::Entry { path: path.to_owned(), problem })
}
