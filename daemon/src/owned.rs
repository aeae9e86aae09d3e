//! Files that decide what is trusted.
//!
//! `trust.json` and the configuration are only as good as the list of people who can write
//! them, so both are read through this one door: the file and every directory above it belong
//! to root or to the daemon's own user and nobody else can write them (but for sticky ones
//! further above, such as /tmp). What is checked is the open descriptor and every directory on
//! the way to it, those that the links of a chain lead through among them, so that nothing can
//! be exchanged between the check and the read.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// Links followed on the way to one file, as many as the kernel follows.
const LINKS: u32 = 40;

/// Why a file that must be safe is not, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OwnedError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could have written it.
    #[error("{path} {problem}: {remedy}")]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// It is larger than such a file can sensibly be.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, bytes.
        limit: u64,
    },
}

/// Reads at most `limit` bytes of a file that only root or this process's user can write.
///
/// # Errors
/// As [`OwnedError`]; a missing file is `Unreadable`.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, OwnedError> {
    read_open(path, open_checked(path, |_, _| Ok(()))?, limit)
}

/// The same of a file that nobody else may read either.
///
/// # Errors
/// As [`read`].
pub fn read_secret(path: &Path, limit: u64) -> Result<Vec<u8>, OwnedError> {
    read_open(path, open_secret(path)?, limit)
}

/// Opens such a file for somebody else to read.
///
/// # Errors
/// As [`read`].
pub fn open_secret(path: &Path) -> Result<File, OwnedError> {
    open_checked(path, |path, metadata| {
        if metadata.mode() & 0o077 == 0 {
            return Ok(());
        }
        Err(OwnedError::Unsafe {
            path: path.to_owned(),
            problem: format!("is a secret and can be read by others (mode {:04o})", metadata.mode() & 0o7777),
            remedy: format!("chmod 600 {}", path.display()),
        })
    })
}

/// Looks whether a program is one that only root or this process's user could have written.
///
/// # Errors
/// As [`read`].
pub fn check_program(path: &Path) -> Result<(), OwnedError> {
    let executable = |path: &Path, metadata: &Metadata| match metadata.mode() & 0o111 {
        0 => Err(OwnedError::Unsafe {
            path: path.to_owned(),
            problem: "is not executable".to_owned(),
            remedy: format!("chmod 755 {}", path.display()),
        }),
        _ => Ok(()),
    };
    open_checked(path, executable).map(drop)
}

