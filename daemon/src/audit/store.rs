//! The rows: interning of boots, releases and callers, and the group commit with its seal.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use mcpfs_trust::digest::Digest;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::boot::{BootFacts, Host};
use super::event::{AuditEvent, ReleaseRef, now_us};
use super::retain::{self, Carried, Cutoff, Removal, Removed};
use super::rows::{Known, boot_row, caller_row, event_row, release_row, seal_row};
use super::seal::{GENESIS, Seal};
use super::{AuditError, schema};
use crate::caller::Caller;

/// Releases and callers whose row numbers are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// More rows than can be.
const MOST_ROWS: i64 = i64::MAX >> 1;

/// Free pages that the file keeps for its next rows.
const SPARE_PAGES: i64 = 256;

/// Pages that are given back in one go, at most: others wait for it.
const SHRUNK_PAGES: i64 = 256;

/// Where the chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tip {
    /// The last sealed row; 0 if there is none.
    pub(super) last: i64,
    /// The last chain value.
    pub(super) hash: Digest,
}

/// The one writer's view of the store.
#[derive(Debug)]
pub(super) struct Store {
    conn: Connection,
    path: PathBuf,
    host: Host,
    facts: BootFacts,
    /// The row that stands for `facts`; `None` until it is written.
    boot: Option<Known>,
    /// `None` after a failed commit: read again before the next.
    tip: Option<Tip>,
    releases: LruCache<Arc<ReleaseRef>, Known>,
    callers: LruCache<Caller, Known>,
    /// Whether what was removed may still stand in the log.
    logged: bool,
    _lock: schema::Lock,
}

impl Store {
    /// Opens the store, and reads where its chain ends.
    ///
    /// # Errors
    /// Those of [`schema::open`], and `Damaged` if there are rows that no seal covers.
    pub(super) fn open(path: &Path, lock: schema::Lock) -> Result<Self, AuditError> {
        let conn = schema::open(path)?;
        let tip = tip(&conn).map_err(|source| schema::failed(path, source))?;
        let newest: Option<i64> = conn
            .query_row("SELECT max(seq) FROM event", [], |row| row.get(0))
            .map_err(|source| schema::failed(path, source))?;
        if !(0..=MOST_ROWS).contains(&tip.last) {
            let detail = format!("no program of ours writes a row {}", tip.last);
            return Err(AuditError::Damaged { path: path.to_owned(), detail });
        }
        if newest.unwrap_or(tip.last) > tip.last {
            let detail = format!("rows after {} are not sealed, so this program did not write them", tip.last);
            return Err(AuditError::Damaged { path: path.to_owned(), detail });
        }
        let (_, cut_us) = retain::extent(&conn).map_err(|source| schema::failed(path, source))?;
        Ok(Self {
            conn,
            logged: cut_us.is_some(),
            path: path.to_owned(),
            host: Host::this(),
            facts: BootFacts::default(),
            boot: None,
            tip: Some(tip),
            releases: LruCache::new(REMEMBERED),
            callers: LruCache::new(REMEMBERED),
            _lock: lock,
        })
    }

    /// Where the store lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a boot row with these facts, unless they are those of the last one.
    ///
    /// # Errors
    /// If SQLite cannot write.
    pub(super) fn describe(&mut self, facts: BootFacts) -> rusqlite::Result<()> {
        if self.facts != facts {
            self.facts = facts;
            self.boot = None;
        }
        self.append(&[]).map(drop)
    }

    /// Writes a group of rows and their seal in one transaction; returns their numbers in order.
    ///
    /// # Errors
    /// If SQLite cannot write; then none of the rows is there.
    pub(super) fn append(&mut self, events: &[&AuditEvent]) -> rusqlite::Result<Vec<i64>> {
        self.settled(|store| store.transact(events, None))
    }

    /// Removes the oldest rows that may go, if there are any; a row and `cut` tell of it, in the same transaction.
    ///
    /// # Errors
    /// If SQLite cannot write; then all rows are there.
    pub(super) fn remove(&mut self, cutoff: &Cutoff) -> rusqlite::Result<Removed> {
        let plan = retain::plan(&self.conn, cutoff)?;
        let Some(removal) = plan.removal else {
            return Ok(Removed { unfit: plan.unfit, ..Removed::default() });
        };
        let told = removal.event(cutoff);
        // SQLite would look through all rows for those of each boot that goes; `sweep` knows which have none.
        self.conn.pragma_update(None, "foreign_keys", false)?;
        let done = self.settled(|store| store.transact(&[&told], Some((&removal, cutoff))));
        self.conn.pragma_update(None, "foreign_keys", true)?;
        done?;
        self.logged = true;
        let rows = u64::try_from(removal.rows()).unwrap_or_default();
        Ok(Removed { rows, more: plan.more, unfit: plan.unfit })
    }

