//! How a request is answered: at once, or from a task, and always.
//!
//! Every handler of the adapter runs through [`Mounted::answer`], which polls its future once
//! on the FUSE thread and, if it has to wait, moves it with the reply into a task. It catches
//! panics at both places, so that none can end a thread that serves the mount, sees to it that
//! every request gets a reply, and bounds how long that may take: a process that waits for an
//! open cannot be killed.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fuser::{Errno, FileHandle, FopenFlags, RequestId};
use tokio::runtime::Handle as Runtime;
use tracing::Instrument;

use super::backings::{Backings, Source};
use super::handle::{Handle, Handles, most_files};
use super::ino::Ino;
use super::notes::Request;
use super::open::Opened;
use super::pulse::Pulse;
use super::shares::Shares;
use super::vfs::{Listing, Vfs};
use crate::errno::{FsError, report};
use crate::mount::{Backed, Backing, Inherited, Reads};

/// The last deadline of any request. The rooms behind have shorter ones of their own, and say
/// better what was slow; this one holds whatever they do.
const DEADLINE: Duration = Duration::from_secs(120);

/// How much of two files is compared at once.
const PART: usize = 256 << 10;

/// The mark of a request that the kernel sends again: FUSE_UNIQUE_RESEND of <linux/fuse.h>.
const AGAIN: u64 = 1 << 63;

/// The file system as fuser serves it.
#[derive(Debug)]
pub(super) struct Mounted(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) vfs: Arc<Vfs>,
    runtime: Runtime,
    pub(super) backing: Arc<Backing>,
    pub(super) handles: Handles,
    backings: Backings<Backed>,
    shares: Shares,
    pulse: Arc<Pulse>,
}

impl Mounted {
    /// Serves `vfs`; what has to wait does so on `runtime`. `backing` is the mount's door to
    /// passthrough, `generation` the worker's number; `pulse` tells whether its threads go on.
    pub(super) fn new(
        vfs: Arc<Vfs>,
        runtime: Runtime,
        backing: Arc<Backing>,
        generation: u64,
        pulse: Arc<Pulse>,
    ) -> Self {
        let (handles, backings) = (Handles::new(generation), Backings::default());
        let shares = Shares::default();
        let inner = Arc::new(Inner { vfs, runtime, backing, handles, backings, shares, pulse });
        let idle = Arc::downgrade(&inner);
        inner.vfs.content.when_scarce(move || {
            if let Some(inner) = idle.upgrade() {
                inner.backings.drop_idle();
            }
        });
        Self(inner)
    }

    /// Answers one request: now, if `work` is ready at its first poll, or from a task.
    pub(super) fn answer<T, R>(
        &self,
        operation: &'static str,
        reply: R,
        work: impl Future<Output = Result<T, FsError>> + Send + 'static,
        send: impl FnOnce(&Inner, R, Result<T, Errno>) + Send + 'static,
    ) where
        T: Send + 'static,
        R: Send + 'static,
    {
        let inner = Arc::clone(&self.0);
        let finish = move |reply, outcome: Result<T, FsError>| {
            let outcome = outcome.map_err(|error| report(operation, &error));
            // A panic drops the reply, and fuser answers a dropped reply with an error.
            if catch_unwind(AssertUnwindSafe(|| send(&inner, reply, outcome))).is_err() {
                tracing::error!(operation, "panicked while replying");
            }
        };
        let mut work: Pin<Box<dyn Future<Output = Result<T, FsError>> + Send>> = Box::pin(work);
        let _busy = self.0.pulse.busy();
        let entered = self.0.runtime.enter();
        let first = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        drop(entered);
        match first {
            Ok(Poll::Ready(outcome)) => finish(reply, outcome),
            Err(_) => finish(reply, Err(FsError::Internal(format!("{operation} panicked")))),
            // The task polls anew before it sleeps, so nothing that woke nobody is missed.
            Ok(Poll::Pending) => {
                let runtime = self.0.runtime.clone();
                let span = tracing::debug_span!("fuse", operation);
                self.0.runtime.spawn(
                    async move {
                        let mut task = runtime.spawn(work.in_current_span());
                        let outcome = match tokio::time::timeout(DEADLINE, &mut task).await {
                            Ok(Ok(outcome)) => outcome,
                            Ok(Err(_)) => Err(FsError::Internal(format!("{operation} panicked"))),
                            Err(_) => {
                                task.abort();
                                Err(FsError::Deadline { what: operation, seconds: DEADLINE.as_secs() })
                            }
                        };
                        finish(reply, outcome);
                    }
                    .instrument(span),
                );
            }
        }
    }
}

