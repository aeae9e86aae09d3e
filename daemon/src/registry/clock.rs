//! What time it is, for questions of age.
//!
//! A host's clock can be wrong, and whoever can set it back would keep old releases alive. So
//! age is never measured by the clock alone. A signature says when its head was made, and that
//! moment has passed; since this daemon accepted it, so much more has passed as the time that
//! the kernel counts through sleep and that nobody can set. The sum is a lower bound of the
//! true time, and "now" is the later of it and the clock.
//!
//! The bound rests on signed times only, so a clock that was wrong for a while leaves nothing
//! behind (a file of the latest local time seen would refuse everything until that time came).
//! What it cannot notice: a clock set back to a time after the last head, and a restart since.
//! Then the running time counts from the restart.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mcpfs_trust::error::VerifyError;
use mcpfs_trust::limits;
use mcpfs_trust::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// 1970.
const START: Timestamp = match Timestamp::from_unix(0) {
    Some(start) => start,
    None => unreachable!(),
};

/// This host's clock as it is set, for what is shown and recorded.
pub(crate) fn now() -> Timestamp {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    START.plus(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Time since the host was started, sleep included; nobody can set it.
pub(crate) fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// What the host's clock says.
    pub(crate) wall: Timestamp,
    /// Time since some start, never set.
    pub(crate) running: Duration,
}

/// A head's signed time, and when it was accepted here.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    signed: Timestamp,
    accepted: Duration,
}

/// The clock that ages are measured by.
pub(crate) struct Clock {
    read: Box<dyn Fn() -> Reading + Send + Sync>,
    anchor: Mutex<Option<Anchor>>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("anchor", &self.anchor()).finish_non_exhaustive()
    }
}

impl Default for Clock {
    /// This host's.
    fn default() -> Self {
        Self::reading(|| Reading { wall: now(), running: since_boot() })
    }
}

impl Clock {
    /// A clock that is read so.
    pub(crate) fn reading(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self { read: Box::new(read), anchor: Mutex::new(None) }
    }

    fn anchor(&self) -> Option<Anchor> {
        *self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since some start, which counts through sleep and which nobody can set: for spans within this run.
    pub(super) fn running(&self) -> Duration {
        (self.read)().running
    }

    /// A head of this signed time was accepted. The newest counts, from now on.
    pub(super) fn saw(&self, signed: Timestamp) {
        let accepted = (self.read)().running;
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if anchor.is_none_or(|anchor| anchor.signed < signed) {
            *anchor = Some(Anchor { signed, accepted });
        }
    }

    /// Forgets what another registry, or a key of another epoch, signed.
    pub(super) fn forget(&self) {
        *self.anchor.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Now, and never before the time that must have passed.
    pub(super) fn now(&self) -> Timestamp {
        let Reading { wall, running } = (self.read)();
        let passed = self.anchor().map(|anchor| {
            let seconds = running.saturating_sub(anchor.accepted).as_secs();
            anchor.signed.plus(i64::try_from(seconds).unwrap_or(i64::MAX))
        });
        passed.map_or(wall, |passed| passed.max(wall))
    }

    /// A moment that has certainly been: both a signature, with the time that has run since, and the host's clock say
    /// so. `None` before any head was accepted.
    pub(super) fn certain(&self) -> Option<Timestamp> {
        let Reading { wall, running } = (self.read)();
        let Anchor { signed, accepted } = self.anchor()?;
        let seconds = running.saturating_sub(accepted).as_secs();
        Some(signed.plus(i64::try_from(seconds).unwrap_or(i64::MAX)).min(wall))
    }

    /// Whether the clock can be right: step 2 of docs/format.md section 13.
    ///
    /// # Errors
    /// `ClockRollback` if it is more than five minutes before a signed time seen.
    pub(super) fn check(&self) -> Result<(), VerifyError> {
        let now = (self.read)().wall;
        match self.anchor() {
            Some(Anchor { signed, .. }) if now < signed.plus(-limits::CLOCK_SKEW_SECONDS) => {
                Err(VerifyError::ClockRollback { now, signed })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Arc;

    use super::*;

    /// A clock, and what it reads: seconds after the start, and seconds that it has run.
    fn settable() -> (Clock, Arc<Mutex<(i64, u64)>>) {
        let set = Arc::new(Mutex::new((1_000_000, 50)));
        let read = Arc::clone(&set);
        let clock = Clock::reading(move || {
            let (wall, running) = *read.lock().unwrap();
            Reading { wall: START.plus(wall), running: Duration::from_secs(running) }
        });
        (clock, set)
    }

    #[test]
    fn certain_is_what_both_say() {
        let (clock, set) = settable();
        let at = |wall, running| {
            *set.lock().unwrap() = (wall, running);
            clock.certain().map(Timestamp::unix)
        };
        assert_eq!(at(1_000_000, 50), None, "nothing was signed yet");
        clock.saw(START.plus(999_000));
        assert_eq!(at(1_000_000, 50), Some(999_000));
        assert_eq!(at(1_000_100, 150), Some(999_100));
        assert_eq!(at(900_000_000, 150), Some(999_100), "set forward by decades");
        assert_eq!(at(5_000, 150), Some(5_000), "set back");
        clock.forget();
        assert_eq!(at(1_000_100, 150), None);
    }

    #[test]
    fn time_never_goes_behind_what_was_signed() {
        let (clock, set) = settable();
        let at = |wall, running| {
            *set.lock().unwrap() = (wall, running);
            (clock.now().unix(), clock.check().is_ok())
        };
        assert_eq!(at(1_000_000, 50), (1_000_000, true));
        assert_eq!(at(3, 50), (3, true), "nothing was signed yet");
        at(1_000_000, 50);
        clock.saw(START.plus(999_000));
        assert_eq!(at(1_000_100, 150), (1_000_100, true));
        assert_eq!(at(3, 150), (999_100, false), "set back: the running time counts on");
        assert_eq!(at(999_050, 1150), (1_000_100, true), "set back a little");
        clock.saw(START.plus(900_000));
        assert_eq!(at(3, 1150), (1_000_100, false), "an older head changes nothing");
        assert_eq!(at(5_000_000, 1150), (5_000_000, true));
        assert_eq!(at(1_000_050, 1150), (1_000_100, true), "a clock that was ahead leaves nothing behind");
        clock.saw(START.plus(1_000_500));
        assert_eq!(at(1_000_400, 1250), (1_000_600, true), "within five minutes");
        clock.forget();
        assert_eq!(at(3, 1250), (3, true));
    }
}
