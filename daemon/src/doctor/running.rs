//! The mount and the daemon as they are now.

use std::path::Path;

use super::Subject;
use super::finding::{Check, Finding};
use crate::audit::{AuditError, verify};
use crate::control::client::ClientError;
use crate::refusal::with_cause;

/// The type of our mounts in mountinfo.
const KIND: &str = "fuse.mcpfs";

pub(super) fn mount(subject: &Subject) -> Vec<Finding> {
    let at = &subject.config.mount.at;
    let here = subject.mounts.iter().rfind(|entry| entry.at == *at);
    let own = match (here, &subject.status) {
        (None, Err(_)) => Finding::note(
            Check::Mount,
            format!("nothing is mounted at {}, and no daemon runs", at.display()),
            "systemctl start mcpfs, or mcpfs mount",
        ),
        // Links may lead to the place: the daemon knows which it is.
        (None, Ok(status)) => match subject.mounts.iter().any(|entry| entry.at == status.mount && entry.kind == KIND) {
            true => Finding::ok(Check::Mount, format!("served at {}", status.mount.display())),
            false => Finding::wrong(
                Check::Mount,
                format!("a daemon runs, and nothing is mounted at {}", at.display()),
                "systemctl restart mcpfs; if it is there for others, this shell has a mount namespace of its own",
            ),
        },
        (Some(entry), _) if entry.kind != KIND => Finding::wrong(
            Check::Mount,
            format!("{} is mounted at {}", entry.kind.to_string_lossy(), at.display()),
            format!("umount {}, or mount elsewhere ([mount] at)", at.display()),
        ),
        (Some(entry), Ok(_)) if entry.has("noexec") => Finding::wrong(
            Check::Mount,
            format!("{} is mounted noexec: no server starts from it", at.display()),
            format!("mount -o remount,exec {}", at.display()),
        ),
        (Some(_), Ok(_)) => Finding::ok(Check::Mount, format!("served at {}", at.display())),
        (Some(_), Err(_)) => Finding::wrong(
            Check::Mount,
            format!(
                "{} is mounted and no daemon answers for it: a stale mount, on which programs fail or wait",
                at.display()
            ),
            "mcpfs unmount, then systemctl restart mcpfs or mcpfs mount; a new start also clears it",
        ),
    };
    vec![own, others(subject)]
}

fn others(subject: &Subject) -> Finding {
    let own = subject.status.as_ref().map_or(&subject.config.mount.at, |status| &status.mount);
    let others: Vec<String> = subject
        .mounts
        .iter()
        .filter(|entry| entry.kind == KIND && entry.at != *own && entry.at != subject.config.mount.at)
        .map(|entry| entry.at.display().to_string())
        .collect();
    match others.as_slice() {
        [] => Finding::ok(Check::OtherMounts, "no other mcpfs is mounted here"),
        some => Finding::note(
            Check::OtherMounts,
            format!("other mounts of mcpfs: {}", some.join(", ")),
            "nothing, if they are meant: each needs rundir, state and cache of its own (mcpfs --config FILE doctor)",
        ),
    }
}

pub(super) fn daemon(subject: &Subject) -> Vec<Finding> {
    let at = &subject.config.mount.at;
    let status = match &subject.status {
        Ok(status) => status,
        Err(error @ ClientError::NoDaemon { .. }) => {
            return vec![match subject.mounts.iter().any(|entry| entry.at == *at && entry.kind == KIND) {
                true => Finding::wrong(Check::Daemon, with_cause(error), "systemctl restart mcpfs, or mcpfs mount"),
                false => Finding::note(Check::Daemon, "no daemon runs", "systemctl start mcpfs, or mcpfs mount"),
            }];
        }
        Err(error) => return vec![Finding::wrong(Check::Daemon, with_cause(error), error.advice())],
    };
    let mut findings = vec![match &status.refresh_error {
        None => {
            Finding::ok(Check::Daemon, format!("it answers; its last look at the site was at {}", status.refreshed))
        }
        Some(reason) => Finding::wrong(
            Check::Daemon,
            format!("it answers; its last look at the site failed: {} ({})", reason.code, reason.message),
            "see the codes registry, head and clock here; then mcpfs refresh",
        ),
    }];
    findings.push(match (status.refused_count, status.refused.first()) {
        (0, _) | (_, None) => Finding::ok(Check::Servers, crate::words::count(status.servers, "server")),
        (count, Some(first)) => Finding::note(
            Check::Servers,
            format!(
                "{} and {count} refused, the first of them {}: {}",
                crate::words::count(status.servers, "server"),
                first.name,
                first.reason.code
            ),
            "mcpfs ls --all says why; mcpfs explain NAME what to do",
        ),
    });
    findings.push(match status.takeover {
        true => Finding::ok(Check::Takeover, "a worker that dies is replaced on the same mount"),
        false => Finding::note(
            Check::Takeover,
            "a user's own daemon is one process: if it dies, its mount does",
            "mount as root where servers must outlive a crash",
        ),
    });
    findings
}

pub(super) fn audit(subject: &Subject) -> Vec<Finding> {
    let path = subject.config.state.join("audit.db");
    if let Ok(status) = &subject.status
        && let Some(error) = &status.audit_error
    {
        let fix = "free space at the state directory, or see the log; until then nothing is opened or launched";
        return vec![Finding::wrong(Check::Audit, format!("it cannot be written: {error}"), fix)];
    }
    if !subject.is_near(&path) {
        return vec![];
    }
    vec![chain(&path)]
}

fn chain(path: &Path) -> Finding {
    let there = std::fs::symlink_metadata(path);
    match there {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Finding::ok(Check::Audit, format!("{} is made at the first start", path.display()));
        }
        Err(error) => {
            return Finding::unknown(Check::Audit, format!("{}: {error}", path.display()), "run this as root");
        }
        Ok(_) => {}
    }
    match verify::verify(path, &[]) {
        Ok(found) if found.intact() => {
            Finding::ok(Check::Audit, format!("{} rows under {} seals, the chain is whole", found.rows, found.seals))
        }
        Ok(found) => Finding::wrong(
            Check::Audit,
            format!("somebody changed it: {}", found.findings.first().map_or("", String::as_str)),
            "mcpfs audit verify says all of it; keep the file as it is for whoever looks into that",
        ),
        Err(error @ AuditError::Denied { .. }) => {
            Finding::unknown(Check::Audit, with_cause(&error), "run this as root")
        }
        Err(error) => {
            let fix = "mcpfs audit verify; a damaged store is moved aside at the next start";
            Finding::wrong(Check::Audit, with_cause(&error), fix)
        }
    }
}
