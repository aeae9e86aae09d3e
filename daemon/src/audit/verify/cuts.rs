//! Does what retention removed agree with itself?
//!
//! Rows that are gone cannot be looked at. What can be: that each cut which still has its row in the chain says the same
//! there, that the newest has one, that their numbers follow each other, and that none took more than its policy allows by
//! its own word. Whoever writes the file can write all of that anew; then an anchor tells, if its time is known: what was
//! sealed at a time that the policy still keeps must not be gone.

use std::collections::BTreeMap;
use std::time::Duration;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::time::Timestamp;
use rusqlite::Connection;
use serde_json::Value;

use super::{Anchor, Verification};
use crate::audit::event::clean;
use crate::config::Keep;

/// What a clock may be set by between the decision and its row.
const SKEW_US: i64 = 300_000_000;

/// A policy is a few letters; an altered one may be anything.
const POLICY_BYTES: usize = 40;

/// What retention removed, as the newest cut says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The last row that is gone.
    pub last_seq: i64,
    /// When it was done, microseconds UTC.
    pub time_us: i64,
    /// How many rows are gone altogether.
    pub rows: i64,
    /// How long rows are kept.
    pub policy: String,
    /// Rows of this time and later were kept, as the chain says.
    pub before_us: Option<i64>,
}

/// A row of `cut`.
struct Stored {
    time_us: i64,
    rows: i64,
    hash: Option<Digest>,
    policy: String,
}

/// The same as the chain has it.
struct Told {
    seq: i64,
    time_us: i64,
    last_seq: i64,
    rows: Option<i64>,
    hash: Option<Digest>,
    policy: String,
    before_us: Option<i64>,
    newest_us: Option<i64>,
}

/// Compares the cuts with each other and with their rows; says what is gone.
pub(super) fn check(conn: &Connection, found: &mut Verification) -> rusqlite::Result<Option<Cut>> {
    let mut statement = conn.prepare("SELECT last_seq, time_us, rows, hash, policy FROM cut ORDER BY last_seq")?;
    let stored = statement.query_map([], |row| {
        let hash = row.get_ref(3)?.as_blob().ok().and_then(|hash| hash.try_into().ok()).map(Digest::from_bytes);
        let policy = clean(row.get_ref(4)?.as_str().unwrap_or_default(), POLICY_BYTES);
        Ok((row.get(0)?, Stored { time_us: row.get(1)?, rows: row.get(2)?, hash, policy }))
    })?;
    let stored: BTreeMap<i64, Stored> = stored.collect::<rusqlite::Result<_>>()?;
    let mut before = 0_i64;
    for (last, cut) in &stored {
        let counted = last.saturating_sub(before);
        if cut.rows != counted {
            found.finding(format!("cut of row {last} altered: it says {} rows and took {counted}", cut.rows));
        }
        before = *last;
    }
    let mut newest = None;
    for one in told(conn)? {
        let last = one.last_seq;
        match stored.get(&last) {
            Some(cut) if one.says(cut) => {}
            Some(_) => found.finding(format!("cut of row {last} altered: row {} says something else", one.seq)),
            None => found.finding(format!("cut of row {last} missing, of which row {} tells", one.seq)),
        }
        one.within_policy(found);
        if last == before {
            newest = one.before_us;
        }
    }
    let Some((&last_seq, cut)) = stored.last_key_value() else { return Ok(None) };
    if newest.is_none() {
        found.finding(format!("cut of row {last_seq}: no row tells of it, so retention did not make it"));
    }
    Ok(Some(Cut { last_seq, time_us: cut.time_us, rows: last_seq, policy: cut.policy.clone(), before_us: newest }))
}

/// The rows that tell of cuts; those that tell of files and servers are none.
fn told(conn: &Connection) -> rusqlite::Result<Vec<Told>> {
    let sql = "SELECT seq, time_us, detail FROM event WHERE event = 'cut' AND launch IS NULL ORDER BY seq";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut told = Vec::new();
    while let Some(row) = rows.next()? {
        let text = row.get_ref(2)?.as_str().unwrap_or_default();
        let detail: Value = serde_json::from_str(text).unwrap_or_default();
        let number = |name: &str| detail.get(name).and_then(Value::as_i64);
        let word = |name: &str| detail.get(name).and_then(Value::as_str).unwrap_or_default();
        let Some(last_seq) = number("last_seq") else { continue };
        told.push(Told {
            seq: row.get(0)?,
            time_us: row.get(1)?,
            last_seq,
            rows: number("rows"),
            hash: word("hash").parse().ok(),
            policy: clean(word("policy"), POLICY_BYTES),
            before_us: number("before_us"),
            newest_us: number("newest_us"),
        });
    }
    Ok(told)
}

impl Told {
    fn says(&self, cut: &Stored) -> bool {
        (self.rows, self.time_us, &self.policy) == (Some(cut.rows), cut.time_us, &cut.policy)
            && cut.hash.is_some()
            && self.hash == cut.hash
    }

    /// Whether it took only what was old enough, by its own word.
    fn within_policy(&self, found: &mut Verification) {
        let (Ok(Keep::For(keep)), Some(before), Some(newest)) = (self.policy.parse(), self.before_us, self.newest_us)
        else {
            found.finding(format!("row {} tells of a cut and not why it was allowed", self.seq));
            return;
        };
        let allowed = self.time_us.saturating_sub(micros(keep)).saturating_add(SKEW_US);
        if before > allowed || newest >= before {
            found.finding(format!(
                "row {} tells of a cut that its policy does not allow: it took rows up to {}, and {} before it is {}",
                self.seq,
                moment(newest),
                Keep::For(keep),
                moment(allowed)
            ));
        }
    }
}

/// What an anchor says whose rows are gone.
pub(super) fn anchor(anchor: &Anchor, cut: Option<&Cut>, found: &mut Verification) {
    let Some(cut) = cut else { return };
    let Some(kept) = cut.before_us else {
        found.finding(format!("anchor of row {}: its rows are gone, and nothing says rightly why", anchor.seq));
        return;
    };
    match anchor.time {
        Some(time) if time.unix().saturating_mul(1_000_000) >= kept => found.finding(format!(
            "anchor of row {} is of {time}, and only what is older than {} may be gone: its rows were not removed by \
             retention",
            anchor.seq,
            moment(kept)
        )),
        Some(time) => found.notes.push(format!(
            "anchor of row {} is of {time}: its rows are gone, as the policy ({}) says",
            anchor.seq, cut.policy
        )),
        None => found.finding(format!(
            "anchor of row {} cannot be compared: retention removed rows up to {}. If it was noted before {}, that is \
             right: give its time too, as HASH@SEQ@TIME",
            anchor.seq,
            cut.last_seq,
            moment(kept)
        )),
    }
}

/// A time of the store for people, in seconds.
pub(crate) fn moment(time_us: i64) -> String {
    Timestamp::from_unix(time_us.div_euclid(1_000_000)).map_or_else(|| format!("{time_us} µs"), |time| time.to_string())
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
