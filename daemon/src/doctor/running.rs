//! The mount and the daemon as they are now.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};

use super::finding::{Check, Finding};
use super::{Subject, host};
use crate::audit::{AuditError, verify};
use crate::control::client::ClientError;
use crate::refusal::with_cause;

/// How long the endpoint of the metrics may take, on the same machine.
const ANSWER: Duration = Duration::from_secs(2);
/// Enough of its answer to know it by.
const PAGE_BYTES: u64 = 16 << 10;
/// A textfile of the metrics that is older than this is not written any more; it should be every 15 s.
const OLD: Duration = Duration::from_secs(60);
/// The type of our mounts in mountinfo.
const KIND: &str = "fuse.mcpfs";

pub(super) fn mount(subject: &Subject) -> Vec<Finding> {
    let at = &subject.config.mount.at;
    let here = subject.mounts.iter().rfind(|entry| entry.at == *at);
    let own = match (here, &subject.status) {
        (None, Err(_)) => unmounted(at, subject.orders().start),
        // Links may lead to the place: the daemon knows which it is.
        (None, Ok(status)) => match subject.mounts.iter().any(|entry| entry.at == status.mount && entry.kind == KIND) {
            true => Finding::ok(Check::Mount, format!("served at {}", status.mount.display())),
            false => Finding::wrong(
                Check::Mount,
                format!("a daemon runs, and nothing is mounted at {}", at.display()),
                format!(
                    "{}; if it is there for others, this shell has a mount namespace of its own",
                    subject.orders().restart
                ),
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
            format!("mcpfs unmount, then {}; a new start also clears it", subject.orders().anew),
        ),
    };
    vec![own, others(subject)]
}

/// Nothing is mounted there: whether something could be.
fn unmounted(at: &Path, start: &str) -> Finding {
    let wrong = |what: &str, fix: String| Finding::wrong(Check::Mount, format!("{} {what}", at.display()), fix);
    match std::fs::read_dir(at).map(|mut entries| entries.next().is_some()) {
        Ok(true) => wrong(
            "is not empty, and a mount would hide what is in it",
            "empty it, or mount elsewhere ([mount] at)".to_owned(),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            wrong("does not exist, so nothing can be mounted there", format!("mkdir -p {}", at.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            wrong("is no directory", "mount elsewhere ([mount] at)".to_owned())
        }
        Ok(false) | Err(_) => {
            Finding::note(Check::Mount, format!("nothing is mounted at {}, and no daemon runs", at.display()), start)
        }
    }
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
                true => Finding::wrong(Check::Daemon, with_cause(error), subject.orders().anew),
                false => Finding::note(Check::Daemon, "no daemon runs", subject.orders().start),
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
        false if !subject.is_roots() => Finding::note(
            Check::Takeover,
            "if this daemon dies, the mount does: a user's own is one process; `mcpfs mount` then mounts anew",
            "mount as root, on Linux 6.9 or later, where servers must outlive a crash",
        ),
        false => Finding::note(
            Check::Takeover,
            "if what serves the mount dies, the mount does: Linux before 6.9 cannot send again what a worker had taken",
            "Linux 6.9 or later, where servers must outlive a crash",
        ),
    });
    findings
}

/// How many files the daemon may have open; before it runs, only this process can say something.
pub(super) fn open_files(subject: &Subject) -> Vec<Finding> {
    vec![match &subject.status {
        Ok(status) => host::open_files(status.open_files, subject.orders()),
        Err(_) => match host::open_files(getrlimit(Resource::Nofile).maximum, subject.orders()) {
            Finding { found, fix: Some(fix), .. } => {
                Finding::note(Check::OpenFiles, format!("if it were started from here: {found}"), fix)
            }
            fine => fine,
        },
    }]
}

/// The numbers for monitoring, as far as the configuration wants them and a daemon is there to give them.
pub(super) fn metrics(subject: &Subject) -> Vec<Finding> {
    let wanted = &subject.config.metrics;
    let runs = subject.status.is_ok();
    let listen = match wanted.listen {
        None => Finding::ok(Check::MetricsListen, "not asked for"),
        Some(listen) if !runs => Finding::ok(Check::MetricsListen, format!("a daemon will answer at {listen}")),
        Some(listen) => match answers(listen) {
            Ok(()) => Finding::ok(Check::MetricsListen, format!("{listen} answers")),
            Err(error) => Finding::wrong(
                Check::MetricsListen,
                format!("mcpfs does not answer at metrics.listen = \"{listen}\": {error}"),
                "the log says what kept mcpfs from it; ss -ltnp shows who else has the port",
            ),
        },
    };
    let file = match wanted.textfile.as_deref() {
        None => Finding::ok(Check::MetricsTextfile, "not asked for"),
        Some(file) if !runs => Finding::ok(Check::MetricsTextfile, format!("a daemon will write {}", file.display())),
        Some(file) if !subject.is_near(file) => Finding::wrong(
            Check::MetricsTextfile,
            format!("{} lies on a file system that may hang", file.display()),
            "put it on a local file system",
        ),
        Some(file) => textfile(file, std::fs::metadata(file).and_then(|found| found.modified())),
    };
    vec![listen, file]
}

/// Whether what answers there has numbers of mcpfs: another program may have the port.
fn answers(listen: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&listen, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n\r\n")?;
    let mut page = Vec::new();
    stream.take(PAGE_BYTES).read_to_end(&mut page)?;
    match String::from_utf8_lossy(&page).contains("\nmcpfs_") {
        true => Ok(()),
        false => Err(io::Error::other("another program has the port")),
    }
}

/// Whether the file for node_exporter is as young as it should be.
pub(super) fn textfile(file: &Path, written: io::Result<SystemTime>) -> Finding {
    let fix = "the log says why it is not written; its directory must belong to the worker's user alone";
    match written.map(|at| at.elapsed().unwrap_or_default()) {
        Ok(age) if age < OLD => {
            Finding::ok(Check::MetricsTextfile, format!("{} was written {} s ago", file.display(), age.as_secs()))
        }
        Ok(age) => Finding::wrong(
            Check::MetricsTextfile,
            format!("{} was written {} s ago, and should be every 15 s", file.display(), age.as_secs()),
            fix,
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::unknown(Check::MetricsTextfile, format!("{}: {error}", file.display()), "run this as root")
        }
        Err(error) => Finding::wrong(Check::MetricsTextfile, format!("{}: {error}", file.display()), fix),
    }
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
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
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
            let fix = "no daemon starts with it: mcpfs audit restart --reason TEXT moves it aside and begins another";
            Finding::wrong(Check::Audit, with_cause(&error), fix)
        }
    }
}
