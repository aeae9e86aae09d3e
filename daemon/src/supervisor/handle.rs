//! File handles of the kernel: names of files that outlive their paths.
//!
//! A backing id stands for a file, and nobody can ask the kernel for which. As long as somebody has
//! it open the file may have lost its name (a cache that was wiped), and still it is the one that
//! the inode must be opened with again. Its handle finds it. Keeping a descriptor of each file
//! instead would take thousands of them, and they would be gone with this process.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// Longest handle kept, bytes; those of local file systems have 8 to 40.
pub(super) const LONGEST: usize = 40;

/// What the kernel takes for a file's name: `struct file_handle` of <fcntl.h>, with its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct FileHandle {
    pub(super) length: u32,
    pub(super) kind: i32,
    pub(super) bytes: [u8; LONGEST],
}

impl FileHandle {
    /// The handle of an open file; none if its file system has no such, or a longer one.
    pub(super) fn of(file: impl AsFd) -> Option<Self> {
        let mut handle = Self { length: LONGEST as u32, kind: 0, bytes: [0; LONGEST] };
        let mut mount: libc::c_int = 0;
        // SAFETY: the path is a string that ends; the kernel writes at most `length` bytes behind the
        // two fields of the handle, which has so many, and one number.
        let done = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                file.as_fd().as_raw_fd(),
                c"".as_ptr(),
                &raw mut handle,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        (done == 0 && handle.length as usize <= LONGEST).then_some(handle)
    }

    /// The file, for reading, whether it has a path or not. `mount` is any file of its file system.
    ///
    /// # Errors
    /// ESTALE if there is no such file any more, EPERM without CAP_DAC_READ_SEARCH.
    pub(super) fn open(&self, mount: impl AsFd) -> Result<OwnedFd, Errno> {
        let mut handle = *self;
        handle.length = handle.length.min(LONGEST as u32);
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        // SAFETY: the kernel reads `length` bytes behind the two fields of the handle, which has as many.
        let opened =
            unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_fd().as_raw_fd(), &raw mut handle, flags) };
        match i32::try_from(opened) {
            // SAFETY: a descriptor that was opened for us just now.
            Ok(opened) if opened >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(opened) }),
            _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_is_found_when_its_path_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "what is in it").unwrap();
        let file = File::open(dir.path().join("a")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let Some(handle) = FileHandle::of(&file) else {
            // /tmp may be a file system without handles, such as an overlay.
            return;
        };
        std::fs::remove_file(dir.path().join("a")).unwrap();
        match handle.open(&root) {
            // An ordinary user may not.
            Err(error) => assert_eq!(error, Errno::PERM),
            Ok(again) => {
                let mut text = String::new();
                File::from(again).read_to_string(&mut text).unwrap();
                assert_eq!(text, "what is in it");
                drop(file);
                assert_eq!(handle.open(&root).unwrap_err(), Errno::STALE);
            }
        }
    }
}
