//! What is open and read by this process.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::node::Item;
use super::notes::{Notes, Request};
use crate::metrics::COUNTS;

/// An open file or directory, by the way in which it is read.
#[derive(Debug)]
pub(super) enum Handle {
    /// Something synthetic.
    Text(Arc<[u8]>),
    /// A verified file, read by us.
    Cached(File),
    /// One that a predecessor had open, kept so that it is not evicted. What is read is not what a
    /// predecessor noted, but what the inode says.
    Kept { _file: Option<Arc<File>> },
    /// A directory that can change, as it was when it was opened.
    Listing(Arc<[Item]>),
}

impl Handle {
    fn is_file(&self) -> bool {
        !matches!(self, Self::Listing(_))
    }
}

/// All open handles but those on backing ids, which have numbers of the same row. Number 0 is never
/// given out: it stands for what needs none, a directory that cannot change.
///
/// Numbers of one worker are not those of another, so that what a successor is asked about and has
/// never given out is known to be its predecessor's.
#[derive(Debug)]
pub(super) struct Handles {
    generation: u64,
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<Handle>>>,
    /// Of those on verified files.
    notes: Mutex<Notes<()>>,
}

/// Above these bits of a number stands the generation.
const GENERATION_BITS: u32 = 40;

impl Handles {
    /// For the worker of this generation; 0 if there is no other.
    pub(super) fn new(generation: u64) -> Self {
        let first = (generation << GENERATION_BITS) + 1;
        Self { generation, next: AtomicU64::new(first), open: RwLock::default(), notes: Mutex::default() }
    }

    /// Whether a predecessor gave this number out.
    pub(super) fn is_inherited(&self, number: u64) -> bool {
        number != 0 && number >> GENERATION_BITS != self.generation
    }

    /// Takes over a number that a predecessor gave out.
    pub(super) fn inherit(&self, number: u64, handle: Arc<Handle>) {
        self.put(number, handle);
    }

    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let number = self.number();
        self.put(number, Arc::new(handle));
        number
    }

    /// Gives a file a number that `note` has noted in a slot.
    ///
    /// # Errors
    /// Those of `note`.
    pub(super) fn open(
        &self,
        unique: u64,
        file: File,
        note: impl FnOnce(u32, Request) -> io::Result<()>,
    ) -> io::Result<u64> {
        let request = Request { handle: self.number(), unique };
        self.notes().open(request, (), |slot| note(slot, request))?;
        self.put(request.handle, Arc::new(Handle::Cached(file)));
        Ok(request.handle)
    }

    /// A handle on a file that a predecessor noted; `file` is there if the cache still has it.
    pub(super) fn keep(&self, slot: u32, request: Request, file: Option<Arc<File>>) {
        self.notes().inherit(slot, request, ());
        self.put(request.handle, Arc::new(Handle::Kept { _file: file }));
    }

    /// The handle of a predecessor that was to answer this request and has not.
    pub(super) fn of_request(&self, unique: u64) -> Option<u64> {
        self.notes().of_request(unique)
    }

    /// Ends a handle on a file; `clear` empties the slot in which it is noted.
    pub(super) fn close(&self, number: u64, clear: impl FnOnce(u32) -> io::Result<()>) {
        self.notes().close(number, |(), slot| clear(slot));
        drop(self.remove(number));
    }

    fn notes(&self) -> MutexGuard<'_, Notes<()>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no handle of this mount ever had.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn put(&self, number: u64, handle: Arc<Handle>) {
        let is_file = handle.is_file();
        let before = self.open.write().unwrap_or_else(PoisonError::into_inner).insert(number, handle);
        if is_file && before.is_none() {
            COUNTS.opened();
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        let removed = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        if removed.as_ref().is_some_and(|handle| handle.is_file()) {
            COUNTS.closed();
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

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

    #[test]
    fn what_a_predecessor_had_open_is_kept_until_it_is_closed() {
        let (handles, file) = (Handles::new(7), Arc::new(tempfile::tempfile().unwrap()));
        let request = Request { handle: 3, unique: 8 };
        handles.keep(0, request, Some(Arc::clone(&file)));
        assert!(matches!(&*handles.get(3).unwrap(), Handle::Kept { _file: Some(_) }));
        let given = handles.open(9, tempfile::tempfile().unwrap(), |slot, request| {
            assert_eq!((slot, request.unique), (1, 9));
            Ok(())
        });
        assert!(handles.get(given.unwrap()).is_some());
        assert_eq!(handles.of_request(8), Some(3));
        let mut cleared = None;
        handles.close(3, |slot| {
            cleared = Some(slot);
            Ok(())
        });
        assert_eq!((cleared, Arc::strong_count(&file)), (Some(0), 1));
        assert!(handles.get(3).is_none() && handles.of_request(8).is_none());
        // Who cannot be noted is given nothing.
        assert!(handles.open(10, tempfile::tempfile().unwrap(), |_, _| Err(io::Error::other("no"))).is_err());
    }
}
