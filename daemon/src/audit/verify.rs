//! Does the store still say what was sealed?
//!
//! By itself a store shows altered rows, rows that were slipped in or taken out between
//! seals, and altered tables or views. It cannot show that its end was cut off, or that all
//! of it was written anew from some point: for that one compares with an *anchor*, a seal
//! (`HASH@SEQ`) that somebody noted elsewhere.
//!
//! One read transaction sees one state while the daemon goes on writing. Memory holds one
//! group of rows at a time.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::time::Timestamp;
use rusqlite::Connection;

pub use self::cuts::Cut;
pub(crate) use self::cuts::moment;
pub(super) use self::named::Named;
use super::event::clean;
use super::retain;
use super::seal::{ENCODING, LEAF_BYTES, Row, Seal, heads, root};
use super::{AuditError, schema};

mod cuts;
mod named;

/// Findings told one by one, at most; the rest is counted.
const FINDINGS: usize = 100;

/// A seal that was noted elsewhere: `HASH@SEQ`, and when it was made: `HASH@SEQ@TIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The chain value.
    pub hash: Digest,
    /// The last row it covers.
    pub seq: i64,
    /// When it was made; it counts once retention has removed its rows.
    pub time: Option<Timestamp>,
}

impl FromStr for Anchor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || "an anchor is HASH@SEQ or HASH@SEQ@TIME, as `mcpfs audit verify` prints it".to_owned();
        let (hash, seq) = text.split_once('@').ok_or_else(bad)?;
        let (seq, time) = seq.split_once('@').map_or((seq, None), |(seq, time)| (seq, Some(time)));
        let seq = seq.parse().ok().filter(|&seq: &i64| seq > 0).ok_or_else(bad)?;
        let time = time.map(str::parse).transpose().map_err(|_| bad())?;
        Ok(Self { hash: hash.parse().map_err(|_| bad())?, seq, time })
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.hash, self.seq)?;
        self.time.map_or(Ok(()), |time| write!(f, "@{time}"))
    }
}

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// Rows whose seal fits.
    pub rows: u64,
    /// Seals that were read.
    pub seals: u64,
    /// The last seal: an anchor for the next time.
    pub last: Option<Anchor>,
    /// What retention removed, if it removed something.
    pub cut: Option<Cut>,
    /// Callers whose person was erased.
    pub erased: u64,
    /// What is as it should be and yet worth a word.
    pub notes: Vec<String>,
    /// What is wrong, in words; at most 100 of them.
    pub findings: Vec<String>,
    /// Findings beyond those.
    pub more: u64,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn intact(&self) -> bool {
        self.findings.is_empty()
    }

    fn finding(&mut self, text: String) {
        if self.findings.len() < FINDINGS { self.findings.push(text) } else { self.more += 1 }
    }
}

/// Reads the store at `path` through and compares it with its seals and with `anchors`.
///
/// # Errors
/// If it cannot be read; what is wrong with its content is a finding.
pub fn verify(path: &Path, anchors: &[Anchor]) -> Result<Verification, AuditError> {
    let mut conn = schema::open_read_only(path)?;
    let broken = |source| schema::failed(path, source);
    let tx = conn.transaction().map_err(broken)?;
    check(&tx, anchors).map_err(broken)
}

fn check(conn: &Connection, anchors: &[Anchor]) -> rusqlite::Result<Verification> {
    let mut found = Verification::default();
    tables_and_views(conn, &mut found)?;
    named::check(conn, &mut found)?;
    found.cut = cuts::check(conn, &mut found)?;
    chain(conn, anchors, &mut found)?;
    Ok(found)
}

/// Altered views would make honest rows tell lies; triggers could change them.
fn tables_and_views(conn: &Connection, found: &mut Verification) -> rusqlite::Result<()> {
    let objects = |conn: &Connection| -> rusqlite::Result<HashMap<(String, String), Option<String>>> {
        let mut statement =
            conn.prepare("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'")?;
        statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?.collect()
    };
    let fresh = Connection::open_in_memory()?;
    for step in schema::STEPS {
        fresh.execute_batch(step)?;
    }
    let (expected, mut present) = (objects(&fresh)?, objects(conn)?);
    for ((kind, name), sql) in &expected {
        match present.remove(&(kind.clone(), name.clone())) {
            None => found.finding(format!("{kind} {name} missing")),
            Some(other) if other != *sql => found.finding(format!("{kind} {name} altered")),
            Some(_) => {}
        }
    }
    // An index or view of the administrator's own does no harm.
    for (kind, name) in present.into_keys().filter(|(kind, _)| kind == "trigger" || kind == "table") {
        found.finding(format!("{kind} {} is not part of the schema", clean(&name, 100)));
    }
    Ok(())
}

/// The columns that [`read_seal`] reads, of all seals in order.
pub(super) const SEALS: &str =
    "SELECT last_seq, first_seq, time_us, encoding, leaves, root, hash FROM seal ORDER BY last_seq";

/// The event columns in schema order, with commitments in place of row numbers.
const EVENTS: &str =
    "SELECT e.seq, e.time_us, b.commitment, e.event, e.outcome, r.commitment, c.commitment, e.launch, e.pid, e.pid_start_us,
     e.head_version, e.stale, e.path, e.bytes, e.duration_us, e.count, e.reason, e.detail
     FROM event AS e LEFT JOIN boot AS b ON b.boot = e.boot LEFT JOIN release AS r ON r.release = e.release
     LEFT JOIN caller AS c ON c.caller = e.caller";

