//! What is open and read by this process.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::node::Item;
use crate::metrics::COUNTS;

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
        self.put(number, handle);
    }

    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let number = self.number();
        self.put(number, Arc::new(handle));
        number
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
}
