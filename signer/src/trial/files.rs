//! The tree as files, in a private folder that a sandbox shows read-only.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use mcpfs_trust::tree::{Kind, NodeId, Tree};

use super::limits::Identity;
use crate::unpack::Spool;

/// Where the bytes of a tree's files come from.
pub trait Contents {
    /// Writes the file `id` of `tree` to `to`.
    ///
    /// # Errors
    /// If its bytes are not there, or cannot be written.
    fn copy(&mut self, tree: &Tree, id: NodeId, to: &mut File) -> io::Result<()>;
}

/// The contents of an artefact that was unpacked.
#[derive(Debug)]
pub struct FromSpool<'a>(pub &'a Spool);

impl Contents for FromSpool<'_> {
    fn copy(&mut self, tree: &Tree, id: NodeId, to: &mut File) -> io::Result<()> {
        let Some(Kind::File { sha256, size, .. }) = tree.node(id).map(|node| node.kind) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        match self.0.reader(&sha256) {
            Some(mut reader) => io::copy(&mut reader, to).map(drop),
            None if size == 0 => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// A private folder: the tree, the few files of `/etc` that a server finds, the tracer's pipe.
/// Gone on drop.
#[derive(Debug)]
pub(super) struct Place {
    folder: tempfile::TempDir,
}

/// The files of `/etc` that are not the host's own: nobody's name is needed, and a lookup goes to
/// a loopback where nobody answers, so that the name is seen.
const ETC: [(&str, &str); 4] = [
    ("passwd", "mcp:x:0:0::/home/mcp:/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"),
    ("group", "mcp:x:0:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("resolv.conf", "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n"),
];

impl Place {
    pub(super) fn make(scratch: &Path, tree: &Tree, contents: &mut dyn Contents) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("trial-").tempdir_in(scratch)?;
        let place = Self { folder };
        for name in ["tree", "etc", "home"] {
            fs::create_dir(place.folder.path().join(name))?;
        }
        for (name, text) in ETC {
            fs::write(place.etc(name), text)?;
        }
        for id in (1..tree.len()).map(NodeId) {
            let Some(node) = tree.node(id) else { continue };
            let path = place.tree().join(tree.path(id));
            match node.kind {
                Kind::Directory => fs::create_dir(&path)?,
                Kind::Link { target } => std::os::unix::fs::symlink(target, &path)?,
                Kind::File { executable, .. } => {
                    let mode = if executable { 0o755 } else { 0o644 };
                    let mut file = File::options().write(true).create_new(true).mode(mode).open(&path)?;
                    contents.copy(tree, id, &mut file)?;
                    file.set_permissions(fs::Permissions::from_mode(if executable { 0o555 } else { 0o444 }))?;
                }
            }
        }
        rustix::fs::mknodat(
            rustix::fs::CWD,
            place.pipe(),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )?;
        Ok(place)
    }

    /// Gives all of it to another user, who starts the server.
    pub(super) fn give_to(&self, owner: Identity) -> io::Result<()> {
        let mut open = vec![self.folder.path().to_owned()];
        while let Some(path) = open.pop() {
            std::os::unix::fs::lchown(&path, Some(owner.uid), Some(owner.gid))?;
            if path.symlink_metadata()?.is_dir() {
                for entry in fs::read_dir(&path)? {
                    open.push(entry?.path());
                }
            }
        }
        Ok(())
    }

    pub(super) fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    pub(super) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(super) fn etc(&self, name: &str) -> PathBuf {
        self.folder.path().join("etc").join(name)
    }

    pub(super) fn etc_names() -> impl Iterator<Item = &'static str> {
        ETC.iter().map(|(name, _)| *name)
    }

    /// What stands for a credential that is a file.
    pub(super) fn credential(&self) -> PathBuf {
        self.folder.path().join("credential")
    }

    /// What the tracer writes to.
    pub(super) fn pipe(&self) -> PathBuf {
        self.folder.path().join("trace")
    }
}

/// A text file's beginning, if it is one.
pub(super) fn text(path: &Path, limit: u64) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    (!bytes.contains(&0)).then(|| String::from_utf8_lossy(&bytes).into_owned())
}
