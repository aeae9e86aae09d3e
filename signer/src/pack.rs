//! From entries to a tree, and from a tree to chunks.
//!
//! # The rule of cutting (docs/format.md, layout)
//!
//! Contents go in the order of [`Tree::contents`]: each distinct one once, at its first path.
//!
//! * A content above 1 MiB is *large*: it starts a chunk of its own and is cut by FastCDC v2020
//!   (minimum 256 KiB, average 1 MiB, maximum 4 MiB, normalisation level 1).
//! * The others are joined, whole, into groups. A group ends before a content that would bring
//!   it above 4 MiB, before a large content, and after a content if the group has at least
//!   256 KiB and the first 8 bytes of that content's SHA-256, as a big-endian number, are
//!   divisible by 64.
//!
//! So a group's end depends on what is in it and not on where it lies: a file added in front
//! moves one boundary, and the groups behind it keep their bytes and digests. A host that has
//! the last version fetches what changed. Encoded trees and layouts are cut by FastCDC too
//! (16 KiB, 64 KiB, 1 MiB), for the same reason. What gives more pieces than an entry lists
//! (above about 40 MiB, half a million files) is cut like a large content instead; a threshold
//! in bytes was rejected, because it would move the cuts of trees that are published already.
//!
//! Every chunk is one zstd frame. Its plain digest decides whether it is published already;
//! no digest that is frozen anywhere depends on a compressor.
//!
//! Rejected: one chunk a file (thousands of requests), fixed-size chunks (one inserted byte
//! changes all behind it), FastCDC across small files (a file would span two chunks, and one
//! changed file would cost two).

mod store;

#[cfg(test)]
mod tests;

use std::io::Read;

use fastcdc::v2020::{FastCDC, StreamCDC};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{PlatformLayout, StoredLayout};
use mcpfs_trust::layout::{Extent, Layout};
use mcpfs_trust::limits;
use mcpfs_trust::name::Platform;
use mcpfs_trust::release::Launch;
use mcpfs_trust::tree::{BadTree, Kind, NodeId, Tree, TreeBuilder};

use crate::unpack::{Spool, Unpacked, UnpackedKind};

pub use store::{ChunkStore, KnownChunks};

/// A content above this is cut by itself, bytes.
const LARGE_BYTES: u64 = 1 << 20;
/// Minimum, average and maximum piece of a large content, bytes.
const LARGE_CUT: (usize, usize, usize) = (256 << 10, 1 << 20, 4 << 20);
/// A group from which a content may end it, bytes.
const GROUP_LEAST: usize = 256 << 10;
/// A group's bound, bytes.
const GROUP_MOST: usize = limits::CHUNK_PLAIN_BYTES as usize;
/// One content in so many ends a group.
const GROUP_ENDS: u64 = 64;
/// Minimum, average and maximum piece of an encoded tree or layout, bytes.
const METADATA_CUT: (usize, usize, usize) = (16 << 10, 64 << 10, 1 << 20);

/// A tree's layout and everything an entry says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Where the bytes lie.
    pub layout: Layout,
    /// What the entry lists.
    pub listed: PlatformLayout,
}

