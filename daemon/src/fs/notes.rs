//! The handles that are open on files, and where each is noted outside of this process.
//!
//! Every handle is noted before its open is answered, and its end before its close is: see
//! [`crate::supervisor::opens`]. Here stands which slot is whose, and which handle is void because the
//! request that opened it comes again.

use std::collections::{BTreeSet, HashMap};
use std::io;

/// A request to open, and the number of the handle that answers it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) handle: u64,
    /// The kernel's number for it, without the mark of one that is sent again.
    pub(super) unique: u64,
}

/// The open handles, each with what it is on.
#[derive(Debug)]
pub(super) struct Notes<T> {
    open: HashMap<u64, Note<T>>,
    /// Handles that a predecessor noted, by the request's number.
    left: HashMap<u64, u64>,
    slots: Slots,
}

#[derive(Debug)]
struct Note<T> {
    on: T,
    slot: u32,
    unique: u64,
}

impl<T> Default for Notes<T> {
    fn default() -> Self {
        Self { open: HashMap::new(), left: HashMap::new(), slots: Slots::default() }
    }
}

impl<T> Notes<T> {
    /// What a predecessor noted in `slot`.
    pub(super) fn inherit(&mut self, slot: u32, request: Request, on: T) {
        self.slots.take(slot);
        self.left.insert(request.unique, request.handle);
        self.open.insert(request.handle, Note { on, slot, unique: request.unique });
    }

    /// One more handle, which `note` writes into the slot that it is given.
    ///
    /// # Errors
    /// Those of `note`; then there is no such handle.
    pub(super) fn open(&mut self, request: Request, on: T, note: impl FnOnce(u32) -> io::Result<()>) -> io::Result<()> {
        let slot = self.slots.next();
        note(slot)?;
        self.slots.take(slot);
        self.open.insert(request.handle, Note { on, slot, unique: request.unique });
        Ok(())
    }

    /// What the handle was on, if there was such a one; `clear` empties its slot.
    pub(super) fn close(&mut self, handle: u64, clear: impl FnOnce(&T, u32) -> io::Result<()>) -> Option<T> {
        let Note { on, slot, unique } = self.open.remove(&handle)?;
        if self.left.get(&unique) == Some(&handle) {
            self.left.remove(&unique);
        }
        match clear(&on, slot) {
            Ok(()) => self.slots.give_back(slot),
            Err(error) => tracing::warn!(%error, "a close was not noted; a successor will keep this file open"),
        }
        Some(on)
    }

    /// The handle that a predecessor noted for this request.
    pub(super) fn of_request(&self, unique: u64) -> Option<u64> {
        self.left.get(&unique).copied()
    }
}

/// Places for notes, the lowest first.
#[derive(Debug, Default)]
struct Slots {
    used: u32,
    free: BTreeSet<u32>,
}

impl Slots {
    fn next(&self) -> u32 {
        self.free.first().copied().unwrap_or(self.used)
    }

    fn take(&mut self, slot: u32) {
        self.free.remove(&slot);
        self.free.extend(self.used..slot);
        self.used = self.used.max(slot + 1);
    }

    fn give_back(&mut self, slot: u32) {
        self.free.insert(slot);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn request(handle: u64) -> Request {
        Request { handle, unique: handle * 10 }
    }

    fn slot_of(notes: &mut Notes<char>, handle: u64) -> u32 {
        let mut slot = None;
        let note = |given| {
            slot = Some(given);
            Ok(())
        };
        notes.open(request(handle), 'x', note).unwrap();
        slot.unwrap()
    }

    /// The slot that the close of a handle clears.
    fn closed(notes: &mut Notes<char>, handle: u64) -> Option<u32> {
        let mut cleared = None;
        let clear = |_: &char, slot| {
            cleared = Some(slot);
            Ok(())
        };
        assert_eq!(notes.close(handle, clear).is_some(), cleared.is_some());
        cleared
    }

    #[test]
    fn slots_are_used_again() {
        let mut notes = Notes::default();
        assert_eq!([1, 2, 3].map(|handle| slot_of(&mut notes, handle)), [0, 1, 2]);
        assert_eq!([2, 2].map(|handle| closed(&mut notes, handle)), [Some(1), None]);
        assert_eq!(slot_of(&mut notes, 4), 1);
        assert_eq!(slot_of(&mut notes, 5), 3);
        // What could not be written is not open, and a slot that could not be emptied is nobody's.
        assert!(notes.open(request(6), 'x', |_| Err(io::Error::other("no"))).is_err());
        assert_eq!(closed(&mut notes, 6), None);
        assert_eq!(notes.close(1, |_, _| Err(io::Error::other("no"))), Some('x'));
        assert_eq!(slot_of(&mut notes, 7), 4);
    }

    #[test]
    fn what_was_left_is_found_by_its_request() {
        let mut notes = Notes::default();
        notes.inherit(5, request(1), 'a');
        assert_eq!((notes.of_request(10), notes.of_request(20)), (Some(1), None));
        assert_eq!([2, 3].map(|handle| slot_of(&mut notes, handle)), [0, 1]);
        assert_eq!(notes.of_request(20), None, "its own are answered");
        assert_eq!(closed(&mut notes, 1), Some(5));
        assert_eq!(notes.of_request(10), None);
    }
}
