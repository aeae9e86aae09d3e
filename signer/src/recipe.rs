//! The recipe: `servers/<name>.yaml`, what people review (docs/publishing.md).
//!
//! A recipe is the reviewed half of a release; the signer adds what it measured (artefact
//! sizes, trees) and where the recipe came from. The rules of a field are those of
//! [`Release::validate`], run here too, so that a reviewer meets on a line of the recipe what
//! a host would meet in a statement.

pub(crate) mod fields;
mod read;
pub(crate) mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{Platform, RegistryName, ServerName, Version};
use mcpfs_trust::release::{Artefact, Artefacts, BadField, Credential, Launch, Release, Sandbox, Source, TreeSummary};
use mcpfs_trust::time::{Date, Timestamp};

use crate::bundle::Inputs;

/// A parsed recipe. Every field obeys its rules; [`Recipe::parse`] is the only way to make one.
#[derive(Debug, Clone, schemars::JsonSchema)]
#[schemars(deny_unknown_fields, title = "mcpfs recipe")]
pub struct Recipe {
    /// The server's name; the file is `<name>.yaml`.
    pub name: ServerName,
    /// The version; a published one never changes.
    pub version: Version,
    /// Who answers for the server.
    pub maintainer: String,
    /// One line for people.
    pub description: String,
    /// What the server may do, in the company's own words.
    #[schemars(default)]
    pub scope: Vec<String>,
    /// The class of the data it touches: public, internal, confidential or restricted.
    pub data_classification: String,
    /// The legal ground for processing it; needed for confidential and restricted data.
    pub lawful_basis: Option<String>,
    /// When it was reviewed.
    pub reviewed_at: Date,
    /// Who reviewed it.
    pub reviewers: Vec<String>,
    /// One artefact, or a list of one for each platform.
    #[schemars(with = "OneOrMany")]
    pub artefact: Vec<ArtefactSource>,
    /// How `run` starts it; without one, as the artefact says, or not at all.
    pub launch: Option<Launch>,
    /// Credentials that host configuration may grant.
    #[schemars(default)]
    pub credentials: Vec<Credential>,
    /// What the sandbox lets through.
    pub sandbox: Option<Sandbox>,
    /// Filled in by the signer; what stands here is ignored.
    pub signature: Option<String>,
    /// Where fields stand, by dotted path.
    #[schemars(skip)]
    places: BTreeMap<String, Position>,
    /// The file's name, as errors show it.
    #[schemars(skip)]
    file: String,
}

/// Where an artefact comes from, and the digest it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtefactSource {
    /// Where it runs; `any` by default.
    pub platform: Platform,
    /// Where the signer fetches it.
    pub url: String,
    /// The pinned digest of the file.
    pub sha256: Digest,
    /// What a package or a commit is bundled with.
    pub inputs: Inputs,
}

impl ArtefactSource {
    /// Whether what is pinned is an OCI manifest, which names further files.
    pub fn is_manifest(&self) -> bool {
        crate::image::is_manifest(&self.url)
    }
}

/// An artefact as the recipe writes it.
#[derive(schemars::JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Artefact")]
#[allow(dead_code)] // Only its schema is used: the reader collects errors with lines, which serde cannot.
struct ArtefactField {
    /// `https://…`, `file:…`, `oci://HOST/NAME:TAG`, `npm:NAME@VERSION`, `pypi:NAME==VERSION`,
    /// `git+https://HOST/REPOSITORY#TAG` or `git+file:PATH#TAG`.
    url: String,
    /// SHA-256 of the file, or of the OCI manifest of one platform: 64 lowercase hexadecimal digits.
    sha256: Digest,
    /// Such as `linux/amd64`; `any` by default.
    platform: Option<Platform>,
    /// Of git: the full id of the commit that the tag points to.
    #[schemars(regex(pattern = r"^([0-9a-f]{40}|[0-9a-f]{64})$"))]
    commit: Option<String>,
    /// Of git: fetch submodules too.
    submodules: Option<bool>,
    /// Of git: fetch files of Git LFS too.
    lfs: Option<bool>,
    /// Of npm and PyPI: the lockfile, a path below the recipe's folder.
    lock: Option<String>,
    /// Of PyPI: the Python that it is for, such as "3.11".
    #[schemars(regex(pattern = r"^3\.[0-9]{1,2}$"))]
    python: Option<String>,
}

