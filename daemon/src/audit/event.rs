//! What is recorded: the kinds of events, the release and the caller they speak of.
//!
//! Everything here may carry text that somebody else chose (a registry's reason, a path,
//! a process name), so text is bounded and escaped on its way into the store by [`clean`],
//! once, and not by each sender.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use mcpfs_trust::release::{Artefact, Release};
use serde_json::Value;

use crate::caller::Caller;

/// Longest path kept, bytes.
pub(super) const PATH_BYTES: usize = 4096;
/// Longest reason kept, bytes.
pub(super) const REASON_BYTES: usize = 1024;
/// Longest other text kept, bytes.
pub(super) const FIELD_BYTES: usize = 512;
/// Longest JSON text kept (detail, lists), bytes.
pub(super) const JSON_BYTES: usize = 8192;

/// The `event` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A server was started, or refused to start.
    Launch,
    /// A launched server ended.
    Exit,
    /// The first open or exec by a process in a release.
    Access,
    /// Content was fetched; the caller is its first waiter.
    Fetch,
    /// Metadata or a release was verified.
    Verify,
    /// Something was asked for and not given.
    Refusal,
    /// The catalogue was refreshed.
    Refresh,
    /// The trust root changed, or its change was refused.
    Trust,
    /// Configuration or a pin changed, or its change was refused.
    Config,
    /// An administrator stopped or resumed a server.
    Stop,
    /// An administrator told a process of a server to end.
    Kill,
    /// A revocation was seen.
    Revoke,
    /// Retention removed rows.
    Cut,
    /// A damaged store was moved aside and this one begun.
    AuditRestarted,
    /// The disk is full and the store's reserve was given up, or it was made again.
    AuditReserve,
}

impl EventKind {
    /// All kinds, for documentation, tests and the command line.
    pub const ALL: [Self; 15] = [
        Self::Launch,
        Self::Exit,
        Self::Access,
        Self::Fetch,
        Self::Verify,
        Self::Refusal,
        Self::Refresh,
        Self::Trust,
        Self::Config,
        Self::Stop,
        Self::Kill,
        Self::Revoke,
        Self::Cut,
        Self::AuditRestarted,
        Self::AuditReserve,
    ];

    /// The text in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Exit => "exit",
            Self::Access => "access",
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Refusal => "refusal",
            Self::Refresh => "refresh",
            Self::Trust => "trust",
            Self::Config => "config",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Revoke => "revoke",
            Self::Cut => "cut",
            Self::AuditRestarted => "audit-restarted",
            Self::AuditReserve => "audit-reserve",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The release an event speaks of: a row of `release`. A name under which nothing
/// verified has a row with little more than that name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)] // The columns of docs/audit.md, one to one.
pub struct ReleaseRef {
    pub registry: Option<String>,
    pub server_name: String,
    pub version: Option<String>,
    pub artefact: Option<Digest>,
    pub tree: Option<Digest>,
    pub statement: Option<Digest>,
    /// The keys whose signatures counted.
    pub key_ids: Vec<Digest>,
    pub maintainer: Option<String>,
    pub data_classification: Option<String>,
    pub lawful_basis: Option<String>,
    pub scope: Vec<String>,
    pub reviewed_at: Option<String>,
    pub reviewers: Vec<String>,
    pub repository: Option<String>,
    pub commit_id: Option<String>,
    pub pull_request: Option<String>,
    /// `active`, `yanked` or `revoked` at the time of recording.
    pub status: Option<String>,
}

impl ReleaseRef {
    /// A verified release on this host's platform. `status` is `active`, `yanked` or `revoked`.
    pub fn verified(release: &Release, artefact: &Artefact, statement: Digest, keys: &[Digest], status: &str) -> Self {
        let source = release.source.as_ref();
        Self {
            registry: Some(release.registry.to_string()),
            server_name: release.name.to_string(),
            version: Some(release.version.to_string()),
            artefact: Some(artefact.sha256),
            tree: Some(artefact.tree.sha256),
            statement: Some(statement),
            key_ids: keys.to_vec(),
            maintainer: Some(release.maintainer.clone()),
            data_classification: Some(release.data_classification.clone()),
            lawful_basis: release.lawful_basis.clone(),
            scope: release.scope.clone(),
            reviewed_at: Some(release.reviewed_at.to_string()),
            reviewers: release.reviewers.clone(),
            repository: source.map(|source| source.repository.clone()),
            commit_id: source.map(|source| source.commit.clone()),
            pull_request: source.and_then(|source| source.pull_request.clone()),
            status: Some(status.to_owned()),
        }
    }

