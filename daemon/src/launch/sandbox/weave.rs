//! Mount points in a root that nobody can write.
//!
//! A file system can be mounted only over what exists, and an image need not have `/proc`, a home
//! or a declared path. So where a mount point is missing, the directory above it is made anew, empty
//! and in memory, and what the image has there is bound into it piece by piece; everything else stays
//! one mount. A link or file of the image that stands in the way of a mount point gives way to it:
//! bubblewrap would follow a link, and an image must not decide where its walls are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::FileType;
use std::os::fd::RawFd;
use std::path::{Component, Path, PathBuf};

/// Pieces of an image that may have to be bound one by one.
const PIECES: usize = 4096;

/// What is mounted at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mount {
    Proc,
    Devices,
    /// An empty directory of this server alone.
    Temporary,
    /// An empty directory that cannot be written.
    Empty,
    /// A host path, to read.
    Read(PathBuf),
    /// A host path, to write.
    Write(PathBuf),
    /// A file of what a descriptor has, to read, which no host path leads to.
    Data(RawFd),
}

/// Why an image and its mount points do not fit together.
#[derive(Debug, thiserror::Error)]
pub(in crate::launch) enum WeaveError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("more than {PIECES} entries lie beside its mount points")]
    Pieces,
}

/// Mount points by their path.
#[derive(Debug, Default)]
pub(super) struct Points {
    mount: Option<Mount>,
    below: BTreeMap<OsString, Points>,
}

/// Arguments so far.
#[derive(Default)]
struct Weaving {
    args: Vec<OsString>,
    /// Directories made anew over a mount, which are closed at the end.
    covered: Vec<PathBuf>,
    pieces: usize,
}

impl Points {
    /// Adds one; the last word about a path counts.
    pub(super) fn add(&mut self, path: impl AsRef<Path>, mount: Mount) {
        let mut at = self;
        for part in path.as_ref().components() {
            if let Component::Normal(name) = part {
                at = at.below.entry(name.to_owned()).or_default();
            }
        }
        at.mount = Some(mount);
    }

    /// An empty directory, unless the image has it.
    pub(super) fn add_if_missing(&mut self, path: &str, tree: &Path) {
        if !tree.join(path.trim_start_matches('/')).is_dir() {
            self.add(path, Mount::Empty);
        }
    }

    /// The host's own root with these over it, parents first.
    pub(super) fn over_host(&self) -> Vec<OsString> {
        let mut weaving = Weaving { args: ["--ro-bind", "/", "/"].map(OsString::from).into(), ..Weaving::default() };
        weaving.mounts(self, Path::new("/"));
        weaving.args
    }

    /// The tree of an image as the root, with these in it.
    pub(super) fn over(&self, tree: &Path) -> Result<Vec<OsString>, WeaveError> {
        let mut weaving = Weaving::default();
        match self.fits(tree) {
            true => {
                weaving.bind("--ro-bind", tree, Path::new("/"))?;
                weaving.mounts(self, Path::new("/"));
            }
            false => {
                weaving.anew(self, tree, Path::new("/"))?;
                weaving.covered.push("/".into());
            }
        }
        for path in weaving.covered.drain(..).rev() {
            weaving.args.extend(["--remount-ro".into(), path.into()]);
        }
        Ok(weaving.args)
    }

    /// Whether every mount point exists in `tree` as it is.
    fn fits(&self, tree: &Path) -> bool {
        self.below.iter().all(|(name, point)| {
            let path = tree.join(name);
            let Ok(found) = path.symlink_metadata().map(|facts| facts.file_type()) else { return false };
            match &point.mount {
                Some(mount) => mount.covers(found),
                None => found.is_dir() && point.fits(&path),
            }
        })
    }
}

impl Mount {
    /// Whether it can be mounted over something of this type.
    fn covers(&self, found: FileType) -> bool {
        match self {
            Self::Read(path) | Self::Write(path) if !path.is_dir() => found.is_file(),
            Self::Data(_) => found.is_file(),
            _ => found.is_dir(),
        }
    }
}

impl Weaving {
    /// The mount points of `points`, each over what is there.
    fn mounts(&mut self, points: &Points, at: &Path) {
        for (name, point) in &points.below {
            let path = at.join(name);
            if let Some(mount) = &point.mount {
                self.mount(mount, &path);
            }
            self.mounts(point, &path);
        }
    }

