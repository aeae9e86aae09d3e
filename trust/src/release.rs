//! The release: what reviewers approved and the key signed (docs/format.md section 8).
//!
//! One type serves three places: the recipe's fields are a part of it, the signed
//! predicate is it, and the entry's readable copy is it again, so "the readable copy
//! equals the signed one" is one `==`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits;
use crate::name::{Platform, RegistryName, ServerName, Version, check_file_name};
use crate::statement::Subject;
use crate::time::{Date, Timestamp};

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

/// How a server is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// A path in the tree, or the name of a runtime that host configuration maps.
    pub command: String,
    /// Arguments; `${TREE}`, `${STATE}` and `${HOME}` expand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment; values expand like arguments.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Whether a host's own arguments are passed on.
    #[serde(default, skip_serializing_if = "AcceptArgs::is_none")]
    pub accept_args: AcceptArgs,
    /// Where `command` is looked up.
    #[serde(default, skip_serializing_if = "Runtime::is_host")]
    pub runtime: Runtime,
    /// The platform of a single artefact that names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// The arguments a host may add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum AcceptArgs {
    /// `true`: any, `false`: none.
    All(bool),
    /// Each argument must match one of these whole; `*` stands for any text.
    Matching(Vec<String>),
}

/// Where a launch finds its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The host's root file system.
    #[default]
    Host,
    /// The artefact's own root file system.
    Image,
}

/// A credential by reference; its value never enters the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The variable it is put into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// Or the file name it is put under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What host configuration maps to a source.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The scope it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// What a sandbox lets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// The network it sees.
    #[serde(default)]
    pub network: Network,
    /// Host paths it may read.
    #[serde(default)]
    pub read: Vec<String>,
    /// Host paths it may write.
    #[serde(default)]
    pub write: Vec<String>,
}

/// The network a sandboxed server sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// None but its own loopback.
    #[default]
    None,
    /// The host's.
    Host,
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

/// A field that breaks a rule of docs/format.md section 8; `field` is its dotted path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadField {
    /// Such as `launch.env`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl BadField {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
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

impl Default for AcceptArgs {
    fn default() -> Self {
        Self::All(false)
    }
}

impl AcceptArgs {
    fn is_none(&self) -> bool {
        *self == Self::All(false)
    }

    /// Whether a host may add these arguments; the first refused one otherwise.
    ///
    /// # Errors
    /// The argument that is not accepted.
    pub fn check<'a>(&self, args: &'a [String]) -> Result<(), &'a str> {
        let refused = match self {
            Self::All(true) => None,
            Self::All(false) => args.first(),
            Self::Matching(patterns) => args.iter().find(|arg| !patterns.iter().any(|pattern| glob(pattern, arg))),
        };
        refused.map_or(Ok(()), |arg| Err(arg))
    }
}

/// Whether `text` is `pattern` with each `*` replaced by some text. Greedy, linear in practice.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}

impl Runtime {
    fn is_host(&self) -> bool {
        *self == Self::Host
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

impl Launch {
    /// The command as a path below the tree's root, or `None` if it names a runtime.
    pub fn tree_path(&self) -> Option<&str> {
        let path = self.command.strip_prefix("./").unwrap_or(&self.command);
        (self.command.contains('/') || self.command.contains('.')).then_some(path)
    }

    /// Checks the launch by itself.
    ///
    /// # Errors
    /// The first field that breaks a rule.
    pub fn validate(&self) -> Result<(), BadField> {
        check_text("launch.command", &self.command)?;
        let inside = match self.tree_path() {
            Some(path) => path.split('/').all(|part| check_file_name(part).is_ok()),
            None => check_file_name(&self.command).is_ok(),
        };
        if !inside {
            return Err(BadField::new("launch.command", "neither a path inside the tree nor the name of a runtime"));
        }
        check_count("launch.args", self.args.len())?;
        for arg in &self.args {
            check_value("launch.args", arg)?;
        }
        if self.env.len() > limits::ENV_ITEMS {
            return Err(BadField::new("launch.env", format!("more than {} variables", limits::ENV_ITEMS)));
        }
        for (name, value) in &self.env {
            check_env_name("launch.env", name)?;
            check_value(&format!("launch.env.{name}"), value)?;
        }
        if let AcceptArgs::Matching(patterns) = &self.accept_args {
            check_list("launch.accept_args", patterns)?;
        }
        Ok(())
    }
}

impl Credential {
    fn validate(&self) -> Result<(), BadField> {
        check_text("credentials.ref", &self.reference)?;
        match (&self.env, &self.file) {
            (Some(name), None) => check_env_name("credentials.env", name),
            (None, Some(name)) => {
                check_file_name(name).map_err(|error| BadField::new("credentials.file", error.to_string()))
            }
            _ => Err(BadField::new("credentials", "each needs either env or file")),
        }
    }
}

fn check_text(field: &str, text: &str) -> Result<(), BadField> {
    if text.trim().is_empty() {
        return Err(BadField::new(field, "must not be empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(BadField::new(field, "must be one line without control characters"));
    }
    check_value(field, text)
}

fn check_value(field: &str, text: &str) -> Result<(), BadField> {
    if text.len() > limits::TEXT_BYTES {
        return Err(BadField::new(field, format!("longer than {} bytes", limits::TEXT_BYTES)));
    }
    if text.contains('\0') {
        return Err(BadField::new(field, "must not contain NUL"));
    }
    Ok(())
}

fn check_count(field: &str, count: usize) -> Result<(), BadField> {
    match count > limits::LIST_ITEMS {
        true => Err(BadField::new(field, format!("more than {} items", limits::LIST_ITEMS))),
        false => Ok(()),
    }
}

fn check_list(field: &str, items: &[String]) -> Result<(), BadField> {
    check_count(field, items.len())?;
    items.iter().try_for_each(|item| check_text(field, item))
}

fn check_env_name(field: &str, name: &str) -> Result<(), BadField> {
    let good = name.bytes().enumerate().all(|(at, byte)| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'_' => true,
        b'0'..=b'9' => at > 0,
        _ => false,
    });
    // The dynamic loader's and the interpreter's own variables would run other code than was reviewed.
    let loader = ["LD_", "DYLD_", "GCONV_"].iter().any(|prefix| name.starts_with(prefix));
    if name.is_empty() || !good {
        return Err(BadField::new(field, format!("{name:?} is not a variable name")));
    }
    if loader {
        return Err(BadField::new(field, format!("{name} would change what the loader loads")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("--root=*", "--root=/srv", true),
            ("--root=*", "--root", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "abcx", false),
            ("*", "", true),
            ("x", "xx", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn commands_stay_in_the_tree() {
        let launch = |command: &str| Launch {
            command: command.to_owned(),
            args: vec![],
            env: BTreeMap::new(),
            accept_args: AcceptArgs::default(),
            runtime: Runtime::Host,
            platform: None,
        };
        for good in ["node", "bin/server", "./server", "server.sh"] {
            assert!(launch(good).validate().is_ok(), "{good}");
        }
        for bad in ["", "/bin/sh", "../x", "bin/../../x", "a//b", "..", "a\nb"] {
            assert!(launch(bad).validate().is_err(), "{bad}");
        }
        assert_eq!(launch("node").tree_path(), None);
        assert_eq!(launch("./server").tree_path(), Some("server"));
    }

    #[test]
    fn environment_cannot_reach_the_loader() {
        for bad in ["", "1A", "A-B", "LD_PRELOAD", "A=B"] {
            assert!(check_env_name("f", bad).is_err(), "{bad}");
        }
        assert!(check_env_name("f", "MEMORY_FILE_PATH").is_ok());
    }
}