    /// Gives some of the room of removed rows back to the disk; says whether there is more of it.
    ///
    /// # Errors
    /// If SQLite cannot write.
    pub(super) fn shrink(&mut self) -> rusqlite::Result<bool> {
        let free: i64 = self.conn.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        if free > SPARE_PAGES {
            let pages = (free - SPARE_PAGES).min(SHRUNK_PAGES);
            // It takes a step for each page.
            let mut vacuum = self.conn.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
            let mut steps = vacuum.query([])?;
            while steps.next()?.is_some() {}
            self.logged = true;
            let left: i64 = self.conn.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
            // A file from before there was a vacuum in steps keeps its room, for its next rows.
            if left > SPARE_PAGES && left < free {
                return Ok(true);
            }
        }
        // A pass that removes nothing leaves the log as it is: on a full disk it stays full until somebody makes room.
        if !self.logged {
            return Ok(false);
        }
        // An administrator's ANALYZE keeps samples of names.
        let samples = "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat4'";
        if self.conn.query_row(samples, [], |row| row.get::<_, i64>(0))? > 0 {
            self.conn.execute("DELETE FROM sqlite_stat4", [])?;
        }
        self.logged = self.empty_log()? > 0;
        Ok(false)
    }

    /// Empties the log, where what was overwritten in the file still stands, unless somebody reads from it just now: nobody
    /// may wait for that. Says how large it is then.
    ///
    /// # Errors
    /// If SQLite cannot write.
    pub(super) fn empty_log(&self) -> rusqlite::Result<u64> {
        self.conn.busy_timeout(Duration::ZERO)?;
        let emptied = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.conn.busy_timeout(schema::BUSY)?;
        emptied.map(|()| self.log_bytes())
    }

    /// How large the log is.
    pub(super) fn log_bytes(&self) -> u64 {
        schema::beside(&self.path, "-wal").metadata().map_or(0, |log| log.len())
    }

    /// When the oldest row was written, and the last rows were removed.
    ///
    /// # Errors
    /// If SQLite cannot read.
    pub(super) fn extent(&self) -> rusqlite::Result<(Option<i64>, Option<i64>)> {
        retain::extent(&self.conn)
    }

    /// The result of a transaction; if there was none, nothing is taken for known.
    fn settled<T>(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let result = work(self);
        if result.is_err() {
            // Numbers that were handed out in the transaction are void, and after some errors
            // of the disk only the file knows whether the commit happened.
            self.releases.clear();
            self.callers.clear();
            self.boot = None;
            self.tip = None;
        }
        result
    }

    fn transact(&mut self, events: &[&AuditEvent], removal: Option<(&Removal, &Cutoff)>) -> rusqlite::Result<Vec<i64>> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = match self.tip {
            Some(tip) => tip,
            None => tip(&tx)?,
        };
        let boot = match self.boot {
            Some(boot) => boot,
            None => boot_row(&tx, &self.host, &self.facts)?,
        };
        let gone = match (removal, events) {
            (Some((removal, cutoff)), [told, ..]) => {
                Some(removal.delete(&tx, told, &cutoff.policy, self.host.boot_uuid.as_deref())?)
            }
            _ => None,
        };
        let mut rows = Vec::with_capacity(events.len());
        for event in events {
            let release = match &event.release {
                None => None,
                Some(release) => Some(match self.releases.get(release) {
                    Some(&known) => known,
                    None => {
                        let known = release_row(&tx, release)?;
                        self.releases.put(Arc::clone(release), known);
                        known
                    }
                }),
            };
            let person = Caller { pid: None, pid_start_us: None, ..event.caller.clone() };
            let caller = if person == Caller::default() {
                None
            } else if let Some(&known) = self.callers.get(&person) {
                Some(known)
            } else {
                let known = caller_row(&tx, &person)?;
                self.callers.put(person, known);
                Some(known)
            };
            rows.push((*event, release, caller));
        }
        let carried = gone.iter().flat_map(|gone| &gone.carried);
        rows.extend(carried.map(|Carried { event, release, caller }| (event, *release, *caller)));
        let mut leaves = Vec::with_capacity(rows.len());
        let mut numbers = Vec::with_capacity(rows.len());
        for (seq, (event, release, caller)) in (before.last + 1..).zip(rows) {
            leaves.push(event_row(&tx, seq, event, boot, release, caller)?);
            numbers.push(seq);
        }
        let mut after = before;
        if !leaves.is_empty() {
            let seal = Seal::over(&before.hash, before.last + 1, now_us(), &leaves);
            seal_row(&tx, &seal)?;
            after = Tip { last: seal.last, hash: seal.hash };
        }
        if let Some(gone) = &gone {
            gone.sweep(&tx)?;
        }
        tx.commit()?;
        if gone.is_some() {
            self.releases.clear();
            self.callers.clear();
        }
        self.tip = Some(after);
        self.boot = Some(boot);
        Ok(numbers)
    }

    /// Where the chain ends now, if that is known.
    pub(super) fn tip(&self) -> Option<Tip> {
        self.tip
    }

    /// Tidies up: what SQLite's planner wants to know, and the log back into the file.
    pub(super) fn close(self) {
        // Nothing is lost if these fail: the rows are committed.
        let _ = self.conn.execute_batch("PRAGMA optimize;");
        let _ = self.conn.close();
    }
}

/// Reads where the chain ends: at the last seal, else at what retention left, else nowhere.
pub(super) fn tip(conn: &Connection) -> rusqlite::Result<Tip> {
    let sql = "SELECT last_seq, hash FROM (SELECT last_seq, hash FROM seal UNION ALL SELECT last_seq, hash FROM cut)
               ORDER BY last_seq DESC LIMIT 1";
    let found = conn
        .query_row(sql, [], |row| Ok(Tip { last: row.get(0)?, hash: Digest::from_bytes(row.get(1)?) }))
        .optional()?;
    Ok(found.unwrap_or(Tip { last: 0, hash: GENESIS }))
}
