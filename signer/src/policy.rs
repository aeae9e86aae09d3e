//! The company's own demands, and the exceptions from them: `policy.yaml` and `waivers.yaml`.
//!
//! The rules of `check` say what a release must be anywhere. A **policy** says what it must be
//! here: who may review, which data classes, which hosts. It can make a rule heavier and never
//! lighter. A **waiver** is the only way to let one finding pass: for one rule, one server and
//! one subject, with a reason, a name and a last day. A waived finding stays visible.
//!
//! What cannot be waived: errors that the format itself demands (recipe, digest, archive and the
//! like), a broken policy, and refused waivers. Without that list a line in `waivers.yaml` could
//! let another artefact pass than the one that was reviewed.
//!
//! Both files are read by the reader of recipes, so every mistake has its line. Both travel in
//! staging as they are, and their digests stand in the check record; signing applies them again,
//! at the time of signing, so what expired after the check is noticed.

mod demands;
mod licences;
mod vulnerabilities;
mod waivers;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::time::Timestamp;

use crate::check::{Findings, Observation, policy_digest, rules};
use crate::files::{self, FileError};
use crate::recipe::fields::Reading;
use crate::recipe::yaml::{self, Bounds};
use crate::recipe::{Position, Problem, Recipe, RecipeErrors};

pub use demands::{Policy, Reviewers};
pub use licences::Licences;
pub use vulnerabilities::Vulnerabilities;
pub use waivers::{Waiver, Waivers};

/// Longest policy or waivers file, bytes.
pub(crate) const BYTES: u64 = 256 << 10;
/// Most values in one of them.
const NODES: usize = 32_768;

/// What a check applies besides its own rules.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    policy: Option<Document<Policy>>,
    waivers: Option<Document<Waivers>>,
    broken: Vec<RecipeErrors>,
}

/// A file that was read: its very text, and what it says.
#[derive(Debug, Clone)]
struct Document<T> {
    text: String,
    value: T,
}

impl Gate {
    /// The files that are named; else those beside the `servers` folder of `recipe`, if they are
    /// there. A file that cannot be read, or says something wrong, becomes findings of
    /// `Gate::check`: it is never passed over.
    pub fn load(recipe: Option<&Path>, policy: Option<&Path>, waivers: Option<&Path>) -> Self {
        let beside =
            |name: &str| recipe.and_then(beside_servers).map(|folder| folder.join(name)).filter(|path| is_there(path));
        let mut gate = Self::default();
        for (named, name, is_policy) in [(policy, "policy.yaml", true), (waivers, "waivers.yaml", false)] {
            if named.is_none()
                && let Some(other) = beside(&other_name(name))
            {
                let message = format!("is not read; call it {name}, or remove it");
                gate.broken.push(at_start(&other.display().to_string(), message));
            }
            let Some(file) = named.map(Path::to_owned).or_else(|| beside(name)) else { continue };
            let shown = file.display().to_string();
            match (read(&file), is_policy) {
                (Ok(text), true) => gate.set_policy(text, &shown),
                (Ok(text), false) => gate.set_waivers(text, &shown),
                (Err(message), _) => gate.broken.push(at_start(&shown, message)),
            }
        }
        gate
    }

