//! Reading a host's audit database as an auditor would.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::host::Host;
use crate::scratch::PATIENCE;

/// One row of the view `access`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What was done: launch, access, fetch, refusal, refresh…
    pub event: String,
    /// `ok` or the typed error.
    pub outcome: String,
    /// The server.
    pub server: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The real user id.
    pub user: Option<i64>,
    /// Whether the head was stale.
    pub stale: bool,
    /// Words for people.
    pub reason: Option<String>,
}

/// All rows, oldest first.
pub fn rows(host: &Host) -> Vec<Row> {
    let store = open(host);
    let sql =
        "SELECT event, verification_outcome, server_name, version, user_id, stale, reason FROM access ORDER BY seq";
    let mut query = store.prepare(sql).expect("the view access has these columns");
    let rows = query.query_map([], |row| {
        Ok(Row {
            event: row.get(0)?,
            outcome: row.get(1)?,
            server: row.get(2)?,
            version: row.get(3)?,
            user: row.get(4)?,
            stale: row.get::<_, Option<i64>>(5)?.unwrap_or(0) != 0,
            reason: row.get(6)?,
        })
    });
    rows.expect("readable").map(|row| row.expect("readable")).collect()
}

/// Whether a row with this outcome is there; for a server if one is named.
pub fn has(host: &Host, outcome: &str, server: Option<&str>) -> bool {
    rows(host).iter().any(|row| row.outcome == outcome && (server.is_none() || row.server.as_deref() == server))
}

/// Expects such a row.
///
/// # Panics
/// If there is none, showing all rows.
pub fn expect(host: &Host, outcome: &str, server: Option<&str>) {
    let rows = rows(host);
    let found = rows.iter().any(|row| row.outcome == outcome && (server.is_none() || row.server.as_deref() == server));
    assert!(found, "no row says {outcome} for {server:?}; there are:\n{}", listing(&rows));
    crate::proof::note(outcome);
}

/// Waits until such a row is there: for what the daemon does on its own time.
///
/// # Panics
/// If it does not come, showing all rows.
pub fn wait(host: &Host, outcome: &str, server: Option<&str>) {
    let started = std::time::Instant::now();
    while !has(host, outcome, server) && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
    }
    expect(host, outcome, server);
}

/// Expects that nothing was refused and no look at the site failed.
///
/// # Panics
/// If something was, showing all rows.
pub fn no_refusals(host: &Host) {
    let rows = rows(host);
    assert!(!rows.is_empty() && rows.iter().all(|row| row.outcome == "ok"), "refused:\n{}", listing(&rows));
}

/// Rows as lines.
pub fn listing(rows: &[Row]) -> String {
    rows.iter().map(|row| format!("{row:?}\n")).collect()
}

/// Changes the stored history: what an intruder with root would do.
pub fn alter(host: &Host, sql: &str) {
    let store = Connection::open(host.audit_db()).expect("the audit database");
    store.busy_timeout(PATIENCE).expect("a timeout");
    store.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn open(host: &Host) -> Connection {
    // WAL needs its shared memory, so a reader is not quite read-only.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let store = Connection::open_with_flags(host.audit_db(), flags).expect("the audit database");
    store.busy_timeout(PATIENCE).expect("a timeout");
    store
}
