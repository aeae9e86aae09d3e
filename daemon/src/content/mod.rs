//! Content: a file is exactly what the verified tree names, or it is not there.
//!
//! This room turns (tree node, layout) into a read-only descriptor. What it hands out was
//! hashed as a whole, in this boot, through a read-only description of the file in the
//! cache with no writer left (see `cas`); neither the network, nor a mirror, nor the
//! layout, nor the cache of an earlier boot is believed.
//!
//! ```text
//! file(node) ─ ready: open + fstat ───────────────────────────────────────────────► File
//!      │ cached, not verified in this boot ─ hash, off the FUSE threads ──────────► File
//!      │ small: one chunk ─ flight ─ decode ─ own file first ─────────────────────► File
//!      │                       └ then, in the background, all other files of that chunk
//!      └ large: several chunks in parallel, written in place ─ hash as a whole ───► File
//! ```
//!
//! One chunk is one request however many files it holds and however many wait. The opener
//! writes only the file it wants and goes on; the chunk's other files follow behind it,
//! while later openers still find the decoded chunk in its flight. That is why a cold
//! launch that touches 300 of 4,000 files waits for 300 of them.
//!
//! A launch announces itself before its first open. On a host that has nothing of the
//! release the chunks that its entry calls `first` are then asked for together with tree
//! and layout ([`Content::ahead`]): one parallel round instead of two. They wait in memory,
//! under the one budget, until the layout says which files they hold.
//!
//! A deadline belongs to a waiter, not to the work: who waited too long is told so, the
//! transfer goes on under its own bounds and the next open finds its result.
//!
//! Rejected: partial files (passthrough reads cannot be intercepted, so a file is whole
//! before its first byte), and verification by chunk alone (the layout is not signed).

mod cas;
mod fetch;
mod flight;
mod gate;
mod hold;
mod index;
mod lease;
mod release;
#[cfg(test)]
mod tests;
mod verified;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use mcpfs_trust::limits;
use mcpfs_trust::tree::NodeId;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::refusal::Refusal;
use crate::site::Site;
use cas::Cas;
use fetch::Fetcher;
use gate::Class;
use hold::Hold;
use index::Area;
pub use release::ReleaseContent;

/// How many bytes of a file system of `whole` bytes the cache leaves to others by default.
pub fn keep_free(whole: u64) -> u64 {
    cas::room::default_floor(whole)
}

/// How often the free space of the cache's file system is looked at when nothing is fetched.
const LOOK: Duration = Duration::from_secs(5);

/// Gives room back when others fill the file system, for as long as the cache is there.
async fn relieve(cas: Weak<Cas>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(cas) = cas.upgrade() else { return };
        // What dies there has said so in the log; the next look comes all the same.
        drop(tokio::task::spawn_blocking(move || cas.relieve()).await);
    }
}

/// Settings of [`Content`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentSettings {
    /// The cache directory, of this user alone. Not on a stacked file system: passthrough refuses it.
    pub cache: PathBuf,
    /// The run directory, emptied by a reboot; `verified` is kept there.
    pub run: PathBuf,
    /// Most bytes of the cache on disk, in whole blocks. Quarantine may have 64 MiB more.
    pub quota: u64,
    /// Bytes of its file system that the cache leaves free for others; by default a twentieth of
    /// it, at most 5 GiB.
    pub keep_free: Option<u64>,
    /// Most bytes of chunks in memory, stored and decoded, over all transfers.
    pub memory: u64,
    /// Most chunk transfers at once.
    pub transfers: usize,
    /// A release of at most that many stored bytes is fetched whole after its first open.
    pub prefetch_limit: u64,
    /// Longest wait of one open or one metadata read.
    pub open_deadline: Duration,
}

impl ContentSettings {
    /// The defaults for these two directories: quota 8 GiB, memory 64 MiB,
    /// 16 transfers, prefetch up to 64 MiB, deadline 30 s.
    pub fn new(cache: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            run: run.into(),
            quota: 8 << 30,
            keep_free: None,
            memory: 64 << 20,
            transfers: 16,
            prefetch_limit: 64 << 20,
            open_deadline: Duration::from_secs(30),
        }
    }
}

/// The cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A directory or file failed.
    #[error("cannot {what} {path}")]
    Io {
        /// The action.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put content there.
    #[error("{path} belongs to another user or can be written by others; remove it or correct its owner and mode")]
    Unsafe {
        /// The directory or file.
        path: PathBuf,
    },
    /// Another daemon holds the cache.
    #[error("another mcpfs uses the cache {path}; stop it, or give this one its own cache")]
    InUse {
        /// The cache.
        path: PathBuf,
    },
}

