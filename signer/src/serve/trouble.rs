//! The two kinds of no: a recipe is refused for what it is, or the whole pass waits.

use super::plan::PlanError;
use crate::check::{CheckError, Finding, Findings, chain};
use crate::files::FileError;
use crate::forge::ForgeError;
use crate::key::KeyError;
use crate::mirror::GitError;
use crate::release::ReleaseError;
use crate::sign::SignError;
use crate::site::SiteError;
use crate::staging::StagingError;

/// Why a pass waits.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum Wait {
    #[error("the forge does not say what must be known")]
    Forge(#[from] ForgeError),
    #[error("the branch cannot be fetched or read")]
    Git(#[from] GitError),
    #[error("the branch cannot be compared with the site")]
    Plan(#[from] PlanError),
    #[error("the site cannot be used")]
    Site(#[from] SiteError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the signing token cannot be used")]
    Key(#[from] KeyError),
    #[error("this machine's clock is not in the years 1970 to 9999; set it")]
    Clock,
    #[error("a temporary folder cannot be written")]
    Temporary(#[source] std::io::Error),
    #[error("the branch {branch} is {detail}; nothing is signed until it is protected (repository.require_protection)")]
    Unprotected { branch: String, detail: String },
    #[error(
        "the branch {branch} was set back or rewritten: {tip} does not follow {known}, which was read before. Nothing is \
         signed, since old releases would come back without a review. If this is meant: mcpfs-signer serve --accept-tip {tip}"
    )]
    Rewritten { branch: String, tip: String, known: String },
    #[error(
        "nothing tells which tip of {branch} was read before: the journal is gone, and the site was published by other \
         ways. If {tip} is the right one: mcpfs-signer serve --accept-tip {tip}"
    )]
    NothingKnown { branch: String, tip: String },
    #[error("{path} decides what may be released, and is not approved as it stands: {reason}")]
    Unapproved { path: String, reason: String },
    #[error(
        "the token refused the PIN, and the PIN is still the same; it is not tried again, since tokens lock. Correct it"
    )]
    SamePin,
}

impl Wait {
    /// The least time until the next pass, if the reason tells.
    pub(super) fn seconds(&self) -> Option<u64> {
        match self {
            Self::Forge(ForgeError::RateLimited { seconds }) => Some(*seconds),
            _ => None,
        }
    }
}

/// Longest reason, characters: a whole chain, since the last word of it says why.
const REASON: usize = 1_000;

/// A reason as logs, status and journal show it.
pub(super) fn shown(reason: &str) -> String {
    mcpfs_trust::error::bounded_to(reason, REASON)
}

/// Why a recipe was refused.
pub(super) struct Refused {
    pub(super) kind: &'static str,
    pub(super) reason: String,
}

pub(super) fn refused(kind: &'static str, reason: impl Into<String>) -> Refused {
    Refused { kind, reason: reason.into() }
}

/// How trying one recipe ended, if not well.
pub(super) enum Trouble {
    Refused(Refused),
    Wait(Wait),
}

impl<E: Into<Wait>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Wait(error.into())
    }
}

/// Whether an error is the recipe's own, or concerns them all.
pub(super) fn sort(error: ReleaseError) -> Trouble {
    let text = chain(&error);
    match error {
        ReleaseError::Findings { findings, .. } => Trouble::Refused(refused("findings", errors(&findings))),
        ReleaseError::Recipe(_) => Trouble::Refused(refused("recipe", text)),
        ReleaseError::Check(error) => match error {
            CheckError::Temporary(source) => Trouble::Wait(Wait::Temporary(source)),
            CheckError::Staging(error) => staging(error, text),
            CheckError::Recipe { .. } => Trouble::Refused(refused("recipe", text)),
        },
        ReleaseError::Staging(error) => staging(error, text),
        ReleaseError::Site(error) => site(error, text),
    }
}

/// The errors among findings, in one line.
fn errors(findings: &Findings) -> String {
    let one = |one: &Finding| format!("[{}] {}: {}", one.rule, one.subject, one.message);
    findings.open_errors().map(one).collect::<Vec<_>>().join("; ")
}

fn staging(error: StagingError, text: String) -> Trouble {
    match error {
        StagingError::Io { source, .. } => Trouble::Wait(Wait::Temporary(source)),
        _ => Trouble::Refused(refused("findings", text)),
    }
}

fn site(error: SiteError, text: String) -> Trouble {
    match error {
        SiteError::Sign(SignError::Key(KeyError::PayloadTooLarge { .. } | KeyError::DemoOnly { .. })) => {
            Trouble::Refused(refused("statement", text))
        }
        SiteError::Sign(SignError::Key(error)) => Trouble::Wait(error.into()),
        SiteError::Sign(_) => Trouble::Refused(refused("statement", text)),
        SiteError::Staging(error) => staging(error, text),
        SiteError::SimilarName { .. }
        | SiteError::Withdrawn { .. }
        | SiteError::EntryFull { .. }
        | SiteError::Verify { .. } => Trouble::Refused(refused("site", text)),
        error => Trouble::Wait(error.into()),
    }
}
