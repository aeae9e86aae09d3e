//! Whoever kills a run of the tests finds nothing of it afterwards: no server, no daemon, no mount, no file.
//!
//! Parts are ended when their values are dropped, and a run that is killed drops nothing. Asking
//! the kernel for a signal at the death of the parent is not enough: that does not pass through a
//! fork, and so misses the children of nginx and fcgiwrap and whatever detaches itself.
//!
//! So a program that uses parts does its work as the child of a guard, whom the kernel gives every
//! orphan below it (a subreaper). When the run has ended, however that was, the guard ends what is
//! left, takes the run's directories away and goes with the run's own exit code. It has a session of
//! its own, out of reach of what a terminal sends, and hears of the end of whoever was started first
//! by a pipe that closes.
//!
//! ```text
//! started ──pipe──► guard ──► run ──► parts
//! ```

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, getppid, kill_process, pidfd_open, pidfd_send_signal,
    set_child_subreaper, set_parent_process_death_signal, setsid, wait,
};

use crate::mount;

/// Says to the program, started once more, which of the three it is.
const ROLE: &str = "MCPFS_TESTS_ROLE";

/// What the names of this run's directories have in common.
static MARK: OnceLock<String> = OnceLock::new();

/// How long what is left has to end by itself, as daemons that unmount do, before it is killed.
const GRACE: Duration = Duration::from_secs(30);

/// Does `work` in a process whose descendants do not outlive it. To be called before there are threads.
///
/// # Panics
/// If this program cannot be started once more.
pub fn run(work: impl FnOnce() -> ExitCode) -> ExitCode {
    let role = std::env::var(ROLE).unwrap_or_default();
    if role == "guard" {
        return guard();
    }
    // A demo that a test starts has the variable as well, and another parent.
    if let Some(mark) = role.strip_prefix(&format!("run of {} ", Pid::as_raw(getppid()))) {
        MARK.set(mark.to_owned()).expect("called once");
        set_parent_process_death_signal(Some(Signal::KILL)).expect("it is a signal");
        return work();
    }
    let mut guard = again("guard").stdin(Stdio::piped()).spawn().expect("this program can be started");
    // Open until this process ends: waiting for a child would close it.
    let _held = guard.stdin.take();
    let status = guard.wait().expect("own child");
    exit_code(status.code(), status.signal())
}

/// How the names of directories begin that go with this run.
pub(crate) fn prefix() -> String {
    MARK.get().map_or("mf-".to_owned(), |mark| format!("mf-{mark}-"))
}

fn guard() -> ExitCode {
    setsid().expect("a child leads no group");
    set_child_subreaper(Some(getpid())).expect("every kernel of today can");
    let mark = format!("{:06x}", RandomState::new().hash_one(()) & 0xff_ffff);
    let run = again(&format!("run of {} {mark}", getpid())).stdin(Stdio::null()).spawn();
    let run = Pid::from_child(&run.expect("this program can be started"));
    let handle = pidfd_open(run, PidfdFlags::empty()).expect("own child, not waited for yet");
    std::thread::spawn(move || {
        // Nobody writes: it ends with whoever was started first.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        // It may have ended by itself.
        let _gone = pidfd_send_signal(handle, Signal::KILL);
    });
    let ended = loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == run => break status,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("cannot wait for the run: {error}"),
        }
    };
    end_what_is_left();
    remove_what_is_left(&format!("mf-{mark}-"));
    exit_code(ended.exit_status(), ended.terminating_signal())
}

/// Ends all descendants: those of one that ends become children of this process.
fn end_what_is_left() {
    let since = Instant::now();
    let mut told = HashSet::new();
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(None) => {}
            Ok(Some(_)) | Err(Errno::INTR) => continue,
            Err(_none) => return,
        }
        let late = since.elapsed() > GRACE;
        for pid in children() {
            if told.insert((pid, late)) {
                // Either fails only for one that is gone. What is stopped hears nothing until it goes on.
                let _gone = kill_process(pid, if late { Signal::KILL } else { Signal::TERM });
                let _gone = kill_process(pid, Signal::CONT);
            }
        }
        if since.elapsed() > 2 * GRACE {
            eprintln!("processes of this run do not end: {:?}", children());
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Removes directories whose names begin like this, but never what is mounted in one of them.
fn remove_what_is_left(prefix: &str) {
    let dirs = std::fs::read_dir("/tmp").into_iter().flatten().flatten();
    for dir in dirs.filter(|dir| dir.file_name().as_encoded_bytes().starts_with(prefix.as_bytes())) {
        let detached = mount::mounts_below(&dir.path()).iter().rev().try_for_each(|at| mount::detach(at));
        let removed = detached.and_then(|()| std::fs::remove_dir_all(dir.path()).map_err(|error| error.to_string()));
        if let Err(problem) = removed {
            eprintln!("{} stays behind: {problem}", dir.path().display());
        }
    }
}

fn children() -> Vec<Pid> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split(' ').filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect::<Vec<_>>())
        .collect()
}

fn again(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program has a file"));
    command.args(std::env::args_os().skip(1)).env(ROLE, role);
    command
}

/// As a shell says it.
fn exit_code(code: Option<i32>, signal: Option<i32>) -> ExitCode {
    let code = code.or(signal.map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
