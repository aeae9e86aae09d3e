//! The rows: interning of boots, releases and callers, and the group commit with its seal.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lru::LruCache;
use mcpfs_trust::digest::Digest;
use rand::RngCore;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params_from_iter};

use super::boot::{BootFacts, Host};
use super::event::{AuditEvent, FIELD_BYTES, JSON_BYTES, PATH_BYTES, REASON_BYTES, ReleaseRef, clean, now_us};
use super::retain::{self, Carried, Cutoff, Removal, Removed};
use super::seal::{GENESIS, Row, Seal};
use super::{AuditError, schema};
use crate::caller::Caller;

/// Releases and callers whose row numbers are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// Free pages that the file keeps for its next rows.
const SPARE_PAGES: i64 = 256;

/// Pages that are given back in one go, at most: others wait for it.
const SHRUNK_PAGES: i64 = 256;

/// A row that events refer to: its number and what stands for it in their encoding.
pub(super) type Known = (i64, Digest);

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
        if newest.unwrap_or(tip.last) > tip.last {
            let detail = format!("rows after {} are not sealed, so this program did not write them", tip.last);
            return Err(AuditError::Damaged { path: path.to_owned(), detail });
        }
        Ok(Self {
            conn,
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
        }
        let left: i64 = self.conn.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        // A file from before there was a vacuum in steps keeps its room, for its next rows.
        if left > SPARE_PAGES && left < free {
            return Ok(true);
        }
        // An administrator's ANALYZE keeps samples of names.
        let samples = "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat4'";
        if self.conn.query_row(samples, [], |row| row.get::<_, i64>(0))? > 0 {
            self.conn.execute("DELETE FROM sqlite_stat4", [])?;
        }
        // What was overwritten in the file still stands in the log.
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(false)
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

fn blob(digest: &Digest) -> Value {
    Value::Blob(digest.as_bytes().to_vec())
}

fn text(text: &str) -> Value {
    Value::Text(clean(text, FIELD_BYTES))
}

fn maybe<T: AsRef<str>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, |value| text(value.as_ref()))
}

fn digest(value: Option<Digest>) -> Value {
    value.map_or(Value::Null, |digest| Value::Text(digest.to_string()))
}

/// A number; one that SQLite cannot hold is kept as the largest it can.
fn number<T: TryInto<i64>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, |value| Value::Integer(value.try_into().unwrap_or(i64::MAX)))
}

/// A JSON list of texts, each bounded; one that is too long altogether ends early.
fn list<T: std::fmt::Display>(items: &[T]) -> Value {
    let (mut kept, mut bytes) = (Vec::new(), 2);
    for item in items {
        let item = clean(&item.to_string(), FIELD_BYTES);
        bytes += item.len() + 3;
        if bytes > JSON_BYTES {
            break;
        }
        kept.push(item);
    }
    Value::Text(serde_json::json!(kept).to_string())
}

fn insert(tx: &Transaction<'_>, sql: &str, values: &[Value]) -> rusqlite::Result<i64> {
    tx.prepare_cached(sql)?.insert(params_from_iter(values))
}

fn boot_row(tx: &Transaction<'_>, host: &Host, facts: &BootFacts) -> rusqlite::Result<Known> {
    let who = [maybe(host.machine_id.as_ref()), maybe(host.name.as_ref())];
    let found = tx
        .prepare_cached("SELECT host FROM host WHERE machine_id IS ?1 AND name IS ?2")?
        .query_row(params_from_iter(&who), |row| row.get::<_, i64>(0))
        .optional()?;
    let number_of_host = match found {
        Some(host) => host,
        None => insert(tx, "INSERT INTO host (machine_id, name) VALUES (?1, ?2)", &who)?,
    };
    let columns = [
        maybe(host.boot_uuid.as_ref()),
        Value::Integer(host.started_us),
        text(env!("CARGO_PKG_VERSION")),
        maybe(host.kernel.as_ref()),
        maybe(facts.reads),
        number(facts.trust_version),
        digest(facts.trust_sha256),
        digest(facts.config_sha256),
    ];
    let commitment = Row::of("boot").columns(&who).columns(&columns).commitment();
    // The same facts after a failed commit, or when they change back: the same row.
    let found = tx
        .prepare_cached("SELECT boot FROM boot WHERE host = ?1 AND started_us = ?2 AND commitment = ?3")?
        .query_row(params_from_iter([Value::Integer(number_of_host), columns[1].clone(), blob(&commitment)]), |row| {
            row.get(0)
        })
        .optional()?;
    if let Some(boot) = found {
        return Ok((boot, commitment));
    }
    let mut values = vec![blob(&commitment), Value::Integer(number_of_host)];
    values.extend(columns);
    let sql =
        "INSERT INTO boot (commitment, host, boot_uuid, started_us, daemon, kernel, reads, trust_version, trust_sha256,
               config_sha256) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    Ok((insert(tx, sql, &values)?, commitment))
}

