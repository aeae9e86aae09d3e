//! `${STATE}`: where a server may keep what it must remember, one directory for each user
//! and server below `$XDG_STATE_HOME/mcpfs` (by default `~/.local/state/mcpfs`).
//!
//! The registry's name is a part of the path: another registry's server of the same name
//! is another server and must not find this one's memory. The version is not: an update
//! goes on where its predecessor stopped.
//!
//! Everything below the user's own base is made here and opened without following links,
//! so nobody who can write somewhere above can turn the directory elsewhere in between;
//! the server's working directory is the descriptor that was checked, not a path again.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};

/// Why there is no state directory.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("the state directory {} is a symbolic link: remove it", .0.display())]
    Link(PathBuf),
    #[error("the state directory {} is not a directory: move it away", .0.display())]
    NotADirectory(PathBuf),
    #[error("the state directory {} belongs to user {owner}, not to you: move it away", path.display())]
    Foreign { path: PathBuf, owner: u32 },
    #[error("others may write to the state directory {}: run chmod 700 on it", .0.display())]
    Writable(PathBuf),
    #[error("cannot make the state directory {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A checked state directory.
#[derive(Debug)]
pub(super) struct State {
    /// What `${STATE}` expands to.
    pub(super) path: PathBuf,
    /// The same directory, open.
    pub(super) directory: OwnedFd,
}

/// The base that all state lies below: `$XDG_STATE_HOME` if it is absolute, else the default.
pub(super) fn base(xdg_state_home: Option<&OsStr>, home: &Path) -> PathBuf {
    match xdg_state_home.map(Path::new) {
        Some(path) if path.is_absolute() => path.to_owned(),
        _ => home.join(".local/state"),
    }
}

/// Makes or opens `<base>/mcpfs/<registry>/<name>`, mode 0700.
///
/// # Errors
/// If a part is a link, no directory, somebody else's, or writable by others.
pub(super) fn open(base: &Path, names: &[String; 2]) -> Result<State, StateError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(base).map_err(io_error(base))?;
    let mut path = base.to_owned();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(CWD, base, flags, Mode::empty()).map_err(io_error(base))?;
    for name in ["mcpfs", &names[0], &names[1]] {
        path.push(name);
        match rustix::fs::mkdirat(&directory, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(io_error(&path)(error)),
        }
        directory = match rustix::fs::openat(&directory, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(next) => next,
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Err(not_a_directory(&path)),
            Err(error) => return Err(io_error(&path)(error)),
        };
        let stat = rustix::fs::fstat(&directory).map_err(io_error(&path))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(StateError::Foreign { path, owner: stat.st_uid });
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(StateError::Writable(path));
        }
    }
    rustix::fs::fchmod(&directory, Mode::RWXU).map_err(io_error(&path))?;
    Ok(State { path, directory })
}

fn not_a_directory(path: &Path) -> StateError {
    let link = rustix::fs::lstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
    if link { StateError::Link(path.to_owned()) } else { StateError::NotADirectory(path.to_owned()) }
}

fn io_error<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> StateError {
    |error| StateError::Io { path: path.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names() -> [String; 2] {
        ["mcp.example.com+prod".to_owned(), "memory".to_owned()]
    }

    #[test]
    fn bases() {
        let home = Path::new("/home/u");
        for (xdg, want) in [
            (None, "/home/u/.local/state"),
            (Some(""), "/home/u/.local/state"),
            (Some("relative"), "/home/u/.local/state"),
            (Some("/srv/state"), "/srv/state"),
        ] {
            assert_eq!(base(xdg.map(OsStr::new), home), Path::new(want));
        }
    }

    #[test]
    fn made_private_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("a/b");
        let first = open(&base, &names()).unwrap();
        assert_eq!(first.path, base.join("mcpfs/mcp.example.com+prod/memory"));
        fs::write(first.path.join("kept"), "x").unwrap();
        fs::set_permissions(&first.path, fs::Permissions::from_mode(0o755)).unwrap();
        let again = open(&base, &names()).unwrap();
        assert_eq!(fs::metadata(&again.path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(again.path.join("kept").exists());
    }

    #[test]
    fn refused() {
        let elsewhere = tempfile::tempdir().unwrap();
        for depth in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let parts = ["mcpfs", "mcp.example.com+prod", "memory"];
            let parent = parts[..depth].iter().fold(dir.path().to_owned(), |path, part| path.join(part));
            fs::create_dir_all(&parent).unwrap();
            let at = parent.join(parts[depth]);

            symlink(elsewhere.path(), &at).unwrap();
            let error = open(dir.path(), &names()).unwrap_err();
            assert!(matches!(&error, StateError::Link(path) if *path == at), "{error}");
            fs::remove_file(&at).unwrap();

            symlink("/nowhere", &at).unwrap();
            assert!(matches!(open(dir.path(), &names()), Err(StateError::Link(_))));
            fs::remove_file(&at).unwrap();

            fs::write(&at, "").unwrap();
            assert!(matches!(open(dir.path(), &names()), Err(StateError::NotADirectory(_))));
            fs::remove_file(&at).unwrap();

            fs::create_dir(&at).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(0o770)).unwrap();
            assert!(matches!(open(dir.path(), &names()), Err(StateError::Writable(_))));

            if rustix::process::geteuid().is_root() {
                fs::set_permissions(&at, fs::Permissions::from_mode(0o700)).unwrap();
                std::os::unix::fs::chown(&at, Some(65_534), None).unwrap();
                let error = open(dir.path(), &names()).unwrap_err();
                assert!(matches!(error, StateError::Foreign { owner: 65_534, .. }), "{error}");
            }
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "nothing was made through a link");
    }
}
