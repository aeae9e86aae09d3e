//! Reading files of the published release.
//!
//! Small files lie together in a chunk, in the order of their paths. Whoever reads a tree in its
//! order meets the same chunk many times, so the last ones stay decoded.

use std::fs::File;
use std::io::{self, Write as _};

use mcpfs_trust::entry::PlatformLayout;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::tree::{Kind, NodeId, Tree};

use crate::check::{Capabilities, Inventory};
use crate::site::state::at;
use crate::site::{Site, SiteError};
use crate::trial::Contents;

/// Decoded chunks that are kept, each of at most 4 MiB.
const KEPT: usize = 4;

/// The files of one published tree.
pub(crate) struct PublishedFiles<'a> {
    site: &'a Site,
    tree: &'a Tree,
    layout: Layout,
    /// By index, the last used one last.
    chunks: Vec<(usize, Vec<u8>)>,
}

impl<'a> PublishedFiles<'a> {
    /// Reads the layout, which must be the listed one.
    pub(crate) fn open(site: &'a Site, tree: &'a Tree, stored: &PlatformLayout) -> Result<Self, SiteError> {
        let bytes = site.chunks(&stored.layout.chunks)?;
        mcpfs_trust::chunk::expect("layout", &stored.layout.sha256, &bytes).map_err(at("layout"))?;
        let layout = Layout::decode(&bytes, tree).map_err(at("layout"))?;
        Ok(Self { site, tree, layout, chunks: Vec::new() })
    }

    /// What the tree carries, from its own lockfiles and metadata.
    pub(crate) fn inventory(&mut self) -> Result<Inventory, SiteError> {
        self.whole(Inventory::read)
    }

    /// What its code can do; contents that `known` has seen are not read.
    pub(crate) fn capabilities(&mut self, known: &Capabilities) -> Result<Capabilities, SiteError> {
        self.whole(|tree, content| Capabilities::read(tree, Some(known), content))
    }

    /// A look at the files that fails if one of them cannot be read: what nobody saw must not
    /// look like what was not there.
    fn whole<T>(
        &mut self,
        read: impl FnOnce(&Tree, &mut dyn FnMut(NodeId, u64) -> Result<Vec<u8>, String>) -> T,
    ) -> Result<T, SiteError> {
        let mut failed = None;
        let tree = self.tree;
        let value = read(tree, &mut |id, limit| {
            self.content(id, limit).map_err(|error| {
                let message = error.to_string();
                failed.get_or_insert(error);
                message
            })
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(value),
        }
    }

    /// The first `limit` bytes of a file; a whole one is compared with its digest.
    fn content(&mut self, id: NodeId, limit: u64) -> Result<Vec<u8>, SiteError> {
        let Some(Kind::File { size, sha256, content: Some(index), .. }) = self.tree.node(id).map(|node| node.kind)
        else {
            return Ok(Vec::new());
        };
        let wanted = size.min(limit);
        let Some(extent) = self.layout.contents.get(index as usize).copied() else { return Ok(Vec::new()) };
        let length = usize::try_from(wanted).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        let mut from = extent.offset as usize;
        for chunk in self.layout.span(extent, wanted).unwrap_or_default() {
            let plain = self.chunk(chunk)?;
            let rest = plain.get(from..).unwrap_or_default();
            bytes.extend_from_slice(&rest[..rest.len().min(length - bytes.len())]);
            from = 0;
        }
        if wanted == size {
            mcpfs_trust::chunk::expect("file", &sha256, &bytes).map_err(at(&self.tree.path(id)))?;
        }
        Ok(bytes)
    }

    fn chunk(&mut self, index: usize) -> Result<&[u8], SiteError> {
        let kept = match self.chunks.iter().position(|(known, _)| *known == index) {
            Some(at) => self.chunks.remove(at),
            None => {
                let plain = match self.layout.chunks.get(index) {
                    Some(chunk) => self.site.chunk(chunk)?,
                    None => Vec::new(),
                };
                if self.chunks.len() == KEPT {
                    self.chunks.remove(0);
                }
                (index, plain)
            }
        };
        self.chunks.push(kept);
        Ok(self.chunks.last().map(|(_, plain)| plain.as_slice()).unwrap_or_default())
    }
}

impl Contents for PublishedFiles<'_> {
    fn copy(&mut self, _: &Tree, id: NodeId, to: &mut File) -> io::Result<()> {
        let bytes = self.content(id, u64::MAX).map_err(io::Error::other)?;
        to.write_all(&bytes)
    }
}
