//! The next worker, started while the present one serves.
//!
//! What a worker does before its welcome needs nothing of its predecessor: to be loaded and linked,
//! to understand the configuration, to give up its rights. On a busy host that is most of what people wait
//! for after a crash, so it is done ahead (docs/decisions/0018).
//!
//! It has nothing of the mount meanwhile: the device, the control socket, even its end of the door
//! come with the welcome, and that is sent when its predecessor is dead. It has met nothing hostile
//! and has nothing to say; one that speaks or ends is put away, and the next worker is started when
//! it is needed, as it was always done. One whose configuration is no longer in force is replaced.

use std::io;
use std::os::fd::BorrowedFd;

use super::charge::Charge;
use super::child::{Worker, WorkerCommand};

/// The next worker, or none.
#[derive(Debug, Default)]
pub(super) struct Standby(Option<Worker>);

impl Standby {
    /// Starts one if there is none.
    pub(super) fn start(&mut self, command: &WorkerCommand, charge: &Charge) {
        if self.0.is_some() {
            return;
        }
        self.begin(command, charge);
        if let Some(worker) = &mut self.0 {
            tracing::debug!(pid = worker.id(), "a worker stands by");
            worker.stood_by = true;
        }
    }

    /// Starts the first one of this process, which is welcomed as soon as there is something to serve: it has as much time
    /// as any other that is fresh.
    pub(super) fn begin(&mut self, command: &WorkerCommand, charge: &Charge) {
        match Worker::start(command, charge) {
            Ok(worker) => self.0 = Some(worker),
            Err(error) => tracing::warn!(%error, "no worker stands by; the next one is started when it is needed"),
        }
    }

    /// The worker that is to serve now, welcomed: the one that stood by, or a fresh one.
    ///
    /// # Errors
    /// If the system has no room for a process or a socket.
    pub(super) fn next(
        &mut self,
        command: &WorkerCommand,
        charge: &Charge,
        generation: u64,
        listener: BorrowedFd<'_>,
    ) -> io::Result<Worker> {
        if let Some(mut worker) = self.0.take() {
            match worker.welcome(generation, listener) {
                Ok(()) => return Ok(worker),
                Err(error) => {
                    tracing::warn!(pid = worker.id(), %error, "the worker that stood by is gone");
                    worker.kill(|| ())?;
                }
            }
        }
        welcomed(Worker::start(command, charge)?, generation, listener)
    }

    /// What tells of it: its end, and its line.
    pub(super) fn descriptors(&self) -> Option<[BorrowedFd<'_>; 2]> {
        let [end, line, _] = self.0.as_ref()?.descriptors();
        Some([end, line])
    }

    /// It has said something or has ended, neither of which is for it to do.
    pub(super) fn speaks(&mut self, alive: impl FnMut()) {
        if let Some(worker) = &self.0 {
            tracing::warn!(
                pid = worker.id(),
                "the worker that stood by ended or spoke; the next one is started when it is needed"
            );
            self.end(alive);
        }
    }

    /// Ends it.
    pub(super) fn end(&mut self, alive: impl FnMut()) {
        if let Some(mut worker) = self.0.take()
            && let Err(error) = worker.kill(alive)
        {
            // It has no part of the mount, so it is in nobody's way.
            tracing::error!(pid = worker.id(), %error, "the worker that stood by cannot be ended");
        }
    }
}

/// A fresh worker with its welcome, which it may not live to see.
fn welcomed(mut worker: Worker, generation: u64, listener: BorrowedFd<'_>) -> io::Result<Worker> {
    match worker.welcome(generation, listener) {
        // Somebody killed it before that: its end is seen like any other's.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(worker),
        sent => sent.map(|()| worker),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixListener;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::config::Texts;

    fn command(program: &str, args: &[&str]) -> WorkerCommand {
        WorkerCommand { program: program.into(), args: args.iter().map(Into::into).collect() }
    }

    /// Of a configuration in `dir`, which also has the control socket.
    fn charge(dir: &tempfile::TempDir) -> Charge {
        let file = dir.path().join("mcpfs.toml");
        std::fs::write(&file, "[registry]\nurl = \"http://localhost/\"\n").unwrap();
        let texts = Texts::read(&file).unwrap();
        let config = texts.config().unwrap();
        Charge::new(texts, &config, None)
    }

    /// A worker that has ended already, and of whose line nobody has the other end: between fork and exec another
    /// test's child has it, too.
    fn dead(charge: &Charge) -> Worker {
        let worker = Worker::start(&command("true", &[]), charge).unwrap();
        let [end, line, _] = worker.descriptors();
        for (one, what) in [(end, PollFlags::IN), (line, PollFlags::HUP)] {
            let mut asked = [PollFd::from_borrowed_fd(one, PollFlags::IN)];
            assert_eq!(poll(&mut asked, None).unwrap(), 1);
            assert!(asked[0].revents().contains(what), "{:?}", asked[0].revents());
        }
        worker
    }

    fn listener(dir: &tempfile::TempDir) -> UnixListener {
        UnixListener::bind(dir.path().join("control.sock")).unwrap()
    }

    /// Nothing fails but the worker: whoever watches it sees its end.
    #[test]
    fn one_that_was_killed_before_its_welcome_is_dead_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let listener = listener(&dir);
        let mut worker = welcomed(dead(&charge(&dir)), 7, listener.as_fd()).unwrap();
        assert!(worker.kill(|| ()).unwrap().success(), "it had ended by itself");
    }

    #[test]
    fn one_that_stood_by_and_is_gone_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (listener, charge) = (listener(&dir), charge(&dir));
        let gone = dead(&charge);
        let number = gone.id();
        let mut standby = Standby(Some(gone));
        let mut next = standby.next(&command("sleep", &["3600"]), &charge, 7, listener.as_fd()).unwrap();
        assert!(next.id() != number && standby.descriptors().is_none());
        next.kill(|| ()).unwrap();
    }

    /// What is not the worker's end is no reason to go on.
    #[test]
    fn a_worker_that_was_welcomed_is_not_welcomed_again() {
        let dir = tempfile::tempdir().unwrap();
        let listener = listener(&dir);
        let fresh = Worker::start(&command("sleep", &["3600"]), &charge(&dir)).unwrap();
        let mut worker = welcomed(fresh, 7, listener.as_fd()).unwrap();
        assert_eq!(worker.welcome(8, listener.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        worker.kill(|| ()).unwrap();
    }
}