/// Why a tree cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Contents that are not those of the tree.
    #[error("content {0} is missing or is not what its digest says")]
    Content(Digest),
    /// More than an entry may list.
    #[error("{what} would need {count} chunks; an entry lists at most {limit}: give the release fewer files")]
    TooMany {
        /// The tree or the layout.
        what: &'static str,
        /// Chunks needed.
        count: usize,
        /// The bound.
        limit: usize,
    },
    /// A chunk that is not one of those expected.
    #[error("packing again gives a chunk that staging does not have ({0})")]
    Unexpected(Digest),
    /// The folder of chunks.
    #[error("cannot write chunks")]
    Store(#[source] std::io::Error),
    /// The spool of contents.
    #[error("cannot read the unpacked contents")]
    Spool(#[source] std::io::Error),
}

/// The canonical tree of unpacked entries.
///
/// # Errors
/// Paths that contradict each other, links that leave the tree or loop, or passed bounds.
pub fn tree(entries: &[Unpacked]) -> Result<Tree, BadTree> {
    let mut builder = TreeBuilder::new();
    for entry in entries {
        match &entry.kind {
            UnpackedKind::Directory => builder.directory(&entry.path)?,
            UnpackedKind::File { executable, size, sha256 } => {
                builder.file(&entry.path, *executable, *size, *sha256)?;
            }
            UnpackedKind::Link { target } => builder.link(&entry.path, target)?,
        }
    }
    builder.build()
}

/// Cuts a tree's contents, the tree itself and the layout into chunks.
///
/// `put` stores one plain chunk and returns its record.
///
/// # Errors
/// Contents missing from the spool, too many chunks, or errors of `put`.
pub fn pack(
    platform: &Platform,
    tree: &Tree,
    spool: &Spool,
    launch: Option<&Launch>,
    put: &mut dyn FnMut(&[u8]) -> Result<Chunk, PackError>,
) -> Result<Packed, PackError> {
    let layout = contents(tree, spool, put)?;
    let encoded_tree = tree.encode();
    let tree_chunks = metadata("the tree", &encoded_tree, put)?;
    let encoded = layout.encode();
    let stored = StoredLayout {
        sha256: Digest::of(&encoded),
        size: encoded.len() as u64,
        chunks: metadata("the layout", &encoded, put)?,
    };
    let first = first(tree, &layout, launch);
    let listed = PlatformLayout { platform: platform.clone(), tree: tree_chunks, layout: stored, first };
    Ok(Packed { layout, listed })
}

/// Cuts all contents.
fn contents(
    tree: &Tree,
    spool: &Spool,
    put: &mut dyn FnMut(&[u8]) -> Result<Chunk, PackError>,
) -> Result<Layout, PackError> {
    let mut layout = Layout { chunks: Vec::new(), contents: Vec::with_capacity(tree.contents().len()) };
    let mut group: Vec<u8> = Vec::new();
    for id in tree.contents() {
        let Some(Kind::File { size, sha256, .. }) = tree.node(*id).map(|node| node.kind) else { continue };
        let large = size > LARGE_BYTES;
        if large || group.len() as u64 + size > GROUP_MOST as u64 {
            close(&mut group, &mut layout, put)?;
        }
        layout.contents.push(Extent { chunk: layout.chunks.len() as u32, offset: group.len() as u32 });
        let mut reader = spool.reader(&sha256).ok_or(PackError::Content(sha256))?;
        if large {
            let (min, avg, max) = LARGE_CUT;
            for piece in StreamCDC::new(reader, min, avg, max) {
                let piece = piece.map_err(|error| PackError::Spool(error.into()))?;
                layout.chunks.push(put(&piece.data)?);
            }
            continue;
        }
        let before = group.len();
        reader.read_to_end(&mut group).map_err(PackError::Spool)?;
        // The spool is ours, but what leaves it is what gets published.
        if Digest::of(&group[before..]) != sha256 {
            return Err(PackError::Content(sha256));
        }
        if group.len() >= GROUP_LEAST && ends_group(&sha256) {
            close(&mut group, &mut layout, put)?;
        }
    }
    close(&mut group, &mut layout, put)?;
    Ok(layout)
}

fn close(
    group: &mut Vec<u8>,
    layout: &mut Layout,
    put: &mut dyn FnMut(&[u8]) -> Result<Chunk, PackError>,
) -> Result<(), PackError> {
    if !group.is_empty() {
        layout.chunks.push(put(group)?);
        group.clear();
    }
    Ok(())
}

fn ends_group(sha256: &Digest) -> bool {
    let [a, b, c, d, e, f, g, h, ..] = *sha256.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) % GROUP_ENDS == 0
}

/// Cuts an encoded tree or layout.
fn metadata(
    what: &'static str,
    bytes: &[u8],
    put: &mut dyn FnMut(&[u8]) -> Result<Chunk, PackError>,
) -> Result<Vec<Chunk>, PackError> {
    let cut = |(min, avg, max)| FastCDC::new(bytes, min, avg, max).collect::<Vec<_>>();
    let mut pieces = cut(METADATA_CUT);
    if pieces.len() > limits::LISTED_CHUNKS {
        pieces = cut(LARGE_CUT);
    }
    if pieces.len() > limits::LISTED_CHUNKS {
        return Err(PackError::TooMany { what, count: pieces.len(), limit: limits::LISTED_CHUNKS });
    }
    pieces.iter().map(|piece| put(&bytes[piece.offset..piece.offset + piece.length])).collect()
}

/// The chunks that a launch wants first: all of a small release; else those of the command,
/// and then the smallest, which hold most files for their size.
fn first(tree: &Tree, layout: &Layout, launch: Option<&Launch>) -> Vec<Chunk> {
    let mut indexes: Vec<usize> = Vec::new();
    if layout.chunks.len() <= limits::FIRST_CHUNKS {
        indexes.extend(0..layout.chunks.len());
    } else {
        let command = launch.and_then(|launch| launch.tree_path()).and_then(|path| tree.resolve(path));
        indexes.extend(command.and_then(|id| chunks_of(tree, layout, id)).into_iter().flatten());
        let mut smallest: Vec<usize> = (0..layout.chunks.len()).collect();
        smallest.sort_by_key(|index| (layout.chunks[*index].plain_size, *index));
        smallest.truncate(limits::FIRST_CHUNKS);
        smallest.sort_unstable();
        indexes.extend(smallest);
    }
    let mut seen = std::collections::HashSet::new();
    let distinct = indexes.into_iter().map(|index| layout.chunks[index]).filter(|chunk| seen.insert(chunk.sha256));
    distinct.take(limits::FIRST_CHUNKS).collect()
}

fn chunks_of(tree: &Tree, layout: &Layout, id: NodeId) -> Option<std::ops::Range<usize>> {
    match tree.node(id)?.kind {
        Kind::File { size, content: Some(content), .. } => layout.span(*layout.contents.get(content as usize)?, size),
        _ => None,
    }
}