/// What happened in this room that the audit should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentEvent {
    /// A cached file was not what its name says.
    Quarantined {
        /// Its name.
        sha256: Digest,
        /// What it hashed to; `None` if its size or kind was wrong already.
        found: Option<Digest>,
        /// It is kept in quarantine; else it was removed.
        kept: bool,
    },
    /// A mirror's bytes were not the chunk they were asked for.
    ChunkRefused {
        /// The stored chunk.
        sha256: Digest,
        /// The mirror's address without credentials.
        from: String,
        /// Why.
        refusal: Refusal,
    },
}

/// Bounded, never waits: an attacker must not be able to fill memory with reports.
#[derive(Debug, Clone)]
struct Events(mpsc::Sender<ContentEvent>);

impl Events {
    fn tell(&self, event: ContentEvent) {
        tracing::warn!(?event, "content was refused");
        if self.0.try_send(event).is_err() {
            tracing::error!("the audit does not keep up with content events; one is only logged");
        }
    }
}

/// A file that may be read.
#[derive(Debug)]
pub struct Opened {
    /// Read-only, the description that was verified; may become a backing file.
    pub file: File,
    /// Stored bytes transferred because of this very call: 0 for what was cached or awaited.
    pub fetched_bytes: u64,
}

/// Chunks under way whose meaning is not known yet. Dropped, they are let go.
#[derive(Debug)]
pub struct Ahead(watch::Sender<Option<Arc<ReleaseContent>>>);

impl Ahead {
    /// Says what the chunks are of: their files go into the cache as they come.
    pub fn belongs_to(self, release: &Arc<ReleaseContent>) {
        self.0.send_replace(Some(Arc::clone(release)));
    }
}

/// What the room holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the cache on disk, in whole blocks.
    pub cached: u64,
    /// Its bound.
    pub quota: u64,
    /// Free bytes of its file system, if that says so.
    pub free: Option<u64>,
    /// How many of them it leaves to others.
    pub keep_free: u64,
    /// Files in the cache.
    pub files: usize,
    /// Bytes of chunks in memory.
    pub in_flight: u64,
}

/// Verified content. Clones share one cache.
#[derive(Debug, Clone)]
pub struct Content(Arc<Fetcher>);

impl Content {
    /// Opens the cache and starts the walk over it.
    ///
    /// # Errors
    /// As [`Self::open_idle`].
    pub fn open(
        settings: ContentSettings,
        site: Site,
        runtime: Handle,
        events: mpsc::Sender<ContentEvent>,
    ) -> Result<Self, ContentError> {
        let content = Self::open_idle(settings, site, runtime, events)?;
        content.walk();
        Ok(content)
    }

    /// Opens the cache. Blocks for a few file operations. Whoever writes waits for [`Self::walk`].
    ///
    /// # Errors
    /// When the directories cannot be used, others can write them, or another daemon does.
    pub fn open_idle(
        settings: ContentSettings,
        site: Site,
        runtime: Handle,
        events: mpsc::Sender<ContentEvent>,
    ) -> Result<Self, ContentError> {
        let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
        let boot = std::fs::read_to_string(&path).map_err(|source| ContentError::Io { what: "read", path, source })?;
        Self::open_in_boot(settings, site, runtime, events, boot.trim())
    }

    fn open_in_boot(
        settings: ContentSettings,
        site: Site,
        runtime: Handle,
        events: mpsc::Sender<ContentEvent>,
        boot: &str,
    ) -> Result<Self, ContentError> {
        let events = Events(events);
        let cas = Arc::new(Cas::open(
            &settings.cache,
            &settings.run,
            boot,
            settings.quota,
            settings.keep_free,
            events.clone(),
        )?);
        let fetcher = Fetcher::new(settings, site, runtime.clone(), events, cas);
        runtime.spawn(relieve(Arc::downgrade(&fetcher.cas)));
        Ok(Self(fetcher))
    }

    /// Starts the walk over the cache, once.
    pub fn walk(&self) {
        let walker = self.0.clone();
        self.0.runtime.spawn_blocking(move || walker.cas.walk());
    }

    /// The file, if it is cached and was verified in this boot. One open and one fstat: fit
    /// for a FUSE thread.
    pub fn ready(&self, sha256: &Digest, size: u64) -> Option<File> {
        self.0.cas.ready((Area::Files, *sha256), size)
    }

