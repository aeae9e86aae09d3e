//! Where npm, pip and git run: a folder of its own, a clean environment, and a sandbox.
//!
//! These are the operator's own programs, and install scripts are off; but what they read comes
//! from a registry or a forge. In the sandbox (bubblewrap) they see the system's programs
//! read-only, their own folder, and the network only while they fetch: no home, no keys, no
//! other processes. Where it cannot be made the work is refused, unless the operator said
//! `--no-sandbox`. Time, the size of files and of the folder, and what is read back are bounded
//! either way; output goes to files and not through pipes, so that it has these bounds too.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// What of a tool's complaint is shown, bytes.
const SAID: u64 = 4 << 10;
/// How often a running tool's folder is measured.
const MEASURED: Duration = Duration::from_secs(1);
/// Most files a tool may leave: a tree's own bound.
const FILES: usize = mcpfs_trust::limits::TREE_NODES;

/// A folder in which tools work; gone on drop.
#[derive(Debug)]
pub(crate) struct Workshop {
    folder: tempfile::TempDir,
    sandbox: Option<PathBuf>,
    deadline: Instant,
    limit: u64,
}

/// A program, and what it must see besides the system's own folders.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// As people call it.
    pub(crate) name: &'static str,
    /// What is started: a path, and arguments that are always there.
    pub(crate) start: Vec<OsString>,
    /// Further folders and files to see, read-only.
    pub(crate) sees: Vec<PathBuf>,
}