    /// From the texts of staging.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn from_texts(policy: Option<String>, waivers: Option<String>) -> Result<Self, RecipeErrors> {
        let mut gate = Self::default();
        if let Some(text) = policy {
            gate.set_policy(text, "policy.yaml");
        }
        if let Some(text) = waivers {
            gate.set_waivers(text, "waivers.yaml");
        }
        match gate.broken.pop() {
            Some(errors) => Err(errors),
            None => Ok(gate),
        }
    }

    fn set_policy(&mut self, text: String, file: &str) {
        match parse(&text, file, demands::read) {
            Ok(value) => self.policy = Some(Document { text, value }),
            Err(errors) => self.broken.push(errors),
        }
    }

    fn set_waivers(&mut self, text: String, file: &str) {
        match parse(&text, file, |reading, node| waivers::read(reading, node, file)) {
            Ok(value) => self.waivers = Some(Document { text, value }),
            Err(errors) => self.broken.push(errors),
        }
    }

    /// The policy's text.
    pub(crate) fn policy_text(&self) -> Option<&str> {
        self.policy.as_ref().map(|document| document.text.as_str())
    }

    /// The text of the waivers.
    pub(crate) fn waivers_text(&self) -> Option<&str> {
        self.waivers.as_ref().map(|document| document.text.as_str())
    }

    /// Whether neither file is there.
    pub fn is_empty(&self) -> bool {
        self.policy.is_none() && self.waivers.is_none() && self.broken.is_empty()
    }

    /// Whether a policy was found, also one that cannot be used.
    pub fn has_policy(&self) -> bool {
        self.policy.is_some() || !self.broken.is_empty()
    }

    /// What is wrong with the files themselves.
    pub fn broken(&self) -> &[RecipeErrors] {
        &self.broken
    }

    /// The policy.
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref().map(|document| &document.value)
    }

    /// By which rules and policy a check was made: stands in the record.
    pub fn digest(&self) -> Digest {
        match self.policy_text() {
            None => policy_digest(),
            Some(text) => {
                let both =
                    format!("mcpfs.policy/v1\nrules {}\npolicy {}\n", policy_digest(), Digest::of(text.as_bytes()));
                Digest::of(both.as_bytes())
            }
        }
    }

    /// The files with their digests: stand in the record and in reports.
    pub fn sources(&self) -> Vec<String> {
        let named = [("policy.yaml", self.policy_text()), ("waivers.yaml", self.waivers_text())];
        let one = |(name, text): (&str, Option<&str>)| Some(format!("{name} sha256:{}", Digest::of(text?.as_bytes())));
        named.into_iter().filter_map(one).collect()
    }

    /// What the policy says of a recipe, and what is wrong with the files.
    pub(crate) fn check(&self, recipe: &Recipe, now: Timestamp, observations: &[Observation], findings: &mut Findings) {
        for errors in &self.broken {
            for problem in &errors.problems {
                let finding = rules::POLICY_FILE.find(&problem.field, &problem.message);
                findings.push(finding.at(&errors.file, Some(problem.at)));
            }
        }
        if let Some(policy) = self.policy() {
            policy.check(recipe, now, observations, findings);
        }
    }

    /// The last step of a check: the policy's severities, then the waivers.
    pub(crate) fn settle(&self, recipe: &Recipe, now: Timestamp, findings: &mut Findings) {
        if let Some(policy) = self.policy() {
            for finding in findings.all_mut() {
                let raised = policy.severity.get(&finding.rule);
                finding.severity = raised.map_or(finding.severity, |raised| finding.severity.min(*raised));
            }
        }
        if let Some(waivers) = &self.waivers {
            waivers.value.apply(recipe, self.policy(), now, findings);
        }
    }
}

/// How people also write the name of such a file; as nothing reads it, it would look like no policy.
pub(crate) fn other_name(name: &str) -> String {
    name.replace(".yaml", ".yml")
}

/// The folder that holds `servers/`, if `recipe` lies in such a one.
fn beside_servers(recipe: &Path) -> Option<PathBuf> {
    let recipe = std::path::absolute(recipe).ok()?;
    let servers = recipe.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "servers"))?;
    servers.parent().map(Path::to_owned)
}

/// A link that leads nowhere is there, too: it is an error to read, not an absent policy.
fn is_there(path: &Path) -> bool {
    !matches!(path.symlink_metadata(), Err(error) if error.kind() == std::io::ErrorKind::NotFound)
}

fn read(file: &Path) -> Result<String, String> {
    let bytes = files::read_bounded(file, BYTES).map_err(|error| match error {
        FileError::Read { source, .. } => format!("cannot be read: {source}"),
        other => other.to_string(),
    })?;
    String::from_utf8(bytes).map_err(|_| "the file is not UTF-8".to_owned())
}

fn at_start(file: &str, message: String) -> RecipeErrors {
    let problem = Problem { at: Position::START, field: String::new(), message };
    RecipeErrors { file: file.to_owned(), problems: vec![problem] }
}

/// Reads one document by the strict reader of recipes.
fn parse<T>(
    text: &str,
    file: &str,
    read: impl FnOnce(&mut Reading, &yaml::Node) -> Option<T>,
) -> Result<T, RecipeErrors> {
    let bounds = Bounds { bytes: BYTES as usize, nodes: NODES };
    let root = yaml::parse_bounded(text, bounds).map_err(|bad| {
        // The reader's advice speaks of recipes.
        let message = bad.problem.replace("a recipe", "this file");
        let problem = Problem { at: bad.at, field: String::new(), message };
        RecipeErrors { file: file.to_owned(), problems: vec![problem] }
    })?;
    let mut reading = Reading::default();
    match read(&mut reading, &root) {
        Some(value) if reading.problems.is_empty() => Ok(value),
        _ => {
            let mut problems = reading.problems;
            problems.sort_by_key(|problem| problem.at);
            match problems.is_empty() {
                true => Err(at_start(file, "is empty".to_owned())),
                false => Err(RecipeErrors { file: file.to_owned(), problems }),
            }
        }
    }
}

/// The JSON Schema of `T`, for editors; frozen below `signer/schema`.
pub fn json_schema<T: schemars::JsonSchema>() -> String {
    let mut text = serde_json::to_string_pretty(&schemars::schema_for!(T)).unwrap_or_default();
    text.push('\n');
    text
}
