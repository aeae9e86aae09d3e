//! Putting the file system under a path, and taking it away again.
//!
//! **Two ways in.** For root the supervisor calls mount(2) and hands its worker the descriptor of
//! `/dev/fuse` ([`Seat::Handed`]); anybody else goes through the setuid `fusermount3`
//! ([`Seat::Own`]). The rest sees neither. fuser's own `Session::new` mounts and unmounts on drop,
//! which is the opposite of what we need, so it is not used.
//!
//! **One way out.** Only [`Session::stop`] unmounts, and of a handed session only the supervisor.
//! Neither a drop nor a panic does: running servers outlive a daemon's fault, and what is left
//! behind is cleared at the next start.
//!
//! **Nobody touches the mount point before it is served.** A stat of it would wait for an
//! answer that this very process has to give. What lies there is read from mountinfo.
//!
//! **Two modes of reading, one per mount.** Whether the kernel can read cached files without
//! us (passthrough) is found out by doing it once, with a real file on the cache's own file
//! system: kernel version, capabilities and stacked file systems all have a say in it, and
//! only the attempt knows. [`Backing`] is the one door from a descriptor to a backing id.

mod backing;
mod fusermount;
mod kernel;
mod mountinfo;
mod point;
mod session;
mod takeover;

use std::io;
use std::path::PathBuf;

pub use backing::{Backed, Backing, Inherited, Reads};
#[cfg(test)]
pub(crate) use mountinfo::parse as parse_mountinfo;
pub use mountinfo::{MountEntry, mounted, mounted_at};
pub use point::Mountpoint;
pub use session::{Options, Seat, Session, Stopped};

/// The file system type of every mount of ours, in mountinfo and for `findmnt -t`.
pub const FS_TYPE: &str = "fuse.mcpfs";

/// The source of every mount of ours.
const FS_NAME: &str = "mcpfs";

/// Why nothing was mounted, each with what to do next.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such directory.
    #[error("the mount point {} does not exist; create it: mkdir -p {}", .0.display(), .0.display())]
    Missing(PathBuf),
    /// The root directory, or a path that ends in dots.
    #[error("{} cannot be a mount point; name an empty directory, such as /mcp", .0.display())]
    Nameless(PathBuf),
    /// Something else than a directory.
    #[error("the mount point {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Mounting would hide files.
    #[error("the mount point {} is not empty, and mounting would hide what is in it; empty it or choose another", .0.display())]
    NotEmpty(PathBuf),
    /// A live mount of ours.
    #[error("mcpfs is already mounted at {} and answers; `mcpfs unmount` ends that daemon", .0.display())]
    AlreadyServed(PathBuf),
    /// A mount of ours that neither answers nor fails.
    #[error("mcpfs is mounted at {} but does not answer; if no daemon is about to take it over, clear it: umount -l {}", .0.display(), .0.display())]
    Silent(PathBuf),
    /// Another file system.
    #[error("{} is the mount point of something else ({kind})", at.display())]
    ForeignMount {
        /// The mount point.
        at: PathBuf,
        /// The file system's type.
        kind: String,
    },
    /// Something that the daemon itself needs would be hidden by the mount.
    #[error("{} lies below the mount point {}, where mcpfs would wait for itself; put one of them elsewhere", path.display(), at.display())]
    Inside {
        /// What lies there.
        path: PathBuf,
        /// The mount point.
        at: PathBuf,
    },
    /// The kernel's door is closed.
    #[error("/dev/fuse does not exist; load the module (modprobe fuse), or in a container pass --device /dev/fuse")]
    NoDevice,
    /// Not root, and no setuid program.
    #[error("fusermount3 is not installed, and only root can mount without it; install the package fuse3")]
    NoFusermount,
    /// Neither way is open.
    #[error("not allowed to mount at {}: {why}", at.display())]
    NotAllowed {
        /// The mount point.
        at: PathBuf,
        /// What stands in the way.
        why: String,
    },
    /// fusermount3 said no.
    #[error("fusermount3 could not mount at {}: {said}", at.display())]
    Fusermount {
        /// The mount point.
        at: PathBuf,
        /// Its own words.
        said: String,
    },
    /// Anything else, with the step that failed.
    #[error("{step} ({})", at.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        at: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl MountError {
    pub(crate) fn io(step: &'static str, at: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { step, at: at.into(), source: source.into() }
    }
}
