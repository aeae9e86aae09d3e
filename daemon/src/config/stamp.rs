//! Whether the files of a configuration are still those that were read.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file;

/// What a file is known by: device, inode, size, and the time of its last change, which nobody sets.
type Mark = (u64, u64, u64, i64, i64);

/// The files that a configuration is read from, as they were at one moment.
///
/// Compared by whoever read them early and uses them late. A change of contents, a new file and one
/// that is gone all show; what cannot be looked at any more counts as changed.
#[derive(Debug)]
pub struct Stamp(Vec<(PathBuf, Option<Mark>)>);

impl Stamp {
    /// Of the configuration whose main file is `main`; to be taken before it is read.
    pub fn of(main: &Path) -> Self {
        // A directory's own mark changes with the names in it.
        let mut paths = vec![main.to_owned(), file::directory(main)];
        paths.extend(file::drop_ins(main).unwrap_or_default());
        Self(
            paths
                .into_iter()
                .map(|path| {
                    let mark = mark(&path);
                    (path, mark)
                })
                .collect(),
        )
    }

    /// Whether all of them are as they were.
    pub fn holds(&self) -> bool {
        self.0.iter().all(|(path, before)| mark(path) == *before)
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let found = path.metadata().ok()?;
    Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_change_shows() {
        let dir = tempfile::tempdir().unwrap();
        let (main, drop_in) = (dir.path().join("mcpfs.toml"), dir.path().join("conf.d/50-a.toml"));
        std::fs::write(&main, "a").unwrap();
        let changes: [&dyn Fn(); 6] = [
            &|| std::fs::create_dir(dir.path().join("conf.d")).unwrap(),
            &|| std::fs::write(&drop_in, "b").unwrap(),
            &|| std::fs::write(&drop_in, "c").unwrap(),
            &|| {
                std::fs::write(dir.path().join("new"), "d").unwrap();
                std::fs::rename(dir.path().join("new"), &main).unwrap();
            },
            &|| std::fs::remove_file(&drop_in).unwrap(),
            &|| std::fs::remove_file(&main).unwrap(),
        ];
        for (turn, change) in changes.iter().enumerate() {
            let stamp = Stamp::of(&main);
            assert!(stamp.holds(), "{turn}");
            // A file system's clock may tick as seldom as this.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            assert!(!stamp.holds(), "{turn}");
        }
    }
}
