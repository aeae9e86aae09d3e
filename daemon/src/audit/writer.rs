//! The thread that owns the store (design section 2, door b).
//!
//! Senders put an event and a way to answer into a bounded queue. The thread takes all that
//! waits, writes it in one transaction with its seal, and answers each sender after the
//! commit: while one group is being synced to disk the next one gathers, so the number of
//! commits follows the disk and not the load.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use tokio::sync::mpsc;

use super::boot::BootFacts;
use super::event::{AuditEvent, EventKind, now_us};
use super::fold::{Admission, First, Folding};
use super::leftovers;
use super::reserve::Reserve;
use super::retain::{Cutoff, Removed};
use super::store::Store;
use super::{AuditError, Health};
use crate::caller::Caller;
use crate::metrics::COUNTS;
use crate::refusal::with_cause;
use crate::words::size;

/// Rows in one transaction, at most.
const GROUP: usize = 512;

/// How large the log may become by retention.
const LOG_BYTES: u64 = 64 << 20;

/// How often the thread looks after itself without being asked.
const IDLE: Duration = Duration::from_secs(60);

/// Called once, with the answer.
pub(super) type Reply<T> = Box<dyn FnOnce(Result<T, AuditError>) + Send>;

/// What can be asked of the thread.
pub(super) enum Message {
    /// Record this.
    Record(Box<AuditEvent>, Reply<i64>),
    /// Go on under these facts.
    Describe(BootFacts, Reply<()>),
    /// Remove some of what may go.
    Remove(Cutoff, Reply<Removed>),
    /// Remove files that may go, and give back some room; the answer is whether there is more of it.
    Tidy(Cutoff, Reply<bool>),
    /// Write all that waits, and end.
    Close,
    /// The same, but whoever sends something later waits until this process has ended.
    Leave(Reply<()>),
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) folding: Folding,
    pub(super) reserve: Reserve,
    pub(super) health: Arc<Mutex<Health>>,
}

