//! Asking the audit: the filters of `mcpfs audit query`, over view `access`.

use std::path::Path;
use std::str::FromStr;

use mcpfs_trust::time::{Date, Timestamp};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::event::{EventKind, now_us};
use super::{AuditError, retain, schema};

/// A moment of a filter, microseconds UTC: `2026-04-15T09:30:00Z`, `2026-04-15` (its
/// midnight, UTC), or how long ago: `90s`, `15m`, `24h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub i64);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let absolute = text.parse::<Timestamp>().ok().or_else(|| text.parse::<Date>().ok().map(Date::start));
        if let Some(time) = absolute {
            return Ok(Self(time.unix().saturating_mul(1_000_000)));
        }
        let ago = || {
            let (at, unit) = text.char_indices().last()?;
            let seconds = match unit {
                's' => 1,
                'm' => 60,
                'h' => 3_600,
                'd' => 86_400,
                _ => return None,
            };
            let number: u32 = text.get(..at)?.parse().ok()?;
            Some(Self(now_us().saturating_sub(i64::from(number) * seconds * 1_000_000)))
        };
        ago().ok_or_else(|| {
            format!("{text:?} is no time: use 2026-04-15T09:30:00Z, 2026-04-15, or how long ago, such as 24h or 30d")
        })
    }
}

/// Which rows are wanted; all of those that are given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Not before.
    pub since: Option<Moment>,
    /// Before.
    pub until: Option<Moment>,
    /// A user's name, or a real or login uid as a number.
    pub user: Option<String>,
    /// A server's name, or `name@version`.
    pub server: Option<String>,
    /// One kind of event.
    pub event: Option<EventKind>,
    /// `ok`, a typed error, or `refused` for every outcome but `ok`.
    pub outcome: Option<String>,
    /// Only rows after this one.
    pub after: Option<i64>,
    /// At most so many, and the newest of them.
    pub limit: Option<u32>,
}

/// A row of view `access`: its values in [`COLUMNS`] order.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessRow(pub Vec<Value>);

/// The columns of view `access`, in its order.
pub const COLUMNS: [&str; 34] = [
    "seq",
    "time",
    "time_us",
    "host",
    "boot",
    "event",
    "user_id",
    "user_name",
    "login_uid",
    "request_uid",
    "group_id",
    "registry",
    "server_name",
    "version",
    "verification_outcome",
    "reason",
    "host_app",
    "process",
    "pid",
    "pid_start_us",
    "unit",
    "artefact_sha256",
    "tree_sha256",
    "statement_sha256",
    "key_ids",
    "head_version",
    "stale",
    "path",
    "bytes",
    "duration_us",
    "count",
    "launch",
    "release",
    "detail",
];

impl AccessRow {
    /// The value of a column as text for people; `None` for NULL or an unknown column.
    pub fn text(&self, column: &str) -> Option<String> {
        match self.value(column)? {
            Value::Null => None,
            Value::Integer(number) => Some(number.to_string()),
            Value::Real(number) => Some(number.to_string()),
            Value::Text(text) => Some(text.clone()),
            Value::Blob(_) => Some("(bytes)".to_owned()),
        }
    }

    /// The value of a column that holds a number.
    pub fn number(&self, column: &str) -> Option<i64> {
        match self.value(column)? {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    fn value(&self, column: &str) -> Option<&Value> {
        COLUMNS.iter().position(|name| *name == column).and_then(|place| self.0.get(place))
    }

    /// The row as a JSON object; `key_ids` and `detail` as the JSON they are, `stale` as a boolean.
    pub fn json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        for (name, value) in COLUMNS.iter().zip(&self.0) {
            let json = match (value, *name) {
                (Value::Null, _) => serde_json::Value::Null,
                (Value::Integer(number), "stale") => (*number != 0).into(),
                (Value::Integer(number), _) => (*number).into(),
                (Value::Real(number), _) => (*number).into(),
                (Value::Text(text), "key_ids" | "detail") => {
                    serde_json::from_str(text).unwrap_or_else(|_| text.clone().into())
                }
                (Value::Text(text), _) => text.clone().into(),
                (Value::Blob(_), _) => serde_json::Value::Null,
            };
            object.insert((*name).to_owned(), json);
        }
        object.into()
    }
}

/// What one user ran of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The server.
    pub server: String,
    /// Its version.
    pub version: String,
    /// The digest of its statement.
    pub statement: String,
    /// The user's name, else the number, if it is known.
    pub user: Option<String>,
    /// How often it was started.
    pub launches: i64,
    /// When it was first used, ISO 8601.
    pub first: String,
    /// When it was last used.
    pub last: String,
}

/// From when to when a store reaches, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// When the oldest row was written, microseconds UTC.
    pub oldest_us: Option<i64>,
    /// When retention last removed rows.
    pub cut_us: Option<i64>,
    /// Bytes on the disk, with the log.
    pub bytes: u64,
}

