//! Retention: old rows go, from the front, whole seals at a time, and what went stays provable.
//!
//! Only a prefix of the chain is ever removed, and in the very transaction that removes it the chain's value
//! there becomes a row of `cut`, and a `cut` event that says the same gets a row and a seal like any other. So at every
//! moment, however this process ends, what is there is whole: the seals begin where the newest cut says, and that cut is
//! vouched for by a sealed row. Numbers never start again, since that row is there when all others are gone.
//!
//! Before rows go, they are compared with their seal, and the callers, releases and boots that they name with their
//! commitments. Where something does not fit, nothing goes: that is evidence.
//!
//! A row's time is what a clock said that may have been wrong. A seal is as old as the youngest plausible time in it; one
//! that has none (before there was mcpfs, or after now) is as old as the next one that has, since it was made before that.
//! And since only a prefix goes, a row that a clock dated too early waits for those before it. What "now" is, is not
//! decided here but by `crate::retention`.
//!
//! People go with their rows: a caller, release, boot or host that no row refers to any more is deleted. A server that
//! still runs when the row of its launch goes has a `cut` row that says so, or `mcpfs ps` would not know it any more.

use std::collections::BTreeMap;

use mcpfs_trust::digest::Digest;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::event::{AuditEvent, EventKind, now_us};
use super::rows::Known;
use super::seal::GENESIS;
use super::verify::{self, Verification};
use crate::caller::{self, Caller};

/// Rows in one transaction, at most (one group more if need be): others wait for it.
const ROWS: i64 = 500;

/// 2026-01-01: no row is older than mcpfs.
pub(super) const BEGINNING_US: i64 = 1_767_225_600_000_000;

/// What may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cutoff {
    /// How long rows are kept, as configuration writes it.
    pub policy: String,
    /// Rows of this time and later stay, microseconds UTC.
    pub before_us: i64,
    /// The moment it was judged at. A clock that says less than that by now judges nothing.
    pub at_us: i64,
}

/// What went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Rows that went.
    pub rows: u64,
    /// Whether there may be more.
    pub more: bool,
    /// What does not fit its seal or its commitment, and so stays.
    pub unfit: Option<String>,
}

/// A part of the chain that will go.
#[derive(Debug)]
pub(super) struct Removal {
    first: i64,
    last: i64,
    /// The chain's value there.
    hash: Digest,
    /// The time of the youngest row.
    newest_us: i64,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) removal: Option<Removal>,
    pub(super) more: bool,
    pub(super) unfit: Option<String>,
}

/// A row that is written with the cut, and what it refers to.
pub(super) struct Carried {
    pub(super) event: AuditEvent,
    pub(super) release: Option<Known>,
    pub(super) caller: Option<Known>,
}

/// What the removed rows referred to.
pub(super) struct Gone {
    pub(super) carried: Vec<Carried>,
    callers: Vec<i64>,
    releases: Vec<i64>,
}

/// Where the chain begins: at the newest cut, else at nothing.
pub(super) fn base(conn: &Connection) -> rusqlite::Result<(i64, Digest)> {
    let newest = "SELECT last_seq, hash FROM cut ORDER BY last_seq DESC LIMIT 1";
    let found = conn
        .query_row(newest, [], |row| {
            let hash = row.get_ref(1)?.as_blob().ok().and_then(|hash| hash.try_into().ok());
            Ok((row.get(0)?, hash.map_or(GENESIS, Digest::from_bytes)))
        })
        .optional()?;
    Ok(found.unwrap_or((0, GENESIS)))
}

/// The time of the oldest row that a right clock can have dated, and of the last cut.
pub(super) fn extent(conn: &Connection) -> rusqlite::Result<(Option<i64>, Option<i64>)> {
    let oldest = "SELECT time_us FROM event NOT INDEXED WHERE time_us >= ?1 ORDER BY seq LIMIT 1";
    let oldest = conn.query_row(oldest, [BEGINNING_US], |row| row.get(0)).optional()?;
    let cut = conn.query_row("SELECT max(time_us) FROM cut", [], |row| row.get(0))?;
    Ok((oldest, cut))
}

