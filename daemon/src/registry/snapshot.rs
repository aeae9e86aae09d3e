//! What the mount shows, as values that never change.

use std::collections::BTreeMap;
use std::sync::Arc;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::PlatformLayout;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::release::{Artefact, Release};
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::Verified;

use crate::config::Access;
use crate::refusal::Refusal;

/// Everything the mount shows, as of one accepted head and one configuration.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Rises with every swap; what `changes()` ticks.
    pub generation: u64,
    /// The registry that the trust root names.
    pub registry: RegistryName,
    /// The trust root in force.
    pub trust: TrustFacts,
    /// The accepted head; none before the first one.
    pub head: Option<HeadFacts>,
    /// By name: what was decided about the names of the accepted catalogue, and names that
    /// a newer catalogue lacks while their releases still run.
    pub servers: BTreeMap<ServerName, Arc<Server>>,
    /// Who may use which server.
    pub access: Arc<Access>,
    /// The last look at the site.
    pub refreshed: Refreshed,
}

/// The trust root in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustFacts {
    /// Its version.
    pub version: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Digest of its canonical text.
    pub sha256: Digest,
}

/// The accepted head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadFacts {
    /// Its version.
    pub version: u64,
    /// Digest of its payload.
    pub sha256: Digest,
    /// When it was signed.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// The last look at the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// When.
    pub at: Timestamp,
    /// How it went.
    pub outcome: Result<(), Refusal>,
    /// Whether opens count as stale because of it: after a failure and until the first look of
    /// this run, but not while a mirror only lags behind with an authentic older head.
    pub stale: bool,
}

/// One name of the registry.
#[derive(Debug, Clone)]
pub struct Server {
    /// The name.
    pub name: ServerName,
    /// Its slot: the inode block of `/mcp/<name>`.
    pub slot: u32,
    /// What `/mcp/<name>/run` starts, or why it does not.
    pub selected: Result<Arc<Admitted>, Refusal>,
    /// The admitted versions, the selected one first.
    pub(super) admitted: Vec<Arc<Admitted>>,
    /// Digest of the entry that this was decided from; none for a name that was never known.
    pub(super) entry: Option<Digest>,
    /// What `run` started until `max_stale` ended: it does again if that is not so any more.
    pub(super) stopped: Option<Arc<Admitted>>,
}

impl Server {
    /// A name of which only the refusal is known.
    pub(super) fn refused(name: ServerName, slot: u32, refusal: Refusal) -> Self {
        Self { name, slot, selected: Err(refusal), admitted: Vec::new(), entry: None, stopped: None }
    }

    /// The admitted versions, the selected one first if it is among them.
    pub fn admitted(&self) -> Vec<Arc<Admitted>> {
        self.admitted.clone()
    }

    /// The admitted release of this version.
    pub fn find(&self, version: &Version) -> Option<&Arc<Admitted>> {
        self.admitted.iter().find(|one| one.version() == version)
    }
}

/// A release that verified and that this host shows.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Its slot: the inode block of `/mcp/<name>/<version>`.
    pub slot: u32,
    /// The verified release.
    pub release: Verified<Release>,
    /// Digest of the signed statement.
    pub statement: Digest,
    /// The signed statement itself: what `release.json` shows.
    pub payload: Vec<u8>,
    /// The artefact of this host's platform.
    pub artefact: Artefact,
    /// The keys whose signatures counted.
    pub keys: Vec<Digest>,
    /// The last head whose entry lists it.
    pub head_version: u64,
    /// When that head was issued: `max_stale` counts from here.
    pub head_issued: Timestamp,
    /// The publisher's words if it was yanked; only an exact pin admits it then.
    pub yanked: Option<String>,
    /// Where its tree, layout and first chunks lie.
    pub layout: PlatformLayout,
}

impl Admitted {
    /// The server's name.
    pub fn name(&self) -> &ServerName {
        &self.release.name
    }

    /// The version.
    pub fn version(&self) -> &Version {
        &self.release.version
    }
}

/// What a slot stands for.
#[derive(Debug, Clone)]
pub enum Slot {
    /// `/mcp/<name>`.
    Server(Arc<Server>),
    /// `/mcp/<name>/<version>`.
    Release(Arc<Admitted>),
    /// A release that was shown once and does not verify any more; the reason.
    Refused(Refusal),
}

/// How fresh the word is on which an open is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The head expired, the last look at the site failed, or this server's entry is
    /// missing there: what was admitted still runs.
    pub stale: bool,
}
