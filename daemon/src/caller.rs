//! Who asks: identity from /proc, as much as is known and nothing more.
//!
//! Only `stat`, `status`, `comm`, `exe`, `cgroup` and `loginuid` of a process are read:
//! command lines, environments and maps hold secrets and are none of the audit's business.
//! What cannot be read is `None`, and a process that ended and whose number was taken by
//! another while we looked is unknown altogether: the start time is read before and after.
//!
//! `host_app` is the name (`comm`) of the nearest ancestor that is neither a shell nor
//! something that only starts others ([`LAUNCHERS`]); process managers end the search. The
//! name and not the executable, since many MCP hosts are `node` and set their own name. A
//! process can choose its name: it is information for people, not proof; uids are proof.

mod names;
mod stat;

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, OnceLock};

use crate::worker::Link;
use names::user_name;
use stat::{Stat, read};

/// The person, process and place behind a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Caller {
    /// Real uid.
    pub user_id: Option<u32>,
    /// Its name in the host's user database.
    pub user_name: Option<String>,
    /// Login uid (loginuid of the audit subsystem): survives sudo and su.
    pub login_uid: Option<u32>,
    /// The uid the request carries (the file system uid).
    pub request_uid: Option<u32>,
    /// The gid the request carries.
    pub group_id: Option<u32>,
    /// Path of the executable, or the process's name if that cannot be read.
    pub process: Option<String>,
    /// Nearest ancestor that is not a shell or launcher.
    pub host_app: Option<String>,
    /// systemd unit (service or scope) from the control group.
    pub unit: Option<String>,
    /// Thread group id.
    pub pid: Option<u32>,
    /// When the process started: microseconds after the host's boot. With `pid` it names a process for good.
    pub pid_start_us: Option<u64>,
}

/// Ancestors that are passed over in the search for the host application.
pub const LAUNCHERS: [&str; 34] = [
    "sh",
    "bash",
    "dash",
    "zsh",
    "fish",
    "ksh",
    "mksh",
    "csh",
    "tcsh",
    "busybox",
    "env",
    "sudo",
    "su",
    "doas",
    "runuser",
    "setpriv",
    "timeout",
    "nice",
    "ionice",
    "nohup",
    "setsid",
    "stdbuf",
    "script",
    "xargs",
    "time",
    "strace",
    "npx",
    "npm",
    "uv",
    "uvx",
    "pipx",
    "mcpfs",
    "mcpfs-launch",
    "bwrap",
];

/// Ancestors above which no application can be: the search ends without one.
const ROOTS: [&str; 5] = ["systemd", "init", "(sd-pam)", "containerd-shim", "kthreadd"];

/// Ancestors looked at, at most.
const DEPTH: usize = 32;

impl Caller {
    /// The process `pid` (a thread's number will do) whose request carries `uid` and `gid`.
    /// A pid of 0 is a process outside our pid namespace: only the uid and gid are known.
    pub fn of(pid: u32, uid: u32, gid: u32) -> Self {
        let known = process("/proc", pid).unwrap_or_default();
        let user_id = known.user_id;
        // Without /proc the request's uid is all there is, and it is not the real uid.
        Self { request_uid: Some(uid), group_id: Some(gid), user_name: user_id.and_then(user_name), ..known }
    }

    /// The same, and of the process no more than which one it is and whose. Nothing if it is not to be seen.
    pub(crate) fn in_brief(pid: u32, uid: u32) -> Option<Self> {
        brief("/proc", pid).map(|(known, _)| Self { request_uid: Some(uid), ..known })
    }

    /// The daemon's own background work: user `mcpfs`.
    pub fn daemon() -> Self {
        let uid = rustix::process::getuid().as_raw();
        Self {
            user_id: Some(uid),
            user_name: Some("mcpfs".to_owned()),
            request_uid: Some(uid),
            group_id: Some(rustix::process::getgid().as_raw()),
            process: Some("mcpfs".to_owned()),
            pid: Some(std::process::id()),
            ..Self::default()
        }
    }

    /// Whose row budget this counts against: the login uid, which sudo and user namespaces
    /// do not change, else the real uid, else the request's.
    pub(crate) fn budget_uid(&self) -> Option<u32> {
        self.login_uid.or(self.user_id).or(self.request_uid)
    }
}

