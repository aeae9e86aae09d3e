//! What a start, and the cache while it works, have to say in the audit.

use mcpfs_trust::error::Code;
use tokio::sync::mpsc;

use super::Failure;
use crate::audit::{Audit, AuditEvent, EventKind};
use crate::caller::Caller;
use crate::content::ContentEvent;
use crate::metrics::COUNTS;
use crate::refusal::Exit;
use crate::registry::state::{Opened, State};

pub(super) async fn record(audit: &Audit, row: AuditEvent) -> Result<(), Failure> {
    audit.record(row).await.map(drop).map_err(|error| Failure::new(Exit::Refused, &error))
}

/// State that is not there is a row: it is what rollback protection rests on.
pub(super) async fn record_reset(
    audit: &Audit,
    opened: &Opened,
    root: &mcpfs_trust::root::TrustRoot,
) -> Result<(), Failure> {
    let what = match opened {
        Opened::Kept => return Ok(()),
        Opened::Created => "first start, or state.db was lost".to_owned(),
        Opened::Damaged(aside) => format!("state.db was damaged and is now {}", aside.display()),
    };
    let mut row = AuditEvent::new(EventKind::Trust, Caller::daemon());
    row.reason = Some(format!("StateReset: {what}; heads from {} on are accepted", root.minimum_head));
    record(audit, row).await
}

/// An audit that begins anew on a host with a history is a row: nothing else would tell that
/// the old one was removed. A head is never stored before its row, so state without rows cannot
/// be a first start that was cut short.
pub(super) async fn record_lost_audit(audit: &Audit, state: &State) -> Result<(), Failure> {
    let lived = state.head().map_err(|error| Failure::new(Exit::Refused, &error))?.0.floor.is_some();
    if !lived || audit.health().sealed > 0 {
        return Ok(());
    }
    let mut row = AuditEvent::new(EventKind::AuditRestarted, Caller::daemon());
    row.reason = Some("audit.db was not there, though this host has accepted heads: what it held is lost".to_owned());
    tracing::warn!("audit.db was lost and begins anew");
    record(audit, row).await
}

/// What the cache found out about itself and its mirrors.
pub(super) async fn record_events(audit: Audit, mut arriving: mpsc::Receiver<ContentEvent>) {
    while let Some(event) = arriving.recv().await {
        let row = match event {
            ContentEvent::Quarantined { sha256, found, kept } => {
                let found = found.map_or_else(|| "another size".to_owned(), |found| found.to_string());
                COUNTS.quarantined();
                let kept = if kept { "kept in quarantine" } else { "removed" };
                AuditEvent::new(EventKind::Verify, Caller::daemon())
                    .refused(Code::DigestMismatch, format!("cached file {sha256} had become {found}; {kept}"))
            }
            ContentEvent::ChunkRefused { sha256, from, refusal } => {
                let mut row = AuditEvent::new(EventKind::Fetch, Caller::daemon())
                    .refused(refusal.code, format!("{from}: {}", refusal.message));
                row.path = Some(mcpfs_trust::site::object(&sha256));
                row
            }
        };
        if let Err(error) = audit.record(row).await {
            tracing::error!(%error, "an event of the cache was not recorded");
        }
    }
}