fn release_row(tx: &Transaction<'_>, release: &ReleaseRef) -> rusqlite::Result<Known> {
    let columns = [
        maybe(release.registry.as_ref()),
        text(&release.server_name),
        maybe(release.version.as_ref()),
        digest(release.artefact),
        digest(release.tree),
        digest(release.statement),
        list(&release.key_ids),
        maybe(release.maintainer.as_ref()),
        maybe(release.data_classification.as_ref()),
        maybe(release.lawful_basis.as_ref()),
        list(&release.scope),
        maybe(release.reviewed_at.as_ref()),
        list(&release.reviewers),
        maybe(release.repository.as_ref()),
        maybe(release.commit_id.as_ref()),
        maybe(release.pull_request.as_ref()),
        maybe(release.status.as_ref()),
    ];
    let commitment = Row::of("release").columns(&columns).commitment();
    let found = tx
        .prepare_cached("SELECT release FROM release WHERE commitment = ?1")?
        .query_row([commitment.as_bytes()], |row| row.get(0))
        .optional()?;
    if let Some(release) = found {
        return Ok((release, commitment));
    }
    let mut values = vec![blob(&commitment)];
    values.extend(columns);
    let sql = "INSERT INTO release (commitment, registry, server_name, version, artefact_sha256, tree_sha256, statement_sha256,
               key_ids, maintainer, data_classification, lawful_basis, scope, reviewed_at, reviewers, repository, commit_id,
               pull_request, status) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
    Ok((insert(tx, sql, &values)?, commitment))
}

fn caller_row(tx: &Transaction<'_>, caller: &Caller) -> rusqlite::Result<Known> {
    let fields = [
        number(caller.user_id),
        maybe(caller.user_name.as_ref()),
        number(caller.login_uid),
        number(caller.request_uid),
        number(caller.group_id),
        caller.process.as_ref().map_or(Value::Null, |path| Value::Text(clean(path, PATH_BYTES))),
        maybe(caller.host_app.as_ref()),
        maybe(caller.unit.as_ref()),
    ];
    let sql = "SELECT caller, commitment FROM caller WHERE salt IS NOT NULL AND user_id IS ?1 AND user_name IS ?2
               AND login_uid IS ?3 AND request_uid IS ?4 AND group_id IS ?5 AND process IS ?6 AND host_app IS ?7 AND unit IS ?8";
    let found = tx
        .prepare_cached(sql)?
        .query_row(params_from_iter(&fields), |row| Ok((row.get(0)?, Digest::from_bytes(row.get(1)?))))
        .optional()?;
    if let Some(known) = found {
        return Ok(known);
    }
    let mut salt = [0; 32];
    rand::rng().fill_bytes(&mut salt);
    let salt = Value::Blob(salt.to_vec());
    let commitment = Row::of("caller").columns(std::slice::from_ref(&salt)).columns(&fields).commitment();
    let mut values = vec![blob(&commitment), salt];
    values.extend(fields);
    let sql =
        "INSERT INTO caller (commitment, salt, user_id, user_name, login_uid, request_uid, group_id, process, host_app,
               unit) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    Ok((insert(tx, sql, &values)?, commitment))
}

/// Writes one event and returns its leaf: the row with commitments in place of row numbers.
fn event_row(
    tx: &Transaction<'_>,
    seq: i64,
    event: &AuditEvent,
    boot: Known,
    release: Option<Known>,
    caller: Option<Known>,
) -> rusqlite::Result<Digest> {
    let detail = event.detail.as_ref().map_or(Value::Null, |detail| {
        let text = detail.to_string();
        Value::Text(if text.len() > JSON_BYTES { r#"{"too_long":true}"#.to_owned() } else { text })
    });
    let mut values = [
        Value::Integer(seq),
        Value::Integer(event.time_us),
        Value::Integer(boot.0),
        Value::Text(event.kind.as_str().to_owned()),
        Value::Text(event.outcome_text()),
        number(release.map(|release| release.0)),
        number(caller.map(|caller| caller.0)),
        number(event.launch),
        number(event.caller.pid),
        number(event.caller.pid_start_us),
        number(event.head_version),
        number(event.stale.map(i64::from)),
        event.path.as_ref().map_or(Value::Null, |path| Value::Text(clean(path, PATH_BYTES))),
        number(event.bytes),
        number(event.duration_us),
        number(Some(event.count)),
        event.reason.as_ref().map_or(Value::Null, |reason| Value::Text(clean(reason, REASON_BYTES))),
        detail,
    ];
    let sql = "INSERT INTO event (seq, time_us, boot, event, outcome, release, caller, launch, pid, pid_start_us, head_version,
               stale, path, bytes, duration_us, count, reason, detail)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
    insert(tx, sql, &values)?;
    let stands_for = |known: Option<Known>| known.map_or(Value::Null, |known| blob(&known.1));
    values[2] = blob(&boot.1);
    values[5] = stands_for(release);
    values[6] = stands_for(caller);
    Ok(Row::of("event").columns(&values).leaf())
}

fn seal_row(tx: &Transaction<'_>, seal: &Seal) -> rusqlite::Result<()> {
    let sql = "INSERT INTO seal (last_seq, first_seq, time_us, encoding, leaves, root, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let values = [
        Value::Integer(seal.last),
        Value::Integer(seal.first),
        Value::Integer(seal.time_us),
        Value::Integer(seal.encoding),
        seal.leaves.clone().map_or(Value::Null, Value::Blob),
        blob(&seal.root),
        blob(&seal.hash),
    ];
    insert(tx, sql, &values).map(drop)
}
