//! A machine: real systemd, booted in namespaces of its own.
//!
//! Its root is a Debian of this machine's own release, made once below `target/e2e-cache` from the
//! mirror that apt is configured with, and only read; what a machine writes lies in a directory of
//! its own. Nothing is seen outside but a group of cgroup2, which is made for it. All of it ends with
//! this value, also when a test panics, and with the test's thread if even that is missed.
//!
//! Only for root: an ordinary user cannot mount what a machine needs.

mod network;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::command::{Ran, Run, exit_within, fetch};
use crate::scratch::{self, PATIENCE, need, repository, wait_for};

/// What is in every root beyond Debian's smallest.
const PACKAGES: &[&str] = &["systemd", "systemd-sysv", "dbus", "procps", "util-linux", "nginx-light"];
/// How long Debian's mirror may take to give a root.
const LIMIT: Duration = Duration::from_secs(1200);

/// A booted machine.
#[derive(Debug)]
pub struct Machine {
    outer: Child,
    /// Its first process, as this machine numbers it.
    init: u32,
    group: Group,
    dir: tempfile::TempDir,
}

impl Machine {
    /// Boots one; `fill` may add files to its root first.
    ///
    /// # Panics
    /// If it does not come up, with what it said.
    pub fn boot(fill: impl FnOnce(&Path)) -> Self {
        Self::boot_with(&[], fill)
    }

    /// The same with more Debian packages in it.
    ///
    /// # Panics
    /// As [`Self::boot`].
    pub fn boot_with(packages: &[&str], fill: impl FnOnce(&Path)) -> Self {
        let base = base(packages);
        let dir = scratch::dir();
        for part in ["upper", "work", "root", "cache"] {
            fs::create_dir(dir.path().join(part)).expect("own directory");
        }
        fill(&dir.path().join("upper"));
        let group = Group::make();
        let console = File::create(dir.path().join("console")).expect("own directory");
        // The shell joins the group, and all that follows is its child.
        let outer = Command::new("sh")
            .args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&group.path)
            .arg(need("setpriv", "util-linux"))
            .args(["--pdeathsig", "KILL"])
            .arg(need("unshare", "util-linux"))
            .args(["--fork", "--kill-child", "--propagation", "private"])
            .args(["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net"])
            .arg(repository().join("tests/machine/boot"))
            .arg(base)
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("own file"))
            .stderr(console)
            .spawn()
            .expect("cannot start sh");
        let mut machine = Self { outer, init: 0, group, dir };
        machine.init = wait_for("the machine's first process", || {
            let ended = machine.outer.try_wait().expect("own child");
            assert!(ended.is_none(), "the machine did not boot: {}", machine.console());
            let children = format!("/proc/{0}/task/{0}/children", machine.outer.id());
            fs::read_to_string(children).ok()?.split_whitespace().next()?.parse().ok()
        });
        let up = || {
            let ended = machine.outer.try_wait().expect("own child");
            assert!(ended.is_none(), "the machine ended: {}", machine.console());
            // Before systemd runs this asks nobody, and says so.
            let booted = fs::read_to_string(format!("/proc/{}/comm", machine.init)).ok()?.trim() == "systemd";
            let state = booted.then(|| inside(machine.init, "systemctl").arg("is-system-running").run().stdout)?;
            ["running", "degraded"].contains(&state.trim()).then_some(())
        };
        wait_for("the machine to boot", up);
        machine
    }

    /// A program in the machine, as its root.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Run {
        inside(self.init, program).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root")
    }

    /// A shell script in the machine.
    pub fn sh(&self, script: &str) -> Run {
        self.run("sh").args(["-euc", script])
    }

    /// `systemctl` with these arguments, which must succeed.
    pub fn systemctl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.run("systemctl").args(args).ok()
    }

    /// A program in the machine for the caller to start.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(need("nsenter", "util-linux"));
        command.args(enter(self.init)).arg(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command
    }

    /// A path of the machine as this process reaches it.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init)).join(inside.trim_start_matches('/'))
    }

    /// Takes away what keeps the machine from settings of the kernel, which systemd makes while it boots: only who
    /// sees the whole of /proc may mount one in a namespace of its own, as on any other machine.
    pub fn sees_the_whole_of_proc(&self) {
        self.sh("for part in sys sysrq-trigger irq bus fs; do ! [ -e /proc/$part ] || umount --lazy /proc/$part; done")
            .ok();
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(["show", "--value", "--property", name, unit]).stdout.trim().to_owned()
    }

    /// What a unit wrote, and systemd about it.
    pub fn journal(&self, unit: &str) -> String {
        self.run("journalctl").arg("--sync").ok();
        self.run("journalctl").args(["--no-pager", "--output", "short-monotonic", "--unit", unit]).run().stdout
    }

    /// The mounts at exactly `path`: their ids, the one on top last.
    pub fn mounts_at(&self, path: &str) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.init)).expect("the machine runs");
        let at = |line: &&str| line.split(' ').nth(4) == Some(path);
        table.lines().filter(at).filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    }

    /// The machine's number of a process as this machine numbers it.
    ///
    /// # Panics
    /// If there is none.
    pub fn outside(&self, pid: u32) -> u32 {
        let processes = fs::read_dir("/proc").expect("procfs");
        let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let here = fs::read_link(format!("/proc/{}/ns/pid", self.init)).expect("the machine runs");
        let mut found = numbers.filter(|number| {
            let known = fs::read_link(format!("/proc/{number}/ns/pid")).is_ok_and(|namespace| namespace == here);
            let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
            let names = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            known && names.split_whitespace().next_back() == Some(&pid.to_string())
        });
        found.next().unwrap_or_else(|| panic!("the machine has no process {pid}"))
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            eprintln!("--- the machine's console\n{}", self.console());
        }
        // With its first process all others of a machine end, and unshare then, which has waited for it.
        match Pid::from_raw(self.init.cast_signed()) {
            Some(init) => drop(kill_process(init, Signal::KILL)),
            None => drop(self.outer.kill()),
        }
        let ended = exit_within(&mut self.outer, PATIENCE).is_some();
        if !ended {
            drop(self.outer.kill());
        }
        let gone = self.group.remove();
        if !std::thread::panicking() {
            assert!(ended && gone, "the machine did not end: {}", self.console());
        }
    }
}