impl Writer {
    /// Serves until `Close` comes or all senders are gone; then drains the queue.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Message>, clock: &tokio::runtime::Runtime) {
        let mut waiting = Vec::with_capacity(GROUP);
        let left = loop {
            let now = Instant::now();
            let pause = self.folding.next().map_or(IDLE, |next| next.saturating_duration_since(now).min(IDLE));
            let took =
                clock.block_on(async { tokio::time::timeout(pause, queue.recv_many(&mut waiting, GROUP)).await });
            if took.is_err() {
                self.tend();
            }
            match self.group(&mut waiting) {
                GoOn::Yes if !matches!(took, Ok(0)) => {}
                GoOn::Left(reply) => break Some(reply),
                _ => break None,
            }
        };
        if let Some(reply) = left {
            self.finish();
            reply(Ok(()));
            loop {
                std::thread::park();
            }
        }
        // Nobody can send any more; what is in the queue was sent in time.
        queue.close();
        while let Ok(message) = queue.try_recv() {
            waiting.push(message);
        }
        self.group(&mut waiting);
        self.finish();
    }

    /// Handles the messages that were taken, in order; says whether to go on.
    fn group(&mut self, waiting: &mut Vec<Message>) -> GoOn {
        let mut go_on = GoOn::Yes;
        let mut group = Group::default();
        let mut later = Vec::new();
        let now = Instant::now();
        for event in self.folding.due(Some(now)) {
            group.counted(event);
        }
        for message in waiting.drain(..) {
            match message {
                Message::Record(mut event, reply) => {
                    let place = group.events.len();
                    let admission = self.folding.admit(&mut event, place, now);
                    group.add(*event, admission, reply);
                }
                Message::Describe(facts, reply) => {
                    // Rows sent before belong to the facts before.
                    self.commit(std::mem::take(&mut group));
                    let described = self.attempt(|store| store.describe(facts.clone()));
                    reply(described);
                }
                // Nobody waits for these.
                Message::Remove(..) | Message::Tidy(..) => later.push(message),
                Message::Close => go_on = GoOn::No,
                Message::Leave(reply) => go_on = GoOn::Left(reply),
            }
        }
        self.commit(group);
        for message in later {
            match message {
                Message::Remove(cutoff, reply) => reply(self.remove(&cutoff)),
                Message::Tidy(cutoff, reply) => reply(self.tidy(&cutoff)),
                _ => {}
            }
        }
        go_on
    }

    /// One step of retention. It never takes the reserve: what is to go can wait for room.
    fn remove(&mut self, cutoff: &Cutoff) -> Result<Removed, AuditError> {
        self.may_remove(cutoff)?;
        let removed = self.store.remove(cutoff).map_err(|source| self.unwritable(source))?;
        self.health.lock().unwrap_or_else(PoisonError::into_inner).kept.unfit.clone_from(&removed.unfit);
        self.note_extent();
        if removed.rows > 0 {
            COUNTS.audit_removed(removed.rows);
            self.report(None);
        }
        Ok(removed)
    }

    fn may_remove(&self, cutoff: &Cutoff) -> Result<(), AuditError> {
        if now_us() < cutoff.at_us {
            return Err(AuditError::Waits { why: "this host's clock was set back".to_owned() });
        }
        // It grows for as long as somebody looks at an old state of the store, and the disk is the audit's.
        if self.store.log_bytes() < LOG_BYTES {
            return Ok(());
        }
        match self.store.empty_log().map_err(|source| self.unwritable(source))? {
            left if left < LOG_BYTES => Ok(()),
            left => Err(AuditError::Waits {
                why: format!("its log has {}, since somebody has been reading the audit for long", size(left)),
            }),
        }
    }

    fn tidy(&mut self, cutoff: &Cutoff) -> Result<bool, AuditError> {
        for one in leftovers::old(self.store.path(), cutoff) {
            let event = one.event(cutoff);
            self.store.append(&[&event]).map_err(|source| self.unwritable(source))?;
            self.report(None);
            if let Err(error) = one.remove() {
                tracing::warn!(?one, %error, "a file that is too old cannot be removed");
            }
        }
        self.store.shrink().map_err(|source| self.unwritable(source))
    }

    fn unwritable(&self, source: rusqlite::Error) -> AuditError {
        AuditError::Unwritable { path: self.store.path().to_owned(), source: Arc::new(source) }
    }

    fn note_extent(&self) {
        if let Ok((oldest_us, cut_us)) = self.store.extent() {
            let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            (health.kept.oldest_us, health.kept.cut_us) = (oldest_us, cut_us);
        }
    }

    /// Writes the group and answers its senders.
    fn commit(&mut self, group: Group) {
        let Group { events, counted, answers, refused } = group;
        let result = match events.is_empty() {
            true => Ok(Vec::new()),
            false => self.attempt(|store| store.append(&events.iter().collect::<Vec<_>>())),
        };
        match &result {
            Ok(numbers) => self.folding.committed(numbers),
            Err(_) => self.folding.failed(events.into_iter().take(counted).collect()),
        }
        for (first, reply) in answers {
            reply(match (first, &result) {
                (First::Row(seq), _) => Ok(seq),
                (First::Pending(place), Ok(numbers)) => numbers.get(place).copied().ok_or(AuditError::Closed),
                (First::Pending(_), Err(error)) => Err(error.clone()),
            });
        }
        for reply in refused {
            reply(Err(AuditError::Budget));
        }
    }

    /// Tries `work`, and once more with the reserve's room if the disk is full.
    fn attempt<T>(&mut self, mut work: impl FnMut(&mut Store) -> rusqlite::Result<T>) -> Result<T, AuditError> {
        let mut result = work(&mut self.store);
        if result.as_ref().is_err_and(disk_full) && self.reserve.release() {
            tracing::error!(path = %self.store.path().display(), "the disk is full: the audit lives on its reserve");
            result = work(&mut self.store);
            if result.is_ok() {
                self.note("the disk is full: the reserve was given up; free space before it is used up");
            }
        }
        let result = result.map_err(|source| {
            tracing::error!(path = %self.store.path().display(), error = %source, "the audit cannot be written");
            COUNTS.audit_failed();
            AuditError::Unwritable { path: self.store.path().to_owned(), source: Arc::new(source) }
        });
        self.report(result.as_ref().err().map(|error| with_cause(error)));
        result
    }

    /// A row about the store itself. If it cannot be written the log has said so.
    fn note(&mut self, reason: &str) {
        let mut event = AuditEvent::new(EventKind::AuditReserve, Caller::daemon());
        event.reason = Some(reason.to_owned());
        if let Err(error) = self.store.append(&[&event]) {
            tracing::error!(%error, "the audit cannot be written");
        }
    }

    /// What is done when nobody asks for anything.
    fn tend(&mut self) {
        if self.reserve.restore() {
            self.note("there is room again: the reserve is whole");
            self.report(None);
        }
    }

    fn report(&mut self, failing: Option<String>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.reserve = self.reserve.held();
        health.failing = failing;
        if let Some(tip) = self.store.tip()
            && (tip.last, Some(tip.hash)) != (health.sealed, health.hash)
        {
            let first = health.sealed == 0;
            (health.sealed, health.hash, health.sealed_us) = (tip.last, Some(tip.hash), Some(now_us()));
            drop(health);
            if first {
                self.note_extent();
            }
        }
    }

    /// Writes the open windows and closes the store.
    fn finish(mut self) {
        let mut group = Group::default();
        for event in self.folding.due(None) {
            group.counted(event);
        }
        self.commit(group);
        self.store.close();
    }
}

/// What comes after a group.
enum GoOn {
    Yes,
    No,
    Left(Reply<()>),
}

/// The rows of one transaction and who waits for them.
#[derive(Default)]
struct Group {
    events: Vec<AuditEvent>,
    /// How many rows at the front are counted repeats that nobody waits for.
    counted: usize,
    answers: Vec<(First, Reply<i64>)>,
    refused: Vec<Reply<i64>>,
}

impl Group {
    fn counted(&mut self, event: AuditEvent) {
        self.events.push(event);
        self.counted += 1;
    }

    fn add(&mut self, event: AuditEvent, admission: Admission, reply: Reply<i64>) {
        match admission {
            Admission::Write => {
                self.answers.push((First::Pending(self.events.len()), reply));
                self.events.push(event);
            }
            Admission::Counted(first) => self.answers.push((first, reply)),
            Admission::WriteRefused => {
                self.events.push(event);
                self.refused.push(reply);
            }
            Admission::CountedRefused => self.refused.push(reply),
        }
    }
}

/// Whether room on the disk would help. SQLite says FULL for most, and IOERR where only the
/// log's shared memory or a sync met the full disk.
fn disk_full(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}
