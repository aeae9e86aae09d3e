//! The check record: what was checked, by which rules, with which verdict.
//!
//! Signing requires one, and recomputes everything it names but the [`Observation`]s. It is not a
//! proof by itself: it says which check the signer's operator relied on, and stands in the
//! signing log.
//!
//! An observation is what a check looked at and signing cannot or need not look at again: a
//! question to a service, a trial run, a scan that takes minutes. Its findings are the checker's
//! word. Where check and signing are one process that is no difference; where staging is carried
//! from one machine to another, the digest of the record is carried besides and given to
//! `publish --record`, so that a folder edited on the way is refused even if it agrees with
//! itself (docs/decisions/0005).

use mcpfs_trust::details::Tool;
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
    /// What was looked at that signing does not look at again, in order of kind and tool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observations: Vec<Observation>,
    /// The tools that a trial met, the checker's word like the trial itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
}

impl CheckRecord {
    /// What `check --staging` prints and `publish --record` pins.
    pub fn digest(&self) -> Digest {
        Digest::of(&mcpfs_trust::json::encode(self))
    }
}

/// One look that signing does not repeat.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// What was looked for.
    pub kind: Look,
    /// By what: program or data set, with version.
    pub tool: String,
    /// Digest of what it said.
    pub result: Digest,
}

/// What a policy may require to have been looked for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// Known vulnerabilities, in a snapshot of advisories.
    Advisories,
    /// Known vulnerabilities, by npm's own service.
    AuditNpm,
    /// Known vulnerabilities, by PyPI's own service.
    AuditPypi,
    /// Malicious patterns.
    Patterns,
    /// What the server does when it is started.
    Trial,
}

impl Look {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Advisories, Self::AuditNpm, Self::AuditPypi, Self::Patterns, Self::Trial];

    /// The option of `check` and `release` that looks for it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Advisories => "--osv FILE",
            Self::AuditNpm => "--audit npm",
            Self::AuditPypi => "--audit pypi",
            Self::Patterns => "--patterns builtin",
            Self::Trial => "--run",
        }
    }

    /// Its name in policies and records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Advisories => "advisories",
            Self::AuditNpm => "audit-npm",
            Self::AuditPypi => "audit-pypi",
            Self::Patterns => "patterns",
            Self::Trial => "trial",
        }
    }
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
