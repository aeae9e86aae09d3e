//! What the cache holds, in memory: sizes, order of use, what was verified in this boot.
//!
//! Derived and disposable: a walk of the directories makes it again at every start, in the
//! background, because nothing but eviction needs it. [`Index::reserve`] waits for that walk,
//! so the quota holds from the first byte written.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use mcpfs_trust::digest::Digest;

use super::verified::FileKey;

/// The parts of the cache, in the order in which eviction takes from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Area {
    /// Contents of release files.
    Files,
    /// Trees and layouts.
    Metadata,
}

/// A file of the cache.
pub(super) type Name = (Area, Digest);

#[derive(Debug)]
pub(super) struct Index {
    quota: u64,
    state: Mutex<State>,
    walked: Condvar,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<Name, Slot>,
    /// By this process.
    verified: HashMap<Name, FileKey>,
    /// By an earlier process of this boot, which did not note the area.
    earlier: HashMap<Digest, FileKey>,
    /// What is pinned.
    kept: HashSet<Digest>,
    /// How often each tree and layout is held.
    held: HashMap<Digest, u32>,
    /// The kernel may know inodes by trees that an earlier process read.
    inherits: bool,
    /// Bytes of `files` and of everything reserved.
    used: u64,
    clock: u64,
    walked: bool,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    bytes: u64,
    /// When it was last used: seconds of its mtime until this process used it.
    used: u64,
}

impl State {
    fn spares(&self, (area, sha256): Name) -> bool {
        let in_use = self.held.contains_key(&sha256) || (self.inherits && self.earlier.contains_key(&sha256));
        self.kept.contains(&sha256) || (area == Area::Metadata && in_use)
    }
}

/// Disk space in whole blocks.
pub(super) fn on_disk(size: u64) -> u64 {
    size.div_ceil(4096).max(1) * 4096
}

