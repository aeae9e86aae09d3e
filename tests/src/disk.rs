//! A disk of a test's own, of any size: a tmpfs. Only root can make one.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::command::Run;
use crate::scratch::wait_for;

/// A mounted disk; gone on drop.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Of this size, over `path`.
    pub fn at(path: PathBuf, size: &str) -> Self {
        Self::with(path, &format!("size={size}"))
    }

    /// With these options of tmpfs, such as `size=16m,nr_inodes=300`.
    pub fn with(path: PathBuf, options: &str) -> Self {
        Run::new("mount").args(["-t", "tmpfs", "-o"]).arg(format!("{options},mode=700")).arg("none").arg(&path).ok();
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Mounts it again: `ro`, once nobody has a file of it open for writing, or `rw`.
    pub fn remount(&self, how: &str) {
        let again = || Run::new("mount").arg("-o").arg(format!("remount,{how}")).arg(&self.0).run();
        wait_for("the disk to be remounted", || (again().code == 0).then_some(()));
    }

    /// Writes a file until nothing more fits.
    ///
    /// # Panics
    /// If it cannot be made at all.
    pub fn fill(&self, name: &str) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.0.join(name));
        let mut file = file.expect("a file of our own");
        let block = vec![1_u8; 4096];
        while file.write_all(&block).is_ok() {}
    }

    /// Bytes that are free.
    ///
    /// # Panics
    /// If it is gone.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).expect("our disk");
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        crate::mount::unmount(&self.0);
    }
}
