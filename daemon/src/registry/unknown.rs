//! Names asked for while no catalogue has ever been accepted.
//!
//! Every valid name then answers with the reason why there is none, so anybody can make up as
//! many as they like. They take no lasting place: the ones used last are known, and a number is
//! never given to another name, so an inode that the kernel still holds leads to its own name
//! or to nothing. A name that was pushed out is numbered anew when somebody asks for it again.
//!
//! Rejected: a bound that refuses further names (one user could use it up for all), and a bound
//! for each user (kernel caches are shared, so a lookup must not depend on who asks).

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use mcpfs_trust::name::ServerName;

use super::Server;
use crate::refusal::Refusal;

/// Slots from here on belong to such names; they are not stored.
const FIRST: u32 = 0x8000_0000;
/// Names known at once: about a megabyte.
const KNOWN: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The names, by number and by themselves.
#[derive(Debug)]
pub(super) struct UnknownNames {
    by_slot: LruCache<u32, Arc<Server>>,
    slots: std::collections::HashMap<ServerName, u32>,
    next: u32,
}

impl Default for UnknownNames {
    fn default() -> Self {
        // Numbers that a predecessor gave out may still be in the kernel; it is one in very many that is met again.
        let next = FIRST + rand::random_range(0..1 << 30);
        Self { by_slot: LruCache::new(KNOWN), slots: std::collections::HashMap::new(), next }
    }
}

impl UnknownNames {
    /// Whether a slot is one of these.
    pub(super) fn holds(slot: u32) -> bool {
        slot >= FIRST
    }

    /// What such a slot stands for, if its name is still known.
    pub(super) fn by_slot(&mut self, slot: u32) -> Option<Arc<Server>> {
        self.by_slot.get(&slot).cloned()
    }

    /// The name with its present refusal.
    pub(super) fn answer(&mut self, name: &ServerName, refusal: Refusal) -> Arc<Server> {
        let slot = self.slots.get(name).copied().unwrap_or_else(|| {
            let slot = self.next;
            // After two thousand million names it begins again.
            self.next = slot.checked_add(1).unwrap_or(FIRST);
            slot
        });
        let server = Arc::new(Server::refused(name.clone(), slot, refusal));
        self.slots.insert(name.clone(), slot);
        if let Some((_, gone)) = self.by_slot.push(slot, Arc::clone(&server))
            && gone.name != *name
        {
            self.slots.remove(&gone.name);
        }
        server
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use mcpfs_trust::error::Code;

    use super::*;

    #[test]
    fn a_flood_of_names_takes_no_name_away() {
        let mut names = UnknownNames::default();
        let refusal = || Refusal::new(Code::Unreachable, "no route");
        let mut ask = |text: &str| names.answer(&text.parse().unwrap(), refusal()).slot;
        let first = ask("hello");
        for index in 0..3 * KNOWN.get() {
            ask(&format!("flood-{index}"));
            // Whoever uses a name keeps it.
            assert_eq!(ask("hello"), first);
        }
        let other = ask("late");
        assert!(other > first && UnknownNames::holds(other));
        assert_eq!(ask("late"), other);
        let again = ask("flood-0");
        assert!(again > other, "pushed out, and numbered anew");
        assert_eq!(names.by_slot(again).unwrap().name.as_str(), "flood-0");
        assert!(names.by_slot(first + 1).is_none(), "its old number leads nowhere");
        assert_eq!(names.by_slot.len(), KNOWN.get());
        assert_eq!(names.slots.len(), KNOWN.get());
    }
}
