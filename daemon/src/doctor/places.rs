//! Configuration, and the directories that it names: whose they are, and how much room is left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Subject;
use super::finding::{Check, Finding};
use crate::audit::AuditOptions;
use crate::config::{Config, ReadsWanted, SandboxPolicy};
use crate::content::keep_free;
use crate::mount::MountEntry;
use crate::supervisor::User;
use crate::words::size;

impl Subject {
    /// Whether launches need the sandbox.
    pub(super) fn wants_sandbox(&self) -> bool {
        self.config.policy.sandbox == SandboxPolicy::Required
    }
}

pub(super) fn configured(config: &Config) -> Finding {
    let extra = fs::read_dir(config.file.with_file_name("conf.d")).map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "toml")).count()
    });
    Finding::ok(
        Check::Config,
        format!("{} and {} in conf.d", config.file.display(), crate::words::count(extra as u64, "file")),
    )
}

/// Whom the worker runs as.
pub(super) fn user(subject: &Subject) -> Vec<Finding> {
    if !subject.is_roots() {
        return vec![Finding::ok(Check::User, "a user's own daemon is one process of this user")];
    }
    vec![match User::named(&subject.config.user) {
        Ok(user) => Finding::ok(Check::User, format!("the worker is user {} ({})", user.name, user.uid)),
        Err(problem) => {
            let fix = format!(
                "useradd --system --no-create-home --shell /usr/sbin/nologin {}, or set `user` in {}",
                subject.config.user,
                subject.config.file.display()
            );
            Finding::wrong(Check::User, problem.split(';').next().unwrap_or_default(), fix)
        }
    }]
}

/// Who must own state and cache: its number and its name.
fn owner(subject: &Subject) -> Option<(u32, String)> {
    match subject.is_roots() {
        true => User::named(&subject.config.user).ok().map(|user| (user.uid, user.name)),
        false => {
            let uid = rustix::process::geteuid().as_raw();
            Some((uid, uid.to_string()))
        }
    }
}

fn owned_by(subject: &Subject, check: Check, directory: &Path) -> Finding {
    if let Some(mount) = subject.mount_of(directory)
        && !subject.is_near(directory)
    {
        let found = format!("{} lies on {}, which may hang", directory.display(), mount.kind.to_string_lossy());
        return Finding::wrong(check, found, "put it on a local file system");
    }
    let Some((uid, name)) = owner(subject) else {
        let found = format!("whose {} must be depends on the user above", directory.display());
        return Finding::unknown(check, found, "make the user first");
    };
    match fs::metadata(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::ok(check, format!("{} is made at the first start", directory.display()))
        }
        Err(error) => Finding::unknown(check, format!("{}: {error}", directory.display()), "run this as root"),
        Ok(found) if !found.is_dir() => Finding::wrong(
            check,
            format!("{} is no directory", directory.display()),
            format!("mv {0} {0}.old", directory.display()),
        ),
        Ok(found) if found.uid() == 0 && fs::read_dir(directory).is_ok_and(|mut all| all.next().is_none()) => {
            Finding::ok(check, format!("{} is empty and given to {name} at the first start", directory.display()))
        }
        Ok(found) if found.uid() != uid => Finding::wrong(
            check,
            format!("{} belongs to user {} and not to {name}", directory.display(), found.uid()),
            format!("chown -R {name}: {}", directory.display()),
        ),
        Ok(found) if found.mode() & 0o022 != 0 => Finding::wrong(
            check,
            format!("{} can be written by others (mode {:04o})", directory.display(), found.mode() & 0o7777),
            format!("chmod 700 {}", directory.display()),
        ),
        Ok(_) => match stranger(directory, uid) {
            Some(path) => Finding::wrong(
                check,
                format!("{} belongs to somebody else than {name}", path.display()),
                format!("chown -R {name}: {}", directory.display()),
            ),
            None => Finding::ok(check, format!("{} belongs to {name} alone", directory.display())),
        },
    }
}

/// Something right in a directory that is not its owner's: a backup put back by root, for one.
fn stranger(directory: &Path, uid: u32) -> Option<std::path::PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten().take(1000);
    entries.filter(|entry| entry.metadata().is_ok_and(|found| found.uid() != uid)).map(|entry| entry.path()).next()
}

