//! Which errno each error becomes, and what to do about it, in one place.
//!
//! An errno is all that a program on the mount ever sees of us, so it has to be the same for
//! the same cause, always. Two exhaustive matches without a wildcard say it: one over
//! [`FsError`], what can go wrong in the file system itself, and one over [`Code`], what can be
//! wrong with a release. A new code does not compile until somebody has decided, and the
//! second also has what the person at the server can do. The text behind an errno is in the audit (`mcpfs audit`) and in `mcpfs explain PATH`;
//! docs/semantics.md carries the same table, and a test compares the two.

use mcpfs_trust::error::Code;
use tracing::Level;

use crate::refusal::Refusal;

/// Why a file system operation fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// No such name, version or path.
    #[error("no such name, version or path")]
    NoSuchName,
    /// A component longer than 255 bytes.
    #[error("a name longer than 255 bytes")]
    NameTooLong,
    /// A directory operation on something else.
    #[error("not a directory")]
    NotADirectory,
    /// A file operation on a directory.
    #[error("is a directory")]
    IsADirectory,
    /// readlink on something else, or open of a link.
    #[error("not the kind of file that this needs")]
    WrongKind,
    /// A handle that was never given out.
    #[error("an unknown file handle")]
    BadHandle,
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoAttribute,
    /// The caller's buffer is too small for an extended attribute.
    #[error("the buffer is too small for the attribute")]
    BufferTooSmall,
    /// Any attempt to change something.
    #[error("the mount is read-only")]
    ReadOnly,
    /// An operation that this file system has no use for.
    #[error("not an operation of this file system")]
    Unsupported,
    /// The verdict on a release, or what stopped a fetch.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A program that configuration names as a scanner opened what is not in the cache.
    #[error("not cached, and {scanner} is configured as a scanner, which never causes a fetch")]
    ScannerWouldFetch {
        /// The program's name.
        scanner: String,
    },
    /// Somebody who has as many files open as are left for all others.
    #[error("too many open files: {0}")]
    TooManyOpen(String),
    /// Work that took longer than any of it may.
    #[error("{what} took longer than {seconds} s")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// The bound.
        seconds: u64,
    },
    /// The audit store did not take the row, so nothing may happen.
    #[error("the access could not be recorded: {0}")]
    Unrecorded(String),
    /// Everything else: a fault of ours or of the host.
    #[error("internal error: {0}")]
    Internal(String),
}

/// What an error becomes on the mount and in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What the calling program gets.
    pub errno: fuser::Errno,
    /// Its symbol, as in errno(3).
    pub symbol: &'static str,
    /// How loud it is in the log. What any user can cause at will stays at debug, or a loop
    /// over wrong paths would fill the journal.
    pub level: Level,
}

macro_rules! answer {
    ($errno:ident, $level:ident) => {
        Answer { errno: fuser::Errno::$errno, symbol: stringify!($errno), level: Level::$level }
    };
}

impl FsError {
    /// The one table, first half: the file system's own errors.
    pub fn answer(&self) -> Answer {
        match self {
            Self::NoSuchName => answer!(ENOENT, TRACE),
            Self::NameTooLong => answer!(ENAMETOOLONG, TRACE),
            Self::NotADirectory => answer!(ENOTDIR, TRACE),
            Self::IsADirectory => answer!(EISDIR, TRACE),
            Self::WrongKind => answer!(EINVAL, TRACE),
            Self::BadHandle => answer!(EBADF, WARN),
            Self::NoAttribute => answer!(ENODATA, TRACE),
            Self::BufferTooSmall => answer!(ERANGE, TRACE),
            Self::ReadOnly => answer!(EROFS, TRACE),
            Self::Unsupported => answer!(ENOSYS, TRACE),
            Self::Refused(refusal) => answer_for(refusal.code),
            Self::ScannerWouldFetch { .. } => answer!(EHOSTUNREACH, DEBUG),
            Self::TooManyOpen(_) => answer!(EMFILE, DEBUG),
            Self::Deadline { .. } => answer!(ETIMEDOUT, WARN),
            Self::Unrecorded(_) => answer!(EIO, ERROR),
            Self::Internal(_) => answer!(EIO, ERROR),
        }
    }
}

