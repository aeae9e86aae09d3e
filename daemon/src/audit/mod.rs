//! The audit: every decision is a committed, sealed row before it takes effect.
//!
//! One SQLite file is the record and at the same time the interface: docs/audit.md is
//! normative for its tables and views, and root may ask it anything with `sqlite3`. A
//! service with an own query language was rejected, as were log files, which have neither
//! an index nor a transaction to acknowledge.
//!
//! The way of an event: [`Audit::record`] → bounded queue → the writer thread
//! (`writer`) → repeats are counted (`fold`) → rows and their seal in one transaction
//! (`store`, `seal`) → the sender is answered. If the store cannot be written the sender gets
//! an [`AuditError`], and whatever it was about to allow does not happen.
//!
//! Reading (`query`, `verify`) uses connections of its own, read-only, also while the daemon
//! writes and when it is not there.

mod act;
mod boot;
mod event;
mod fold;
mod leftovers;
pub mod query;
mod reserve;
mod restart;
mod retain;
mod rows;
mod schema;
mod seal;
mod store;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use tokio::sync::{mpsc, oneshot};

pub use act::Act;
pub use boot::BootFacts;
pub use event::{AuditEvent, EventKind, ReleaseRef, clean};
pub use fold::{Budget, FoldLimits};
pub use restart::{Restarted, restart};
pub use retain::{Cutoff, Removed};
pub use schema::APPLICATION_ID;

use fold::Folding;
use reserve::Reserve;
use store::Store;
use writer::{Message, Reply, Writer};

use crate::refusal::{Refusal, with_cause};

/// Events that may wait for the writer; more senders wait to send.
const QUEUE: usize = 4096;

/// How long a sender waits for its row before its request fails.
const WAIT: Duration = Duration::from_secs(10);

/// Where and how to keep the audit.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditOptions {
    /// The file, usually `/var/lib/mcpfs/audit.db`. Its directory belongs to it.
    pub path: PathBuf,
    /// Disk space set aside for when the disk is full, bytes; 0 for none.
    pub reserve_bytes: u64,
    /// How repeats are folded and users held back.
    pub folding: FoldLimits,
    /// Whether a boot row begins at once, which proves that the store can be written, or with the first
    /// row or facts: whoever takes over for another process has others waiting.
    pub begin: bool,
}

impl AuditOptions {
    /// The store at `path` with 16 MiB in reserve (about 100,000 rows) and the usual limits.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), reserve_bytes: 16 << 20, folding: FoldLimits::default(), begin: true }
    }
}

/// The open audit; clones share it.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Message>,
    health: Arc<Mutex<Health>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    path: Arc<Path>,
}

/// How the audit does, for `mcpfs status`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// The last sealed row; 0 before the first.
    pub sealed: i64,
    /// The chain value of that seal: note it elsewhere and it is an anchor.
    pub hash: Option<Digest>,
    /// When this process last sealed, microseconds UTC.
    pub sealed_us: Option<i64>,
    /// Whether the reserve is there.
    pub reserve: bool,
    /// Why the last write failed, if it did.
    pub failing: Option<String>,
    /// How old what is there is.
    pub kept: Kept,
}

/// What retention has left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// When the oldest row was written, microseconds UTC.
    pub oldest_us: Option<i64>,
    /// When rows were last removed.
    pub cut_us: Option<i64>,
    /// Why rows stay that are old enough by this host's clock, if they do.
    pub because: Option<String>,
    /// What of the rows that are old enough does not fit its seal, and so stays.
    pub unfit: Option<String>,
}

