//! Making a tree from entries in any order: the signer's side of the format.

use std::collections::BTreeMap;

use super::assemble::Assembly;
use super::record::{Record, RecordKind};
use super::{Tree, links};
use crate::codec::Writer;
use crate::digest::Digest;
use crate::error::{VerifyError, bounded};
use crate::limits;
use crate::name::check_file_name;

/// Why entries do not make a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTree {
    /// An impossible path.
    #[error("{path:?}: {problem}")]
    Path {
        /// The entry, bounded and escaped.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Entries that are fine alone, but not together.
    #[error("these entries do not make a tree")]
    Whole(#[source] VerifyError),
}

/// Collects entries; [`TreeBuilder::build`] makes the canonical tree of them.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    root: BTreeMap<String, Entry>,
    nodes: usize,
}

#[derive(Debug)]
enum Entry {
    Directory(BTreeMap<String, Entry>),
    File { executable: bool, size: u64, sha256: Digest },
    Link { target: String },
}

impl TreeBuilder {
    /// A builder of the empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; one that is there already is no error.
    ///
    /// # Errors
    /// `BadTree::Path` if the path is impossible or is a file or link already.
    pub fn directory(&mut self, path: &str) -> Result<(), BadTree> {
        let (parent, name) = self.place(path)?;
        match parent.get(&name) {
            None => {
                parent.insert(name, Entry::Directory(BTreeMap::new()));
                self.nodes += 1;
                Ok(())
            }
            Some(Entry::Directory(_)) => Ok(()),
            Some(_) => Err(refuse(path, "is a directory and something else")),
        }
    }

    /// Adds a file of `size` bytes.
    ///
    /// # Errors
    /// `BadTree::Path` if the path is impossible or taken.
    pub fn file(&mut self, path: &str, executable: bool, size: u64, sha256: Digest) -> Result<(), BadTree> {
        self.leaf(path, Entry::File { executable, size, sha256 })
    }

    /// Adds a symbolic link to a relative `target`.
    ///
    /// # Errors
    /// `BadTree::Path` if the path is impossible or taken, or the target absolute.
    pub fn link(&mut self, path: &str, target: &str) -> Result<(), BadTree> {
        if target.starts_with('/') {
            return Err(refuse(path, "an absolute link"));
        }
        self.leaf(path, Entry::Link { target: target.to_owned() })
    }

    /// The canonical tree.
    ///
    /// # Errors
    /// `BadTree::Whole` if links leave the tree or loop, or a bound is passed.
    pub fn build(self) -> Result<Tree, BadTree> {
        let count = self.nodes as u32 + 1;
        let mut assembly = Assembly::new(usize::MAX, count);
        let mut writer = Writer::new(super::MAGIC, self.nodes * 64);
        writer.u32(count);
        let mut add = |record: Record<'_>| {
            record.write(&mut writer);
            assembly.add(record)
        };
        // Depth is bounded by `place`, so this recursion is.
        fn walk(
            name: &str,
            entry: &Entry,
            add: &mut impl FnMut(Record<'_>) -> Result<(), VerifyError>,
        ) -> Result<(), VerifyError> {
            match entry {
                Entry::Directory(entries) => {
                    add(Record { name, kind: RecordKind::Directory { children: entries.len() as u32 } })?;
                    entries.iter().try_for_each(|(name, entry)| walk(name, entry, add))
                }
                Entry::File { executable, size, sha256 } => add(Record {
                    name,
                    kind: RecordKind::File { executable: *executable, size: *size, sha256: *sha256 },
                }),
                Entry::Link { target } => add(Record { name, kind: RecordKind::Link { target } }),
            }
        }
        walk("", &Entry::Directory(self.root), &mut add).map_err(BadTree::Whole)?;
        let bytes = writer.finish();
        if bytes.len() as u64 > limits::TREE_BYTES {
            return Err(BadTree::Whole(VerifyError::SizeExceeded { what: "tree", limit: limits::TREE_BYTES }));
        }
        let tree = assembly.finish(Digest::of(&bytes), bytes.len() as u64).map_err(BadTree::Whole)?;
        links::check(&tree).map_err(BadTree::Whole)?;
        Ok(tree)
    }

    fn leaf(&mut self, path: &str, entry: Entry) -> Result<(), BadTree> {
        let (parent, name) = self.place(path)?;
        if parent.contains_key(&name) {
            return Err(refuse(path, "stands there twice"));
        }
        parent.insert(name, entry);
        self.nodes += 1;
        Ok(())
    }

    /// The directory that `path` is in, made if need be, and the last component.
    fn place(&mut self, path: &str) -> Result<(&mut BTreeMap<String, Entry>, String), BadTree> {
        let parts: Vec<&str> = path.split('/').collect();
        if path.len() > limits::PATH_BYTES || parts.len() > limits::TREE_DEPTH {
            return Err(refuse(path, "too long or too deep"));
        }
        if self.nodes + parts.len() >= limits::TREE_NODES {
            return Err(refuse(path, "more than a million entries"));
        }
        for part in &parts {
            check_file_name(part).map_err(|error| refuse(path, &error.to_string()))?;
        }
        let Some((name, above)) = parts.split_last() else { return Err(refuse(path, "empty")) };
        let mut at = &mut self.root;
        for part in above {
            let entry = at.entry((*part).to_owned()).or_insert_with(|| {
                self.nodes += 1;
                Entry::Directory(BTreeMap::new())
            });
            match entry {
                Entry::Directory(entries) => at = entries,
                Entry::File { .. } | Entry::Link { .. } => {
                    return Err(refuse(path, "lies below something that is not a directory"));
                }
            }
        }
        Ok((at, (*name).to_owned()))
    }
}

fn refuse(path: &str, problem: &str) -> BadTree {
    BadTree::Path { path: bounded(path), problem: problem.to_owned() }
}
