//! What this host must not forget: `state.db`.
//!
//! It keeps the newest head accepted (so that none older is), the statement of every
//! version seen (so that none changes), revocations, what was admitted, and the slots that
//! inode numbers are made of. It is not a cache. If it is lost, the host starts at the trust
//! root's `minimum_head`, and the caller records that as `StateReset`.
//!
//! A decision is recorded in the audit first and stored here second. A crash in between
//! makes the decision once more; every write here may therefore be repeated.
//!
//! The table `document` holds the head, catalogue, bins and entries that the decisions rest
//! on, by their path in the site, so that a host can restart without a network. They are
//! verified when they are read like anything fetched. Only their availability matters.
//!
//! On a full disk it goes on for a while, in `room` of its own.
//!
//! Rejected: JSON files with rename (no transaction over several of them); one database with
//! the audit (its retention, export and erasure are other people's business).

mod look;
mod room;
#[cfg(test)]
mod tests;
mod writes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::{Floor, Seen, SeenTrust};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};

use self::room::Room;
pub(super) use self::writes::release_key;
pub use self::writes::{SlotKind, Writes};
use self::writes::{put_admitted, put_documents};
use crate::refusal::Refusal;

/// `user_version` of the schema below.
const SCHEMA_VERSION: i64 = 1;
/// "mcpS": tells this file from another SQLite database.
const APPLICATION_ID: i64 = 0x6d63_7053;

const SCHEMA: &str = "
CREATE TABLE trust (one INTEGER PRIMARY KEY CHECK (one = 1), registry TEXT NOT NULL, version INTEGER NOT NULL,
    epoch INTEGER NOT NULL, sha256 BLOB NOT NULL) STRICT;
CREATE TABLE floor (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, version INTEGER NOT NULL,
    sha256 BLOB NOT NULL, signed_time INTEGER NOT NULL, head BLOB NOT NULL) STRICT;
CREATE TABLE published (name TEXT NOT NULL, version TEXT NOT NULL, statement BLOB NOT NULL,
    PRIMARY KEY (name, version)) STRICT, WITHOUT ROWID;
CREATE TABLE revoked (name TEXT NOT NULL, version TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (name, version)) STRICT, WITHOUT ROWID;
CREATE TABLE selected (name TEXT PRIMARY KEY, version TEXT NOT NULL, issued INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE admitted (name TEXT NOT NULL, version TEXT NOT NULL, entry BLOB NOT NULL, head_version INTEGER NOT NULL,
    head_issued INTEGER NOT NULL, PRIMARY KEY (name, version)) STRICT, WITHOUT ROWID;
CREATE TABLE slot (slot INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL,
    UNIQUE (kind, key)) STRICT;
CREATE TABLE document (path TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
";

/// The store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Its directory or file cannot be made.
    #[error("cannot use {path}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite failed.
    #[error("state.db")]
    Sqlite(#[from] rusqlite::Error),
    /// It is a database, but not this one.
    #[error(
        "{path} is another program's database and not what mcpfs remembers: move it away (mcpfs then begins anew, \
         and records that), or set `state` in the configuration"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer mcpfs wrote it.
    #[error("{path} was written by a newer mcpfs (schema {found}, this one knows {SCHEMA_VERSION}): upgrade")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self::new(Code::AuditUnavailable, format!("what was decided cannot be kept: {error}{cause}"))
    }
}

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// What was kept before.
    Kept,
    /// Nothing: a first start, or the file was lost.
    Created,
    /// A file that is no state; it was moved there.
    Damaged(PathBuf),
}

/// A release that was admitted, the entry it was admitted from, and the last head that named that entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmittedRow {
    /// The server.
    pub name: ServerName,
    /// The version.
    pub version: Version,
    /// Digest of the entry.
    pub entry: Digest,
    /// The head's version.
    pub head_version: u64,
    /// When that head was issued.
    pub head_issued: Timestamp,
}

/// What is remembered of one name.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The statement that each version had when it was first seen.
    pub published: HashMap<Version, Digest>,
    /// Why versions were revoked.
    pub revoked: HashMap<Version, String>,
    /// The versions admitted, with the entry that they were admitted from.
    pub admitted: BTreeMap<Version, Digest>,
    /// The version that the catalogue selected last, and when that was issued.
    pub selected: Option<(Version, Timestamp)>,
}

/// The open store. One connection; every call is short.
#[derive(Debug)]
pub struct State {
    // Dropped before the other.
    connection: Mutex<Connection>,
    room: Option<Room>,
}

impl State {
    /// Opens or creates `state.db` in `directory`, which is created 0700 if missing.
    ///
    /// # Errors
    /// If it cannot be used. A damaged file is not an error: it is moved aside.
    pub fn open(directory: &Path) -> Result<(Self, Opened), StateError> {
        Self::open_with(directory, room::BYTES)
    }

