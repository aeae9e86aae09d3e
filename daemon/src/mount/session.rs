//! A served mount: from the descriptor to the threads, and the one clean way to end it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use fuser::{Config, Filesystem, Notifier, SessionACL};
use tokio::sync::watch;

use super::{Backing, MountError, Mountpoint, Reads, takeover};
use crate::worker::Link;

/// Where a session's descriptor comes from.
#[derive(Debug)]
pub enum Seat {
    /// This process mounts and unmounts.
    Own(Mountpoint),
    /// The supervisor does, at this path; perhaps others have served there before.
    Handed(PathBuf, Arc<Link>),
}

/// What a session needs besides its file system.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cache's directory: passthrough is tried with a file on its file system.
    pub cache: PathBuf,
    /// Threads that read requests, at least 2: one that waits for a disk must not be the last.
    pub threads: usize,
}

/// A mount that is being served. Dropping it changes nothing: only [`Self::stop`] unmounts.
#[derive(Debug)]
pub struct Session {
    at: PathBuf,
    /// The mount point and the mount's device number, by which `stop` knows its own mount from a
    /// later one; nothing if it is the supervisor's to unmount.
    own: Option<(Mountpoint, Option<String>)>,
    reads: Reads,
    takeover: bool,
    notifier: Notifier,
    /// True once every serving thread has ended.
    ended: watch::Receiver<bool>,
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Nobody used it any more.
    Clean,
    /// It is out of the tree, but somebody still has a file or directory of it open.
    StillInUse,
}

impl Session {
    /// Takes its seat and serves `filesystem` in threads of its own.
    ///
    /// `backing` must be the one that `filesystem` negotiates with in its `init`; how the mount
    /// reads is decided before the first request is answered, and then `inherit` takes up what
    /// others left.
    ///
    /// # Errors
    /// Every reason not to mount; nothing of one's own stays mounted then.
    pub fn start(
        seat: Seat,
        filesystem: impl Filesystem,
        backing: &Arc<Backing>,
        options: &Options,
        inherit: impl FnOnce() -> io::Result<()>,
    ) -> Result<Self, MountError> {
        match seat {
            Seat::Own(point) => {
                let fd = point.mount()?;
                let started = Self::open(filesystem, fd, options)
                    .map_err(|error| MountError::io("the FUSE handshake failed", point.path(), error))
                    .and_then(|session| Self::serve(point.path(), session, backing, options, inherit))
                    // Only mountinfo knows the number, and it is asked without touching the mount.
                    .and_then(|served| Ok((served, point.entry()?.map(|entry| entry.device))));
                match started {
                    Ok((served, device)) => Ok(Self { own: Some((point, device)), ..served }),
                    Err(error) => {
                        if let Err(left) = point.unmount() {
                            tracing::warn!(at = %point.path().display(), error = %left, "a mount that never served was left behind");
                        }
                        Err(error)
                    }
                }
            }
            Seat::Handed(at, link) => {
                let (session, takeover) = takeover::session(&link, |fd| Self::open(filesystem, fd, options))
                    .map_err(|error| MountError::io("taking the mount over failed", &at, error))?;
                // Without links, as mountinfo has it.
                let at = Mountpoint::mounted(&at)?.map_or(at, |point| point.path().to_owned());
                Ok(Self { takeover, ..Self::serve(&at, session, backing, options, inherit)? })
            }
        }
    }

    fn open<F: Filesystem>(filesystem: F, fd: OwnedFd, options: &Options) -> io::Result<fuser::Session<F>> {
        let mut config = Config::default();
        config.n_threads = Some(options.threads.max(2));
        // One descriptor for all threads: releasing a cloned one aborts what is queued on it.
        config.clone_fd = false;
        // The kernel already keeps others out where allow_other is not set.
        fuser::Session::from_fd(filesystem, fd, SessionACL::All, config)
    }

    fn serve(
        at: &Path,
        session: fuser::Session<impl Filesystem>,
        backing: &Arc<Backing>,
        options: &Options,
        inherit: impl FnOnce() -> io::Result<()>,
    ) -> Result<Self, MountError> {
        let notifier = session.notifier();
        let reads = backing
            .probe(&options.cache)
            .map_err(|error| MountError::io("serving as the last worker did failed", at, error))?;
        inherit().map_err(|error| MountError::io("taking up what the last worker left failed", at, error))?;
        let (tell, ended) = watch::channel(false);
        thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || {
                match session.run() {
                    Ok(()) => tracing::info!("the mount has ended"),
                    Err(error) => tracing::error!(%error, "serving the mount ended with an error"),
                }
                tell.send_replace(true);
            })
            .map_err(|error| MountError::io("starting the serving threads failed", at, error))?;
        Ok(Self { at: at.to_owned(), own: None, reads, takeover: false, notifier, ended })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// How files of a tree are read here.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// Whether another process can take its place without an error for anybody.
    pub fn takeover(&self) -> bool {
        self.takeover
    }

    /// Sends invalidations to the kernel. Never from inside a FUSE handler: the kernel may wait
    /// there for a lock that the very request holds.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Waits until the mount is gone, by [`Self::stop`] or because somebody unmounted it.
    pub async fn ended(&self) {
        self.until_ended().await;
    }

    /// The same, for whoever must not hold the session.
    pub fn until_ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.ended.clone();
        async move {
            // An error means that the sender is gone, and with it the threads.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Unmounts what is one's own, lazily if it is busy, and waits up to `patience` for the last user and the
    /// serving threads. Call it outside the runtime's threads: it blocks.
    ///
    /// # Errors
    /// If the mount cannot be removed. It is fine if somebody else has already done that.
    pub fn stop(self, patience: Duration) -> Result<Stopped, MountError> {
        let step = Duration::from_millis(5);
        let over = |ended: &watch::Receiver<bool>| *ended.borrow() || ended.has_changed().is_err();
        // What is the supervisor's it has unmounted, or it wants the next worker to serve it.
        let Some((point, device)) = &self.own else { return Ok(Stopped::Clean) };
        if point.entry()?.is_some_and(|entry| Some(entry.device) == *device) {
            point.unmount().map_err(|error: io::Error| MountError::io("unmounting failed", self.path(), error))?;
        }
        let mut waited = Duration::ZERO;
        while !over(&self.ended) {
            if waited >= patience {
                return Ok(Stopped::StillInUse);
            }
            thread::sleep(step);
            waited += step;
        }
        Ok(Stopped::Clean)
    }
}
