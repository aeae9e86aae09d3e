//! The check record: what was checked, by which rules, with which verdict.
//!
//! Signing requires one, and recomputes everything it names. It is not a proof by itself: it
//! says which check the signer's operator relied on, and stands in the signing log.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::Platform;
use mcpfs_trust::time::Timestamp;
use serde::{Deserialize, Serialize};

/// `schema` of a record.
pub const RECORD_SCHEMA: &str = "mcpfs.check/v1";

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRecord {
    /// [`RECORD_SCHEMA`].
    pub schema: String,
    /// Digest of the recipe's bytes.
    pub recipe: Digest,
    /// The artefacts that were fetched and read.
    pub artefacts: Vec<CheckedArtefact>,
    /// Pass only if no error was found.
    pub verdict: Verdict,
    /// Digest of the rules and the policy, see [`crate::policy::Gate::digest`].
    pub policy: Digest,
    /// Digest of the findings' JSON.
    pub findings: Digest,
    /// When it ended.
    pub checked_at: Timestamp,
    /// Program and version that checked.
    pub checker: String,
    /// Waivers that were applied, each with its rule, subject, last day, name and reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waivers: Vec<String>,
    /// The other files that the verdict rests on, with their digests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
}

/// One artefact as the check saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckedArtefact {
    /// Its platform.
    pub platform: Platform,
    /// Digest of the file.
    pub sha256: Digest,
    /// Digest of the tree made from it.
    pub tree: Digest,
}

/// What a check comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No error.
    Pass,
    /// At least one error.
    Fail,
}
