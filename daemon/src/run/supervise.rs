//! Root's part of `mcpfs mount`: what the supervisor is told, and how its workers are started.

use std::ffi::OsString;
use std::io;

use super::{Failure, MountArgs, exit_of, prepare};
use crate::cli::Global;
use crate::config::{Config, LogFormat};
use crate::refusal::{Exit, with_cause};
use crate::supervisor::{self, Charge, End, Settings, Signals, SupervisorError, User, WorkerCommand};

/// Root's part: mounts, and keeps a worker that serves.
///
/// `early` watches for signals since this process began, if anything did.
pub(super) fn supervise(
    global: &Global,
    args: &MountArgs,
    config: Config,
    charge: Charge,
    early: Option<io::Result<Signals>>,
) -> Result<(), Failure> {
    let refused = |message: String| Failure { exit: Exit::Refused, message };
    prepare(global, config.log.format, args.detached);
    let user = User::named(&config.user).map_err(|problem| {
        let message = format!("{}: {problem}", config.file.display());
        Failure { exit: Exit::Usage, message }
    })?;
    // Not by name: an upgrade may have put another program there, whose turn comes at a restart.
    let program = "/proc/self/exe".into();
    let worker = WorkerCommand { program, args: args_of_worker(global, &config) };
    let settings = Settings {
        charge,
        at: config.mount.at.clone(),
        outside: vec![
            config.file.clone(),
            config.trust.clone(),
            config.state.clone(),
            config.rundir.clone(),
            config.cache.dir.clone(),
        ],
        state: config.state,
        cache: config.cache.dir,
        rundir: config.rundir,
        user,
        keep: args.keep_mount,
        worker,
        signals: early.unwrap_or_else(Signals::new).map_err(|error| refused(with_cause(&error)))?,
    };
    match supervisor::run(settings) {
        Ok(End::Over) => Ok(()),
        Ok(End::Relieved) => {
            supervisor::end_relieved();
            Ok(())
        }
        // One that ended by itself has said why; one that was killed could not.
        Err(SupervisorError::NeverServed { status }) if status.code().is_some() => {
            Err(Failure { exit: exit_of(status.code()), message: String::new() })
        }
        Err(error) => Err(refused(with_cause(&error))),
    }
}

/// What a worker is started with: what was decided here, and no path that depends on where this
/// process was started.
fn args_of_worker(global: &Global, config: &Config) -> Vec<OsString> {
    let flags = |flag: &str, count: u8| std::iter::repeat_n(OsString::from(flag), count.into());
    let format = match config.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let mut args = vec!["--config".into(), config.file.clone().into(), "mount".into()];
    args.extend(["--foreground", "--worker", "--log-format", format, "--at"].map(OsString::from));
    args.push(config.mount.at.clone().into());
    args.extend(flags("--quiet", global.quiet).chain(flags("--verbose", global.verbose)));
    args
}