/// One run of a program.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) program: &'a Program,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) variables: Vec<(&'static str, OsString)>,
    /// Where it starts; below the workshop.
    pub(crate) folder: &'a Path,
    pub(crate) input: Option<File>,
    pub(crate) network: bool,
}

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum ToolError {
    #[error("{program} is not installed here (Debian: apt-get install {package})")]
    Missing { program: &'static str, package: &'static str },
    #[error(
        "the sandbox cannot be made: {0}; install bubblewrap and allow user namespaces (the signing server's unit: \
         sandboxes.conf), or say --no-sandbox to run npm, pip and git without one"
    )]
    Sandbox(String),
    #[error("{tool} failed: {said}")]
    Failed { tool: &'static str, said: String },
    #[error("{tool} was not done in time")]
    TooSlow { tool: &'static str },
    #[error("{tool} wrote more than {limit} bytes or more files than a tree may have")]
    TooLarge { tool: &'static str, limit: u64 },
    #[error("{path}: cannot read or write it")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Workshop {
    /// An empty workshop, after a look whether its sandbox works.
    pub(crate) fn new(sandboxed: bool, limit: u64, time: Duration) -> Result<Self, ToolError> {
        let folder = tempfile::Builder::new().prefix("mcpfs-bundle-").tempdir();
        let folder = folder.map_err(at(&std::env::temp_dir()))?;
        let mut workshop = Self { folder, sandbox: None, deadline: Instant::now() + time, limit };
        for name in ["home", "tmp", "out"] {
            workshop.make(name)?;
        }
        if sandboxed {
            let bwrap = find("bwrap").ok_or_else(|| ToolError::Sandbox("bwrap is not there".to_owned()))?;
            workshop.sandbox = Some(bwrap);
            let nothing = Program { name: "bwrap", start: vec!["true".into()], sees: Vec::new() };
            let folder = workshop.path("tmp");
            workshop.run(Job::new(&nothing, &folder)).map_err(|error| match error {
                ToolError::Failed { said, .. } => ToolError::Sandbox(said),
                other => other,
            })?;
        }
        Ok(workshop)
    }

    /// A path in the workshop.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a new folder in the workshop.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf, ToolError> {
        let path = self.path(name);
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(at(&path))?;
        Ok(path)
    }

    /// Runs a job to its end; what it printed is read from the file that comes back.
    pub(crate) fn run(&self, job: Job<'_>) -> Result<File, ToolError> {
        let tool = job.program.name;
        let out = tempfile::tempfile_in(self.path("out")).map_err(at(&self.path("out")))?;
        let errors = tempfile::tempfile_in(self.path("out")).map_err(at(&self.path("out")))?;
        let copy = |file: &File| file.try_clone().map_err(at(&self.path("out")));
        let mut command = self.command(&job);
        command.stdout(copy(&out)?).stderr(copy(&errors)?).process_group(0);
        command.stdin(job.input.map_or_else(Stdio::null, Stdio::from));
        tracing::debug!(tool, ?command, "runs");
        let mut child = command.spawn().map_err(at(Path::new(command.get_program())))?;
        let ended = self.wait(tool, &mut child);
        if ended.is_err() {
            if let Some(group) = Pid::from_raw(child.id() as i32) {
                // It may have ended by itself.
                let _gone = kill_process_group(group, Signal::KILL);
            }
            let _reaped = child.wait();
        }
        let (status, mut out) = (ended?, out);
        self.measure(tool)?;
        if !status.success() {
            return Err(ToolError::Failed { tool, said: said(status, errors, copy(&out)?) });
        }
        out.rewind().map_err(at(&self.path("out")))?;
        Ok(out)
    }

    /// What a job printed, of at most `limit` bytes.
    pub(crate) fn read(&self, job: Job<'_>, limit: u64) -> Result<Vec<u8>, ToolError> {
        let tool = job.program.name;
        let mut bytes = Vec::new();
        let out = self.run(job)?;
        out.take(limit + 1).read_to_end(&mut bytes).map_err(at(&self.path("out")))?;
        match bytes.len() as u64 > limit {
            true => Err(ToolError::TooLarge { tool, limit }),
            false => Ok(bytes),
        }
    }

    /// Waits by the process's descriptor, and looks now and then what it has written.
    fn wait(&self, tool: &'static str, child: &mut Child) -> Result<ExitStatus, ToolError> {
        let broken = at(Path::new(tool));
        let process = match Pid::from_raw(child.id() as i32).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(process)) => process,
            Some(Err(error)) => return Err(broken(error.into())),
            None => return Err(broken(io::ErrorKind::NotFound.into())),
        };
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now()).min(MEASURED);
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
                Ok(0) if Instant::now() >= self.deadline => return Err(ToolError::TooSlow { tool }),
                Ok(0) => self.measure(tool)?,
                Ok(_) => return child.wait().map_err(broken),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(broken(error.into())),
            }
        }
    }

    /// Refuses a folder that has outgrown its bounds.
    fn measure(&self, tool: &'static str) -> Result<(), ToolError> {
        // Cache and result, and once more: the bundle's own bound is that of an artefact.
        let limit = self.limit.saturating_mul(4);
        let (mut bytes, mut files, mut folders) = (0_u64, 0, vec![self.folder.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            // What vanishes meanwhile takes no room.
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                files += 1;
                bytes = bytes.saturating_add(metadata.len());
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
            }
            if bytes > limit || files > FILES {
                return Err(ToolError::TooLarge { tool, limit });
            }
        }
        Ok(())
    }

    fn command(&self, job: &Job<'_>) -> Command {
        // The shell sets what a child cannot set for itself; its own words are fixed.
        let shell = format!("umask 022 && ulimit -f {} && exec \"$0\" \"$@\"", self.limit / 512 + 1);
        let mut command = match &self.sandbox {
            None => Command::new("/bin/sh"),
            Some(bwrap) => {
                let mut command = Command::new(bwrap);
                self.enclose(job, &mut command);
                command.args(["--", "/bin/sh"]);
                command
            }
        };
        command.env_clear().current_dir(job.folder);
        for (name, value) in self.variables(job) {
            command.env(name, value);
        }
        command.args(["-c", &shell]).args(&job.program.start).args(&job.arguments);
        command
    }

    fn variables(&self, job: &Job<'_>) -> Vec<(&'static str, OsString)> {
        let mut variables = vec![
            ("PATH", OsString::from("/usr/local/bin:/usr/bin:/bin")),
            ("HOME", self.path("home").into()),
            ("TMPDIR", self.path("tmp").into()),
            ("LANG", "C.UTF-8".into()),
            ("TZ", "UTC".into()),
        ];
        variables.extend(job.variables.iter().cloned());
        variables
    }

    /// The sandbox's own arguments.
    fn enclose(&self, job: &Job<'_>, command: &mut Command) {
        command.args(["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
        if job.network {
            command.arg("--share-net");
        }
        for folder in ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"] {
            match fs::read_link(folder) {
                Ok(target) => command.arg("--symlink").arg(target).arg(folder),
                Err(_) => command.args(["--ro-bind-try", folder, folder]),
            };
        }
        for name in SYSTEM_FILES {
            let path = Path::new("/etc").join(name);
            // Followed: resolv.conf often leads into /run.
            if let Ok(real) = path.canonicalize() {
                command.arg("--ro-bind-try").arg(real).arg(path);
            }
        }
        // Without capabilities root may still write the host's settings in /proc/sys.
        command.args(["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev", "--tmpfs", "/tmp"]);
        for path in &job.program.sees {
            command.arg("--ro-bind").arg(path).arg(path);
        }
        command.arg("--bind").arg(self.folder.path()).arg(self.folder.path());
        command.arg("--chdir").arg(job.folder);
    }
}