/// What is wrong with a release, or with getting it: the answer to the program, and what the
/// person at it can do.
fn row(code: Code) -> (Answer, &'static str) {
    let denied = answer!(EACCES, DEBUG);
    match code {
        // Forged, stale, withdrawn, not allowed: the answer is no.
        Code::SignatureInvalid
        | Code::ThresholdNotMet
        | Code::KeyNotAuthorised
        | Code::WrongPredicate
        | Code::ScopeDenied
        | Code::WrongRegistry
        | Code::HeadEquivocation
        | Code::ChainBroken
        | Code::EntryMismatch
        | Code::ReleaseChanged
        | Code::SelfVerifyFailed => (denied, "tell your security team: this was not signed by those who may sign it"),
        Code::HeadRollback | Code::HeadExpired | Code::TrustRollback | Code::TrustEquivocation => {
            (denied, "tell your administrator: mcpfs status says how old the registry's word is")
        }
        Code::ClockRollback => (denied, "correct this host's clock"),
        Code::Revoked => (denied, "its publisher withdrew it for good: use another version or server"),
        Code::Yanked => (denied, "its publisher withdrew it: an administrator can keep it with mcpfs pin"),
        Code::PinUnknown | Code::PinDigestMismatch => (denied, "an administrator can correct the pin with mcpfs pin"),
        Code::PolicyRefused => (denied, "your administrator decides this in mcpfs.toml"),
        Code::PlatformMissing => (denied, "ask its maintainer for a release for this platform"),
        Code::LaunchUnsupported => (denied, "ask its maintainer for another release"),
        Code::TrustRootUnsafe => (denied, LOG),
        // What arrived is not what was named.
        Code::DigestMismatch | Code::SizeExceeded | Code::Malformed | Code::PayloadTooLarge => {
            (answer!(EIO, WARN), "try again; if it stays, tell those who run the registry's site")
        }
        // It did not arrive.
        Code::Unreachable | Code::NotARegistry => (answer!(EHOSTUNREACH, WARN), NETWORK),
        Code::TooSlow => (answer!(ETIMEDOUT, WARN), NETWORK),
        // This host.
        Code::AuditUnavailable => (answer!(EIO, ERROR), LOG),
        Code::CacheFull => (
            answer!(ENOSPC, WARN),
            "tell your administrator: the cache needs a larger quota, or room on its file system",
        ),
        Code::CacheFault => {
            (answer!(EIO, ERROR), "tell your administrator: check the disk of the cache; the daemon's log says more")
        }
    }
}

const LOG: &str = "tell your administrator: the daemon's log says more";
const NETWORK: &str = "check the network; mcpfs refresh looks at the registry again";

/// The one table, second half: what a refusal becomes on the mount.
pub fn answer_for(code: Code) -> Answer {
    row(code).0
}

/// What the person at the server can do about a refusal.
pub fn advice_for(code: Code) -> &'static str {
    row(code).1
}

