//! What the kernel can do, and what it lets users do.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};

use super::finding::{Check, Finding};
use super::orders::Orders;

/// The first kernel with passthrough, resend and all that hot takeover rests on.
const FULL: (u32, u32) = (6, 9);
/// The first kernel with pidfd_open(2), without which no worker can be waited for.
const LEAST: (u32, u32) = (5, 3);
/// Descriptors: every open file of every server is one.
const DESCRIPTORS: u64 = 4096;
/// Where the launcher looks for it, unless the configuration names another one.
pub(super) const BUBBLEWRAP: &str = "/usr/bin/bwrap";

/// Whom root makes a trial sandbox as: one of the users who start servers.
const NOBODY: u32 = 65534;
/// How long that trial may take.
const TRIAL: Duration = Duration::from_secs(5);

pub(super) fn look(sandbox: bool, bubblewrap: &Path) -> Vec<Finding> {
    let sysctl = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
    let release = sysctl("kernel/osrelease").unwrap_or_default();
    let (clone, apparmor, max) = (
        sysctl("kernel/unprivileged_userns_clone"),
        sysctl("kernel/apparmor_restrict_unprivileged_userns"),
        sysctl("user/max_user_namespaces"),
    );
    let profile = Path::new("/etc/apparmor.d/bwrap-userns-restrict").exists();
    vec![
        fuse(),
        kernel(&release),
        landlock(),
        seccomp(fs::read_to_string("/proc/self/status").ok().as_deref()),
        for_sandbox(sandbox, user_namespaces(clone.as_deref(), apparmor.as_deref(), max.as_deref(), profile)),
        for_sandbox(sandbox, walls(bubblewrap)),
    ]
}

/// What only the sandbox needs is no fault where launches run without one.
pub(super) fn for_sandbox(sandbox: bool, finding: Finding) -> Finding {
    match finding.fix {
        Some(fix) if !sandbox => {
            Finding::note(finding.code, format!("{} (policy.sandbox = \"off\" needs it not)", finding.found), fix)
        }
        fix => Finding { fix, ..finding },
    }
}

fn fuse() -> Finding {
    let device = Path::new("/dev/fuse");
    if !device.exists() {
        return Finding::wrong(
            Check::Fuse,
            "there is no /dev/fuse",
            "modprobe fuse, and write \"fuse\" to /etc/modules-load.d/fuse.conf; in a container, pass the device on",
        );
    }
    match fs::File::options().read(true).write(true).open(device) {
        Ok(_) if super::is_root() => Finding::ok(Check::Fuse, "/dev/fuse can be opened"),
        Ok(_) => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let usual = ["/usr/bin", "/bin"].map(PathBuf::from);
            let found = std::env::split_paths(&path).chain(usual).any(|dir| dir.join("fusermount3").is_file());
            match found {
                true => Finding::ok(Check::Fuse, "/dev/fuse can be opened, and fusermount3 is there"),
                false => Finding::wrong(Check::Fuse, "fusermount3 is missing, by which users mount", "install fuse3"),
            }
        }
        Err(error) => {
            let fix = "chmod 666 /dev/fuse, or in a container: allow the device (--device /dev/fuse)";
            Finding::wrong(Check::Fuse, format!("/dev/fuse cannot be opened: {error}"), fix)
        }
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn kernel(release: &str) -> Finding {
    let release = release.trim();
    match version(release) {
        None => Finding::unknown(Check::Kernel, format!("{release:?} is no kernel release"), "uname -r"),
        Some(version) if version >= FULL => {
            Finding::ok(Check::Kernel, format!("{release}: passthrough and takeover of a mount (FUSE_NOTIFY_RESEND)"))
        }
        Some(version) if version >= LEAST => Finding::note(
            Check::Kernel,
            format!(
                "{release}: reads go through the daemon, and a mount is made anew when its worker dies; passthrough \
                 and FUSE_NOTIFY_RESEND came with 6.9 (a distribution may have brought them back earlier)"
            ),
            "use a kernel from 6.9 on where running servers must outlive a crash",
        ),
        Some(_) => Finding::wrong(
            Check::Kernel,
            format!("{release} is older than 5.3 and has no pidfd_open"),
            "use a newer kernel, best from 6.9 on",
        ),
    }
}

fn landlock() -> Finding {
    let known = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6];
    let has = |abi: &ABI| {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        rules.handle_access(AccessFs::from_all(*abi)).and_then(Ruleset::create).is_ok()
    };
    match known.iter().rfind(|abi| has(abi)) {
        Some(abi) => Finding::ok(Check::Landlock, format!("Landlock confines the worker's files ({abi:?} or later)")),
        None => Finding::note(
            Check::Landlock,
            "this kernel has no Landlock: the worker's files are confined by its user alone",
            "add landlock to the kernel's command line (lsm=landlock,…); it is there from 5.13 on",
        ),
    }
}

