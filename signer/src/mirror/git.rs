//! Starting git: what it may read, what it may do, and for how long.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use base64::Engine as _;

/// Longest answer of git that is read, bytes.
const ANSWER: u64 = 64 << 20;
/// Longest complaint that is kept, bytes.
const COMPLAINT: u64 = 16 << 10;
/// For what needs no network.
const LOCAL: Duration = Duration::from_secs(120);
/// For a fetch.
const REMOTE: Duration = Duration::from_secs(600);

/// Why git did not answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum GitError {
    #[error("cannot start git; install the Debian package git")]
    Missing(#[source] std::io::Error),
    #[error("cannot make the mirror's folder {path}", path = path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("git {doing} failed: {said}")]
    Failed { doing: String, code: Option<i32>, said: String },
    #[error("git {doing} did not end within {seconds} seconds")]
    TooSlow { doing: String, seconds: u64 },
    #[error("{what}")]
    TooMuch { what: String },
}

/// A header that proves who fetches, for one address.
pub(super) struct Auth {
    key: String,
    header: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Auth {
    pub(super) fn new(url: &str, user: &str, token: &str) -> Self {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{token}"));
        Self { key: format!("http.{url}.extraHeader"), header: format!("Authorization: Basic {pair}") }
    }
}

/// git in one bare repository.
#[derive(Debug)]
pub(super) struct Git {
    folder: PathBuf,
    scheme: String,
    auth: Option<Auth>,
    authority: Option<PathBuf>,
}

impl Git {
    pub(super) fn new(folder: &Path, url: &str, auth: Option<Auth>, authority: Option<PathBuf>) -> Self {
        let scheme = url.split_once("://").map_or("file", |(scheme, _)| scheme);
        Self { folder: folder.to_owned(), scheme: scheme.to_owned(), auth, authority }
    }

    /// Runs it without a network; its standard output.
    pub(super) fn run(&self, args: &[&str], stdin: &[u8]) -> Result<Vec<u8>, GitError> {
        self.finish(self.command(args, &[]), args, stdin, LOCAL)
    }

    /// As [`Git::run`], as text.
    pub(super) fn text(&self, args: &[&str]) -> Result<String, GitError> {
        let bytes = self.run(args, &[])?;
        String::from_utf8(bytes).map_err(|_| GitError::TooMuch { what: format!("git {} gives no UTF-8", doing(args)) })
    }

    /// Runs it with the remote's address and token.
    pub(super) fn remote(&self, args: &[&str]) -> Result<Vec<u8>, GitError> {
        let allow = format!("protocol.{}.allow", self.scheme);
        let mut settings = vec![(allow.as_str(), "always")];
        settings.extend(self.auth.as_ref().map(|auth| (auth.key.as_str(), auth.header.as_str())));
        let authority = self.authority.as_ref().map(|path| path.display().to_string());
        settings.extend(authority.as_deref().map(|path| ("http.sslCAInfo", path)));
        self.finish(self.command(args, &settings), args, &[], REMOTE)
    }

    fn command(&self, args: &[&str], settings: &[(&str, &str)]) -> Command {
        let fixed = [
            ("protocol.allow", "never"),
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("core.alternateRefsCommand", ""),
            ("log.showSignature", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("transfer.fsckObjects", "true"),
            ("transfer.bundleURI", "false"),
            ("http.followRedirects", "false"),
            ("http.lowSpeedLimit", "1000"),
            ("http.lowSpeedTime", "30"),
            ("credential.helper", ""),
            ("safe.directory", "*"),
        ];
        let mut command = Command::new("git");
        command.env_clear();
        for name in ["PATH", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .current_dir(&self.folder)
            .args(args)
            .env("GIT_DIR", ".")
            .env("HOME", &self.folder)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1");
        let all = fixed.iter().chain(settings);
        for (index, (key, value)) in all.clone().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        command.env("GIT_CONFIG_COUNT", all.count().to_string());
        // A group of its own: its transfer helpers end with it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn finish(&self, mut command: Command, args: &[&str], stdin: &[u8], limit: Duration) -> Result<Vec<u8>, GitError> {
        let mut child = command.spawn().map_err(GitError::Missing)?;
        if let Some(mut input) = child.stdin.take() {
            // A git that does not read its input has its own reasons, and says them.
            let _ = input.write_all(stdin);
        }
        let (sender, answer) = channel();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        std::thread::spawn(move || {
            let complaint = std::thread::spawn(move || read(err, COMPLAINT));
            let bytes = read(out, ANSWER);
            let complaint = complaint.join().unwrap_or_default();
            // Nobody waits any more if it was too slow.
            let _ = sender.send((bytes, complaint));
        });
        let Ok((bytes, complaint)) = answer.recv_timeout(limit) else {
            end(&mut child);
            return Err(GitError::TooSlow { doing: doing(args), seconds: limit.as_secs() });
        };
        if bytes.len() as u64 > ANSWER {
            end(&mut child);
            return Err(GitError::TooMuch { what: format!("git {} answers more than {ANSWER} bytes", doing(args)) });
        }
        let status = child.wait().map_err(GitError::Missing)?;
        if status.success() {
            return Ok(bytes);
        }
        let said = self.without_secret(&String::from_utf8_lossy(&complaint));
        Err(GitError::Failed { doing: doing(args), code: status.code(), said })
    }

    /// What git complains of, on one line; its header never.
    fn without_secret(&self, said: &str) -> String {
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let mut text = lines.join("; ");
        if let Some(auth) = &self.auth {
            text = text.replace(&auth.header, "(token)");
        }
        mcpfs_trust::error::bounded(&text)
    }
}

/// Everything up to one byte more than `limit`; then the pipe is closed.
fn read(pipe: Option<impl Read>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before a failure is what there is.
        let _ = pipe.take(limit + 1).read_to_end(&mut bytes);
    }
    bytes
}

fn end(child: &mut Child) {
    // It may have ended by itself just now.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The command's word, for messages.
fn doing(args: &[&str]) -> String {
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match *word {
            "-c" => drop(words.next()),
            word => return word.to_owned(),
        }
    }
    String::new()
}
