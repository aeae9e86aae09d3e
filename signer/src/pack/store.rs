//! Chunks on their way into a folder, or found among those already published.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use zstd::zstd_safe::CParameter;

use super::PackError;

/// Published chunks by the digest of their plain bytes.
#[derive(Debug, Clone, Default)]
pub struct KnownChunks(HashMap<Digest, Chunk>);

impl KnownChunks {
    /// None: everything is stored anew.
    pub fn none() -> Self {
        Self::default()
    }

    /// The published chunk that holds these plain bytes.
    pub fn get(&self, plain: &Digest) -> Option<&Chunk> {
        self.0.get(plain)
    }
}

impl FromIterator<Chunk> for KnownChunks {
    /// Of two chunks with one plain content the one with the smaller stored digest is taken, so
    /// that the order of reading a site does not matter.
    fn from_iter<I: IntoIterator<Item = Chunk>>(chunks: I) -> Self {
        let mut known: HashMap<Digest, Chunk> = HashMap::new();
        for chunk in chunks {
            let kept = known.entry(chunk.plain_sha256).or_insert(chunk);
            if chunk.sha256 < kept.sha256 {
                *kept = chunk;
            }
        }
        Self(known)
    }
}

/// A folder of stored chunks named by their digest; each distinct plain content is packed once.
#[derive(Debug)]
pub struct ChunkStore {
    folder: PathBuf,
    level: i32,
    known: KnownChunks,
}

impl ChunkStore {
    /// The zstd level by default: a fifth of level 19's time, a few percent larger.
    pub const LEVEL: i32 = 12;

    /// A store in the existing `folder`; what is `known` is not stored again.
    pub fn new(folder: &Path, level: i32, known: KnownChunks) -> Self {
        Self { folder: folder.to_owned(), level, known }
    }

    /// Stores one chunk of plain bytes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&mut self, plain: &[u8]) -> Result<Chunk, PackError> {
        let plain_sha256 = Digest::of(plain);
        if let Some(chunk) = self.known.get(&plain_sha256) {
            return Ok(*chunk);
        }
        let stored = compress(plain, self.level).map_err(PackError::Store)?;
        let sha256 = Digest::of(&stored);
        let number = |len: usize| u32::try_from(len).map_err(|_| PackError::Store(io::ErrorKind::FileTooLarge.into()));
        let chunk = Chunk { sha256, size: number(stored.len())?, plain_sha256, plain_size: number(plain.len())? };
        self.write(&sha256, &stored).map_err(PackError::Store)?;
        self.known.0.insert(plain_sha256, chunk);
        Ok(chunk)
    }

    fn write(&self, sha256: &Digest, stored: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(stored)?;
        file.persist(self.folder.join(sha256.to_string())).map_err(|error| error.error)?;
        Ok(())
    }
}

/// One zstd frame: content size in its header, no checksum (digests are stronger), and a
/// window that never exceeds the largest chunk.
fn compress(plain: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
    compressor.set_parameter(CParameter::ChecksumFlag(false))?;
    compressor.set_parameter(CParameter::WindowLog(mcpfs_trust::limits::CHUNK_PLAIN_BYTES.trailing_zeros()))?;
    compressor.compress(plain)
}
