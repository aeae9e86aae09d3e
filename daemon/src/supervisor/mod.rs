//! The supervisor: the part of mcpfs that must not fail, and therefore does next to nothing.
//!
//! It is root, mounts, and keeps what must outlive a crash: the `/dev/fuse` descriptor, the
//! backing ids that the kernel reads from, and the socket that launches ask. It has no network,
//! reads no file but the host's own configuration, which it hands to its workers (`charge`), and
//! parses nothing but that and messages of one fixed size (`wire`). All the rest is the *worker*: the same program again, as a user
//! without rights ([`crate::worker`]), which fetches, verifies, decides and answers the kernel.
//!
//! **A worker that dies is replaced on the same mount.** Requests meanwhile wait in the kernel;
//! those that the dead one had taken are sent again. The order is fixed: dead for certain, then
//! the resend, then the successor. Two that served at once could answer one request twice.
//!
//! **Nobody waits for ever.** If no worker serves within ten seconds, whoever waits gets EIO, the
//! mount is aborted and taken away, and this process ends, to be started anew by its own parent.
//! The same happens where a worker cannot take over: another INIT, a kernel without resend. A
//! request that kills every worker that takes it is answered with EIO after three deaths.

pub(crate) mod backings;
pub(crate) mod charge;
mod child;
mod deaths;
mod device;
mod door;
mod handle;
mod ioctl;
mod keep;
pub(crate) mod opens;
mod readers;
mod room;
mod service;
mod session;
mod signals;
mod standby;
pub(crate) mod wire;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use self::backings::Backings;
pub use self::charge::Charge;
pub use self::child::WorkerCommand;
use self::keep::Supervisor;
pub use self::room::User;
use self::service::{Service, Stored};
pub(crate) use self::session::Left;
use self::session::Session;
pub use self::signals::Signals;
pub(crate) use self::signals::{end_relieved, rest};
use crate::mount::{MountError, Mountpoint};

/// What a supervisor needs to know.
#[derive(Debug)]
pub struct Settings {
    /// Where to mount.
    pub at: PathBuf,
    /// The state directory, the worker's alone.
    pub state: PathBuf,
    /// The cache, the worker's alone.
    pub cache: PathBuf,
    /// Control socket and launcher; root's.
    pub rundir: PathBuf,
    /// What the mount must not cover.
    pub outside: Vec<PathBuf>,
    /// What workers decide by.
    pub charge: Charge,
    /// Whom the worker runs as.
    pub user: User,
    /// Whether systemd keeps the mount when this process dies, or makes room for another (`--keep-mount`).
    pub keep: bool,
    /// How the worker is started.
    pub worker: WorkerCommand,
    /// What this process is asked from outside.
    pub signals: Signals,
}

/// How a supervisor ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was stopped, or somebody unmounted what it served.
    Over,
    /// It made room for another process, for which systemd keeps the mount.
    Relieved,
}

/// Why there is no supervisor any more.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Nothing was mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A worker ended before anything was served; it has said why.
    #[error("the worker ended before it served ({status})")]
    NeverServed {
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// No worker could take over. The mount is gone.
    #[error("no worker serves: {why}; whoever waited got EIO, and the mount was taken away")]
    Outage {
        /// What stood in the way.
        why: String,
    },
    /// Anything else, with the step that failed.
    #[error("{step}")]
    Io {
        /// What was being done.
        step: String,
        /// The system's answer.
        source: io::Error,
    },
}

fn failed(step: impl Into<String>) -> impl FnOnce(io::Error) -> SupervisorError {
    let step = step.into();
    move |source| SupervisorError::Io { step, source }
}

/// Mounts, or takes a mount over from systemd, and keeps a worker on it until it is told to stop.
///
/// # Errors
/// As [`SupervisorError`]; nothing stays mounted then.
pub fn run(settings: Settings) -> Result<End, SupervisorError> {
    // What whoever started this had open is not the worker's.
    crate::launch::descriptors::close_on_exec().map_err(failed("looking at what is open failed"))?;
    let mut supervisor = Supervisor::new(settings)?;
    let outcome = supervisor.keep_serving();
    if outcome.is_err() {
        supervisor.give_up();
    }
    outcome
}

/// What systemd kept.
#[derive(Default)]
struct Kept {
    /// The session, if it is whole and still ours.
    session: Option<(Session, Backings)>,
    /// The control socket, if it is the one that is asked at. It is of use without the session, too: as long as
    /// systemd holds it, it seems to answer, and no other could be made.
    control: Option<UnixListener>,
}

impl Kept {
    fn by(service: &Service, stored: Option<Stored>, settings: &Settings) -> Self {
        let Some(stored) = stored else { return Self::default() };
        let control = stored.control.and_then(|control| room::control(settings, control));
        let taken = || -> io::Result<_> {
            let parts = stored.session.ok_or_else(|| io::Error::other("systemd kept only parts of it"))?;
            let [table, opens, record, fuse] = parts;
            let point = Mountpoint::mounted(&settings.at).map_err(io::Error::other)?;
            let point = point.ok_or_else(|| io::Error::other("nothing of ours is mounted there any more"))?;
            let session = Session::adopt(point, fuse, record)?;
            if session.is_over() {
                return Err(io::Error::other("its connection was aborted"));
            }
            Ok((session, Backings::new(&settings.cache, settings.user.uid, Some((table, opens)))?))
        };
        let session = taken().map_err(|error| {
            tracing::warn!(%error, "the session that systemd kept cannot be taken over; mounting anew");
            service.forget();
            if let Ok(Some(point)) = Mountpoint::mounted(&settings.at) {
                drop(point.abort());
            }
        });
        Self { session: session.ok(), control }
    }
}
