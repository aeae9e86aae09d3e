//! No descriptor but the three standard ones reaches a server: an editor's open files and
//! sockets are not a server's to use.
//!
//! They are marked close-on-exec rather than closed, so that nothing in this process finds
//! its descriptor gone, and a failed `exec` can still say why. Neither std nor rustix can
//! mark a descriptor that they do not own, hence this one unsafe call; `close_range` could
//! do it at once, but only from Linux 5.11.
#![allow(unsafe_code)]

use std::io;

/// Marks everything above stderr close-on-exec.
pub(crate) fn close_on_exec() -> io::Result<()> {
    let open: Vec<libc::c_int> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&number| number > libc::STDERR_FILENO)
        .collect();
    for number in open {
        // SAFETY: F_SETFD takes no pointer and changes no state but this flag. A number that was
        // closed meanwhile (the directory's own was) gives EBADF, which is as good as closed.
        let set = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        if set == -1 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EBADF) {
                return Err(error);
            }
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
