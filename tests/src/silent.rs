//! A file system whose server does not answer, as one of a network whose server is away.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags};

/// It is unmounted when this is dropped, and all that waits for it goes on with an error.
pub struct Silent {
    at: PathBuf,
    /// As long as somebody holds it, its answers are waited for.
    device: Arc<File>,
}

impl Silent {
    /// Whoever opens a file below `at` waits until he is killed.
    ///
    /// # Panics
    /// If it cannot be mounted: only root can.
    pub fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("silent", at, "fuse.silent", flags, &*CString::new(options).unwrap()).unwrap();
        Self { at: at.to_owned(), device: Arc::new(device) }
    }

    /// Whoever opens a file below `at` waits, and no signal ends that: the server has taken the question.
    ///
    /// # Panics
    /// If it cannot be mounted: only root can.
    pub fn mount_for_ever(at: &Path) -> Self {
        let silent = Self::mount(at);
        let device = Arc::clone(&silent.device);
        std::thread::spawn(move || {
            let mut request = vec![0; 64 << 10];
            // Until it is unmounted.
            while let Ok(read) = (&*device).read(&mut request) {
                const INIT: u32 = 26;
                if read >= 16 && request[4..8] == INIT.to_ne_bytes() {
                    // Version 7.31, no flag, writes of 4 KiB, times of 1 ns.
                    let words = [7, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0_u32];
                    let mut answer = [80_u32, 0].map(u32::to_ne_bytes).concat();
                    answer.extend_from_slice(&request[8..16]);
                    answer.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
                    (&*device).write_all(&answer).unwrap();
                }
            }
        });
        silent
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // By force: nobody is left waiting.
        if let Err(error) = rustix::mount::unmount(&self.at, UnmountFlags::FORCE | UnmountFlags::DETACH) {
            eprintln!("{}: {error}", self.at.display());
        }
    }
}
