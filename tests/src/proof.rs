//! What a test has shown: outcomes that it asserted, noted where they were.
//!
//! docs/threat-model.md says of each attack what it comes to. Prose and tests part ways sooner or
//! later, so a test that is an attack is registered with its outcomes ([`crate::suite::Suite::attack`]),
//! and passes only if it asserted each of them: an audit row, an errno, an exit code, or words on an
//! output. The page's tables are compared with what is registered.

use std::cell::RefCell;
use std::collections::BTreeSet;

thread_local! {
    static SHOWN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Notes an outcome that was just asserted, in the test's own thread.
pub fn note(outcome: &str) {
    SHOWN.with_borrow_mut(|shown| shown.insert(outcome.to_owned()));
}

/// Notes the symbol of an errno that was just asserted.
pub fn note_errno(errno: i32) {
    if let Some((symbol, _)) = ERRNOS.iter().find(|(_, number)| *number == errno) {
        note(symbol);
    }
}

/// The symbols that docs/semantics.md uses for what is refused.
const ERRNOS: [(&str, i32); 6] = [
    ("EACCES", libc::EACCES),
    ("EIO", libc::EIO),
    ("ENOENT", libc::ENOENT),
    ("EHOSTUNREACH", libc::EHOSTUNREACH),
    ("ETIMEDOUT", libc::ETIMEDOUT),
    ("ENOSPC", libc::ENOSPC),
];

/// The errno of this symbol.
///
/// # Panics
/// If it is none of those that are noted.
pub fn errno(symbol: &str) -> i32 {
    let found = ERRNOS.iter().find(|(name, _)| *name == symbol);
    found.unwrap_or_else(|| panic!("{symbol} is not among the errnos of tests/src/proof.rs")).1
}

/// Runs a test; each of `outcomes` must have been asserted in it.
///
/// # Panics
/// If one was not.
pub(crate) fn expect(outcomes: &[&str], test: impl FnOnce()) {
    SHOWN.take();
    test();
    let shown = SHOWN.take();
    let missing: Vec<_> = outcomes.iter().filter(|outcome| !shown.contains(**outcome)).collect();
    assert!(missing.is_empty(), "registered with {missing:?}, but it asserted only {shown:?}");
}
