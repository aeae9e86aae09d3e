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
        match Worker::start(command, charge) {
            Ok(mut worker) => {
                tracing::debug!(pid = worker.id(), "a worker stands by");
                worker.stood_by = true;
                self.0 = Some(worker);
            }
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
        let mut worker = Worker::start(command, charge)?;
        match worker.welcome(generation, listener) {
            // Somebody killed it before that: its end is seen like any other's.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            welcomed => welcomed?,
        }
        Ok(worker)
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
