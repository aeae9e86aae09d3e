//! An artefact's own root file system, made ready for a trial.
//!
//! A host lays its mount points over the read-only tree of an image; where the image has a link or
//! a file in the way, that gives way, since an image must not decide where its walls are. Here the
//! tree is a private copy, so the mount points are simply made in it: every directory on the way is
//! one, and never a link.

use std::fs;
use std::io;
use std::path::{Component, Path};

use mcpfs_trust::release::Launch;
use mcpfs_trust::tree::Tree;

use super::TrialError;
use crate::launch::{DEFAULT_PATH, in_path};

/// Directories that a sandbox mounts something over, besides the state.
pub(super) const MOUNTED: [&str; 3] = ["/proc", "/dev", "/tmp"];
/// Files that stand for a resolver that answers nobody, so that names are seen that are looked up.
pub(super) const LOOKUP: [&str; 2] = ["hosts", "resolv.conf"];

/// The launch's program, as an absolute path in the image.
pub(super) fn program(launch: &Launch, tree: &Tree) -> Result<String, TrialError> {
    let found = match launch.tree_path() {
        Some(path) => Some(path.trim_start_matches("./").to_owned()),
        None => {
            let path = launch.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
            in_path(&launch.command, &path.replace("${TREE}", ""), tree)
        }
    };
    let found = found.ok_or_else(|| TrialError::Program(format!("{} is not in the image's PATH", launch.command)))?;
    Ok(format!("/{found}"))
}

/// Makes what the sandbox mounts over, in the copy of the image at `root`.
pub(super) fn prepare(root: &Path, state: &str, workdir: &str) -> io::Result<()> {
    for path in MOUNTED.into_iter().chain([state]) {
        directory(root, path)?;
    }
    for name in LOOKUP {
        directory(root, "/etc")?;
        let file = root.join("etc").join(name);
        if !file.symlink_metadata().is_ok_and(|facts| facts.is_file()) {
            clear(&file)?;
            fs::write(&file, "")?;
        }
    }
    // One that the image has may be reached by its links, which lead nowhere else.
    match root.join(workdir.trim_start_matches('/')).is_dir() {
        true => Ok(()),
        false => directory(root, workdir),
    }
}

/// Puts a file into the copy of the image at `root`.
pub(super) fn put(root: &Path, folder: &str, name: &str, text: &str) -> io::Result<()> {
    directory(root, folder)?;
    let file = root.join(folder.trim_start_matches('/')).join(name);
    clear(&file)?;
    fs::write(file, text)
}

/// Makes `path` below `root` a directory, by directories only.
fn directory(root: &Path, path: &str) -> io::Result<()> {
    let mut at = root.to_owned();
    for part in Path::new(path).components() {
        let Component::Normal(name) = part else { continue };
        at.push(name);
        if !at.symlink_metadata().is_ok_and(|facts| facts.is_dir()) {
            clear(&at)?;
            fs::create_dir(&at)?;
        }
    }
    Ok(())
}

fn clear(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(facts) if facts.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_stands_in_the_way_gives_way() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = |name: &str| std::os::unix::fs::symlink(outside.path(), root.path().join(name)).unwrap();
        link("proc");
        link("home");
        fs::write(root.path().join("dev"), "x").unwrap();
        fs::create_dir_all(root.path().join("etc/hosts/x")).unwrap();
        fs::create_dir(root.path().join("app")).unwrap();
        std::os::unix::fs::symlink("app", root.path().join("srv")).unwrap();
        prepare(root.path(), "/home/mcp/state", "/srv").unwrap();
        for path in ["proc", "dev", "tmp", "home/mcp/state"] {
            assert!(root.path().join(path).symlink_metadata().unwrap().is_dir(), "{path}");
        }
        assert!(root.path().join("etc/hosts").symlink_metadata().unwrap().is_file());
        assert!(root.path().join("srv").is_symlink(), "the image's own way to its directory stays");
        prepare(root.path(), "/home/mcp/state", "/new/place").unwrap();
        assert!(root.path().join("new/place").is_dir());
        link("run");
        fs::create_dir_all(root.path().join("home/mcp/x")).unwrap();
        for (folder, name) in [("/run/credentials/mcpfs", "pgpass"), ("/home/mcp", "x")] {
            put(root.path(), folder, name, "text").unwrap();
            assert_eq!(fs::read_to_string(root.path().join(&folder[1..]).join(name)).unwrap(), "text");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was made outside");
    }
}
