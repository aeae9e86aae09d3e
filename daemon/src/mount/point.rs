//! Where to mount: resolved, checked, and cleared of what a dead daemon left.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, io, thread};

use rustix::io::Errno;

use super::mountinfo::mounted_at;
use super::{FS_TYPE, MountEntry, MountError, fusermount, kernel};

/// Symbolic links followed on the way to a mount point, as many as the kernel would follow.
const LINKS: usize = 40;

/// How long a mount of ours may take to say that it lives.
const PATIENCE: Duration = Duration::from_secs(3);

/// An empty directory that is no mount point: absolute, and without a link in its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mountpoint {
    path: PathBuf,
}

impl Mountpoint {
    /// Checks `at`; a stale mount of ours on it is lazily unmounted, and said so in the log.
    ///
    /// # Errors
    /// Every reason not to mount there.
    pub fn prepare(at: &Path) -> Result<Self, MountError> {
        let path = resolve(at)?;
        // Several may lie on top of each other after several crashes.
        while let Some(entry) = look(&path)? {
            if entry.kind != FS_TYPE {
                return Err(MountError::ForeignMount { at: path, kind: entry.kind.to_string_lossy().into_owned() });
            }
            match probe(&path)? {
                State::Live => return Err(MountError::AlreadyServed(path)),
                State::Silent => return Err(MountError::Silent(path)),
                State::Stale => {
                    tracing::warn!(at = %path.display(), "clearing a stale mount whose daemon is gone");
                    let cleared = if is_root() { kernel::detach(&path) } else { fusermount::detach(&path) };
                    cleared.map_err(|error| MountError::io("clearing a stale mount failed", &path, error))?;
                }
            }
        }
        check_directory(&path)?;
        Ok(Self { path })
    }

    /// Takes away the mounts of ours at `at` that nobody serves, and those that do not answer if `silent`:
    /// whoever waits for one gets an error. How many there were.
    ///
    /// # Errors
    /// `AlreadyServed` if one lives, `Silent` if one does not answer and is to be left.
    pub fn clear(at: &Path, silent: bool) -> Result<usize, MountError> {
        let path = resolve(at)?;
        let mut cleared = 0;
        while look(&path)?.is_some_and(|entry| entry.kind == FS_TYPE) {
            match probe(&path)? {
                State::Live => return Err(MountError::AlreadyServed(path)),
                State::Silent if !silent => return Err(MountError::Silent(path)),
                State::Silent | State::Stale => {
                    let aborted = if is_root() { kernel::abort(&path) } else { fusermount::detach(&path) };
                    aborted.map_err(|error| MountError::io("clearing a stale mount failed", &path, error))?;
                    cleared += 1;
                }
            }
        }
        Ok(cleared)
    }

