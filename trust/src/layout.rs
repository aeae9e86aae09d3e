//! The layout: where a tree's bytes lie in chunks (docs/format.md section 10).
//!
//! It is not signed but named under the head, and every file is hashed after it is put
//! together. A wrong layout costs availability, never integrity, so layouts can become
//! better without signing again.

use std::ops::Range;

use crate::chunk::Chunk;
use crate::codec::{Reader, Writer};
use crate::error::VerifyError;
use crate::limits;
use crate::tree::Tree;

/// The first bytes of an encoded layout: name and version of the format.
pub const MAGIC: &[u8; 8] = b"mcpflay\x01";

/// Chunks, and for each content of [`Tree::contents`] where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The content chunks.
    pub chunks: Vec<Chunk>,
    /// One for each of the tree's contents, in their order.
    pub contents: Vec<Extent>,
}

/// Where a content begins. If it is longer than the rest of that chunk, it goes on at the
/// start of the next one: a chunk holds whole small contents or a piece of a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index of the first chunk.
    pub chunk: u32,
    /// Offset in that chunk's plain bytes.
    pub offset: u32,
}

impl Layout {
    /// Decodes a layout and checks that every content of `tree` lies inside its chunks.
    ///
    /// # Errors
    /// `Malformed` or `SizeExceeded`.
    pub fn decode(bytes: &[u8], tree: &Tree) -> Result<Self, VerifyError> {
        let layout = Self::parse(bytes)?;
        if layout.contents.len() != tree.contents().len() {
            return Err(VerifyError::malformed("layout", "made for another tree"));
        }
        // Bytes held by the chunks from each one on, so that the check is linear.
        let mut held: Vec<u64> = vec![0; layout.chunks.len() + 1];
        for (index, chunk) in layout.chunks.iter().enumerate().rev() {
            held[index] = held[index + 1] + u64::from(chunk.plain_size);
        }
        for (index, extent) in layout.contents.iter().enumerate() {
            let size = tree.content(index as u32).map_or(0, |(size, _)| size);
            let chunk = layout.chunks.get(extent.chunk as usize).map_or(0, |chunk| chunk.plain_size);
            let held = held.get(extent.chunk as usize).copied().unwrap_or(0);
            if extent.offset >= chunk || size > held - u64::from(extent.offset) {
                return Err(VerifyError::malformed("layout", "a content outside its chunks"));
            }
        }
        Ok(layout)
    }

    /// Decodes a layout by its form alone.
    ///
    /// # Errors
    /// `Malformed` or `SizeExceeded`.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerifyError> {
        if bytes.len() as u64 > limits::LAYOUT_BYTES {
            return Err(VerifyError::SizeExceeded { what: "layout", limit: limits::LAYOUT_BYTES });
        }
        let mut reader = Reader::new("layout", MAGIC, bytes)?;
        let chunks = reader.u32()?;
        let contents = reader.u32()?;
        if chunks as usize > limits::LAYOUT_CHUNKS || contents as usize > limits::TREE_NODES {
            return Err(VerifyError::malformed("layout", "more chunks or contents than allowed"));
        }
        // A chunk takes at least 66 bytes and an extent two: a short input cannot ask for much.
        let mut layout = Self {
            chunks: Vec::with_capacity((chunks as usize).min(bytes.len() / 66)),
            contents: Vec::with_capacity((contents as usize).min(bytes.len() / 2)),
        };
        for _ in 0..chunks {
            let chunk = Chunk::read(&mut reader)?;
            chunk.check()?;
            layout.chunks.push(chunk);
        }
        for _ in 0..contents {
            layout.contents.push(Extent { chunk: reader.u32()?, offset: reader.u32()? });
        }
        reader.finish()?;
        Ok(layout)
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(MAGIC, self.chunks.len() * 72 + self.contents.len() * 6);
        writer.u32(self.chunks.len() as u32);
        writer.u32(self.contents.len() as u32);
        for chunk in &self.chunks {
            chunk.write(&mut writer);
        }
        for extent in &self.contents {
            writer.u32(extent.chunk);
            writer.u32(extent.offset);
        }
        writer.finish()
    }

    /// The indexes of the chunks that hold `size` bytes from `extent` on; `None` if they end before.
    pub fn span(&self, extent: Extent, size: u64) -> Option<Range<usize>> {
        let first = extent.chunk as usize;
        let mut held = u64::from(self.chunks.get(first)?.plain_size).checked_sub(u64::from(extent.offset))?;
        let mut end = first + 1;
        while held < size {
            held += u64::from(self.chunks.get(end)?.plain_size);
            end += 1;
        }
        Some(first..end)
    }
}
