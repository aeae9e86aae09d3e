//! Running a program to its end, with a deadline and both outputs captured.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::scratch::PATIENCE;

/// A program about to run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
    limit: Duration,
}

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; 128 + signal if it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard output as it came.
    pub stdout_bytes: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl Run {
    /// `program` with no arguments, an empty standard input and much patience.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), stdin: Vec::new(), limit: 2 * PATIENCE }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Removes a variable.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(key);
        self
    }

    /// Removes all inherited variables.
    pub fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Gives it a standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets the deadline.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it under this umask. A process's own umask is for all its threads, so a shell sets it.
    pub fn umask(self, mask: &str) -> Self {
        self.through_shell(&format!("umask {mask}"))
    }

    /// Runs it with so much address space, KiB: what wants more fails.
    pub fn memory(self, kib: u64) -> Self {
        self.through_shell(&format!("ulimit -v {kib}"))
    }

    fn through_shell(self, before: &str) -> Self {
        self.behind(|words| {
            let shell = ["sh".into(), "-c".into(), format!("{before} && exec \"$@\"").into(), "sh".into()];
            shell.into_iter().chain(words).collect()
        })
    }

    /// The same variables and place for other words, which are made of its own.
    pub(crate) fn behind(mut self, words: impl FnOnce(Vec<OsString>) -> Vec<OsString>) -> Self {
        let old = std::mem::replace(&mut self.command, Command::new("sh"));
        let words = words(std::iter::once(old.get_program()).chain(old.get_args()).map(OsStr::to_owned).collect());
        self.command = Command::new(&words[0]);
        self.command.args(&words[1..]);
        for (key, value) in old.get_envs() {
            match value {
                Some(value) => self.command.env(key, value),
                None => self.command.env_remove(key),
            };
        }
        if let Some(dir) = old.get_current_dir() {
            self.command.current_dir(dir);
        }
        self
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Panics
    /// If it cannot start or overruns its deadline.
    pub fn run(mut self) -> Ran {
        let line = line_of(&self.command);
        let started = Instant::now();
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = start(&mut self.command).unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        let mut stdin = child.stdin.take().expect("piped");
        let bytes = std::mem::take(&mut self.stdin);
        // A program that does not read its input closes it: no concern of ours.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        let code = exit_within(&mut child, self.limit);
        let elapsed = started.elapsed();
        if code.is_none() {
            child.kill().expect("own child");
            child.wait().expect("own child");
        }
        writer.join().expect("writer");
        // A detached grandchild may hold the pipes: these end when it closes them.
        let stdout_bytes = stdout.join().expect("reader");
        let ran = Ran {
            line,
            code: code.unwrap_or(-1),
            stdout: String::from_utf8_lossy(&stdout_bytes).into_owned(),
            stdout_bytes,
            stderr: String::from_utf8_lossy(&stderr.join().expect("reader")).into_owned(),
            elapsed,
        };
        assert!(code.is_some(), "did not end within {:?}: {ran}", self.limit);
        ran
    }

    /// Runs it and expects success.
    pub fn ok(self) -> Ran {
        self.exits(0)
    }

    /// Runs it and expects this exit code.
    pub fn exits(self, code: i32) -> Ran {
        let ran = self.run();
        assert!(ran.code == code, "expected exit {code}: {ran}");
        crate::proof::note(&format!("exit {code}"));
        ran
    }
}

/// Runs what fetches parts of the tests from a public registry, and expects success at the third attempt: a registry
/// that fails for a moment says nothing about what is tested. Each failure is told.
///
/// # Panics
/// If it fails three times, cannot start or overruns its deadline.
pub fn fetch(run: impl Fn() -> Run) -> Ran {
    for _ in 0..2 {
        let ran = run().run();
        if ran.code == 0 {
            return ran;
        }
        eprintln!("fetching once more, since {ran}");
        std::thread::sleep(Duration::from_secs(5));
    }
    run().ok()
}

impl Ran {
    /// Both outputs, for searching.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// Standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }

    /// Expects `needle` in one of the outputs.
    pub fn says(self, needle: &str) -> Self {
        assert!(self.text().contains(needle), "expected {needle:?}: {self}");
        crate::proof::note(needle);
        self
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` exited with {} after {:?}", self.line, self.code, self.elapsed)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, "\n--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Starts it. A program that a test has just copied is busy for as long as another test's child, between fork and
/// exec, has the descriptor by which it was written.
fn start(command: &mut Command) -> std::io::Result<Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < 100 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            started => return started,
        }
    }
}

/// Waits for a child; its exit code, or `None` if it still runs.
pub fn exit_within(child: &mut Child, limit: Duration) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("own child") {
            return status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        }
        if started.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads a pipe to its end in a thread of its own.
pub(crate) fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("cannot read from a child");
        bytes
    })
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
