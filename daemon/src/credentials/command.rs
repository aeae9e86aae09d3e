//! A command whose standard output is the value.
//!
//! It has no environment, no input, and its errors are heard by nobody: what a program says when it fails may be
//! the secret. Its exit status is told. It and all that it has started in its process group end with the first of
//! its end, too long an output, and its time.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::User;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use zeroize::Zeroizing;

use super::VALUE_BYTES;
use crate::owned::{self, OwnedError};

/// Why a command gave no value.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("its command cannot be used")]
    Program(#[from] OwnedError),
    #[error("its command {} cannot be started", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("its command is to run as {0}")]
    Account(String),
    #[error("its command {} failed: {status}", program.display())]
    Failed { program: PathBuf, status: ExitStatus },
    #[error("its command {} did not end within {} s", program.display(), timeout.as_secs())]
    TimedOut { program: PathBuf, timeout: Duration },
    #[error("its command cannot be followed")]
    Follow(#[source] io::Error),
}

/// The user of this name.
pub(super) fn account(name: &str) -> Result<User, CommandError> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(CommandError::Account(format!("{name}, and there is no such user"))),
        Err(error) => Err(CommandError::Account(format!("{name}, who cannot be looked up: {error}"))),
    }
}

/// What it writes, up to one byte more than a value has.
pub(super) fn output(
    program: &Path,
    args: &[String],
    user: Option<&str>,
    timeout: Duration,
) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let end = Instant::now() + timeout;
    owned::check_program(program)?;
    let mut command = Command::new(program);
    command.args(args).env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(name) = user {
        let user = account(name)?;
        if user.uid != nix::unistd::geteuid() {
            // With the user and without a list of groups, std gives up those of this process.
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
    }
    let mut child = command.spawn().map_err(|source| CommandError::Start { program: program.to_owned(), source })?;
    let heard = listen(&mut child, end);
    let group = Pid::from_raw(child.id().cast_signed());
    // Before it is waited for: until then nobody else can have its number.
    if let Some(group) = group {
        // ESRCH: all of it has ended.
        let _ = kill_process_group(group, Signal::KILL);
    }
    // It can have left its group. With the group it has ended, or ends now, in any case.
    child.kill().map_err(CommandError::Follow)?;
    let status = child.wait().map_err(CommandError::Follow)?;
    match heard.map_err(CommandError::Follow)? {
        Heard { bytes, .. } if bytes.len() > VALUE_BYTES => Ok(bytes),
        Heard { ended: false, .. } => Err(CommandError::TimedOut { program: program.to_owned(), timeout }),
        Heard { bytes, .. } if status.success() => Ok(bytes),
        Heard { .. } => Err(CommandError::Failed { program: program.to_owned(), status }),
    }
}

struct Heard {
    bytes: Zeroizing<Vec<u8>>,
    /// Whether it ended by itself.
    ended: bool,
}

/// Until it ends, its time is over or it has said too much. What it has left behind may hold its output open.
fn listen(child: &mut Child, end: Instant) -> io::Result<Heard> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::InvalidData)?;
    rustix::io::ioctl_fionbio(&stdout, true)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(VALUE_BYTES + 1));
    let mut open = true;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut asked = vec![PollFd::new(&process, PollFlags::IN)];
        if open {
            asked.push(PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN));
        }
        let ready = match poll(&mut asked, Some(&left)) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let ended = !asked[0].revents().is_empty();
        open = open && drain(&mut stdout, &mut bytes)?;
        if ended || ready == 0 || bytes.len() > VALUE_BYTES {
            return Ok(Heard { bytes, ended });
        }
    }
}

/// Takes what is there; whether more may come.
fn drain(stdout: &mut ChildStdout, bytes: &mut Vec<u8>) -> io::Result<bool> {
    while bytes.len() <= VALUE_BYTES {
        let mut part = Zeroizing::new([0; 4096]);
        let room = part.len().min(VALUE_BYTES + 1 - bytes.len());
        match stdout.read(&mut part[..room]) {
            Ok(0) => return Ok(false),
            Ok(read) => bytes.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// For what ends by itself.
    const LONG: Duration = Duration::from_secs(60);
    /// For what does not.
    const SHORT: Duration = Duration::from_millis(200);

    fn shell(script: &str, timeout: Duration) -> Result<Zeroizing<Vec<u8>>, CommandError> {
        let args = ["-c".to_owned(), script.to_owned()];
        output(Path::new("/bin/sh"), &args, None, timeout)
    }

    #[test]
    fn what_it_says_is_the_value() {
        assert_eq!(shell("echo hunter2; echo no >&2", LONG).unwrap().as_slice(), b"hunter2\n");
        // No variable of ours, no input, and a place of its own.
        let said = shell("env -i /bin/true; cat; echo \"${HOME-none} $PWD\"", LONG).unwrap();
        assert_eq!(said.as_slice(), b"none /\n");
        assert_eq!(shell("head -c 65536 /dev/zero", LONG).unwrap().len(), VALUE_BYTES);
        // Endless: it is not waited for.
        assert_eq!(shell("cat /dev/zero", LONG).unwrap().len(), VALUE_BYTES + 1);
        assert!(shell("exec true", LONG).unwrap().is_empty());
    }

    #[test]
    fn whoever_holds_its_output_open_is_not_waited_for() {
        assert_eq!(shell("sleep 3600 & echo x", LONG).unwrap().as_slice(), b"x\n");
    }

    #[test]
    fn failures() {
        let error = shell("echo secret; echo secret >&2; exit 3", LONG).unwrap_err();
        assert!(matches!(&error, CommandError::Failed { status, .. } if status.code() == Some(3)), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(matches!(shell("kill -9 $$", LONG).unwrap_err(), CommandError::Failed { .. }));
        // With what it has started.
        let error = shell("sleep 3600 | sleep 3600", SHORT).unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
        // One that closes its output is followed to its end all the same.
        assert!(matches!(shell("exec >&-; sleep 3600", SHORT).unwrap_err(), CommandError::TimedOut { .. }));
        let missing = output(Path::new("/bin/no-such-program"), &[], None, LONG);
        assert!(matches!(missing, Err(CommandError::Program(_))));
        let nobody = output(Path::new("/bin/true"), &[], Some("no-such-user"), LONG);
        assert!(matches!(nobody, Err(CommandError::Account(_))));
    }

    /// What is sent to its group does not reach it.
    #[test]
    fn one_that_leaves_its_group_ends_in_time() {
        let text = "setpgrp(0, getpgrp(getppid())) or exit 3; sleep 3600";
        let args = ["-e".to_owned(), text.to_owned()];
        let error = output(Path::new("/usr/bin/perl"), &args, None, SHORT);
        assert!(matches!(error, Err(CommandError::TimedOut { .. })), "{error:?}");
    }

    #[test]
    fn as_another_user() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let args = ["-c".to_owned(), "id -u; id -G".to_owned()];
        let said = output(Path::new("/bin/sh"), &args, Some("nobody"), LONG).unwrap();
        let user = account("nobody").unwrap();
        assert_eq!(String::from_utf8(said.to_vec()).unwrap(), format!("{}\n{}\n", user.uid, user.gid));
    }
}