/// One artefact, or several by platform.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code)]
enum OneOrMany {
    One(ArtefactField),
    Many(#[schemars(length(min = 1, max = 8))] Vec<ArtefactField>),
}

/// A place in a recipe, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

/// One thing that is wrong with a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub at: Position,
    /// The field's dotted path; empty for the whole recipe.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// All that is wrong with a recipe, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RecipeErrors {
    /// The file's name as it was given.
    pub file: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Recipe {
    /// Longest recipe, bytes: the signed part of one is below 4,096.
    pub const BYTES: usize = 64 << 10;

    /// Parses `text` of the file `file` (a path; its last component must be `<name>.yaml`).
    ///
    /// # Errors
    /// Everything that is wrong, each with its place. Text that is not YAML gives one problem.
    pub fn parse(text: &str, file: &str) -> Result<Self, RecipeErrors> {
        read::read(text, file).map_err(|mut problems| {
            problems.sort_by_key(|problem| problem.at);
            RecipeErrors { file: file.to_owned(), problems }
        })
    }

    /// The release that this recipe and its measured `artefacts` make.
    ///
    /// # Errors
    /// A field that breaks a rule of the release format, at its place in the recipe, or
    /// artefacts that are not the recipe's own.
    pub fn release(
        &self,
        registry: &RegistryName,
        artefacts: Vec<Artefact>,
        source: Option<Source>,
        issued: Timestamp,
    ) -> Result<Release, RecipeErrors> {
        let refuse = |bad: BadField| self.refuse(&bad.field, bad.problem);
        let named = |artefact: &Artefact| {
            self.artefact.iter().any(|own| {
                own.platform == artefact.platform && own.url == artefact.url && own.sha256 == artefact.sha256
            })
        };
        if artefacts.len() != self.artefact.len() || !artefacts.iter().all(named) {
            return Err(self.refuse("artefact", "what was measured is not what the recipe names"));
        }
        let release = Release {
            registry: registry.clone(),
            name: self.name.clone(),
            version: self.version.clone(),
            maintainer: self.maintainer.clone(),
            description: self.description.clone(),
            scope: self.scope.clone(),
            data_classification: self.data_classification.clone(),
            lawful_basis: self.lawful_basis.clone(),
            reviewed_at: self.reviewed_at,
            reviewers: self.reviewers.clone(),
            artefact: Artefacts::new(artefacts).map_err(refuse)?,
            launch: self.launch.clone(),
            credentials: self.credentials.clone(),
            sandbox: self.sandbox.clone(),
            source,
            issued,
        };
        release.validate().map_err(refuse)?;
        Ok(release)
    }

    /// The release with the largest possible sizes in place of measured ones: for rules that
    /// can be checked before anything is fetched.
    ///
    /// # Errors
    /// As [`Recipe::release`].
    pub fn draft(&self, registry: &RegistryName) -> Result<Release, RecipeErrors> {
        let artefacts = self
            .artefact
            .iter()
            .map(|own| Artefact {
                platform: own.platform.clone(),
                url: own.url.clone(),
                sha256: own.sha256,
                size: u64::from(u32::MAX),
                tree: TreeSummary {
                    sha256: Digest::EMPTY,
                    size: mcpfs_trust::limits::TREE_BYTES,
                    files: mcpfs_trust::limits::TREE_NODES as u64,
                    bytes: u64::from(u32::MAX),
                },
            })
            .collect();
        self.release(registry, artefacts, None, self.reviewed_at.start())
    }

    /// The same recipe with this launch, which may be its artefact's.
    pub(crate) fn started_by(&self, launch: Option<&Launch>) -> Self {
        Self { launch: launch.cloned(), ..self.clone() }
    }

    /// Where a field stands; the nearest field around it if it is absent.
    pub fn place(&self, field: &str) -> Position {
        place(&self.places, field)
    }

    /// The dotted path of one artefact: `artefact`, or `artefact[1]` in a list.
    pub fn artefact_field(&self, index: usize) -> String {
        let field = format!("artefact[{index}]");
        if self.places.contains_key(&field) { field } else { "artefact".to_owned() }
    }

    /// Whether the artefact at this path (see [`Recipe::artefact_field`]) is for any platform.
    pub(crate) fn runs_anywhere(&self, field: &str) -> bool {
        let mut named = self.artefact.iter().enumerate().filter(|(index, _)| self.artefact_field(*index) == field);
        named.any(|(_, artefact)| artefact.platform.is_any())
    }

    /// The file's name as it was given to [`Recipe::parse`].
    pub fn file(&self) -> &str {
        &self.file
    }

    fn refuse(&self, field: &str, message: impl Into<String>) -> RecipeErrors {
        let problem = Problem { at: self.place(field), field: field.to_owned(), message: message.into() };
        RecipeErrors { file: self.file.clone(), problems: vec![problem] }
    }
}

/// The JSON Schema of a recipe, for editors; frozen in `signer/schema/recipe.schema.json`.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(Recipe);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

fn place(places: &BTreeMap<String, Position>, field: &str) -> Position {
    let mut path = field;
    loop {
        if let Some(position) = places.get(path) {
            return *position;
        }
        match path.rfind(['.', '[']) {
            Some(end) => path = &path[..end],
            None => return Position::START,
        }
    }
}

impl Position {
    /// The first character.
    pub const START: Self = Self { line: 1, column: 1 };

    fn of(location: &serde_saphyr::Location) -> Self {
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).max(1);
        Self { line: number(location.line()), column: number(location.column()) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.at.line, self.at.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", mcpfs_trust::error::bounded(&self.field))?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for RecipeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{problem}", self.file)?;
        }
        Ok(())
    }
}