    /// The same with so many bytes of the disk for itself behind each file that grows; none with 0.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_with(directory: &Path, room: u64) -> Result<(Self, Opened), StateError> {
        let path = directory.join("state.db");
        let io = |source| StateError::Io { path: path.clone(), source };
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        match connect(&path) {
            // An empty file is a valid database to SQLite, and a lost state to us.
            Ok((connection, made)) => {
                Ok((Self::with_room(connection, &path, room), if made { Opened::Created } else { Opened::Kept }))
            }
            Err(StateError::Sqlite(error)) if is_damage(&error) => {
                let aside = move_aside(directory)?;
                Ok((Self::with_room(connect(&path)?.0, &path, room), Opened::Damaged(aside)))
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at the whole file, which nobody may have open, and moves it aside if it is damaged.
    ///
    /// # Errors
    /// If it cannot be looked at or moved.
    pub fn set_aside_if_damaged(directory: &Path) -> Result<Option<PathBuf>, StateError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let look = || {
            let connection = Connection::open_with_flags(directory.join("state.db"), flags)?;
            // The log would go, and its room on the disk with it.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
        };
        match look() {
            Ok(verdict) if verdict == "ok" => Ok(None),
            Ok(_) => move_aside(directory).map(Some),
            Err(error) if is_damage(&error) => move_aside(directory).map(Some),
            Err(error) => Err(error.into()),
        }
    }

    fn with_room(connection: Connection, path: &Path, room: u64) -> Self {
        Self { connection: Mutex::new(connection), room: Room::of(path, room) }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After something was written.
    fn take_room(&self) {
        self.room.iter().for_each(Room::take);
    }

    /// The trust root used last for `registry`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn trust(&self, registry: &RegistryName) -> Result<Option<SeenTrust>, StateError> {
        let sql = "SELECT version, epoch, sha256 FROM trust WHERE registry = ?1";
        Ok(self.connection().query_row(sql, [registry.as_str()], |row| seen_trust(row, 0)).optional()?)
    }

    /// Remembers the trust root. A risen epoch takes back revocations, as the key that
    /// signed them may have been stolen; another registry begins anew.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set_trust(&self, root: &TrustRoot, seen: &SeenTrust) -> Result<(), StateError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, seen_trust(row, 1)?));
        let sql = "SELECT registry, version, epoch, sha256 FROM trust";
        let before = transaction.query_row(sql, [], read).optional()?;
        if let Some((registry, known)) = before {
            // Every start comes by here, and a write waits for the disk.
            if registry == root.registry.as_str() && known == *seen {
                return Ok(());
            }
            if registry != root.registry.as_str() {
                for table in ["floor", "published", "revoked", "selected", "admitted", "document", "look"] {
                    transaction.execute(&format!("DELETE FROM {table}"), [])?;
                }
            } else if known.epoch < root.epoch {
                transaction.execute("DELETE FROM revoked", [])?;
                // A head of a time to come would let what it listed run until then.
                let now = super::now().unix();
                transaction.execute("UPDATE admitted SET head_issued = min(head_issued, ?1)", [now])?;
            }
        }
        transaction.execute(
            "INSERT OR REPLACE INTO trust (one, registry, version, epoch, sha256) VALUES (1, ?1, ?2, ?3, ?4)",
            params![root.registry.as_str(), root.version as i64, root.epoch as i64, seen.sha256.as_bytes()],
        )?;
        Ok(transaction.commit()?)
    }

