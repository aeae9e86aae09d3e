//! The one door from a verified file to a backing id.
//!
//! With passthrough the kernel reads, maps and executes the cached file itself: as fast as the
//! disk's own file system, and unharmed if the daemon dies. The id belongs to the connection,
//! and making one needs CAP_SYS_ADMIN, so a later supervisor answers behind this door.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;

use fuser::{BackingId, InitFlags, KernelConfig, ReplyOpen};
use rustix::fs::{Mode, OFlags};

/// How files of a tree are read; one answer per mount, shown by `mcpfs status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// By the kernel, from the cached file.
    Passthrough,
    /// By the daemon, into the kernel's page cache.
    Cached,
}

impl std::fmt::Display for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passthrough => "passthrough",
            Self::Cached => "cached",
        })
    }
}

/// Makes backing ids, once it has been found out that this mount can have them.
#[derive(Debug)]
pub struct Backing {
    /// The setting `reads = "cached"`.
    forced_cached: bool,
    /// Set by [`Self::probe`], before the first request is served.
    reads: OnceLock<Reads>,
}

impl Backing {
    /// `forced_cached` keeps a mount from even trying passthrough.
    pub fn new(forced_cached: bool) -> Self {
        Self { forced_cached, reads: OnceLock::new() }
    }

    /// How this mount reads. Cached until it was probed.
    pub fn reads(&self) -> Reads {
        self.reads.get().copied().unwrap_or(Reads::Cached)
    }

    /// Asks for passthrough in the INIT exchange. A kernel that does not offer it is no error.
    ///
    /// Stack depth 1: backing files lie on a plain file system. Depth 2 would allow a cache on
    /// overlayfs, and forbid everybody to lay an overlay over this mount.
    pub fn negotiate(&self, config: &mut KernelConfig) {
        if !self.forced_cached && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() {
            // Depths 0 to 2 are accepted, so this cannot fail.
            let _ = config.set_max_stack_depth(1);
        }
    }

    /// Tries to back with a file on the file system of `cache`, and decides for this mount.
    pub(super) fn probe(&self, fuse: impl AsFd, cache: &Path) -> Reads {
        let reads = if self.forced_cached {
            tracing::info!("reads: cached, as configured");
            Reads::Cached
        } else {
            match try_backing(fuse, cache) {
                Ok(()) => Reads::Passthrough,
                Err(error) => {
                    tracing::info!(%error, reason = hint(&error), "reads: cached, because the kernel refused a backing file");
                    Reads::Cached
                }
            }
        };
        *self.reads.get_or_init(|| reads)
    }

    /// A backing id for `file`, which must be read-only, verified and complete: the kernel will
    /// serve whatever is in it. The same inode needs the same id for as long as it is open.
    ///
    /// # Errors
    /// Whatever the kernel answers; EPERM without CAP_SYS_ADMIN, ELOOP on a stacked file system.
    pub fn open(&self, reply: &ReplyOpen, file: &File) -> io::Result<BackingId> {
        reply.open_backing(file)
    }
}

/// The id is kept: fuser can close only ids that came with a reply. It costs one empty, unlinked
/// inode until the mount ends.
fn try_backing(fuse: impl AsFd, cache: &Path) -> io::Result<()> {
    let file = rustix::fs::open(cache, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR)?;
    BackingId::create_raw(fuse, file).map(drop)
}

fn hint(error: &io::Error) -> &'static str {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::PERM) => "needs CAP_SYS_ADMIN and a kernel that offered passthrough",
        Some(rustix::io::Errno::LOOP) => "the cache lies on a stacked file system such as overlayfs",
        Some(rustix::io::Errno::NOTTY | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => "needs Linux 6.9",
        _ => "see the error",
    }
}
