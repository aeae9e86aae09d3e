//! Whose the open files are: nobody can have so many that none are left for others (design.md, invariant 11).
//!
//! A mount has so many handles (`supervisor::opens`) and no more. Each user may have as many of them as are
//! left for all others, so that whoever comes next finds some, however many somebody has taken. Whose a handle
//! is, is decided as for the rows of the audit ([`crate::caller::Caller::budget_uid`]): by who logged in. What a
//! predecessor had handed out is there, and nobody's.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::errno::FsError;

/// Whose share a handle is of: a user's number, or that of all who are unknown.
pub(super) type Payer = Option<u32>;

/// The open handles on files, by user.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// `None` for those of a predecessor.
    of: HashMap<u64, Option<Payer>>,
    counts: HashMap<Payer, u64>,
}

impl Shares {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more handle of `payer`, where there are `most` of all; how many he had before.
    ///
    /// # Errors
    /// That he has as many as are left for all others.
    pub(super) fn take(&self, handle: u64, payer: Payer, most: u64) -> Result<u64, FsError> {
        let mut open = self.lock();
        let left = most.saturating_sub(open.of.len() as u64);
        let count = open.counts.entry(payer).or_insert(0);
        let before = *count;
        if before >= left {
            let why = format!("this user has {before}, and {left} are left for all others; some have to be closed");
            return Err(FsError::TooManyOpen(why));
        }
        *count += 1;
        open.of.insert(handle, Some(payer));
        Ok(before)
    }

    /// A handle that a predecessor handed out.
    pub(super) fn inherit(&self, handle: u64) {
        self.lock().of.insert(handle, None);
    }

    /// A handle is no more, or was not handed out after all.
    pub(super) fn give_back(&self, handle: u64) {
        let mut open = self.lock();
        let Some(Some(payer)) = open.of.remove(&handle) else { return };
        if let Some(count) = open.counts.get_mut(&payer) {
            *count -= 1;
            if *count == 0 {
                open.counts.remove(&payer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn there_is_always_something_left() {
        let (shares, mut number) = (Shares::default(), 0);
        let mut take = |payer| {
            (0..)
                .map_while(|_| {
                    number += 1;
                    shares.take(number, payer, 1000).ok()
                })
                .count()
        };
        assert_eq!(take(Some(1)), 500, "as many as are left");
        assert_eq!(take(Some(2)), 250);
        assert_eq!([take(Some(1)), take(Some(2))], [0, 0]);
        assert_eq!([take(None), take(Some(0))], [125, 63]);
        // What he closes he may open again.
        (1..=10).for_each(|handle| shares.give_back(handle));
        let refused = shares.take(2000, Some(1), 1000).unwrap_err().to_string();
        assert!(refused.contains("has 490, and 72 are left"), "{refused}");
        (11..=500).for_each(|handle| shares.give_back(handle));
        assert_eq!(shares.take(2001, Some(1), 1000).unwrap(), 0);
    }

    #[test]
    fn what_a_predecessor_handed_out_is_nobodys() {
        let shares = Shares::default();
        (0..900).for_each(|handle| shares.inherit(handle));
        let got = (1000..2000).map_while(|handle| shares.take(handle, Some(1), 1000).ok());
        assert_eq!(got.count(), 50);
        (0..900).for_each(|handle| shares.give_back(handle));
        shares.give_back(77);
        assert_eq!(shares.take(3000, Some(1), 1000).unwrap(), 50);
    }
}
