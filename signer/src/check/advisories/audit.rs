//! Live look-ups by the programs of the ecosystems: `npm audit` and `pip-audit`.
//!
//! Both get a list of exactly the packages that the artefact carries, in a folder of their own,
//! never the artefact: nothing of it is run, resolved or installed. Both say "no known
//! vulnerabilities" in cases where they looked up nothing, so an answer counts only if it is in
//! their format, and speaks of every package that was asked about.

mod npm;
mod pip;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::time::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use super::super::dependencies::Ecosystem;
use super::super::record::Look;
use super::{Hit, Unclear, Wanted};

/// A program that can be asked.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// npm audit, at the registry of the operator's npmrc
    Npm,
    /// pip-audit
    Pypi,
}

/// How to ask.
#[derive(Debug, Clone)]
pub struct Asking {
    /// The OSV API for pip-audit; the JSON API of PyPI if absent.
    pub osv_url: Option<Url>,
    /// Longest time for one program.
    pub limit: Duration,
}

impl Default for Asking {
    fn default() -> Self {
        Self { osv_url: None, limit: Duration::from_secs(120) }
    }
}

/// What a program answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The program.
    pub program: Program,
    /// When.
    pub at: Timestamp,
    /// The digest of the ids of the packages that were asked about, one a line.
    pub asked: Digest,
    /// How many they are.
    pub packages: u64,
    /// Packages with an advisory.
    pub hits: Vec<Hit>,
    /// Packages without a version to ask about.
    pub unclear: Vec<Unclear>,
}

/// One package to ask about.
struct Asked<'a> {
    name: &'a str,
    version: &'a str,
    id: &'a str,
}

impl Program {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Npm, Self::Pypi];

    /// What a policy calls it.
    pub(super) const fn look(self) -> Look {
        match self {
            Self::Npm => Look::AuditNpm,
            Self::Pypi => Look::AuditPypi,
        }
    }

    /// Whose packages it knows.
    pub const fn ecosystem(self) -> Ecosystem {
        match self {
            Self::Npm => Ecosystem::Npm,
            Self::Pypi => Ecosystem::Pypi,
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Npm => "npm audit",
            Self::Pypi => "pip-audit",
        }
    }

    /// Asks about all packages of its ecosystem.
    pub(super) fn ask(self, wanted: &Wanted, asking: &Asking, folder: &Path, now: Timestamp) -> Result<Answer, String> {
        let (asked, packages) = self.asked(wanted);
        let mut answer = Answer { program: self, at: now, asked, packages, hits: Vec::new(), unclear: Vec::new() };
        let mut list = Vec::new();
        for ((_, name), versions) in wanted.iter().filter(|((ecosystem, _), _)| *ecosystem == self.ecosystem()) {
            for (version, id) in versions {
                match super::versions::Ordered::parse(self.ecosystem(), version) {
                    Some(_) => list.push(Asked { name, version, id }),
                    None => answer.unclear.push(Unclear {
                        package: id.clone(),
                        advisory: self.as_str().to_owned(),
                        reason: "it has no version that could be asked about".to_owned(),
                    }),
                }
            }
        }
        if !list.is_empty() {
            let folder = tempfile::tempdir_in(folder).map_err(|error| format!("cannot make a folder: {error}"))?;
            answer.hits = match self {
                Self::Npm => npm::ask(&list, asking, folder.path())?,
                Self::Pypi => pip::ask(&list, asking, folder.path())?,
            };
            answer.hits.sort();
            answer.hits.dedup();
        }
        Ok(answer)
    }

    /// What an answer must be about.
    pub(super) fn asked(self, wanted: &Wanted) -> (Digest, u64) {
        let own = wanted.iter().filter(|((ecosystem, _), _)| *ecosystem == self.ecosystem());
        let ids: BTreeSet<&str> = own.flat_map(|(_, versions)| versions).map(|(_, id)| id.as_str()).collect();
        let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
        (Digest::of(text.as_bytes()), ids.len() as u64)
    }
}
