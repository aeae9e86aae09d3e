//! Do the boots, releases and callers that rows name say what their commitments say?
//!
//! A row is sealed with their commitments, not with what they say. So its seal fits beside a forged name, and both have to
//! be looked at before a row may count for what it tells, or go.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Statement};

use super::Verification;
use crate::audit::seal::Row;

/// Number, commitment, and what it is made of.
const BOOTS: &str =
    "SELECT b.boot, b.commitment, h.machine_id, h.name, b.boot_uuid, b.started_us, b.daemon, b.kernel, b.reads,
     b.trust_version, b.trust_sha256, b.config_sha256 FROM boot AS b LEFT JOIN host AS h ON h.host = b.host";
const RELEASES: &str = "SELECT release, commitment, registry, server_name, version, artefact_sha256, tree_sha256,
     statement_sha256, key_ids, maintainer, data_classification, lawful_basis, scope, reviewed_at, reviewers, repository,
     commit_id, pull_request, status FROM release";
const CALLERS: &str = "SELECT caller, commitment, salt, user_id, user_name, login_uid, request_uid, group_id, process,
     host_app, unit FROM caller";
const TABLES: [(&str, &str); 3] = [("boot", BOOTS), ("release", RELEASES), ("caller", CALLERS)];

enum Said {
    AsCommitted,
    /// A caller whose person was erased.
    Erased,
    Altered(String),
}

/// Judges a row of `table`.
fn judge(table: &str, columns: usize, row: &rusqlite::Row<'_>) -> rusqlite::Result<Said> {
    let values = (2..columns).map(|column| row.get_ref(column)).collect::<rusqlite::Result<Vec<_>>>()?;
    if table == "caller" && values.iter().all(|value| *value == ValueRef::Null) {
        return Ok(Said::Erased);
    }
    let mut encoded = Row::of(table);
    for value in values {
        encoded.column(value);
    }
    if row.get_ref(1)? == ValueRef::Blob(encoded.commitment().as_bytes()) {
        return Ok(Said::AsCommitted);
    }
    let number: i64 = row.get(0)?;
    Ok(Said::Altered(format!("{table} {number} altered: what rows say by naming it may be false")))
}

/// All of them.
pub(super) fn check(conn: &Connection, found: &mut Verification) -> rusqlite::Result<()> {
    for (table, sql) in TABLES {
        let mut statement = conn.prepare(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match judge(table, columns, row)? {
                Said::AsCommitted => {}
                Said::Erased => found.erased += 1,
                Said::Altered(finding) => found.finding(finding),
            }
        }
    }
    Ok(())
}

/// Those that some rows name, each looked at once.
pub(in crate::audit) struct Named<'a> {
    by_rows: Statement<'a>,
    /// In the order of [`TABLES`].
    lookups: [Statement<'a>; 3],
    seen: [HashMap<i64, Option<String>>; 3],
}

impl<'a> Named<'a> {
    pub(in crate::audit) fn new(conn: &'a Connection) -> rusqlite::Result<Self> {
        let by_rows =
            conn.prepare("SELECT DISTINCT boot, release, caller FROM event NOT INDEXED WHERE seq BETWEEN ?1 AND ?2")?;
        let lookup = |(table, sql): (&str, &str)| conn.prepare(&format!("{sql} WHERE {table} = ?1"));
        let [boots, releases, callers] = TABLES;
        Ok(Self { by_rows, lookups: [lookup(boots)?, lookup(releases)?, lookup(callers)?], seen: Default::default() })
    }

    /// Looks at those that the rows `first` to `last` name. Whether there are any shows in the rows' seal.
    pub(in crate::audit) fn by(&mut self, first: i64, last: i64, found: &mut Verification) -> rusqlite::Result<()> {
        let mut rows = self.by_rows.query([first, last])?;
        while let Some(row) = rows.next()? {
            let tables = TABLES.iter().zip(&mut self.lookups).zip(&mut self.seen);
            for (place, (((table, _), lookup), seen)) in tables.enumerate() {
                let Some(number) = row.get::<_, Option<i64>>(place)? else { continue };
                let finding = match seen.entry(number) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unseen) => unseen.insert(altered(table, lookup, number)?),
                };
                if let Some(finding) = finding {
                    found.finding(finding.clone());
                }
            }
        }
        Ok(())
    }

    /// Whether a boot is as it was written.
    pub(in crate::audit) fn boot_fits(&mut self, number: i64) -> rusqlite::Result<bool> {
        let [boots, ..] = &mut self.lookups;
        Ok(altered("boot", boots, number)?.is_none())
    }
}

fn altered(table: &str, lookup: &mut Statement<'_>, number: i64) -> rusqlite::Result<Option<String>> {
    let columns = lookup.column_count();
    let said = lookup.query_row([number], |row| judge(table, columns, row)).optional()?;
    Ok(match said {
        Some(Said::Altered(finding)) => Some(finding),
        _ => None,
    })
}