    /// The content of a file node, fetched if it must be, within the deadline.
    ///
    /// # Errors
    /// `Malformed` for what is no file; those of [`Site::get_checked`]; `DigestMismatch`
    /// when no mirror or the layout leads to the content the tree names; `TooSlow` after
    /// the deadline; `CacheFull` when there is no room, `CacheFault` when the disk fails.
    pub async fn file(&self, release: &Arc<ReleaseContent>, node: NodeId) -> Result<Opened, Refusal> {
        let Some(wanted) = release.wanted(node) else {
            return Err(Refusal::new(Code::Malformed, "not a file of this release"));
        };
        if let Some(file) = self.ready(&wanted.sha256, wanted.size) {
            return Ok(Opened { file, fetched_bytes: 0 });
        }
        let work = self.0.file(release, wanted, Class::Foreground);
        self.within_deadline(work).await.map_err(|refusal| refusal.of(release.tree.path(node)))
    }

    /// A tree or layout, called `what`, whose bytes are the plain bytes of `chunks` in turn.
    ///
    /// # Errors
    /// As [`Content::file`]; `Malformed` or `SizeExceeded` for a list that cannot be right.
    pub async fn metadata(
        &self,
        what: &'static str,
        sha256: &Digest,
        size: u64,
        chunks: &[Chunk],
    ) -> Result<Vec<u8>, Refusal> {
        let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.plain_size)).sum();
        if size > limits::TREE_BYTES || sum != size {
            return Err(Refusal::new(Code::Malformed, format!("{what}: its chunks hold {sum} bytes, it has {size}")));
        }
        for chunk in chunks {
            chunk.check()?;
        }
        self.within_deadline(self.0.metadata(what, *sha256, size, chunks)).await
    }

    /// The same, if it is cached; nothing is fetched.
    pub async fn cached_metadata(&self, sha256: &Digest, size: u64) -> Option<Vec<u8>> {
        self.0.cached_metadata(*sha256, size).await.ok().flatten()
    }

    /// Spares a tree and its layout from eviction.
    pub fn hold(&self, contents: [Digest; 2]) -> Hold {
        Hold::new(Arc::clone(&self.0.cas), contents)
    }

    /// Spares all trees and layouts that an earlier process of this boot has read: the mount's kernel may
    /// know inodes by them.
    pub fn inherit(&self) {
        self.0.cas.inherit();
    }

    /// Those of these files of the cache, by their inode numbers there, that an earlier process of this boot
    /// verified; `most` at most. Opened, so that they are not evicted.
    pub fn verified_before(&self, inodes: &HashSet<u64>, most: usize) -> HashMap<u64, Arc<File>> {
        self.0.cas.verified_before(inodes, most)
    }

    /// Starts the transfer of chunks that a release is known to want, while its tree and
    /// layout, which say what lies in them, are still on their way. Returns at once.
    pub fn ahead(&self, chunks: &[Chunk]) -> Ahead {
        let (tell, told) = watch::channel(None);
        self.0.ahead(chunks, &told);
        Ahead(tell)
    }

    /// Whether an encoded tree or layout is in the cache, verified or not.
    pub fn has_metadata(&self, sha256: &Digest) -> bool {
        self.0.cas.holds((Area::Metadata, *sha256))
    }

    /// Fetches the rest of a small release in the background, once. Returns at once.
    pub fn prefetch(&self, release: &Arc<ReleaseContent>) {
        self.0.prefetch(release);
    }

    /// Replaces the set of contents that eviction never takes.
    pub fn keep(&self, contents: HashSet<Digest>) {
        self.0.cas.keep(contents);
    }

    /// Registers who keeps descriptors of cached files only for speed; it is asked to close them
    /// when eviction finds everything in use. Once for each cache.
    pub fn when_scarce(&self, let_go: impl Fn() + Send + Sync + 'static) {
        self.0.cas.when_scarce(Box::new(let_go));
    }

    /// What is held now.
    pub fn usage(&self) -> Usage {
        let (cached, files) = self.0.cas.usage();
        let (free, keep_free) = self.0.cas.free();
        Usage { cached, quota: self.0.settings.quota, free, keep_free, files, in_flight: self.0.gate.in_use() }
    }

    async fn within_deadline<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let deadline = self.0.settings.open_deadline;
        timeout(deadline, work).await.unwrap_or_else(|_| {
            let seconds = deadline.as_secs_f64();
            let advice = "the transfer goes on; try again, or check the network and the mirrors";
            Err(Refusal::new(Code::TooSlow, format!("not here after {seconds} s: {advice}")))
        })
    }
}
