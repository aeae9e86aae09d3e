//! From records in preorder to the arrays of a tree, refusing what is not a tree.
//!
//! Contents are told apart by sorting, not by hashing: the digests of a hostile tree are its
//! author's to choose, a table that withstands that costs a keyed hash and a cache miss for
//! each node, and sorting 100,000 of them is several times faster.

use super::record::{Record, RecordKind};
use super::{Flat, FlatKind, NodeId, Span, Tree};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::limits;
use crate::name::check_file_name;
use crate::release::TreeSummary;

/// A directory whose children are still coming.
struct Open {
    id: NodeId,
    /// Slots of `children` that are still to be filled.
    next: u32,
    end: u32,
    path_bytes: usize,
}

/// Builds the arrays from records in preorder and refuses what is not a tree.
pub(super) struct Assembly {
    tree: Tree,
    open: Vec<Open>,
    count: u32,
    /// The files that are not empty: the first eight bytes of the digest, and the node.
    files: Vec<(u64, NodeId)>,
}

impl Assembly {
    pub(super) fn new(bytes: usize, count: u32) -> Self {
        // A record takes at least three bytes, so a short input cannot ask for much memory.
        let nodes = (count as usize).min(bytes / 3 + 1);
        let summary = TreeSummary { sha256: Digest::EMPTY, size: 0, files: 0, bytes: 0 };
        let tree = Tree {
            nodes: Vec::with_capacity(nodes),
            text: String::with_capacity(bytes.min(nodes * 24)),
            children: Vec::with_capacity(nodes),
            contents: Vec::new(),
            summary,
        };
        Self { tree, open: Vec::new(), count, files: Vec::new() }
    }

    pub(super) fn add(&mut self, record: Record<'_>) -> Result<(), VerifyError> {
        let bad = |detail: &str| Err(VerifyError::malformed("tree", detail));
        let id = NodeId(self.tree.nodes.len() as u32);
        let (parent, path_bytes) = match self.open.last_mut() {
            Some(open) => {
                let path_bytes = open.path_bytes + 1 + record.name.len();
                self.tree.children[open.next as usize] = id;
                open.next += 1;
                (open.id, path_bytes)
            }
            None if id == NodeId::ROOT => (NodeId::ROOT, 0),
            None => return bad("a node outside every directory"),
        };
        if id == NodeId::ROOT {
            if !record.name.is_empty() || !matches!(record.kind, RecordKind::Directory { .. }) {
                return bad("the root is not a nameless directory");
            }
        } else {
            check_file_name(record.name).map_err(|error| VerifyError::malformed("tree", error))?;
            self.check_order(record.name)?;
        }
        if path_bytes > limits::PATH_BYTES || self.open.len() > limits::TREE_DEPTH {
            return bad("a path too long or too deep");
        }
        let name = self.store(record.name);
        let kind = match record.kind {
            RecordKind::Directory { children } => {
                let start = self.tree.children.len() as u32;
                if u64::from(start) + u64::from(children) >= u64::from(self.count) {
                    return bad("more children than nodes");
                }
                self.tree.children.resize((start + children) as usize, NodeId::ROOT);
                self.open.push(Open { id, next: start, end: start + children, path_bytes });
                FlatKind::Directory { children: Span { start, len: children } }
            }
            RecordKind::File { executable, size, sha256 } => self.file(id, executable, size, sha256)?,
            RecordKind::Link { target } => {
                if target.is_empty() || target.len() > limits::PATH_BYTES || target.chars().any(char::is_control) {
                    return bad("a link with an impossible target");
                }
                FlatKind::Link { target: self.store(target) }
            }
        };
        self.tree.nodes.push(Flat { parent, name, kind });
        while self.open.last().is_some_and(|open| open.next == open.end) {
            self.open.pop();
        }
        Ok(())
    }

