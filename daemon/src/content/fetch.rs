//! Filling the cache: chunks come in, whole verified files come out.
//!
//! Every transfer is a flight of its own task, admitted by one gate, so that waiters may
//! leave and others join. Memory is granted before a transfer starts, for the stored and the
//! decoded form, and returned when the last user of the decoded bytes drops them. Nothing
//! holds a grant while it waits for another one: pieces of a large file are written where
//! they belong as they come, in any order, so a budget of one chunk still makes progress.

mod ahead;

use std::fs::File;
use std::sync::Arc;

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use mcpfs_trust::site::object;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::cas::Cas;
use super::flight::{Flights, Landing, Seat};
use super::gate::{Class, Gate, Grant};
use super::index::{Area, Name, on_disk};
use super::release::{Piece, ReleaseContent, Wanted};
use super::{ContentEvent, ContentSettings, Events, Opened};
use crate::refusal::Refusal;
use crate::site::Site;

/// How often a wait may end without its file, because it was evicted or replaced meanwhile.
const TURNS: usize = 5;
/// The stored and the plain digest: two layouts may differ about the same stored chunk.
type ChunkName = (Digest, Digest);
type ChunkLanding = Landing<ChunkName, Result<Arc<Plain>, Refusal>>;

#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) settings: ContentSettings,
    pub(super) gate: Arc<Gate>,
    pub(super) cas: Arc<Cas>,
    site: Site,
    pub(super) runtime: Handle,
    events: Events,
    chunks: Flights<ChunkName, Result<Arc<Plain>, Refusal>>,
    /// Verification and assembly of whole files.
    files: Flights<Name, Result<Whole, Refusal>>,
    /// One permit a processor for work that nobody waits for.
    quiet: Semaphore,
}

/// How a flight for a whole file ended.
#[derive(Debug, Clone)]
struct Whole {
    /// The verified file, if there is one: as long as this is held it cannot be evicted, so whoever
    /// waits for it has it, however full the cache is.
    file: Option<Arc<File>>,
    /// Bytes transferred for it.
    fetched: u64,
}

/// A decoded chunk, and the memory it was granted.
#[derive(Debug)]
struct Plain {
    bytes: Vec<u8>,
    _grant: Grant,
}

impl Fetcher {
    pub(super) fn new(
        settings: ContentSettings,
        site: Site,
        runtime: Handle,
        events: Events,
        cas: Arc<Cas>,
    ) -> Arc<Self> {
        let gate = Gate::new(settings.transfers, settings.memory);
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let (chunks, files) = (Flights::new(), Flights::new());
        Arc::new(Self { settings, gate, cas, site, runtime, events, chunks, files, quiet: Semaphore::new(processors) })
    }

    /// Whether a transfer that began ahead has its first waiter.
    #[cfg(test)]
    pub(super) fn somebody_waits_for(&self, chunk: &Chunk) -> bool {
        self.chunks.is_claimed(&(chunk.sha256, chunk.plain_sha256))
    }

    /// A file that is not ready.
    pub(super) async fn file(
        self: &Arc<Self>,
        release: &Arc<ReleaseContent>,
        wanted: Wanted,
        class: Class,
    ) -> Result<Opened, Refusal> {
        let name = (Area::Files, wanted.sha256);
        let mut fetched_bytes = 0;
        for _ in 0..TURNS {
            if let Some(file) = self.cas.ready(name, wanted.size) {
                return Ok(Opened { file, fetched_bytes });
            }
            if let Some(file) = self.cached(name, wanted.size).await? {
                return self.opened(name, wanted.size, &file, fetched_bytes);
            }
            if wanted.content.is_none() {
                return self.store(name, wanted.size, None).await.map(|file| Opened { file, fetched_bytes });
            }
            let Some(pieces) = release.pieces(&wanted) else {
                return Err(Refusal::new(Code::Malformed, "the layout does not belong to this tree"));
            };
            if let [piece] = pieces[..] {
                let needed = || !self.cas.is_verified(name);
                let Some(seat) = self.chunk(&piece, Some(release), class, needed) else { continue };
                let first = seat.first;
                let plain = landed(seat).await?;
                let file = self.store(name, wanted.size, Some((plain, piece))).await?;
                let fetched_bytes = if first { u64::from(piece.chunk.size) } else { 0 };
                return Ok(Opened { file, fetched_bytes });
            }
            let (file, fetched) = self.assemble(name, "file", wanted.size, pieces, Some(release), class).await?;
            fetched_bytes += fetched;
            if let Some(file) = file {
                return self.opened(name, wanted.size, &file, fetched_bytes);
            }
        }
        Err(lost())
    }

