//! What is there: lookup, attributes, listings, links, extended attributes.
//!
//! Methods are futures that are ready at their first poll whenever the answer is in memory.

use std::path::PathBuf;
use std::sync::Arc;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::tree::{Kind, NodeId};

use super::access::Accesses;
use super::ino::{Ino, ReleasePlace, ServerPlace};
use super::node::{Asker, Attr, Found, Item, Lifetime};
use super::synth;
use super::trees::Live;
use crate::audit::Audit;
use crate::content::{Content, ReleaseContent};
use crate::errno::FsError;
use crate::launched::Launches;
use crate::registry::{Admitted, Registry, Server, Slot};

/// Longest component, bytes, as statfs says.
const NAME_BYTES: usize = 255;

pub(super) const RUN: &str = "run";
pub(super) const STATEMENT: &str = "release.json";
pub(super) const TREE: &str = "tree";

/// The file system's decisions. It owns nothing that outlives a mount.
#[derive(Debug)]
pub struct Vfs {
    pub(super) registry: Registry,
    pub(super) content: Content,
    pub(super) audit: Audit,
    /// Whose accesses belong to which launch.
    pub(super) launches: Launches,
    /// Where the launcher and the socket are: the first line of every `run` names it.
    pub(super) rundir: PathBuf,
    pub(super) trees: Live<ReleaseContent>,
    pub(super) accesses: Accesses,
}

/// An inode, with what its slot stands for.
pub(super) enum Place {
    Root,
    Server(Arc<Server>, ServerPlace),
    Release(Arc<Admitted>, ReleasePlace),
}

/// A directory's entries, taken at once or read from the tree as they are asked for.
#[derive(Debug, Clone)]
pub enum Listing {
    /// Of a directory that can change, or a short one.
    Items(Arc<[Item]>),
    /// Of a directory in a tree.
    Tree {
        /// The release's slot.
        slot: u32,
        /// Its tree.
        content: Arc<ReleaseContent>,
        /// The directory.
        directory: NodeId,
    },
}

impl Vfs {
    /// A file system over these rooms; `rundir` as in the configuration.
    pub fn new(registry: Registry, content: Content, audit: Audit, launches: Launches, rundir: PathBuf) -> Self {
        let (trees, accesses) = (Live::default(), Accesses::default());
        Self { registry, content, audit, launches, rundir, trees, accesses }
    }

    /// The inode's place. An unknown slot is an inode of another mount's state: nothing we gave out.
    pub(super) fn place(&self, ino: Ino) -> Result<Place, FsError> {
        if ino == Ino::ROOT {
            return Ok(Place::Root);
        }
        match self.registry.by_slot(ino.slot()) {
            Some(Slot::Release(admitted)) => Ok(Place::Release(admitted, ino.in_release())),
            Some(Slot::Server(server)) => match ino.in_server() {
                Some(place) => Ok(Place::Server(server, place)),
                None => Err(FsError::NoSuchName),
            },
            Some(Slot::Refused(refusal)) => Err(FsError::Refused(refusal)),
            None => Err(FsError::NoSuchName),
        }
    }

    /// The tree of a release: from memory, or loaded.
    pub(super) async fn tree(&self, admitted: &Arc<Admitted>) -> Result<Arc<ReleaseContent>, FsError> {
        if let Some(content) = self.trees.get(admitted.slot) {
            return Ok(content);
        }
        let content = self.registry.content(admitted).await?;
        self.trees.insert(admitted.slot, Arc::clone(&content));
        Ok(content)
    }

    /// The same for somebody who asks: if it cannot be had, that has its row before he hears of it.
    pub(super) async fn tree_for(
        &self,
        admitted: &Arc<Admitted>,
        asker: Asker,
    ) -> Result<Arc<ReleaseContent>, FsError> {
        match self.tree(admitted).await {
            Err(FsError::Refused(refusal)) => {
                let path = format!("{}/{}/{TREE}", admitted.name(), admitted.version());
                Err(self.refused_release(admitted, refusal, path, asker).await)
            }
            other => other,
        }
    }

