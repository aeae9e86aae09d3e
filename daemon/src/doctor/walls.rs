//! What others have put up on this host: fapolicyd, SELinux, hidden processes.
//!
//! Everything here is a function of text, so that it can be shown what this host does not have.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use super::finding::{Check, Finding};
use crate::mount::MountEntry;

/// The most that is read of somebody else's rules, bytes.
const RULES_BYTES: u64 = 4 << 20;

pub(super) fn look(mounts: &[MountEntry], at: &Path) -> Vec<Finding> {
    let read = |path: &str| -> Option<String> {
        use std::io::Read as _;
        let mut text = String::new();
        fs::File::open(path).ok()?.take(RULES_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    };
    let runs = Path::new("/run/fapolicyd").exists();
    let rules = read("/etc/fapolicyd/compiled.rules").or_else(|| read("/etc/fapolicyd/fapolicyd.rules"));
    vec![
        match Path::new("/etc/fapolicyd").exists() && runs {
            true => fapolicyd(rules.as_deref(), read("/etc/fapolicyd/fapolicyd.conf").as_deref(), at),
            false => Finding::ok(Check::Fapolicyd, "fapolicyd does not run here"),
        },
        selinux(read("/sys/fs/selinux/enforce").as_deref(), mounts, at),
        hidepid(mounts),
    ]
}

/// File systems that another process or host answers for.
pub(super) fn is_far(kind: &str) -> bool {
    kind == "fuse"
        || kind.starts_with("fuse.")
        || ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "autofs"].contains(&kind)
}

/// Whether fapolicyd's rules, in order, let programs below `at` run; and its configuration.
///
/// A rule is `decision perm=… subject : object` (fapolicyd.rules(5)); the first that fits decides,
/// and without one it is allowed. Nothing of the mount is in fapolicyd's trust database.
pub(super) fn fapolicyd(rules: Option<&str>, config: Option<&str>, at: &Path) -> Finding {
    let setting = |name: &str| {
        config.into_iter().flat_map(str::lines).find_map(|line| {
            let (key, value) = line.split('#').next()?.split_once('=')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    if setting("permissive").as_deref() == Some("1") {
        return Finding::ok(Check::Fapolicyd, "fapolicyd runs and forbids nothing (permissive = 1)");
    }
    if let Some(watched) = setting("watch_fs")
        && !watched.split(',').any(|kind| kind.trim() == "fuse" || kind.trim() == "fuse.mcpfs")
    {
        return Finding::ok(Check::Fapolicyd, "fapolicyd runs and does not watch FUSE (watch_fs)");
    }
    let Some(rules) = rules else {
        return Finding::unknown(Check::Fapolicyd, "fapolicyd runs, and its rules cannot be read", "run this as root");
    };
    let at = format!("{}/", at.display());
    let denies = rules.lines().map(str::trim).find_map(|rule| decides(rule, &at).map(|allow| (allow, rule)));
    match denies {
        Some((false, rule)) => Finding::wrong(
            Check::Fapolicyd,
            format!("fapolicyd forbids to run what is in the mount, by its rule {rule:?}"),
            format!(
                "echo 'allow perm=any all : dir={at}' > /etc/fapolicyd/rules.d/25-mcpfs.rules && fagenrules --load"
            ),
        ),
        _ => Finding::ok(Check::Fapolicyd, "fapolicyd runs and lets programs of the mount run"),
    }
}

/// What a rule says of running an untrusted program below `at`; nothing if it is not about that.
fn decides(rule: &str, at: &str) -> Option<bool> {
    let (decision, rest) = rule.split_once(char::is_whitespace)?;
    let allow = match decision {
        "allow" | "allow_audit" | "allow_syslog" | "allow_log" => true,
        "deny" | "deny_audit" | "deny_syslog" | "deny_log" => false,
        _ => return None,
    };
    let (subject, object) = rest.split_once(':')?;
    let mut permission = "open";
    let mut who = Vec::new();
    for word in subject.split_whitespace() {
        match word.strip_prefix("perm=") {
            Some(given) => permission = given,
            None => who.push(word),
        }
    }
    // A rule about some subjects says nothing of all the others.
    if permission == "open" || who != ["all"] {
        return None;
    }
    let fits = object.split_whitespace().all(|part| match part.split_once('=') {
        None => part == "all",
        Some(("dir", dirs)) => dirs.split(',').any(|dir| dir == "untrusted" || at.starts_with(dir)),
        Some(("trust", trusted)) => trusted == "0",
        // By type, hash, device or path: not all programs.
        Some(_) => false,
    });
    fits.then_some(allow)
}

/// From `/sys/fs/selinux/enforce` and the mount's options.
pub(super) fn selinux(enforce: Option<&str>, mounts: &[MountEntry], at: &Path) -> Finding {
    match enforce.map(str::trim) {
        Some("1") => {
            let own = mounts.iter().rfind(|entry| entry.at == at);
            let context = own.and_then(|entry| entry.options.split(',').find(|one| one.contains("context=")));
            match context {
                Some(context) => Finding::ok(Check::Selinux, format!("SELinux is enforcing; the mount has {context}")),
                None => Finding::note(
                    Check::Selinux,
                    "SELinux is enforcing; files of the mount are fusefs_t, which confined users may not run",
                    "nothing for unconfined users; for others: ausearch -m avc -ts recent | audit2allow -M mcpfs && \
                     semodule -i mcpfs.pp",
                ),
            }
        }
        Some(_) => Finding::ok(Check::Selinux, "SELinux is permissive"),
        None => Finding::ok(Check::Selinux, "SELinux is not there"),
    }
}

/// From the options of `/proc`.
pub(super) fn hidepid(mounts: &[MountEntry]) -> Finding {
    let proc = mounts.iter().rfind(|entry| entry.at == Path::new("/proc") && entry.kind == OsStr::new("proc"));
    let Some(proc) = proc else {
        return Finding::wrong(Check::Hidepid, "/proc is not mounted", "mount -t proc proc /proc");
    };
    let hidden = ["hidepid=1", "hidepid=2", "hidepid=4", "hidepid=noaccess", "hidepid=invisible", "hidepid=ptraceable"];
    match hidden.iter().find(|option| proc.has(option)) {
        Some(option) if !proc.options.split(',').any(|one| one.starts_with("gid=")) => Finding::wrong(
            Check::Hidepid,
            format!("/proc hides processes ({option}): the audit could not say who opened what"),
            format!("mount -o remount,{option},gid=mcpfs /proc, and the same in /etc/fstab"),
        ),
        Some(option) => Finding::note(
            Check::Hidepid,
            format!("/proc hides processes ({option}) but to one group"),
            "make sure that it is the group of the user that mcpfs works as",
        ),
        None => Finding::ok(Check::Hidepid, "/proc shows who opens what"),
    }
}