/// Finds what goes next.
pub(super) fn plan(conn: &Connection, cutoff: &Cutoff) -> rusqlite::Result<Plan> {
    let (base, mut hash) = base(conn)?;
    let mut ages = Ages { conn, until_us: now_us(), next: None };
    let mut events = conn.prepare_cached(&verify::events_of_a_seal())?;
    let mut named = verify::Named::new(conn)?;
    let mut seals = conn.prepare_cached(verify::SEALS)?;
    let mut seals = seals.query([])?;
    let mut plan = Plan::default();
    let (mut last, mut newest_us) = (base, i64::MIN);
    while let Some(row) = seals.next()? {
        if last.saturating_sub(base) >= ROWS {
            plan.more = true;
            break;
        }
        let mut found = Verification::default();
        let seal = verify::read_seal(row);
        if let Some(seal) = &seal {
            // Old enough first: younger ones are no business of ours.
            match ages.youngest(seal)? {
                Some(time) if time < cutoff.before_us => newest_us = newest_us.max(time),
                _ => break,
            }
            verify::linked(seal, last, &hash, &mut found);
            if found.intact() {
                verify::group(&mut events, seal, &mut found)?;
            }
            if found.intact() {
                named.by(seal.first, seal.last, &mut found)?;
            }
        }
        match (seal, found.findings.into_iter().next()) {
            (Some(seal), None) => (last, hash) = (seal.last, seal.hash),
            (_, finding) => {
                let finding = finding.unwrap_or_else(|| format!("the seal after row {last} cannot be read"));
                plan.unfit = Some(format!("{finding}; it is evidence, and mcpfs audit verify says all of it"));
                break;
            }
        }
    }
    plan.removal = (last > base).then(|| Removal { first: base + 1, last, hash, newest_us });
    Ok(plan)
}

/// How old seals are.
struct Ages<'a> {
    conn: &'a Connection,
    /// Times after this are implausible.
    until_us: i64,
    /// The plausible seal after those that were looked at.
    next: Option<(i64, i64)>,
}

impl Ages<'_> {
    /// The time before which nothing under this seal happened for certain; `None` if that cannot be told.
    fn youngest(&mut self, seal: &super::seal::Seal) -> rusqlite::Result<Option<i64>> {
        let plausible = BEGINNING_US..=self.until_us;
        let sealed = if plausible.contains(&seal.time_us) {
            seal.time_us
        } else {
            if self.next.is_none_or(|(seq, _)| seq <= seal.last) {
                let sql = "SELECT last_seq, time_us FROM seal WHERE last_seq > ?1 AND time_us BETWEEN ?2 AND ?3
                           ORDER BY last_seq LIMIT 1";
                let mut query = self.conn.prepare_cached(sql)?;
                let found = query.query_row(params![seal.last, plausible.start(), plausible.end()], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                });
                self.next = found.optional()?;
            }
            match self.next {
                Some((_, time)) => time,
                None => return Ok(None),
            }
        };
        let sql =
            "SELECT max(time_us) FROM event NOT INDEXED WHERE seq BETWEEN ?1 AND ?2 AND time_us BETWEEN ?3 AND ?4";
        let mut query = self.conn.prepare_cached(sql)?;
        let rows: Option<i64> =
            query.query_row(params![seal.first, seal.last, plausible.start(), plausible.end()], |row| row.get(0))?;
        Ok(Some(sealed.max(rows.unwrap_or(sealed))))
    }
}

impl Removal {
    pub(super) fn rows(&self) -> i64 {
        self.last + 1 - self.first
    }

    /// The row that tells of it.
    pub(super) fn event(&self, cutoff: &Cutoff) -> AuditEvent {
        let mut event = AuditEvent::new(EventKind::Cut, Caller::daemon());
        event.reason = Some(format!("retention.audit = {}", cutoff.policy));
        event.detail = Some(serde_json::json!({
            "first_seq": self.first, "last_seq": self.last, "rows": self.rows(), "hash": self.hash,
            "policy": cutoff.policy, "before_us": cutoff.before_us, "newest_us": self.newest_us,
        }));
        event
    }

    /// Deletes the rows and their seals and leaves the cut. `boot_uuid` is the kernel's boot.
    pub(super) fn delete(
        &self,
        tx: &Transaction<'_>,
        event: &AuditEvent,
        policy: &str,
        boot_uuid: Option<&str>,
    ) -> rusqlite::Result<Gone> {
        let ids = |column: &str| -> rusqlite::Result<Vec<i64>> {
            let sql =
                format!("SELECT DISTINCT {column} FROM event NOT INDEXED WHERE seq <= ?1 AND {column} IS NOT NULL");
            tx.prepare_cached(&sql)?.query_map([self.last], |row| row.get(0))?.collect()
        };
        let gone = Gone {
            carried: still_running(tx, self.last, boot_uuid)?,
            callers: ids("caller")?,
            releases: ids("release")?,
        };
        for (table, number) in [("event", "seq"), ("seal", "last_seq")] {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE {number} <= ?1"))?.execute([self.last])?;
        }
        if tx.prepare_cached("DELETE FROM launch_opens WHERE launch <= ?1")?.execute([self.last])? > 0 {
            let unused = "DELETE FROM openset WHERE NOT EXISTS (SELECT 1 FROM launch_opens AS l WHERE l.openset = openset.openset)";
            tx.execute(unused, [])?;
        }
        let cut = "INSERT INTO cut (last_seq, time_us, rows, hash, policy) VALUES (?1, ?2, ?3, ?4, ?5)";
        tx.prepare_cached(cut)?.execute(params![
            self.last,
            event.time_us,
            self.rows(),
            self.hash.as_bytes(),
            policy
        ])?;
        Ok(gone)
    }
}