impl Inner {
    /// Answers request `unique` with what was opened.
    pub(super) fn opened(&self, reply: fuser::ReplyOpen, ino: Ino, unique: u64, opened: Opened) {
        // Flush says nothing to us, and would cost a round trip at every close.
        let cached = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        match opened {
            Opened::Text(text) => reply.opened(FileHandle(self.handles.insert(Handle::Text(text))), cached),
            Opened::File(file, payer) => {
                let request = Request { handle: self.handles.number(), unique };
                let handle = FileHandle(request.handle);
                let given = match self.shares.take(request.handle, payer, self.backing.most_open().unwrap_or(u64::MAX))
                {
                    Ok(before) => match self.backing.reads() {
                        Reads::Cached => self.hand_out(request, file, before).map(|()| None),
                        Reads::Passthrough => self.back(ino, request, &file).map(Some),
                    },
                    Err(error) => Err(error),
                };
                match given {
                    Ok(None) => reply.opened(handle, cached),
                    Ok(Some(id)) => reply_backed(reply, &id, handle),
                    Err(error) => {
                        self.shares.give_back(request.handle);
                        reply.error(report("open", &error));
                    }
                }
            }
        }
    }

    /// `before` is how many handles whoever asks has already.
    fn hand_out(&self, request: Request, file: std::fs::File, before: u64) -> Result<(), FsError> {
        let failed = |error| FsError::Internal(format!("the file cannot be kept open: {error}"));
        // Whoever has a mount of their own shares it with nobody.
        let before = self.backing.most_open().map_or(0, |_| before);
        let file = self.handles.share(Arc::new(file), most_files(), before)?;
        let on = file.metadata().map_err(failed)?.ino();
        let note = |slot| self.backing.note_open(slot, request.handle, request.unique, on);
        self.handles.open(request, file, note).map_err(failed)
    }

    /// Not read through us if that fails: an inode must never have two ways of reading.
    fn back(&self, ino: Ino, request: Request, file: &std::fs::File) -> Result<Arc<Backed>, FsError> {
        let source =
            source(file).and_then(|source| self.backings.open(ino, source, request, || self.backing.open(ino.0, file)));
        source.map_err(|error| FsError::Internal(format!("the kernel refused a backing file: {error}")))
    }

    /// Sees to an inode that is open with another file than the cache has now, because that was wiped.
    /// The kernel takes one file per inode: the new one if nobody has it open, else the old one, and
    /// that only if it holds what was verified. If it does not, the open will fail.
    pub(super) async fn settle(self: Arc<Self>, ino: Ino, file: &std::fs::File) {
        if self.backing.reads() != Reads::Passthrough {
            return;
        }
        let work = || -> std::io::Result<Option<(Source, std::fs::File)>> {
            let source = source(file)?;
            Ok(if self.backings.differs(ino, source) { Some((source, file.try_clone()?)) } else { None })
        };
        let Ok(Some((new, file))) = work() else { return };
        let this = Arc::clone(&self);
        let compared = self.runtime.spawn_blocking(move || {
            let old = this.backing.again(ino.0)?;
            if same(&old, &file)? {
                this.backings.is_twin(ino, source(&old)?, new);
            }
            std::io::Result::Ok(())
        });
        if let Ok(Err(error)) = compared.await {
            tracing::warn!(%error, "the file that an inode is open with cannot be compared with the cache's");
        }
    }

    /// The number of a request to open. If it comes again, what a predecessor noted for it is void.
    pub(super) fn opening(&self, unique: RequestId) -> u64 {
        let number = unique.0 & !AGAIN;
        if number != unique.0 {
            let left = self.backings.of_request(number).or_else(|| self.handles.of_request(number));
            if let Some(handle) = left {
                self.close(FileHandle(handle));
            }
        }
        number
    }