/// The room for unprivileged users at the nearest directory that exists: free and whole.
fn room(path: &Path) -> Option<(u64, u64)> {
    let there = path.ancestors().find(|path| path.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}

pub(super) fn state(subject: &Subject) -> Vec<Finding> {
    let state = &subject.config.state;
    let mut findings = vec![owned_by(subject, Check::StateOwner, state)];
    if subject.is_near(state)
        && let Some((free, _)) = room(state)
    {
        // The audit keeps its reserve apart; ten times that is some weeks.
        let least = AuditOptions::at("").reserve_bytes;
        findings.push(state_space(free, least, state));
    }
    findings
}

pub(super) fn state_space(free: u64, reserve: u64, state: &Path) -> Finding {
    let found = format!("{} free for the audit at {}", size(free), state.display());
    match free {
        _ if free < reserve => Finding::wrong(
            Check::StateSpace,
            format!("{found}: when it is full, nothing is opened or launched"),
            "free some space there, or give `state` a file system of its own",
        ),
        _ if free < 10 * reserve => Finding::note(Check::StateSpace, found, "free some space there before it runs out"),
        _ => Finding::ok(Check::StateSpace, found),
    }
}

pub(super) fn cache(subject: &Subject) -> Vec<Finding> {
    let dir = &subject.config.cache.dir;
    let mut findings = vec![owned_by(subject, Check::CacheOwner, dir)];
    if subject.is_near(dir)
        && let Some((free, whole)) = room(dir)
    {
        let floor = subject.config.cache.keep_free.unwrap_or_else(|| keep_free(whole));
        let used = subject.status.as_ref().map_or(0, |status| status.cache_bytes);
        findings.push(cache_space(free, floor, dir));
        findings.push(cache_quota(subject.config.cache.quota, used, free, whole));
    }
    if let Some(mount) = subject.mount_of(dir) {
        findings.push(cache_kind(mount, subject.is_roots() && subject.config.mount.reads == ReadsWanted::Auto));
    }
    findings
}

pub(super) fn cache_space(free: u64, floor: u64, dir: &Path) -> Finding {
    let found = format!("{} free for the cache at {}", size(free), dir.display());
    match free < floor {
        true => Finding::wrong(
            Check::CacheSpace,
            format!("{found}: below {} nothing new is fetched, and opens of it fail with ENOSPC", size(floor)),
            "free some space there, set `keep_free` under `[cache]` lower, or give `[cache] dir` another file system",
        ),
        false => Finding::ok(Check::CacheSpace, found),
    }
}

pub(super) fn cache_quota(quota: u64, used: u64, free: u64, whole: u64) -> Finding {
    match quota > used.saturating_add(free) {
        true => Finding::note(
            Check::CacheQuota,
            format!(
                "cache.quota is {}, and its file system has only {} of {} left for it",
                size(quota),
                size(used.saturating_add(free)),
                size(whole)
            ),
            "set quota under [cache] to what may really be used",
        ),
        false => Finding::ok(Check::CacheQuota, format!("{} of {} used", size(used), size(quota))),
    }
}

pub(super) fn cache_kind(mount: &MountEntry, passthrough: bool) -> Finding {
    let kind = mount.kind.to_string_lossy();
    match kind.as_ref() {
        "overlay" | "ecryptfs" if passthrough => Finding::note(
            Check::CacheKind,
            format!("the cache lies on {kind}, a stacked file system: the kernel cannot read it for the mount itself"),
            "put `[cache] dir` on ext4, xfs or btrfs, in a container on a volume",
        ),
        "tmpfs" | "ramfs" => Finding::note(
            Check::CacheKind,
            format!("the cache lies on {kind}: it takes memory and is empty after a restart of the host"),
            "put `[cache] dir` on a disk",
        ),
        kind if super::walls::is_far(kind) => Finding::wrong(
            Check::CacheKind,
            format!("the cache lies on {kind}: whoever opens something waits for another host"),
            "put `[cache] dir` on a local disk",
        ),
        kind => Finding::ok(Check::CacheKind, format!("the cache lies on {kind}")),
    }
}

pub(super) fn rundir(subject: &Subject) -> Vec<Finding> {
    let dir = &subject.config.rundir;
    let owner = match fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::ok(Check::RundirOwner, format!("{} is made at the start", dir.display()))
        }
        Err(error) => Finding::wrong(
            Check::RundirOwner,
            format!("{}: {error}: no user can start a server", dir.display()),
            format!("chmod 755 {}", dir.display()),
        ),
        Ok(found) if found.mode() & 0o022 != 0 => Finding::wrong(
            Check::RundirOwner,
            format!("{} can be written by others, who could put their launcher there", dir.display()),
            format!("chmod 755 {}", dir.display()),
        ),
        Ok(found) if found.mode() & 0o005 != 0o005 && subject.is_roots() => Finding::wrong(
            Check::RundirOwner,
            format!("{} is closed to users, who start the launcher in it", dir.display()),
            format!("chmod 755 {}", dir.display()),
        ),
        Ok(_) => Finding::ok(Check::RundirOwner, format!("{} is as it should be", dir.display())),
    };
    let mut findings = vec![owner];
    findings.extend(subject.mount_of(dir).map(|mount| rundir_exec(mount, dir)));
    findings
}

/// `run` begins with `#!` and the launcher in the rundir.
pub(super) fn rundir_exec(mount: &MountEntry, dir: &Path) -> Finding {
    match mount.has("noexec") {
        true => Finding::wrong(
            Check::RundirExec,
            format!(
                "{} lies on {}, mounted noexec: no server can be started by its `run`",
                dir.display(),
                mount.at.display()
            ),
            format!(
                "mount -o remount,exec {} and the same in /etc/fstab, or set `rundir` to a directory elsewhere",
                mount.at.display()
            ),
        ),
        false => Finding::ok(Check::RundirExec, format!("programs may run in {}", dir.display())),
    }
}