    /// Fills `at`, a directory in memory, with what `tree` has and with the mount points.
    fn anew(&mut self, points: &Points, tree: &Path, at: &Path) -> Result<(), WeaveError> {
        let unreadable = |source| WeaveError::Read { path: tree.to_owned(), source };
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(tree).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            found.insert(entry.file_name(), entry.file_type().map_err(unreadable)?);
        }
        for (name, kind) in &found {
            if !points.below.contains_key(name) {
                self.piece(&tree.join(name), *kind, &at.join(name))?;
            }
        }
        for (name, point) in &points.below {
            let (from, path) = (tree.join(name), at.join(name));
            let is_directory = found.get(name).is_some_and(FileType::is_dir);
            match &point.mount {
                Some(mount) => self.mount(mount, &path),
                None if is_directory && point.fits(&from) => self.bind("--ro-bind", &from, &path)?,
                None if is_directory => {
                    self.directory(&path);
                    self.anew(point, &from, &path)?;
                    continue;
                }
                None => self.directory(&path),
            }
            self.mounts(point, &path);
        }
        Ok(())
    }

    fn piece(&mut self, from: &Path, kind: FileType, at: &Path) -> Result<(), WeaveError> {
        if !kind.is_symlink() {
            return self.bind("--ro-bind", from, at);
        }
        let target = std::fs::read_link(from).map_err(|source| WeaveError::Read { path: from.to_owned(), source })?;
        self.count()?;
        self.args.extend(["--symlink".into(), target.into(), at.into()]);
        Ok(())
    }

    fn bind(&mut self, how: &str, from: &Path, at: &Path) -> Result<(), WeaveError> {
        self.count()?;
        self.args.extend([how.into(), from.into(), at.into()]);
        Ok(())
    }

    fn count(&mut self) -> Result<(), WeaveError> {
        self.pieces += 1;
        if self.pieces > PIECES { Err(WeaveError::Pieces) } else { Ok(()) }
    }

    fn directory(&mut self, at: &Path) {
        self.args.extend(["--dir".into(), at.into()]);
    }

    fn mount(&mut self, mount: &Mount, at: &Path) {
        let (how, from): (&str, Option<OsString>) = match mount {
            Mount::Proc => ("--proc", None),
            Mount::Devices => ("--dev", None),
            Mount::Temporary => ("--tmpfs", None),
            Mount::Empty => ("--dir", None),
            Mount::Read(path) => ("--ro-bind", Some(path.into())),
            Mount::Write(path) => ("--bind", Some(path.into())),
            Mount::Data(number) => ("--ro-bind-data", Some(number.to_string().into())),
        };
        self.args.push(how.into());
        self.args.extend(from);
        self.args.push(at.into());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// An image's tree with these directories and files.
    fn tree(directories: &[&str], files: &[&str]) -> tempfile::TempDir {
        let tree = crate::scratch::in_memory();
        directories.iter().for_each(|path| fs::create_dir_all(tree.path().join(path)).unwrap());
        files.iter().for_each(|path| fs::write(tree.path().join(path), "").unwrap());
        tree
    }

    /// The arguments as one text, with `T` for the tree.
    fn woven(tree: &Path, points: &[(&str, Mount)]) -> String {
        let mut all = Points::default();
        points.iter().for_each(|(path, mount)| all.add(path, mount.clone()));
        let args: Vec<String> = all.over(tree).unwrap().into_iter().map(|arg| arg.into_string().unwrap()).collect();
        args.join(" ").replace(tree.to_str().unwrap(), "T")
    }

    #[test]
    fn what_fits_is_one_mount() {
        let tree = tree(&["proc", "dev", "srv/data"], &["etc"]);
        let points = [("/proc", Mount::Proc), ("/dev", Mount::Devices), ("/srv/data", Mount::Write("/usr".into()))];
        assert_eq!(woven(tree.path(), &points), "--ro-bind T / --dev /dev --proc /proc --bind /usr /srv/data");
    }

    #[test]
    fn what_is_missing_is_made_above() {
        let tree = tree(&["proc", "home/app/bin", "usr"], &["home/file"]);
        symlink("usr/bin", tree.path().join("bin")).unwrap();
        let points = [("/proc", Mount::Proc), ("/home/u/state", Mount::Write("/var".into()))];
        assert_eq!(
            woven(tree.path(), &points),
            "--symlink usr/bin /bin --ro-bind T/usr /usr --dir /home --ro-bind T/home/app /home/app \
             --ro-bind T/home/file /home/file --dir /home/u --bind /var /home/u/state --proc /proc --remount-ro /"
        );
    }

    #[test]
    fn nothing_of_the_image_leads_a_mount_point_elsewhere() {
        let tree = tree(&["etc", "proc"], &[]);
        symlink("/etc", tree.path().join("tmp")).unwrap();
        symlink("/", tree.path().join("home")).unwrap();
        fs::write(tree.path().join("srv"), "").unwrap();
        let points = [
            ("/tmp", Mount::Temporary),
            ("/home/u", Mount::Read("/usr".into())),
            ("/srv/x", Mount::Read("/usr".into())),
            ("/etc/hosts", Mount::Read("/etc/hosts".into())),
        ];
        let args = woven(tree.path(), &points);
        assert!(!args.contains("--symlink"), "{args}");
        assert_eq!(
            args,
            "--ro-bind T/proc /proc --dir /etc --ro-bind /etc/hosts /etc/hosts --dir /home --ro-bind /usr /home/u \
             --dir /srv --ro-bind /usr /srv/x --tmpfs /tmp --remount-ro /"
        );
    }

    #[test]
    fn the_host_has_its_mount_points_in_order() {
        let mut points = Points::default();
        points.add("/home/u/state", Mount::Write("/home/u/state".into()));
        points.add("/home", Mount::Temporary);
        let args = points.over_host();
        assert_eq!(
            args,
            ["--ro-bind", "/", "/", "--tmpfs", "/home", "--bind", "/home/u/state", "/home/u/state"].map(OsString::from)
        );
    }

    #[test]
    fn data_has_a_place_of_its_own() {
        let mut points = Points::default();
        points.add("/run/credentials/mcpfs/pgpass", Mount::Data(7));
        points.add("/run", Mount::Temporary);
        let args = points.over_host();
        let data = ["--tmpfs", "/run", "--ro-bind-data", "7", "/run/credentials/mcpfs/pgpass"];
        assert_eq!(args[3..], data.map(OsString::from));
        let tree = tree(&["etc"], &["run"]);
        assert_eq!(
            woven(tree.path(), &[("/run/credentials/mcpfs/pgpass", Mount::Data(7))]),
            "--ro-bind T/etc /etc --dir /run --ro-bind-data 7 /run/credentials/mcpfs/pgpass --remount-ro /"
        );
    }

    #[test]
    fn pieces_are_bounded() {
        let tree = tree(&["d"], &[]);
        for index in 0..=PIECES {
            symlink("x", tree.path().join(format!("d/{index}"))).unwrap();
        }
        let mut points = Points::default();
        points.add("/d/missing", Mount::Temporary);
        assert!(matches!(points.over(tree.path()), Err(WeaveError::Pieces)));
    }
}