/// A read-only view of a store.
#[derive(Debug)]
pub struct Reader {
    conn: Connection,
    path: std::path::PathBuf,
}

impl Reader {
    /// Opens the store at `path`.
    ///
    /// # Errors
    /// [`AuditError`] in words for a person: missing, no permission, damaged, newer or older schema.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        Ok(Self { conn: schema::open_read_only(path)?, path: path.to_owned() })
    }

    /// From when to when it reaches.
    ///
    /// # Errors
    /// If SQLite cannot read.
    pub fn extent(&self) -> Result<Extent, AuditError> {
        let (oldest_us, cut_us) = retain::extent(&self.conn).map_err(|source| schema::failed(&self.path, source))?;
        let files = ["", "-wal"].map(|suffix| schema::beside(&self.path, suffix));
        let bytes = files.iter().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum();
        Ok(Extent { oldest_us, cut_us, bytes })
    }

    /// Who ran which verified release, since a moment.
    ///
    /// # Errors
    /// If SQLite cannot read.
    pub fn used(&self, since: Option<Moment>) -> Result<Vec<Used>, AuditError> {
        const SQL: &str = "SELECT server_name, version, statement_sha256, coalesce(user_name, user_id), \
            sum(event = 'launch'), min(time), max(time) FROM access \
            WHERE event IN ('launch', 'access') AND verification_outcome = 'ok' AND time_us >= ?1 \
            AND statement_sha256 IS NOT NULL AND version IS NOT NULL GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4";
        let user = |value: Value| match value {
            Value::Text(name) => Some(name),
            Value::Integer(uid) => Some(uid.to_string()),
            _ => None,
        };
        let read = || {
            let mut statement = self.conn.prepare_cached(SQL)?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok(Used {
                    server: row.get(0)?,
                    version: row.get(1)?,
                    statement: row.get(2)?,
                    user: user(row.get(3)?),
                    launches: row.get(4)?,
                    first: row.get(5)?,
                    last: row.get(6)?,
                })
            };
            statement.query_map([since.map_or(0, |Moment(at)| at)], row)?.collect::<Result<_, _>>()
        };
        read().map_err(|source| schema::failed(&self.path, source))
    }

    /// The rows that `filter` wants, oldest first.
    ///
    /// # Errors
    /// If SQLite cannot read.
    pub fn rows(&self, filter: &Filter) -> Result<Vec<AccessRow>, AuditError> {
        let (sql, values) = filter.sql();
        let read = || {
            let mut statement = self.conn.prepare_cached(&sql)?;
            let row =
                |row: &rusqlite::Row<'_>| (0..COLUMNS.len()).map(|place| row.get(place)).collect::<Result<_, _>>();
            let mut rows: Vec<_> = statement
                .query_map(params_from_iter(&values), |found| row(found).map(AccessRow))?
                .collect::<Result<_, _>>()?;
            rows.reverse();
            Ok(rows)
        };
        read().map_err(|source| schema::failed(&self.path, source))
    }
}

impl Filter {
    /// The statement and its values. `time_us` and not the rendered time, so that the index serves it.
    fn sql(&self) -> (String, Vec<Value>) {
        let (mut wanted, mut values) = (Vec::new(), Vec::new());
        let mut want = |sql: &str, value: Value| {
            values.push(value);
            wanted.push(sql.replace('?', &format!("?{}", values.len())));
        };
        if let Some(Moment(since)) = self.since {
            want("time_us >= ?", since.into());
        }
        if let Some(Moment(until)) = self.until {
            want("time_us < ?", until.into());
        }
        if let Some(after) = self.after {
            want("seq > ?", after.into());
        }
        match self.user.as_ref().map(|user| (user, user.parse::<u32>())) {
            None => {}
            Some((_, Ok(uid))) => want("(user_id = ? OR login_uid = ?)", i64::from(uid).into()),
            Some((name, Err(_))) => want("user_name = ?", name.clone().into()),
        }
        if let Some(server) = &self.server {
            let (name, version) =
                server.split_once('@').map_or((server.as_str(), None), |(name, version)| (name, Some(version)));
            want("server_name = ?", name.to_owned().into());
            if let Some(version) = version {
                want("version = ?", version.to_owned().into());
            }
        }
        if let Some(event) = self.event {
            want("event = ?", event.as_str().to_owned().into());
        }
        match self.outcome.as_deref() {
            None => {}
            Some("refused") => want("verification_outcome <> ?", "ok".to_owned().into()),
            Some(outcome) => want("verification_outcome = ?", outcome.to_owned().into()),
        }
        let wanted = if wanted.is_empty() { String::new() } else { format!(" WHERE {}", wanted.join(" AND ")) };
        let limit = self.limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
        (format!("SELECT {} FROM access{wanted} ORDER BY seq DESC{limit}", COLUMNS.join(", ")), values)
    }
}
