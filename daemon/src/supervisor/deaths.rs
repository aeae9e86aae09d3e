//! What the deaths of workers mean, one after the other.
//!
//! A worker that dies soon after it sat down may have died of a request, which its successor gets as
//! well: after three of them what waits is refused, after ten there is no sense in another. One that
//! somebody killed says nothing about requests, however soon. And one that never had the device cannot have
//! died of any: its host does not let it begin (a disk that cannot be written, a file of another
//! user), perhaps for a moment only. Those are bounded by the time that an outage may last, with
//! pauses that grow, and meanwhile whoever waits goes on waiting.

use std::time::Duration;

/// A worker that dies earlier than this after it began to serve may have died of a request.
const EARLY: Duration = Duration::from_secs(2);
/// Early deaths in a row after which what waits is refused instead of sent again.
const DEADLY: u32 = 3;
/// Early deaths in a row after which there is no sense in another try.
const HOPELESS: u32 = 10;
/// The same for workers that somebody killed.
const KILLED: u32 = 100;
/// The pause before another try after a worker that did not serve, which doubles, and the longest.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(1);

/// How a worker lived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    /// It had the device.
    pub(super) seated: bool,
    /// How long it served, if it did.
    pub(super) served: Option<Duration>,
    /// SIGKILL ended it.
    pub(super) killed: bool,
    /// And this process had no part in that.
    pub(super) by_others: bool,
}

/// Deaths in a row.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// Those that a request may have caused.
    early: u32,
    /// Those by somebody's hand.
    kills: u32,
    /// Workers that did not serve at all.
    tries: u32,
}

impl Deaths {
    /// Notes one.
    pub(super) fn note(&mut self, life: Life) {
        match life.served {
            Some(served) if served > EARLY => (self.early, self.kills) = (0, 0),
            Some(_) if life.killed => self.kills += 1,
            None if life.killed && life.by_others => self.kills += 1,
            None if !life.seated => {}
            _ => self.early += 1,
        }
        self.tries = if life.served.is_some() { 0 } else { self.tries.saturating_add(1) };
    }

    /// How many there were, if another worker would be one too many.
    pub(super) fn too_many(&self) -> Option<u32> {
        (self.early >= HOPELESS || self.kills >= KILLED).then_some(self.early + self.kills)
    }

    /// Whether what waits may be what they died of.
    pub(super) fn of_a_request(&self) -> bool {
        self.early >= DEADLY
    }

    /// How long to wait before another try, lest a broken worker is started a thousand times.
    pub(super) fn pause(&self) -> Duration {
        match self.tries.checked_sub(1) {
            None => Duration::ZERO,
            Some(before) => (RETRY * 2u32.saturating_pow(before.min(16))).min(RETRY_AT_MOST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_millis(10));
    const LONG: Option<Duration> = Some(Duration::from_secs(3));
    /// Ended by itself, seated.
    const FAULT: Life = Life { seated: true, served: SHORT, killed: false, by_others: true };
    const KILL: Life = Life { killed: true, ..FAULT };
    /// Ended by itself without having been given the device.
    const UNSEATED: Life = Life { seated: false, served: None, ..FAULT };

    fn after(lives: impl IntoIterator<Item = Life>) -> Deaths {
        let mut deaths = Deaths::default();
        lives.into_iter().for_each(|life| deaths.note(life));
        deaths
    }

    #[test]
    fn only_a_seated_worker_dies_of_a_request() {
        assert!(!after([FAULT; 2]).of_a_request() && after([FAULT; 3]).of_a_request());
        let before_ready = Life { served: None, ..FAULT };
        assert!(after([before_ready; 3]).of_a_request(), "it answers before it says that it serves");
        for other in [KILL, UNSEATED, Life { served: None, ..KILL }] {
            assert!(!after([other; 50]).of_a_request(), "{other:?}");
        }
        assert!(!after([FAULT, FAULT, Life { served: LONG, ..FAULT }, FAULT]).of_a_request(), "not in a row");
    }

    #[test]
    fn each_kind_has_its_limit() {
        assert_eq!(after([FAULT; 9]).too_many(), None);
        assert_eq!(after([FAULT; 10]).too_many(), Some(10));
        assert_eq!(after([KILL; 99]).too_many(), None);
        assert_eq!(after([KILL; 100]).too_many(), Some(100));
        // That one is bounded by time.
        assert_eq!(after([UNSEATED; 1000]).too_many(), None);
    }

    #[test]
    fn pauses_grow_until_one_serves() {
        let millis = |lives: &[Life]| after(lives.iter().copied()).pause().as_millis();
        assert_eq!(millis(&[KILL]), 0);
        assert_eq!(millis(&[UNSEATED]), 100);
        assert_eq!(millis(&[UNSEATED; 3]), 400);
        assert_eq!(millis(&[UNSEATED; 100]), 1000);
        assert_eq!(millis(&[UNSEATED, UNSEATED, KILL, UNSEATED]), 100);
    }
}