/// Reads at most `limit` bytes of an open file, which is called `path`.
///
/// # Errors
/// `TooLarge` and `Unreadable`.
pub fn read_open(path: &Path, file: File, limit: u64) -> Result<Vec<u8>, OwnedError> {
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|source| OwnedError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() as u64 > limit {
        return Err(OwnedError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

fn open_checked(
    path: &Path,
    further: impl FnOnce(&Path, &Metadata) -> Result<(), OwnedError>,
) -> Result<File, OwnedError> {
    let unreadable = |source| OwnedError::Unreadable { path: path.to_owned(), source };
    let named = std::path::absolute(path).map_err(unreadable)?;
    let Walk { real, steps } = walk(&named).map_err(unreadable)?;
    // A pipe would hold us until somebody writes into it; a file does not know the flag.
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(at_once).open(&real).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(OwnedError::Unsafe {
            path: real,
            problem: "is not a regular file".to_owned(),
            remedy: "put the file itself there".to_owned(),
        });
    }
    check(&real, &metadata)?;
    further(&real, &metadata)?;
    // Who can write a directory on the way can put something else in the place of what is looked
    // up there: of the file, of a directory, of a link anywhere in a chain of links.
    for step in steps {
        let holder = step.holder.metadata().map_err(unreadable)?;
        // In a sticky directory nobody can exchange what belongs to another.
        if holder.mode() & 0o1000 == 0 || holder.mode() & 0o022 == 0 {
            check(&step.holder, &holder)?;
        } else if step.is_link {
            check_owner(&step.path, &step.path.symlink_metadata().map_err(unreadable)?)?;
        }
    }
    for holder in [named.parent(), real.parent()].into_iter().flatten() {
        check(holder, &holder.metadata().map_err(unreadable)?)?;
    }
    Ok(file)
}

/// One name that was looked up on the way to a file.
struct Step {
    /// The directory, without links.
    holder: PathBuf,
    /// What was found in it.
    path: PathBuf,
    is_link: bool,
}

/// The way to a file.
struct Walk {
    /// The file, without links.
    real: PathBuf,
    steps: Vec<Step>,
}

/// Resolves `path` as the kernel does, and notes every directory that had a say in it.
fn walk(path: &Path) -> io::Result<Walk> {
    let mut real = PathBuf::from("/");
    let mut steps = Vec::new();
    let mut rest: Vec<PathBuf> = parts(path).collect();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match part.components().next() {
            Some(Component::RootDir) => real = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                real.pop();
            }
            Some(Component::Normal(name)) => {
                let next = real.join(name);
                let is_link = next.symlink_metadata()?.is_symlink();
                steps.push(Step { holder: real.clone(), path: next.clone(), is_link });
                if is_link {
                    links += 1;
                    if links > LINKS {
                        return Err(rustix::io::Errno::LOOP.into());
                    }
                    rest.extend(parts(&next.read_link()?));
                } else {
                    real = next;
                }
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => {}
        }
    }
    Ok(Walk { real, steps })
}

/// The components of a path, the last one first.
fn parts(path: &Path) -> impl Iterator<Item = PathBuf> {
    path.components().rev().map(|part| PathBuf::from(part.as_os_str()))
}

/// The rule itself, for a file or a directory.
fn check(path: &Path, metadata: &Metadata) -> Result<(), OwnedError> {
    check_owner(path, metadata)?;
    if metadata.mode() & 0o022 != 0 {
        return Err(OwnedError::Unsafe {
            path: path.to_owned(),
            problem: format!("can be written by others (mode {:04o})", metadata.mode() & 0o7777),
            remedy: format!("chmod go-w {}", path.display()),
        });
    }
    Ok(())
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), OwnedError> {
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != user {
        return Err(OwnedError::Unsafe {
            path: path.to_owned(),
            problem: format!("belongs to user {}", metadata.uid()),
            remedy: format!("chown -h root {}", path.display()),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn others_must_not_write() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trust.json");
        std::fs::write(&file, "{}").unwrap();
        set_mode(&file, 0o644);
        assert_eq!(read(&file, 10).unwrap(), b"{}");
        assert!(matches!(read(&file, 1), Err(OwnedError::TooLarge { .. })));
        for mode in [0o664, 0o646, 0o666] {
            set_mode(&file, mode);
            assert!(matches!(read(&file, 10), Err(OwnedError::Unsafe { .. })), "{mode:o}");
        }
        set_mode(&file, 0o600);
        set_mode(dir.path(), 0o777);
        let error = read(&file, 10).unwrap_err().to_string();
        assert!(error.contains("chmod go-w"), "{error}");
        set_mode(dir.path(), 0o700);
    }

    #[test]
    fn a_secret_is_nobody_elses_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "x").unwrap();
        for mode in [0o644, 0o640, 0o604, 0o666] {
            set_mode(&file, mode);
            let error = read_secret(&file, 10).unwrap_err().to_string();
            assert!(error.contains("by others") && error.contains("chmod "), "{mode:o}: {error}");
        }
        for mode in [0o600, 0o400] {
            set_mode(&file, mode);
            assert_eq!(read_secret(&file, 10).unwrap(), b"x");
        }
    }

    #[test]
    fn nobody_may_exchange_a_directory_further_above() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("a/etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("trust.json"), "{}").unwrap();
        set_mode(&etc.join("trust.json"), 0o644);
        set_mode(&etc, 0o755);
        set_mode(&dir.path().join("a"), 0o777);
        let error = read(&etc.join("trust.json"), 10).unwrap_err().to_string();
        assert!(error.contains(&format!("{} can be written by others", dir.path().join("a").display())), "{error}");
        // As /tmp is: there only the owner can rename or remove a directory.
        set_mode(&dir.path().join("a"), 0o1777);
        assert!(read(&etc.join("trust.json"), 10).is_ok());
        set_mode(&dir.path().join("a"), 0o755);
        assert!(read(&etc.join("trust.json"), 10).is_ok());
    }

    #[test]
    fn a_link_is_as_safe_as_both_its_directories() {
        let (dir, open) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(open.path().join("real"), "x").unwrap();
        set_mode(&open.path().join("real"), 0o644);
        std::os::unix::fs::symlink(open.path().join("real"), dir.path().join("link")).unwrap();
        assert!(read(&dir.path().join("link"), 10).is_ok());
        set_mode(open.path(), 0o777);
        assert!(matches!(read(&dir.path().join("link"), 10), Err(OwnedError::Unsafe { .. })));
        assert!(matches!(read(dir.path(), 10), Err(OwnedError::Unsafe { .. })));
        // Opening a pipe waits for its writer, if one does not say otherwise.
        let (pipe, kind) = (dir.path().join("pipe"), rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(rustix::fs::CWD, pipe, kind, 0o600.into(), 0).unwrap();
        assert!(matches!(read(&dir.path().join("pipe"), 10), Err(OwnedError::Unsafe { .. })));
        assert!(matches!(read(&dir.path().join("none"), 10), Err(OwnedError::Unreadable { .. })));
    }

    #[test]
    fn every_link_of_a_chain_is_looked_at() {
        let dirs = [0; 3].map(|_| tempfile::tempdir().unwrap());
        let [home, middle, end] = dirs.each_ref().map(tempfile::TempDir::path);
        let link = |to: &Path, at: &Path| std::os::unix::fs::symlink(to, at).unwrap();
        std::fs::write(end.join("real"), "x").unwrap();
        set_mode(&end.join("real"), 0o644);
        // By the file's own links, and by those of a directory; relative ones with dots, too.
        link(&end.join("real"), &middle.join("hop"));
        link(&middle.join("hop"), &home.join("file"));
        link(end, &middle.join("etc"));
        link(&middle.join("etc"), &home.join("etc"));
        let up = Path::new("..").join(home.file_name().unwrap()).join("file");
        link(&up, &home.join("dots"));
        for way in ["file", "etc/real", "dots", "./etc/../dots"] {
            set_mode(middle, 0o700);
            let read_way = || read(&home.join(way), 10);
            // `etc/..` is above the directory that the link leads to.
            if way == "./etc/../dots" {
                assert!(matches!(read_way(), Err(OwnedError::Unreadable { .. })));
                continue;
            }
            assert_eq!(read_way().unwrap(), b"x", "{way}");
            set_mode(middle, 0o777);
            let error = read_way().unwrap_err().to_string();
            assert!(error.contains(&format!("{} can be written by others", middle.display())), "{way}: {error}");
            // As /tmp is, where a link of ours is as safe as we are.
            set_mode(middle, 0o1777);
            assert_eq!(read_way().unwrap(), b"x", "{way}");
            if rustix::process::geteuid().is_root() {
                let hop = if way == "etc/real" { "etc" } else { "hop" };
                std::os::unix::fs::lchown(middle.join(hop), Some(65_534), None).unwrap();
                let error = read_way().unwrap_err().to_string();
                assert!(error.contains("belongs to user 65534"), "{way}: {error}");
                std::os::unix::fs::lchown(middle.join(hop), Some(0), None).unwrap();
            }
        }
        link(&home.join("two"), &home.join("one"));
        link(&home.join("one"), &home.join("two"));
        assert!(matches!(read(&home.join("one"), 10), Err(OwnedError::Unreadable { .. })));
    }
}
