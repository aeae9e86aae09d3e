//! What a path means.
//!
//! Three layers, each testable without the one above: [`ino`] and `synth` are pure; [`Vfs`]
//! decides (what is there, who may open it, what is recorded first) and knows no FUSE reply;
//! `adapter` only translates, and `answer` sees to it that each request is answered.
//!
//! **An operation is one future, polled once where it arrived.** Nearly all of them are
//! answered from memory, and then that first poll, on the FUSE thread, is all there is. The
//! few that have to wait (a name's first lookup, an open of what is not cached or not yet
//! recorded) are moved, half done, into a task, and the thread takes the next request.
//! Rejected: two versions of each operation, one that knows and one that waits, which drift
//! apart; and blocking a FUSE thread, of which a few slow mirrors would leave none.
//!
//! **What the kernel may keep.** Below a version everything is signed and cannot change, so
//! the kernel keeps names, attributes, links and listings for ever. What can change is the
//! top: which names and versions there are. That is kept for seconds, and a thread of its own
//! takes it back when the registry's snapshot changes (`invalidate`).
//!
//! **Nothing the kernel keeps depends on who asked,** since it would be shown to everybody.
//! Admission is therefore decided at every open, and only there. What a caller may use is the group of
//! `/mcp/<name>`, which all are shown alike and the kernel decides by; opens ask once more.

mod access;
pub mod adapter;
mod answer;
mod backings;
mod handle;
pub mod ino;
mod invalidate;
mod node;
mod notes;
mod open;
mod pulse;
mod rights;
mod shares;
mod synth;
mod threads;
mod trees;
mod vfs;
mod wire;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::mount::{Backing, MountError, Options, Seat, Session};

pub use node::{Asker, Attr, FileKind, Found, Item, Lifetime};
pub use open::Opened;
pub use pulse::Pulse;
pub use vfs::{Listing, Vfs};

/// Threads that take requests. Few are needed: what waits for a network does not wait in one,
/// and a read that waits for the disk is why there are more than one.
const THREADS: usize = 3;

/// Serves `vfs` from `seat`; what has to wait does so on `runtime`.
///
/// `cache` is the cache's directory: passthrough is tried with a file on its file system,
/// unless `forced_cached` (the setting `reads = "cached"`). `slots` names the table of slots.
///
/// # Errors
/// Every reason not to serve; nothing of one's own stays mounted then.
pub fn mount(
    vfs: Vfs,
    seat: Seat,
    cache: &Path,
    forced_cached: bool,
    slots: u64,
    runtime: &Handle,
    pulse: Arc<Pulse>,
) -> Result<Session, MountError> {
    let link = match &seat {
        Seat::Own(_) => None,
        Seat::Handed(_, link) => Some(Arc::clone(link)),
    };
    let generation = link.as_ref().map_or(0, |link| link.generation());
    let backing = Arc::new(Backing::new(forced_cached, link, slots));
    let registry = vfs.registry.clone();
    let mounted = answer::Mounted::new(Arc::new(vfs), runtime.clone(), Arc::clone(&backing), generation, pulse);
    let inner = Arc::clone(&mounted.0);
    let options = Options { cache: cache.to_owned(), threads: THREADS };
    let session = Session::start(seat, mounted, &backing, &options, || inner.inherit())?;
    if let Err(error) = invalidate::follow(runtime.clone(), registry, session.notifier(), session.until_ended()) {
        // Without it the kernel is a few seconds behind, and that is all.
        tracing::warn!(%error, "no thread to take back what the kernel keeps of the top directories");
    }
    Ok(session)
}