    /// The newest head accepted, as verification wants it, and its envelope.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn head(&self) -> Result<(Seen, Option<Vec<u8>>), StateError> {
        let read = |row: &Row<'_>| {
            let floor = Floor { epoch: unsigned(row, 0)?, version: unsigned(row, 1)?, sha256: digest(row, 2)? };
            Ok((Seen { floor: Some(floor), signed_time: Timestamp::from_unix(row.get(3)?) }, Some(row.get(4)?)))
        };
        let sql = "SELECT epoch, version, sha256, signed_time, head FROM floor";
        Ok(self.connection().query_row(sql, [], read).optional()?.unwrap_or_default())
    }

    /// Stores an accepted head together with the files that it led to, and for releases
    /// whose entry it no longer lists the last head that did.
    ///
    /// # Errors
    /// If it cannot be written; then nothing is.
    pub fn accept_head(
        &self,
        seen: &Seen,
        head: &[u8],
        documents: &[(String, Vec<u8>)],
        left_behind: &[AdmittedRow],
    ) -> Result<(), StateError> {
        let (Some(floor), Some(signed)) = (seen.floor, seen.signed_time) else { return Ok(()) };
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT OR REPLACE INTO floor (one, epoch, version, sha256, signed_time, head)
             VALUES (1, ?1, ?2, ?3, ?4, ?5)",
            params![floor.epoch as i64, floor.version as i64, floor.sha256.as_bytes(), signed.unix(), head],
        )?;
        put_documents(&transaction, documents)?;
        put_admitted(&transaction, left_behind)?;
        transaction.commit()?;
        self.take_room();
        Ok(())
    }

    /// A file of the site, as it was fetched.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn document(&self, path: &str) -> Result<Option<Vec<u8>>, StateError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached("SELECT bytes FROM document WHERE path = ?1")?;
        Ok(statement.query_row([path], |row| row.get(0)).optional()?)
    }

    /// Forgets all documents but these.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_documents(&self, keep: &HashSet<String>) -> Result<(), StateError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let mut gone: Vec<String> = transaction
            .prepare("SELECT path FROM document")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        gone.retain(|path| !keep.contains(path));
        for path in gone {
            transaction.execute("DELETE FROM document WHERE path = ?1", [path])?;
        }
        Ok(transaction.commit()?)
    }

    /// What is remembered of one name.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn known(&self, name: &ServerName) -> Result<Known, StateError> {
        let connection = self.connection();
        let name = [name.as_str()];
        let mut known = Known::default();
        let mut statement = connection.prepare_cached("SELECT version, statement FROM published WHERE name = ?1")?;
        let rows = statement.query_map(name, |row| Ok((parsed(row, 0)?, digest(row, 1)?)))?;
        known.published = rows.collect::<rusqlite::Result<_>>()?;
        let mut statement = connection.prepare_cached("SELECT version, reason FROM revoked WHERE name = ?1")?;
        let rows = statement.query_map(name, |row| Ok((parsed(row, 0)?, row.get(1)?)))?;
        known.revoked = rows.collect::<rusqlite::Result<_>>()?;
        let mut statement = connection.prepare_cached("SELECT version, entry FROM admitted WHERE name = ?1")?;
        let rows = statement.query_map(name, |row| Ok((parsed(row, 0)?, digest(row, 1)?)))?;
        known.admitted = rows.collect::<rusqlite::Result<_>>()?;
        let mut statement = connection.prepare_cached("SELECT version, issued FROM selected WHERE name = ?1")?;
        known.selected = statement.query_row(name, |row| Ok((parsed(row, 0)?, time(row, 1)?))).optional()?;
        Ok(known)
    }

    /// All revocations seen, with their reasons.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn revoked(&self) -> Result<HashMap<(ServerName, Version), String>, StateError> {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT name, version, reason FROM revoked")?;
        let rows = statement.query_map([], |row| Ok(((parsed(row, 0)?, parsed(row, 1)?), row.get(2)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// All releases admitted.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn admitted(&self) -> Result<Vec<AdmittedRow>, StateError> {
        let connection = self.connection();
        let sql = "SELECT name, version, entry, head_version, head_issued FROM admitted ORDER BY name, version";
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(AdmittedRow {
                name: parsed(row, 0)?,
                version: parsed(row, 1)?,
                entry: digest(row, 2)?,
                head_version: unsigned(row, 3)?,
                head_issued: time(row, 4)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

/// All revocations that this host has seen, read beside a daemon or without one.
///
/// # Errors
/// If there is no state, or it cannot be read.
pub fn seen_revocations(directory: &Path) -> Result<HashMap<(ServerName, Version), String>, StateError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(directory.join("state.db"), flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    State { connection: Mutex::new(connection), room: None }.revoked()
}

/// The open store, and whether it held nothing before.
fn connect(path: &Path) -> Result<(Connection, bool), StateError> {
    // SQLite would create it with the process's umask.
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| StateError::Io { path: path.to_owned(), source })?;
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let owner: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let empty = || connection.query_row("SELECT count(*) = 0 FROM sqlite_master", [], |row| row.get(0));
    if owner != APPLICATION_ID && !(owner == 0 && found == 0 && empty()?) {
        return Err(StateError::Foreign { path: path.to_owned() });
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    match found {
        SCHEMA_VERSION => {}
        0 => {
            let transaction = connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
        }
        found => return Err(StateError::Newer { path: path.to_owned(), found }),
    }
    connection.execute_batch(look::TABLE)?;
    connection.execute_batch(writes::NUMBERING)?;
    Ok((connection, found == 0))
}

/// Moves a damaged file aside; gives its new name.
fn move_aside(directory: &Path) -> Result<PathBuf, StateError> {
    let path = directory.join("state.db");
    let aside = directory.join(format!("state.db.damaged-{}", super::now().unix()));
    std::fs::rename(&path, &aside).map_err(|source| StateError::Io { path, source })?;
    for leftover in ["state.db-wal", "state.db-shm"] {
        drop(std::fs::remove_file(directory.join(leftover)));
    }
    Ok(aside)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// SQLite's integers are signed; our counters keep their bits.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| value as u64)
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get::<_, [u8; 32]>(column).map(Digest::from_bytes)
}

/// From the columns version, epoch, sha256.
fn seen_trust(row: &Row<'_>, first: usize) -> rusqlite::Result<SeenTrust> {
    Ok(SeenTrust { version: unsigned(row, first)?, epoch: unsigned(row, first + 1)?, sha256: digest(row, first + 2)? })
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    let seconds = row.get(column)?;
    Timestamp::from_unix(seconds).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, seconds))
}

fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| rusqlite::Error::InvalidColumnType(column, text, rusqlite::types::Type::Text))
}
