//! How old the rows of the audit are, and whether those go that should.

use std::time::Duration;

use mcpfs_trust::time::Timestamp;

use super::Subject;
use super::finding::{Check, Finding};
use super::orders::Orders;
use crate::audit::AuditError;
use crate::audit::query::{Extent, Reader};
use crate::audit::verify::moment;
use crate::config::Keep;
use crate::refusal::with_cause;
use crate::retention::interval;
use crate::words::size;

/// What the daemon says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper<'a> {
    /// No daemon runs.
    None,
    /// One that keeps rows for so long.
    Keeps(&'a str),
    /// One that keeps older ones too, and why.
    Stuck(&'a str),
}

pub(super) fn look(subject: &Subject) -> Vec<Finding> {
    let path = subject.config.state.join("audit.db");
    if !subject.is_near(&path) {
        return vec![];
    }
    let keeper = match &subject.status {
        Err(_) => Keeper::None,
        Ok(status) => match &status.audit_kept_because {
            Some(why) => Keeper::Stuck(why),
            None => Keeper::Keeps(&status.audit_kept),
        },
    };
    let keep = subject.config.retention.audit;
    vec![match Reader::open(&path).and_then(|reader| reader.extent()) {
        Ok(extent) => judge(keep, &extent, crate::registry::now(), keeper, subject.orders()),
        Err(AuditError::Missing { .. }) => Finding::ok(Check::Retention, format!("rows will be kept: {keep}")),
        Err(error) => Finding::unknown(Check::Retention, with_cause(&error), "see `audit` here; run this as root"),
    }]
}

pub(super) fn judge(keep: Keep, extent: &Extent, now: Timestamp, keeper: Keeper<'_>, orders: &Orders) -> Finding {
    let oldest =
        extent.oldest_us.map_or_else(|| "there are none".to_owned(), |at| format!("the oldest is of {}", moment(at)));
    let cut = extent
        .cut_us
        .map_or_else(|| "none were removed yet".to_owned(), |at| format!("the last were removed at {}", moment(at)));
    let found = format!("rows are kept: {keep}; {oldest}, {cut}; {} on the disk", size(extent.bytes));
    let late = |keep: Duration| {
        let allowed = i64::try_from((keep + 2 * interval(keep)).as_secs()).unwrap_or(i64::MAX);
        extent.oldest_us.is_some_and(|at| at < now.plus(-allowed).unix().saturating_mul(1_000_000))
    };
    match (keeper, keep) {
        (Keeper::Stuck(why), _) => Finding::wrong(
            Check::Retention,
            format!("{found}; older ones stay: {why}"),
            "mcpfs refresh, and mend clock or registry (see those codes here); what does not fit its seal is for whoever \
             looks into that: mcpfs audit verify",
        ),
        (Keeper::Keeps(other), keep) if !other.is_empty() && other != keep.to_string() => Finding::note(
            Check::Retention,
            format!("{found}; the daemon goes by {other}"),
            format!("{} takes over what the configuration says", orders.reload),
        ),
        (Keeper::Keeps(_), Keep::For(span)) if late(span) => Finding::wrong(
            Check::Retention,
            format!("{found}: older ones should be gone"),
            format!("the log says what keeps them ({})", orders.log),
        ),
        (Keeper::None, Keep::For(span)) if late(span) => Finding::note(
            Check::Retention,
            format!("{found}; a daemon would remove older ones, and none runs"),
            orders.start,
        ),
        _ => Finding::ok(Check::Retention, found),
    }
}
