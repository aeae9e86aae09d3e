//! A served mount: from the descriptor to the threads, and the one clean way to end it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use fuser::{Config, Filesystem, Notifier, SessionACL};
use tokio::sync::watch;

use super::{Backing, MountError, Mountpoint, Reads};

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
    point: Mountpoint,
    /// The mount's device number, by which `stop` knows its own mount from a later one.
    device: Option<String>,
    reads: Reads,
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
    /// Mounts at `point` and serves `filesystem` in threads of its own.
    ///
    /// `backing` must be the one that `filesystem` negotiates with in its `init`; how the mount
    /// reads is decided before the first request is answered.
    ///
    /// # Errors
    /// Every reason not to mount; nothing stays mounted then.
    pub fn start(
        point: Mountpoint,
        filesystem: impl Filesystem,
        backing: &Arc<Backing>,
        options: &Options,
    ) -> Result<Self, MountError> {
        let fd = point.mount()?;
        match Self::serve(&point, fd, filesystem, backing, options) {
            Ok((notifier, reads, ended)) => {
                // Only mountinfo knows the number, and it is asked without touching the mount.
                let device = point.entry()?.map(|entry| entry.device);
                Ok(Self { point, device, reads, notifier, ended })
            }
            Err(error) => {
                if let Err(left) = point.unmount() {
                    tracing::warn!(at = %point.path().display(), error = %left, "a mount that never served was left behind");
                }
                Err(error)
            }
        }
    }

    fn serve(
        point: &Mountpoint,
        fd: std::os::fd::OwnedFd,
        filesystem: impl Filesystem,
        backing: &Arc<Backing>,
        options: &Options,
    ) -> Result<(Notifier, Reads, watch::Receiver<bool>), MountError> {
        let mut config = Config::default();
        config.n_threads = Some(options.threads.max(2));
        // One descriptor for all threads: releasing a cloned one aborts what is queued on it.
        config.clone_fd = false;
        // The kernel already keeps others out where allow_other is not set.
        let session = fuser::Session::from_fd(filesystem, fd, SessionACL::All, config)
            .map_err(|error| MountError::io("the FUSE handshake failed", point.path(), error))?;
        let notifier = session.notifier();
        let reads = backing.probe(session.as_fd(), &options.cache);
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
            .map_err(|error| MountError::io("starting the serving threads failed", point.path(), error))?;
        Ok((notifier, reads, ended))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// How files of a tree are read here.
    pub fn reads(&self) -> Reads {
        self.reads
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

    /// Unmounts, lazily if it is busy, and waits up to `patience` for the last user and the
    /// serving threads. Call it outside the runtime's threads: it blocks.
    ///
    /// # Errors
    /// If the mount cannot be removed. It is fine if somebody else has already done that.
    pub fn stop(self, patience: Duration) -> Result<Stopped, MountError> {
        let step = Duration::from_millis(5);
        let over = |ended: &watch::Receiver<bool>| *ended.borrow() || ended.has_changed().is_err();
        if self.point.entry()?.is_some_and(|entry| Some(entry.device) == self.device) {
            self.point.unmount().map_err(|error: io::Error| MountError::io("unmounting failed", self.path(), error))?;
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