pub(super) fn seccomp(status: Option<&str>) -> Finding {
    match status.is_some_and(|status| status.lines().any(|line| line.starts_with("Seccomp:"))) {
        true => Finding::ok(Check::Seccomp, "seccomp filters the worker's system calls"),
        false => Finding::wrong(
            Check::Seccomp,
            "this kernel has no seccomp, without which no worker starts",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

/// From `kernel.unprivileged_userns_clone`, `kernel.apparmor_restrict_unprivileged_userns`,
/// `user.max_user_namespaces`, and whether AppArmor has a profile that lets bubblewrap make them.
pub(super) fn user_namespaces(
    clone: Option<&str>,
    apparmor: Option<&str>,
    max: Option<&str>,
    profile: bool,
) -> Finding {
    let is = |value: Option<&str>, wanted: &str| value.is_some_and(|value| value.trim() == wanted);
    let set = |name: &str, value: &str| {
        format!("sysctl -w {name}={value}, and write {name} = {value} to /etc/sysctl.d/60-mcpfs.conf")
    };
    let wrong = |found: &str, fix: String| Finding::wrong(Check::UserNamespaces, found, fix);
    if is(max, "0") {
        return wrong(
            "no user may make a namespace (user.max_user_namespaces = 0)",
            set("user.max_user_namespaces", "15000"),
        );
    }
    if is(clone, "0") {
        let name = "kernel.unprivileged_userns_clone";
        return wrong("users may not make namespaces (kernel.unprivileged_userns_clone = 0)", set(name, "1"));
    }
    if is(apparmor, "1") && !profile {
        return wrong(
            "AppArmor keeps programs from making namespaces (kernel.apparmor_restrict_unprivileged_userns = 1), and \
             bubblewrap has no profile that lets it",
            "install apparmor-profiles and link bwrap-userns-restrict into /etc/apparmor.d, then apparmor_parser -r it"
                .to_owned(),
        );
    }
    if max.is_none() {
        let fix = "use a kernel with CONFIG_USER_NS, or policy.sandbox = \"off\"";
        return wrong("this kernel has no user namespaces", fix.to_owned());
    }
    Finding::ok(Check::UserNamespaces, "users may make namespaces, as the sandbox does")
}

fn walls(bubblewrap: &Path) -> Finding {
    use std::os::unix::fs::PermissionsExt as _;
    match fs::metadata(bubblewrap) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o001 != 0 => match trial(bubblewrap) {
            Ok(()) => Finding::ok(Check::Bubblewrap, format!("{} makes a sandbox", bubblewrap.display())),
            Err(error) => Finding::wrong(
                Check::Bubblewrap,
                format!("{} makes no sandbox: {error}", bubblewrap.display()),
                "see user-namespaces above; in a container, give it the right to make namespaces and to mount /proc",
            ),
        },
        _ => Finding::wrong(
            Check::Bubblewrap,
            format!("{} is no program that everybody may start; the sandbox needs it", bubblewrap.display()),
            "install the package bubblewrap, or set bwrap under [runtimes]",
        ),
    }
}

/// A sandbox with the walls that the launcher gives to all, around a program that ends at once.
fn trial(bubblewrap: &Path) -> io::Result<()> {
    let mut command = Command::new(bubblewrap);
    command
        .args(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/proc/sys", "/proc/sys"])
        .args(["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--", "/bin/true"])
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if super::is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let mut child = command.spawn()?;
    let end = Instant::now() + TRIAL;
    let ended = loop {
        match child.try_wait()? {
            Some(ended) => break ended,
            None if Instant::now() > end => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::other(format!("it did not end within {} s", TRIAL.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if ended.success() {
        return Ok(());
    }
    // What it left open ends with its pipe's first kilobyte; its first line says why.
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(1024).read_to_string(&mut said)?;
    }
    match said.lines().next() {
        Some(line) => Err(io::Error::other(line.to_owned())),
        None => Err(io::Error::other(ended.to_string())),
    }
}

/// Of the daemon, as it says; none if that is not limited.
pub(super) fn open_files(limit: Option<u64>, orders: &Orders) -> Finding {
    match limit {
        Some(limit) if limit < DESCRIPTORS => Finding::wrong(
            Check::OpenFiles,
            format!(
                "at most {limit} files can be open at once, and where reads are cached every open file of a server is one"
            ),
            orders.open_files,
        ),
        Some(limit) => Finding::ok(Check::OpenFiles, format!("up to {limit} files can be open")),
        None => Finding::ok(Check::OpenFiles, "any number of files can be open"),
    }
}
