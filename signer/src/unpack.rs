//! Archives become entries here, and nowhere else.
//!
//! An archive is hostile until proven otherwise, and two readers of one archive must not see
//! two different trees: what a reviewer's tool shows is what a host runs. So whatever tools
//! read differently is refused with a reason instead of being given a meaning: a path twice, a
//! size in two places, bytes between or after the entries, a local zip header that contradicts
//! the directory. Nothing is ever written under a name from an archive: contents go to one
//! anonymous spool file, and names are only text in a list.
//!
//! Formats are told by content, never by file name. Rejected: `tar::Archive::unpack` and
//! `zip::ZipArchive` (made to extract; lenient where this must be strict), and handing archives
//! to system tools.

mod budget;
mod entries;
pub mod mcpb;
mod spool;
mod tar;
mod zip;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::limits;

pub use budget::Budget;
pub use spool::Spool;

/// One entry of an artefact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Its path below the tree's root.
    pub path: String,
    /// What it is.
    pub kind: UnpackedKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnpackedKind {
    /// A directory that the archive names; those above files are implied.
    Directory,
    /// A regular file; its bytes lie in the spool under their digest.
    File {
        /// Whether its owner may execute it.
        executable: bool,
        /// Size, bytes.
        size: u64,
        /// Digest of its content.
        sha256: Digest,
    },
    /// A symbolic link with a target relative to its own directory.
    Link {
        /// The target.
        target: String,
    },
}

/// Something that was changed on the way in, for the reviewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// Set-user, set-group or sticky bits, which a tree cannot have.
    SpecialBits {
        /// The entry.
        path: String,
        /// Its mode in the archive.
        mode: u32,
    },
    /// An absolute link, now relative to the tree's root.
    Rewritten {
        /// The entry.
        path: String,
        /// The target in the archive.
        target: String,
    },
    /// The program of a binary bundle, whose packer drops the mode.
    MadeExecutable {
        /// The entry.
        path: String,
    },
}

/// What an artefact holds.
#[derive(Debug)]
pub struct Archive {
    /// The entries, in the archive's order.
    pub entries: Vec<Unpacked>,
    /// Their contents.
    pub spool: Spool,
    /// What was changed on the way in.
    pub remarks: Vec<Remark>,
    /// The format, for people: `tar`, `tar.gz`, `tar.zst` or `zip`.
    pub format: &'static str,
    /// What the artefact says of its own start: an MCPB manifest, or what is wrong with it.
    pub manifest: Option<Result<mcpb::Manifest, String>>,
}

/// Why an artefact is not read.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Not one of the four formats.
    #[error("not a .tar, .tar.gz, .tar.zst or .zip archive (it begins with {begin})")]
    Format {
        /// The first bytes, in hexadecimal.
        begin: String,
    },
    /// One entry that cannot be taken.
    #[error("entry {path:?} {problem}")]
    Entry {
        /// Its path, bounded and escaped.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The archive as a whole.
    #[error("{0}")]
    Archive(String),
    /// More than is allowed.
    #[error("{what} exceeds {limit}: refused as a decompression bomb")]
    Bomb {
        /// What is too much.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The archive ends early or its compression is broken.
    #[error("the archive is damaged or cut off")]
    Damaged(#[source] std::io::Error),
    /// The spool cannot be written or read.
    #[error("cannot use the temporary folder")]
    Spool(#[source] std::io::Error),
}

impl UnpackError {
    fn entry(path: &[u8], problem: impl Into<String>) -> Self {
        Self::Entry { path: bounded(&String::from_utf8_lossy(path)), problem: problem.into() }
    }

    fn archive(problem: impl Into<String>) -> Self {
        Self::Archive(problem.into())
    }
}

/// Reads the artefact in `file`, from its first byte, and spools its contents below `scratch`.
///
/// # Errors
/// The first reason to refuse it; nothing of a refused archive is kept.
pub fn unpack(mut file: File, scratch: &Path) -> Result<Archive, UnpackError> {
    let size = file.metadata().map_err(UnpackError::Damaged)?.len();
    file.seek(SeekFrom::Start(0)).map_err(UnpackError::Damaged)?;
    let mut begin = [0; 512];
    let read = read_up_to(&mut file, &mut begin).map_err(UnpackError::Damaged)?;
    let begin = &begin[..read];
    file.seek(SeekFrom::Start(0)).map_err(UnpackError::Damaged)?;
    let spool = Spool::new(scratch).map_err(UnpackError::Spool)?;
    let budget = Budget::for_artefact(size);
    let entries = entries::Entries::new(spool, budget.clone());
    // gzip may have several members, zstd several frames; both read as one stream.
    let (entries, format) = if begin.starts_with(&[0x1f, 0x8b]) {
        let stream = flate2::bufread::MultiGzDecoder::new(BufReader::new(file));
        (tar::read(stream, entries, &budget)?, "tar.gz")
    } else if begin.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut stream = zstd::Decoder::new(file).map_err(UnpackError::Damaged)?;
        // 128 MiB: what `zstd -19 --long` needs, and no more memory than that.
        stream.window_log_max(27).map_err(UnpackError::Damaged)?;
        (tar::read(stream, entries, &budget)?, "tar.zst")
    } else if begin.starts_with(b"PK\x03\x04") || begin.starts_with(b"PK\x05\x06") {
        (zip::read(file, size, entries)?, "zip")
    } else if tar::looks_like_header(begin) {
        (tar::read(BufReader::new(file), entries, &budget)?, "tar")
    } else {
        let begin: Vec<String> = begin.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        return Err(UnpackError::Format {
            begin: if begin.is_empty() { "nothing".to_owned() } else { begin.join(" ") },
        });
    };
    let mut archive = entries.finish(format)?;
    if format == "zip" {
        archive.manifest = mcpb::read(&mut archive);
    }
    Ok(archive)
}

/// Visits the regular files of a .zip or .tar in the archive's order, without keeping anything:
/// for archives of many small documents. An error of `visit` ends it as [`UnpackError::Damaged`].
///
/// # Errors
/// The first reason to refuse the archive, or what `visit` says.
pub fn each_file(
    mut file: &File,
    visit: &mut dyn FnMut(&[u8], u64, &mut dyn Read) -> std::io::Result<()>,
) -> Result<(), UnpackError> {
    let size = file.metadata().map_err(UnpackError::Damaged)?.len();
    file.seek(SeekFrom::Start(0)).map_err(UnpackError::Damaged)?;
    let mut begin = [0; 512];
    let read = read_up_to(&mut file, &mut begin).map_err(UnpackError::Damaged)?;
    file.seek(SeekFrom::Start(0)).map_err(UnpackError::Damaged)?;
    let budget = Budget::for_artefact(size);
    if begin.starts_with(b"PK\x03\x04") || begin.starts_with(b"PK\x05\x06") {
        let mut paying =
            |name: &[u8], size, content: &mut dyn Read| visit(name, size, &mut budget::Paying::new(content, &budget));
        zip::each_file(file, size, &mut paying).map_err(|error| match error {
            UnpackError::Damaged(error) => budget.explain(error),
            other => other,
        })
    } else if begin[..read].iter().all(|byte| *byte == 0) || tar::looks_like_header(&begin[..read]) {
        tar::each_file(BufReader::new(file), &budget, visit)
    } else {
        Err(UnpackError::archive("neither a .zip nor a .tar archive"))
    }
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Bits that a tree drops: set-user, set-group, sticky.
const SPECIAL_BITS: u32 = 0o7000;

/// Entries that one archive may have; the tree has one node more, its root.
const ENTRIES: usize = limits::TREE_NODES - 1;
