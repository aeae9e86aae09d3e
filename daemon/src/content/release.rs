//! A release's tree and layout, and the way from a file to its bytes and back.

use std::sync::atomic::{AtomicBool, Ordering};

use super::hold::Hold;
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::tree::{Kind, NodeId, Tree};

/// A verified tree with the layout that was decoded for it.
#[derive(Debug)]
pub struct ReleaseContent {
    /// What the files are.
    pub tree: Tree,
    /// Where their bytes lie.
    pub layout: Layout,
    /// The contents by first chunk: those of chunk `c` are `order[starts[c]..starts[c + 1]]`.
    order: Vec<u32>,
    starts: Vec<u32>,
    prefetching: AtomicBool,
    /// Spares their files.
    _hold: Option<Hold>,
}

/// A content that is to be in the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) sha256: Digest,
    pub(super) size: u64,
    /// Its place in `Tree::contents`; `None` if it is empty.
    pub(super) content: Option<u32>,
}

/// Bytes `from..from + len` of a chunk that belong at `at` in a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) chunk: Chunk,
    /// The chunk's index in its layout, if it has one.
    pub(super) index: Option<usize>,
    pub(super) from: usize,
    pub(super) len: usize,
    pub(super) at: u64,
}

impl ReleaseContent {
    /// Joins a tree with its layout. `hold` spares their files for as long as this lives.
    pub fn new(tree: Tree, layout: Layout, hold: Option<Hold>) -> Self {
        let mut order: Vec<u32> = (0..layout.contents.len() as u32).collect();
        order.sort_by_key(|content| layout.contents[*content as usize].chunk);
        let mut starts = vec![0; layout.chunks.len() + 1];
        for extent in &layout.contents {
            if let Some(count) = starts.get_mut(extent.chunk as usize + 1) {
                *count += 1;
            }
        }
        for chunk in 1..starts.len() {
            starts[chunk] += starts[chunk - 1];
        }
        Self { tree, layout, order, starts, prefetching: AtomicBool::new(false), _hold: hold }
    }

    /// Bytes to transfer for all of it.
    pub fn stored_bytes(&self) -> u64 {
        self.layout.chunks.iter().map(|chunk| u64::from(chunk.size)).sum()
    }

    /// What a file node wants; `None` for other nodes.
    pub(super) fn wanted(&self, node: NodeId) -> Option<Wanted> {
        match self.tree.node(node)?.kind {
            Kind::File { size, sha256, content, .. } => Some(Wanted { sha256, size, content }),
            Kind::Directory | Kind::Link { .. } => None,
        }
    }

    /// The pieces of a content in order. `None` if tree and layout do not belong together.
    pub(super) fn pieces(&self, wanted: &Wanted) -> Option<Vec<Piece>> {
        let extent = *self.layout.contents.get(wanted.content? as usize)?;
        let mut pieces = Vec::new();
        let (mut at, mut from) = (0, extent.offset as usize);
        for index in self.layout.span(extent, wanted.size)? {
            let chunk = *self.layout.chunks.get(index)?;
            let rest = (chunk.plain_size as usize).checked_sub(from)?;
            let len = rest.min(usize::try_from(wanted.size - at).unwrap_or(usize::MAX));
            pieces.push(Piece { chunk, index: Some(index), from, len, at });
            at += len as u64;
            from = 0;
        }
        (at == wanted.size).then_some(pieces)
    }

    /// The contents that begin in a chunk.
    pub(super) fn beginning_in(&self, chunk: usize) -> impl Iterator<Item = Wanted> {
        let range = match (self.starts.get(chunk), self.starts.get(chunk + 1)) {
            (Some(start), Some(end)) => *start as usize..*end as usize,
            _ => 0..0,
        };
        let contents = self.order.get(range).unwrap_or_default();
        contents.iter().filter_map(|content| self.wanted(*self.tree.contents().get(*content as usize)?))
    }

    /// A chunk's place in the layout; its first one, if it has several.
    pub(super) fn index_of(&self, chunk: &Chunk) -> Option<usize> {
        self.layout.chunks.iter().position(|one| one == chunk)
    }

    /// Whether the caller is the one who prefetches.
    pub(super) fn begin_prefetch(&self) -> bool {
        !self.prefetching.swap(true, Ordering::Relaxed)
    }

    /// Lets a later open try again.
    pub(super) fn prefetch_failed(&self) {
        self.prefetching.store(false, Ordering::Relaxed);
    }
}
