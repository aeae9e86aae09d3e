//! A server in its sandbox, the two threads that watch it, and its end.
//!
//! One thread reads what the tracer writes, one counts processes and memory. Either may find that
//! it is too much; then the conversation stops and everything is ended. The end is one signal: when
//! the tracer goes, bubblewrap goes with its parent, and with bubblewrap's first process the kernel
//! ends everything in its process namespace.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::client::Process;
use super::events::{Misread, Reader};
use super::observe::{View, Watch};
use super::said::Trouble;

/// Processes of one server.
const PROCESSES: usize = 128;
/// Memory of one server, bytes.
const MEMORY: u64 = 2 << 30;
/// Lines that the tracer may write.
const LINES: u64 = 2_000_000;
/// Longest line of the tracer, bytes.
const LINE: usize = 1 << 20;
/// How long the end of everything may take once it is asked for.
const END: Duration = Duration::from_secs(20);

/// What was too much, if anything was.
pub(crate) type Limit = Arc<Mutex<Option<Trouble>>>;

/// A running server.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    /// An end to write to, so that the reader need not wait for the tracer's; without it there is nothing to read.
    writer: Option<OwnedFd>,
    limit: Limit,
    done: Arc<AtomicBool>,
    reader: Option<JoinHandle<Read>>,
    watcher: Option<JoinHandle<()>>,
}

type Read = (Watch, Option<Misread>);

/// What is left of a server.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) observed: Watch,
    pub(super) misread: Option<String>,
    pub(super) limit: Option<Trouble>,
}

impl Running {
    pub(super) fn watch(child: Child, pipe: &Path, view: View) -> Self {
        let limit = Limit::default();
        let done = Arc::new(AtomicBool::new(false));
        let (source, writer) = ends(pipe).unzip();
        let too_much = limit.clone();
        let reader = std::thread::spawn(move || read(source, &view, &too_much));
        let (pid, too_much, ended) = (child.id(), limit.clone(), done.clone());
        let watcher = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if let Some(trouble) = measure(pid) {
                    return set(&too_much, trouble);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { child, writer, limit, done, reader: Some(reader), watcher: Some(watcher) }
    }

    /// Ends all of it.
    pub(super) fn end(mut self) -> Ended {
        self.kill();
        let read = self.reader.take().and_then(|reader| reader.join().ok());
        let (observed, misread) = read.unwrap_or_default();
        if let Some(watcher) = self.watcher.take() {
            // It holds nothing; a panic of it would be told by the panic itself.
            let _ = watcher.join();
        }
        let limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What a killed tracer was just writing is half a line.
        let misread = misread.map(|Misread(line)| line);
        Ended { observed, misread, limit }
    }

    fn kill(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if self.status().is_none() {
            let processes = descendants(self.child.id());
            // Its group is the tracer and the outer bubblewrap; the rest follows.
            if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.wait();
            // The tracer is gone at once, what it traced a moment later: nothing may outlive a trial.
            let started = Instant::now();
            while processes.iter().any(|(pid, began)| began_at(*pid) == Some(*began)) && started.elapsed() < END {
                for (pid, began) in &processes {
                    if let (Some(id), true) =
                        (i32::try_from(*pid).ok().and_then(Pid::from_raw), began_at(*pid) == Some(*began))
                    {
                        let _ = kill_process(id, Signal::KILL);
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // The tracer's end is gone, if it ever began, and so the reader comes to the end.
        self.writer = None;
    }
}

impl Process for Running {
    fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take())
    }

    fn limit(&self) -> Limit {
        self.limit.clone()
    }

    fn status(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.kill();
        }
    }
}

/// Notes what was too much; the first one stays.
pub(crate) fn set(limit: &Limit, trouble: Trouble) {
    limit.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(trouble);
}

/// Whether something was too much.
pub(crate) fn is_set(limit: &Limit) -> bool {
    limit.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Both ends of a named pipe, without waiting for anybody: a tracer that ends before it opens its own
/// would otherwise leave a reader that waits for ever.
fn ends(pipe: &Path) -> Option<(File, OwnedFd)> {
    let open = |how| rustix::fs::open(pipe, how | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let source = open(OFlags::RDONLY).ok()?;
    let writer = open(OFlags::WRONLY).ok()?;
    rustix::fs::fcntl_setfl(&source, OFlags::empty()).ok()?;
    Some((source.into(), writer))
}

fn read(pipe: Option<File>, view: &View, limit: &Limit) -> Read {
    let (mut watch, mut reader) = (Watch::default(), Reader::default());
    let Some(mut pipe) = pipe else {
        return (watch, Some(Misread("its pipe cannot be read".to_owned())));
    };
    let mut pending: VecDeque<u8> = VecDeque::new();
    let (mut buffer, mut lines) = (vec![0; 64 << 10], 0_u64);
    loop {
        let read = match pipe.read(&mut buffer) {
            Ok(0) => return (watch, None),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return (watch, Some(Misread(error.to_string()))),
        };
        let mut rest = &buffer[..read];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            pending.extend(&rest[..end]);
            rest = &rest[end + 1..];
            let line: Vec<u8> = pending.drain(..).collect();
            lines += 1;
            match reader.line(&line) {
                Ok(Some(call)) => watch.take(&call, view),
                Ok(None) => {}
                Err(misread) => return (watch, Some(misread)),
            }
        }
        pending.extend(rest);
        if lines > LINES || pending.len() > LINE {
            set(limit, Trouble::Flood { what: "system calls".to_owned() });
            return (watch, None);
        }
    }
}

/// Whether the processes below `pid` are too many or too large.
fn measure(pid: u32) -> Option<Trouble> {
    let processes = descendants(pid);
    if processes.len() > PROCESSES {
        return Some(Trouble::Flood { what: format!("processes: more than {PROCESSES} at once") });
    }
    let resident = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    };
    let bytes: u64 = processes.iter().filter_map(|(pid, _)| resident(*pid)).sum();
    (bytes > MEMORY).then(|| Trouble::Flood { what: format!("memory: more than {MEMORY} bytes") })
}

/// All processes below `pid` with the times they began at: a number may be given again.
fn descendants(pid: u32) -> Vec<(u32, u64)> {
    let (mut found, mut open) = (Vec::new(), vec![pid]);
    while let Some(parent) = open.pop() {
        for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                if let Some(began) = began_at(child) {
                    found.push((child, began));
                    open.push(child);
                }
            }
        }
        if found.len() > PROCESSES * 8 {
            break;
        }
    }
    found
}

/// The 22nd field of /proc/PID/stat; its second may hold anything, in brackets. A zombie has ended.
fn began_at(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
