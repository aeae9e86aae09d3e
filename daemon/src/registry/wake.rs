//! When to look at the site besides by the interval: the clock was set, or the host slept.
//!
//! Both change how old everything is. After a sleep the pause of the reconciler goes on where it
//! stopped, though hours have passed. The kernel cancels a timer on the real-time clock when that
//! clock is set, which is waited for without waking up. It also counts time with and without
//! sleep, and the difference grows by a sleep and by nothing else; that is compared twice a minute.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use super::Registry;
use super::clock::since_boot;

/// Between two comparisons of the kernel's clocks.
const INTERVAL: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// A difference below this is two reads at two moments.
const SLEPT: Duration = Duration::from_secs(1);
/// A second that no clock of ours reaches: 2255. Only a cancelled timer is ever readable.
const NEVER: i64 = 9_000_000_000;

impl Registry {
    /// Looks at the site whenever the clock is set or the host wakes up, on a thread of its own
    /// for as long as this process lives.
    pub fn watch_clock(self) {
        let watch = move || {
            let error = Timer::new().and_then(|timer| self.nudge_at_changes(&timer));
            tracing::warn!(?error, "a change of the clock will not be noticed at once any more");
        };
        if let Err(error) = std::thread::Builder::new().name("clock".to_owned()).spawn(watch) {
            tracing::warn!(%error, "a change of the clock will not be noticed at once");
        }
    }

    fn nudge_at_changes(&self, timer: &Timer) -> io::Result<()> {
        let mut before = asleep();
        loop {
            let set = timer.cancelled_within(INTERVAL)?;
            let now = asleep();
            if now.saturating_sub(before) >= SLEPT {
                tracing::info!("the host slept; looking at the site");
                self.refresh();
            } else if set {
                tracing::info!("the clock was set; looking at the site");
                self.refresh();
            }
            before = now;
        }
    }
}

/// How long the host has slept since it was started.
fn asleep() -> Duration {
    let awake = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    since_boot().saturating_sub(awake)
}

/// A timer that never ends, and is cancelled when the clock is set.
struct Timer(OwnedFd);

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        arm(&timer)?;
        Ok(Self(timer))
    }

    /// Waits so long, and says whether the clock was set meanwhile.
    fn cancelled_within(&self, time: Timespec) -> io::Result<bool> {
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&time)) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::io::read(&self.0, &mut [0; 8]) {
            // It ended, or was cancelled; either disarms it.
            Ok(_) | Err(Errno::CANCELED) => arm(&self.0).map(|()| true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = Timespec { tv_sec: NEVER, tv_nsec: 0 };
    let at = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &at)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_wakes_nobody() {
        let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let timer = Timer::new().unwrap();
        assert!(!timer.cancelled_within(moment).unwrap());
        // Stands for a set clock, which a test must not touch: the timer is readable.
        let past = Timespec { tv_sec: 1, tv_nsec: 0 };
        let at = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: past };
        timerfd_settime(&timer.0, TimerfdTimerFlags::ABSTIME, &at).unwrap();
        assert!(timer.cancelled_within(INTERVAL).unwrap());
        assert!(!timer.cancelled_within(moment).unwrap(), "armed again, and told once");
    }

    #[test]
    fn sleep_is_what_the_clocks_differ_by() {
        let before = asleep();
        assert!(asleep().abs_diff(before) < SLEPT, "two reads at two moments are no sleep");
        assert!(since_boot() >= before);
    }
}
