//! The backing ids that the kernel reads from, and the handles that are open on them.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::ino::Ino;
use super::notes::{Notes, Request};
use crate::metrics::COUNTS;
use crate::mount::Backed;

/// Backing ids kept for files that nobody has open. Each costs the kernel an open file; making
/// one anew costs an ioctl and an open of the cache's file.
const IDLE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// What is noted outside of this process, so that a successor knows what is open.
pub(super) trait Noted {
    /// # Errors
    /// If it cannot be noted.
    fn note(&self, slot: u32, request: Request) -> io::Result<()>;

    /// # Errors
    /// If it cannot be noted.
    fn clear(&self, slot: u32) -> io::Result<()>;
}

impl Noted for Backed {
    fn note(&self, slot: u32, request: Request) -> io::Result<()> {
        self.note_open(slot, request.handle, request.unique)
    }

    fn clear(&self, slot: u32) -> io::Result<()> {
        self.note_close(slot)
    }
}

/// One backing id per inode for as long as it is open anywhere: the kernel refuses a second
/// one. Generic over the id, so that it can be tried without a kernel.
///
/// An id is kept with the file it was made from. When the cache was wiped, or a cached file was
/// altered and put aside, the content is fetched anew and lies in another file: an idle id of the
/// old one is dropped. While somebody still has the old one open, it is the one that is opened, if
/// it has been found to hold the same bytes ([`Self::is_twin`]); else the open fails.
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
    handles: Notes<Ino>,
}

#[derive(Debug)]
struct Kept<T> {
    id: Arc<T>,
    source: Source,
    /// The file of the cache that holds the same bytes, byte for byte.
    twin: Option<Source>,
}

impl<T> Kept<T> {
    fn new(id: T, source: Source) -> Self {
        Self { id: Arc::new(id), source, twin: None }
    }
}

impl<T> Default for Backings<T> {
    fn default() -> Self {
        Self(Mutex::new(Ids { open: HashMap::new(), idle: LruCache::new(IDLE), handles: Notes::default() }))
    }
}

impl<T: Noted> Backings<T> {
    fn lock(&self) -> MutexGuard<'_, Ids<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id that a predecessor made, with the handles on it and where they are noted.
    pub(super) fn inherit(&self, ino: Ino, source: Source, id: T, handles: &[(u32, Request)]) {
        let mut ids = self.lock();
        for (slot, request) in handles {
            ids.handles.inherit(*slot, *request, ino);
            COUNTS.opened();
        }
        let kept = Kept::new(id, source);
        match handles.len() as u64 {
            0 => drop(ids.idle.put(ino, kept)),
            handles => drop(ids.open.insert(ino, (kept, handles))),
        }
    }

