//! systemd: what it is told, and what it keeps for the supervisor after this one.
//!
//! Under any other parent all of this does nothing. `systemctl restart` and an upgrade end this
//! process and start another; in between systemd holds the session's descriptors, so that the
//! mount stays and whoever asks it something waits. A session is complete or it is not one: the
//! parts are stored one after the other, and a supervisor that finds some of them only gives them
//! back and mounts anew.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::{charge, session};

/// The names of what is stored, in the order of storing: the mount's own descriptor last.
pub(super) const NAMES: [&str; 5] = ["control", "backings", "counts", session::NAME, "fuse"];

/// What systemd handed on.
#[derive(Debug)]
pub(super) struct Stored {
    /// The control socket.
    pub(super) control: Option<OwnedFd>,
    /// The rest, in the order of [`NAMES`], if all of it is there.
    pub(super) session: Option<[OwnedFd; NAMES.len() - 1]>,
}

/// What systemd handed on under a name, to be looked at and written to: another descriptor of it, for its own is still to
/// be taken over. Only this service can have stored it.
pub(super) fn handed_on(name: &str) -> Option<File> {
    let (number, _) = sd_notify::listen_fds_with_names().ok()?.find(|(_, found)| found == name)?;
    duplicate(number).ok()
}

#[allow(unsafe_code)]
fn duplicate(number: RawFd) -> io::Result<File> {
    // SAFETY: systemd opened this number for this process; until it is taken over nobody closes it.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?.into())
}

/// This process as a service.
#[derive(Debug)]
pub(super) struct Service {
    present: bool,
    /// Whether systemd keeps the session when this process ends, so that it must not unmount.
    pub(super) keeps: bool,
    /// How often the watchdog is to be told, and when it was.
    watchdog: Option<(Duration, Instant)>,
}

impl Service {
    /// Looks at the environment; `keep` is what the unit says.
    pub(super) fn new(keep: bool) -> Self {
        let present = std::env::var_os("NOTIFY_SOCKET").is_some();
        // Three times within the time that systemd waits, so that one that is late does no harm.
        let watchdog = sd_notify::watchdog_enabled().map(|period| (period / 3, Instant::now()));
        Self { present, keeps: present && keep, watchdog }
    }

    /// What an earlier supervisor has stored; none if that is nothing.
    #[allow(unsafe_code)]
    pub(super) fn stored(&self) -> Option<Stored> {
        let found = sd_notify::listen_fds_with_names().ok()?;
        let mut by_name: HashMap<String, OwnedFd> = HashMap::new();
        for (number, name) in found {
            use std::os::fd::FromRawFd;
            // SAFETY: systemd opened these numbers for this process, and nothing else takes them:
            // this is called once, at the start.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            let _ = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC);
            by_name.insert(name, descriptor);
        }
        if by_name.is_empty() {
            return None;
        }
        let [control, parts @ ..] = NAMES.map(|name| by_name.remove(name));
        let session = match parts {
            [Some(backings), Some(counts), Some(session), Some(fuse)] => Some([backings, counts, session, fuse]),
            _ => None,
        };
        Some(Stored { control, session })
    }

    /// Gives systemd the session to keep.
    pub(super) fn store(&self, descriptors: [BorrowedFd<'_>; NAMES.len()]) {
        if !self.keeps {
            return;
        }
        for (name, descriptor) in NAMES.into_iter().zip(descriptors) {
            self.tell_with(&[NotifyState::FdStore, NotifyState::FdName(name)], &[descriptor]);
        }
    }

    /// Gives systemd what is in force, in the place of what it has: it is no part of a session, and one is
    /// whole without it.
    pub(super) fn keep_charge(&self, memory: io::Result<OwnedFd>) {
        if !self.keeps {
            return;
        }
        self.tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(charge::NAME)]);
        match memory {
            Ok(memory) => {
                self.tell_with(&[NotifyState::FdStore, NotifyState::FdName(charge::NAME)], &[memory.as_fd()]);
            }
            Err(error) => tracing::warn!(%error, "the configuration in force is not kept for a restart"),
        }
    }

    /// Lets systemd close what it keeps: the session is over.
    pub(super) fn forget(&self) {
        if self.keeps {
            for name in NAMES.into_iter().chain([charge::NAME]) {
                self.tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
            }
        }
    }

    /// It serves.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The line that `systemctl status` shows.
    pub(super) fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// The configuration is being read again; [`Self::ready`] ends this.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// It is ending because it was asked to.
    pub(super) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Tells the watchdog if it is time; called at every turn.
    pub(super) fn alive(&mut self) {
        let Some((period, last)) = &mut self.watchdog else { return };
        if last.elapsed() >= *period {
            *last = Instant::now();
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// How long the supervisor may sleep.
    pub(super) fn period(&self) -> Option<Duration> {
        self.watchdog.map(|(period, _)| period)
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        self.tell_with(states, &[]);
    }

    fn tell_with(&self, states: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) {
        if !self.present {
            return;
        }
        let told = match descriptors.is_empty() {
            true => sd_notify::notify(states),
            false => sd_notify::notify_with_fds(states, descriptors),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "systemd cannot be told");
        }
    }
}
