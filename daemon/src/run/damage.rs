//! A start that fails because `state.db` is damaged.
//!
//! What opening does not notice shows when a row is read: then every start would end at the same place, for ever. So
//! after a failure the file is looked at as a whole (too slow for each start), and goes aside if it is damaged, as it
//! does if its header is. The next start begins anew.

use std::path::Path;

use super::Failure;
use super::rows::record;
use crate::audit::{Audit, AuditEvent, EventKind};
use crate::caller::Caller;
use crate::registry::state::State;

/// The failure, with what became of the state if that was its cause.
pub(super) async fn set_aside(audit: &Audit, directory: &Path, mut failure: Failure) -> Failure {
    let Ok(Some(aside)) = State::set_aside_if_damaged(directory) else { return failure };
    let what = format!("state.db was damaged and is now {}", aside.display());
    let mut row = AuditEvent::new(EventKind::Trust, Caller::daemon());
    row.reason = Some(format!("StateReset: {what}; the next start begins anew"));
    failure.message = format!("{what}: start mcpfs again, it begins anew, as after a loss ({})", failure.message);
    match record(audit, row).await {
        Ok(()) => failure,
        Err(unrecorded) => unrecorded,
    }
}