    /// The place of a mount of ours that is there already, whether or not anybody serves it.
    ///
    /// # Errors
    /// If mountinfo cannot be read, or the path leads nowhere.
    pub fn mounted(at: &Path) -> Result<Option<Self>, MountError> {
        let path = resolve(at)?;
        Ok(look(&path)?.is_some_and(|entry| entry.kind == FS_TYPE).then_some(Self { path }))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that `path` does not lie below this mount point, links resolved: once it is
    /// served, the daemon would wait for itself there.
    ///
    /// # Errors
    /// `Inside`.
    pub fn leaves_out(&self, path: &Path) -> Result<(), MountError> {
        // What does not exist yet will be made below the nearest directory that does.
        match path.ancestors().find_map(|above| above.canonicalize().ok()) {
            Some(real) if real.starts_with(&self.path) => {
                Err(MountError::Inside { path: path.to_owned(), at: self.path.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Mounts: as root by mount(2), otherwise by fusermount3.
    pub(crate) fn mount(&self) -> Result<OwnedFd, MountError> {
        if is_root() { kernel::mount(&self.path) } else { fusermount::mount(&self.path) }
    }

    /// What is mounted here, by mountinfo.
    pub(super) fn entry(&self) -> Result<Option<MountEntry>, MountError> {
        look(&self.path)
    }

    /// Aborts what is mounted here, so that whoever waits gets an error, and takes it out of the tree. For root.
    pub(crate) fn abort(&self) -> io::Result<()> {
        kernel::abort(&self.path)
    }

    /// Unmounts the topmost mount here; lazily if it is busy.
    pub(crate) fn unmount(&self) -> io::Result<()> {
        if is_root() { kernel::unmount(&self.path) } else { fusermount::unmount(&self.path) }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn look(path: &Path) -> Result<Option<MountEntry>, MountError> {
    mounted_at(path).map_err(|error| MountError::io("reading mountinfo failed", "/proc/self/mountinfo", error))
}

/// Follows links without ever asking the mount point itself, which `canonicalize` would.
fn resolve(at: &Path) -> Result<PathBuf, MountError> {
    let mut path = std::path::absolute(at).map_err(|error| MountError::io("the mount point has no path", at, error))?;
    for _ in 0..LINKS {
        let name = last_name(&path).ok_or_else(|| MountError::Nameless(at.to_owned()))?.to_owned();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent = match fs::canonicalize(parent) {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing(at.to_owned())),
            Err(error) => return Err(MountError::io("reaching the mount point failed", parent, error)),
        };
        path = parent.join(name);
        if look(&path)?.is_some() {
            return Ok(path);
        }
        match fs::read_link(&path) {
            Ok(target) => path = parent.join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(MountError::io("too many symbolic links", at, Errno::LOOP))
}

/// The last part of a path; `/`, `.` and `..` have none.
fn last_name(path: &Path) -> Option<&OsStr> {
    match path.components().next_back()? {
        Component::Normal(name) => Some(name),
        _ => None,
    }
}

fn check_directory(path: &Path) -> Result<(), MountError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing(path.to_owned())),
        Err(error) => return Err(MountError::io("looking at the mount point failed", path, error)),
    };
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory(path.to_owned()));
    }
    let mut entries =
        fs::read_dir(path).map_err(|error| MountError::io("reading the mount point failed", path, error))?;
    match entries.next() {
        Some(_) => Err(MountError::NotEmpty(path.to_owned())),
        None => Ok(()),
    }
}

enum State {
    Live,
    Silent,
    Stale,
}

/// Whether a mount of ours still has a daemon. statfs, because the kernel never answers it from
/// a cache; in a thread, because a daemon that hangs would not let it return.
fn probe(path: &Path) -> Result<State, MountError> {
    let (send, receive) = mpsc::channel();
    let asked = path.to_owned();
    thread::Builder::new()
        .name("mount-probe".to_owned())
        .spawn(move || {
            let _ = send.send(rustix::fs::statfs(&asked).map(drop));
        })
        .map_err(|error| MountError::io("starting a thread failed", path, error))?;
    match receive.recv_timeout(PATIENCE) {
        Ok(Ok(())) => Ok(State::Live),
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::CONNREFUSED)) => Ok(State::Stale),
        // Another user's mount without allow_other.
        Ok(Err(Errno::ACCESS | Errno::PERM)) => Ok(State::Live),
        Ok(Err(error)) => Err(MountError::io("asking the old mount failed", path, error)),
        Err(_) => Ok(State::Silent),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_an_empty_directory_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir(base.join("good")).unwrap();
        fs::create_dir_all(base.join("full/x")).unwrap();
        fs::write(base.join("file"), "").unwrap();
        std::os::unix::fs::symlink("good", base.join("link")).unwrap();
        std::os::unix::fs::symlink("loop", base.join("loop")).unwrap();

        let prepare = |name: &str| Mountpoint::prepare(&base.join(name));
        assert_eq!(prepare("good").unwrap().path(), base.join("good"));
        assert_eq!(prepare("link").unwrap().path(), base.join("good"));
        assert!(matches!(prepare("full"), Err(MountError::NotEmpty(_))));
        assert!(matches!(prepare("file"), Err(MountError::NotADirectory(_))));
        assert!(matches!(prepare("file/below"), Err(MountError::Io { .. })));
        assert!(matches!(prepare("loop"), Err(MountError::Io { .. })));
        assert!(matches!(Mountpoint::prepare(Path::new("/")), Err(MountError::Nameless(_))));
        for missing in ["none", "none/below"] {
            let error = prepare(missing).unwrap_err();
            assert!(matches!(error, MountError::Missing(_)));
            assert!(error.to_string().contains("mkdir -p"), "{error}");
        }
    }

    #[test]
    fn nothing_of_ours_lies_below_the_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("mcp")).unwrap();
        fs::create_dir_all(base.join("mcp-cache")).unwrap();
        std::os::unix::fs::symlink("mcp", base.join("link")).unwrap();
        let point = Mountpoint::prepare(&base.join("mcp")).unwrap();
        for outside in ["mcp-cache", "none/below", "mcp-cache/none", "."] {
            point.leaves_out(&base.join(outside)).unwrap();
        }
        for inside in ["mcp", "mcp/cache", "mcp/a/b", "link/cache", "mcp-cache/../mcp/x"] {
            let error = point.leaves_out(&base.join(inside)).unwrap_err();
            assert!(matches!(error, MountError::Inside { .. }), "{inside}: {error}");
        }
    }

    #[test]
    fn a_foreign_mount_is_left_alone() {
        assert!(
            matches!(Mountpoint::prepare(Path::new("/proc")), Err(MountError::ForeignMount { kind, .. }) if kind == "proc")
        );
    }
}
