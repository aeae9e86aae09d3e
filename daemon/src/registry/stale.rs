//! `max_stale`: how long what was admitted may run without a newer word of its publisher.
//!
//! It counts from the signature of the last head that lists a release, by the clock that cannot
//! be set back (`clock`). The end is asked for at every open. Before it comes it is announced, at
//! half, 80 and 95 %: in the log, in `status`, and by the launcher's one line. When it has come,
//! the server's `run` says why; should it turn out that it had not (the clock was ahead, the
//! configuration allows more), everything is as before.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mcpfs_trust::error::Code;
use mcpfs_trust::name::ServerName;
use mcpfs_trust::time::Timestamp;

use super::{Admitted, Registry, Server};
use crate::config::Config;
use crate::refusal::Refusal;
use crate::words::span;

/// The shares of `max_stale`, in percent, from which on its end is announced anew.
pub(crate) const STEPS: [u8; 3] = [50, 80, 95];

/// Which share of `max_stale` is over, in percent; 100 at its end and after.
pub(crate) fn share(issued: Timestamp, max_stale: Duration, now: Timestamp) -> u8 {
    let age = u64::try_from(now.unix().saturating_sub(issued.unix())).unwrap_or(0);
    let percent = age.saturating_mul(100) / max_stale.as_secs().max(1);
    u8::try_from(percent.min(100)).unwrap_or(100)
}

/// The server that `max_stale` stops next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextStop {
    /// Its name; others may stop with it.
    pub name: ServerName,
    /// When the last head that lists it was signed.
    pub issued: Timestamp,
    /// When it stops.
    pub at: Timestamp,
    /// Which share of the time is over, percent.
    pub share: u8,
}

impl Registry {
    /// Now, as ages are measured: never before the time that signatures and this run prove.
    pub fn time(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The server that stops next if no newer head lists it; none if nothing starts.
    pub fn next_stop(&self) -> Option<NextStop> {
        let (snapshot, config) = (self.snapshot(), self.config());
        let oldest = snapshot
            .servers
            .values()
            .filter_map(|server| server.selected.as_ref().ok())
            .min_by_key(|admitted| end(admitted, &config))?;
        Some(NextStop {
            name: oldest.name().clone(),
            issued: oldest.head_issued,
            at: end(oldest, &config),
            share: share(oldest.head_issued, allowed(oldest, &config).0, self.time()),
        })
    }

    /// The hard stop at `max_stale` after the last head that listed a release.
    pub(super) fn check_age(&self, admitted: &Admitted, config: &Config, at: Timestamp) -> Result<(), Refusal> {
        let end = end(admitted, config);
        if at < end {
            return Ok(());
        }
        Err(Refusal::new(
            Code::HeadExpired,
            format!(
                "{} {} was last listed by a head of {}, and {} ended at {end}: is the site reachable, its head still \
                 signed, this clock right?",
                admitted.name(),
                admitted.version(),
                admitted.head_issued,
                allowed(admitted, config).1
            ),
        ))
    }

    /// Refuses servers whose last word is older than `max_stale`, so that their `run` says so,
    /// and takes that back where it is not so any more. Announces the next end.
    pub(super) fn apply_max_stale(&self) {
        self.stop_and_start();
        self.announce();
    }

    fn stop_and_start(&self) {
        let (settings, at) = (self.settings(), self.time());
        let age = |one: &Arc<Admitted>| self.check_age(one, &settings.config, at);
        let changed = |server: &Server| match (&server.selected, &server.stopped) {
            (Ok(selected), _) => {
                let (refusal, stopped) = (age(selected).err()?, Some(Arc::clone(selected)));
                Some(Server { selected: Err(refusal), stopped, ..server.clone() })
            }
            (Err(_), Some(stopped)) => {
                age(stopped).ok()?;
                Some(Server { selected: Ok(Arc::clone(stopped)), stopped: None, ..server.clone() })
            }
            (Err(_), None) => None,
        };
        if !self.snapshot().servers.values().any(|server| changed(server).is_some()) {
            return;
        }
        self.swap(|snapshot| {
            for server in snapshot.servers.values_mut() {
                if let Some(other) = changed(server) {
                    *server = Arc::new(other);
                    self.show(server);
                }
            }
        });
    }

    /// One line in the log for each step that is reached.
    fn announce(&self) {
        let stop = self.next_stop();
        let step = stop.as_ref().and_then(|stop| STEPS.into_iter().rfind(|step| stop.share >= *step)).unwrap_or(0);
        let before = std::mem::replace(&mut *self.0.announced.lock().unwrap_or_else(PoisonError::into_inner), step);
        let Some(NextStop { name, issued, at, .. }) = stop.filter(|_| step > before) else { return };
        let left = span(u64::try_from(at.unix() - self.time().unix()).unwrap_or(0));
        tracing::warn!(
            %name, %issued, %at,
            "{step} % of registry.max_stale is over: in {left} it stops starting, and so does what was listed last \
             with it; is the site reachable, and does its head still get signed?"
        );
    }
}

fn end(admitted: &Admitted, config: &Config) -> Timestamp {
    admitted.head_issued.plus(i64::try_from(allowed(admitted, config).0.as_secs()).unwrap_or(i64::MAX))
}

/// How long it may run without a newer word, by the class of the data that it touches, and which setting says so.
fn allowed(admitted: &Admitted, config: &Config) -> (Duration, String) {
    config.registry.max_stale_of(&admitted.release.data_classification)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn shares() {
        let issued: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |seconds: i64| share(issued, Duration::from_secs(1000), issued.plus(seconds));
        assert_eq!([-5, 0, 9, 499, 500, 999, 1000, 5000].map(at), [0, 0, 0, 49, 50, 99, 100, 100]);
        assert_eq!(share(issued, Duration::ZERO, issued.plus(1)), 100);
    }
}
