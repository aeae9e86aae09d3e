//! A mount without `--foreground`: this program once more, on its own.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use super::{Failure, exit_of};
use crate::config::Config;
use crate::control;
use crate::refusal::Exit;

/// Starts this program again in a session of its own; returns once the mount is served.
pub(super) fn detach(config: &Config) -> Result<(), Failure> {
    let failed =
        |what: &str, error: std::io::Error| Failure { exit: Exit::Refused, message: format!("{what}: {error}") };
    // Not among the worker's own files: what root writes there could be led astray.
    let path = config.rundir.join("mcpfs.log");
    let log = || -> std::io::Result<(std::fs::File, u64)> {
        control::make_rundir(&config.rundir).map_err(std::io::Error::other)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
        let length = log.metadata()?.len();
        Ok((log, length))
    };
    let (mut log, before) = log().map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                ". Mount as root, or as yourself with a configuration of your own (--config), whose state, rundir, \
                 [cache] dir and [mount] at are yours"
            }
            _ => "",
        };
        Failure { exit: Exit::Refused, message: format!("cannot write {}: {error}{advice}", path.display()) }
    })?;
    let program = std::env::current_exe().map_err(|error| failed("cannot find this program", error))?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .args(["--foreground", "--detached"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().map_err(|error| failed("cannot share the log", error))?)
        .spawn()
        .map_err(|error| failed("cannot start the daemon", error))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        // An error is an end without the line.
        drop(BufReader::new(stdout).take(4096).read_line(&mut line));
    }
    if line.ends_with('\n') {
        print!("{line}");
        return Ok(());
    }
    let status = child.wait().map_err(|error| failed("cannot wait for the daemon", error))?;
    let mut said = String::new();
    drop(log.seek(SeekFrom::Start(before)).and_then(|_| log.take(1 << 20).read_to_string(&mut said)));
    eprint!("{said}");
    Err(Failure { exit: exit_of(status.code()), message: String::new() })
}
