//! Files beside the store that hold rows too: what `mcpfs audit restart` moved aside, and the copy before a new schema.
//!
//! They say who did what as the store does, so they go when it no longer may: once the youngest row that they can hold
//! is too old. That is a row before it is done.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::event::{AuditEvent, EventKind, now_us};
use super::retain::{BEGINNING_US, Cutoff};
use crate::caller::Caller;

/// One such store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    name: String,
    files: Vec<PathBuf>,
    /// Nothing in it is younger.
    newest_us: i64,
}

/// Those beside `store` that are too old.
pub(super) fn old(store: &Path, cutoff: &Cutoff) -> Vec<Leftover> {
    let now = now_us();
    let plausible = |found: &Leftover| (BEGINNING_US..=now).contains(&found.newest_us);
    all(store).into_iter().filter(|found| plausible(found) && found.newest_us < cutoff.before_us).collect()
}

/// All of them.
pub(super) fn all(store: &Path) -> Vec<Leftover> {
    let (Some(dir), Some(own)) = (store.parent(), store.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let mut found: BTreeMap<String, Leftover> = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Some(rest) = name.strip_prefix(own) else { continue };
        let Some((number, kind)) =
            [".damaged-", ".schema"].iter().find_map(|kind| Some((rest.strip_prefix(kind)?, *kind)))
        else {
            continue;
        };
        let number = ["-wal", "-shm"].iter().find_map(|suffix| number.strip_suffix(suffix)).unwrap_or(number);
        let (Ok(counted), Ok(meta)) = (number.parse::<i64>(), entry.metadata()) else { continue };
        if !meta.is_file() {
            continue;
        }
        let written = meta.mtime().saturating_mul(1_000_000);
        // One that was moved aside says when.
        let moved = if kind == ".damaged-" { counted } else { i64::MIN };
        let name = format!("{own}{kind}{number}");
        let one =
            found.entry(name.clone()).or_insert_with(|| Leftover { name, files: Vec::new(), newest_us: i64::MIN });
        one.files.push(entry.path());
        one.newest_us = one.newest_us.max(written).max(moved);
    }
    found.into_values().collect()
}

impl Leftover {
    /// The row that tells of its end.
    pub(super) fn event(&self, cutoff: &Cutoff) -> AuditEvent {
        let mut event = AuditEvent::new(EventKind::Cut, Caller::daemon());
        event.reason = Some(format!("retention.audit = {}: {} is removed", cutoff.policy, self.name));
        event.detail = Some(serde_json::json!({
            "file": self.name, "policy": cutoff.policy, "before_us": cutoff.before_us, "newest_us": self.newest_us,
        }));
        event
    }

    /// Removes it.
    ///
    /// # Errors
    /// If the system does not.
    pub(super) fn remove(&self) -> std::io::Result<()> {
        self.files.iter().try_for_each(fs::remove_file)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn only_what_is_ours_and_old_enough() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("audit.db");
        let at = |seconds: i64| seconds * 1_000_000;
        let (old, young) = (BEGINNING_US / 1_000_000 + 1000, BEGINNING_US / 1_000_000 + 9000);
        let make = |name: &str, written: i64| {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(u64::try_from(written).unwrap())).unwrap();
        };
        let names = [
            (format!("audit.db.damaged-{}", at(old)), old, true),
            (format!("audit.db.damaged-{}-wal", at(old)), old, true),
            // Its log is younger.
            (format!("audit.db.damaged-{}", at(old + 1)), old, false),
            (format!("audit.db.damaged-{}-wal", at(old + 1)), young, false),
            // It was moved later than it was written.
            (format!("audit.db.damaged-{}", at(young)), old, false),
            ("audit.db.schema1".to_owned(), old, true),
            ("audit.db.schema2".to_owned(), young, false),
            // Before there was mcpfs: that clock was wrong.
            ("audit.db.schema3".to_owned(), 1000, false),
            ("audit.db".to_owned(), old, false),
            ("audit.db-wal".to_owned(), old, false),
            ("audit.db-reserve".to_owned(), old, false),
            ("audit.db.damaged-mine".to_owned(), old, false),
            ("audit.db.schema".to_owned(), old, false),
            ("state.db.damaged-1".to_owned(), old, false),
        ];
        for (name, written, _) in &names {
            make(name, *written);
        }
        let cutoff = Cutoff { policy: "1d".to_owned(), before_us: at(old + 500), at_us: 0 };
        for one in super::old(&store, &cutoff) {
            one.remove().unwrap();
        }
        for (name, _, goes) in &names {
            assert_eq!(dir.path().join(name).exists(), !goes, "{name}");
        }
    }
}
