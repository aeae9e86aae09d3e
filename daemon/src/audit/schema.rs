//! Opening the store's file: permissions, the one-writer lock, migrations.
//!
//! The schema is a public interface. It only grows; each step is one SQL file under
//! `schema/`, and `user_version` counts the steps a file has been through. A file with more
//! steps than this program knows was written by a newer one and is refused, not guessed at.
//! Before a step is applied to a file that has rows, the file is copied beside itself.
//!
//! Nothing of an existing file is thrown away here: what is damaged or foreign is an error
//! with a remedy, and `mcpfs audit restart` is the one door to a new file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::AuditError;

/// `PRAGMA application_id`: "mcpf".
pub const APPLICATION_ID: i32 = 0x6d63_7066;

/// The steps from an empty file to the newest schema.
pub(super) const STEPS: [&str; 1] = [include_str!("schema/1.sql")];

/// How long the writer waits for a reader that holds a lock (readers of a WAL file hold none for long).
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// `path` with `suffix` appended to its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The right to write a store; gone with the process.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Makes the directory (0700) if it is missing and takes the lock.
    ///
    /// # Errors
    /// `Locked` if another process has it, `Unsafe` if others may write the directory, `Io`.
    pub(super) fn take(path: &Path) -> Result<Self, AuditError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !dir.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(|source| AuditError::io("make", dir, source))?;
        }
        let mode = fs::metadata(dir).map_err(|source| AuditError::io("look at", dir, source))?.mode();
        // The sticky bit (as on /tmp) keeps others from replacing our files, but not from taking their names first.
        if mode & 0o022 != 0 {
            return Err(AuditError::Unsafe { path: dir.to_owned(), mode: mode & 0o7777 });
        }
        let name = beside(path, "-lock");
        let file = private(&name).map_err(|source| AuditError::io("open", &name, source))?;
        match crate::lock::exclusive(&file) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(AuditError::Locked { path: path.to_owned() }),
            Err(errno) => Err(AuditError::io("lock", &name, errno.into())),
        }
    }
}

/// Opens a file for writing, made 0600 and kept so.
fn private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Opens the store for writing and brings it to the newest schema.
///
/// # Errors
/// `Damaged`, `Foreign`, `NewerSchema`, `Open`, `Io`.
pub(super) fn open(path: &Path) -> Result<Connection, AuditError> {
    open_with(path, &STEPS)
}

fn open_with(path: &Path, steps: &[&str]) -> Result<Connection, AuditError> {
    // SQLite gives its -wal and -shm files the mode of the main file.
    drop(private(path).map_err(|source| AuditError::io("open", path, source))?);
    let broken = |source| failed(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(broken)?;
    conn.busy_timeout(BUSY).map_err(broken)?;
    let version = check(&conn, path, steps.len())?;
    if version == 0 {
        // To be chosen before the first table; chosen again later it is written, and waited for, again.
        conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL;").map_err(broken)?;
    }
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF; PRAGMA journal_size_limit = 8388608; PRAGMA secure_delete = ON;",
    )
    .map_err(broken)?;
    if 0 < version && version < steps.len() {
        back_up(&conn, path, version)?;
    }
    for (done, step) in steps.iter().enumerate().skip(version) {
        let tx = conn.transaction().map_err(broken)?;
        tx.execute_batch(step).map_err(broken)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(broken)?;
        tx.pragma_update(None, "user_version", done as i64 + 1).map_err(broken)?;
        tx.commit().map_err(broken)?;
    }
    Ok(conn)
}

/// Opens the store for reading only.
///
/// # Errors
/// `Missing`, `Denied`, `Damaged`, `Foreign`, `NewerSchema`, `Open`.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, AuditError> {
    match File::open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(AuditError::Missing { path: path.to_owned() });
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(AuditError::Denied { path: path.to_owned() });
        }
        Err(source) => return Err(AuditError::io("open", path, source)),
    }
    let broken = |source| failed(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(broken)?;
    conn.busy_timeout(BUSY).map_err(broken)?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;").map_err(broken)?;
    match check(&conn, path, STEPS.len())? {
        0 => Err(AuditError::Missing { path: path.to_owned() }),
        version if version < STEPS.len() => Err(AuditError::OlderSchema { path: path.to_owned(), found: version }),
        _ => Ok(conn),
    }
}

