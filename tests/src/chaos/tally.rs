//! What was done, what failed, and how long anybody waited.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Usage;

/// Shorter operations are not remembered one by one.
const SLOW: Duration = Duration::from_millis(5);
/// How long after a fault of the network its effects may last: a request that it swallowed is given
/// up by the daemon's own deadlines, and the mirror is then left alone for a moment.
const AFTERMATH: Duration = Duration::from_secs(2);

/// What a cache says that is too small for what is wanted of it at this moment.
const FULL: &str = "No space left on device";

#[derive(Debug, Default)]
pub(super) struct Tally {
    done: AtomicU64,
    wrong: AtomicU64,
    failed: Mutex<Vec<String>>,
    named: Mutex<BTreeMap<String, u64>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    slow: Mutex<Vec<(Instant, Duration)>>,
    kills: Mutex<Vec<(Instant, Instant)>>,
    stops: Mutex<Vec<(Instant, Instant)>>,
    troubles: Mutex<Vec<(Instant, Option<Instant>)>>,
    over: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Sleeps, but not past the end.
    pub(super) fn sleep(&self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time && !self.is_over() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn trouble_begins(&self) {
        lock(&self.troubles).push((Instant::now(), None));
    }

    pub(super) fn trouble_ends(&self) {
        if let Some(last) = lock(&self.troubles).last_mut() {
            last.1 = Some(Instant::now());
        }
    }

    /// From now on nothing is excused.
    pub(super) fn calm(&self) {
        let last = lock(&self.troubles).last().and_then(|last| last.1);
        if let Some(ended) = last {
            std::thread::sleep(AFTERMATH.saturating_sub(ended.elapsed()));
        }
        lock(&self.troubles).clear();
    }

    pub(super) fn killed(&self, began: Instant) {
        lock(&self.kills).push((began, Instant::now()));
    }

    pub(super) fn stopped(&self, began: Instant) {
        lock(&self.stops).push((began, Instant::now()));
    }

    pub(super) fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    /// One operation whose waiting counts.
    pub(super) fn operation<T>(&self, what: &str, act: impl FnOnce() -> Result<T, String>) -> Option<T> {
        let started = Instant::now();
        let outcome = self.attempt(what, act);
        let took = started.elapsed();
        if took >= SLOW {
            lock(&self.slow).push((started, took));
        }
        outcome
    }

    /// One that takes its time anyway.
    pub(super) fn attempt<T>(&self, what: &str, act: impl FnOnce() -> Result<T, String>) -> Option<T> {
        let started = Instant::now();
        let outcome = act();
        self.done.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(value) => Some(value),
            Err(_) if self.is_excused(started) => {
                *lock(&self.named).entry(format!("{what}, while the network was at fault")).or_default() += 1;
                None
            }
            Err(error) if error.contains(FULL) => {
                *lock(&self.named).entry(format!("{what}, while the cache overflowed")).or_default() += 1;
                None
            }
            Err(error) => {
                lock(&self.failed).push(format!("{what}: {error}"));
                None
            }
        }
    }

    pub(super) fn same(&self, what: &str, got: &[u8], expected: &[u8]) {
        if got != expected {
            self.wrong.fetch_add(1, Ordering::Relaxed);
            lock(&self.failed).push(format!("{what}: other bytes ({} of {})", got.len(), expected.len()));
        }
    }

    fn is_excused(&self, started: Instant) -> bool {
        lock(&self.troubles).iter().any(|(_, end)| end.is_none_or(|end| end + AFTERMATH > started))
    }

    /// An actor that gives up is a failure, with what it said.
    pub(super) fn guard(&self, who: &str, act: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(act)) {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            lock(&self.failed).push(format!("{who} gave up: {}", said.unwrap_or_default()));
        }
    }

    pub(super) fn report(self, before: Usage, after: Usage) -> Report {
        let slow = lock(&self.slow).clone();
        let longest_in = |(began, served): &(Instant, Instant)| {
            let within = slow.iter().filter(|(start, took)| *start <= *served && *start + *took >= *began);
            within.map(|(_, took)| *took).max().unwrap_or_default()
        };
        let mut stalls: Vec<Duration> = lock(&self.kills).iter().map(longest_in).collect();
        stalls.sort();
        let stops: Vec<Duration> = lock(&self.stops).iter().map(longest_in).collect();
        Report {
            operations: self.done.into_inner(),
            wrong: self.wrong.into_inner(),
            failed: lock(&self.failed).clone(),
            named: lock(&self.named).clone(),
            counts: lock(&self.counts).clone(),
            stopped: (stops.len(), stops.into_iter().max().unwrap_or_default()),
            longest: slow.iter().map(|(_, took)| *took).max().unwrap_or_default(),
            stalls,
            before,
            after,
        }
    }
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    operations: u64,
    wrong: u64,
    failed: Vec<String>,
    named: BTreeMap<String, u64>,
    counts: BTreeMap<&'static str, u64>,
    /// The longest wait of anybody at each kill, sorted.
    stalls: Vec<Duration>,
    /// How many workers were stopped, and the longest wait.
    stopped: (usize, Duration),
    longest: Duration,
    before: Usage,
    after: Usage,
}

impl Report {
    /// Whether nobody noticed anything.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && self.wrong == 0 && self.leaked() == 0
    }

    /// Descriptors of the supervisor that were not there before.
    fn leaked(&self) -> usize {
        self.after.descriptors[0].saturating_sub(self.before.descriptors[0])
    }

    /// Operations, failed ones, and ones with other bytes.
    pub fn outcomes(&self) -> (u64, usize, u64) {
        (self.operations, self.failed.len(), self.wrong)
    }

    /// How many workers were killed, and the median and the longest wait.
    pub fn kills(&self) -> (usize, Duration, Duration) {
        let at = |at: usize| self.stalls.get(at).copied().unwrap_or_default();
        (self.stalls.len(), at(self.stalls.len() / 2), at(self.stalls.len().saturating_sub(1)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |time: Duration| format!("{} ms", time.as_millis());
        let (kills, median, longest) = self.kills();
        writeln!(f, "operations             {}", self.operations)?;
        writeln!(f, "failed                 {}", self.failed.len())?;
        writeln!(f, "wrong bytes            {}", self.wrong)?;
        writeln!(f, "workers killed         {kills}; stall: median {}, longest {}", millis(median), millis(longest))?;
        writeln!(f, "workers stopped        {}; longest stall {}", self.stopped.0, millis(self.stopped.1))?;
        writeln!(f, "longest stall overall  {}", millis(self.longest))?;
        for (what, count) in &self.counts {
            writeln!(f, "{what:<22} {count}")?;
        }
        for (what, count) in &self.named {
            writeln!(f, "expected error         {count} x {what}")?;
        }
        for (at, who) in ["supervisor", "worker"].into_iter().enumerate() {
            writeln!(
                f,
                "{who:<22} descriptors {} before, {} after; resident {:.1} MiB before, {:.1} after",
                self.before.descriptors[at],
                self.after.descriptors[at],
                self.before.resident[at],
                self.after.resident[at],
            )?;
        }
        for failed in self.failed.iter().take(20) {
            writeln!(f, "FAILED {failed}")?;
        }
        Ok(())
    }
}