    pub(super) async fn metadata(
        self: &Arc<Self>,
        what: &'static str,
        sha256: Digest,
        size: u64,
        chunks: &[Chunk],
    ) -> Result<Vec<u8>, Refusal> {
        let name = (Area::Metadata, sha256);
        for _ in 0..TURNS {
            if let Some(bytes) = self.cached_metadata(sha256, size).await? {
                return Ok(bytes);
            }
            let mut at = 0;
            let pieces = chunks.iter().map(|chunk| {
                let len = chunk.plain_size as usize;
                at += len as u64;
                Piece { chunk: *chunk, index: None, from: 0, len, at: at - len as u64 }
            });
            let (file, _) = self.assemble(name, what, size, pieces.collect(), None, Class::Foreground).await?;
            if let Some(file) = file {
                return self.bytes(file, size).await;
            }
        }
        Err(lost())
    }

    /// A tree or layout that is here already.
    pub(super) async fn cached_metadata(
        self: &Arc<Self>,
        sha256: Digest,
        size: u64,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let name = (Area::Metadata, sha256);
        let this = self.clone();
        if let Some(bytes) = self.blocking(move || this.cas.read(name, size)).await? {
            return Ok(Some(bytes));
        }
        match self.cached(name, size).await? {
            Some(file) => self.bytes(file, size).await.map(Some),
            None => Ok(None),
        }
    }

    /// A file that is held, opened once more: everybody reads it from its beginning. If its name is gone
    /// meanwhile, what is held is as good, but for the position.
    fn opened(&self, name: Name, size: u64, held: &File, fetched_bytes: u64) -> Result<Opened, Refusal> {
        let again = self.cas.ready(name, size).map_or_else(|| held.try_clone(), Ok);
        again.map(|file| Opened { file, fetched_bytes }).map_err(|error| {
            Refusal::new(Code::CacheFault, format!("cannot open a file of the cache: {error}; allow more open files"))
        })
    }

    async fn bytes(&self, file: Arc<File>, size: u64) -> Result<Vec<u8>, Refusal> {
        let cas = self.cas.clone();
        self.blocking(move || cas.bytes(&file, size)).await
    }

    /// Joins or starts the transfer of a piece's chunk.
    fn chunk(
        self: &Arc<Self>,
        piece: &Piece,
        release: Option<&Arc<ReleaseContent>>,
        class: Class,
        needed: impl FnOnce() -> bool,
    ) -> Option<Seat<Result<Arc<Plain>, Refusal>>> {
        let chunk = piece.chunk;
        let followers = release.cloned().zip(piece.index);
        let this = self.clone();
        let key = (chunk.sha256, chunk.plain_sha256);
        self.chunks.join(&self.runtime, key, class, needed, move |landing| async move {
            match this.transfer(chunk, class, &landing).await {
                Err(refusal) => landing.end(Err(refusal)),
                Ok(plain) => {
                    landing.publish(Ok(plain.clone()));
                    if let Some((release, index)) = followers {
                        this.follow(release, index, plain).await;
                    }
                    // Joinable until here: who came meanwhile used the decoded chunk.
                    drop(landing);
                }
            }
        })
    }

    async fn transfer(
        self: &Arc<Self>,
        chunk: Chunk,
        class: Class,
        landing: &ChunkLanding,
    ) -> Result<Arc<Plain>, Refusal> {
        let bytes = u64::from(chunk.size) + u64::from(chunk.plain_size);
        let mut grant = match class {
            Class::Foreground => self.gate.admit(class, bytes).await,
            Class::Background => tokio::select! {
                biased;
                grant = self.gate.admit(class, bytes) => grant,
                () = landing.hurried() => self.gate.admit(Class::Foreground, bytes).await,
            },
        };
        let check = |stored: Vec<u8>, from: String| async move {
            let plain = self.blocking(move || chunk.decode(&stored).map_err(Refusal::from)).await;
            if let Err(refusal) = &plain {
                self.events.tell(ContentEvent::ChunkRefused { sha256: chunk.sha256, from, refusal: refusal.clone() });
            }
            plain
        };
        let bytes = self.site.get_through(&object(&chunk.sha256), u64::from(chunk.size), "chunk", check).await?;
        grant.landed(bytes.len() as u64);
        Ok(Arc::new(Plain { bytes, _grant: grant }))
    }

