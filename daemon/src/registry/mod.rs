//! Which releases this host admits.

use std::collections::BTreeMap;
use std::sync::Arc;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::release::{Artefact, Release};
use mcpfs_trust::time::Timestamp;

use crate::refusal::Refusal;

/// Everything the mount shows, as of one accepted head and one configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Rises with every swap; what `changes()` ticks.
    pub generation: u64,
    /// The registry that the trust root names.
    pub registry: RegistryName,
    /// The trust root in force.
    pub trust: TrustFacts,
    /// The accepted head; none before the first one.
    pub head: Option<HeadFacts>,
    /// By name: what the accepted catalogue lists and was looked at.
    pub servers: BTreeMap<ServerName, Arc<Server>>,
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
    /// Digest of the file.
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
    /// How it went. After a failure everything admitted runs stale.
    pub outcome: Result<(), Refusal>,
}

/// One name of the registry.
#[derive(Debug)]
pub struct Server {
    /// The name.
    pub name: ServerName,
    /// Its slot: the inode block of `/mcp/<name>`.
    pub slot: u32,
    /// What `/mcp/<name>/run` starts, or why it does not.
    pub selected: Result<Arc<Admitted>, Refusal>,
    /// Whether policy lets the name appear in listings.
    pub exposed: bool,
    admitted: Vec<Arc<Admitted>>,
}

impl Server {
    /// The admitted versions, the selected one first if it is among them.
    pub fn admitted(&self) -> Vec<Arc<Admitted>> {
        self.admitted.clone()
    }
}

/// A release that verified and that this host shows.
#[derive(Debug)]
pub struct Admitted {
    /// Its slot: the inode block of `/mcp/<name>/<version>`.
    pub slot: u32,
    /// The verified release.
    pub release: Arc<Release>,
    /// Digest of the signed statement.
    pub statement: Digest,
    /// The signed statement itself: what `release.json` shows.
    pub payload: Vec<u8>,
    /// The artefact of this host's platform.
    pub artefact: Artefact,
    /// The keys whose signatures counted.
    pub keys: Vec<Digest>,
    /// The head under which it was last seen.
    pub head_version: u64,
    /// Whether its publisher withdrew it (yanked) and a pin keeps it.
    pub yanked: Option<String>,
}

/// What a slot stands for.
#[derive(Debug, Clone)]
pub enum Slot {
    /// `/mcp/<name>`.
    Server(Arc<Server>),
    /// `/mcp/<name>/<version>`.
    Release(Arc<Admitted>),
}

/// How fresh the word is on which an open is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The head expired, the site was not reachable at the last look, or this server's
    /// entry is missing there: what was admitted still runs.
    pub stale: bool,
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
