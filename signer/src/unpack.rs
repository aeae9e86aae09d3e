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
pub mod oci;
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

use crate::image::{Config, ImageError, Part};
use crate::recipe::ArtefactSource;

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
    /// A device or a named pipe of an image, which a tree cannot have.
    Device {
        /// The entry.
        path: String,
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
    /// The format, for people: `tar`, `tar.gz`, `tar.zst`, `zip` or `image`.
    pub format: &'static str,
    /// What the artefact says of its own start: an MCPB manifest, or what is wrong with it.
    pub manifest: Option<Result<mcpb::Manifest, String>>,
    /// What an OCI manifest names besides itself.
    pub parts: Vec<Part>,
    /// What an image's config says of it and of its start.
    pub image: Option<Config>,
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
    /// One layer of an image.
    #[error("layer {number} of {all} is refused")]
    Layer {
        /// Which, from 1.
        number: usize,
        /// How many there are.
        all: usize,
        /// Why.
        #[source]
        source: Box<UnpackError>,
    },
    /// A manifest or config that is not one.
    #[error("its {0} is refused")]
    Image(&'static str, #[source] ImageError),
    /// A part of an OCI artefact that is not there as its manifest says.
    #[error("{sha256}, a part of the artefact, cannot be used: {problem}")]
    Part {
        /// Its digest.
        sha256: Digest,
        /// What is wrong.
        problem: String,
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
    let spool = Spool::new(scratch).map_err(UnpackError::Spool)?;
    let budget = Budget::for_artefact(size);
    let entries = entries::Entries::new(spool, budget.clone());
    let begin = begin_of(&mut file).map_err(UnpackError::Damaged)?;
    if begin.starts_with(b"PK\x03\x04") || begin.starts_with(b"PK\x05\x06") {
        let mut archive = zip::read(file, size, entries)?.finish("zip")?;
        archive.manifest = mcpb::read(&mut archive);
        return Ok(archive);
    }
    let (stream, format) = tar_stream(file, false)?;
    tar::read(stream, entries, &budget)?.finish(format)
}

/// Reads the artefact of `source` in `file`; the parts of one that has some lie in `folder`.
///
/// # Errors
/// As [`unpack`] and [`oci::unpack`].
pub fn of_source(source: &ArtefactSource, file: File, folder: &Path, scratch: &Path) -> Result<Archive, UnpackError> {
    match source.is_manifest() {
        true => oci::unpack(file, folder, scratch),
        false => unpack(file, scratch),
    }
}

/// A tar from its first byte, decompressed by what it begins with, and the format for people. Only
/// where it may be empty are zeros, the end mark alone, one too.
fn tar_stream(mut file: File, may_be_empty: bool) -> Result<(Box<dyn Read>, &'static str), UnpackError> {
    let begin = begin_of(&mut file).map_err(UnpackError::Damaged)?;
    // gzip may have several members, zstd several frames; both read as one stream.
    if begin.starts_with(&[0x1f, 0x8b]) {
        return Ok((Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file))), "tar.gz"));
    }
    if begin.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut stream = zstd::Decoder::new(file).map_err(UnpackError::Damaged)?;
        // 128 MiB: what `zstd -19 --long` needs, and no more memory than that.
        stream.window_log_max(27).map_err(UnpackError::Damaged)?;
        return Ok((Box::new(stream), "tar.zst"));
    }
    let zeros = begin.len() == BEGIN_BYTES && begin.iter().all(|byte| *byte == 0);
    if tar::looks_like_header(&begin) || (zeros && may_be_empty) {
        return Ok((Box::new(BufReader::new(file)), "tar"));
    }
    let begin: Vec<String> = begin.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Err(UnpackError::Format { begin: if begin.is_empty() { "nothing".to_owned() } else { begin.join(" ") } })
}

/// The first bytes of a file, which is at its start again afterwards.
fn begin_of(file: &mut File) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut begin = vec![0; BEGIN_BYTES];
    let read = read_up_to(file, &mut begin)?;
    begin.truncate(read);
    file.seek(SeekFrom::Start(0))?;
    Ok(begin)
}

/// What is called with the name, the size and the content of a file.
pub type Visit<'a> = dyn FnMut(&[u8], u64, &mut dyn Read) -> std::io::Result<()> + 'a;

/// Visits the regular files of a .zip or .tar in the archive's order, without keeping anything:
/// for archives of many small documents. An error of `visit` ends it as [`UnpackError::Damaged`].
///
/// # Errors
/// The first reason to refuse the archive, or what `visit` says.
pub fn each_file(mut file: &File, visit: &mut Visit<'_>) -> Result<(), UnpackError> {
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

/// One block of a tar.
const BEGIN_BYTES: usize = 512;

/// Bits that a tree drops: set-user, set-group, sticky.
const SPECIAL_BITS: u32 = 0o7000;

/// Entries that one archive may have; the tree has one node more, its root.
const ENTRIES: usize = limits::TREE_NODES - 1;
