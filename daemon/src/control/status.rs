//! The state of the mount, as `mcpfs status` and `mcpfs doctor` are told it.

use std::sync::Arc;

use mcpfs_trust::error::Code;

use super::credentials;
use super::facts::{Head, NextStop, Reason, RefusedName, Status};
use super::ops::{Desk, reason};
use super::protocol::PAGE;
use crate::config::{Keep, SandboxPolicy};
use crate::metrics::COUNTS;
use crate::registry::{Server, now};

impl Desk {
    pub(super) fn status(&self) -> Status {
        let (snapshot, config) = (self.daemon.registry.snapshot(), self.daemon.config());
        let refused = || {
            snapshot.servers.values().filter_map(|server| {
                let refusal = server.selected.as_ref().err()?;
                // What is hidden on purpose is no fault.
                let told = config.shows(&server.name).is_ok() || config.pins.stopped.contains_key(&server.name);
                told.then_some((server, refusal))
            })
        };
        let named = refused().take(PAGE);
        let lacks = |server: &Arc<Server>| {
            let release = &server.selected.as_ref().ok()?.release;
            let message = credentials::facts(release, &config).into_iter().find_map(|fact| fact.problem)?;
            let reason = Reason { code: Code::LaunchUnsupported.to_string(), message };
            Some(RefusedName { name: server.name.to_string(), reason })
        };
        let cache = self.daemon.content.usage();
        let (audit, keep) = (self.daemon.audit.health(), config.retention.audit);
        let moment = |time: i64| mcpfs_trust::time::Timestamp::from_unix(time.div_euclid(1_000_000));
        Status {
            now: now(),
            registry: snapshot.registry.to_string(),
            trust_version: snapshot.trust.version,
            head: snapshot.head.as_ref().map(|head| Head {
                version: head.version,
                issued: head.issued,
                expires: head.expires,
            }),
            next_stop: self.daemon.registry.next_stop().map(|stop| NextStop {
                name: stop.name.to_string(),
                issued: stop.issued,
                at: stop.at,
                share: stop.share,
            }),
            refreshed: snapshot.refreshed.at,
            refresh_error: snapshot.refreshed.outcome.as_ref().err().map(reason),
            servers: snapshot.servers.values().filter(|server| server.selected.is_ok()).count() as u64,
            refused: named
                .map(|(server, why)| RefusedName { name: server.name.to_string(), reason: reason(why) })
                .collect(),
            refused_count: refused().count() as u64,
            mount: self.daemon.mount.at.clone(),
            reads: self.daemon.mount.reads.to_string(),
            takeover: self.daemon.mount.takeover,
            cache_bytes: cache.cached,
            cache_quota: cache.quota,
            cache_free: cache.free,
            cache_keep_free: cache.keep_free,
            open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            in_flight: cache.in_flight,
            open_handles: COUNTS.open_handles(),
            lacking: snapshot.servers.values().filter_map(lacks).take(PAGE).collect(),
            audit_error: audit.failing,
            audit_kept: keep.to_string(),
            audit_oldest: audit.kept.oldest_us.and_then(moment),
            audit_cut: audit.kept.cut_us.and_then(moment),
            audit_kept_because: audit.kept.unfit.or(audit.kept.because).filter(|_| keep != Keep::Forever),
            sandbox: match config.policy.sandbox {
                SandboxPolicy::Required => "required",
                SandboxPolicy::Off => "off",
            }
            .to_owned(),
        }
    }
}