/// Of what `proc` says about a thread's process what is soonest read; or nothing if it is gone.
fn brief(proc: &str, pid: u32) -> Option<(Caller, Stat)> {
    if pid == 0 {
        return None;
    }
    let status = read(&format!("{proc}/{pid}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    let tgid: u32 = field("Tgid:")?.parse().ok()?;
    let stat = Stat::read(proc, tgid)?;
    let login = read(&format!("{proc}/{tgid}/loginuid")).and_then(|text| text.trim().parse().ok());
    let caller = Caller {
        user_id: field("Uid:").and_then(|uid| uid.parse().ok()),
        login_uid: login.filter(|&uid: &u32| uid != u32::MAX),
        pid: Some(tgid),
        pid_start_us: Some(stat.start_us()),
        ..Caller::default()
    };
    Some((caller, stat))
}

/// Reads what `proc` says about one process, or nothing if it is gone.
fn process(proc: &str, pid: u32) -> Option<Caller> {
    let (known, stat) = brief(proc, pid)?;
    let tgid = known.pid?;
    let base = format!("{proc}/{tgid}");
    let exe = executable(&base, tgid);
    let comm = read(&format!("{base}/comm")).map(|name| name.trim_end_matches('\n').to_owned());
    let caller = Caller {
        process: exe.or(comm).filter(|name| !name.is_empty()),
        host_app: host_app(proc, stat.parent),
        unit: read(&format!("{base}/cgroup")).and_then(|text| unit(&text)),
        ..known
    };
    // The number may have passed to another process while we read.
    (Stat::read(proc, tgid)?.start == stat.start).then_some(caller)
}

/// Who may look at the executables of others, if this process may not.
static SUPERVISOR: OnceLock<Arc<Link>> = OnceLock::new();

/// From now on the supervisor is asked what other users' processes run.
pub fn ask_supervisor(link: Arc<Link>) {
    // A second one would be the same.
    drop(SUPERVISOR.set(link));
}

fn executable(base: &str, pid: u32) -> Option<String> {
    let path = match fs::read_link(format!("{base}/exe")) {
        Ok(path) => path.into_os_string().into_vec(),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => SUPERVISOR.get()?.executable(pid)?,
        Err(_) => return None,
    };
    Some(String::from_utf8_lossy(&path).into_owned())
}

/// Climbs to the nearest ancestor that is an application.
fn host_app(proc: &str, mut pid: u32) -> Option<String> {
    for _ in 0..DEPTH {
        if pid <= 1 {
            return None;
        }
        let stat = Stat::read(proc, pid)?;
        // A login shell's name begins with a dash.
        let name = stat.comm.strip_prefix('-').unwrap_or(&stat.comm);
        if ROOTS.contains(&name) {
            return None;
        }
        if !LAUNCHERS.contains(&name) && !name.is_empty() {
            return Some(stat.comm);
        }
        pid = stat.parent;
    }
    None
}

/// A process and its ancestors, nearest first: numbers, and starts in microseconds after boot.
///
/// It ends at the top, after [`DEPTH`] of them, where one has ended, and where a number has
/// passed to another: `start_us` is not the start of `pid`, or a parent is younger than its child.
pub(crate) fn lineage(proc: &str, pid: u32, start_us: u64) -> impl Iterator<Item = (u32, u64)> {
    let first = Stat::read(proc, pid).filter(|stat| stat.start_us() == start_us).map(|stat| (pid, stat));
    let parent = move |(_, child): &(u32, Stat)| {
        let stat = Stat::read(proc, child.parent).filter(|stat| stat.start <= child.start)?;
        Some((child.parent, stat))
    };
    std::iter::successors(first, parent).take(DEPTH).map(|(pid, stat)| (pid, stat.start_us()))
}

/// When process `pid` began, microseconds after boot; `None` if there is none.
pub(crate) fn start_us(proc: &str, pid: u32) -> Option<u64> {
    Some(Stat::read(proc, pid)?.start_us())
}

/// Whether a thread is one that the kernel made for its process's io_uring; `None` if there is none.
pub(crate) fn is_io_worker(proc: &str, tid: u32) -> Option<bool> {
    const PF_IO_WORKER: u32 = 0x10;
    Some(Stat::read(proc, tid)?.flags & PF_IO_WORKER != 0)
}

/// The innermost service or scope of the process's control group (v2, else systemd's own v1 hierarchy).
fn unit(cgroup: &str) -> Option<String> {
    let path = |prefix: &str| cgroup.lines().find_map(|line| line.split_once(prefix).map(|(_, path)| path));
    let of = |path: &str| {
        path.rsplit('/').find(|part| part.ends_with(".service") || part.ends_with(".scope")).map(str::to_owned)
    };
    path("0::/").and_then(of).or_else(|| path(":name=systemd:/").and_then(of))
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::path::Path;

    /// Makes /proc of one process; `start` in clock ticks.
    pub(crate) fn fake(root: &Path, pid: u32, comm: &str, parent: u32, start: u64) {
        let dir = root.join(pid.to_string());
        fs::create_dir_all(&dir).unwrap();
        let zeros = "0 ".repeat(17);
        fs::write(dir.join("stat"), format!("{pid} ({comm}) S {parent} {zeros}{start} 0 0\n")).unwrap();
        fs::write(dir.join("status"), format!("Name:\tx\nTgid:\t{pid}\nUid:\t1000\t0\t0\t0\n")).unwrap();
        fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
    }

    #[test]
    fn host_application_is_behind_shells_and_launchers() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        fake(proc, 1, "systemd", 0, 1);
        fake(proc, 10, "systemd", 1, 2);
        fake(proc, 20, "claude", 10, 3);
        fake(proc, 21, "-bash", 20, 4);
        fake(proc, 22, "sudo", 21, 5);
        fake(proc, 23, "node", 22, 600);
        fake(proc, 30, "bash", 10, 7);
        fake(proc, 31, "node", 30, 8);
        fs::write(proc.join("23/loginuid"), "1007").unwrap();
        fs::write(proc.join("31/loginuid"), "4294967295").unwrap();
        fs::write(
            proc.join("23/cgroup"),
            "1:name=systemd:/x.scope\n0::/user.slice/user@7.service/app-claude.scope/y\n",
        )
        .unwrap();
        let text = proc.to_str().unwrap();
        let caller = process(text, 23).unwrap();
        assert_eq!(caller.host_app.as_deref(), Some("claude"));
        assert_eq!(caller.unit.as_deref(), Some("app-claude.scope"));
        assert_eq!((caller.user_id, caller.login_uid), (Some(1000), Some(1007)));
        assert_eq!((caller.pid, caller.pid_start_us), (Some(23), Some(6_000_000)));
        assert_eq!(caller.process.as_deref(), Some("node"));
        // Nothing but shells below the process manager; no login; no cgroup.
        let other = process(text, 31).unwrap();
        assert_eq!((other.host_app, other.login_uid, other.unit), (None, None, None));
        assert_eq!(process(text, 99), None);
        // A parent that names itself does not make us turn for ever.
        fake(proc, 40, "sh", 40, 9);
        assert_eq!(process(text, 40).unwrap().host_app, None);
    }

    #[test]
    fn units() {
        assert_eq!(unit("0::/system.slice/sshd.service\n").as_deref(), Some("sshd.service"));
        assert_eq!(unit("9:name=systemd:/user.slice/session-3.scope\n0::/\n").as_deref(), Some("session-3.scope"));
        assert_eq!(unit("0::/\n"), None);
        assert_eq!(unit("nonsense"), None);
    }

    #[test]
    fn ourselves_and_nobody() {
        let me = Caller::of(std::process::id(), 5, 6);
        assert_eq!(me.user_id, Some(rustix::process::getuid().as_raw()));
        assert_eq!((me.request_uid, me.group_id), (Some(5), Some(6)));
        assert!(me.process.as_deref().is_some_and(|exe| exe.starts_with('/')), "{me:?}");
        assert!(me.pid_start_us.is_some());
        // A thread's number gives its process.
        let thread = std::thread::spawn(|| Caller::of(rustix::thread::gettid().as_raw_nonzero().get() as u32, 5, 6));
        assert_eq!(thread.join().unwrap(), me);
        let tid = || rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let brief = std::thread::spawn(move || Caller::in_brief(tid(), 5)).join().unwrap().unwrap();
        assert_eq!(
            (brief.pid, brief.pid_start_us, brief.budget_uid()),
            (me.pid, me.pid_start_us, me.budget_uid()),
            "as much as tells whose it is"
        );
        assert_eq!([0, u32::MAX].map(|nobody| Caller::in_brief(nobody, 5)), [None, None]);
        let nobody = Caller::of(0, 5, 6);
        assert_eq!(nobody, Caller { request_uid: Some(5), group_id: Some(6), ..Caller::default() });
        assert_eq!(Caller::of(u32::MAX, 5, 6), nobody);
    }
}
