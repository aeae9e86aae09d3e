//! Staging: the folder that carries a release from the check to signing.
//!
//! ```text
//! .mcpfs-staging          the folder is one of these, and may be replaced
//! staging.json            what is here: recipe file, artefacts, layouts
//! recipe.yaml             the recipe's very bytes
//! check.json              the check record
//! findings.json           what the check found
//! policy.yaml             the policy's very bytes, if there was one
//! waivers.yaml            the waivers' very bytes, if there were any
//! advisories.json         what is known of vulnerabilities, if that was asked
//! snapshots/<sha256>      snapshots of advisories that were asked
//! artefacts/<sha256>      the original files, and what an OCI manifest names
//! trees/<sha256>          encoded trees
//! layouts/<sha256>        encoded layouts
//! chunks/<sha256>         stored chunks that are not published yet
//! ```
//!
//! **Nothing here is trusted.** The check handles hostile input and may run on another machine
//! than the one with the key; whoever can write to the folder gains nothing, since
//! [`Staging::recheck`] recomputes all of it from the recipe and the artefact before signing.
//! Losing it costs another check.

mod folder;
mod places;
mod recheck;

use std::io;
use std::path::PathBuf;

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::PlatformLayout;
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::name::Platform;
use mcpfs_trust::release::Artefact;
use mcpfs_trust::tree::Tree;

use crate::check::record::CheckRecord;
use crate::check::{Answers, Findings};
use crate::image::Part;
use crate::pack::PackError;
use crate::policy::Gate;
use crate::recipe::RecipeErrors;
use crate::unpack;

pub(crate) use places::Places;
pub use recheck::Rechecked;

/// One release on its way to be signed.
#[derive(Debug)]
pub struct Staging {
    /// Where it lies.
    pub folder: PathBuf,
    /// The recipe's file name, such as `internal-postgres.yaml`.
    pub recipe_file: String,
    /// The recipe's text.
    pub recipe: String,
    /// Digest of that text.
    pub recipe_sha256: Digest,
    /// One for each platform, in platform order.
    pub artefacts: Vec<StagedArtefact>,
    /// What the check found; no errors.
    pub findings: Findings,
    /// What was checked.
    pub record: CheckRecord,
    /// The policy and waivers it was checked by.
    pub gate: Gate,
    /// What is known of vulnerabilities of its packages.
    pub answers: Answers,
}

/// One platform of a release.
#[derive(Debug, Clone)]
pub struct StagedArtefact {
    /// Its platform.
    pub platform: Platform,
    /// The original file.
    pub file: PathBuf,
    /// Its digest.
    pub sha256: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// What an OCI manifest names besides itself.
    pub parts: Vec<Part>,
    /// The canonical tree.
    pub tree: Tree,
    /// Where the tree's bytes lie.
    pub layout: Layout,
    /// What the entry lists: the chunks of tree and layout, and those a launch wants first.
    pub listed: PlatformLayout,
}

/// Why a staging folder is refused.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// A file of it cannot be read or written.
    #[error("{path}: cannot read or write it")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of it is not in its format.
    #[error("{path}: not what check --staging writes; check again")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifyError,
    },
    /// A folder with something else in it.
    #[error("{0} is not empty and not a staging folder: name another, or empty it")]
    NotStaging(PathBuf),
    /// A staging folder in which nothing is ready.
    #[error(
        "{0} holds no release: its check did not pass or did not end; mend what check --staging says, and check again"
    )]
    Unfinished(PathBuf),
    /// No staging folder.
    #[error("{0} is not a folder that check --staging left: name that one, or check again")]
    Absent(PathBuf),
    /// It contradicts the recipe or the artefact.
    #[error("staging does not fit its recipe and artefact: {0}; check it again")]
    Differs(String),
    /// The recipe in it is wrong.
    #[error("the staged recipe is not valid")]
    Recipe(#[source] RecipeErrors),
    /// The policy or waivers file cannot be used.
    #[error("the policy cannot be applied")]
    Policy(#[source] RecipeErrors),
    /// Its record is not the one that was pinned.
    #[error("the check record of staging is {found}, not {pinned}: it is another check, or was edited on the way")]
    OtherRecord {
        /// The digest of the record there.
        found: Digest,
        /// What `publish --record` named.
        pinned: Digest,
    },
    /// It was checked by other demands than those that are made now.
    #[error(
        "this was checked by another {0} than the one that publishing names, or by none: check it again with the same files"
    )]
    OtherPolicy(&'static str),
    /// Its policy rests on what only the record says, and nothing says that this is the record.
    #[error(
        "the policy's {0} rests on what signing does not look at again, so the record must be the checked one: give the \
         digest that check --staging printed, by --record"
    )]
    Unbound(String),
    /// The artefact in it is refused.
    #[error("the staged artefact is refused")]
    Unpack(#[source] unpack::UnpackError),
    /// The artefact's entries do not make a tree.
    #[error("the staged artefact makes no tree")]
    Tree(#[source] mcpfs_trust::tree::BadTree),
    /// Packing it again fails.
    #[error("the staged artefact cannot be packed again")]
    Pack(#[source] PackError),
}

impl StagedArtefact {
    /// What the release statement says of it; `url` is the recipe's.
    pub fn artefact(&self, url: &str) -> Artefact {
        Artefact {
            platform: self.platform.clone(),
            url: url.to_owned(),
            sha256: self.sha256,
            size: self.size,
            tree: self.tree.summary(),
        }
    }

    /// The original files: what an OCI manifest names, and then the artefact itself.
    pub(crate) fn originals(&self) -> Vec<(PathBuf, Part)> {
        let beside = |part: &Part| (self.file.with_file_name(part.sha256.to_string()), *part);
        let own = Part { sha256: self.sha256, size: self.size };
        self.parts.iter().map(beside).chain([(self.file.clone(), own)]).collect()
    }

    /// Every chunk that a host may ask for: content, tree and layout, each once.
    pub fn all_chunks(&self) -> Vec<Chunk> {
        let mut seen = std::collections::HashSet::new();
        let lists = [&self.layout.chunks, &self.listed.tree, &self.listed.layout.chunks];
        lists.into_iter().flatten().copied().filter(|chunk| seen.insert(chunk.sha256)).collect()
    }
}

impl Staging {
    /// What the publishing host demands of a folder that was carried to it: that the policy and the
    /// waivers in it are the host's own (`gate`), and that its record is the one that is pinned.
    /// Without a pin the observations are anybody's word who could write to the folder, so a policy
    /// that rests on them needs one.
    ///
    /// # Errors
    /// `Policy` if the files of `gate` themselves are broken, `OtherRecord`, `OtherPolicy` or `Unbound`.
    pub fn demand(&self, gate: &Gate, pinned: Option<Digest>) -> Result<(), StagingError> {
        if let Some(errors) = gate.broken().first() {
            return Err(StagingError::Policy(errors.clone()));
        }
        let found = self.record.digest();
        if let Some(pinned) = pinned.filter(|pinned| *pinned != found) {
            return Err(StagingError::OtherRecord { found, pinned });
        }
        let same = [
            (gate.policy_text() == self.gate.policy_text(), "policy"),
            (gate.waivers_text() == self.gate.waivers_text(), "waivers file"),
        ];
        if let Some((_, what)) = same.into_iter().find(|(same, _)| !same) {
            return Err(StagingError::OtherPolicy(what));
        }
        match gate.policy().and_then(|policy| policy.rests_on(&self.record.observations)) {
            Some(demand) if pinned.is_none() => Err(StagingError::Unbound(demand)),
            _ => Ok(()),
        }
    }
}
