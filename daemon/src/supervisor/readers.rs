//! The processes that read credentials: started for a worker's question, and never waited for.
//!
//! Each answers whoever asked by itself ([`crate::credentials`]); here they are only counted and reaped.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Child;

use rustix::io::Errno;

use super::Settings;
use crate::credentials::{Order, Whom};

/// Readers at a time. A source that hangs takes one place until it ends.
const MOST: usize = 32;

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
pub(super) struct Readers(Vec<Child>);

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
        if self.0.len() >= MOST {
            return Err(Errno::AGAIN);
        }
        let child = order.start(connection.as_fd(), reply.as_fd()).map_err(|error| {
            tracing::error!(%error, "no process can be started to read a credential");
            Errno::from_io_error(&error).unwrap_or(Errno::IO)
        })?;
        self.0.push(child);
        Ok(())
    }

    /// Forgets those that have ended.
    pub(super) fn reap(&mut self) {
        self.0.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}