    /// Puts all missing files that lie whole in a chunk into the cache, with nobody waiting.
    async fn follow(self: &Arc<Self>, release: Arc<ReleaseContent>, index: usize, plain: Arc<Plain>) {
        let Ok(_quiet) = self.quiet.acquire().await else { return };
        let this = self.clone();
        let stored = self.blocking(move || {
            let lies_in_it = |wanted: Wanted| match release.pieces(&wanted)?[..] {
                [piece] if !this.cas.holds((Area::Files, wanted.sha256)) => Some((wanted, piece)),
                _ => None,
            };
            let missing: Vec<_> = release.beginning_in(index).filter_map(lies_in_it).collect();
            let mut batch =
                this.cas.batch(missing.iter().map(|(wanted, _)| on_disk(wanted.size)).sum(), Class::Background)?;
            for (wanted, piece) in missing {
                let name = (Area::Files, wanted.sha256);
                if this.cas.is_scarce() {
                    break;
                }
                // An opener may have stored it while this went on.
                if !this.cas.holds(name)
                    && let Err(refusal) = batch.put(name, "file", part(&plain, &piece)?)
                {
                    // Each open of such a file is told by itself.
                    tracing::debug!(%refusal, sha256 = %wanted.sha256, "not stored with its chunk");
                    if matches!(refusal.code, Code::CacheFull | Code::CacheFault) {
                        break;
                    }
                }
            }
            Ok(())
        });
        if let Err(refusal) = stored.await {
            tracing::debug!(%refusal, "the other files of a chunk were not stored");
        }
    }

    /// Stores one small file, unless somebody has just done it.
    async fn store(
        self: &Arc<Self>,
        name: Name,
        size: u64,
        from: Option<(Arc<Plain>, Piece)>,
    ) -> Result<File, Refusal> {
        let this = self.clone();
        self.blocking(move || {
            if let Some(file) = this.cas.ready(name, size) {
                return Ok(file);
            }
            let bytes = from.as_ref().map_or(Ok(&[][..]), |(plain, piece)| part(plain, piece))?;
            this.cas.batch(on_disk(size), Class::Foreground)?.put(name, "file", bytes)
        })
        .await
    }

    /// What the cache has under that name, for whoever may wait: until eviction has let go of it, and
    /// until it is hashed, once for all who ask. `None` if there is nothing, or nothing any more.
    async fn cached(self: &Arc<Self>, name: Name, size: u64) -> Result<Option<Arc<File>>, Refusal> {
        if self.cas.surely_lacks(name) {
            return Ok(None);
        }
        let this = self.clone();
        let needed = || !self.cas.is_verified(name);
        let seat = self.files.join(&self.runtime, name, Class::Foreground, needed, move |landing| async move {
            let cas = this.cas.clone();
            let verify = move || cas.verify(name, size).map(|file| Whole { file: file.map(Arc::new), fetched: 0 });
            landing.end(this.blocking(verify).await);
        });
        match seat {
            Some(seat) => landed(seat).await.map(|whole| whole.file),
            None => {
                let cas = self.cas.clone();
                self.blocking(move || Ok(cas.ready_patiently(name, size)?.map(Arc::new))).await
            }
        }
    }

