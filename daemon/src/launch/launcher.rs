//! What happens between the kernel reading `run` and the server's first instruction.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use mcpfs_trust::error::bounded;

use super::environment::{Places, Root, environment, expand};
use super::identity::Identity;
use super::sandbox::{self, Layout};
use super::secrets::Secrets;
use super::{descriptors, state};
use crate::control::client::{self, ClientError};
use crate::control::protocol::{Launch, Request};

/// Exit status of a launch that was refused.
pub const EXIT_REFUSED: u8 = 77;
const EXIT_USAGE: u8 = 2;

/// Why a server does not start, in the words that one line on stderr has room for.
#[derive(Debug)]
struct Refusal {
    reason: String,
    advice: String,
    /// Whether `mcpfs explain` can say more.
    explained: bool,
}

/// Whether a process with this first argument is the launcher.
pub fn invoked(argv0: Option<&OsStr>) -> bool {
    argv0.and_then(|path| Path::new(path).file_name()).is_some_and(|name| name == "launch")
}

/// Becomes the server that the arguments name; returns only if it does not start.
///
/// `args` are the kernel's: the interpreter as `run` names it, the identity, the path of
/// `run`, and what the host added.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let rundir = args.next().and_then(|argv0| Path::new(&argv0).parent().map(Path::to_owned));
    let identity = args.next().and_then(|identity| identity.to_str()?.parse::<Identity>().ok());
    let script = args.next();
    let (Some(rundir), Some(identity), Some(_)) = (rundir.filter(|dir| dir.is_absolute()), identity, script) else {
        say("mcpfs: this program is started by the first line of a mounted `run` and not by hand. \
             Start /mcp/<name>/run instead; `mcpfs ls` lists the names");
        return ExitCode::from(EXIT_USAGE);
    };
    match start(&rundir, &identity, args.collect()) {
        Ok(code) => code,
        Err(refusal) => {
            say(&refusal_line(&identity, &refusal));
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

/// Becomes the server, or keeps its sandbox until it ends.
fn start(rundir: &Path, identity: &Identity, host_args: Vec<OsString>) -> Result<ExitCode, Refusal> {
    let args = host_args.into_iter().map(OsString::into_string).collect::<Result<Vec<_>, _>>().map_err(|bad| {
        let reason = format!("the argument {} is not UTF-8", bounded(&bad.to_string_lossy()));
        local(reason, "Correct it in your MCP host's configuration")
    })?;
    let request = Request::Launch { identity: identity.to_string(), args: args.clone() };
    let (launch, with) = client::ask_with::<Launch>(rundir, &request)?;
    let refusal = match execute(&launch, with, &args) {
        Err(refusal) => refusal,
        Ok(code) => return Ok(code),
    };
    // The audit has a launch that says ok. If its correction does not arrive, the person's line
    // still says what happened.
    let report = Request::Unstarted { reason: refusal.reason.clone() };
    let _ = client::ask::<serde_json::Value>(rundir, &report);
    Err(refusal)
}

/// Becomes the server, once the daemon has said how; in a sandbox, what it ended with.
fn execute(launch: &Launch, with: Vec<OwnedFd>, args: &[String]) -> Result<ExitCode, Refusal> {
    let mut secrets = Secrets::open(&launch.credentials, &with)
        .map_err(|error| local(format!("its credentials cannot be opened: {error}"), "Is /proc mounted?"))?;
    drop(with);
    let home = home().ok_or_else(|| local("you have no home directory".to_owned(), "Set HOME"))?;
    let base = state::base(std::env::var_os("XDG_STATE_HOME").as_deref(), &home);
    let state = state::open(&base, &launch.state)
        .map_err(|error| local(chain(&error), "Its server keeps what it must remember there"))?;
    let credentials = secrets.directory();
    let host = Places { tree: &launch.tree, state: &state.path, home: &home, credentials };
    let root = match &launch.sandbox {
        None => Root::Host,
        Some(confinement) if confinement.image => Root::Image,
        Some(_) => Root::HiddenHost,
    };
    // In an image the tree is the root, and the only home is what is kept.
    let places = match root {
        Root::Image => Places { tree: Path::new("/"), home: &state.path, ..host },
        Root::Host | Root::HiddenHost => host,
    };
    let args: Vec<OsString> =
        launch.args.iter().map(|arg| expand(arg, places)).chain(args.iter().map(OsString::from)).collect();
    let mut env = environment(std::env::vars_os(), &launch.env, places, root);
    env.extend(secrets.variables());
    // The descriptor that was checked, not its path again.
    rustix::process::fchdir(&state.directory)
        .map_err(|error| local(format!("cannot enter {}: {error}", state.path.display()), ""))?;
    descriptors::close_on_exec()
        .map_err(|error| local(format!("cannot close inherited files: {error}"), "Is /proc mounted?"))?;
    if let Some(warning) = &launch.warning {
        say(&format!("mcpfs: {} {}: {warning}", launch.name, launch.version));
    }
    if let Some(confinement) = &launch.sandbox {
        let layout = Layout { confinement, places: host, command: &launch.command, files: &secrets.files };
        let ended = sandbox::run(&layout, &args, env).map_err(|error| Refusal {
            reason: error.to_string(),
            advice: error.advice().to_owned(),
            explained: true,
        })?;
        // As a shell has it: a status of 8 bits, or 128 and the signal.
        let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal));
        return Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from));
    }
    // std gives the program the default signal mask and SIGPIPE.
    let error = Command::new(&launch.command).args(args).env_clear().envs(env).exec();
    let reason = format!("cannot start {}: {error}", launch.command.display());
    Err(Refusal { reason, advice: exec_advice(&error, launch), explained: true })
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        let explained = matches!(error, ClientError::Refused(_));
        Self { reason: chain(&error), advice: error.advice().to_owned(), explained }
    }
}