fn enter(init: u32) -> Vec<String> {
    let namespaces = ["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net"].map(str::to_owned);
    let target = ["--target".to_owned(), init.to_string()];
    let root = ["--root", "--wd"].map(|place| format!("{place}=/proc/{init}/root"));
    target.into_iter().chain(namespaces).chain(root).chain(["--".to_owned()]).collect()
}

fn inside(init: u32, program: impl AsRef<OsStr>) -> Run {
    Run::new(need("nsenter", "util-linux")).args(enter(init)).arg(program)
}

/// A group of cgroup2 below this process's own; removed with the machine.
#[derive(Debug)]
struct Group {
    path: PathBuf,
}

impl Group {
    fn make() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let above = own_group();
        // What a run that was killed has left; a group that is in use cannot be removed.
        for left in fs::read_dir(&above).expect("cgroup2").flatten() {
            let name = left.file_name().to_string_lossy().into_owned();
            let of = name.strip_prefix("mcpfs-tests-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if of.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                drop(remove_tree(&left.path()));
            }
        }
        let name = format!("mcpfs-tests-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = above.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self { path }
    }

    /// Whether it went. The kernel takes a moment to see that its last process is gone.
    fn remove(&self) -> bool {
        drop(fs::write(self.path.join("cgroup.kill"), "1"));
        (0..2000).any(|_| {
            let gone = remove_tree(&self.path).is_ok();
            if !gone {
                std::thread::sleep(Duration::from_millis(10));
            }
            gone
        })
    }
}

fn remove_tree(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// This process's group in the hierarchy of cgroup2, wherever that is mounted.
fn own_group() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let mounted = table.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let mounted = mounted.expect("a machine needs cgroup2, which is not mounted here");
    let groups = fs::read_to_string("/proc/self/cgroup").expect("procfs");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).expect("every process is in a group of cgroup2");
    Path::new(mounted).join(own.trim_start_matches('/'))
}

/// The root that machines with these packages read, made by the first that wants it.
fn base(more: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let release = fs::read_to_string("/etc/os-release").expect("os-release");
    let release = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let release = release.expect("a machine's root is made with Debian's tools, on Debian").trim_matches('"');
    let packages = [PACKAGES, more].concat().join(",");
    let wanted = mcpfs_trust::digest::Digest::of(packages.as_bytes()).short();
    let cache = repository().join("target/e2e-cache");
    let done = cache.join(format!("machine-{release}-{wanted}"));
    if !done.is_dir() {
        eprintln!("making a machine's root from Debian {release}");
        let building = cache.join(format!("machine-building-{}", std::process::id()));
        fs::create_dir_all(&cache).expect("own directory");
        fetch(|| {
            // What an attempt before this one has left.
            let _ = fs::remove_dir_all(&building);
            Run::new(need("mmdebstrap", "mmdebstrap"))
                .args(["--quiet", "--mode=root", "--variant=minbase"])
                .args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=path-exclude=/usr/share/doc/*"])
                .args(["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"])
                .arg(format!("--include={packages}"))
                .arg(release)
                .arg(&building)
                .arg("-")
                .stdin(sources())
                .limit(LIMIT)
        });
        if let Err(error) = fs::rename(&building, &done) {
            // Another run on this machine may have been quicker.
            assert!(done.is_dir(), "{}: {error}", done.display());
            fs::remove_dir_all(&building).expect("own directory");
        }
    }
    done
}

/// Where apt gets Debian from on this machine.
fn sources() -> String {
    let targets = || {
        let format = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)";
        let of = ["--format", format, "Origin: Debian", "Created-By: Packages"];
        let ran = Run::new(need("apt-get", "apt")).arg("indextargets").args(of).ok();
        let mut lines: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        lines.join("\n")
    };
    match targets() {
        // A machine whose lists were never fetched.
        none if none.is_empty() => {
            Run::new(need("apt-get", "apt")).arg("update").limit(LIMIT).ok();
            targets()
        }
        lines => lines,
    }
}