/// The rows that [`group`] reads.
pub(super) fn events_of_a_seal() -> String {
    format!("{EVENTS} WHERE e.seq BETWEEN ?1 AND ?2 ORDER BY e.seq")
}

fn chain(conn: &Connection, anchors: &[Anchor], found: &mut Verification) -> rusqlite::Result<()> {
    let (base, mut hash) = retain::base(conn)?;
    let mut before = base;
    let mut anchored: HashMap<i64, bool> = anchors.iter().map(|anchor| (anchor.seq, false)).collect();
    let note = |seq: i64, hash: &Digest, found: &mut Verification, anchored: &mut HashMap<i64, bool>| {
        for anchor in anchors.iter().filter(|anchor| anchor.seq == seq) {
            anchored.insert(seq, true);
            if anchor.hash != *hash {
                found.finding(format!("seal of row {seq} is not the anchor's: rows up to {seq} were rewritten"));
            }
        }
    };
    if before > 0 {
        note(before, &hash, found, &mut anchored);
    }

    let mut seals = conn.prepare(SEALS)?;
    let mut seals = seals.query([])?;
    let mut events = conn.prepare(&events_of_a_seal())?;
    while let Some(row) = seals.next()? {
        found.seals += 1;
        let last: i64 = row.get(0)?;
        let Some(seal) = read_seal(row) else {
            found.finding(format!("seal of row {last} altered: its columns have other types"));
            before = last;
            continue;
        };
        linked(&seal, before, &hash, found);
        group(&mut events, &seal, found)?;
        (before, hash) = (last, seal.hash);
        note(last, &hash, found, &mut anchored);
        found.last = Some(Anchor { hash, seq: last, time: Timestamp::from_unix(seal.time_us.div_euclid(1_000_000)) });
    }

    let outside = "SELECT count(*), min(seq) FROM event WHERE seq > ?1 OR seq <= ?2";
    let (count, first) =
        conn.query_row(outside, [before, base], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)))?;
    if let Some(first) = first {
        found.finding(format!("{count} row(s) that no seal covers, from row {first}"));
    }
    for (seq, seen) in anchored {
        match seen {
            true => {}
            false if seq > before => {
                found.finding(format!("anchor of row {seq}: the audit ends at row {before}, its end was cut off"));
            }
            false if seq < base => {
                let cut = found.cut.clone();
                anchors.iter().filter(|one| one.seq == seq).for_each(|one| cuts::anchor(one, cut.as_ref(), found));
            }
            false => found.finding(format!("anchor of row {seq}: no seal ends there, so rows were rewritten")),
        }
    }
    Ok(())
}

/// Whether a seal follows the one before, which ended at row `before` with `hash`.
pub(super) fn linked(seal: &Seal, before: i64, hash: &Digest, found: &mut Verification) {
    let next = before.saturating_add(1);
    if seal.first != next {
        let gap = if seal.first > next {
            format!("rows {next} to {} and their seals are missing", seal.first - 1)
        } else {
            format!("seal of row {} covers rows that the one before covers", seal.last)
        };
        found.finding(gap);
    }
    if seal.chained(hash) != seal.hash {
        found.finding(format!("seal of row {} altered, or a seal before it is missing", seal.last));
    }
}

/// A row of `seal`, unless its columns are not what they must be.
pub(super) fn read_seal(row: &rusqlite::Row<'_>) -> Option<Seal> {
    let digest = |column| Some(Digest::from_bytes(row.get(column).ok()?));
    Some(Seal {
        last: row.get(0).ok()?,
        first: row.get(1).ok()?,
        time_us: row.get(2).ok()?,
        encoding: row.get(3).ok()?,
        leaves: row.get(4).ok()?,
        root: digest(5)?,
        hash: digest(6)?,
    })
}

/// Compares the rows under one seal with it.
pub(super) fn group(
    events: &mut rusqlite::Statement<'_>,
    seal: &Seal,
    found: &mut Verification,
) -> rusqlite::Result<()> {
    if seal.encoding != ENCODING {
        found.finding(format!(
            "seal of row {} names row encoding {}, which this mcpfs does not know",
            seal.last, seal.encoding
        ));
        return Ok(());
    }
    let kept: Vec<&[u8]> = seal.leaves.as_deref().unwrap_or_default().chunks(LEAF_BYTES).collect();
    let mut leaves = Vec::new();
    let mut named = false;
    let mut next = seal.first;
    let columns = events.column_count();
    let mut rows = events.query([seal.first, seal.last])?;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        for missing in (next..seq).take(FINDINGS) {
            found.finding(format!("row {missing} missing"));
            named = true;
        }
        next = seq.saturating_add(1);
        let mut encoded = Row::of("event");
        for column in 0..columns {
            encoded.column(row.get_ref(column)?);
        }
        let leaf = encoded.leaf();
        let place = usize::try_from(seq.saturating_sub(seal.first)).unwrap_or(usize::MAX);
        let alone = seal.first == seal.last && leaf != seal.root;
        let differs = kept.get(place).is_some_and(|kept| leaf.as_bytes().get(..LEAF_BYTES) != Some(*kept));
        if alone || differs {
            found.finding(format!("row {seq} altered"));
            named = true;
        }
        leaves.push(leaf);
    }
    for missing in (next..=seal.last).take(FINDINGS) {
        found.finding(format!("row {missing} missing"));
        named = true;
    }
    if root(&leaves) == seal.root && heads(&leaves) == seal.leaves {
        found.rows += leaves.len() as u64;
    } else if !named {
        found.finding(format!("rows {} to {}, or their seal, altered", seal.first, seal.last));
    }
    Ok(())
}
