//! Whether the threads that serve the mount go on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Which threads are in the middle of an answer, and since when.
#[derive(Debug, Default)]
pub struct Pulse {
    next: AtomicU64,
    busy: Mutex<HashMap<u64, Instant>>,
}

/// An answer that is being made, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy<'p>(&'p Pulse, u64);

impl Pulse {
    /// This thread begins an answer.
    pub(super) fn busy(&self) -> Busy<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.map().insert(number, Instant::now());
        Busy(self, number)
    }

    /// How long the oldest answer has been in the making.
    pub fn longest(&self) -> Duration {
        self.map().values().map(Instant::elapsed).max().unwrap_or_default()
    }

    fn map(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.map().remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_under_way_counts() {
        let pulse = Pulse::default();
        assert_eq!(pulse.longest(), Duration::ZERO);
        let busy = (pulse.busy(), pulse.busy());
        assert!(pulse.longest() > Duration::ZERO);
        drop(busy.0);
        assert!(pulse.longest() > Duration::ZERO);
        drop(busy.1);
        assert_eq!(pulse.longest(), Duration::ZERO);
    }
}
