//! What is counted as it happens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mcpfs_trust::error::Code;

/// This process's.
pub(crate) static COUNTS: Counts = Counts::new();

/// Mirrors that get lines of their own; a configuration has a handful.
const MIRRORS: usize = 32;

/// Numbers that only rise, but for what is open.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(super) opens: Outcomes,
    pub(super) launches: Outcomes,
    pub(super) mirrors: Mutex<BTreeMap<String, Fetches>>,
    open_handles: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) quarantines: AtomicU64,
    pub(super) audit_failures: AtomicU64,
    pub(super) audit_removed: AtomicU64,
}

/// How often something went well, and how often not, by why.
#[derive(Debug)]
pub(super) struct Outcomes {
    well: AtomicU64,
    refused: Mutex<BTreeMap<Code, u64>>,
}

/// What one mirror was asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Fetches {
    pub(super) requests: u64,
    pub(super) bytes: u64,
    pub(super) spent: Duration,
    pub(super) failures: BTreeMap<Code, u64>,
}

impl Counts {
    const fn new() -> Self {
        Self {
            opens: Outcomes::new(),
            launches: Outcomes::new(),
            mirrors: Mutex::new(BTreeMap::new()),
            open_handles: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            quarantines: AtomicU64::new(0),
            audit_failures: AtomicU64::new(0),
            audit_removed: AtomicU64::new(0),
        }
    }

    /// A file was opened, or was not for this reason.
    pub(crate) fn open(&self, refused: Option<Code>) {
        self.opens.add(refused);
    }

    /// There is one more handle of a file in the mount.
    pub(crate) fn opened(&self) {
        self.open_handles.fetch_add(1, Ordering::Relaxed);
    }

    /// There is one less.
    pub(crate) fn closed(&self) {
        self.open_handles.fetch_sub(1, Ordering::Relaxed);
    }

    /// How often files of the mount are open.
    pub(crate) fn open_handles(&self) -> u64 {
        self.open_handles.load(Ordering::Relaxed)
    }

    /// A launch was decided.
    pub(crate) fn launch(&self, refused: Option<Code>) {
        self.launches.add(refused);
    }

    /// A mirror answered with so many bytes, or failed.
    pub(crate) fn fetch(&self, mirror: &str, spent: Duration, outcome: Result<usize, Code>) {
        let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        if mirrors.len() >= MIRRORS && !mirrors.contains_key(mirror) {
            return;
        }
        let fetches = mirrors.entry(mirror.to_owned()).or_default();
        fetches.requests += 1;
        fetches.spent += spent;
        match outcome {
            Ok(bytes) => fetches.bytes += bytes as u64,
            Err(code) => *fetches.failures.entry(code).or_default() += 1,
        }
    }

    /// What a mirror sent was not what was signed.
    pub(crate) fn refused_content(&self, mirror: &str, code: Code) {
        let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetches) = mirrors.get_mut(mirror) {
            *fetches.failures.entry(code).or_default() += 1;
        }
    }

    /// A cached file made room for others.
    pub(crate) fn evicted(&self) {
        self.evictions.fetch_add(1, Ordering::Relaxed);
    }

    /// A cached file was not what its name says.
    pub(crate) fn quarantined(&self) {
        self.quarantines.fetch_add(1, Ordering::Relaxed);
    }

    /// Retention removed rows.
    pub(crate) fn audit_removed(&self, rows: u64) {
        self.audit_removed.fetch_add(rows, Ordering::Relaxed);
    }

    /// Rows could not be written.
    pub(crate) fn audit_failed(&self) {
        self.audit_failures.fetch_add(1, Ordering::Relaxed);
    }
}

impl Outcomes {
    const fn new() -> Self {
        Self { well: AtomicU64::new(0), refused: Mutex::new(BTreeMap::new()) }
    }

    fn add(&self, refused: Option<Code>) {
        match refused {
            None => {
                self.well.fetch_add(1, Ordering::Relaxed);
            }
            Some(code) => *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1,
        }
    }

    /// `ok` and each code, with its number.
    pub(super) fn all(&self) -> Vec<(String, u64)> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let well = ("ok".to_owned(), self.well.load(Ordering::Relaxed));
        std::iter::once(well).chain(refused.iter().map(|(code, count)| (code.to_string(), *count))).collect()
    }
}
