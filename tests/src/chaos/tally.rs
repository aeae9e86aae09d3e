//! What was done, what failed, and how long anybody waited.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::Usage;
use super::blows::{Blow, Stalls, Struck, Wait};
use crate::bench::peak_mib;

/// Shorter operations are not remembered one by one.
const SLOW: Duration = Duration::from_millis(5);
/// How long after a fault of the network its effects may last: whoever asks for what the fault has
/// swallowed waits with those who asked before, until `network.stall` of the chaos's host is over, and
/// a busy machine comes to all of that later.
pub(super) const AFTERMATH: Duration = Duration::from_secs(3);
/// How long after others gave the disk's room back an operation may still end that found none.
const RELIEF: Duration = Duration::from_secs(1);

/// What an operation without room ends with.
const FULL: &str = "No space left on device";

/// What goes wrong outside of mcpfs, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// The site is not there, or not as it should be.
    Network,
    /// Others have filled the cache's disk.
    Disk,
}

impl Trouble {
    fn aftermath(self) -> Duration {
        match self {
            Self::Network => AFTERMATH,
            Self::Disk => RELIEF,
        }
    }

    fn blow(self) -> Blow {
        match self {
            Self::Network => Blow::Network,
            Self::Disk => Blow::Disk,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Network => "while the network was at fault",
            Self::Disk => "while others filled the disk",
        }
    }
}

/// Files of the cache, each by its inode and the time of its birth; `None` if one of them is not there.
pub(super) type Here = Option<Vec<(u64, Option<SystemTime>)>>;

/// What an operation may have to fetch.
pub(super) enum Wants<'a> {
    /// Nothing: whatever goes wrong elsewhere is no excuse.
    Nothing,
    /// This, which the cache may have: asked before and after, and only what was not there all the time had to be
    /// fetched.
    Files(&'a dyn Fn() -> Here),
    /// Something from the site in any case.
    Site,
}