impl Audit {
    /// Opens or makes the store, begins a boot row and starts the writer.
    ///
    /// # Errors
    /// Any [`AuditError`] that says why the store cannot be used; the daemon does not start then.
    pub fn open(options: &AuditOptions) -> Result<Self, AuditError> {
        let lock = schema::Lock::take(&options.path)?;
        let mut store = Store::open(&options.path, lock)?;
        let reserve = Reserve::new(&options.path, options.reserve_bytes);
        if options.begin {
            store.describe(BootFacts::default()).map_err(|source| schema::failed(&options.path, source))?;
        }
        let tip = store.tip();
        let (oldest_us, cut_us) = store.extent().map_err(|source| schema::failed(&options.path, source))?;
        let health = Arc::new(Mutex::new(Health {
            sealed: tip.map_or(0, |tip| tip.last),
            hash: tip.filter(|tip| tip.last > 0).map(|tip| tip.hash),
            reserve: reserve.held(),
            kept: Kept { oldest_us, cut_us, ..Kept::default() },
            ..Health::default()
        }));
        // Only a receive with a deadline needs it; nothing else ever runs on it.
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let clock = clock.map_err(|source| AuditError::io("start the writer of", &options.path, source))?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let writer = Writer { store, folding: Folding::new(options.folding), reserve, health: Arc::clone(&health) };
        let thread = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(waiting, &clock));
        let thread = thread.map_err(|source| AuditError::io("start the writer of", &options.path, source))?;
        Ok(Self { queue, health, thread: Arc::new(Mutex::new(Some(thread))), path: options.path.as_path().into() })
    }

    /// Records `event` and returns the `seq` of its row once that is committed; for a repeat
    /// that was counted, the `seq` of the row it repeats.
    ///
    /// # Errors
    /// The event is not recorded and what it is about must not happen: EIO for the caller.
    pub async fn record(&self, event: AuditEvent) -> Result<i64, AuditError> {
        self.ask(|reply| Message::Record(Box::new(event), reply)).await
    }

    /// [`Audit::record`] for threads outside the runtime, such as those that serve FUSE.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub fn record_blocking(&self, event: AuditEvent) -> Result<i64, AuditError> {
        self.ask_blocking(|reply| Message::Record(Box::new(event), reply))
    }

    /// Begins a new boot row if these facts differ from those in force: after start, when
    /// they are known, and after each reload. Events recorded from then on belong to it.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub async fn describe(&self, facts: BootFacts) -> Result<(), AuditError> {
        self.ask(|reply| Message::Describe(facts, reply)).await
    }

    /// [`Audit::describe`] for threads outside the runtime.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub fn describe_blocking(&self, facts: BootFacts) -> Result<(), AuditError> {
        self.ask_blocking(|reply| Message::Describe(facts, reply))
    }

    /// Removes the oldest rows that may go, in one short transaction, after all that waits to be recorded.
    ///
    /// # Errors
    /// As [`Audit::record`]; then all rows are there.
    pub async fn remove(&self, cutoff: Cutoff) -> Result<Removed, AuditError> {
        self.ask(|reply| Message::Remove(cutoff, reply)).await
    }

    /// Removes files beside the store that may go, and gives back some of the room; says whether there is more of it.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub async fn tidy(&self, cutoff: Cutoff) -> Result<bool, AuditError> {
        self.ask(|reply| Message::Tidy(cutoff, reply)).await
    }

    /// Says in [`Health`] why rows stay that are old enough; `None` if none do.
    pub fn keeps_because(&self, why: Option<String>) {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).kept.because = why;
    }

    /// How it does.
    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the store lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all that was sent and all that was counted, and closes the store. Blocks until
    /// that is done; afterwards every clone answers `Closed`. Without it the same happens when
    /// the last clone is dropped, if the process lives long enough.
    pub fn close(&self) {
        // An error means that the writer has ended already.
        let _ = self.send_blocking(Message::Close, Instant::now() + WAIT);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the audit's writer ended by a fault");
        }
    }

    /// Writes all that was sent and all that was counted, and from then on answers nobody: for a
    /// process that ends next and whose callers another one answers. An error would be the answer.
    pub fn leave(&self) {
        let left = self.ask_blocking(Message::Leave);
        if let Err(error) = left {
            tracing::error!(%error, "the audit was not left in order");
        }
    }

    async fn ask<T: Send + 'static>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, AuditError> {
        let (answer, answered) = oneshot::channel();
        // A sender that stopped waiting is told nothing; its row stands.
        let message = message(Box::new(move |result| drop(answer.send(result))));
        let exchange = async {
            self.queue.send(message).await.map_err(|_| AuditError::Closed)?;
            answered.await.unwrap_or(Err(AuditError::Closed))
        };
        tokio::time::timeout(WAIT, exchange).await.unwrap_or(Err(AuditError::TooSlow))
    }

    fn ask_blocking<T: Send + 'static>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, AuditError> {
        let deadline = Instant::now() + WAIT;
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        self.send_blocking(message(Box::new(move |result| drop(answer.send(result)))), deadline)?;
        match answered.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(result) => result,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(AuditError::TooSlow),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(AuditError::Closed),
        }
    }

    fn send_blocking(&self, mut message: Message, deadline: Instant) -> Result<(), AuditError> {
        loop {
            match self.queue.try_send(message) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(AuditError::Closed),
                Err(mpsc::error::TrySendError::Full(_)) if Instant::now() >= deadline => {
                    return Err(AuditError::TooSlow);
                }
                // The writer empties the queue within one commit, a few milliseconds.
                Err(mpsc::error::TrySendError::Full(back)) => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why the audit cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs)] // The messages are the documentation.
pub enum AuditError {
    #[error("there is no audit at {path}: has mcpfs run on this host, and is --db right?")]
    Missing { path: PathBuf },
    #[error("there is no user {name:?} on this host, and the audit knows none; give a name, or a uid as a number")]
    UnknownUser { name: String },
    #[error("no permission for {path}: the audit is readable by root and the daemon's user only; try sudo")]
    Denied { path: PathBuf },
    #[error(
        "{path} is damaged: {detail}. It is evidence, so nothing was changed; \
         `mcpfs audit restart` moves it aside and begins a new one that names its last seal"
    )]
    Damaged { path: PathBuf, detail: String },
    #[error("{path} is another program's database, not an mcpfs audit; name another file in the configuration")]
    Foreign { path: PathBuf },
    #[error(
        "{path} has schema {found}, and this mcpfs knows schemas up to {known}: a newer mcpfs wrote it. Install that \
         version again, or move the file aside together with its -wal file to begin a new audit"
    )]
    NewerSchema { path: PathBuf, found: i64, known: usize },
    #[error("{path} has the older schema {found}: start this version's daemon once, which brings it up to date")]
    OlderSchema { path: PathBuf, found: usize },
    #[error("another mcpfs writes {path}; each daemon needs an audit of its own")]
    Locked { path: PathBuf },
    #[error(
        "others may write {path} (mode {mode:o}), so they could replace the audit: chmod go-w it, or name another place"
    )]
    Unsafe { path: PathBuf, mode: u32 },
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("cannot use {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("the audit {path} cannot be written, so nothing new may be opened")]
    Unwritable {
        path: PathBuf,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("old rows of the audit have to wait: {why}")]
    Waits { why: String },
    #[error("this user causes more audit rows than the budget of one user allows; try again in a minute")]
    Budget,
    #[error("the audit did not confirm within {} s: its disk is slow or hangs", WAIT.as_secs())]
    TooSlow,
    #[error("the audit is closed: mcpfs is shutting down")]
    Closed,
}

impl From<AuditError> for Refusal {
    fn from(error: AuditError) -> Self {
        Self::new(error.code(), with_cause(&error))
    }
}

impl AuditError {
    /// What the person is told by code.
    pub const fn code(&self) -> Code {
        Code::AuditUnavailable
    }

    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Self::Denied { path: path.to_owned() };
        }
        Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }
}
