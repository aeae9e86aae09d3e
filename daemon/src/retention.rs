//! When rows of the audit go, and by whose word on the time.
//!
//! A clock that jumps ahead must not empty the audit, be it by a fault of the time service or by somebody who wants it
//! empty. So a row's age is not taken from this host's clock alone: its time must be over by the clock *and* by the
//! registry, whose newest signed head says when it was made, and the time that has run since. Neither a wrong clock nor a
//! thief of the head key can make rows old. What cannot be told for certain stays, and `mcpfs status` and `doctor` say so.
//!
//! A pass is many short transactions with pauses between them, so that whoever starts a server meanwhile waits for one of them
//! at most. The next pass is due when a twenty-fourth of the policy is over (an hour to a day), or when the policy changes; a worker
//! that takes another's place counts from that one's last.
//!
//! Rejected: a timer outside (two programs that must agree on the lock, and nothing removed where nobody set it up), and
//! a file of the latest time seen (one wrong clock would poison it for ever).

use std::time::{Duration, Instant};

use mcpfs_trust::time::Timestamp;
use tokio::time::{sleep, timeout};

use crate::audit::{AuditError, Cutoff, verify};
use crate::config::Keep;
use crate::daemon::Daemon;
use crate::refusal::with_cause;
use crate::registry::now;
use crate::words;

/// How often it is asked whether a pass is due, if nothing changes.
const LOOK: Duration = Duration::from_secs(600);
/// The least pause between two transactions.
const PAUSE: Duration = Duration::from_millis(20);
/// After a pass that failed.
const AGAIN: Duration = Duration::from_secs(600);

/// How late rows may go.
pub(crate) fn interval(keep: Duration) -> Duration {
    (keep / 24).clamp(Duration::from_secs(3600), Duration::from_secs(86_400))
}

/// Removes rows for as long as the daemon lives. `takes_over`: another worker has done it until now.
pub(crate) async fn follow(daemon: Daemon, takes_over: bool) {
    let mut changes = daemon.registry.changes();
    let (mut policy, mut last) = (None, None);
    if takes_over {
        policy = Some(daemon.config().retention.audit);
        last = daemon.audit.health().kept.cut_us.and_then(|time| Timestamp::from_unix(time / 1_000_000));
    }
    loop {
        let keep = daemon.config().retention.audit;
        if let (Keep::For(span), Some(certain)) = (keep, daemon.registry.certain_time())
            && (policy != Some(keep) || due(last, certain, span))
        {
            match pass(&daemon, keep, span, certain).await {
                Ok(()) => (last, policy) = (Some(certain), Some(keep)),
                Err(error) => {
                    tracing::warn!(error = %with_cause(&error), "old rows of the audit were not removed; it is tried again");
                    sleep(AGAIN).await;
                }
            }
        }
        let because = doubt(&daemon, keep);
        if because != daemon.audit.health().kept.because {
            if let Some(why) = &because {
                tracing::warn!("rows of the audit are kept: {why}");
            }
            daemon.audit.keeps_because(because);
        }
        // An error means that nothing changes any more: the time goes on.
        if let Ok(Err(_)) = timeout(LOOK, changes.changed()).await {
            sleep(LOOK).await;
        }
    }
}

/// Whether it is time for a pass, when the last was at `last`.
fn due(last: Option<Timestamp>, certain: Timestamp, keep: Duration) -> bool {
    // The other way round too: a predecessor's clock may have been ahead.
    last.is_none_or(|last| certain.unix().abs_diff(last.unix()) >= interval(keep).as_secs())
}

/// Removes what may go now.
async fn pass(daemon: &Daemon, keep: Keep, span: Duration, certain: Timestamp) -> Result<(), AuditError> {
    let before = certain.plus(-seconds(span));
    let micros = |time: Timestamp| time.unix().saturating_mul(1_000_000);
    let cutoff = Cutoff { policy: keep.to_string(), before_us: micros(before), at_us: micros(certain) };
    let mut rows = 0;
    loop {
        let begun = Instant::now();
        let removed = daemon.audit.remove(cutoff.clone()).await?;
        rows += removed.rows;
        if let Some(why) = removed.unfit {
            tracing::error!("rows of the audit are kept: {why}");
        }
        // Another policy begins anew.
        if !removed.more || daemon.config().retention.audit != keep {
            break;
        }
        sleep(begun.elapsed().max(PAUSE)).await;
    }
    if rows > 0 {
        let rows = words::count(rows, "row");
        tracing::info!("retention removed {rows} of the audit, of before {before} (retention.audit = {keep})");
    }
    loop {
        let begun = Instant::now();
        if !daemon.audit.tidy(cutoff.clone()).await? {
            return Ok(());
        }
        sleep(begun.elapsed().max(PAUSE)).await;
    }
}

/// Why rows stay that are old enough by this host's clock, if they do.
fn doubt(daemon: &Daemon, keep: Keep) -> Option<String> {
    let Keep::For(span) = keep else { return None };
    let oldest = daemon.audit.health().kept.oldest_us?;
    let late = |now: Timestamp| oldest < now.plus(-seconds(span + interval(span))).unix().saturating_mul(1_000_000);
    if !late(now()) {
        return None;
    }
    match daemon.registry.certain_time() {
        Some(certain) if late(certain) => None,
        Some(certain) => Some(format!(
            "the oldest is of {}, and by the registry's signed head it is {certain}, not what this host's clock says",
            verify::moment(oldest)
        )),
        None => Some("no signed head says what time it is, and a clock alone removes nothing".to_owned()),
    }
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pass_is_due_now_and_then() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let certain = at("2028-02-10T12:00:00Z");
        for (last, keep, wanted) in [
            (None, 400, true),
            // What a worker that takes another's place finds: that one's last.
            (Some("2028-02-10T11:59:59Z"), 400, false),
            (Some("2028-02-09T12:00:01Z"), 400, false),
            (Some("2028-02-09T12:00:00Z"), 400, true),
            (Some("2028-02-10T11:00:01Z"), 1, false),
            (Some("2028-02-10T11:00:00Z"), 1, true),
            (Some("2028-02-10T09:00:00Z"), 3, true),
            // By the host's clock it was a little later than the registry knows.
            (Some("2028-02-10T18:00:00Z"), 400, false),
            (Some("2040-01-01T00:00:00Z"), 400, true),
        ] {
            assert_eq!(due(last.map(at), certain, days(keep)), wanted, "{last:?} {keep}d");
        }
    }
}