    /// Puts a file of several chunks together, once for all who ask. Returns it, unless somebody else
    /// has brought it just now, and the bytes transferred if this call began it.
    async fn assemble(
        self: &Arc<Self>,
        name: Name,
        what: &'static str,
        size: u64,
        pieces: Vec<Piece>,
        release: Option<&Arc<ReleaseContent>>,
        class: Class,
    ) -> Result<(Option<Arc<File>>, u64), Refusal> {
        let (this, release) = (self.clone(), release.cloned());
        let needed = || !self.cas.is_verified(name);
        let seat = self.files.join(&self.runtime, name, class, needed, move |landing| async move {
            let done = this.write_pieces(name, what, size, pieces, release, class, &landing).await;
            landing.end(done);
        });
        let Some(seat) = seat else { return Ok((None, 0)) };
        let first = seat.first;
        landed(seat).await.map(|whole| (whole.file, if first { whole.fetched } else { 0 }))
    }

    #[allow(clippy::too_many_arguments)] // The inside of `assemble`, which is the interface.
    async fn write_pieces(
        self: &Arc<Self>,
        name: Name,
        what: &'static str,
        size: u64,
        pieces: Vec<Piece>,
        release: Option<Arc<ReleaseContent>>,
        mut class: Class,
        landing: &Landing<Name, Result<Whole, Refusal>>,
    ) -> Result<Whole, Refusal> {
        let mut calls = self.cas.calls_for_room();
        let (mut batch, draft) = loop {
            let cas = self.cas.clone();
            match self.blocking(move || Ok((cas.batch(on_disk(size), class)?, cas.draft()?))).await {
                // Somebody may have come to wait for it meanwhile; else it is left to whoever does.
                Err(refusal) if refusal.code == Code::CacheFull && class == Class::Background => {
                    tokio::select! {
                        biased;
                        () = landing.hurried() => class = Class::Foreground,
                        () = std::future::ready(()) => return Ok(Whole { file: None, fetched: 0 }),
                    }
                }
                done => break done?,
            }
        };
        let draft = Arc::new(draft);
        let mut fetched = 0;
        let mut missing = pieces.iter();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < self.settings.transfers {
                let Some(piece) = missing.next().copied() else { break };
                let Some(seat) = self.chunk(&piece, release.as_ref(), class, || true) else { continue };
                fetched += if seat.first { u64::from(piece.chunk.size) } else { 0 };
                let (this, draft) = (self.clone(), draft.clone());
                let write = async move {
                    let plain = landed(seat).await?;
                    let write = this.clone();
                    this.blocking(move || write.cas.write(&draft, piece.at, part(&plain, &piece)?)).await
                };
                under_way.spawn_on(write, &self.runtime);
            }
            tokio::select! {
                biased;
                () = landing.hurried(), if class == Class::Background => {
                    class = Class::Foreground;
                    batch.hurry();
                    pieces.iter().for_each(|piece| {
                        self.chunks.hurry(&(piece.chunk.sha256, piece.chunk.plain_sha256));
                    });
                }
                Ok(()) = calls.changed(), if class == Class::Background => {
                    tracing::debug!(sha256 = %name.1, "gave its room back");
                    return Ok(Whole { file: None, fetched });
                }
                ended = under_way.join_next() => match ended {
                    None => break,
                    Some(ended) => ended.unwrap_or_else(|_| Err(died()))?,
                },
            }
        }
        self.blocking(move || {
            let draft = Arc::try_unwrap(draft).map_err(|_| died())?;
            let file = batch.publish(draft, name, what, size)?;
            Ok(Whole { file: Some(Arc::new(file)), fetched })
        })
        .await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.runtime.spawn_blocking(work).await.unwrap_or_else(|_| Err(died()))
    }
}

async fn landed<T: Clone>(seat: Seat<Result<T, Refusal>>) -> Result<T, Refusal> {
    seat.landed().await.unwrap_or_else(|| Err(died()))
}

/// A piece's bytes. The layout was checked against the sizes in its chunk records, and a
/// decoded chunk has the size of its record.
fn part<'a>(plain: &'a Plain, piece: &Piece) -> Result<&'a [u8], Refusal> {
    let bytes = plain.bytes.get(piece.from..).and_then(|rest| rest.get(..piece.len));
    bytes.ok_or_else(|| Refusal::new(Code::Malformed, "the layout points outside a chunk"))
}

fn died() -> Refusal {
    Refusal::new(Code::CacheFault, "an internal task of the cache failed; see the daemon's log")
}

fn lost() -> Refusal {
    Refusal::new(Code::CacheFull, "the cache evicts faster than files can be opened; raise its quota")
}
