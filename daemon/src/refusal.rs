//! The one "why not" that crosses rooms.
//!
//! Whatever stands between a person and a server, be it a forged signature, a policy or a
//! full disk, arrives at the edges (errno, audit row, the line that `run` prints) as a code
//! of the public list and one sentence. Inside a room errors keep their own types.

use mcpfs_trust::error::{Code, Group, VerifyError, bounded};

/// Why something is refused: its audit outcome and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// The audit outcome.
    pub code: Code,
    /// What happened, to what, and why. Text from a registry in it is bounded and escaped.
    pub message: String,
}

impl Refusal {
    /// A refusal with a sentence of our own words.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The same refusal, said of `what`: `entry of hello: …`.
    #[must_use]
    pub fn of(self, what: impl std::fmt::Display) -> Self {
        Self { code: self.code, message: format!("{what}: {}", self.message) }
    }
}

impl From<VerifyError> for Refusal {
    fn from(error: VerifyError) -> Self {
        // The code says the rest.
        let message = match &error {
            VerifyError::Revoked { reason } | VerifyError::Yanked { reason } => bounded(reason),
            other => bounded(&other.to_string()),
        };
        Self { code: error.code(), message }
    }
}

/// An error and what it came from, in one line.
pub fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// How every command of `mcpfs` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Understood, and refused.
    Refused = 1,
    /// Not understood: arguments or configuration.
    Usage = 2,
    /// Something could not be reached.
    Unreachable = 3,
    /// Something is not what it should be.
    Integrity = 4,
    /// `run` did not start its server.
    Launch = 77,
}

impl Exit {
    /// How a command ends that met `code`.
    pub const fn of(code: Code) -> Self {
        match (code, code.group()) {
            (Code::Unreachable | Code::TooSlow | Code::NotARegistry, _) => Self::Unreachable,
            (_, Group::Forged | Group::BrokenTransfer) => Self::Integrity,
            (_, Group::Stale | Group::Withdrawn | Group::NotAllowed | Group::LocalFault) => Self::Refused,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