    /// Names of one directory ascend, which also makes them unique. The slot just filled is
    /// compared with the one before it.
    fn check_order(&self, name: &str) -> Result<(), VerifyError> {
        let Some(open) = self.open.last() else { return Ok(()) };
        let FlatKind::Directory { children } = self.tree.nodes[open.id.0 as usize].kind else { return Ok(()) };
        let filled = open.next - 1;
        if filled > children.start {
            let before = self.tree.children[filled as usize - 1];
            if self.tree.name(before).as_bytes() >= name.as_bytes() {
                return Err(VerifyError::malformed("tree", "names of a directory are not in ascending order"));
            }
        }
        Ok(())
    }

    fn file(&mut self, id: NodeId, executable: bool, size: u64, sha256: Digest) -> Result<FlatKind, VerifyError> {
        let summary = &mut self.tree.summary;
        summary.files += 1;
        summary.bytes = match summary.bytes.checked_add(size) {
            Some(sum) => sum,
            None => return Err(VerifyError::malformed("tree", "impossible sizes")),
        };
        if size == 0 {
            return match sha256 == Digest::EMPTY {
                true => Ok(FlatKind::File { executable, size, sha256, content: None }),
                false => Err(VerifyError::malformed("tree", "an empty file with another digest")),
            };
        }
        let (prefix, _) = sha256.as_bytes().split_at(8);
        self.files.push((prefix.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), id));
        Ok(FlatKind::File { executable, size, sha256, content: Some(id.0) })
    }

    /// Numbers the distinct contents in the order of their first node.
    fn number_contents(&mut self) -> Result<(), VerifyError> {
        let nodes = &mut self.tree.nodes;
        let digest = |nodes: &[Flat], id: NodeId| match nodes[id.0 as usize].kind {
            FlatKind::File { size, sha256, .. } => (sha256, size),
            FlatKind::Directory { .. } | FlatKind::Link { .. } => (Digest::EMPTY, 0),
        };
        self.files.sort_unstable_by(|(prefix_a, a), (prefix_b, b)| {
            let rest = || digest(nodes, *a).0.cmp(&digest(nodes, *b).0).then(a.cmp(b));
            prefix_a.cmp(prefix_b).then_with(rest)
        });
        // Each node names itself so far; of several with one content, all name the first.
        for alike in self.files.chunk_by(|(a, _), (b, _)| a == b).filter(|alike| alike.len() > 1) {
            let mut first = alike[0].1;
            for (_, id) in alike {
                let ((first_sha256, first_size), (sha256, size)) = (digest(nodes, first), digest(nodes, *id));
                if first_sha256 != sha256 {
                    first = *id;
                } else if first_size != size {
                    return Err(VerifyError::malformed("tree", "one digest with two sizes"));
                }
                if let FlatKind::File { content, .. } = &mut nodes[id.0 as usize].kind {
                    *content = Some(first.0);
                }
            }
        }
        for id in 0..nodes.len() {
            let FlatKind::File { content: Some(first), .. } = nodes[id].kind else { continue };
            let number = match nodes[first as usize].kind {
                FlatKind::File { content: Some(number), .. } if (first as usize) < id => number,
                _ => {
                    self.tree.contents.push(NodeId(first));
                    self.tree.contents.len() as u32 - 1
                }
            };
            if let FlatKind::File { content, .. } = &mut nodes[id].kind {
                *content = Some(number);
            }
        }
        Ok(())
    }

    fn store(&mut self, text: &str) -> Span {
        let start = self.tree.text.len() as u32;
        self.tree.text.push_str(text);
        Span { start, len: text.len() as u32 }
    }

    pub(super) fn finish(mut self, sha256: Digest, size: u64) -> Result<Tree, VerifyError> {
        if !self.open.is_empty() {
            return Err(VerifyError::malformed("tree", "it ends inside a directory"));
        }
        self.number_contents()?;
        self.tree.summary.sha256 = sha256;
        self.tree.summary.size = size;
        Ok(self.tree)
    }
}
