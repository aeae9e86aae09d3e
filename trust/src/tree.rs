//! The canonical tree: what a release's files are (docs/format.md section 9).
//!
//! A tree is signed by its digest and read on every host, so it has exactly one encoding
//! and holds nothing that two machines could disagree on: no times, owners, devices or
//! special bits. It is one flat list of nodes in preorder, children in the order of their
//! names' bytes, and a node's number is its position in that list. Node ids of the mount
//! follow from that number, so a restarted daemon gives the same ones.
//!
//! Rejected: a nested structure (recursion on hostile depth, an allocation a node) and a
//! database built at mount time (slow at 100,000 files). The list decodes straight into
//! three arrays.

mod assemble;
mod build;
mod links;
mod record;

use assemble::Assembly;
pub use build::{BadTree, TreeBuilder};
use record::{Record, RecordKind};

use crate::codec::{Reader, Writer};
use crate::digest::Digest;
use crate::error::VerifyError;
use crate::limits;
use crate::release::TreeSummary;

/// The first bytes of an encoded tree: name and version of the format.
pub const MAGIC: &[u8; 8] = b"mcpftre\x01";

/// A node's position in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The root directory.
    pub const ROOT: Self = Self(0);
}

/// One node, borrowed from its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node<'a> {
    /// The last component of its path; empty for the root.
    pub name: &'a str,
    /// Its directory; the root is its own.
    pub parent: NodeId,
    /// What it is.
    pub kind: Kind<'a>,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Mode 0555 instead of 0444.
        executable: bool,
        /// Size, bytes.
        size: u64,
        /// Digest of its content.
        sha256: Digest,
        /// Its content's place in [`Tree::contents`]; `None` if it is empty.
        content: Option<u32>,
    },
    /// A symbolic link.
    Link {
        /// A relative path that stays in the tree.
        target: &'a str,
    },
}