impl Gone {
    /// Deletes what no row refers to any more. The rows of the cut are there by now.
    pub(super) fn sweep(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let unused = |table: &str| {
            format!(
                "DELETE FROM {table} WHERE {table} = ?1 AND NOT EXISTS (SELECT 1 FROM event AS e WHERE e.{table} = ?1)"
            )
        };
        for caller in &self.callers {
            tx.prepare_cached(&unused("caller"))?.execute([caller])?;
        }
        for release in &self.releases {
            if tx.prepare_cached(&unused("release"))?.execute([release])? > 0 {
                tx.prepare_cached("DELETE FROM component WHERE release = ?1")?.execute([release])?;
            }
        }
        // The rows of one start of the daemon follow each other, and so do the numbers of boots: what came before the
        // start of the oldest row has none. (To ask for each boot would read every row.)
        let oldest = "SELECT min(same.boot) FROM boot AS same JOIN boot AS own
                      ON same.host = own.host AND same.started_us = own.started_us
                      WHERE own.boot = (SELECT boot FROM event ORDER BY seq LIMIT 1)";
        let oldest: Option<i64> = tx.prepare_cached(oldest)?.query_row([], |row| row.get(0))?;
        let mut before = tx.prepare_cached("SELECT boot FROM boot WHERE boot < ?1")?;
        let before: Vec<i64> =
            before.query_map([oldest.unwrap_or(0)], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut named = verify::Named::new(tx)?;
        let mut deleted = false;
        for boot in before {
            // One that no row named was not looked at yet.
            if named.boot_fits(boot)? {
                deleted |= tx.prepare_cached("DELETE FROM boot WHERE boot = ?1")?.execute([boot])? > 0;
            }
        }
        if deleted {
            let unused = "DELETE FROM host WHERE NOT EXISTS (SELECT 1 FROM boot AS b WHERE b.host = host.host)";
            tx.prepare_cached(unused)?.execute([])?;
        }
        Ok(())
    }
}

/// For each launched process that still runs and whose row goes, a row that says so.
fn still_running(tx: &Transaction<'_>, last: i64, boot_uuid: Option<&str>) -> rusqlite::Result<Vec<Carried>> {
    let sql = "SELECT e.pid, e.pid_start_us, iif(e.event = 'launch', e.seq, e.launch),
                      iif(e.event = 'launch', e.time_us, json_extract(e.detail, '$.launched_us')), e.head_version,
                      e.release, r.commitment, e.caller, c.commitment
               FROM event AS e NOT INDEXED JOIN boot AS b ON b.boot = e.boot
               LEFT JOIN release AS r ON r.release = e.release LEFT JOIN caller AS c ON c.caller = e.caller
               WHERE e.seq <= ?1 AND e.outcome = 'ok' AND (e.event = 'launch' OR (e.event = 'cut' AND e.launch IS NOT NULL))
               AND b.boot_uuid IS ?2 ORDER BY e.seq";
    let mut query = tx.prepare_cached(sql)?;
    let mut rows = query.query(params![last, boot_uuid])?;
    // `exec` keeps number and start: the newest row counts.
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (Some(pid), Some(start_us)) = (row.get::<_, Option<u32>>(0)?, row.get::<_, Option<i64>>(1)?) else {
            continue;
        };
        let start_us = u64::try_from(start_us).unwrap_or_default();
        if caller::start_us("/proc", pid) != Some(start_us) {
            continue;
        }
        let known = |number: usize| -> rusqlite::Result<Option<Known>> {
            let commitment: Option<[u8; 32]> = row.get(number + 1)?;
            Ok(row.get::<_, Option<i64>>(number)?.zip(commitment.map(Digest::from_bytes)))
        };
        let who = Caller { pid: Some(pid), pid_start_us: Some(start_us), ..Caller::default() };
        let mut event = AuditEvent::new(EventKind::Cut, who);
        event.launch = row.get(2)?;
        event.head_version = row.get::<_, Option<i64>>(4)?.and_then(|version| version.try_into().ok());
        event.reason = Some("it still runs, and the row of its launch was removed by retention".to_owned());
        event.detail = Some(serde_json::json!({ "launched_us": row.get::<_, Option<i64>>(3)? }));
        found.insert((pid, start_us), Carried { event, release: known(5)?, caller: known(7)? });
    }
    Ok(found.into_values().collect())
}