fn local(reason: String, advice: &str) -> Refusal {
    Refusal { reason, advice: advice.to_owned(), explained: false }
}

/// What to do about a failed exec; a runtime of the host is another matter than a file of the release.
fn exec_advice(error: &io::Error, launch: &Launch) -> String {
    let runtime = !launch.command.starts_with(&launch.tree);
    match error.kind() {
        io::ErrorKind::NotFound if runtime => {
            "Install that runtime, or have your administrator correct it under [runtimes] in mcpfs.toml".to_owned()
        }
        io::ErrorKind::PermissionDenied if runtime => {
            "Your user may not execute that runtime; your administrator names another under [runtimes] in mcpfs.toml"
                .to_owned()
        }
        io::ErrorKind::NotFound => {
            "Its release lacks the file, or this host lacks the interpreter that the file names".to_owned()
        }
        io::ErrorKind::PermissionDenied => "It is not executable, or your user may not use this server".to_owned(),
        io::ErrorKind::StorageFull => {
            "The cache of this host is full: your administrator frees disk space or raises cache.quota".to_owned()
        }
        _ => "The daemon's log and `mcpfs audit query` say more".to_owned(),
    }
}

/// The user's home: the environment's, else the user database's.
fn home() -> Option<PathBuf> {
    let given = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    given.or_else(|| nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()?.map(|user| user.dir))
}

/// The one line that a refused launch leaves.
fn refusal_line(identity: &Identity, refusal: &Refusal) -> String {
    let (subject, target) = match identity {
        Identity::Release { name, version, .. } => (format!("{name} {version}"), format!("{name}@{version}")),
        Identity::Refused { name } => (name.to_string(), name.to_string()),
    };
    let mut line = format!("mcpfs: {subject} refused: {}.", refusal.reason.trim_end_matches('.'));
    let advice = refusal.advice.trim_end_matches('.');
    let mut letters = advice.chars();
    if let Some(first) = letters.next() {
        line.push_str(&format!(" {}{}.", first.to_uppercase(), letters.as_str()));
    }
    if refusal.explained {
        line.push_str(&format!(" Details: mcpfs explain {target}"));
    }
    line
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// One line on stderr, in one write and without control characters; nothing if nobody listens.
fn say(line: &str) {
    let mut line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.push('\n');
    let _ = io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use mcpfs_trust::error::Code;

    use super::*;
    use crate::control::protocol::Refused;

    #[test]
    fn by_its_name() {
        for (argv0, want) in [
            (Some("/run/mcpfs/launch"), true),
            (Some("launch"), true),
            (Some("/usr/bin/mcpfs"), false),
            (Some("/launch/mcpfs"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(invoked(argv0.map(OsStr::new)), want, "{argv0:?}");
        }
    }

    #[test]
    fn the_line_that_people_read() {
        let sha = "ab".repeat(32);
        let release: Identity = format!("internal-postgres@1.2.0#{sha}").parse().unwrap();
        let refused = Refused::new(Code::Revoked, "CVE-2026-1234", "current is 1.2.1: restart your MCP host");
        assert_eq!(
            refusal_line(&release, &ClientError::from(refused).into()),
            "mcpfs: internal-postgres 1.2.0 refused: Revoked (CVE-2026-1234). Current is 1.2.1: restart your MCP \
             host. Details: mcpfs explain internal-postgres@1.2.0"
        );
        let name: Identity = "x@!".parse().unwrap();
        let bare = Refused::new(Code::HeadExpired, "the head expired at 2026-01-01T00:00:00Z.", "");
        assert_eq!(
            refusal_line(&name, &ClientError::from(bare).into()),
            "mcpfs: x refused: HeadExpired (the head expired at 2026-01-01T00:00:00Z). Details: mcpfs explain x"
        );
        let silent =
            ClientError::Silent { path: "/run/mcpfs/control.sock".into(), waited: std::time::Duration::from_secs(10) };
        assert_eq!(
            refusal_line(&name, &silent.into()),
            "mcpfs: x refused: the mcpfs daemon at /run/mcpfs/control.sock did not answer within 10 s. \
             See its log (journalctl -u mcpfs, or mcpfs.log in its run directory, by default /run/mcpfs), or restart it."
        );
    }
}
