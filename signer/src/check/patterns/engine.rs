//! The child process that looks: started without environment, spoken to by [`protocol`], ended by
//! a clock of our own.
//!
//! It reads hostile files, so what it says is parsed as strictly as anything hostile.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mcpfs_trust::error::bounded;
use rustix::process::{Pid, Signal};
use serde::de::DeserializeOwned;

use super::protocol::{Answer, Ask, Hello, LINE_BYTES, MATCHES, Match, PROTOCOL};

/// Its file name.
const PROGRAM: &str = "mcpfs-yara";
/// Kept of what it says on stderr, bytes.
const LAST_WORDS: u64 = 4096;

/// Why patterns were not looked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// It is not installed.
    #[error("nobody looked for patterns: {PROGRAM} is neither beside mcpfs-signer nor in PATH")]
    Missing,
    /// It cannot be started.
    #[error("nobody looked for patterns: {} cannot be started", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It speaks another protocol.
    #[error("nobody looked for patterns: {program} speaks protocol {found}, and this program {PROTOCOL}")]
    Version {
        /// What it calls itself.
        program: String,
        /// Its protocol.
        found: u32,
    },
    /// It ended or was ended before it had looked at everything.
    #[error("not everything was looked at for patterns: {PROGRAM} ended early ({0})")]
    Died(String),
    /// It took too long.
    #[error("not everything was looked at for patterns: {PROGRAM} took more than {0} seconds and was ended")]
    TimedOut(u64),
    /// It said something that the protocol does not have.
    #[error("not everything was looked at for patterns: {PROGRAM} said what its protocol does not have ({0})")]
    Babble(String),
    /// There is nothing to look for.
    #[error("nobody looked for patterns: no rule compiles")]
    NoRules,
}

impl EngineError {
    /// What to do.
    pub(super) const fn fix(&self) -> &'static str {
        match self {
            Self::Missing => {
                "`make yara` builds it as target/yara/release/mcpfs-yara: put it beside mcpfs-signer or into PATH, or \
                 install the package mcpfs-yara"
            }
            Self::Start { .. } | Self::Version { .. } => "install mcpfs-yara of the same version as mcpfs-signer",
            Self::Died(_) | Self::Babble(_) => {
                "check again; if it happens again, a file or a rule breaks the engine: find out which, and report it"
            }
            Self::TimedOut(_) => "take slow rules out of the folder, or split the artefact",
            Self::NoRules => "mend the rules, or name another folder",
        }
    }
}

/// The program beside this one, else in `PATH`.
pub(super) fn find() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let inside = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(PROGRAM));
    beside.into_iter().chain(inside).find(|program| program.is_file())
}

/// A running engine.
pub(super) struct Engine {
    /// None once it was ended and reaped.
    child: Arc<Mutex<Option<Child>>>,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: Option<JoinHandle<String>>,
    /// Dropped when it is not needed any more: the clock stops then.
    clock: Option<Sender<()>>,
    ringing: Option<JoinHandle<bool>>,
    limit: Duration,
    hello: Hello,
}

