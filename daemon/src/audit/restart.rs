//! Beginning anew after damage, by an administrator's act and never by itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::event::now_us;
use super::schema::{self, beside};
use super::store::{Store, Tip, tip};
use super::{AuditError, AuditEvent, BootFacts, EventKind};
use crate::caller::Caller;

/// What a restart did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarted {
    /// Where the old file lies now.
    pub moved_to: PathBuf,
    /// The old chain's end, `HASH@SEQ`, if it could still be read.
    pub old_seal: Option<String>,
}

/// Moves the store at `path` aside and begins a new one whose first row, by `caller` and for
/// `reason`, names the old one's last seal. The daemon must be stopped.
///
/// # Errors
/// `Missing` without an old store, `Locked` while a daemon writes it, and those of opening a new one.
pub fn restart(path: &Path, caller: Caller, reason: &str) -> Result<Restarted, AuditError> {
    let owner = owner(path)?;
    let lock = schema::Lock::take(path)?;
    let old_seal = last_seal(path).filter(|tip| tip.last > 0).map(|tip| format!("{}@{}", tip.hash, tip.last));
    let moved_to = beside(path, &format!(".damaged-{}", now_us()));
    // The log first: an old log beside a new file would be taken for the new file's.
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (beside(path, suffix), beside(&moved_to, suffix));
        match fs::rename(&from, &to) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(AuditError::io("move aside", &from, source));
            }
            _ => {}
        }
    }
    let mut store = Store::open(path, lock)?;
    give(path, owner)?;
    let mut event = AuditEvent::new(EventKind::AuditRestarted, caller);
    event.reason = Some(reason.to_owned());
    let file_name = moved_to.file_name().map(|name| name.to_string_lossy());
    event.detail = Some(serde_json::json!({ "moved_to": file_name, "old_seal": old_seal }));
    let broken = |source| schema::failed(path, source);
    store.describe(BootFacts::default()).map_err(broken)?;
    store.append(&[&event]).map_err(broken)?;
    store.close();
    Ok(Restarted { moved_to, old_seal })
}

/// Appends rows to the store at `path` while no daemon has it open, which stays its owner's.
///
/// # Errors
/// As [`restart`].
pub(super) fn append_without_a_daemon(path: &Path, events: &[AuditEvent]) -> Result<(), AuditError> {
    let owner = owner(path)?;
    let mut store = Store::open(path, schema::Lock::take(path)?)?;
    give(path, owner)?;
    let broken = |source| schema::failed(path, source);
    store.describe(BootFacts::default()).map_err(broken)?;
    store.append(&events.iter().collect::<Vec<_>>()).map_err(broken)?;
    store.close();
    Ok(())
}

fn owner(path: &Path) -> Result<(u32, u32), AuditError> {
    match fs::metadata(path) {
        Ok(meta) => Ok((meta.uid(), meta.gid())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(AuditError::Missing { path: path.to_owned() })
        }
        Err(source) => Err(AuditError::io("look at", path, source)),
    }
}

/// Root may be the one who writes here; the daemon must be able to go on.
fn give(path: &Path, owner: (u32, u32)) -> Result<(), AuditError> {
    for suffix in ["", "-wal", "-shm", "-lock"] {
        let name = beside(path, suffix);
        if name.exists() {
            let given = std::os::unix::fs::chown(&name, Some(owner.0), Some(owner.1));
            given.map_err(|source| AuditError::io("give to the daemon's user", &name, source))?;
        }
    }
    Ok(())
}

/// The end of a chain that may be damaged, if it can be read at all.
fn last_seal(path: &Path) -> Option<Tip> {
    let conn =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX).ok()?;
    tip(&conn).ok()
}