    /// A name, and perhaps a version, under which nothing verified.
    pub fn unverified(registry: Option<&str>, server_name: &str, version: Option<&str>) -> Self {
        Self {
            registry: registry.map(str::to_owned),
            server_name: server_name.to_owned(),
            version: version.map(str::to_owned),
            ..Self::default()
        }
    }
}

/// One thing that happened. Make one with [`AuditEvent::new`] and fill what is known;
/// what is not known stays `None` and is NULL in the store, never a guess.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEvent {
    /// Microseconds UTC; `new` takes the clock.
    pub time_us: i64,
    /// What happened.
    pub kind: EventKind,
    /// `None` is `ok`.
    pub outcome: Option<Code>,
    /// The release concerned.
    pub release: Option<Arc<ReleaseRef>>,
    /// Who asked. Background work is [`Caller::daemon`].
    pub caller: Caller,
    /// `seq` of the launch row this belongs to.
    pub launch: Option<i64>,
    /// Version of the head the decision rests on.
    pub head_version: Option<u64>,
    /// Whether that head was past its expiry.
    pub stale: Option<bool>,
    /// The path below the mount point, or of the site's file for a fetch.
    pub path: Option<String>,
    /// Bytes fetched or opened.
    pub bytes: Option<u64>,
    /// How long it took, microseconds.
    pub duration_us: Option<u64>,
    /// For people: why.
    pub reason: Option<String>,
    /// Further facts as a JSON object. No secrets, no command lines.
    pub detail: Option<Value>,
    /// How many times it happened; above 1 only in rows the store folds itself.
    pub(super) count: u64,
}

impl AuditEvent {
    /// An event of now with outcome `ok` and nothing else known.
    pub fn new(kind: EventKind, caller: Caller) -> Self {
        Self {
            time_us: now_us(),
            kind,
            outcome: None,
            release: None,
            caller,
            launch: None,
            head_version: None,
            stale: None,
            path: None,
            bytes: None,
            duration_us: None,
            reason: None,
            detail: None,
            count: 1,
        }
    }

    /// Concerns this release.
    #[must_use]
    pub fn release(mut self, release: Arc<ReleaseRef>) -> Self {
        self.release = Some(release);
        self
    }

    /// Was refused with `code`, for people because of `reason`.
    #[must_use]
    pub fn refused(mut self, code: Code, reason: impl Into<String>) -> Self {
        self.outcome = Some(code);
        self.reason = Some(reason.into());
        self
    }

    /// The text of the `outcome` column.
    pub(super) fn outcome_text(&self) -> String {
        self.outcome.map_or_else(|| "ok".to_owned(), |code| code.to_string())
    }
}

/// Now, microseconds UTC. A clock before 1970 counts as 1970.
pub(super) fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Text that somebody else chose, made fit for a terminal and a row: control characters,
/// line separators and characters that reorder or hide text are escaped, and it ends
/// within `limit` bytes. Doing it twice changes nothing.
pub fn clean(text: &str, limit: usize) -> String {
    const CUT: &str = "…";
    let mut out = String::with_capacity(text.len().min(limit));
    for c in text.chars() {
        let before = out.len();
        if c.is_control() || mcpfs_trust::text::is_invisible(c) {
            out.extend(c.escape_unicode())
        } else {
            out.push(c)
        }
        if out.len() > limit {
            out.truncate(before);
            while out.len() + CUT.len() > limit && out.pop().is_some() {}
            out.push_str(CUT);
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_escaped_and_bounded() {
        assert_eq!(clean("a\u{1b}[2Jb\n", 99), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(clean("abc\u{202e}fdp.exe", 99), "abc\\u{202e}fdp.exe");
        assert_eq!(clean("a\u{61c}b\u{ad}", 99), "a\\u{61c}b\\u{ad}");
        assert_eq!(clean("ünïcode stays", 99), "ünïcode stays");
        for text in ["", "abcdefgh", "\u{1}\u{2}\u{3}\u{4}", "ééééééééé", "日本語日本語日本語"] {
            for limit in 3..20 {
                let once = clean(text, limit);
                assert!(once.len() <= limit, "{text:?} {limit} {once:?}");
                assert_eq!(clean(&once, limit), once);
            }
        }
    }

    #[test]
    fn kinds_have_distinct_names() {
        let names: std::collections::HashSet<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
    }
}
