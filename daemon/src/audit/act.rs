//! What an administrator's command did by itself, as a row.
//!
//! `mcpfs ps --kill` and `mcpfs stop` must work when nothing else does, so they act on their own and are recorded
//! afterwards: by the daemon, which knows from the kernel who asks, or by the command if no daemon runs. They
//! are the one exception to "recorded before it takes effect": a full disk must not keep a server running.

use std::path::Path;
use std::sync::Arc;

use mcpfs_trust::error::Code;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::restart::append_without_a_daemon;
use super::{AuditError, AuditEvent, EventKind, ReleaseRef};
use crate::caller::Caller;

/// One such deed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "lowercase", deny_unknown_fields)]
pub enum Act {
    /// A process that ran a server, or that one started, was told to end.
    Kill {
        /// Its number.
        pid: u32,
        /// When the launched process began, microseconds after the host's boot.
        start_us: u64,
        /// Whose it was.
        user: String,
        /// The registry that the server is of.
        registry: Option<String>,
        /// The server.
        name: String,
        /// The version.
        version: String,
        /// The row of its launch.
        launch: i64,
        /// `ended`, `killed`, or why it goes on.
        outcome: String,
        /// Whether it is gone.
        gone: bool,
    },
    /// A server was stopped on this host.
    Stop {
        /// The server.
        name: String,
        /// Why.
        reason: String,
    },
    /// A stop was taken back.
    Resume {
        /// The server.
        name: String,
    },
}

impl Act {
    /// The row of it, done by `caller`.
    pub fn event(&self, caller: Caller) -> AuditEvent {
        let release = |registry: Option<&str>, name: &str, version: Option<&str>| {
            Arc::new(ReleaseRef::unverified(registry, name, version))
        };
        match self {
            Self::Kill { pid, start_us, user, registry, name, version, launch, outcome, gone } => {
                let of = release(registry.as_deref(), name, Some(version));
                let mut event = AuditEvent::new(EventKind::Kill, caller).release(of);
                event.launch = Some(*launch);
                event.detail = Some(json!({"pid": pid, "launched_us": start_us, "user": user, "outcome": outcome}));
                match gone {
                    true => event,
                    false => event.refused(Code::PolicyRefused, format!("process {pid} goes on: {outcome}")),
                }
            }
            Self::Stop { name, reason } => {
                let mut event = AuditEvent::new(EventKind::Stop, caller).release(release(None, name, None));
                event.reason = Some(format!("stopped: {reason}"));
                event
            }
            Self::Resume { name } => {
                let mut event = AuditEvent::new(EventKind::Stop, caller).release(release(None, name, None));
                event.reason = Some("resumed".to_owned());
                event
            }
        }
    }

    /// Records them in the store at `path`, which no daemon has open.
    ///
    /// # Errors
    /// `Locked` if one has, and what opening and writing say.
    pub fn record(acts: &[Self], caller: &Caller, path: &Path) -> Result<(), AuditError> {
        let events: Vec<AuditEvent> = acts.iter().map(|act| act.event(caller.clone())).collect();
        append_without_a_daemon(path, &events)
    }
}
