//! Folding repeats, and each user's row budget (design invariants 4 and 11).
//!
//! The first event of its kind is always a committed row before anybody is answered. An
//! identical repeat within the window is only counted, and written as one row with `count`
//! when the window closes: a crash may lose that count and nothing else. Identical means the
//! same kind, outcome, release, head, caller and reason; path, pid, bytes and durations may differ.
//!
//! A launch or a first access is a row of its own, always, and so is what an administrator
//! does. Repeats of a kind that a process can vary at will (its name, a reason) would still
//! flood the store, so each user has a budget of rows. Beyond it, what can be folded is
//! folded more coarsely, by kind, outcome and user; what cannot be folded is refused with
//! [`AuditError::Budget`], hence not done, and that refusal is counted as well.
//!
//! Nothing here writes or knows a clock, so that the tests can turn one.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use mcpfs_trust::error::Code;

use super::event::{AuditEvent, EventKind, ReleaseRef};
use crate::caller::Caller;

/// Rows a user may cause.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// In one go.
    pub burst: u32,
    /// Regained each second.
    pub per_second: f64,
}

/// How repeats are folded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FoldLimits {
    /// How long repeats are counted before they become a row.
    pub window: Duration,
    /// For launches and first accesses, of each user.
    pub decisions: Budget,
    /// For everything else that a user causes, of each user.
    pub repeats: Budget,
    /// For the daemon's own work: a refresh may bring thousands of releases at once.
    pub background: Budget,
}

impl Default for FoldLimits {
    /// A minute; a script that starts a server in a loop all day stays below these budgets.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            decisions: Budget { burst: 10_000, per_second: 20.0 },
            repeats: Budget { burst: 1_000, per_second: 5.0 },
            background: Budget { burst: 100_000, per_second: 50.0 },
        }
    }
}

/// Users whose budgets are remembered.
const USERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(16_383);

/// What is to be done with an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Write it; its number is the answer.
    Write,
    /// It was counted; the row with this number stands for it, or the row that this group will
    /// have at this place.
    Counted(First),
    /// Write it as an over-budget refusal; the answer is `Budget`.
    WriteRefused,
    /// Counted as an over-budget refusal; the answer is `Budget`.
    CountedRefused,
}

/// The row that stands for the repeats of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// In the group that is being put together, at this place.
    Pending(usize),
    /// Committed under this number.
    Row(i64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// An identical repeat.
    Same {
        kind: EventKind,
        outcome: Option<Code>,
        release: Option<Arc<ReleaseRef>>,
        head: Option<u64>,
        caller: Caller,
        reason: Option<String>,
    },
    /// Over budget.
    Over { kind: EventKind, outcome: Option<Code>, payer: Payer },
}

/// Whose budget a row is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Payer {
    /// This process, for its background work.
    Daemon,
    /// A user by [`Caller::budget_uid`]; those unknown share one.
    User(Option<u32>),
}

