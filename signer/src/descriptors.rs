//! No descriptor but the three standard ones reaches a program that this one starts: a caller's
//! open files and sockets are neither an artefact's nor a tool's to use.
//!
//! They are marked close-on-exec once, before there are threads. Neither std nor rustix can mark a
//! descriptor that nobody owns, hence this one unsafe call.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

/// Marks everything above stderr close-on-exec.
///
/// # Errors
/// If this process's descriptors cannot be listed or marked.
pub fn close_on_exec() -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&number| number > 2)
        .collect();
    for number in open {
        // SAFETY: nothing is read, written or closed by way of it, only its flag is set. A number that
        // was closed meanwhile (the directory's own was) gives EBADF, which is as good as closed.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        match rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC) {
            Ok(()) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

    #[test]
    fn inherited_descriptors_are_marked() {
        let file = std::fs::File::open("/dev/null").unwrap();
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        super::close_on_exec().unwrap();
        assert_eq!(fcntl_getfd(&file).unwrap(), FdFlags::CLOEXEC);
        assert_eq!(fcntl_getfd(std::io::stderr()).unwrap(), FdFlags::empty());
    }
}
