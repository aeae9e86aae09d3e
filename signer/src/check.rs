//! The check: the pull request's gate, and the first half of publishing.
//!
//! One straight way, `parse → fetch → unpack → tree → pack`, where whatever goes wrong becomes
//! a [`Finding`] at a line of the recipe. A check and an ingest are the same work; a check
//! only throws the result away. What could not be looked at is a finding, never clean.
//!
//! Rules have stable ids ([`RULES`]); the digest of that table stands in the check record, so
//! a record tells by which rules it was made.

pub mod advisories;
pub mod capability;
pub mod changes;
mod content;
pub mod dependencies;
pub mod finding;
mod launch;
pub mod patterns;
pub mod record;
pub mod report;
pub(crate) mod rules;
pub mod trial;

#[cfg(test)]
pub(crate) mod tests;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{Platform, RegistryName};
use mcpfs_trust::release::Launch;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::tree::{Kind, Tree};

use crate::fetch::{self, FetchNote, FetchPolicy};
use crate::pack::{self, ChunkStore, KnownChunks};
use crate::policy::{Gate, Policy};
use crate::recipe::{ArtefactSource, Recipe};
use crate::site::Site;
use crate::staging::{Places, StagedArtefact, Staging, StagingError};
use crate::trial::TrialOptions;
use crate::unpack::{self, Spool};

pub use advisories::{Answers, Lookups};
pub use capability::Capabilities;
pub use changes::Changes;
pub use dependencies::{Ecosystem, Inventory};
pub use finding::{Finding, Findings, Severity};
pub use patterns::Patterns;
pub use record::{CheckRecord, CheckedArtefact, Look, Observation, Verdict};
pub use rules::{RULES, Rule, policy_digest};
pub use trial::PlatformTrial;

/// How to check.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// The registry the release is for, if it is known: its name is part of what is signed.
    pub registry: Option<RegistryName>,
    /// Where artefacts may come from.
    pub fetch: FetchPolicy,
    /// Published chunks, which are not stored again.
    pub known: KnownChunks,
    /// zstd level of new chunks.
    pub level: i32,
    /// The time, for dates in the future.
    pub now: Timestamp,
    /// The site whose selected release the new one is compared with.
    pub published: Option<Published>,
    /// The policy and the waivers.
    pub gate: Gate,
    /// Where known vulnerabilities are looked up.
    pub lookups: Lookups,
    /// How to try the server out; `None` to start nothing.
    pub trial: Option<TrialOptions>,
    /// How to look for malicious patterns, if at all.
    pub patterns: Option<Patterns>,
}

/// A site, and what it is verified by.
#[derive(Debug, Clone)]
pub struct Published {
    /// The site.
    pub site: Site,
    /// The trust root of its hosts.
    pub root: TrustRoot,
}

/// What a check gives.
#[derive(Debug, Default)]
pub struct Checked {
    /// Everything that was found.
    pub findings: Findings,
    /// The release, ready to be signed; `None` if there were errors.
    pub staging: Option<Staging>,
    /// The recipe, if it could be read.
    pub recipe: Option<Recipe>,
    /// What differs from the published release, if one was asked for and is there.
    pub changes: Option<Changes>,
    /// What each readable artefact carries, by platform.
    pub dependencies: Vec<(Platform, Inventory)>,
    /// What the code of each readable artefact can do, by platform.
    pub capabilities: Vec<(Platform, Capabilities)>,
    /// What is known of their vulnerabilities.
    pub answers: Answers,
    /// What trials showed, by platform.
    pub trials: Vec<PlatformTrial>,
    /// The files that the verdict rests on besides recipe and artefacts, with their digests.
    pub sources: Vec<String>,
    /// What was looked at that signing does not look at again.
    pub observations: Vec<Observation>,
    /// The digest of the check record, if the staging is kept for `publish --record`.
    pub record: Option<Digest>,
    /// What could be measured of a release that has errors.
    measured: Vec<StagedArtefact>,
}

impl Checked {
    /// The artefacts that could be measured, in platform order, whether or not there were errors.
    pub fn artefacts(&self) -> &[StagedArtefact] {
        self.staging.as_ref().map_or(&self.measured, |staging| &staging.artefacts)
    }
}