#[derive(Debug)]
struct Window {
    closes: Instant,
    first: First,
    /// The repeats so far, as the row they will be.
    repeats: Option<AuditEvent>,
    /// Time of the first repeat, microseconds UTC.
    since_us: i64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, budget: Budget, now: Instant) -> bool {
        let regained = now.saturating_duration_since(self.at).as_secs_f64() * budget.per_second;
        self.tokens = (self.tokens + regained).min(f64::from(budget.burst));
        self.at = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// Windows and budgets.
#[derive(Debug)]
pub(super) struct Folding {
    limits: FoldLimits,
    windows: HashMap<Key, Window>,
    /// In the order in which they close. Each window is opened by a row that was paid for, so
    /// budgets bound their number.
    closing: VecDeque<(Instant, Key)>,
    /// Windows whose first row is in the group that is being put together.
    opened: Vec<Key>,
    decisions: LruCache<Payer, Bucket>,
    repeats: LruCache<Payer, Bucket>,
    /// Counted rows that a failed commit gave back.
    unwritten: Vec<AuditEvent>,
}

/// What is never folded: launches and their ends, first accesses, what administrators do.
const fn single(kind: EventKind) -> bool {
    match kind {
        EventKind::Launch | EventKind::Exit | EventKind::Access => true,
        EventKind::Trust | EventKind::Config | EventKind::Stop | EventKind::Kill | EventKind::Revoke => true,
        EventKind::Cut | EventKind::AuditRestarted | EventKind::AuditReserve => true,
        EventKind::Fetch | EventKind::Verify | EventKind::Refusal | EventKind::Refresh => false,
    }
}

/// What no budget holds back: only an administrator or the host itself causes it.
const fn unlimited(kind: EventKind) -> bool {
    single(kind) && !matches!(kind, EventKind::Launch | EventKind::Access)
}

impl Folding {
    pub(super) fn new(limits: FoldLimits) -> Self {
        Self {
            limits,
            windows: HashMap::new(),
            closing: VecDeque::new(),
            opened: Vec::new(),
            decisions: LruCache::new(USERS),
            repeats: LruCache::new(USERS),
            unwritten: Vec::new(),
        }
    }

    /// Decides about `event`. If it is to be written it takes the `place`-th row of the group.
    pub(super) fn admit(&mut self, event: &mut AuditEvent, place: usize, now: Instant) -> Admission {
        if unlimited(event.kind) {
            return Admission::Write;
        }
        let single = single(event.kind);
        let same = (!single).then(|| Key::Same {
            kind: event.kind,
            outcome: event.outcome,
            release: event.release.clone(),
            head: event.head_version,
            caller: Caller { pid: None, pid_start_us: None, ..event.caller.clone() },
            reason: event.reason.clone(),
        });
        if let Some(first) = same.as_ref().and_then(|key| self.count(key, event, now)) {
            return Admission::Counted(first);
        }
        let own = event.caller.pid == Some(std::process::id());
        let payer = if own { Payer::Daemon } else { Payer::User(event.caller.budget_uid()) };
        let (budget, buckets) = match (own, single) {
            (true, _) => (self.limits.background, &mut self.repeats),
            (false, true) => (self.limits.decisions, &mut self.decisions),
            (false, false) => (self.limits.repeats, &mut self.repeats),
        };
        let full = Bucket { tokens: f64::from(budget.burst), at: now };
        if buckets.get_or_insert_mut(payer, || full).take(budget, now) {
            if let Some(key) = same {
                self.open(key, place, now);
            }
            return Admission::Write;
        }
        if single {
            event.outcome = Some(Code::AuditUnavailable);
            event.reason = Some("more launches or first accesses than this user's row budget allows".to_owned());
        }
        let over = Key::Over { kind: event.kind, outcome: event.outcome, payer };
        match (self.count(&over, event, now), single) {
            (Some(_), true) => Admission::CountedRefused,
            (Some(first), false) => Admission::Counted(first),
            (None, _) => {
                self.open(over, place, now);
                if single { Admission::WriteRefused } else { Admission::Write }
            }
        }
    }

    /// Counts `event` in the open window of `key`, if there is one.
    fn count(&mut self, key: &Key, event: &AuditEvent, now: Instant) -> Option<First> {
        let window = self.windows.get_mut(key).filter(|window| now < window.closes)?;
        match &mut window.repeats {
            Some(repeats) => merge(repeats, event),
            none => {
                window.since_us = event.time_us;
                let mut repeats = event.clone();
                if let Key::Over { .. } = key {
                    // One row for what may be many releases and processes of one user.
                    repeats.release = None;
                    repeats.reason = Some("over this user's row budget; counted by kind".to_owned());
                    repeats.caller = Caller { process: None, host_app: None, unit: None, ..repeats.caller };
                }
                *none = Some(repeats);
            }
        }
        Some(window.first)
    }

    fn open(&mut self, key: Key, place: usize, now: Instant) {
        let closes = now + self.limits.window;
        // A window that has closed but was not collected yet keeps its repeats.
        if let Some(old) = self.windows.remove(&key) {
            self.unwritten.extend(closed(old));
        }
        self.closing.push_back((closes, key.clone()));
        self.opened.push(key.clone());
        self.windows.insert(key, Window { closes, first: First::Pending(place), repeats: None, since_us: 0 });
    }

    /// The group was committed with these numbers.
    pub(super) fn committed(&mut self, numbers: &[i64]) {
        for key in self.opened.drain(..) {
            if let Some(window) = self.windows.get_mut(&key)
                && let First::Pending(place) = window.first
                && let Some(&seq) = numbers.get(place)
            {
                window.first = First::Row(seq);
            }
        }
    }

    /// The group was not committed: windows that its rows opened never were, and the counted
    /// rows among it wait for the next group.
    pub(super) fn failed(&mut self, counted: Vec<AuditEvent>) {
        for key in self.opened.drain(..) {
            self.windows.remove(&key);
        }
        self.unwritten.extend(counted);
    }

    /// The rows of windows that are closed at `now`; of all windows if `now` is `None`.
    pub(super) fn due(&mut self, now: Option<Instant>) -> Vec<AuditEvent> {
        let mut rows = std::mem::take(&mut self.unwritten);
        while let Some((closes, _)) = self.closing.front() {
            if now.is_some_and(|now| now < *closes) {
                break;
            }
            let Some((closes, key)) = self.closing.pop_front() else { break };
            // The key may have been opened again since.
            if self.windows.get(&key).is_some_and(|window| window.closes == closes)
                && let Some(window) = self.windows.remove(&key)
            {
                rows.extend(closed(window));
            }
        }
        rows
    }

    /// When [`Folding::due`] next has something to say.
    pub(super) fn next(&self) -> Option<Instant> {
        self.closing.front().map(|(closes, _)| *closes)
    }
}

/// Adds one more repeat to the row of the earlier ones. What differs between them is not kept.
fn merge(row: &mut AuditEvent, event: &AuditEvent) {
    fn keep<T: PartialEq + Clone>(kept: &mut Option<T>, other: &Option<T>) {
        if kept != other {
            *kept = None;
        }
    }
    fn add(sum: &mut Option<u64>, other: Option<u64>) {
        *sum = match (*sum, other) {
            (Some(sum), Some(other)) => Some(sum.saturating_add(other)),
            (one, other) => one.or(other),
        };
    }
    row.count = row.count.saturating_add(event.count);
    row.time_us = event.time_us;
    add(&mut row.bytes, event.bytes);
    add(&mut row.duration_us, event.duration_us);
    keep(&mut row.launch, &event.launch);
    keep(&mut row.head_version, &event.head_version);
    keep(&mut row.stale, &event.stale);
    keep(&mut row.path, &event.path);
    keep(&mut row.detail, &event.detail);
    keep(&mut row.caller.pid, &event.caller.pid);
    if row.caller.pid.is_none() || row.caller.pid_start_us != event.caller.pid_start_us {
        (row.caller.pid, row.caller.pid_start_us) = (None, None);
    }
}

/// The row of a window's repeats; its detail says since when.
fn closed(window: Window) -> Option<AuditEvent> {
    let mut row = window.repeats?;
    let mut detail = serde_json::json!({ "folded_since_us": window.since_us });
    if let First::Row(seq) = window.first {
        detail["first_seq"] = seq.into();
    }
    if let Some(old) = row.detail.take() {
        detail["detail"] = old;
    }
    row.detail = Some(detail);
    Some(row)
}