/// Says how many steps the file has been through, refusing what is not ours.
fn check(conn: &Connection, path: &Path, known: usize) -> Result<usize, AuditError> {
    let broken = |source| failed(path, source);
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(broken);
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(broken)?;
    if application != i64::from(APPLICATION_ID) && (tables > 0 || application != 0) {
        return Err(AuditError::Foreign { path: path.to_owned() });
    }
    match usize::try_from(version) {
        Ok(version) if version <= known => Ok(version),
        _ => Err(AuditError::NewerSchema { path: path.to_owned(), found: version, known }),
    }
}

/// Copies the file to `<name>.schema<version>` before it is changed.
fn back_up(conn: &Connection, path: &Path, version: usize) -> Result<(), AuditError> {
    let copy = beside(path, &format!(".schema{version}"));
    // A copy that an interrupted migration left is older or equal; VACUUM INTO wants an empty file.
    let made = private(&copy).and_then(|file| file.set_len(0));
    made.map_err(|source| AuditError::io("make", &copy, source))?;
    let name = copy.to_string_lossy();
    conn.execute("VACUUM INTO ?1", [&name]).map_err(|source| failed(path, source))?;
    let synced = File::open(&copy).and_then(|file| file.sync_all());
    synced.map_err(|source| AuditError::io("write", &copy, source))
}

/// Sorts SQLite's errors into what a person can do.
pub(super) fn failed(path: &Path, source: rusqlite::Error) -> AuditError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            AuditError::Damaged { path, detail: source.to_string() }
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => AuditError::Denied { path },
        _ => AuditError::Open { path, source: source.into() },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn private_dir() -> tempfile::TempDir {
        let dir = crate::scratch::in_memory();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        dir
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_schema_is_frozen() {
        let dir = private_dir();
        let conn = open(&dir.path().join("audit.db")).unwrap();
        let mut statement = conn.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid").unwrap();
        let lines: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let text = format!("{};\n", lines.join(";\n"));
        // A difference is a change of a public interface: add a step, do not edit one that was released.
        assert_eq!(text, include_str!("../../testdata/audit/schema-1.sql"));
        assert_eq!(conn.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0)).unwrap(), "wal");
        assert_eq!(conn.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0)).unwrap(), 2);
        assert_eq!(conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap(), 1);
    }

    #[test]
    fn files_are_private() {
        let dir = private_dir();
        let path = dir.path().join("new/audit.db");
        let _lock = Lock::take(&path).unwrap();
        let conn = open(&path).unwrap();
        conn.execute("INSERT INTO host (name) VALUES ('a')", []).unwrap();
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        for suffix in ["", "-wal", "-shm", "-lock"] {
            assert_eq!(mode(&beside(&path, suffix)), 0o600, "{suffix}");
        }
        drop(conn);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(Lock::take(&path), Err(AuditError::Unsafe { .. })));
    }

    #[test]
    fn steps_are_applied_once_and_backed_up() {
        let dir = private_dir();
        let path = dir.path().join("audit.db");
        let conn = open(&path).unwrap();
        conn.execute("INSERT INTO host (name) VALUES ('kept')", []).unwrap();
        drop(conn);
        let steps = [STEPS[0], "ALTER TABLE host ADD COLUMN site TEXT;"];
        let conn = open_with(&path, &steps).unwrap();
        let kept: String = conn.query_row("SELECT name FROM host WHERE site IS NULL", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, "kept");
        drop(conn);
        let copy = beside(&path, ".schema1");
        assert_eq!(mode(&copy), 0o600);
        let old = open(&copy).unwrap();
        assert_eq!(old.query_row("SELECT name FROM host", [], |row| row.get::<_, String>(0)).unwrap(), "kept");
        // And an older program refuses the new file, in words.
        let error = open(&path).unwrap_err();
        assert!(matches!(error, AuditError::NewerSchema { found: 2, known: 1, .. }), "{error:?}");
        assert!(error.to_string().contains("newer mcpfs"), "{error}");
        assert!(open_with(&path, &steps).is_ok());
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = private_dir();
        let path = dir.path().join("audit.db");
        fs::write(&path, "no database at all, and long enough to have a header, one would think".repeat(20)).unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(open(&path), Err(AuditError::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        assert!(matches!(open(&path), Err(AuditError::Foreign { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(open_read_only(&path), Err(AuditError::Missing { .. })));
    }
}
