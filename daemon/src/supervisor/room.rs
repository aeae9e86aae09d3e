//! The directories that a worker finds, and whose they are.
//!
//! What the worker writes is its own: state and cache. The run directory is root's, since everybody
//! starts the launcher that lies in it. Nothing is ever given to the worker but an empty directory:
//! whoever can write below a directory could make root give files away that are not there for it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, fchown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::wire::Secret;
use super::{Settings, SupervisorError, failed};
use crate::owned::{self, OwnedError};
use crate::refusal::with_cause;

/// A user of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
}

impl User {
    /// Looks `name` up in the host's user database.
    ///
    /// # Errors
    /// If there is none, with how to make it.
    pub fn named(name: &str) -> Result<Self, String> {
        match nix::unistd::User::from_name(name) {
            Ok(Some(user)) if user.uid.is_root() => Err(format!(
                "user = {name:?} is root: the part of mcpfs that meets the network works as this user, who must have no \
                 rights of root's; leave the line out, or name another one"
            )),
            Ok(Some(user)) => Ok(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
            Ok(None) => Err(format!(
                "there is no user {name:?}, whom mcpfs started by root works as; the package makes it. Without the \
                 package: useradd --system --no-create-home --shell /usr/sbin/nologin {name}. Another one is named by \
                 `user` in the configuration"
            )),
            Err(error) => Err(format!("the host's user database does not say who {name:?} is: {error}")),
        }
    }
}

/// Makes what is missing.
///
/// # Errors
/// If something cannot be made, or belongs to somebody else.
pub(super) fn prepare(settings: &Settings) -> Result<(), SupervisorError> {
    let user = &settings.user;
    give(&settings.state, user)?;
    give(&settings.cache, user)?;
    crate::control::make_rundir(&settings.rundir)
        .map_err(|problem| refused(&settings.rundir, &format!("{problem}; set `rundir` in the configuration")))?;
    give(&settings.rundir.join("content"), user)
}

/// A private directory of the user's own.
fn give(directory: &Path, user: &User) -> Result<(), SupervisorError> {
    let at = || format!("making {} for the worker failed", directory.display());
    if let Some(parent) = directory.parent() {
        // Everybody may pass through what is above, as through /var/lib.
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed(at()))?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(at())(error)),
        _ => {}
    }
    // Through one descriptor, so that what is looked at is what is given.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| failed(at())(error.into()))?;
    let open = fs::File::from(open);
    let found = open.metadata().map_err(failed(at()))?;
    if found.uid() == user.uid {
        return Ok(());
    }
    if found.uid() != 0 || !is_empty(&open).map_err(failed(at()))? {
        let problem = format!(
            "belongs to user {} and not to {}, whom the worker runs as; give it: chown -R {}: {}",
            found.uid(),
            user.name,
            user.name,
            directory.display()
        );
        return Err(refused(directory, &problem));
    }
    fchown(&open, Some(user.uid), Some(user.gid)).map_err(failed(at()))
}

fn is_empty(directory: &fs::File) -> io::Result<bool> {
    let mut entries = rustix::fs::Dir::read_from(directory)?;
    let other = |entry: &rustix::fs::DirEntry| ![c".", c".."].contains(&entry.file_name());
    Ok(!entries.any(|entry| entry.map_or(true, |entry| other(&entry))))
}

fn refused(directory: &Path, problem: &str) -> SupervisorError {
    failed(format!("{} cannot be used", directory.display()))(io::Error::other(problem.to_owned()))
}

/// The control socket that systemd kept, if it is the one that is asked at now: the run directory may have become
/// another one by configuration, or been cleared.
pub(super) fn control(settings: &Settings, kept: OwnedFd) -> Option<UnixListener> {
    let place = settings.rundir.join("control.sock");
    let listens = rustix::net::sockopt::socket_acceptconn(&kept).unwrap_or(false);
    let listener = UnixListener::from(kept);
    let is_ours = listens
        && listener.local_addr().is_ok_and(|at| at.as_pathname() == Some(&place))
        && fs::symlink_metadata(&place).is_ok_and(|found| found.file_type().is_socket());
    if !is_ours {
        tracing::warn!(at = %place.display(), "the control socket that systemd kept is not the one there; making another");
    }
    is_ours.then_some(listener)
}

/// A file that only root can open, for the worker to read. Which one it is, root's own configuration says.
pub(super) fn secret(settings: &Settings, secret: Secret) -> Result<fs::File, Errno> {
    let path = settings.charge.secret(secret).ok_or(Errno::NOENT)?;
    owned::open_secret(path).map_err(|error| {
        tracing::error!(error = %with_cause(&error), "the worker cannot have a secret");
        match error {
            OwnedError::Unreadable { source, .. } => Errno::from_io_error(&source).unwrap_or(Errno::IO),
            _ => Errno::ACCESS,
        }
    })
}

/// What a process runs. Root may ask that of everybody, the worker only of its own.
pub(super) fn executable(pid: u32) -> Result<Vec<u8>, Errno> {
    let path = fs::read_link(format!("/proc/{pid}/exe"));
    let path = path.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(path.into_os_string().into_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn directories_of_others_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let me = User {
            name: "me".to_owned(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let state = dir.path().join("var/lib/mcpfs");
        give(&state, &me).unwrap();
        assert_eq!(state.metadata().unwrap().mode() & 0o7777, 0o700);
        give(&state, &me).unwrap();
        fs::write(state.join("state.db"), "").unwrap();
        let other = User { name: "other".to_owned(), uid: me.uid + 1, gid: me.gid };
        let error = with_cause(&give(&state, &other).unwrap_err());
        assert!(error.contains("chown -R other"), "{error}");
        assert_eq!(state.metadata().unwrap().uid(), me.uid);
    }

    #[test]
    fn users_are_looked_up() {
        assert_ne!(User::named("nobody").unwrap().uid, 0);
        let error = User::named("root").unwrap_err();
        assert!(error.contains("is root"), "{error}");
        let error = User::named("nobody-of-this-name").unwrap_err();
        assert!(error.contains("useradd --system"), "{error}");
    }
}