    /// Takes up what a predecessor had open: before the first request is served, and before anything is
    /// evicted.
    pub(super) fn inherit(&self) -> std::io::Result<()> {
        let left = self.backing.left_open()?;
        // Who noted them need not have meant well, and this process wants to open something, too.
        let files = self.vfs.content.verified_before(&left.iter().map(|(.., on)| *on).collect(), most_files());
        for file in files.values() {
            self.handles.share(Arc::clone(file), usize::MAX, 0).map_err(std::io::Error::other)?;
        }
        for (slot, handle, unique, on) in left {
            self.handles.keep(slot, Request { handle, unique }, files.get(&on).cloned());
            self.shares.inherit(handle);
        }
        for Inherited { backed, source, handles } in self.backing.inherited()? {
            let request = |(slot, handle, unique)| (slot, Request { handle, unique });
            let handles: Vec<_> = handles.into_iter().map(request).collect();
            handles.iter().for_each(|(_, request)| self.shares.inherit(request.handle));
            self.backings.inherit(Ino(backed.ino()), source, backed, &handles);
        }
        Ok(())
    }

    /// A file's handle was closed. Said before that is answered, so that it is said once more if this
    /// process ends in between.
    pub(super) fn close(&self, handle: FileHandle) {
        self.shares.give_back(handle.0);
        if !self.backings.close(handle.0) {
            self.handles.close(handle.0, |slot| self.backing.note_close(slot));
        }
    }

    /// A directory's handle was closed.
    pub(super) fn close_listing(&self, handle: FileHandle) {
        drop(self.handles.remove(handle.0));
    }

    /// What a handle stands for. One that a predecessor gave out is opened again: who has a file
    /// open was admitted, and is not asked a second time.
    pub(super) async fn handle(&self, ino: Ino, handle: FileHandle) -> Result<Arc<Handle>, FsError> {
        let known = self.handles.get(handle.0).filter(|known| !matches!(**known, Handle::Kept { .. }));
        match known {
            Some(known) => Ok(known),
            None if self.handles.is_inherited(handle.0) => {
                let again = Arc::new(match self.vfs.reopen(ino).await? {
                    Opened::Text(text) => Handle::Text(text),
                    // He has it open already, however many others are.
                    Opened::File(file, _) => Handle::Cached(self.handles.share(Arc::new(file), usize::MAX, 0)?),
                });
                self.handles.inherit(handle.0, Arc::clone(&again));
                Ok(again)
            }
            None => Err(FsError::BadHandle),
        }
    }

    /// The listing that a directory's handle stands for: the one taken when it was opened, so
    /// that entries neither double nor vanish under a reader, or the unchangeable one.
    pub(super) async fn listing(self: Arc<Self>, ino: Ino, handle: FileHandle) -> Result<(Listing, Ino), FsError> {
        let parent = self.vfs.parent(ino).await?;
        match self.handles.get(handle.0).as_deref() {
            Some(Handle::Listing(items)) => Ok((Listing::Items(Arc::clone(items)), parent)),
            Some(Handle::Text(_) | Handle::Cached(_) | Handle::Kept { .. }) => Err(FsError::BadHandle),
            None => Ok((self.vfs.listing(ino).await?.0, parent)),
        }
    }
}

fn source(file: &std::fs::File) -> std::io::Result<Source> {
    file.metadata().map(|found| (found.dev(), found.ino()))
}

/// Whether two files hold the same bytes.
fn same(one: &std::fs::File, other: &std::fs::File) -> std::io::Result<bool> {
    let size = one.metadata()?.len();
    if other.metadata()?.len() != size {
        return Ok(false);
    }
    let mut parts = [vec![0; PART], vec![0; PART]];
    let mut at = 0;
    while at < size {
        let length = PART.min(usize::try_from(size - at).unwrap_or(PART));
        let [first, second] = &mut parts;
        one.read_exact_at(&mut first[..length], at)?;
        other.read_exact_at(&mut second[..length], at)?;
        if first[..length] != second[..length] {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

/// The id belongs to the supervisor: fuser's own type of it would close it on drop.
#[allow(unsafe_code)]
fn reply_backed(reply: fuser::ReplyOpen, id: &Backed, handle: FileHandle) {
    // SAFETY: the kernel has this id, and `into_raw` keeps fuser from giving it back.
    let raw = unsafe { reply.wrap_backing(id.id()) };
    // KEEP_CACHE must not go with it.
    reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, &raw);
    raw.into_raw();
}
