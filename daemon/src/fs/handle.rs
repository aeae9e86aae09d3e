//! What is open and read by this process.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use rustix::process::{Resource, getrlimit};

use super::node::Item;
use super::notes::{Notes, Request};
use crate::errno::FsError;
use crate::metrics::COUNTS;

/// An open file or directory, by the way in which it is read.
#[derive(Debug)]
pub(super) enum Handle {
    /// Something synthetic.
    Text(Arc<[u8]>),
    /// A verified file, read by us.
    Cached(Arc<File>),
    /// One that a predecessor had open, kept so that it is not evicted. What is read is not what a
    /// predecessor noted, but what the inode says.
    Kept { file: Option<Arc<File>> },
    /// A directory that can change, as it was when it was opened.
    Listing(Arc<[Item]>),
}

impl Handle {
    fn is_file(&self) -> bool {
        !matches!(self, Self::Listing(_))
    }

    fn file(&self) -> Option<&Arc<File>> {
        match self {
            Self::Cached(file) => Some(file),
            Self::Kept { file } => file.as_ref(),
            Self::Text(_) | Self::Listing(_) => None,
        }
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
    /// The files behind them, by device and inode number: who opens one a thousand times costs one descriptor.
    files: Mutex<HashMap<(u64, u64), Weak<File>>>,
}

/// How many files may be open at once for others: half of what this process may open. The rest is for what it
/// does itself, such as to answer `mcpfs status`.
pub(super) fn most_files() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most / 2).unwrap_or(usize::MAX))
}

/// Above these bits of a number stands the generation.
const GENERATION_BITS: u32 = 40;

impl Handles {
    /// For the worker of this generation; 0 if there is no other.
    pub(super) fn new(generation: u64) -> Self {
        let first = (generation << GENERATION_BITS) + 1;
        Self {
            generation,
            next: AtomicU64::new(first),
            open: RwLock::default(),
            notes: Mutex::default(),
            files: Mutex::default(),
        }
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

    /// Gives a file this number, which `note` notes in a slot.
    ///
    /// # Errors
    /// Those of `note`.
    pub(super) fn open(
        &self,
        request: Request,
        file: Arc<File>,
        note: impl FnOnce(u32) -> io::Result<()>,
    ) -> io::Result<()> {
        self.notes().open(request, (), note)?;
        self.put(request.handle, Arc::new(Handle::Cached(file)));
        Ok(())
    }

    /// A handle on a file that a predecessor noted; `file` is there if the cache still has it.
    pub(super) fn keep(&self, slot: u32, request: Request, file: Option<Arc<File>>) {
        self.notes().inherit(slot, request, ());
        self.put(request.handle, Arc::new(Handle::Kept { file }));
    }

    /// The handle of a predecessor that was to answer this request and has not.
    pub(super) fn of_request(&self, unique: u64) -> Option<u64> {
        self.notes().of_request(unique)
    }

    /// Ends a handle on a file; `clear` empties the slot in which it is noted.
    pub(super) fn close(&self, number: u64, clear: impl FnOnce(u32) -> io::Result<()>) {
        self.notes().close(number, |(), slot| clear(slot));
        if let Some(handle) = self.remove(number) {
            self.let_go(handle);
        }
    }

    /// The descriptor by which this file is open already, or this one, if of `most` files more are left than
    /// whoever opens it has open: with `before` handles, no more than those and than there are.
    ///
    /// # Errors
    /// That too few are left, and what the disk says.
    pub(super) fn share(&self, file: Arc<File>, most: usize, before: u64) -> Result<Arc<File>, FsError> {
        let on = place(&file).map_err(|error| FsError::Internal(format!("stat a file of the cache: {error}")))?;
        let mut files = self.files();
        if let Some(open) = files.get(&on).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        let taken = |files: usize| files.saturating_add(before.min(files));
        if taken(files.len()) >= most {
            files.retain(|_, file| file.strong_count() > 0);
        }
        if taken(files.len()) >= most {
            let (open, all) = (files.len(), most_files());
            let why = format!(
                "{open} different ones are open, and of the {all} that the daemon may have open for others (half of its \
                 LimitNOFILE) too few are left for this user; some have to be closed"
            );
            return Err(FsError::TooManyOpen(why));
        }
        files.insert(on, Arc::downgrade(&file));
        Ok(file)
    }

    /// Forgets a file of which this was the last handle.
    fn let_go(&self, handle: Arc<Handle>) {
        let file = handle.file().cloned();
        drop(handle);
        let Some(file) = file else { return };
        let mut files = self.files();
        if Arc::strong_count(&file) == 1
            && let Ok(on) = place(&file)
        {
            files.remove(&on);
        }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<(u64, u64), Weak<File>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
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

fn place(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|found| (found.dev(), found.ino()))
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
        assert!(matches!(&*handles.get(3).unwrap(), Handle::Kept { file: Some(_) }));
        let given = Request { handle: handles.number(), unique: 9 };
        let note = |slot| {
            assert_eq!(slot, 1);
            Ok(())
        };
        handles.open(given, Arc::new(tempfile::tempfile().unwrap()), note).unwrap();
        assert!(handles.get(given.handle).is_some());
        assert_eq!(handles.of_request(8), Some(3));
        let mut cleared = None;
        handles.close(3, |slot| {
            cleared = Some(slot);
            Ok(())
        });
        assert_eq!((cleared, Arc::strong_count(&file)), (Some(0), 1));
        assert!(handles.get(3).is_none() && handles.of_request(8).is_none());
        // Who cannot be noted is given nothing.
        assert!(handles.open(given, file, |_| Err(io::Error::other("no"))).is_err());
    }

    #[test]
    fn a_file_has_one_descriptor_and_there_are_so_many() {
        let (handles, folder) = (Handles::new(7), tempfile::tempdir().unwrap());
        let share = |number: u64, most: usize| {
            let path = folder.path().join(number.to_string());
            handles.share(Arc::new(File::options().create(true).append(true).open(path).unwrap()), most, 0)
        };
        let hold = |number: u64| {
            let file = share(number, 100).unwrap();
            handles.keep(u32::try_from(number).unwrap(), Request { handle: number + 1, unique: number }, Some(file));
        };
        (0..100).for_each(hold);
        assert!(Arc::ptr_eq(&share(0, 100).unwrap(), &share(0, 100).unwrap()), "it is open");
        let refused = share(100, 100).unwrap_err();
        assert!(refused.to_string().contains("LimitNOFILE"), "{refused}");
        handles.close(7, |_| Ok(()));
        assert_eq!(handles.files().len(), 99);
        let file = || Arc::new(tempfile::tempfile().unwrap());
        assert!(
            [(200, 99), (199, 1000), (101, 1)].map(|(most, before)| handles.share(file(), most, before).is_ok())
                == [true, true, true]
        );
        assert!(
            [(198, 99), (198, 1000), (100, 1)].map(|(most, before)| handles.share(file(), most, before).is_ok())
                == [false; 3]
        );
        hold(100);
        // Also what nobody has closed goes, once there are too many.
        (1..=101).for_each(|number| drop(handles.remove(number)));
        assert_eq!(handles.files().len(), 100);
        assert!(share(101, 100).is_ok());
    }
}