impl Engine {
    /// Starts the program and hears its greeting.
    pub(super) fn start(path: &Path, limit: Duration) -> Result<Self, EngineError> {
        let start = |source| EngineError::Start { path: path.to_owned(), source };
        let mut child = Command::new(path)
            .env_clear()
            .current_dir("/")
            // A group of its own, so that what it may have started ends with it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(start(std::io::ErrorKind::BrokenPipe.into()));
        };
        let stderr = std::thread::spawn(move || last_words(stderr));
        let child = Arc::new(Mutex::new(Some(child)));
        let (clock, stopped) = channel::<()>();
        let watched = child.clone();
        let ringing = std::thread::spawn(move || {
            let rings = stopped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if rings {
                kill(watched.lock().unwrap_or_else(PoisonError::into_inner).as_ref());
            }
            rings
        });
        let hello = Hello { protocol: 0, program: String::new(), engine: String::new() };
        let mut engine = Self {
            child,
            stdin: Some(stdin),
            stdout: BufReader::new(stdout),
            stderr: Some(stderr),
            clock: Some(clock),
            ringing: Some(ringing),
            limit,
            hello,
        };
        engine.hello = engine.line()?;
        match engine.hello.protocol {
            PROTOCOL => Ok(engine),
            found => Err(EngineError::Version { program: bounded(&engine.hello.program), found }),
        }
    }

    /// What it calls itself: `mcpfs-yara 0.1.0 (yara-x 1.22.1)`.
    pub(super) fn said(&self) -> String {
        format!("{} ({})", bounded(&self.hello.program), bounded(&self.hello.engine))
    }

    /// Gives it a rule file; returns what in it does not compile.
    pub(super) fn rules(&mut self, name: &str, text: &[u8]) -> Result<Option<String>, EngineError> {
        match self.ask(&Ask::Rules { name: name.to_owned(), size: text.len() as u64 }, text)? {
            Answer::Rules { problem } => Ok(problem.map(|problem| bounded(&problem))),
            other => Err(babble(&other)),
        }
    }

    /// Ends the rules; returns how many there are.
    pub(super) fn ready(&mut self) -> Result<u64, EngineError> {
        match self.ask(&Ask::Ready, b"")? {
            Answer::Ready { rules } => Ok(rules),
            other => Err(babble(&other)),
        }
    }

    /// Looks at one file; the inner error says why it was not looked at.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<Result<Vec<Match>, String>, EngineError> {
        match self.ask(&Ask::Scan { size: bytes.len() as u64 }, bytes)? {
            Answer::Matches(matches) if matches.len() <= MATCHES => Ok(Ok(matches)),
            Answer::Failed(reason) => Ok(Err(bounded(&reason))),
            other => Err(babble(&other)),
        }
    }

    /// Ends it: it must have nothing more to say.
    pub(super) fn end(mut self) -> Result<(), EngineError> {
        drop(self.stdin.take());
        let mut rest = [0];
        match self.stdout.read(&mut rest) {
            // However it ends now: all answers are here.
            Ok(0) => Ok(()),
            Ok(_) => Err(EngineError::Babble("more than was asked".to_owned())),
            Err(error) => Err(self.died(&error.to_string())),
        }
    }

    fn ask(&mut self, ask: &Ask, body: &[u8]) -> Result<Answer, EngineError> {
        let mut line = serde_json::to_vec(ask).unwrap_or_default();
        line.push(b'\n');
        let sent = match &mut self.stdin {
            Some(stdin) => stdin.write_all(&line).and_then(|()| stdin.write_all(body)).and_then(|()| stdin.flush()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        match sent {
            Ok(()) => self.line(),
            Err(error) => Err(self.died(&error.to_string())),
        }
    }

    fn line<T: DeserializeOwned>(&mut self) -> Result<T, EngineError> {
        let mut line = Vec::new();
        match self.stdout.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => {
                serde_json::from_slice(&line).map_err(|error| EngineError::Babble(bounded(&error.to_string())))
            }
            Ok(read) if read as u64 == LINE_BYTES => Err(EngineError::Babble("a line without end".to_owned())),
            Ok(_) => Err(self.died("it closed its output")),
            Err(error) => Err(self.died(&error.to_string())),
        }
    }

    /// Why it is gone: our clock, a signal, or its last words.
    fn died(&mut self, how: &str) -> EngineError {
        drop(self.stdin.take());
        let status = self.stop().map(|status| status.to_string()).unwrap_or_default();
        drop(self.clock.take());
        if self.ringing.take().is_some_and(|ringing| ringing.join().unwrap_or_default()) {
            return EngineError::TimedOut(self.limit.as_secs());
        }
        let words = self.stderr.take().map(|stderr| stderr.join().unwrap_or_default()).unwrap_or_default();
        EngineError::Died(bounded(&format!("{how}, {status} {}", words.trim())))
    }

    /// Ends it, whatever it does: it has nothing to lose.
    fn stop(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // If it ended by itself, that is its status; killing comes too late then and changes nothing.
        kill(child.as_ref());
        child.take().and_then(|mut child| child.wait().ok())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.clock.take());
        self.stop();
    }
}

/// Ends a child that is not reaped yet, and all of its group.
fn kill(child: Option<&Child>) {
    if let Some(child) = child {
        // It may have ended by itself.
        let _gone = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
    }
}

fn babble(answer: &Answer) -> EngineError {
    EngineError::Babble(bounded(&format!("{answer:?}")))
}

fn last_words(stderr: impl Read) -> String {
    let mut stderr = stderr;
    let mut words = Vec::new();
    // Only shown; the rest is read so that it does not wait for us.
    let _cut = stderr.by_ref().take(LAST_WORDS).read_to_end(&mut words);
    let _rest = std::io::copy(&mut stderr, &mut std::io::sink());
    String::from_utf8_lossy(&words).into_owned()
}