/// What of /etc a program needs to find hosts, authorities, libraries and its own settings.
const SYSTEM_FILES: &[&str] = &[
    "ssl",
    "pki",
    "ca-certificates",
    "resolv.conf",
    "hosts",
    "nsswitch.conf",
    "host.conf",
    "gai.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "passwd",
    "group",
    "localtime",
    "pip.conf",
    "npmrc",
];

impl<'a> Job<'a> {
    /// A job without arguments, input or network.
    pub(crate) fn new(program: &'a Program, folder: &'a Path) -> Self {
        Self { program, arguments: Vec::new(), variables: Vec::new(), folder, input: None, network: false }
    }

    pub(crate) fn arguments<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub(crate) fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub(crate) fn network(mut self, network: bool) -> Self {
        self.network = network;
        self
    }
}

impl Program {
    /// The program `name`, found by this process's own PATH.
    pub(crate) fn find(name: &'static str, package: &'static str) -> Result<Self, ToolError> {
        let path = find(name).ok_or(ToolError::Missing { program: name, package })?;
        let sees = installed_in(&path);
        Ok(Self { name, start: vec![path.into()], sees })
    }
}

/// The real file behind `name` in this process's PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let files = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(name));
    files.filter(|file| file.is_file()).find_map(|file| file.canonicalize().ok())
}

/// The folder that a program outside the system's own was installed to.
pub(crate) fn installed_in(program: &Path) -> Vec<PathBuf> {
    let system = ["/usr", "/bin", "/sbin", "/lib"].iter().any(|folder| program.starts_with(folder));
    let prefix = program.parent().and_then(Path::parent).filter(|prefix| prefix.parent().is_some());
    prefix.filter(|_| !system).map(Path::to_owned).into_iter().collect()
}

/// The end of what a failed tool wrote, in one line.
fn said(status: ExitStatus, errors: File, out: File) -> String {
    let tail = |mut file: File| {
        let mut bytes = Vec::new();
        let start = file.seek(io::SeekFrom::End(0)).map_or(0, |end| end.saturating_sub(SAID));
        let read = file.seek(io::SeekFrom::Start(start)).and_then(|_| file.take(SAID).read_to_end(&mut bytes));
        read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = Some(tail(errors)).filter(|text| !text.trim().is_empty()).unwrap_or_else(|| tail(out));
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(8)..].join("; ");
    match last.is_empty() {
        true => status.to_string(),
        false => mcpfs_trust::text::visible(&last),
    }
}

pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> ToolError + use<> {
    let path = path.to_owned();
    move |source| ToolError::Io { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn shell() -> Program {
        Program { name: "sh", start: vec!["/bin/sh".into(), "-c".into()], sees: Vec::new() }
    }

    fn run(workshop: &Workshop, text: &str) -> Result<String, ToolError> {
        let (shell, folder) = (shell(), workshop.path("tmp"));
        let bytes = workshop.read(Job::new(&shell, &folder).arguments([text]), 1 << 20)?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_environment_is_clean_and_the_place_its_own() {
        let workshop = Workshop::new(false, 1 << 20, Duration::from_secs(60)).unwrap();
        let said = run(&workshop, "env | cut -d= -f1 | sort | tr '\\n' ' '; umask; pwd").unwrap();
        let tmp = workshop.path("tmp");
        assert_eq!(said, format!("HOME LANG PATH PWD TMPDIR TZ 0022\n{}\n", tmp.display()));
    }

    #[test]
    fn failures_say_what_the_tool_said() {
        let workshop = Workshop::new(false, 1 << 20, Duration::from_secs(60)).unwrap();
        let error = run(&workshop, "echo one; echo two >&2; exit 3").unwrap_err();
        assert_eq!(error.to_string(), "sh failed: two");
        let error = run(&workshop, "exit 3").unwrap_err();
        assert_eq!(error.to_string(), "sh failed: exit status: 3");
    }

    #[test]
    fn time_files_and_output_are_bounded() {
        let workshop = Workshop::new(false, 64 << 10, Duration::from_secs(60)).unwrap();
        assert!(run(&workshop, "head -c 100000 /dev/zero > one").is_err());
        let many = "for n in 1 2 3 4 5 6; do head -c 60000 /dev/zero > $n; done";
        assert!(matches!(run(&workshop, many), Err(ToolError::TooLarge { .. })));
        let workshop = Workshop::new(false, 1 << 20, Duration::from_millis(100)).unwrap();
        assert!(matches!(run(&workshop, "sleep 600"), Err(ToolError::TooSlow { .. })));
    }
}
