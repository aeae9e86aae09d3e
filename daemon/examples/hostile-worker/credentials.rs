//! Credentials: a worker's questions for what it may not have.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use mcpfs::config::Config;

use crate::door::{Act, DONE, Door, NO, message, number, receive};

const CREDENTIAL: u32 = 24;

/// What must cost a worker its place.
pub(crate) fn acts() -> Vec<(&'static str, Act)> {
    vec![
        ("a credential for one descriptor", |door, _| {
            let null = File::open("/dev/null").unwrap();
            door.raw(true, &message(CREDENTIAL, 0, b"dw"), &[null.as_fd()]);
        }),
        ("a flood of credentials", |door, config| {
            let launcher = door.launcher();
            let mark = config.credentials["dw"].mark("dw");
            let mut started = 0;
            for _ in 0..100_000 {
                let (_receiver, reply) = pair();
                let sent = door.try_raw(true, &message(CREDENTIAL, mark, b"dw"), &[launcher.as_fd(), reply.as_fd()]);
                started += u32::from(sent.is_ok());
                if sent.is_err() {
                    break;
                }
            }
            crate::say(&format!("asked for {started} credentials"));
        }),
    ]
}

fn pair() -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

impl Door {
    /// The next connection to the control socket that is another's: a launcher's.
    pub(crate) fn launcher(&self) -> OwnedFd {
        crate::say("waits for a launcher");
        // The control socket does not block.
        let mut asked = [rustix::event::PollFd::new(&self.listener, rustix::event::PollFlags::IN)];
        loop {
            rustix::event::poll(&mut asked, None).unwrap();
            match rustix::net::accept_with(&self.listener, rustix::net::SocketFlags::CLOEXEC) {
                Ok(accepted) => return accepted,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Asks for a credential; the memory, if it is given.
    fn credential(&self, mark: u64, reference: &str, connection: impl AsFd) -> Result<Option<OwnedFd>, i32> {
        let (receiver, reply) = pair();
        let with = [connection.as_fd(), reply.as_fd()];
        match self.ask(CREDENTIAL, mark, reference.as_bytes(), &with) {
            (DONE, ..) => {}
            (NO, answer, _) => return Err(i32::try_from(number(&answer, 8)).unwrap()),
            (kind, ..) => panic!("kind {kind}"),
        }
        drop(reply);
        Ok(receive(&receiver).1.pop())
    }

    /// Credentials: none of its own, and of another's nothing that it could read.
    pub(crate) fn credentials(&self, config: &Config) -> Vec<(String, String)> {
        let mark = config.credentials["dw"].mark("dw");
        let mut found = vec![];
        let mut note = |name: &str, outcome: Result<(), i32>| {
            let said =
                outcome.map_or_else(|errno| io::Error::from_raw_os_error(errno).to_string(), |()| "allowed".to_owned());
            found.push((name.to_owned(), said));
        };
        let none = |given: Result<Option<OwnedFd>, i32>| match given {
            Ok(Some(_)) => Ok(()),
            // The reader's own word.
            Ok(None) => Err(libc::EPERM),
            Err(errno) => Err(errno),
        };
        let launcher = self.launcher();
        let own = UnixStream::connect(config.rundir.join("control.sock")).unwrap();
        let accepted = rustix::net::accept_with(&self.listener, rustix::net::SocketFlags::CLOEXEC);
        note("have a credential read for itself", none(self.credential(mark, "dw", accepted.unwrap())));
        note("the same by the other end", none(self.credential(mark, "dw", &own)));
        let (one, _other) = pair();
        note("have a credential read for a pair of sockets", none(self.credential(mark, "dw", &one)));
        note("have a credential read for a file", none(self.credential(mark, "dw", File::open("/dev/null").unwrap())));
        note("have a credential read that there is not", none(self.credential(mark, "other", &launcher)));
        note("have an entry read that is not in force", none(self.credential(mark ^ 1, "dw", &launcher)));
        // On behalf of somebody who asked it for something else.
        let memory = self.credential(mark, "dw", &launcher).unwrap().expect("root may have it");
        let kind = |error: io::Error| error.raw_os_error().unwrap();
        let mut text = [0; 64];
        let errno = |done: Result<usize, rustix::io::Errno>| done.map(drop).map_err(|error| error.raw_os_error());
        note("read another's credential", errno(rustix::io::read(&memory, &mut text)));
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        note("open another's credential", File::open(&path).map(drop).map_err(kind));
        let mode = std::fs::Permissions::from_mode(0o444);
        note("make another's credential readable", std::fs::set_permissions(&path, mode).map_err(kind));
        let owner = std::os::unix::fs::chown(&path, Some(rustix::process::getuid().as_raw()), None);
        note("make another's credential its own", owner.map_err(kind));
        let mapped =
            unsafe { libc::mmap(std::ptr::null_mut(), 64, libc::PROT_READ, libc::MAP_PRIVATE, memory.as_raw_fd(), 0) };
        note(
            "map another's credential",
            if mapped == libc::MAP_FAILED { Err(kind(io::Error::last_os_error())) } else { Ok(()) },
        );
        let (_, out) = pair();
        note("send another's credential on", errno(rustix::fs::sendfile(&out, &memory, None, 64)));
        // Two questions at once, and one more than anybody waits for.
        let (receivers, replies): (Vec<_>, Vec<_>) = (0..2).map(|_| pair()).unzip();
        for reply in &replies {
            self.raw(true, &message(CREDENTIAL, mark, b"dw"), &[launcher.as_fd(), reply.as_fd()]);
        }
        drop(replies);
        let answered = receivers.iter().filter(|receiver| !receive(receiver).1.is_empty()).count();
        note("be left without an answer to one of two", if answered == 2 { Err(libc::ENOENT) } else { Ok(()) });
        let answers = (0..2).map(|_| receive(&self.door).0[0]);
        assert!(answers.eq([DONE as u8; 2]), "an answer for each");
        found
    }
}
