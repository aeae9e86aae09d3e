//! What a batch of decisions changes, written whole or not at all.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{AdmittedRow, State, StateError};

/// What the slots number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// `/mcp/<name>`; the key is the name.
    Server,
    /// `/mcp/<name>/<version>`; the key also holds the statement.
    Release,
}

impl SlotKind {
    fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Release => "release",
        }
    }
}

/// The name of this table of slots: another table, such as one that was begun anew, has another one.
pub(super) const NUMBERING: &str = "CREATE TABLE IF NOT EXISTS numbering (one INTEGER PRIMARY KEY CHECK (one = 1),
    name INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO numbering (one, name) VALUES (1, random());";

/// What one batch of decisions changes.
#[derive(Debug, Default)]
pub struct Writes {
    /// Versions seen, by their statement.
    pub published: Vec<(ServerName, Version, Digest)>,
    /// Versions revoked, with the reason.
    pub revoked: Vec<(ServerName, Version, String)>,
    /// What the catalogue selected, and when that was issued.
    pub selected: Vec<(ServerName, Version, Timestamp)>,
    /// Releases admitted.
    pub admitted: Vec<AdmittedRow>,
    /// Files of the site, by path.
    pub documents: Vec<(String, Vec<u8>)>,
    /// Slots wanted; the answer has one number for each.
    pub slots: Vec<(SlotKind, String)>,
}

impl State {
    /// The slots that a batch asks for, if they and all else in it are there already: a start decides
    /// about every name, and should not wait for the disk to say once more what it said before.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn known_slots(&self, writes: &Writes) -> Result<Option<Vec<u32>>, StateError> {
        let Writes { published, revoked, selected, admitted, documents, slots } = writes;
        let news = !published.is_empty()
            || !revoked.is_empty()
            || !selected.is_empty()
            || !admitted.is_empty()
            || !documents.is_empty();
        if news {
            return Ok(None);
        }
        let connection = self.connection();
        slots.iter().map(|(kind, key)| slot_of(&connection, *kind, key)).collect()
    }

    /// What tells this table of slots from every other. Who takes a mount over must have the table that its
    /// inode numbers are made of.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn slots(&self) -> Result<u64, StateError> {
        let name: i64 = self.connection().query_row("SELECT name FROM numbering", [], |row| row.get(0))?;
        Ok(name.cast_unsigned())
    }

    /// The slot of a release that was admitted once, and the statement that it was admitted by.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn release_slot(&self, name: &ServerName, version: &Version) -> Result<Option<(u32, Digest)>, StateError> {
        let connection = self.connection();
        let published = "SELECT statement FROM published WHERE name = ?1 AND version = ?2";
        let mut published = connection.prepare_cached(published)?;
        let found = published.query_row([name.as_str(), version.as_str()], |row| super::digest(row, 0)).optional()?;
        let Some(statement) = found else { return Ok(None) };
        let slot = slot_of(&connection, SlotKind::Release, &release_key(name, version, &statement))?;
        Ok(slot.map(|slot| (slot, statement)))
    }

    /// Stores a batch of decisions, whole or not at all, and returns the slots it asked for.
    ///
    /// # Errors
    /// If it cannot be written; then nothing is.
    pub fn commit(&self, writes: &Writes) -> Result<Vec<u32>, StateError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        for (name, version, statement) in &writes.published {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO published (name, version, statement) VALUES (?1, ?2, ?3)")?
                .execute(params![name.as_str(), version.as_str(), statement.as_bytes()])?;
        }
        for (name, version, reason) in &writes.revoked {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO revoked (name, version, reason) VALUES (?1, ?2, ?3)")?
                .execute(params![name.as_str(), version.as_str(), reason])?;
        }
        for (name, version, issued) in &writes.selected {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO selected (name, version, issued) VALUES (?1, ?2, ?3)")?
                .execute(params![name.as_str(), version.as_str(), issued.unix()])?;
        }
        put_admitted(&transaction, &writes.admitted)?;
        put_documents(&transaction, &writes.documents)?;
        let slots = writes.slots.iter().map(|(kind, key)| slot(&transaction, *kind, key)).collect::<Result<_, _>>()?;
        transaction.commit()?;
        self.take_room();
        Ok(slots)
    }
}

pub(super) fn put_documents(transaction: &Transaction<'_>, documents: &[(String, Vec<u8>)]) -> Result<(), StateError> {
    for (path, bytes) in documents {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO document (path, bytes) VALUES (?1, ?2)")?
            .execute(params![path, bytes])?;
    }
    Ok(())
}

pub(super) fn put_admitted(transaction: &Transaction<'_>, rows: &[AdmittedRow]) -> Result<(), StateError> {
    for row in rows {
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO admitted (name, version, entry, head_version, head_issued)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                row.name.as_str(),
                row.version.as_str(),
                row.entry.as_bytes(),
                row.head_version as i64,
                row.head_issued.unix()
            ])?;
    }
    Ok(())
}

/// What the slot of a release is kept under.
pub(in crate::registry) fn release_key(name: &ServerName, version: &Version, statement: &Digest) -> String {
    format!("{name}@{version}#{statement}")
}

/// The slot of a key, for ever the same.
fn slot(transaction: &Transaction<'_>, kind: SlotKind, key: &str) -> Result<u32, StateError> {
    transaction
        .prepare_cached("INSERT OR IGNORE INTO slot (kind, key) VALUES (?1, ?2)")?
        .execute(params![kind.word(), key])?;
    slot_of(transaction, kind, key)?.ok_or(rusqlite::Error::QueryReturnedNoRows.into())
}

/// The slot of a key, if it has one.
fn slot_of(connection: &Connection, kind: SlotKind, key: &str) -> Result<Option<u32>, StateError> {
    let mut statement = connection.prepare_cached("SELECT slot FROM slot WHERE kind = ?1 AND key = ?2")?;
    Ok(statement.query_row(params![kind.word(), key], |row| row.get(0)).optional()?)
}
