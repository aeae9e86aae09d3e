//! What is open, and the backing ids that the kernel reads from.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lru::LruCache;

use super::ino::Ino;
use super::node::Item;
use crate::mount::Backed;

/// Backing ids kept for files that nobody has open. Each costs the kernel an open file; making
/// one anew costs an ioctl and an open of the cache's file.
const IDLE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// An open file or directory, by the way in which it is read.
#[derive(Debug)]
pub(super) enum Handle {
    /// Something synthetic.
    Text(Arc<[u8]>),
    /// A verified file, read by us.
    Cached(File),
    /// A directory that can change, as it was when it was opened.
    Listing(Arc<[Item]>),
}

/// All open handles. Number 0 is never given out: it stands for what needs none, a directory that
/// cannot change or a file that the kernel reads.
///
/// Numbers of one worker are not those of another, so that what a successor is asked about and has
/// never given out is known to be its predecessor's.
#[derive(Debug)]
pub(super) struct Handles {
    generation: u64,
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<Handle>>>,
}

/// Above these bits of a number stands the generation.
const GENERATION_BITS: u32 = 40;

impl Handles {
    /// For the worker of this generation; 0 if there is no other.
    pub(super) fn new(generation: u64) -> Self {
        let first = (generation << GENERATION_BITS) + 1;
        Self { generation, next: AtomicU64::new(first), open: RwLock::default() }
    }

    /// Whether a predecessor gave this number out.
    pub(super) fn is_inherited(&self, number: u64) -> bool {
        number != 0 && number >> GENERATION_BITS != self.generation
    }

    /// Takes over a number that a predecessor gave out.
    pub(super) fn inherit(&self, number: u64, handle: Arc<Handle>) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(number, handle);
    }

    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(handle));
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

/// What is counted outside of this process, so that a successor knows how often it is open.
pub(super) trait Counted {
    /// # Errors
    /// If it cannot be noted.
    fn note_handles(&self, handles: u64) -> io::Result<()>;
}

impl Counted for Backed {
    fn note_handles(&self, handles: u64) -> io::Result<()> {
        Backed::note_handles(self, handles)
    }
}

/// One backing id per inode for as long as it is open anywhere: the kernel refuses a second
/// one. Generic over the id, so that it can be tried without a kernel.
///
/// An id is kept with the file it was made from. A cached file that was altered is put aside
/// and fetched anew, and then the content lies in another file: an idle id of the old one is
/// dropped. While somebody still has the old one open, the open fails.
///
/// The number of handles is noted before an open is answered and after a close was: a worker that
/// dies in between leaves it too high, which costs an id, and never too low, which would cost the
/// next open of a file that is in use.
#[derive(Debug)]
pub(super) struct Backings<T>(Mutex<Ids<T>>);

/// Device and inode number of a file in the cache.
pub(super) type Source = (u64, u64);

#[derive(Debug)]
struct Ids<T> {
    /// With the number of handles on each.
    open: HashMap<Ino, (Kept<T>, u64)>,
    /// Those without a handle, the least recently used first to go.
    idle: LruCache<Ino, Kept<T>>,
}

#[derive(Debug)]
struct Kept<T> {
    id: Arc<T>,
    source: Source,
}

impl<T> Default for Backings<T> {
    fn default() -> Self {
        Self(Mutex::new(Ids { open: HashMap::new(), idle: LruCache::new(IDLE) }))
    }
}

impl<T: Counted> Backings<T> {
    /// An id that a predecessor made, with the handles on it.
    pub(super) fn inherit(&self, ino: Ino, source: Source, id: T, handles: u64) {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = Kept { id: Arc::new(id), source };
        match handles {
            0 => drop(ids.idle.put(ino, kept)),
            _ => drop(ids.open.insert(ino, (kept, handles))),
        }
    }