/// A verified or freshly built tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Flat>,
    /// Names and link targets, one after another.
    text: String,
    /// The children of all directories, each directory's in one run, in name order.
    children: Vec<NodeId>,
    /// The first node of each distinct non-empty content, in preorder.
    contents: Vec<NodeId>,
    summary: TreeSummary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flat {
    parent: NodeId,
    name: Span,
    kind: FlatKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlatKind {
    Directory { children: Span },
    File { executable: bool, size: u64, sha256: Digest, content: Option<u32> },
    Link { target: Span },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

impl Tree {
    /// Decodes the tree that `summary` of a verified statement names.
    ///
    /// # Errors
    /// `DigestMismatch` for other bytes, `SizeExceeded` beyond the bounds, `Malformed` for
    /// anything but the canonical form of a tree whose links stay inside.
    pub fn decode(bytes: &[u8], summary: &TreeSummary) -> Result<Self, VerifyError> {
        if bytes.len() as u64 != summary.size || summary.size > limits::TREE_BYTES {
            return Err(VerifyError::SizeExceeded { what: "tree", limit: summary.size.min(limits::TREE_BYTES) });
        }
        crate::chunk::expect("tree", &summary.sha256, bytes)?;
        let tree = Self::parse(bytes)?;
        match tree.summary == *summary {
            true => Ok(tree),
            false => Err(VerifyError::malformed("tree", "its files are not as many or as large as was signed")),
        }
    }

    /// Decodes a tree by its form alone: for the signer, tools and fuzzing.
    ///
    /// # Errors
    /// As [`Tree::decode`], but for the digest.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerifyError> {
        if bytes.len() as u64 > limits::TREE_BYTES {
            return Err(VerifyError::SizeExceeded { what: "tree", limit: limits::TREE_BYTES });
        }
        let mut reader = Reader::new("tree", MAGIC, bytes)?;
        let count = reader.u32()?;
        if count == 0 || count as usize > limits::TREE_NODES {
            return Err(VerifyError::malformed("tree", format!("{count} nodes")));
        }
        let mut assembly = Assembly::new(bytes.len(), count);
        for _ in 0..count {
            assembly.add(Record::read(&mut reader)?)?;
        }
        reader.finish()?;
        let tree = assembly.finish(Digest::of(bytes), bytes.len() as u64)?;
        links::check(&tree)?;
        Ok(tree)
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(MAGIC, self.text.len() + self.nodes.len() * 48);
        writer.u32(self.len());
        for flat in &self.nodes {
            let kind = match flat.kind {
                FlatKind::Directory { children } => RecordKind::Directory { children: children.len },
                FlatKind::File { executable, size, sha256, .. } => RecordKind::File { executable, size, sha256 },
                FlatKind::Link { target } => RecordKind::Link { target: self.span(target) },
            };
            Record { name: self.span(flat.name), kind }.write(&mut writer);
        }
        writer.finish()
    }

    /// What a statement says about this tree.
    pub const fn summary(&self) -> TreeSummary {
        self.summary
    }

    /// The number of nodes, at least one.
    #[allow(clippy::len_without_is_empty)] // A tree always has its root.
    pub fn len(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// The node with this number.
    pub fn node(&self, id: NodeId) -> Option<Node<'_>> {
        let flat = self.nodes.get(id.0 as usize)?;
        let kind = match flat.kind {
            FlatKind::Directory { .. } => Kind::Directory,
            FlatKind::File { executable, size, sha256, content } => Kind::File { executable, size, sha256, content },
            FlatKind::Link { target } => Kind::Link { target: self.span(target) },
        };
        Some(Node { name: self.span(flat.name), parent: flat.parent, kind })
    }

    /// The entries of a directory in name order; empty for anything else.
    pub fn children(&self, directory: NodeId) -> &[NodeId] {
        match self.nodes.get(directory.0 as usize) {
            Some(Flat { kind: FlatKind::Directory { children }, .. }) => &self.children[children.range()],
            _ => &[],
        }
    }

    /// The entry of a directory with this name.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let children = self.children(directory);
        let found = children.binary_search_by(|id| self.name(*id).as_bytes().cmp(name)).ok()?;
        children.get(found).copied()
    }

    /// A node's directory; the root is its own.
    pub fn parent(&self, id: NodeId) -> NodeId {
        self.nodes.get(id.0 as usize).map_or(NodeId::ROOT, |flat| flat.parent)
    }

    /// A node's path below the root, without a leading slash; the root's is empty.
    pub fn path(&self, id: NodeId) -> String {
        let mut parts = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            parts.push(self.name(at));
            at = self.parent(at);
        }
        parts.reverse();
        parts.join("/")
    }

    /// The node that `path` below the root leads to, links followed.
    pub fn resolve(&self, path: &str) -> Option<NodeId> {
        match links::walk(self, NodeId::ROOT, path, &mut { limits::LINK_STEPS }) {
            links::Walk::Found(id) => Some(id),
            links::Walk::Missing | links::Walk::Refused(_) => None,
        }
    }

    /// Whether following this link ends at a node; `false` also for what is no link.
    pub fn link_resolves(&self, link: NodeId) -> bool {
        match self.node(link).map(|node| node.kind) {
            Some(Kind::Link { target }) => {
                let walked = links::walk(self, self.parent(link), target, &mut { limits::LINK_STEPS });
                matches!(walked, links::Walk::Found(_))
            }
            _ => false,
        }
    }

    /// The first node of each distinct non-empty content, in preorder: the order of a layout.
    pub fn contents(&self) -> &[NodeId] {
        &self.contents
    }

    /// Size and digest of the content at `index` of [`Tree::contents`].
    pub fn content(&self, index: u32) -> Option<(u64, Digest)> {
        match self.node(*self.contents.get(index as usize)?)?.kind {
            Kind::File { size, sha256, .. } => Some((size, sha256)),
            Kind::Directory | Kind::Link { .. } => None,
        }
    }

    fn name(&self, id: NodeId) -> &str {
        self.nodes.get(id.0 as usize).map_or("", |flat| self.span(flat.name))
    }

    fn span(&self, span: Span) -> &str {
        self.text.get(span.range()).unwrap_or("")
    }
}
