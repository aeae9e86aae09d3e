//! Which handles are open on files, kept where a dead worker leaves it.
//!
//! Where the kernel reads the files itself it insists on one backing id per inode while it is open
//! anywhere, and an id keeps its file from being evicted. So a successor must know exactly which of
//! them are open: one too few, and the next open of a file in use fails; one too many, and a file
//! fills the cache for as long as the mount lives. Where the worker reads them, its death closes
//! them all, and nothing but this says which ones its successor must not evict. A number of handles
//! per inode cannot be exact, for a worker may die between counting and answering, and then nobody
//! knows what it had counted. Handles with names can be:
//!
//! * An open is noted with its handle's number and the request's before it is answered. If the worker
//!   dies in between, the kernel sends the request again with the same number and a mark, and the
//!   successor knows that nobody has the handle.
//! * A close is noted before it is answered, too: the kernel has let go of the file by then. If it
//!   comes again, there is no such handle any more.
//!
//! One case is left: who opens is killed after his worker and before the successor took his request.
//! The kernel drops it, and its handle stays noted until the mount goes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

/// Handles at most.
pub(crate) const SLOTS: u32 = 1 << 19;
/// Bytes of one: its number, the request's, and what it is on.
const OPEN: u64 = 24;
/// The first slot's place; before it stands how many slots were ever used.
const FIRST: u64 = 8;

/// An open handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    /// Where it stands here.
    pub(crate) slot: u32,
    /// What the kernel calls it; not 0.
    pub(crate) number: u64,
    /// The number of the request that opened it.
    pub(crate) unique: u64,
    /// What it is on: where the kernel reads, the backing id's cell in its own table; where the worker
    /// does, the inode number of the cache's file.
    pub(crate) on: u64,
}

/// The table of open handles, which the worker writes and its successor reads.
#[derive(Debug)]
pub(crate) struct Opens {
    table: File,
    /// How many slots were ever used, as far as this process has noted or read.
    used: AtomicU32,
}

impl Opens {
    /// The size of the table, for ever. What was never written takes no memory.
    pub(super) const BYTES: u64 = FIRST + OPEN * SLOTS as u64;

    pub(crate) fn of(table: File) -> Self {
        Self { table, used: AtomicU32::new(0) }
    }

    /// Every open handle.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(crate) fn all(&self) -> io::Result<Vec<Open>> {
        let used = self.used()?;
        let mut bytes = vec![0; usize::try_from(OPEN * u64::from(used)).unwrap_or(0)];
        self.table.read_exact_at(&mut bytes, FIRST)?;
        let eight = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let slots = (0..used).zip(bytes.chunks_exact(OPEN as usize));
        let opens = slots.map(|(slot, bytes)| Open {
            slot,
            number: eight(&bytes[..8]),
            unique: eight(&bytes[8..16]),
            on: eight(&bytes[16..]),
        });
        Ok(opens.filter(|open| open.number != 0).collect())
    }

    /// # Errors
    /// ENFILE for a slot that is none, or what memory says; then the open must fail, for a successor
    /// would not know of it.
    pub(crate) fn note(&self, open: &Open) -> io::Result<()> {
        if open.slot >= SLOTS {
            return Err(rustix::io::Errno::NFILE.into());
        }
        // One worker at a time writes, so what it wrote or read holds for as long as it lives.
        if open.slot >= self.used.load(Ordering::Relaxed) && open.slot >= self.used()? {
            self.table.write_all_at(&u64::from(open.slot + 1).to_le_bytes(), 0)?;
            self.used.store(open.slot + 1, Ordering::Relaxed);
        }
        let fields = [open.number, open.unique, open.on].map(u64::to_le_bytes);
        self.table.write_all_at(fields.as_flattened(), place(open.slot))
    }

    /// # Errors
    /// What memory says.
    pub(crate) fn clear(&self, slot: u32) -> io::Result<()> {
        self.table.write_all_at(&[0; 8], place(slot))
    }

    fn used(&self) -> io::Result<u32> {
        let mut bytes = [0; FIRST as usize];
        self.table.read_exact_at(&mut bytes, 0)?;
        // A worker wrote it, and it need not be one that means well.
        let used = u64::from_le_bytes(bytes).min(SLOTS.into()) as u32;
        self.used.store(used, Ordering::Relaxed);
        Ok(used)
    }
}

fn place(slot: u32) -> u64 {
    FIRST + OPEN * u64::from(slot)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn table() -> Opens {
        let file = tempfile::tempfile().unwrap();
        file.set_len(Opens::BYTES).unwrap();
        Opens::of(file)
    }

    #[test]
    fn what_is_noted_is_found() {
        let opens = table();
        assert_eq!(opens.all().unwrap(), []);
        let one = Open { slot: 0, number: u64::MAX, unique: 4, on: u64::MAX };
        let two = Open { slot: SLOTS - 1, number: 2, unique: 6, on: 0 };
        opens.note(&one).unwrap();
        opens.note(&two).unwrap();
        assert_eq!(opens.all().unwrap(), [one, two]);
        opens.clear(0).unwrap();
        assert_eq!(opens.all().unwrap(), [two]);
        assert!(opens.note(&Open { slot: SLOTS, ..one }).is_err());
    }

    #[test]
    fn nonsense_is_bounded() {
        let opens = table();
        opens.table.write_all_at(&u64::MAX.to_le_bytes(), 0).unwrap();
        assert_eq!(opens.all().unwrap(), []);
    }
}
