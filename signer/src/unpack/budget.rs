//! How much an archive may unfold into: a shared count that every decoded byte is taken from.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Decoded bytes of one artefact, at most.
const TOTAL_BYTES: u64 = 4 << 30;
/// Decoded bytes that any artefact may have, however small it is itself.
const FLOOR_BYTES: u64 = 64 << 20;
/// Decoded bytes for each stored byte above that. Source code packs at most 1:20, and a large
/// sparse binary at 1:100.
const RATIO: u64 = 256;

/// What is left; clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    left: Rc<Cell<u64>>,
    limit: u64,
}

/// The error inside an [`io::Error`] when the budget is used up.
#[derive(Debug, thiserror::Error)]
#[error("more decoded bytes than allowed")]
pub(super) struct Exhausted;

impl Budget {
    /// The budget of an artefact of `size` bytes.
    pub fn for_artefact(size: u64) -> Self {
        Self::new(size.saturating_mul(RATIO).clamp(FLOOR_BYTES, TOTAL_BYTES))
    }

    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { left: Rc::new(Cell::new(limit)), limit }
    }

    /// The bound itself, bytes.
    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes `bytes` out.
    pub(super) fn take(&self, bytes: u64) -> io::Result<()> {
        match self.left.get().checked_sub(bytes) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(io::Error::other(Exhausted)),
        }
    }

    /// What an error of reading means: the budget's end, or a damaged archive.
    pub(super) fn explain(&self, error: io::Error) -> super::UnpackError {
        match error.get_ref().is_some_and(|inner| inner.is::<Exhausted>()) {
            true => super::UnpackError::Bomb { what: "what it unpacks to", limit: self.limit() },
            false => super::UnpackError::Damaged(error),
        }
    }
}

/// A stream that pays for every byte it yields.
#[derive(Debug)]
pub(super) struct Paying<R> {
    inner: R,
    budget: Budget,
}

impl<R> Paying<R> {
    pub(super) fn new(inner: R, budget: &Budget) -> Self {
        Self { inner, budget: budget.clone() }
    }
}

impl<R: Read> Read for Paying<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.budget.take(read as u64)?;
        Ok(read)
    }
}
