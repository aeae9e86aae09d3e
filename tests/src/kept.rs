//! What systemd's descriptor store does, by hand: holds the descriptors of a supervisor beyond its end, and hands
//! them to another one. So they can be other ones than they should be, and stay when systemd would let them go.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::scratch::need;

/// The names of a session's parts, as the supervisor stores them.
pub const NAMES: [&str; 5] = ["control", "backings", "counts", "session", "fuse"];

/// Takes the descriptors of another process, gives them the numbers from 3 on, and becomes the program.
const HAND_ON: &str = "import ctypes, fcntl, os, sys
libc = ctypes.CDLL(None, use_errno=True)
holder = os.pidfd_open(int(sys.argv[1]))
numbers = [int(number) for number in sys.argv[3].split(',')]
taken = [libc.syscall(438, holder, number, 0) for number in numbers]
if -1 in taken:
    sys.exit('pidfd_getfd: ' + os.strerror(ctypes.get_errno()))
taken = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in taken]
os.closerange(3, 100)
for place, fd in enumerate(taken):
    os.dup2(fd, 3 + place, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(taken)), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[4], sys.argv[4:])
";

/// Descriptors by the names that they are stored under.
#[derive(Debug)]
pub struct Kept(Vec<(&'static str, OwnedFd)>);

impl Kept {
    /// Everything that a supervisor's session is made of, taken while it runs.
    ///
    /// # Panics
    /// If it has no session.
    pub fn of(supervisor: u32, rundir: &Path) -> Self {
        let control = listening(&rundir.join("control.sock"));
        let memory = ["/memfd:mcpfs-backings", "/memfd:mcpfs-opens", "/memfd:mcpfs-session"];
        let memory = memory.map(|name| vec![format!("{name} (deleted)")]);
        let targets = [control].into_iter().chain(memory).chain([vec!["/dev/fuse".to_owned()]]);
        Self(NAMES.into_iter().zip(targets).map(|(name, targets)| (name, take(supervisor, &targets))).collect())
    }

    /// Puts another descriptor under one of the names.
    pub fn replace(&mut self, name: &str, with: OwnedFd) {
        let place = self.0.iter_mut().find(|(known, _)| *known == name);
        place.unwrap_or_else(|| panic!("nothing is called {name}")).1 = with;
    }

    /// Loses one.
    pub fn lose(&mut self, name: &str) {
        self.0.retain(|(known, _)| *known != name);
    }

    /// `program` with these descriptors, as systemd starts a service.
    pub fn hand_to(&self, program: &Path) -> Command {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        let numbers: Vec<String> = self.0.iter().map(|(_, fd)| fd.as_raw_fd().to_string()).collect();
        let mut command = Command::new(need("python3", "python3"));
        command.args(["-c", HAND_ON]).arg(std::process::id().to_string());
        command.arg(names.join(":")).arg(numbers.join(",")).arg(program);
        command
    }
}

/// The device of a supervisor's mount. As long as it is held, whoever asks the mount something waits.
///
/// # Panics
/// If it has none.
pub fn device(supervisor: u32) -> OwnedFd {
    take(supervisor, &["/dev/fuse".to_owned()])
}

/// One descriptor of a process, by what it may be.
fn take(process: u32, targets: &[String]) -> OwnedFd {
    let found = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs").find_map(|entry| {
        let entry = entry.ok()?;
        let link = entry.path().read_link().ok()?.to_string_lossy().into_owned();
        targets.contains(&link).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    });
    let number = found.unwrap_or_else(|| panic!("process {process} has none of {targets:?}"));
    let pid = Pid::from_raw(process.cast_signed()).expect("a process id");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).expect("root may")
}

/// The sockets that listen at a path, as links in /proc name them: one that is held after its path was given to another
/// has it still.
fn listening(at: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/unix").expect("procfs");
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listens = |fields: &Vec<&str>| {
        fields.get(3) == Some(&"00010000") && fields.get(7).map(OsStr::new) == Some(at.as_os_str())
    };
    lines.filter(listens).map(|fields| format!("socket:[{}]", fields[6])).collect()
}
