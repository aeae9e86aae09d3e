//! The release: what reviewers approved and the key signed (docs/format.md section 8).
//!
//! One type serves three places: the recipe's fields are a part of it, the signed
//! predicate is it, and the entry's readable copy is it again, so "the readable copy
//! equals the signed one" is one `==`.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits;
use crate::name::{Platform, RegistryName, ServerName, Version};
use crate::statement::Subject;
use crate::time::{Date, Timestamp};

mod launch;
mod rules;

pub use launch::{AcceptArgs, Credential, Launch, Network, Runtime, Sandbox};
pub use rules::BadField;
use rules::{check_count, check_list, check_text};

/// `predicateType` of a release statement.
pub const RELEASE_TYPE: &str = "urn:mcpfs:release:v1";

/// The predicate of a release statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The registry it was signed for.
    pub registry: RegistryName,
    /// The server.
    pub name: ServerName,
    /// The version; (name, version) has one statement, for ever.
    pub version: Version,
    /// Who answers for the server.
    pub maintainer: String,
    /// One line for people.
    pub description: String,
    /// What the server may do, in the company's own words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
    /// The class of the data it touches.
    pub data_classification: String,
    /// The legal ground for processing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lawful_basis: Option<String>,
    /// When it was reviewed.
    pub reviewed_at: Date,
    /// Who reviewed it.
    pub reviewers: Vec<String>,
    /// One artefact, or one for each platform.
    pub artefact: Artefacts,
    /// How `run` starts it; without one, `run` refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
    /// Credentials that host configuration may grant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
    /// What the sandbox lets through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// Where the recipe came from; absent outside git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The commit's time; outside git the first signing time.
    pub issued: Timestamp,
}

/// The artefacts of a release by platform; in JSON one object, or a list of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artefacts(Vec<Artefact>);

/// One file, or one OCI manifest, that anyone can hash, and the tree that it became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// Where it runs.
    pub platform: Platform,
    /// Where the signer fetched it.
    pub url: String,
    /// Its digest.
    pub sha256: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// The canonical tree made from it.
    pub tree: TreeSummary,
}

/// What is signed about a tree besides its digest, so that limits hold before allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeSummary {
    /// Digest of the uncompressed canonical encoding.
    pub sha256: Digest,
    /// Size of that encoding, bytes.
    pub size: u64,
    /// Nodes that are regular files.
    pub files: u64,
    /// Sum of the files' sizes, bytes.
    pub bytes: u64,
}

/// The reviewed commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The repository's address.
    pub repository: String,
    /// The full commit id.
    pub commit: String,
    /// The merged request's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_request: Option<String>,
    /// Who approved it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<String>,
}

impl Artefacts {
    /// A list in platform order.
    ///
    /// # Errors
    /// If it is empty, too long, names a platform twice, or mixes `any` with others.
    pub fn new(mut list: Vec<Artefact>) -> Result<Self, BadField> {
        list.sort_by(|a, b| a.platform.cmp(&b.platform));
        let bad = |problem| Err(BadField::new("artefact", problem));
        if list.is_empty() || list.len() > limits::PLATFORMS {
            return bad("needs one artefact, or one for each of at most 8 platforms");
        }
        if list.windows(2).any(|pair| pair[0].platform == pair[1].platform) {
            return bad("two artefacts for one platform");
        }
        if list.len() > 1 && list.iter().any(|artefact| artefact.platform.is_any()) {
            return bad("platform 'any' must stand alone");
        }
        Ok(Self(list))
    }

    /// All of them, in platform order.
    pub fn all(&self) -> &[Artefact] {
        &self.0
    }

    /// The one for `platform`: its own, or `any`.
    pub fn for_platform(&self, platform: &Platform) -> Option<&Artefact> {
        self.0.iter().find(|artefact| artefact.platform == *platform || artefact.platform.is_any())
    }
}

impl Serialize for Artefacts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Artefacts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = crate::json::one_or_many(deserializer)?;
        let given: Vec<Platform> = list.iter().map(|artefact: &Artefact| artefact.platform.clone()).collect();
        let artefacts = Self::new(list).map_err(serde::de::Error::custom)?;
        // One form only: a list of one, or another order, would be a second spelling.
        if given.iter().ne(artefacts.0.iter().map(|artefact| &artefact.platform)) {
            return Err(serde::de::Error::custom("artefacts are not in platform order"));
        }
        Ok(artefacts)
    }
}

impl Release {
    /// What a statement of this release is about: each artefact, then its tree.
    pub fn subjects(&self) -> Vec<Subject> {
        let subjects = self.artefact.all().iter().flat_map(|artefact| {
            let named = |what, digest| Subject { name: format!("{what}/{}", artefact.platform), digest };
            [named("artefact", artefact.sha256), named("tree", artefact.tree.sha256)]
        });
        subjects.collect()
    }

    /// Checks every rule that the types do not already keep.
    ///
    /// # Errors
    /// The first field that breaks one.
    pub fn validate(&self) -> Result<(), BadField> {
        check_text("maintainer", &self.maintainer)?;
        check_text("description", &self.description)?;
        check_text("data_classification", &self.data_classification)?;
        if let Some(basis) = &self.lawful_basis {
            check_text("lawful_basis", basis)?;
        }
        check_list("scope", &self.scope)?;
        check_list("reviewers", &self.reviewers)?;
        if self.reviewers.is_empty() {
            return Err(BadField::new("reviewers", "at least one reviewer is needed"));
        }
        for artefact in self.artefact.all() {
            check_text("artefact.url", &artefact.url)?;
        }
        if let Some(launch) = &self.launch {
            launch.validate()?;
        }
        check_count("credentials", self.credentials.len())?;
        for credential in &self.credentials {
            credential.validate()?;
        }
        if let Some(sandbox) = &self.sandbox {
            check_list("sandbox.read", &sandbox.read)?;
            check_list("sandbox.write", &sandbox.write)?;
        }
        if let Some(source) = &self.source {
            check_text("source.repository", &source.repository)?;
            check_text("source.commit", &source.commit)?;
            check_list("source.approvals", &source.approvals)?;
        }
        Ok(())
    }
}
