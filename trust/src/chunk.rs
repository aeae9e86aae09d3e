//! Chunks: the unit that is stored and transferred (docs/format.md section 11).

use serde::{Deserialize, Serialize};

use crate::codec::{Reader, Writer};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::limits;

/// One zstd frame, stored as `objects/<aa>/<sha256>`.
///
/// The stored bytes are named by their own digest, so they are checked before they are
/// decompressed. The plain digest lets a signer reuse what is published, whatever its
/// compressor would make of the same bytes today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// Digest of the stored bytes.
    pub sha256: Digest,
    /// Stored size, bytes.
    pub size: u32,
    /// Digest of the decompressed bytes.
    pub plain_sha256: Digest,
    /// Decompressed size, bytes.
    pub plain_size: u32,
}

impl Chunk {
    /// Reads a record of a layout.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, VerifyError> {
        Ok(Self {
            sha256: reader.digest()?,
            size: reader.u32()?,
            plain_sha256: reader.digest()?,
            plain_size: reader.u32()?,
        })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.digest(&self.sha256);
        writer.u32(self.size);
        writer.digest(&self.plain_sha256);
        writer.u32(self.plain_size);
    }

    /// Checks the sizes against their bounds.
    ///
    /// # Errors
    /// `SizeExceeded`, or `Malformed` for an empty chunk.
    pub fn check(&self) -> Result<(), VerifyError> {
        if u64::from(self.size) > limits::CHUNK_STORED_BYTES {
            return Err(VerifyError::SizeExceeded { what: "chunk", limit: limits::CHUNK_STORED_BYTES });
        }
        if u64::from(self.plain_size) > limits::CHUNK_PLAIN_BYTES {
            return Err(VerifyError::SizeExceeded { what: "chunk", limit: limits::CHUNK_PLAIN_BYTES });
        }
        if self.size == 0 || self.plain_size == 0 {
            return Err(VerifyError::malformed("chunk", "an empty chunk"));
        }
        Ok(())
    }

    /// Checks stored bytes and decompresses them into a buffer of exactly `plain_size`.
    ///
    /// # Errors
    /// `DigestMismatch` when the stored or the plain bytes are not the named ones,
    /// `Malformed` when the named bytes are not a frame of that size.
    pub fn decode(&self, stored: &[u8]) -> Result<Vec<u8>, VerifyError> {
        self.check()?;
        expect("chunk", &self.sha256, stored)?;
        let plain = zstd::bulk::decompress(stored, self.plain_size as usize)
            .map_err(|error| VerifyError::malformed("chunk", error))?;
        if plain.len() != self.plain_size as usize {
            return Err(VerifyError::malformed("chunk", "shorter than its record says"));
        }
        expect("chunk", &self.plain_sha256, &plain)?;
        Ok(plain)
    }
}

/// Checks that `bytes` are the ones `expected` names.
///
/// # Errors
/// `DigestMismatch` with `what`.
pub fn expect(what: &'static str, expected: &Digest, bytes: &[u8]) -> Result<(), VerifyError> {
    let found = Digest::of(bytes);
    if found == *expected { Ok(()) } else { Err(VerifyError::DigestMismatch { what, expected: *expected, found }) }
}

/// Checks a list of chunks and that their plain sizes add up to `size`.
///
/// # Errors
/// `SizeExceeded` or `Malformed`.
pub(crate) fn check_list(what: &'static str, chunks: &[Chunk], size: u64) -> Result<(), VerifyError> {
    chunks.iter().try_for_each(Chunk::check)?;
    let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.plain_size)).sum();
    if sum != size {
        return Err(VerifyError::malformed(what, format!("its chunks hold {sum} bytes, it has {size}")));
    }
    Ok(())
}
