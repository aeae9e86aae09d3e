//! What the signing server remembers of its attempts.
//!
//! The queue itself is not stored: what must be signed follows from the tip of the branch and
//! the site, so it cannot be lost, forged or doubled. Stored is only what they do not tell: the
//! tip that was seen last, since a branch that was set back must be noticed; which recipes fail,
//! so that one of them neither stops nor slows the others; and a PIN that was refused, since
//! tokens lock. An attempt is noted *before* it begins: a recipe that kills the signer (memory,
//! a bug) is then put off by the next process like one that fails.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::log::SignerState;

const SCHEMA: &str = "mcpfs.serve/v1";
/// Longest journal, bytes: ten thousand failing recipes with the longest reasons, all escaped.
const BYTES: u64 = 128 << 20;
/// The first pause after a failure, seconds; it doubles.
const FIRST: i64 = 60;
/// The longest pause, seconds.
const LONGEST: i64 = 3_600;

/// The file `serve.json` in the signer's state folder.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    schema: String,
    /// The last tip that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tip: Option<String>,
    /// Recipes that failed, or are being tried, by file name.
    #[serde(default)]
    attempts: BTreeMap<String, Attempt>,
    /// What the PIN's file was when a token refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pin_refused: Option<String>,
}

/// One recipe that is not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attempt {
    /// Digest of its bytes.
    pub(super) recipe: Digest,
    /// The tip that it was tried at.
    pub(super) tip: String,
    /// How often it failed.
    pub(super) failures: u32,
    /// Not before.
    pub(super) next: Timestamp,
    /// Why.
    pub(super) reason: String,
}

impl Journal {
    /// Reads it; a new one if there is none.
    ///
    /// # Errors
    /// If it cannot be read or is something else.
    pub(super) fn open(state: &SignerState) -> Result<Self, FileError> {
        let path = state.file("serve.json");
        let content = match files::read_bounded(&path, BYTES) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| FileError::read(&path)(error.into()))?,
            Err(error) if error.is_missing() => {
                Content { schema: SCHEMA.to_owned(), tip: None, attempts: BTreeMap::new(), pin_refused: None }
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path, content })
    }

    /// The last tip that was read.
    pub(super) fn tip(&self) -> Option<&str> {
        self.content.tip.as_deref()
    }

    pub(super) fn set_tip(&mut self, tip: &str) -> Result<(), FileError> {
        self.change(|content| content.tip = Some(tip.to_owned()))
    }

    /// What is known of a recipe's failures.
    pub(super) fn attempt(&self, file: &str) -> Option<&Attempt> {
        self.content.attempts.get(file)
    }

    /// Whether a recipe may be tried: it never failed, its time has come, or something is new.
    pub(super) fn is_due(&self, file: &str, recipe: &Digest, tip: &str, now: Timestamp) -> bool {
        self.attempt(file).is_none_or(|one| now >= one.next || one.recipe != *recipe || one.tip != tip)
    }

    /// Notes that a recipe is being tried; gives what was known before.
    pub(super) fn begin(
        &mut self,
        file: &str,
        recipe: Digest,
        tip: &str,
        now: Timestamp,
    ) -> Result<Option<Attempt>, FileError> {
        let before = self.attempt(file).cloned();
        let failures =
            before.as_ref().filter(|one| one.recipe == recipe).map_or(0, |one| one.failures).saturating_add(1);
        // A process that ends for its own reasons loses no time; one that a recipe ends, twice, does.
        let next = if failures == 1 { now } else { now.plus(pause(failures)) };
        let reason = "it was begun and not ended".to_owned();
        let attempt = Attempt { recipe, tip: tip.to_owned(), failures, next, reason };
        self.change(|content| drop(content.attempts.insert(file.to_owned(), attempt)))?;
        Ok(before)
    }

    /// Notes why a recipe that was begun was refused, and puts it off.
    pub(super) fn refuse(&mut self, file: &str, reason: &str, now: Timestamp) -> Result<(), FileError> {
        self.change(|content| {
            if let Some(attempt) = content.attempts.get_mut(file) {
                attempt.reason = reason.to_owned();
                attempt.next = now.plus(pause(attempt.failures));
            }
        })
    }

    /// Puts back what was known before [`Journal::begin`]: it was not the recipe's fault.
    pub(super) fn restore(&mut self, file: &str, before: Option<Attempt>) -> Result<(), FileError> {
        self.change(|content| match before {
            Some(attempt) => drop(content.attempts.insert(file.to_owned(), attempt)),
            None => drop(content.attempts.remove(file)),
        })
    }

    /// Forgets recipes that are published or gone.
    pub(super) fn keep(&mut self, still: impl Fn(&str) -> bool) -> Result<(), FileError> {
        self.change(|content| content.attempts.retain(|file, _| still(file)))
    }

    /// What the PIN's file was when a token refused it.
    pub(super) fn pin_refused(&self) -> Option<&str> {
        self.content.pin_refused.as_deref()
    }

    pub(super) fn set_pin_refused(&mut self, stamp: Option<String>) -> Result<(), FileError> {
        self.change(|content| content.pin_refused = stamp)
    }

    /// When the next failed recipe may be tried.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.content.attempts.values().map(|one| one.next).min()
    }

    fn change(&mut self, work: impl FnOnce(&mut Content)) -> Result<(), FileError> {
        let mut content = self.content.clone();
        work(&mut content);
        if content != self.content {
            // Strings, numbers and lists of them: they always have a JSON form.
            files::write_durably(&self.path, &serde_json::to_vec(&content).unwrap_or_default(), true)?;
            self.content = content;
        }
        Ok(())
    }
}

