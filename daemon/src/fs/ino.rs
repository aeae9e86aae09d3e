//! Inode numbers, computed and never handed out.
//!
//! ```text
//! ino = slot << 32 | index
//!
//! slot 0              index 1                 /mcp
//! a server's slot     index 0                 /mcp/<name>
//!                     index 1                 /mcp/<name>/run of a refused name
//! a release's slot    index 0xFFFF_FFFF       /mcp/<name>/<version>
//!                     index 0xFFFF_FFFE       …/run   (also /mcp/<name>/run, if selected)
//!                     index 0xFFFF_FFFD       …/release.json
//!                     index n                 node n of the tree; 0 is …/tree
//! ```
//!
//! Slots come from a table on disk and are never used twice, tree indexes from the signed
//! tree. So a number means one thing for ever: a successor that takes over a live mount knows
//! every inode the kernel holds, the kernel's caches cannot confuse two versions, and there is
//! no table to fill at lookup or to clean up at forget.

use mcpfs_trust::tree::NodeId;

/// An inode number of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

const SERVER_DIRECTORY: u32 = 0;
const SERVER_RUN: u32 = 1;
const VERSION_DIRECTORY: u32 = 0xFFFF_FFFF;
const VERSION_RUN: u32 = 0xFFFF_FFFE;
const VERSION_STATEMENT: u32 = 0xFFFF_FFFD;

/// The place of an inode in a server's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPlace {
    /// `/mcp/<name>`
    Directory,
    /// `/mcp/<name>/run`, if the name is refused
    Run,
}

/// The place of an inode in a release's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleasePlace {
    /// `/mcp/<name>/<version>`
    Directory,
    /// `…/run`
    Run,
    /// `…/release.json`
    Statement,
    /// `…/tree` and below
    Node(NodeId),
}

impl Ino {
    /// The root of the mount, as FUSE wants it.
    pub const ROOT: Self = Self(1);

    /// An inode in a server's slot.
    pub const fn server(slot: u32, place: ServerPlace) -> Self {
        Self::of(
            slot,
            match place {
                ServerPlace::Directory => SERVER_DIRECTORY,
                ServerPlace::Run => SERVER_RUN,
            },
        )
    }

    /// An inode in a release's slot.
    pub const fn release(slot: u32, place: ReleasePlace) -> Self {
        Self::of(
            slot,
            match place {
                ReleasePlace::Directory => VERSION_DIRECTORY,
                ReleasePlace::Run => VERSION_RUN,
                ReleasePlace::Statement => VERSION_STATEMENT,
                ReleasePlace::Node(node) => node.0,
            },
        )
    }

    const fn of(slot: u32, index: u32) -> Self {
        Self(((slot as u64) << 32) | index as u64)
    }

    /// The slot that says what kind of thing this is; 0 for the root.
    pub const fn slot(self) -> u32 {
        (self.0 >> 32) as u32
    }

    const fn index(self) -> u32 {
        self.0 as u32
    }

    /// Its place, if its slot is a server's.
    pub const fn in_server(self) -> Option<ServerPlace> {
        match self.index() {
            SERVER_DIRECTORY => Some(ServerPlace::Directory),
            SERVER_RUN => Some(ServerPlace::Run),
            _ => None,
        }
    }

    /// Its place, if its slot is a release's. The tree may have no such node.
    pub const fn in_release(self) -> ReleasePlace {
        match self.index() {
            VERSION_DIRECTORY => ReleasePlace::Directory,
            VERSION_RUN => ReleasePlace::Run,
            VERSION_STATEMENT => ReleasePlace::Statement,
            node => ReleasePlace::Node(NodeId(node)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_frozen() {
        // A successor takes over inodes that its predecessor gave to the kernel.
        assert_eq!(Ino::ROOT.0, 1);
        assert_eq!(Ino::server(7, ServerPlace::Directory).0, 0x7_0000_0000);
        assert_eq!(Ino::server(7, ServerPlace::Run).0, 0x7_0000_0001);
        assert_eq!(Ino::release(8, ReleasePlace::Directory).0, 0x8_FFFF_FFFF);
        assert_eq!(Ino::release(8, ReleasePlace::Run).0, 0x8_FFFF_FFFE);
        assert_eq!(Ino::release(8, ReleasePlace::Statement).0, 0x8_FFFF_FFFD);
        assert_eq!(Ino::release(8, ReleasePlace::Node(NodeId(5))).0, 0x8_0000_0005);
    }

    #[test]
    fn a_tree_cannot_reach_the_synthetic_places() {
        assert!(mcpfs_trust::limits::TREE_NODES < VERSION_STATEMENT as usize);
    }

    proptest! {
        #[test]
        fn every_number_has_one_place(slot in 1u32.., node in 0..VERSION_STATEMENT) {
            for place in [ReleasePlace::Directory, ReleasePlace::Run, ReleasePlace::Statement, ReleasePlace::Node(NodeId(node))] {
                let ino = Ino::release(slot, place);
                prop_assert_eq!((ino.slot(), ino.in_release()), (slot, place));
                prop_assert_ne!(ino, Ino::ROOT);
            }
            for place in [ServerPlace::Directory, ServerPlace::Run] {
                let ino = Ino::server(slot, place);
                prop_assert_eq!((ino.slot(), ino.in_server()), (slot, Some(place)));
            }
        }
    }
}