    /// What `name` leads to in `parent`.
    ///
    /// # Errors
    /// The verdict on the name or version, or what stopped the fetch of its entry or tree.
    pub async fn lookup(&self, parent: Ino, name: &[u8], asker: Asker) -> Result<Found, FsError> {
        if name.len() > NAME_BYTES {
            return Err(FsError::NameTooLong);
        }
        match self.place(parent)? {
            Place::Root => self.lookup_server(name).await,
            Place::Server(server, ServerPlace::Directory) => self.lookup_version(&server, name, asker).await,
            Place::Release(admitted, ReleasePlace::Directory) => Ok(self.lookup_in_version(&admitted, name)),
            Place::Release(admitted, ReleasePlace::Node(directory)) => {
                let content = self.tree_for(&admitted, asker).await?;
                lookup_in_tree(&content, admitted.slot, directory, name)
            }
            Place::Server(_, ServerPlace::Run) | Place::Release(_, ReleasePlace::Run | ReleasePlace::Statement) => {
                Err(FsError::NotADirectory)
            }
        }
    }

    async fn lookup_server(&self, name: &[u8]) -> Result<Found, FsError> {
        // What no server can be called will never be one: loaders that look for node_modules
        // or package.json beside a server ask once.
        let Some(name) = parse::<ServerName>(name) else { return Ok(Found::Nothing(Lifetime::Immutable)) };
        Ok(match self.registry.server(&name).await? {
            Some(server) => Found::Here(self.server_directory(&server), Lifetime::Changing),
            None => Found::Nothing(Lifetime::Changing),
        })
    }

    fn server_directory(&self, server: &Server) -> Attr {
        let group = self.registry.snapshot().access.group_of(&server.name);
        Attr::server(Ino::server(server.slot, ServerPlace::Directory), group.as_ref())
    }

    async fn lookup_version(&self, server: &Arc<Server>, name: &[u8], asker: Asker) -> Result<Found, FsError> {
        if name == RUN.as_bytes() {
            return Ok(Found::Here(self.run_of(server), Lifetime::Changing));
        }
        let refusal = match parse::<Version>(name) {
            Some(version) => match self.registry.version(server, &version).await {
                Some(Ok(admitted)) => {
                    let ino = Ino::release(admitted.slot, ReleasePlace::Directory);
                    return Ok(Found::Here(Attr::directory(ino), Lifetime::Changing));
                }
                Some(Err(refusal)) => Some(refusal),
                None => server.selected.as_ref().err().cloned(),
            },
            None => server.selected.as_ref().err().cloned(),
        };
        match refusal {
            Some(refusal) => Err(self.refused_name(&server.name, name, refusal, asker).await),
            None => Ok(Found::Nothing(Lifetime::Changing)),
        }
    }

    /// `/mcp/<name>/run` is the selected release's own `run`, or one that says why there is none.
    fn run_of(&self, server: &Server) -> Attr {
        match &server.selected {
            Ok(admitted) => self.release_run(admitted),
            Err(_) => {
                let text = synth::refused_run(&self.rundir, server);
                Attr::file(Ino::server(server.slot, ServerPlace::Run), true, text.len() as u64)
            }
        }
    }

    fn release_run(&self, admitted: &Admitted) -> Attr {
        let text = synth::run(&self.rundir, admitted);
        Attr::file(Ino::release(admitted.slot, ReleasePlace::Run), true, text.len() as u64)
    }

    fn lookup_in_version(&self, admitted: &Admitted, name: &[u8]) -> Found {
        match self.version_items(admitted).into_iter().find(|item| item.name.as_bytes() == name) {
            Some(item) => Found::Here(item.attr, item.lifetime),
            None => Found::Nothing(Lifetime::Immutable),
        }
    }

    fn version_items(&self, admitted: &Admitted) -> [Item; 3] {
        let item = |name: &str, attr| Item { name: name.to_owned(), attr, lifetime: Lifetime::Immutable };
        let slot = admitted.slot;
        [
            item(RUN, self.release_run(admitted)),
            item(STATEMENT, statement_attr(admitted)),
            item(TREE, Attr::directory(Ino::release(slot, ReleasePlace::Node(NodeId::ROOT)))),
        ]
    }

