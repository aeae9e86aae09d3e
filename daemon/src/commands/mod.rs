//! What the sub-commands do, one file each; the clap tree is put together in the command line.
//!
//! Those that ask a running daemon make a text out of its facts; printing, errors and exit
//! codes are the same for all of them and stand here.

pub mod audit;
mod conf_d;
pub mod doctor;
pub mod explain;
pub mod ls;
pub mod pin;
pub mod ps;
pub mod refresh;
pub mod reload;
pub mod status;
pub mod stop;
pub(crate) mod unit;
pub mod unmount;
pub mod verify;
pub mod who_uses;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::config::{self, Config, ConfigError};
use crate::control::client::{self, ClientError};
use crate::control::protocol::Request;

/// The system's daemon, for users without a configuration of their own.
pub(crate) const SYSTEM_FILE: &str = "/etc/mcpfs/mcpfs.toml";
const SYSTEM_RUNDIR: &str = "/run/mcpfs";

/// What every command is given.
#[derive(Debug, Clone)]
pub struct Door {
    /// Where the daemon's socket is.
    pub rundir: PathBuf,
    /// The main configuration file (`--config`, else the default).
    pub config: PathBuf,
    /// Facts as JSON instead of text.
    pub json: bool,
}

/// Why a command has nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The daemon did not answer, or said no.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something that the person at the keyboard has to change.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do, one sentence without a full stop.
        advice: String,
    },
    /// It was understood, and must not or cannot be done.
    #[error("{message}")]
    Refused {
        /// What and why.
        message: String,
        /// What to do, one sentence without a full stop.
        advice: String,
    },
}

impl Door {
    /// The daemon of `--config` (and `--rundir`, if the caller offers one), else this user's
    /// own, else the system's.
    ///
    /// # Errors
    /// If the named configuration, or the user's own, cannot be used.
    pub fn find(given: Option<&Path>, json: bool) -> Result<Self, ConfigError> {
        let own = config::default_file();
        let (config, rundir) = match given {
            Some(file) => (file.to_owned(), Config::load(file)?.rundir),
            None if own.exists() => (own.clone(), Config::load(&own)?.rundir),
            // The system's configuration may be closed to users; its daemon is not.
            None => {
                let system = PathBuf::from(SYSTEM_FILE);
                let rundir = Config::load(&system).map_or_else(|_| SYSTEM_RUNDIR.into(), |config| config.rundir);
                (system, rundir)
            }
        };
        Ok(Self { rundir, config, json })
    }

    /// Asks the daemon.
    ///
    /// # Errors
    /// That it does not answer, or what it refused.
    pub fn ask<T: serde::de::DeserializeOwned>(&self, request: &Request) -> Result<T, ClientError> {
        client::ask(&self.rundir, request)
    }

    /// Facts as JSON if that was asked for, else as text.
    fn show<T: Serialize>(&self, facts: &T, text: impl FnOnce(&T) -> String) -> String {
        match self.json {
            true => serde_json::to_string_pretty(facts).unwrap_or_default() + "\n",
            false => text(facts),
        }
    }
}

impl CommandError {
    fn refused(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), advice: advice.into() }
    }

    /// 1 refused, 2 usage, 3 unreachable, 4 integrity.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Daemon(error) => error.exit_code(),
            Self::Refused { .. } => 1,
            Self::Config(_) | Self::Usage { .. } => 2,
        }
    }

    fn advice(&self) -> &str {
        match self {
            Self::Daemon(error) => error.advice(),
            Self::Config(_) => "",
            Self::Usage { advice, .. } | Self::Refused { advice, .. } => advice,
        }
    }
}

/// Prints what a command came to, and gives its exit code.
pub fn finish(result: Result<String, CommandError>) -> ExitCode {
    // Whoever closed the pipe has seen enough.
    match result {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = std::io::stderr().write_all(error_line(&error).as_bytes());
            ExitCode::from(error.exit_code())
        }
    }
}

fn error_line(error: &CommandError) -> String {
    let mut line = format!("mcpfs: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    let mut advice = error.advice().chars();
    if let Some(first) = advice.next() {
        line.push_str(&format!(". {}{}", first.to_uppercase(), advice.as_str()));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn without_a_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let door = Door { rundir: dir.path().to_owned(), config: dir.path().join("mcpfs.toml"), json: false };
        for result in [
            status::run(&door),
            ls::run(&door, &ls::Args { all: true }),
            refresh::run(&door),
            explain::run(&door, &explain::Args { target: "hello".to_owned() }),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.exit_code(), 3);
            let line = error_line(&error);
            assert!(line.starts_with("mcpfs: no mcpfs daemon answers at /"), "{line}");
            assert!(line.contains("control.sock: ") && line.ends_with("`mcpfs mount`\n"), "{line}");
        }
    }

    #[test]
    fn a_configuration_names_its_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mcpfs.toml");
        std::fs::write(&file, "rundir = \"/run/lab\"\n[registry]\nurl = \"https://mcp.example.com\"\n").unwrap();
        let door = Door::find(Some(&file), true).unwrap();
        assert_eq!((door.rundir.as_path(), door.config.as_path()), (Path::new("/run/lab"), file.as_path()));
        assert!(Door::find(Some(&dir.path().join("none.toml")), true).is_err());
    }
}
