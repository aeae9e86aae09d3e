//! How the last look at the site ended, for whoever serves next.

use mcpfs_trust::error::Code;
use rusqlite::{OptionalExtension, Row, params};

use super::{State, StateError, time};
use crate::refusal::Refusal;
use crate::registry::Refreshed;

/// Made where it is missing and no step of the schema: an older mcpfs can do without it.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS look (one INTEGER PRIMARY KEY CHECK (one = 1),
    at INTEGER NOT NULL, stale INTEGER NOT NULL, code TEXT, message TEXT) STRICT;";

impl State {
    /// Remembers how the last look ended.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_look(&self, look: &Refreshed) -> Result<(), StateError> {
        let refusal = look.outcome.as_ref().err();
        let (code, message) =
            (refusal.map(|refusal| refusal.code.to_string()), refusal.map(|refusal| &refusal.message));
        let sql = "INSERT OR REPLACE INTO look (one, at, stale, code, message) VALUES (1, ?1, ?2, ?3, ?4)";
        self.connection().execute(sql, params![look.at.unix(), look.stale, code, message])?;
        Ok(())
    }

    /// How the last look ended; nothing if there was none, or if it ended in a way that only another
    /// mcpfs knows.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn look(&self) -> Result<Option<Refreshed>, StateError> {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT at, stale, code, message FROM look")?;
        let read = |row: &Row<'_>| {
            let code: Option<String> = row.get(2)?;
            Ok((time(row, 0)?, row.get(1)?, code, row.get::<_, Option<String>>(3)?))
        };
        let Some((at, stale, code, message)) = statement.query_row([], read).optional()? else { return Ok(None) };
        let outcome = match code.map(|code| Code::ALL.into_iter().find(|one| one.to_string() == code)) {
            None => Ok(()),
            Some(Some(code)) => Err(Refusal::new(code, message.unwrap_or_default())),
            Some(None) => return Ok(None),
        };
        Ok(Some(Refreshed { at, outcome, stale }))
    }
}