    /// An inode's attributes.
    ///
    /// # Errors
    /// `NoSuchName` for an inode that was never given out.
    pub async fn attributes(&self, ino: Ino) -> Result<Attr, FsError> {
        Ok(match self.place(ino)? {
            Place::Root => Attr::directory(ino),
            Place::Server(server, ServerPlace::Directory) => self.server_directory(&server),
            Place::Server(server, ServerPlace::Run) => {
                Attr::file(ino, true, synth::refused_run(&self.rundir, &server).len() as u64)
            }
            Place::Release(_, ReleasePlace::Directory | ReleasePlace::Node(NodeId::ROOT)) => Attr::directory(ino),
            Place::Release(admitted, ReleasePlace::Run) => self.release_run(&admitted),
            Place::Release(admitted, ReleasePlace::Statement) => statement_attr(&admitted),
            Place::Release(admitted, ReleasePlace::Node(id)) => {
                let content = self.tree(&admitted).await?;
                Attr::node(ino, &content.tree.node(id).ok_or(FsError::NoSuchName)?)
            }
        })
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// `WrongKind` for anything else.
    pub async fn link_target(&self, ino: Ino) -> Result<String, FsError> {
        let Place::Release(admitted, ReleasePlace::Node(id)) = self.place(ino)? else {
            return Err(FsError::WrongKind);
        };
        match self.tree(&admitted).await?.tree.node(id).map(|node| node.kind) {
            Some(Kind::Link { target }) => Ok(target.to_owned()),
            Some(Kind::Directory | Kind::File { .. }) => Err(FsError::WrongKind),
            None => Err(FsError::NoSuchName),
        }
    }

    /// A directory's entries without `.` and `..`, and whether they can change.
    ///
    /// # Errors
    /// `NotADirectory`, or what stopped the load of a tree.
    pub async fn listing(&self, ino: Ino) -> Result<(Listing, Lifetime), FsError> {
        Ok(match self.place(ino)? {
            Place::Root => (Listing::Items(self.server_items().into()), Lifetime::Changing),
            Place::Server(server, ServerPlace::Directory) => {
                (Listing::Items(self.name_items(&server).into()), Lifetime::Changing)
            }
            Place::Release(admitted, ReleasePlace::Directory) => {
                (Listing::Items(self.version_items(&admitted).into()), Lifetime::Immutable)
            }
            Place::Release(admitted, ReleasePlace::Node(directory)) => {
                let content = self.tree(&admitted).await?;
                match content.tree.node(directory).map(|node| node.kind) {
                    Some(Kind::Directory) => {}
                    Some(Kind::File { .. } | Kind::Link { .. }) => return Err(FsError::NotADirectory),
                    None => return Err(FsError::NoSuchName),
                }
                (Listing::Tree { slot: admitted.slot, content, directory }, Lifetime::Immutable)
            }
            Place::Server(_, ServerPlace::Run) | Place::Release(_, ReleasePlace::Run | ReleasePlace::Statement) => {
                return Err(FsError::NotADirectory);
            }
        })
    }

    /// Names whose selected release verified and that policy exposes; the registry has decided both.
    fn server_items(&self) -> Vec<Item> {
        let snapshot = self.registry.snapshot();
        let shown = snapshot.servers.values().filter(|server| server.selected.is_ok());
        shown
            .map(|server| Item {
                name: server.name.to_string(),
                attr: self.server_directory(server),
                lifetime: Lifetime::Changing,
            })
            .collect()
    }

    fn name_items(&self, server: &Server) -> Vec<Item> {
        let run = Item { name: RUN.to_owned(), attr: self.run_of(server), lifetime: Lifetime::Changing };
        if server.selected.is_err() {
            return vec![run];
        }
        let version = |admitted: Arc<Admitted>| Item {
            name: admitted.version().to_string(),
            attr: Attr::directory(Ino::release(admitted.slot, ReleasePlace::Directory)),
            lifetime: Lifetime::Changing,
        };
        [run].into_iter().chain(server.admitted().into_iter().map(version)).collect()
    }

    /// The directory above, for the `..` of a listing.
    ///
    /// # Errors
    /// What stopped the load of a tree.
    pub async fn parent(&self, ino: Ino) -> Result<Ino, FsError> {
        Ok(match self.place(ino)? {
            Place::Root | Place::Server(..) => Ino::ROOT,
            Place::Release(admitted, ReleasePlace::Node(id)) if id != NodeId::ROOT => {
                let parent = self.tree(&admitted).await?.tree.parent(id);
                Ino::release(admitted.slot, ReleasePlace::Node(parent))
            }
            Place::Release(admitted, ReleasePlace::Directory) => {
                let snapshot = self.registry.snapshot();
                snapshot
                    .servers
                    .get(admitted.name())
                    .map_or(Ino::ROOT, |server| Ino::server(server.slot, ServerPlace::Directory))
            }
            Place::Release(admitted, _) => Ino::release(admitted.slot, ReleasePlace::Directory),
        })
    }

    /// The extended attributes of an inode, names and values.
    ///
    /// # Errors
    /// What stopped the load of a tree.
    pub async fn extended(&self, ino: Ino) -> Result<Vec<(String, String)>, FsError> {
        match self.place(ino)? {
            Place::Root => Ok(vec![]),
            Place::Server(server, _) => Ok(synth::attributes(&Slot::Server(server), None)),
            Place::Release(admitted, place) => {
                let content = self.digest_at(&admitted, place).await?;
                Ok(synth::attributes(&Slot::Release(admitted), content))
            }
        }
    }

    async fn digest_at(&self, admitted: &Arc<Admitted>, place: ReleasePlace) -> Result<Option<Digest>, FsError> {
        let ReleasePlace::Node(id) = place else { return Ok(None) };
        if id == NodeId::ROOT {
            return Ok(None);
        }
        Ok(match self.tree(admitted).await?.tree.node(id).ok_or(FsError::NoSuchName)?.kind {
            Kind::File { sha256, .. } => Some(sha256),
            Kind::Directory | Kind::Link { .. } => None,
        })
    }

    /// The kernel will be told of this inode once more.
    pub(super) fn hold(&self, ino: Ino) {
        if ino != Ino::ROOT
            && let Some(content) = self.trees.get(ino.slot())
        {
            self.trees.hold(ino.slot(), &content, 1);
        }
    }

    /// The kernel has forgotten `count` lookups of this inode.
    pub(super) fn forget(&self, ino: Ino, count: u64) {
        self.trees.forget(ino.slot(), count);
    }
}

impl Listing {
    /// The entries from the `skip`th on, until `emit` says that there is no more room. Each
    /// comes with the number of the one after it.
    pub fn from(&self, skip: u64, mut emit: impl FnMut(u64, &str, &Attr, Lifetime) -> bool) {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        match self {
            Self::Items(items) => {
                for (index, item) in items.iter().enumerate().skip(skip) {
                    if emit(index as u64 + 1, &item.name, &item.attr, item.lifetime) {
                        return;
                    }
                }
            }
            Self::Tree { slot, content, directory } => {
                for (index, id) in content.tree.children(*directory).iter().enumerate().skip(skip) {
                    let Some(node) = content.tree.node(*id) else { return };
                    let attr = Attr::node(Ino::release(*slot, ReleasePlace::Node(*id)), &node);
                    if emit(index as u64 + 1, node.name, &attr, Lifetime::Immutable) {
                        return;
                    }
                }
            }
        }
    }
}

fn lookup_in_tree(content: &ReleaseContent, slot: u32, directory: NodeId, name: &[u8]) -> Result<Found, FsError> {
    let tree = &content.tree;
    match tree.node(directory).map(|node| node.kind) {
        Some(Kind::Directory) => {}
        Some(Kind::File { .. } | Kind::Link { .. }) => return Err(FsError::NotADirectory),
        None => return Err(FsError::NoSuchName),
    }
    let found = tree.child(directory, name).and_then(|id| Some((id, tree.node(id)?)));
    Ok(match found {
        Some((id, node)) => {
            Found::Here(Attr::node(Ino::release(slot, ReleasePlace::Node(id)), &node), Lifetime::Immutable)
        }
        None => Found::Nothing(Lifetime::Immutable),
    })
}

fn statement_attr(admitted: &Admitted) -> Attr {
    Attr::file(Ino::release(admitted.slot, ReleasePlace::Statement), false, admitted.payload.len() as u64)
}

fn parse<T: std::str::FromStr>(name: &[u8]) -> Option<T> {
    std::str::from_utf8(name).ok()?.parse().ok()
}