    /// The id of `ino` for one more handle, made if there is none. Making happens under the
    /// lock, so that two opens at once cannot end up with two ids.
    ///
    /// # Errors
    /// Those of `make`; `ESTALE`'s kind if the inode is open with a file that is not `source`.
    pub(super) fn open(&self, ino: Ino, source: Source, make: impl FnOnce() -> io::Result<T>) -> io::Result<Arc<T>> {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kept, handles)) = ids.open.get_mut(&ino) {
            if kept.source != source {
                let why = "the cached file was replaced while it is open; close it everywhere, then open it again";
                return Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, why));
            }
            kept.id.note_handles(*handles + 1)?;
            *handles += 1;
            return Ok(Arc::clone(&kept.id));
        }
        // One of another file is given back before a new one is made: an inode has one id.
        let idle = ids.idle.pop(&ino).filter(|kept| kept.source == source);
        let kept = match idle {
            Some(kept) => kept,
            None => Kept { id: Arc::new(make()?), source },
        };
        kept.id.note_handles(1)?;
        let id = Arc::clone(&kept.id);
        ids.open.insert(ino, (kept, 1));
        Ok(id)
    }

    /// Drops every id that nobody uses: each keeps a file of the cache from being evicted.
    pub(super) fn drop_idle(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).idle.clear();
    }

    /// One handle on `ino` was closed, and that has been answered.
    pub(super) fn close(&self, ino: Ino) {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((kept, handles)) = ids.open.get_mut(&ino) else { return };
        *handles -= 1;
        if let Err(error) = kept.id.note_handles(*handles) {
            tracing::debug!(%error, "a close was not noted; a successor will keep this file open");
        }
        if *handles == 0
            && let Some((kept, _)) = ids.open.remove(&ino)
        {
            ids.idle.put(ino, kept);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const FILE: Source = (1, 1);

    impl Counted for i32 {
        fn note_handles(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_predecessor_had_open_stays() {
        let backings = Backings::default();
        backings.inherit(Ino(9), FILE, 1, 1);
        backings.inherit(Ino(8), FILE, 2, 0);
        assert_eq!(*backings.open(Ino(9), FILE, || panic!("a second id")).unwrap(), 1);
        assert_eq!(*backings.open(Ino(8), FILE, || panic!("a second id")).unwrap(), 2);
        backings.close(Ino(9));
        assert!(backings.open(Ino(9), (1, 2), || Ok(3)).is_err(), "the predecessor's handle is still open");
        backings.close(Ino(9));
        assert_eq!(*backings.open(Ino(9), (1, 2), || Ok(3)).unwrap(), 3);
    }

    #[test]
    fn an_id_is_for_one_file_of_the_cache() {
        let backings = Backings::default();
        backings.open(Ino(9), FILE, || Ok(1)).unwrap();
        let other = backings.open(Ino(9), (1, 2), || Ok(2));
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::StaleNetworkFileHandle);
        backings.close(Ino(9));
        assert_eq!(*backings.open(Ino(9), (1, 2), || Ok(2)).unwrap(), 2, "the idle id of the old file is gone");
    }

    #[test]
    fn one_id_per_inode_while_it_is_open() {
        let backings = Backings::default();
        let first = backings.open(Ino(9), FILE, || Ok(1)).unwrap();
        assert_eq!(*backings.open(Ino(9), FILE, || panic!("a second id")).unwrap(), *first);
        backings.close(Ino(9));
        // Far more files than are kept idle: an open one must survive them all.
        for ino in 100..100 + 2 * IDLE.get() as u64 {
            backings.open(Ino(ino), FILE, || Ok(2)).unwrap();
            backings.close(Ino(ino));
        }
        assert!(Arc::ptr_eq(&backings.open(Ino(9), FILE, || panic!("a second id")).unwrap(), &first));
        assert_eq!(*backings.open(Ino(99 + 2 * IDLE.get() as u64), FILE, || Ok(3)).unwrap(), 2);
        assert_eq!(*backings.open(Ino(100), FILE, || Ok(3)).unwrap(), 3, "the oldest idle one is gone");
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let backings = Backings::default();
        assert!(backings.open(Ino(9), FILE, || Err(io::Error::other("no"))).is_err());
        assert_eq!(*backings.open(Ino(9), FILE, || Ok(3)).unwrap(), 3);
        backings.close(Ino(9));
        backings.close(Ino(9));
    }

    #[test]
    fn numbers_are_not_used_again() {
        let (handles, text) = (Handles::new(7), || Handle::Text(Arc::from([])));
        let first = handles.insert(text());
        assert!(first != 0 && handles.remove(first).is_some());
        assert!(handles.insert(text()) != first);
        assert!(handles.get(first).is_none() && handles.remove(first).is_none());
        assert!(!handles.is_inherited(first) && !handles.is_inherited(0));
        let others = Handles::new(6).insert(text());
        assert!(handles.is_inherited(others));
        handles.inherit(others, Arc::new(text()));
        assert!(handles.get(others).is_some());
    }
}
