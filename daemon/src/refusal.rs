//! The one "why not" that crosses rooms.
//!
//! Whatever stands between a person and a server, be it a forged signature, a policy or a
//! full disk, arrives at the edges (errno, audit row, the line that `run` prints) as a code
//! of the public list and one sentence. Inside a room errors keep their own types.

use mcpfs_trust::error::{Code, VerifyError, bounded};

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
        Self { code: error.code(), message: bounded(&error.to_string()) }
    }
}
