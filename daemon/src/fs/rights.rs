//! Who may open: the caller's rights, asked at every open.
//!
//! The kernel asks first: `/mcp/<name>` belongs to the group that configuration names, and nobody else gets
//! through it by a path. What remains for us is whoever is below it already: with a directory kept open or a
//! place to stand from before a reload, or with a descriptor that was passed in. Only servers that are for a
//! group cost anything. Nothing is remembered: a process may give groups up, and the next open must know.

use std::sync::Arc;

use mcpfs_trust::error::Code;

use super::Vfs;
use super::ino::{Ino, ReleasePlace, ServerPlace};
use super::node::{Asker, Lifetime};
use super::vfs::{Listing, Place, RUN, STATEMENT, TREE};
use crate::errno::FsError;
use crate::groups;
use crate::refusal::Refusal;

impl Vfs {
    /// Opens a directory: its listing, and whether that can change.
    ///
    /// # Errors
    /// As [`Self::listing`], and that the caller may not.
    pub async fn open_directory(&self, ino: Ino, asker: Asker) -> Result<(Listing, Lifetime), FsError> {
        self.check_rights(&self.place(ino)?, asker).await?;
        self.listing(ino).await
    }

    /// Whether the caller may open what is there. A refusal has its row before he hears of it.
    pub(super) async fn check_rights(&self, place: &Place, asker: Asker) -> Result<(), FsError> {
        let access = Arc::clone(&self.registry.snapshot().access);
        let name = match place {
            Place::Root => return Ok(()),
            Place::Server(server, _) => &server.name,
            Place::Release(admitted, _) => admitted.name(),
        };
        let further = |gid| groups::of_thread("/proc", asker.pid, (asker.uid, asker.gid), gid);
        let Err(why) = access.admits(name, (asker.uid, asker.gid), further) else { return Ok(()) };
        let refusal = Refusal::new(Code::PolicyRefused, why);
        Err(match place {
            Place::Release(admitted, below) => {
                let below = self.path_below(admitted.slot, *below);
                let path = format!("{name}/{}{below}", admitted.version());
                self.refused_release(admitted, refusal, path, asker).await
            }
            Place::Server(_, ServerPlace::Run) => self.refused_name(name, RUN.as_bytes(), refusal, asker).await,
            Place::Server(_, ServerPlace::Directory) | Place::Root => {
                self.refused_name(name, b"", refusal, asker).await
            }
        })
    }

    /// Where in a version something is, as far as that is known without loading its tree.
    fn path_below(&self, slot: u32, place: ReleasePlace) -> String {
        match place {
            ReleasePlace::Directory => String::new(),
            ReleasePlace::Run => format!("/{RUN}"),
            ReleasePlace::Statement => format!("/{STATEMENT}"),
            ReleasePlace::Node(node) => match self.trees.get(slot) {
                Some(content) if content.tree.node(node).is_some() => format!("/{TREE}/{}", content.tree.path(node)),
                _ => format!("/{TREE}"),
            },
        }
    }
}
