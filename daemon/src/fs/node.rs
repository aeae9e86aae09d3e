//! What operations speak of, without a FUSE type among it.

use mcpfs_trust::tree::{Kind, Node};

use super::ino::Ino;
use crate::config::Group;

/// What kind of file something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// How long the kernel may keep something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// For ever: it is signed, or computed from what is signed.
    Immutable,
    /// For seconds: it depends on which releases are admitted.
    Changing,
}

/// The attributes of an inode. Owner (root) and times (constant) are the same for all. What belongs to a
/// release never changes: what another release has is another inode. The group of `/mcp/<name>` does, with
/// the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u16,
    /// Size, bytes.
    pub size: u64,
    /// Its group.
    pub gid: u32,
    /// For how long all this holds.
    pub lifetime: Lifetime,
}

impl Attr {
    /// A directory.
    pub const fn directory(ino: Ino) -> Self {
        Self { ino, kind: FileKind::Directory, mode: 0o555, size: 0, gid: 0, lifetime: Lifetime::Immutable }
    }

    /// The directory of a server that is for a group, or for everybody. The kernel decides by it who gets
    /// below; a group without a number is nobody's.
    pub const fn server(ino: Ino, group: Option<&Group>) -> Self {
        let (mode, gid) = match group {
            None => (0o555, 0),
            Some(Group { gid: Some(gid), .. }) => (0o550, *gid),
            Some(Group { gid: None, .. }) => (0o500, 0),
        };
        Self { mode, gid, lifetime: Lifetime::Changing, ..Self::directory(ino) }
    }

    /// A file.
    pub const fn file(ino: Ino, executable: bool, size: u64) -> Self {
        let mode = if executable { 0o555 } else { 0o444 };
        Self { ino, kind: FileKind::File, mode, size, gid: 0, lifetime: Lifetime::Immutable }
    }

    /// A node of a tree.
    pub const fn node(ino: Ino, node: &Node<'_>) -> Self {
        match node.kind {
            Kind::Directory => Self::directory(ino),
            Kind::File { executable, size, .. } => Self::file(ino, executable, size),
            Kind::Link { target } => {
                Self { kind: FileKind::Link, mode: 0o777, ..Self::file(ino, false, target.len() as u64) }
            }
        }
    }
}

/// The answer to a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is this, and the name leads to it for so long.
    Here(Attr, Lifetime),
    /// There is no such name, for so long.
    Nothing(Lifetime),
}

/// One name of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The name.
    pub name: String,
    /// What it leads to.
    pub attr: Attr,
    /// For how long.
    pub lifetime: Lifetime,
}

/// Who asks, as the kernel says. `pid` is a thread's, and 0 for one in a foreign pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// Thread.
    pub pid: u32,
    /// File system uid.
    pub uid: u32,
    /// File system gid.
    pub gid: u32,
}
