//! Which decoded trees stay in memory: those of which the kernel holds an inode.
//!
//! The registry drops trees by a budget of memory. A tree with live inodes must not go, or a
//! stat of something that the kernel knows would wait for a load, perhaps for the network. So
//! this counts what the kernel holds, one number per release, and keeps the `Arc` meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Trees of which the kernel holds nothing (any more) that are kept anyway: the next lookup
/// is likely to come soon.
const IDLE: usize = 4;

/// Values by slot, each kept while the kernel holds one of its inodes.
#[derive(Debug)]
pub(super) struct Live<T>(Mutex<HashMap<u32, Kept<T>>>);

#[derive(Debug)]
struct Kept<T> {
    value: Arc<T>,
    /// Lookups the kernel has not forgotten.
    held: u64,
}

impl<T> Default for Live<T> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<T> Live<T> {
    fn map(&self) -> MutexGuard<'_, HashMap<u32, Kept<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, slot: u32) -> Option<Arc<T>> {
        self.map().get(&slot).map(|kept| Arc::clone(&kept.value))
    }

    /// Remembers a value just loaded. The first one stays, if two were loaded at once.
    pub(super) fn insert(&self, slot: u32, value: Arc<T>) {
        let mut map = self.map();
        map.entry(slot).or_insert(Kept { value, held: 0 });
        let idle: Vec<u32> =
            map.iter().filter(|(at, kept)| kept.held == 0 && **at != slot).map(|(at, _)| *at).collect();
        for at in idle.into_iter().skip(IDLE) {
            map.remove(&at);
        }
    }

    /// The kernel is about to be told of `count` inodes more.
    pub(super) fn hold(&self, slot: u32, value: &Arc<T>, count: u64) {
        self.map().entry(slot).or_insert_with(|| Kept { value: Arc::clone(value), held: 0 }).held += count;
    }

    /// The kernel has forgotten `count` lookups.
    pub(super) fn forget(&self, slot: u32, count: u64) {
        let mut map = self.map();
        let Some(kept) = map.get_mut(&slot) else { return };
        // A predecessor's lookups were never counted here, and may be forgotten all the same.
        kept.held = kept.held.saturating_sub(count);
        if kept.held == 0 && map.values().filter(|kept| kept.held == 0).count() > IDLE {
            map.remove(&slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_holds_stays() {
        let live = Live::default();
        for slot in 0..20 {
            let value = Arc::new(slot);
            live.insert(slot, Arc::clone(&value));
            if slot < 3 {
                live.hold(slot, &value, 2);
            }
        }
        assert!((0..3).all(|slot| live.get(slot).is_some()));
        assert_eq!((0..20).filter(|slot| live.get(*slot).is_some()).count(), 3 + IDLE + 1);
        live.forget(0, 1);
        assert!(live.get(0).is_some());
        live.forget(0, 1);
        assert!(live.get(0).is_none());
        live.forget(0, 7);
        live.forget(1, 7);
        assert!(live.get(1).is_none() && live.get(2).is_some());
    }
}