/// How long a recipe is put off that failed so often, seconds.
fn pause(failures: u32) -> i64 {
    FIRST.saturating_mul(1 << failures.clamp(1, 16).saturating_sub(1)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn failures_are_put_off_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let state = SignerState::new(folder.path(), &"mcp.example.com/x".parse().unwrap());
        let now = Timestamp::from_unix(1_000_000).unwrap();
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let mut journal = Journal::open(&state).unwrap();
        assert!(journal.is_due("a", &one, "t", now));
        for (pause, failures) in [(60, 1), (120, 2), (240, 3), (480, 4), (960, 5), (1_920, 6), (3_600, 7), (3_600, 8)] {
            let before = journal.begin("a", one, "t", now).unwrap();
            assert_eq!(before.map_or(0, |attempt| attempt.failures), failures - 1);
            assert_eq!(journal.is_due("a", &one, "t", now), failures == 1, "begun and not ended, {failures}");
            journal.refuse("a", "no", now).unwrap();
            // Also for the next process.
            journal = Journal::open(&state).unwrap();
            assert_eq!(journal.attempt("a").unwrap().reason, "no");
            assert!(!journal.is_due("a", &one, "t", now.plus(pause - 1)), "{pause}");
            assert!(journal.is_due("a", &one, "t", now.plus(pause)), "{pause}");
            assert_eq!(journal.next_due(), Some(now.plus(pause)));
        }
        // Something new is tried at once, and another recipe counts from one.
        assert!(journal.is_due("a", &other, "t", now) && journal.is_due("a", &one, "u", now));
        let before = journal.begin("a", other, "u", now).unwrap();
        assert_eq!(journal.attempt("a").unwrap().failures, 1);
        assert_eq!(journal.attempt("a").unwrap().reason, "it was begun and not ended");
        journal.restore("a", before.clone()).unwrap();
        assert_eq!(journal.attempt("a"), before.as_ref());
        journal.set_tip("t").unwrap();
        journal.set_pin_refused(Some("x".to_owned())).unwrap();
        journal.keep(|file| file != "a").unwrap();
        let journal = Journal::open(&state).unwrap();
        assert_eq!((journal.tip(), journal.pin_refused(), journal.next_due()), (Some("t"), Some("x"), None));
        std::fs::write(state.file("serve.json"), "{").unwrap();
        assert!(Journal::open(&state).is_err());
    }
}