impl Index {
    pub(super) fn new(quota: u64, earlier: HashMap<Digest, FileKey>) -> Self {
        // Ticks of this process come after any mtime.
        let state = State { earlier, clock: 1 << 48, ..State::default() };
        Self { quota, state: Mutex::new(state), walked: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in use, and the number of files.
    pub(super) fn usage(&self) -> (u64, usize) {
        let state = self.lock();
        (state.used, state.files.len())
    }

    /// Whether the file is there; `None` before the walk has seen everything.
    pub(super) fn holds(&self, name: Name) -> Option<bool> {
        let state = self.lock();
        if state.files.contains_key(&name) { Some(true) } else { state.walked.then_some(false) }
    }

    /// The state that was verified in this boot.
    pub(super) fn verified(&self, name: Name) -> Option<FileKey> {
        let state = self.lock();
        state.verified.get(&name).or_else(|| state.earlier.get(&name.1)).copied()
    }

    /// Those of these files that an earlier process of this boot verified.
    pub(super) fn earlier(&self, inodes: &HashSet<u64>) -> Vec<(Name, FileKey)> {
        let state = self.lock();
        let found = state.earlier.iter().filter(|(_, key)| inodes.contains(&key.ino));
        found.map(|(sha256, key)| ((Area::Files, *sha256), *key)).collect()
    }

    /// How many files are known to be verified, one that is known twice counted twice.
    pub(super) fn known(&self) -> usize {
        let state = self.lock();
        state.verified.len() + state.earlier.len()
    }

    /// All that is verified, what an earlier process knew first.
    pub(super) fn keys(&self) -> Vec<(Digest, FileKey)> {
        let state = self.lock();
        let now = state.verified.iter().map(|(name, key)| (name.1, *key));
        state.earlier.iter().map(|(sha256, key)| (*sha256, *key)).chain(now).collect()
    }

    /// The file is no longer in the state of `key`.
    pub(super) fn changed(&self, name: Name, key: FileKey) {
        let mut state = self.lock();
        if state.verified.get(&name) == Some(&key) {
            state.verified.remove(&name);
        }
        if state.earlier.get(&name.1) == Some(&key) {
            state.earlier.remove(&name.1);
        }
    }

    pub(super) fn touch(&self, name: Name) {
        let mut state = self.lock();
        state.clock += 1;
        let clock = state.clock;
        if let Some(slot) = state.files.get_mut(&name) {
            slot.used = clock;
        }
    }

    /// A file that the walk found.
    pub(super) fn found(&self, name: Name, size: u64, mtime: u64) {
        let mut state = self.lock();
        let bytes = on_disk(size);
        if let Entry::Vacant(vacant) = state.files.entry(name) {
            vacant.insert(Slot { bytes, used: mtime });
            state.used += bytes;
        }
    }

    pub(super) fn walk_ended(&self) {
        self.lock().walked = true;
        self.walked.notify_all();
    }

    /// Whether the walk has seen everything.
    pub(super) fn is_walked(&self) -> bool {
        self.lock().walked
    }

    /// A file that hashed to its name. `reserved` says that its bytes were reserved.
    pub(super) fn verify(&self, name: Name, key: FileKey, reserved: bool) {
        let mut state = self.lock();
        state.clock += 1;
        let slot = Slot { bytes: on_disk(key.size), used: state.clock };
        state.verified.insert(name, key);
        let before = state.files.insert(name, slot).map_or(0, |slot| slot.bytes);
        state.used -= before;
        if !reserved {
            state.used += slot.bytes;
        }
    }

    /// Everything held, and when it was last used.
    pub(super) fn names(&self) -> Vec<(Name, Option<u64>)> {
        self.lock().files.iter().map(|(name, slot)| (*name, Some(slot.used))).collect()
    }

    /// When the file was last used, for [`Index::missing`].
    pub(super) fn last_use(&self, name: Name) -> Option<u64> {
        self.lock().files.get(&name).map(|slot| slot.used)
    }

    /// The file was not found by somebody who began to look after `last_use`. If it was
    /// used since, it has been published again meanwhile and stays.
    pub(super) fn missing(&self, name: Name, last_use: Option<u64>) {
        if last_use.is_some() && self.last_use(name) == last_use {
            self.forget(name);
        }
    }

    /// The file was removed. Returns the bytes it had.
    pub(super) fn forget(&self, name: Name) -> u64 {
        let mut state = self.lock();
        state.verified.remove(&name);
        let bytes = state.files.remove(&name).map_or(0, |slot| slot.bytes);
        state.used -= bytes;
        bytes
    }

    /// Replaces the contents that eviction never takes.
    pub(super) fn keep(&self, kept: HashSet<Digest>) {
        self.lock().kept = kept;
    }

    /// Spares a tree or layout until as many [`Index::end_hold`].
    pub(super) fn hold(&self, sha256: Digest) {
        *self.lock().held.entry(sha256).or_insert(0) += 1;
    }

    pub(super) fn end_hold(&self, sha256: Digest) {
        if let Entry::Occupied(mut held) = self.lock().held.entry(sha256) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }

    /// Spares whatever trees and layouts an earlier process of this boot read.
    pub(super) fn inherit(&self) {
        self.lock().inherits = true;
    }

    /// Whether eviction leaves the file alone, open or not.
    pub(super) fn is_spared(&self, name: Name) -> bool {
        self.lock().spares(name)
    }

    /// Reserves `bytes`, or says how many must be evicted first. Waits for the walk.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), u64> {
        let state = self.lock();
        let walking = |state: &mut State| !state.walked;
        let mut state = self.walked.wait_while(state, walking).unwrap_or_else(PoisonError::into_inner);
        match (state.used + bytes).checked_sub(self.quota) {
            None | Some(0) => {
                state.used += bytes;
                Ok(())
            }
            Some(excess) => Err(excess),
        }
    }

    pub(super) fn release(&self, bytes: u64) {
        self.lock().used -= bytes;
    }

    /// What eviction may try, first the least useful: metadata last, else by last use.
    pub(super) fn candidates(&self) -> Vec<Name> {
        let state = self.lock();
        let evictable = state.files.iter().filter(|(name, _)| !state.spares(**name));
        let mut order: Vec<_> = evictable.map(|(name, slot)| (name.0, slot.used, *name)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, _, name)| name).collect()
    }
}
