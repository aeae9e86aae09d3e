//! The process that reads one source: mcpfs under another name, started with an order on its standard input.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::order::{Order, Refused, Whom, answer};
use super::peer::Peer;
use super::source;
use crate::refusal::with_cause;

/// What it is called.
pub(super) const NAME: &str = "mcpfs-credential";

/// Whether a process with this first argument is a reader.
pub fn invoked(argv0: Option<&OsStr>) -> bool {
    argv0.and_then(|path| Path::new(path).file_name()).is_some_and(|name| name == NAME)
}

/// Reads one source for one caller.
pub fn run() -> ExitCode {
    let done = without_traces()
        .and_then(|()| Order::receive(io::stdin()))
        .and_then(|(order, connection, reply)| answer(reply, read(&order, connection.as_fd())));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asked is gone, or nobody asked.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Leaves no image of this process behind, or of what it becomes, and lets nobody look into it.
///
/// A program that takes images (`core_pattern` with a pipe: systemd-coredump, apport) is started for a limit of 0,
/// too; the kernel starts none for exactly 1, and no file is so short. Where a host's hard limit is 0 and so
/// forbids 1, what the image has of this process's memory is nothing.
pub(crate) fn without_traces() -> io::Result<()> {
    // Before the rest, by which the file becomes root's.
    let empty = std::fs::write("/proc/self/coredump_filter", "0");
    let limit = |bytes| setrlimit(Resource::Core, Rlimit { current: Some(bytes), maximum: Some(bytes) });
    if limit(1).is_err() {
        empty?;
        limit(0)?;
    }
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn read(order: &Order, connection: BorrowedFd<'_>) -> Result<File, Refused> {
    let reference = &order.reference;
    let peer = Peer::of(connection, &order.socket).map_err(|error| Refused {
        caller: true,
        message: format!("nobody can be seen to ask for the credential {reference}: {error}"),
        advice: "start the server by its `run`".to_owned(),
    })?;
    let is_for = match order.whom {
        Whom::AllBut(worker) => peer.uid != worker,
        Whom::Only(user) => peer.uid == user,
    };
    if !is_for {
        return Err(Refused {
            caller: true,
            message: format!("user {} gets no credentials from this mount", peer.uid),
            advice: "start the server as a user of this host, from a mount that is yours or root's".to_owned(),
        });
    }
    let groups = &order.config.groups;
    let is_in = groups.is_empty()
        || peer.is_in(groups).map_err(|problem| Refused {
            caller: false,
            message: format!("who may have the credential {reference} cannot be told: {problem}"),
            advice: format!("tell your administrator: correct groups of [credentials.\"{reference}\"]"),
        })?;
    if !is_in {
        return Err(Refused {
            caller: true,
            message: format!("the credential {reference} is for members of {}, and you are none", groups.join(", ")),
            advice: "ask your administrator; once you are one, log in again".to_owned(),
        });
    }
    let value = source::value(&order.config, order.env).map_err(|error| Refused {
        caller: false,
        message: format!("the credential {reference} cannot be had: {}", with_cause(&error)),
        advice: error.advice(reference),
    })?;
    memory(&value, peer.uid).map_err(|error| Refused {
        caller: false,
        message: format!("there is no memory for the credential {reference}: {error}"),
        advice: "try again in a moment".to_owned(),
    })
}

/// Sealed memory with the value, which only this user can open; the descriptor itself reads nothing.
fn memory(value: &[u8], uid: u32) -> io::Result<File> {
    let memory = rustix::fs::memfd_create("mcpfs-credential", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    memory.write_all(value)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    rustix::fs::fchmod(&memory, Mode::RUSR)?;
    if uid != rustix::process::geteuid().as_raw() {
        rustix::fs::fchown(&memory, Some(rustix::process::Uid::from_raw(uid)), None)?;
    }
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Read as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::config::{CredentialConfig, CredentialSource};

    #[test]
    fn by_its_name() {
        assert!(invoked(Some(OsStr::new(NAME))) && invoked(Some(OsStr::new("/usr/bin/mcpfs-credential"))));
        assert!(!invoked(Some(OsStr::new("mcpfs"))) && !invoked(None));
    }

    /// It can be passed on by who cannot read it.
    #[test]
    fn memory_is_opened_anew_or_not_at_all() {
        let own = rustix::process::geteuid().as_raw();
        let memory = memory(b"hunter2", own).unwrap();
        assert_eq!(memory.metadata().unwrap().mode() & 0o7777, 0o400);
        let mut text = String::new();
        assert_eq!((&memory).read_to_string(&mut text).unwrap_err().raw_os_error(), Some(libc::EBADF));
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hunter2");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        // Its owner may open it up, and still writes nothing.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(std::fs::write(&path, "other").unwrap_err().raw_os_error(), Some(libc::EPERM), "sealed");
    }

    #[test]
    fn for_whom() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let _client = UnixStream::connect(&socket).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let command = CredentialSource::Command {
            program: "/bin/echo".into(),
            args: vec!["hunter2".to_owned()],
            user: None,
            timeout: std::time::Duration::from_secs(60),
        };
        let config = |groups: &[&str]| CredentialConfig {
            source: command.clone(),
            servers: vec![],
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        let order = |whom, groups: &[&str]| Order {
            reference: "dw".to_owned(),
            config: config(groups),
            env: true,
            socket: socket.clone(),
            whom,
        };
        let read = |order: &Order| read(order, connection.as_fd());
        let memory = read(&order(Whom::Only(own), &[])).unwrap();
        assert_eq!(memory.metadata().unwrap().size(), 7);
        assert!(read(&order(Whom::AllBut(own + 1), &[])).is_ok());
        for whom in [Whom::AllBut(own), Whom::Only(own + 1)] {
            let refused = read(&order(whom, &[])).unwrap_err();
            assert!(refused.caller && refused.message.contains("gets no credentials"), "{refused:?}");
        }
        let refused = read(&order(Whom::Only(own), &["no-such-group"])).unwrap_err();
        assert!(!refused.caller && refused.message.contains("no group no-such-group"), "{refused:?}");
        let elsewhere = Order { socket: dir.path().join("other"), ..order(Whom::Only(own), &[]) };
        assert!(read(&elsewhere).unwrap_err().caller);
    }
}
