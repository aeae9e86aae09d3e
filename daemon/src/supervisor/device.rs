//! Whether a descriptor is the FUSE device of a mount, before anything is read from it or written to it.
//!
//! Systemd hands on what it was given, and that is nearly always right. But what is not would be
//! written to as if it were (a resend is sixteen bytes), and with another mount's device this process would
//! answer other people's questions with its own files.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::mount::{Mountpoint, mounted_at};

/// Major and minor number of `/dev/fuse` (Documentation/admin-guide/devices.txt of the kernel).
const NUMBER: (u32, u32) = (10, 229);
/// What the kernel calls a device's connection in fdinfo; kernels before 6.18 do not tell.
const CONNECTION: &str = "fuse_connection:";

/// Checks that `fuse` is a FUSE device, and as far as the kernel tells that of the mount at `point`.
///
/// # Errors
/// If it is not; with what it is.
pub(super) fn is_of(fuse: &File, point: &Mountpoint) -> io::Result<()> {
    let found = fuse.metadata()?;
    let number = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    if !found.file_type().is_char_device() || number != NUMBER {
        return Err(io::Error::other("what was kept as its device is no FUSE device"));
    }
    let Some(connection) = connection(fuse)? else { return Ok(()) };
    let mount = mounted_at(point.path())?.ok_or_else(|| io::Error::other("nothing is mounted there"))?;
    // The number of a file system without a disk has no major part.
    match mount.device == format!("0:{connection}") {
        true => Ok(()),
        false => {
            Err(io::Error::other(format!("its device is that of another mount (0:{connection}, not {})", mount.device)))
        }
    }
}

fn connection(fuse: &File) -> io::Result<Option<u32>> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fuse.as_raw_fd()))?;
    Ok(about.lines().find_map(|line| line.strip_prefix(CONNECTION)?.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_a_fuse_device_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let point = Mountpoint::prepare(dir.path()).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for other in [dir.path().join("file"), dir.path().to_owned(), "/dev/null".into(), "/dev/zero".into()] {
            let error = is_of(&File::open(&other).unwrap(), &point).unwrap_err();
            assert!(error.to_string().contains("no FUSE device"), "{}: {error}", other.display());
        }
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        assert!(is_of(&pipe.into(), &point).is_err());
    }
}
