//! What is made for the first test that wants it, used by those after it, and removed at the end: statics are
//! never dropped, and what lies in a temporary folder would stay there.

use std::sync::{Mutex, PoisonError};

/// A value that is made once.
#[derive(Debug)]
pub struct Once<T>(Mutex<Option<T>>);

impl<T> Once<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Runs `test` with the value; one test at a time.
    pub fn with<R>(&self, make: impl FnOnce() -> T, test: impl FnOnce(&T) -> R) -> R {
        test(self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(make))
    }

    /// Removes it.
    pub fn remove(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}
