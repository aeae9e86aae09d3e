//! Seals: one hash per group commit that chains the rows (design section 8 and 12.14).
//!
//! A row is encoded column by column in schema order, each with its type and length, so
//! that no two rows share an encoding. Where a row names a boot, release or caller, its
//! encoding holds the commitment of that row, not its number: changing what a release row
//! says changes what every event says. A caller's commitment is salted, so the person can
//! be erased (salt and fields removed) and the chain still proves that nothing else changed.
//!
//! The rows of one commit become the leaves of an RFC 6962 Merkle tree, so that one row can
//! later be proven to somebody without showing the others. The first 8 bytes of each leaf
//! are kept: they prove nothing, the root does, but they let `verify` name the altered row.
//!
//! Seals are no signatures: whoever may write the file may rewrite it whole from any point.
//! They make that visible to everybody who noted a later seal, an anchor.

use mcpfs_trust::digest::{Digest, Hasher};
use rusqlite::types::{Value, ValueRef};

/// The row encoding that new seals use.
pub(super) const ENCODING: i64 = 1;

/// What the first seal of a store chains to.
pub(super) const GENESIS: Digest = Digest::from_bytes([0; 32]);

/// Bytes of each leaf that a seal keeps.
pub(super) const LEAF_BYTES: usize = 8;

/// Row encoding 1: for each column a type byte (0 NULL, 1 integer, 3 text, 4 blob), and
/// except for NULL the length in bytes as 8 bytes and the value, numbers big-endian.
#[derive(Debug, Default)]
pub(super) struct Row(Vec<u8>);

impl Row {
    /// A row of `table` (the encodings of different tables never meet).
    pub(super) fn of(table: &str) -> Self {
        let mut row = Self::default();
        row.text(table);
        row
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.0.push(tag);
        self.0.extend((bytes.len() as u64).to_be_bytes());
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.tagged(3, text.as_bytes());
    }

    /// Appends one column.
    pub(super) fn column(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.0.push(0),
            ValueRef::Integer(number) => self.tagged(1, &number.to_be_bytes()),
            // STRICT tables without REAL columns hold none; an altered one may.
            ValueRef::Real(number) => self.tagged(2, &number.to_be_bytes()),
            ValueRef::Text(text) => self.tagged(3, text),
            ValueRef::Blob(blob) => self.tagged(4, blob),
        }
    }

    /// Appends columns.
    pub(super) fn columns(mut self, values: &[Value]) -> Self {
        for value in values {
            self.column(value.into());
        }
        self
    }

    /// The digest that stands for a boot, release or caller row.
    pub(super) fn commitment(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// The RFC 6962 leaf hash of an event row.
    pub(super) fn leaf(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(&[0]);
        hasher.update(&self.0);
        hasher.finish()
    }
}

/// The RFC 6962 tree head over `leaves`.
pub(super) fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::EMPTY,
        [leaf] => *leaf,
        _ => {
            // The largest power of two below the number of leaves.
            let split = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(split);
            let mut hasher = Hasher::new();
            hasher.update(&[1]);
            hasher.update(root(left).as_bytes());
            hasher.update(root(right).as_bytes());
            hasher.finish()
        }
    }
}

/// The kept heads of `leaves`; none for a single row, which needs no telling apart.
pub(super) fn heads(leaves: &[Digest]) -> Option<Vec<u8>> {
    let head = |leaf: &Digest| leaf.as_bytes().iter().copied().take(LEAF_BYTES).collect::<Vec<_>>();
    (leaves.len() > 1).then(|| leaves.iter().flat_map(head).collect())
}

/// A row of `seal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seal {
    /// The first row it covers.
    pub first: i64,
    /// The last row it covers.
    pub last: i64,
    /// When it was made, microseconds UTC.
    pub time_us: i64,
    /// The row encoding it was made with.
    pub encoding: i64,
    /// See [`heads`].
    pub(super) leaves: Option<Vec<u8>>,
    /// RFC 6962 root over the rows.
    pub root: Digest,
    /// The chain value.
    pub hash: Digest,
}

impl Seal {
    /// Seals the rows `first ..` with these leaves after `previous`.
    pub(super) fn over(previous: &Digest, first: i64, time_us: i64, leaves: &[Digest]) -> Self {
        let last = first + i64::try_from(leaves.len()).unwrap_or(i64::MAX) - 1;
        let mut seal =
            Self { first, last, time_us, encoding: ENCODING, leaves: heads(leaves), root: root(leaves), hash: GENESIS };
        seal.hash = seal.chained(previous);
        seal
    }

    /// sha256(previous ‖ root ‖ first ‖ last ‖ time ‖ encoding ‖ leaves), numbers as 8 bytes big-endian.
    pub(super) fn chained(&self, previous: &Digest) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(previous.as_bytes());
        hasher.update(self.root.as_bytes());
        for number in [self.first, self.last, self.time_us, self.encoding] {
            hasher.update(&number.to_be_bytes());
        }
        hasher.update(self.leaves.as_deref().unwrap_or_default());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_root_is_that_of_rfc_6962() {
        // The tree heads published with the certificate-transparency reference implementation.
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let leaves: Vec<_> = inputs.iter().map(|input| Row(input.to_vec()).leaf()).collect();
        for (count, expected) in [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(root(&leaves[..count]).to_string(), expected, "{count} leaves");
        }
    }

    #[test]
    fn columns_do_not_run_into_each_other() {
        let text = |text: &str| Value::Text(text.to_owned());
        let rows = [
            vec![text("ab"), text("c")],
            vec![text("a"), text("bc")],
            vec![text("abc"), Value::Null],
            vec![Value::Null, text("abc")],
            vec![text("abc")],
            vec![Value::Blob(b"abc".to_vec())],
            vec![text("")],
            vec![Value::Null],
            vec![],
            vec![Value::Integer(0)],
        ];
        let digests: std::collections::HashSet<_> =
            rows.iter().map(|row| Row::of("event").columns(row).commitment()).collect();
        assert_eq!(digests.len(), rows.len());
    }

    #[test]
    fn a_seal_is_frozen() {
        let leaf = |text: &str| Row::of("event").columns(&[Value::Integer(7), Value::Text(text.to_owned())]).leaf();
        let seal = Seal::over(&GENESIS, 1, 1_776_245_400_000_000, &[leaf("a"), leaf("b"), leaf("c")]);
        assert_eq!((seal.first, seal.last), (1, 3));
        assert_eq!(seal.leaves.as_ref().unwrap().len(), 24);
        assert_eq!(seal.hash.to_string(), "a3419401dc21dbd2517704ecfe8bd6338417f080bf0371f1e8717c0017757ebb");
    }
}