    /// The id of `ino` for one more handle, made if there is none. Making happens under the
    /// lock, so that two opens at once cannot end up with two ids.
    ///
    /// # Errors
    /// Those of `make`; `ESTALE`'s kind if the inode is open with a file that is not `source`.
    pub(super) fn open(
        &self,
        ino: Ino,
        source: Source,
        request: Request,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<Arc<T>> {
        let mut ids = self.lock();
        let Ids { open, idle, handles } = &mut *ids;
        let id = if let Some((kept, count)) = open.get_mut(&ino) {
            if kept.source != source && kept.twin != Some(source) {
                let why = "the cached file was altered while it is open; close it everywhere, then open it again";
                return Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, why));
            }
            handles.open(request, ino, |slot| kept.id.note(slot, request))?;
            *count += 1;
            Arc::clone(&kept.id)
        } else {
            // One of another file is given back before a new one is made: an inode has one id.
            let idle = idle.pop(&ino).filter(|kept| kept.source == source);
            let kept = match idle {
                Some(kept) => kept,
                None => Kept::new(make()?, source),
            };
            handles.open(request, ino, |slot| kept.id.note(slot, request))?;
            let id = Arc::clone(&kept.id);
            open.insert(ino, (kept, 1));
            id
        };
        COUNTS.opened();
        Ok(id)
    }

    /// Whether `ino` is open with a file that is not known to be as good as `source`.
    pub(super) fn differs(&self, ino: Ino, source: Source) -> bool {
        let ids = self.lock();
        ids.open.get(&ino).is_some_and(|(kept, _)| kept.source != source && kept.twin != Some(source))
    }

    /// `ino`, which is open with the file `old`, may be opened with `source` in the cache: they hold
    /// the same bytes.
    pub(super) fn is_twin(&self, ino: Ino, old: Source, source: Source) {
        if let Some((kept, _)) = self.lock().open.get_mut(&ino).filter(|(kept, _)| kept.source == old) {
            kept.twin = Some(source);
        }
    }

    /// Drops every id that nobody uses: each keeps a file of the cache from being evicted.
    pub(super) fn drop_idle(&self) {
        self.lock().idle.clear();
    }

    /// The handle that a predecessor noted for a request to open.
    pub(super) fn of_request(&self, unique: u64) -> Option<u64> {
        self.lock().handles.of_request(unique)
    }

    /// A handle was closed. Whether it was one on an id, or is none any more.
    pub(super) fn close(&self, handle: u64) -> bool {
        let mut ids = self.lock();
        let Ids { open, idle, handles } = &mut *ids;
        let clear = |ino: &Ino, slot| open.get(ino).map_or(Ok(()), |(kept, _)| kept.id.clear(slot));
        let Some(ino) = handles.close(handle, clear) else { return false };
        COUNTS.closed();
        if let Some((_, count)) = open.get_mut(&ino) {
            *count -= 1;
            if *count == 0
                && let Some((kept, _)) = open.remove(&ino)
            {
                idle.put(ino, kept);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;

    use super::*;

    const FILE: Source = (1, 1);

    /// An id, and what a successor would read.
    #[derive(Debug, Clone)]
    struct Id(u32, Notes);

    type Notes = Arc<Mutex<BTreeMap<u32, (u32, u64, u64)>>>;

    impl Noted for Id {
        fn note(&self, slot: u32, request: Request) -> io::Result<()> {
            let before = self.1.lock().unwrap().insert(slot, (self.0, request.handle, request.unique));
            assert_eq!(before, None, "a slot that is in use");
            Ok(())
        }

        fn clear(&self, slot: u32) -> io::Result<()> {
            assert!(self.1.lock().unwrap().remove(&slot).is_some());
            Ok(())
        }
    }

    /// A worker: what it has open, and what it notes.
    #[derive(Default)]
    struct Worker {
        backings: Backings<Id>,
        notes: Notes,
    }

    impl Worker {
        /// Opens an inode with an id that is made if need be. Handle and request have the same number.
        fn open(&self, ino: u64, source: Source, id: u32, number: u64) -> io::Result<u32> {
            let make = || Ok(Id(id, Arc::clone(&self.notes)));
            let request = Request { handle: number, unique: number };
            self.backings.open(Ino(ino), source, request, make).map(|id| id.0)
        }

        fn comes_again(&self, unique: u64) {
            if let Some(handle) = self.backings.of_request(unique) {
                assert!(self.backings.close(handle));
            }
        }

        /// Its successor, after it was killed. Inode numbers are those of the ids.
        fn successor(self) -> Self {
            let next = Self { backings: Backings::default(), notes: self.notes };
            let noted = next.notes.lock().unwrap().clone();
            let mut ids: BTreeMap<u32, Vec<(u32, Request)>> = BTreeMap::new();
            for (slot, (id, handle, unique)) in noted {
                ids.entry(id).or_default().push((slot, Request { handle, unique }));
            }
            for (id, handles) in ids {
                next.backings.inherit(Ino(id.into()), FILE, Id(id, Arc::clone(&next.notes)), &handles);
            }
            next
        }
    }

    #[test]
    fn what_a_predecessor_had_open_stays() {
        let worker = Worker::default();
        worker.open(9, FILE, 9, 1).unwrap();
        worker.open(8, FILE, 8, 2).unwrap();
        worker.open(9, FILE, 9, 3).unwrap();
        worker.backings.close(2);
        let worker = worker.successor();
        assert_eq!(worker.open(9, FILE, 7, 4).unwrap(), 9, "no second id");
        for handle in [1, 3] {
            assert!(worker.backings.close(handle));
            assert!(worker.open(9, (1, 2), 7, 5).is_err(), "it is still open");
        }
        assert!(worker.backings.close(4));
        assert_eq!(worker.open(9, (1, 2), 7, 5).unwrap(), 7);
        assert_eq!(worker.notes.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_was_not_answered_is_not_open() {
        let worker = Worker::default();
        worker.open(9, FILE, 9, 1).unwrap();
        worker.open(9, FILE, 9, 2).unwrap();
        // It died before it answered the second, which comes again, to two more of them.
        let worker = worker.successor();
        worker.comes_again(2);
        worker.open(9, FILE, 7, 2).unwrap();
        let worker = worker.successor();
        worker.comes_again(2);
        worker.comes_again(77);
        worker.open(9, FILE, 7, 2).unwrap();
        assert!(worker.backings.close(1) && worker.backings.close(2));
        assert_eq!(worker.open(9, (1, 2), 7, 3).unwrap(), 7, "nobody has it open");
    }

    #[test]
    fn a_close_that_comes_again_closes_nothing_else() {
        let worker = Worker::default();
        worker.open(9, FILE, 9, 1).unwrap();
        worker.open(9, FILE, 9, 2).unwrap();
        assert!(worker.backings.close(1));
        let worker = worker.successor();
        worker.open(9, FILE, 9, 3).unwrap();
        assert!(!worker.backings.close(1));
        assert!(worker.backings.close(2));
        assert!(worker.open(9, (1, 2), 7, 4).is_err(), "the third is open");
        assert!(worker.backings.close(3) && !worker.backings.close(3));
        assert!(worker.notes.lock().unwrap().is_empty());
    }

    #[test]
    fn an_id_is_for_one_file_of_the_cache() {
        let worker = Worker::default();
        worker.open(9, FILE, 1, 1).unwrap();
        let other = worker.open(9, (1, 2), 2, 2);
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::StaleNetworkFileHandle);
        worker.backings.close(1);
        assert_eq!(worker.open(9, (1, 2), 2, 3).unwrap(), 2, "the idle id of the old file is gone");
    }

    #[test]
    fn a_twin_is_opened_with_the_file_that_is_open() {
        let worker = Worker::default();
        let (new, newer) = ((1, 2), (1, 3));
        worker.open(9, FILE, 1, 1).unwrap();
        assert!(worker.backings.differs(Ino(9), new) && !worker.backings.differs(Ino(9), FILE));
        worker.backings.is_twin(Ino(9), newer, new);
        assert!(worker.open(9, new, 2, 2).is_err(), "another file's twin");
        worker.backings.is_twin(Ino(9), FILE, new);
        assert!(!worker.backings.differs(Ino(9), new));
        assert_eq!(worker.open(9, new, 2, 2).unwrap(), 1);
        assert!(worker.open(9, newer, 2, 3).is_err());
        worker.backings.close(1);
        assert_eq!(worker.open(9, new, 2, 3).unwrap(), 1);
        worker.backings.close(2);
        worker.backings.close(3);
        assert_eq!(worker.open(9, new, 2, 4).unwrap(), 2, "with nobody there the old file goes");
    }

    #[test]
    fn one_id_per_inode_while_it_is_open() {
        let worker = Worker::default();
        assert_eq!(worker.open(9, FILE, 1, 1).unwrap(), 1);
        assert_eq!(worker.open(9, FILE, 2, 2).unwrap(), 1);
        worker.backings.close(1);
        // Far more files than are kept idle: an open one must survive them all.
        for ino in 100..100 + 2 * IDLE.get() as u64 {
            worker.open(ino, FILE, 2, ino).unwrap();
            worker.backings.close(ino);
        }
        assert_eq!(worker.open(9, FILE, 3, 3).unwrap(), 1);
        assert_eq!(worker.open(99 + 2 * IDLE.get() as u64, FILE, 3, 4).unwrap(), 2);
        assert_eq!(worker.open(100, FILE, 3, 5).unwrap(), 3, "the oldest idle one is gone");
        assert_eq!(worker.notes.lock().unwrap().last_key_value().unwrap().0, &3, "slots are used again");
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let worker = Worker::default();
        let request = Request { handle: 1, unique: 1 };
        assert!(worker.backings.open(Ino(9), FILE, request, || Err(io::Error::other("no"))).is_err());
        assert!(!worker.backings.close(1));
        assert_eq!(worker.open(9, FILE, 3, 2).unwrap(), 3);
        assert!(worker.backings.close(2) && !worker.backings.close(2));
    }
}