impl Wants<'_> {
    /// What is here, if that is all of it.
    fn here(&self) -> Here {
        match self {
            Self::Nothing => Some(Vec::new()),
            Self::Files(here) => here(),
            Self::Site => None,
        }
    }

    /// Whether all of it has been here since this was.
    fn stayed(&self, before: &Here) -> bool {
        before.is_some() && *before == self.here()
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    done: AtomicU64,
    wrong: AtomicU64,
    failed: Mutex<Vec<String>>,
    named: Mutex<BTreeMap<String, u64>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    slow: Mutex<Vec<Wait>>,
    /// What was done to workers and supervisors, each until another worker served.
    struck: Mutex<Vec<Struck>>,
    troubles: Mutex<Vec<(Trouble, Instant, Option<Instant>)>>,
    /// The most memory that any process of the host was seen to have had, MiB.
    peak: Mutex<f64>,
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

    /// Has this trouble begin with `begin` and end with `end`, after `lasts`.
    pub(super) fn trouble(&self, trouble: Trouble, lasts: Duration, begin: impl FnOnce(), end: impl FnOnce()) {
        lock(&self.troubles).push((trouble, Instant::now(), None));
        begin();
        self.sleep(lasts);
        end();
        if let Some(last) = lock(&self.troubles).iter_mut().rfind(|(kind, ..)| *kind == trouble) {
            last.2 = Some(Instant::now());
        }
    }

    /// From now on nothing is excused.
    pub(super) fn calm(&self) {
        let troubles = std::mem::take(&mut *lock(&self.troubles));
        let struck = troubles.iter().filter_map(|(kind, began, end)| {
            Some(Struck { blow: kind.blow(), began: *began, over: end.as_ref()?.checked_add(kind.aftermath())? })
        });
        lock(&self.struck).extend(struck);
        let over = troubles.iter().filter_map(|(kind, _, end)| end.as_ref()?.checked_add(kind.aftermath())).max();
        if let Some(over) = over {
            std::thread::sleep(over.saturating_duration_since(Instant::now()));
        }
    }

    /// Looks at a process before it ends.
    pub(super) fn saw(&self, process: u32) {
        if let Some(had) = peak_mib(process) {
            let mut peak = lock(&self.peak);
            *peak = peak.max(had);
        }
    }

    /// This happened then, and by now another worker serves.
    pub(super) fn struck(&self, blow: Blow, began: Instant) {
        lock(&self.struck).push(Struck { blow, began, over: Instant::now() });
    }

    pub(super) fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    pub(super) fn counted(&self, what: &'static str) -> u64 {
        lock(&self.counts).get(what).copied().unwrap_or_default()
    }

    /// One operation whose waiting counts.
    pub(super) fn operation<T>(
        &self,
        what: &'static str,
        wants: &Wants<'_>,
        act: impl FnOnce() -> Result<T, String>,
    ) -> Option<T> {
        let before = wants.here();
        let started = Instant::now();
        let outcome = self.attempt(what, wants, act);
        let took = started.elapsed();
        if took >= SLOW {
            let fetched = !wants.stayed(&before);
            lock(&self.slow).push(Wait { what, started, took, fetched });
        }
        outcome
    }

    /// One that takes its time anyway.
    pub(super) fn attempt<T>(
        &self,
        what: &str,
        wants: &Wants<'_>,
        act: impl FnOnce() -> Result<T, String>,
    ) -> Option<T> {
        let before = wants.here();
        let started = Instant::now();
        let outcome = act();
        self.done.fetch_add(1, Ordering::Relaxed);
        let error = match outcome {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let trouble = if error.contains(FULL) { Trouble::Disk } else { Trouble::Network };
        // What is here needs neither the site nor room.
        if wants.stayed(&before) || !self.is_troubled(trouble, started) {
            lock(&self.failed).push(format!("{what}: {error}"));
        } else {
            *lock(&self.named).entry(format!("{what}, {}", trouble.word())).or_default() += 1;
        }
        None
    }

    pub(super) fn same(&self, what: &str, got: &[u8], expected: &[u8]) {
        if got != expected {
            self.wrong.fetch_add(1, Ordering::Relaxed);
            lock(&self.failed).push(format!("{what}: other bytes ({} of {})", got.len(), expected.len()));
        }
    }

    /// Whether this trouble, or what it leaves, was there at some time since `started`.
    fn is_troubled(&self, trouble: Trouble, started: Instant) -> bool {
        let since = |end: &Option<Instant>| end.is_none_or(|end| end + trouble.aftermath() > started);
        lock(&self.troubles).iter().any(|(kind, _, end)| *kind == trouble && since(end))
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
        let (blows, waits) = (lock(&self.struck), lock(&self.slow));
        let stalls = Stalls::of(&blows, &waits);
        drop((blows, waits));
        Report {
            operations: self.done.into_inner(),
            wrong: self.wrong.into_inner(),
            failed: lock(&self.failed).clone(),
            named: lock(&self.named).clone(),
            counts: lock(&self.counts).clone(),
            stalls,
            peak: self.peak.into_inner().unwrap_or_else(PoisonError::into_inner),
            before,
            after,
        }
    }
}

/// Whose figures those of [`Usage`] are.
const WHO: [&str; 2] = ["supervisor", "worker"];
/// Descriptors that may be more in the end: connections that a worker keeps for its next request, and those of a few
/// ended threads, which go when others open something.
const SPARE: [usize; 2] = [0, 8 + 16];
/// The most resident memory of a process, MiB: chunks on their way (64), trees (48), itself, and what its
/// allocator keeps.
const MOST: f64 = 224.0;

/// How it went.
#[derive(Debug)]
pub struct Report {
    operations: u64,
    wrong: u64,
    failed: Vec<String>,
    named: BTreeMap<String, u64>,
    counts: BTreeMap<&'static str, u64>,
    stalls: Stalls,
    peak: f64,
    before: Usage,
    after: Usage,
}

impl Report {
    /// Whether nobody noticed anything, and nothing stayed behind.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && self.wrong == 0 && self.left_behind().is_empty()
    }

    /// What should not be there any more.
    fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (at, who) in WHO.into_iter().enumerate() {
            let (before, after) = (self.before.descriptors[at], self.after.descriptors[at]);
            if after > before + SPARE[at] {
                left.push(format!("{who}: {after} descriptors, {before} before"));
            }
        }
        if self.peak > MOST {
            left.push(format!("{:.0} MiB of memory", self.peak));
        }
        if self.after.open_handles > 0 {
            left.push(format!("{} files are open, and everybody has closed theirs", self.after.open_handles));
        }
        left
    }

    /// Operations, failed ones, and ones with other bytes.
    pub fn outcomes(&self) -> (u64, usize, u64) {
        (self.operations, self.failed.len(), self.wrong)
    }

    /// After how many blows the session that was there before has answered.
    pub fn answered(&self) -> u64 {
        self.counts.get(super::service::AFTER).copied().unwrap_or_default()
    }

    /// How many blows of this kind there were, and the median and the longest of the waits that belong to them.
    pub fn waits(&self, blow: Blow) -> (usize, Duration, Duration) {
        let waits = self.stalls.each.get(&blow).map_or(&[][..], Vec::as_slice);
        let at = |at: usize| waits.get(at).copied().unwrap_or_default();
        (waits.len(), at(waits.len() / 2), at(waits.len().saturating_sub(1)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |time: Duration| format!("{} ms", time.as_millis());
        writeln!(f, "operations             {}", self.operations)?;
        writeln!(f, "failed                 {}", self.failed.len())?;
        writeln!(f, "wrong bytes            {}", self.wrong)?;
        for (blow, (count, longest)) in &self.stalls.longest {
            let longest =
                longest.map_or_else(|| "none".to_owned(), |wait| format!("{} ({})", millis(wait.took), wait.what));
            let (_, median, _) = self.waits(*blow);
            let times = match blow {
                Blow::Nothing => String::new(),
                _ => format!(", {count} times, median {}", millis(median)),
            };
            writeln!(f, "longest wait           {longest} by {}{times}", blow.words())?;
        }
        for (what, count) in &self.counts {
            writeln!(f, "{what:<22} {count}")?;
        }
        for (what, count) in &self.named {
            writeln!(f, "expected error         {count} x {what}")?;
        }
        for (at, who) in WHO.into_iter().enumerate() {
            writeln!(
                f,
                "{who:<22} descriptors {} before, {} after; resident {:.1} MiB before, {:.1} after",
                self.before.descriptors[at],
                self.after.descriptors[at],
                self.before.resident[at],
                self.after.resident[at],
            )?;
        }
        writeln!(f, "most memory of one     {:.1} MiB", self.peak)?;
        for left in self.left_behind() {
            writeln!(f, "LEFT BEHIND {left}")?;
        }
        for failed in self.failed.iter().take(20) {
            writeln!(f, "FAILED {failed}")?;
        }
        Ok(())
    }
}
