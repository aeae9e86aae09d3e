//! The processes that read credentials: started for a worker's question, and never waited for.
//!
//! Each answers whoever asked by itself ([`crate::credentials`]). Here they are counted, reaped, and killed when
//! their time is over. One that waits for a file system without a server may outlive that, so there are only so
//! many of one source and for one user: what hangs is in nobody else's way.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::Settings;
use crate::credentials::{Order, Whom};

/// Readers at a time, of them for one user and of one source: twice what a worker asks for at once, since its
/// patience ends before theirs.
const MOST: usize = 96;
const PER_USER: usize = 8;
const PER_SOURCE: usize = 16;

/// What a worker asks for.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// Which entry of the configuration: as it stood when the worker decided.
    pub(super) mark: u64,
    /// Whether it becomes a variable.
    pub(super) env: bool,
    pub(super) reference: &'a str,
}

/// The ones that run, and some that have ended.
#[derive(Debug, Default)]
pub(super) struct Readers(Vec<Reader>);

#[derive(Debug)]
struct Reader {
    child: Child,
    user: u32,
    reference: String,
    /// When it is killed; none once it was.
    until: Option<Instant>,
}

impl Readers {
    /// Starts one for whoever is at the other end of `connection`; it answers on `reply`.
    ///
    /// # Errors
    /// EPERM for descriptors that are none of these, ENOENT for a ref that there is not, EAGAIN when there is no room.
    pub(super) fn start(
        &mut self,
        settings: &Settings,
        question: &Question<'_>,
        connection: &OwnedFd,
        reply: &OwnedFd,
    ) -> Result<(), Errno> {
        let worker = settings.user.uid;
        let peer = rustix::net::sockopt::socket_peercred(connection).map_err(|_| Errno::PERM)?;
        // The reader looks closer; this keeps a worker from having processes started for nobody.
        if peer.uid.as_raw() == worker || rustix::net::sockopt::socket_type(reply).is_err() {
            return Err(Errno::PERM);
        }
        let found = settings.charge.credential(question.reference, question.mark);
        let order = Order {
            reference: question.reference.to_owned(),
            config: found.ok_or(Errno::NOENT)?.clone(),
            env: question.env,
            socket: settings.rundir.join("control.sock"),
            whom: Whom::AllBut(worker),
        };
        self.reap();
        let (user, reference) = (peer.uid.as_raw(), &order.reference);
        if !self.has_room(user, reference) {
            return Err(Errno::AGAIN);
        }
        let until = Some(Instant::now() + order.lasts());
        let child = order.start(connection.as_fd(), reply.as_fd()).map_err(|error| {
            tracing::error!(%error, "no process can be started to read a credential");
            Errno::from_io_error(&error).unwrap_or(Errno::IO)
        })?;
        self.0.push(Reader { child, user, reference: order.reference, until });
        Ok(())
    }

    fn has_room(&self, user: u32, reference: &str) -> bool {
        let of_user = self.0.iter().filter(|reader| reader.user == user).count();
        let of_source = self.0.iter().filter(|reader| reader.reference == reference).count();
        self.0.len() < MOST && of_user < PER_USER && of_source < PER_SOURCE
    }

    /// Forgets those that have ended, and kills those whose time is over; how long until the next one's is.
    pub(super) fn reap(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.0.retain_mut(|reader| {
            if reader.until.is_some_and(|until| until <= now) {
                reader.until = None;
                tracing::warn!(reference = reader.reference, "a credential's source does not answer; giving it up");
                // One that the kernel does not let go ends later, or never.
                let _ = reader.child.kill();
            }
            matches!(reader.child.try_wait(), Ok(None))
        });
        self.0.iter().filter_map(|reader| reader.until).min().map(|until| until - now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::process::Command;

    use super::*;

    fn reader(user: u32, reference: &str, program: &str, lasts: Duration) -> Reader {
        let child = Command::new(program).arg("3600").spawn().unwrap();
        Reader { child, user, reference: reference.to_owned(), until: Some(Instant::now() + lasts) }
    }

    #[test]
    fn one_that_hangs_is_killed_in_time() {
        let mut readers = Readers(vec![
            reader(1, "hangs", "/bin/sleep", Duration::ZERO),
            reader(1, "runs", "/bin/sleep", Duration::from_secs(3600)),
        ]);
        let end = Instant::now() + Duration::from_secs(60);
        while readers.0.len() == 2 && Instant::now() < end {
            assert!(readers.reap().is_some_and(|next| next > Duration::from_secs(3000)));
            std::thread::yield_now();
        }
        assert_eq!(readers.0.iter().map(|reader| reader.reference.as_str()).collect::<Vec<_>>(), ["runs"]);
        let mut runs = readers.0.pop().unwrap();
        runs.child.kill().unwrap();
        runs.child.wait().unwrap();
        assert_eq!(readers.reap(), None);
    }

    #[test]
    fn what_hangs_is_in_nobody_elses_way() {
        let long = Duration::from_secs(3600);
        let mut readers = Readers::default();
        for user in [1, 2] {
            for _ in 0..PER_USER {
                assert!(readers.has_room(user, "hangs"));
                readers.0.push(reader(user, "hangs", "/bin/sleep", long));
            }
            assert!(!readers.has_room(user, "other"));
        }
        assert!(!readers.has_room(3, "hangs"), "{PER_SOURCE} of one source");
        assert!(readers.has_room(3, "other"));
        for mut reader in readers.0 {
            reader.child.kill().unwrap();
            reader.child.wait().unwrap();
        }
    }
}