/// Says an error at the level of its answer, and gives the errno.
pub fn report(operation: &'static str, error: &FsError) -> fuser::Errno {
    let answer = error.answer();
    match answer.level {
        Level::ERROR => tracing::error!(operation, errno = answer.symbol, "{error}"),
        Level::WARN => tracing::warn!(operation, errno = answer.symbol, "{error}"),
        Level::INFO => tracing::info!(operation, errno = answer.symbol, "{error}"),
        Level::DEBUG => tracing::debug!(operation, errno = answer.symbol, "{error}"),
        Level::TRACE => tracing::trace!(operation, errno = answer.symbol, "{error}"),
    }
    answer.errno
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use super::*;

    /// One of each variant; the match makes a forgotten one a compile error.
    fn every_error() -> Vec<(&'static str, FsError)> {
        let all = vec![
            FsError::NoSuchName,
            FsError::NameTooLong,
            FsError::NotADirectory,
            FsError::IsADirectory,
            FsError::WrongKind,
            FsError::BadHandle,
            FsError::NoAttribute,
            FsError::BufferTooSmall,
            FsError::ReadOnly,
            FsError::Unsupported,
            FsError::ScannerWouldFetch { scanner: "updatedb".into() },
            FsError::TooManyOpen("2 are open".into()),
            FsError::Deadline { what: "a lookup", seconds: 1 },
            FsError::Unrecorded("full".into()),
            FsError::Internal("a panic".into()),
        ];
        let name = |error: &FsError| match error {
            FsError::NoSuchName => "NoSuchName",
            FsError::NameTooLong => "NameTooLong",
            FsError::NotADirectory => "NotADirectory",
            FsError::IsADirectory => "IsADirectory",
            FsError::WrongKind => "WrongKind",
            FsError::BadHandle => "BadHandle",
            FsError::NoAttribute => "NoAttribute",
            FsError::BufferTooSmall => "BufferTooSmall",
            FsError::ReadOnly => "ReadOnly",
            FsError::Unsupported => "Unsupported",
            FsError::Refused(_) => unreachable!("it is answered by its code"),
            FsError::ScannerWouldFetch { .. } => "ScannerWouldFetch",
            FsError::TooManyOpen(_) => "TooManyOpen",
            FsError::Deadline { .. } => "Deadline",
            FsError::Unrecorded(_) => "Unrecorded",
            FsError::Internal(_) => "Internal",
        };
        all.into_iter().map(|error| (name(&error), error)).collect()
    }

    fn documented() -> BTreeMap<String, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/semantics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut rows = BTreeMap::new();
        for line in text.lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            // | `Cause` | `ERRNO` | words |
            let [_, cause, errno, _, _] = cells.as_slice() else { continue };
            let (Some(cause), Some(errno)) = (unquote(cause), unquote(errno)) else { continue };
            assert!(rows.insert(cause.to_owned(), errno.to_owned()).is_none(), "{cause} stands twice");
        }
        rows
    }

    fn unquote(cell: &str) -> Option<&str> {
        cell.strip_prefix('`')?.strip_suffix('`')
    }

    #[test]
    fn the_documentation_has_the_same_table() {
        let code: BTreeMap<String, String> = every_error()
            .into_iter()
            .map(|(name, error)| (name.to_owned(), error.answer().symbol.to_owned()))
            .chain(Code::ALL.into_iter().map(|code| (code.to_string(), answer_for(code).symbol.to_owned())))
            .collect();
        assert_eq!(documented(), code);
    }

    #[test]
    fn a_refusal_is_answered_by_its_code() {
        for code in Code::ALL {
            assert_eq!(FsError::from(Refusal::new(code, "why")).answer(), answer_for(code));
        }
    }

    #[test]
    fn errno_is_decided_here_and_nowhere_else_on_the_mount() {
        let mut sources = vec![];
        for room in ["fs", "mount"] {
            collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room), &mut sources);
        }
        assert!(sources.len() > 5);
        for path in sources {
            let text = std::fs::read_to_string(&path).unwrap();
            for needle in ["libc::E", "fuser::Errno::"] {
                assert!(!text.contains(needle), "{} names an errno ({needle}…)", path.display());
            }
        }
    }

    #[test]
    fn every_code_has_advice() {
        for code in Code::ALL {
            let words = advice_for(code);
            assert!(!words.is_empty() && !words.ends_with('.') && words.starts_with(char::is_lowercase), "{code}");
        }
    }

    fn collect(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(path);
            }
        }
    }
}
