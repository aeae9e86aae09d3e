//! How a look at the site ended: recorded if that is news, shown, and kept for a successor.
//!
//! A successor looks for itself at once, but answers before that look has ended. Until then it
//! says what its predecessor knew, as long as that one would have gone by it as well: the next
//! look is not overdue. After that nothing says that what was restored is still the newest.

use std::sync::PoisonError;
use std::time::Duration;

use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::error::Code;
use mcpfs_trust::limits;
use mcpfs_trust::root::TrustRoot;

use super::blocking;
use crate::refusal::Refusal;
use crate::registry::state::State;
use crate::registry::{Refreshed, Registry, Snapshot, now};

/// How long a mirror may lag behind before everything counts as stale.
const LAG: Duration = Duration::from_secs(15 * 60);

/// How a host's last look went that is asked every `period`, and whether anything is known of it.
///
/// # Errors
/// If the state cannot be read.
pub(in crate::registry) fn last(state: &State, period: Duration) -> Result<(Refreshed, bool), Refusal> {
    let at = now();
    let due = |look: &Refreshed| {
        let age = u64::try_from(at.unix() - look.at.unix());
        // A look comes a tenth late at most, and takes a moment. One in the future says nothing.
        age.is_ok_and(|age| age <= period.as_secs().saturating_mul(2))
    };
    if let Some(look) = state.look()?.filter(due) {
        return Ok((look, true));
    }
    let outcome = Err(Refusal::new(Code::Unreachable, "the site has not been asked yet"));
    // What state.db restores runs, but nothing says yet that it is still the newest.
    Ok((Refreshed { at, outcome, stale: true }, false))
}

impl Registry {
    /// Keeps two signed heads of one number until the row of this look is written: together they prove to anybody that a
    /// head key was used for two histories, and the site will soon have neither of them.
    pub(super) fn keep_two_heads(&self, root: &TrustRoot, accepted: &[u8], offered: &[u8]) {
        // What others wrote into an envelope proves nothing, and would take the room of what does.
        let signed = |bytes: &[u8]| {
            let mut envelope = Envelope::parse(bytes, limits::HEAD_BYTES, "head").ok()?;
            envelope.signatures.retain(|one| root.head.keys.contains(&one.keyid));
            serde_json::to_value(envelope).ok()
        };
        let (Some(accepted), Some(offered)) = (signed(accepted), signed(offered)) else { return };
        let two = serde_json::json!({ "accepted": accepted, "offered": offered });
        *self.0.two_heads.lock().unwrap_or_else(PoisonError::into_inner) = Some(two);
    }

    /// Records how a look ended, if that is news, and shows it.
    pub(super) async fn record_look(&self, outcome: Result<(), Refusal>) -> Result<(), Refusal> {
        let (at, running) = (now(), self.0.clock.running());
        let before = self.snapshot().refreshed.clone();
        let lagging = matches!(&outcome, Err(refusal) if refusal.code == Code::HeadRollback);
        let since = {
            let mut since = self.0.lagging.lock().unwrap_or_else(PoisonError::into_inner);
            *since = lagging.then(|| since.unwrap_or(running));
            *since
        };
        let stale = match since {
            Some(since) => running.saturating_sub(since) >= LAG,
            None => outcome.is_err(),
        };
        let code = |outcome: &Result<(), Refusal>| outcome.as_ref().err().map(|refusal| refusal.code);
        let news = code(&before.outcome) != code(&outcome) || before.stale != stale;
        let first = *self.0.looked.borrow() == 0 && !self.0.informed;
        let recorded = match &outcome {
            Err(refusal) if news || first => {
                tracing::warn!(%refusal, "the site was not followed");
                self.record_failed_look(refusal, stale).await
            }
            Ok(()) if news && !first => self.record_recovery().await,
            _ => Ok(()),
        };
        let refreshed = Refreshed { at, outcome, stale };
        let (registry, kept) = (self.clone(), refreshed.clone());
        if let Err(refusal) = blocking(move || registry.0.state.keep_look(&kept)).await {
            // A successor then says that it has not looked yet.
            tracing::warn!(%refusal, "how the look at the site ended was not kept");
        }
        let edit = |snapshot: &mut Snapshot| snapshot.refreshed = refreshed;
        if news {
            self.swap(edit);
        } else {
            self.note(edit);
        }
        recorded
    }
}