/// Why a check could not be made at all.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The recipe's file cannot be read.
    #[error("{path}: cannot read it")]
    Recipe {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The staging folder cannot be written.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The temporary folder cannot be made.
    #[error("cannot make a temporary folder")]
    Temporary(#[source] std::io::Error),
}

/// Checks the recipe at `file` and keeps nothing but what a report shows.
///
/// # Errors
/// Only what keeps it from checking; what is wrong with the release is a finding.
pub fn check(file: &Path, options: &CheckOptions) -> Result<Checked, CheckError> {
    let folder = tempfile::tempdir().map_err(CheckError::Temporary)?;
    into(file, folder.path(), options, false)
}

/// Checks the recipe at `file` and, if there are no errors, leaves the release in `folder`.
///
/// # Errors
/// As [`check`].
pub fn ingest(file: &Path, folder: &Path, options: &CheckOptions) -> Result<Checked, CheckError> {
    into(file, folder, options, true)
}

fn into(file: &Path, folder: &Path, options: &CheckOptions, keep: bool) -> Result<Checked, CheckError> {
    let shown = file.display().to_string();
    let bytes = read_recipe(file).map_err(|source| CheckError::Recipe { path: file.to_owned(), source })?;
    let mut checked = Checked::default();
    let places = Places::new(folder);
    places.make()?;
    let staging = stage(&bytes, &shown, folder, options, &mut checked)?;
    compare(options, &mut checked, staging.as_ref());
    if let (Some(recipe), Some(how)) = (&checked.recipe, &options.trial) {
        let artefacts = staging.as_ref().map_or(&checked.measured, |staging| &staging.artefacts);
        let about = trial::About { recipe, artefacts, folder, published: options.published.as_ref() };
        checked.trials = trial::make(&about, how, &mut checked.findings);
        checked.observations.extend(trial::observation(&checked.trials));
    }
    checked.sources = options.gate.sources();
    if let Some(recipe) = &checked.recipe {
        let policy = options.gate.policy();
        let (lookups, dependencies) = (&options.lookups, &checked.dependencies);
        checked.answers = Answers::ask(lookups, dependencies, policy, (&places.snapshots(), keep), options.now);
        checked.answers.check(recipe, dependencies, policy, options.now, &mut checked.findings);
        checked.sources.extend(checked.answers.sources());
        checked.observations.extend(checked.answers.observations());
        checked.observations.sort();
        checked.observations.dedup();
        options.gate.check(recipe, options.now, &checked.observations, &mut checked.findings);
        options.gate.settle(recipe, options.now, &mut checked.findings);
    }
    checked.findings.sort();
    match staging {
        Some(mut staging) if !checked.findings.has_errors() => {
            staging.findings = checked.findings.clone();
            staging.record.observations.clone_from(&checked.observations);
            staging.record.tools = trial::tools_of(&checked.trials);
            staging.answers = checked.answers.clone();
            staging.record = staging.expected_record();
            staging.write()?;
            checked.staging = Some(staging);
        }
        Some(staging) => checked.measured = staging.artefacts,
        None => {}
    }
    Ok(checked)
}

/// Compares with the published release, if one was asked for. A site that cannot be read is a
/// finding: "nothing changed" must never mean "nobody looked".
fn compare(options: &CheckOptions, checked: &mut Checked, staging: Option<&Staging>) {
    let (Some(published), Some(recipe)) = (&options.published, &checked.recipe) else { return };
    let artefacts = staging.map_or(&checked.measured, |staging| &staging.artefacts);
    match changes::since(published, recipe, artefacts, &checked.dependencies, &checked.capabilities) {
        Ok(changes) => {
            capability::compare(recipe, &changes, &checked.capabilities, &mut checked.findings);
            checked.changes = Some(changes);
        }
        Err(error) => {
            let finding = rules::PUBLISHED.find("name", chain(&error)).at(recipe.file(), Some(recipe.place("name")));
            checked.findings.push(finding.fix("name the site and the trust root that hosts use, or mend the site"));
        }
    }
}

/// One byte more than the parser allows, so that it can say so.
fn read_recipe(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(Recipe::BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn stage(
    bytes: &[u8],
    shown: &str,
    folder: &Path,
    options: &CheckOptions,
    checked: &mut Checked,
) -> Result<Option<Staging>, CheckError> {
    let findings = &mut checked.findings;
    let Ok(text) = std::str::from_utf8(bytes) else {
        findings.push(rules::RECIPE.find("", "the file is not UTF-8").at(shown, None));
        return Ok(None);
    };
    let mut recipe = match Recipe::parse(text, shown) {
        Ok(recipe) => recipe,
        Err(errors) => {
            findings.push_recipe(&errors);
            return Ok(None);
        }
    };
    rules::invisible_text(text, shown, findings);
    rules::similar_names(&recipe, Path::new(shown), findings);
    let (mut artefacts, mut launches) = (Vec::with_capacity(recipe.artefact.len()), Vec::new());
    let mut carried = Vec::new();
    let mut observations = Vec::new();
    for (index, source) in recipe.artefact.iter().enumerate() {
        let field = recipe.artefact_field(index);
        let made = artefact(&recipe, source, &field, folder, options, findings, &mut (&mut carried, &mut observations));
        if let Some((artefact, launch)) = made {
            artefacts.push(artefact);
            launches.push(launch);
        }
    }
    for (platform, Carried { inventory, capabilities }) in carried {
        checked.dependencies.push((platform.clone(), inventory));
        checked.capabilities.push((platform, capabilities));
    }
    checked.observations.extend(observations);
    launch::settle(&mut recipe, launches, findings);
    // Last: the launch is part of what is signed, and may be the artefact's.
    rules::recipe(&recipe, options.registry.as_ref(), options.now, findings);
    artefacts.sort_by(|a: &StagedArtefact, b| a.platform.cmp(&b.platform));
    let complete = artefacts.len() == recipe.artefact.len();
    let recipe_file = format!("{}.yaml", recipe.name);
    checked.recipe = Some(recipe);
    if !complete {
        checked.measured = artefacts;
        return Ok(None);
    }
    let recipe_sha256 = Digest::of(bytes);
    let record = CheckRecord {
        schema: String::new(),
        recipe: recipe_sha256,
        artefacts: Vec::new(),
        verdict: Verdict::Fail,
        policy: options.gate.digest(),
        findings: Digest::EMPTY,
        checked_at: options.now,
        checker: String::new(),
        waivers: Vec::new(),
        sources: Vec::new(),
        observations: Vec::new(),
        tools: Vec::new(),
    };
    Ok(Some(Staging {
        folder: folder.to_owned(),
        recipe_file,
        recipe: text.to_owned(),
        recipe_sha256,
        artefacts,
        findings: Findings::new(),
        record,
        gate: options.gate.clone(),
        answers: Answers::default(),
    }))
}

const PLAIN_REGISTRY: &str = "the registry was asked without encryption; only the digest protects the artefact";

/// Fetches and packs one artefact; what is wrong with it becomes a finding at `field`.
fn artefact(
    recipe: &Recipe,
    source: &ArtefactSource,
    field: &str,
    folder: &Path,
    options: &CheckOptions,
    findings: &mut Findings,
    (all, observations): &mut (&mut Vec<(Platform, Carried)>, &mut Vec<Observation>),
) -> Option<(StagedArtefact, Option<Launch>)> {
    let places = Places::new(folder);
    let mut refuse = |rule: &Rule, part: &str, message: String, fix: Option<String>| {
        let subject = format!("{field}{part}");
        let mut finding = rule.find(&subject, message).at(recipe.file(), Some(recipe.place(&subject)));
        finding.fix = fix;
        findings.push(finding);
    };
    let beside = Path::new(recipe.file()).parent().unwrap_or(Path::new("."));
    let fetched = match fetch::fetch(source, &options.fetch, beside, &places.artefacts()) {
        Ok(fetched) => fetched,
        Err(error) => {
            let (rule, part) = match &error {
                fetch::FetchError::Digest { .. } => (&rules::DIGEST, ".sha256"),
                fetch::FetchError::Source(error) if error.is_moved_tag() => (&rules::TAG_MOVED, ".commit"),
                _ => (&rules::FETCH, ".url"),
            };
            refuse(rule, part, chain(&error), error.fix());
            return None;
        }
    };
    let file = match File::open(&fetched.path) {
        Ok(file) => file,
        Err(error) => {
            refuse(&rules::FETCH, ".url", chain(&error), None);
            return None;
        }
    };
    for note in &fetched.notes {
        let (rule, message, fix) = match note {
            FetchNote::Said(message) => (&rules::SOURCE, message.clone(), None),
            FetchNote::PlainHttp => (&rules::PLAIN_HTTP, PLAIN_REGISTRY.to_owned(), Some("use a registry with https")),
            FetchNote::MovedTag(message) => (
                &rules::IMAGE_TAG,
                message.clone(),
                Some("if the new content is meant, review it and pin its digest; the pinned one is what is published"),
            ),
        };
        refuse(rule, ".url", message, fix.map(str::to_owned));
    }
    let archive = match unpack::of_source(source, file, &places.artefacts(), folder) {
        Ok(archive) => archive,
        Err(error) => {
            refuse(&rules::ARCHIVE, "", chain(&error), None);
            return None;
        }
    };
    let tree = match pack::tree(&archive.entries) {
        Ok(tree) => tree,
        Err(error) => {
            refuse(&rules::ARCHIVE, "", chain(&error), None);
            return None;
        }
    };
    let mut said = Findings::new();
    let launch = launch::of_artefact(recipe, source, field, (&archive, &tree), &mut said);
    let mut store = ChunkStore::new(&places.chunks(), options.level, options.known.clone());
    let mut put = |plain: &[u8]| store.put(plain);
    let packed = match pack::pack(&source.platform, &tree, &archive.spool, launch.as_ref(), &mut put) {
        Ok(packed) => packed,
        Err(error) => {
            refuse(&rules::ARCHIVE, "", chain(&error), None);
            return None;
        }
    };
    said.all().iter().cloned().for_each(|finding| findings.push(finding));
    let started = recipe.started_by(launch.as_ref());
    content::check(&started, field, &tree, &archive.remarks, findings);
    let found = carried(recipe, field, (&tree, &archive.spool), options.gate.policy(), findings);
    all.push((source.platform.clone(), found));
    if let Some(patterns) = &options.patterns {
        observations.extend(patterns.look(recipe, field, (&tree, &archive.spool), findings));
    }
    let staged = StagedArtefact {
        platform: source.platform.clone(),
        file: fetched.path,
        sha256: source.sha256,
        size: fetched.size,
        parts: fetched.parts,
        tree,
        layout: packed.layout,
        listed: packed.listed,
    };
    Some((staged, launch))
}

/// What one artefact carries.
pub(crate) struct Carried {
    pub(crate) inventory: Inventory,
    capabilities: Capabilities,
}

/// The rules about what an artefact carries; also for staging that is read back.
pub(crate) fn carried(
    recipe: &Recipe,
    field: &str,
    (tree, spool): (&Tree, &Spool),
    policy: Option<&Policy>,
    findings: &mut Findings,
) -> Carried {
    let mut content = |id, limit| {
        let Some(Kind::File { sha256, size, .. }) = tree.node(id).map(|node| node.kind) else {
            return Err("is not a file".to_owned());
        };
        let mut bytes = Vec::new();
        match spool.reader(&sha256) {
            Some(reader) => reader.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?,
            None if size == 0 => 0,
            None => return Err("is not in the artefact".to_owned()),
        };
        Ok(bytes)
    };
    let inventory = Inventory::read(tree, &mut content);
    let capabilities = Capabilities::read(tree, None, &mut content);
    inventory.check(recipe, field, policy, findings);
    let native = dependencies::native(tree, spool);
    if recipe.runs_anywhere(field)
        && let Some(path) = dependencies::for_one_platform(&native)
    {
        let message = format!("is said to run anywhere, but {path} is machine code for one platform");
        let finding = rules::NATIVE_PLATFORM.find(field, message).fix("add platform, such as linux/amd64");
        findings.push(finding.at(recipe.file(), Some(recipe.place(field))));
    }
    findings.extend_bounded(native.into_iter().map(|(subject, message)| {
        rules::NATIVE_CODE.find(&subject, message).at(recipe.file(), Some(recipe.place(field)))
    }));
    capabilities.check(recipe, field, findings);
    Carried { inventory, capabilities }
}

/// The rules about the recipe, for staging that is read back.
pub(crate) fn again(recipe: &Recipe, now: Timestamp, findings: &mut Findings) {
    rules::recipe(recipe, None, now, findings);
}

/// The rules about content and launch, for staging that is read back.
pub(crate) use content::check as content_again;
pub(crate) use launch::{of_artefact as launch_again, settle as settle_again};

/// An error and its reasons in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// The names of the other recipes beside `file`, by their file names alone.
fn neighbours(file: &Path, ending: &str) -> Vec<String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect();
    names.sort();
    names
}
