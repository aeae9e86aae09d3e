//! What trials find, and what became of a server's tools since the published version.
//!
//! A trial is made of each artefact that this machine can start. With a site to compare with, the
//! published version is tried in the same way: what its tools were is nowhere written down, and a
//! description that changed is how a server that was once approved turns (a "rug pull"). No format
//! carries tool definitions for this; the published tree, verified as a host verifies it, is enough.

mod tools;

use std::fs::File;
use std::path::Path;

use mcpfs_trust::details::Tool;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::name::{Platform, Version};
use mcpfs_trust::release::{Launch, Network};
use mcpfs_trust::text::visible;
use serde::Serialize;

use super::changes::{self, PublishedFiles, PublishedRelease};
use super::finding::Findings;
use super::rules::{
    RUN_ARGUMENT, RUN_END, RUN_IMPOSSIBLE, RUN_LIMIT, RUN_NETWORK, RUN_PROGRAM, RUN_READ, RUN_SKIPPED, RUN_START,
    RUN_STDOUT, RUN_UNSEEN, RUN_WRITE, Rule, TOOL_CHANGED,
};
use super::{Look, Observation, Published, chain};
use crate::details;
use crate::recipe::Recipe;
use crate::site::SiteError;
use crate::staging::StagedArtefact;
use crate::trial::{self, FromSpool, Subject, Trial, TrialError, TrialOptions, Trouble};
use crate::unpack;

pub(crate) use tools::around;
pub use tools::{ToolChange, ToolChanges};

/// The trial of one artefact.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlatformTrial {
    /// Its platform.
    pub platform: Platform,
    /// What it showed.
    #[serde(flatten)]
    pub trial: Trial,
    /// What became of the tools, if the published version was tried too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_changes: Option<ToolChanges>,
}

/// What is tried.
pub(super) struct About<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) artefacts: &'a [StagedArtefact],
    pub(super) folder: &'a Path,
    pub(super) published: Option<&'a Published>,
}

/// Tries everything that this machine can start.
pub(super) fn make(about: &About<'_>, options: &TrialOptions, findings: &mut Findings) -> Vec<PlatformTrial> {
    let recipe = about.recipe;
    let mut out = Found { recipe, findings };
    // Without a launch there is nothing to start, and a rule of its own says so.
    let Some(launch) = &recipe.launch else { return Vec::new() };
    let here = Platform::from_rust(std::env::consts::OS, std::env::consts::ARCH);
    let mut made = Vec::new();
    for artefact in about.artefacts {
        if !artefact.platform.is_any() && artefact.platform != here {
            let message = format!("the artefact for {} was not tried: this machine is {here}", artefact.platform);
            out.push(&RUN_SKIPPED, "launch", message, "check it on a machine of that platform too");
            continue;
        }
        let trial = match new(about, artefact, launch, options) {
            Ok(trial) => trial,
            Err((message, fix)) => {
                out.push(&RUN_IMPOSSIBLE, "launch", message, fix);
                continue;
            }
        };
        out.conversation(&trial, launch);
        out.deeds(&trial);
        let tool_changes = about.published.and_then(|published| out.tools(about, published, artefact, &trial, options));
        made.push(PlatformTrial { platform: artefact.platform.clone(), trial, tool_changes });
    }
    made
}

/// What the check record says of it.
pub(super) fn observation(trials: &[PlatformTrial]) -> Option<Observation> {
    let result = Digest::of(&serde_json::to_vec(trials).ok().filter(|_| !trials.is_empty())?);
    let tool = concat!("mcpfs-signer ", env!("CARGO_PKG_VERSION"), ", bubblewrap and strace").to_owned();
    Some(Observation { kind: Look::Trial, tool, result })
}

/// The tools of the first trial that met some: what is published says what the server offers.
pub(super) fn tools_of(trials: &[PlatformTrial]) -> Vec<Tool> {
    let tool = |tool: &trial::Tool| Tool {
        name: bounded(&tool.name),
        description: bounded_to(&tool.description, details::TOOL_TEXT),
    };
    trials
        .iter()
        .map(|one| &one.trial.tools)
        .find(|tools| !tools.is_empty())
        .map(|tools| tools.iter().take(details::TOOLS).map(tool).collect())
        .unwrap_or_default()
}

fn bounded_to(text: &str, characters: usize) -> String {
    let short: String = text.chars().take(characters).collect();
    let mark = if short.len() < text.len() { "…" } else { "" };
    format!("{}{mark}", visible(&short))
}

fn new(
    about: &About<'_>,
    artefact: &StagedArtefact,
    launch: &Launch,
    options: &TrialOptions,
) -> Result<Trial, (String, String)> {
    let unread = |error: &dyn std::error::Error| (format!("cannot be read again: {}", chain(error)), String::new());
    let source = about.recipe.artefact.iter().find(|source| source.platform == artefact.platform);
    let (Some(source), Some(beside)) = (source, artefact.file.parent()) else {
        return Err(("is not in the recipe".to_owned(), String::new()));
    };
    let file = File::open(&artefact.file).map_err(|error| unread(&error))?;
    let archive = unpack::of_source(source, file, beside, about.folder).map_err(|error| unread(&error))?;
    let subject = Subject {
        name: &about.recipe.name,
        version: &about.recipe.version,
        launch,
        credentials: &about.recipe.credentials,
        tree: &artefact.tree,
    };
    trial::run(&subject, &mut FromSpool(&archive.spool), about.folder, options).map_err(impossible)
}

fn impossible(error: TrialError) -> (String, String) {
    (format!("no trial could be made: {}", chain(&error)), error.fix())
}

/// Findings of a trial; they stand at the recipe's launch.
struct Found<'a> {
    recipe: &'a Recipe,
    findings: &'a mut Findings,
}

impl Found<'_> {
    fn push(&mut self, rule: &Rule, subject: &str, message: String, fix: impl Into<String>) {
        let place = Some(self.recipe.place("launch"));
        let finding = rule.find(subject, message).at(self.recipe.file(), place);
        let fix = fix.into();
        self.findings.push(if fix.is_empty() { finding } else { finding.fix(fix) });
    }

    fn conversation(&mut self, trial: &Trial, launch: &Launch) {
        let said = trial.stderr.lines().rev().find(|line| !line.trim().is_empty()).map(bounded);
        let said = said.map(|line| format!("; its last words: {line}")).unwrap_or_default();
        let advice = trial::advice(trial, &launch.args).unwrap_or_default();
        let told =
            trial.troubles.iter().any(|trouble| !matches!(trouble, Trouble::Flood { .. } | Trouble::Lingers { .. }));
        if !told && !advice.is_empty() {
            self.push(&RUN_ARGUMENT, "launch.args", "it prints how it wants to be started".to_owned(), advice.clone());
        }
        for trouble in &trial.troubles {
            let (rule, message) = match trouble {
                Trouble::Silent { method, seconds } => {
                    (&RUN_START, format!("it did not answer {method} within {seconds} s{said}"))
                }
                Trouble::Gone { method, ended } => {
                    let how = ended.as_deref().map_or("closed its output".to_owned(), |how| format!("ended ({how})"));
                    (&RUN_START, format!("it {how} instead of answering {method}{said}"))
                }
                Trouble::Refused { method, message } => {
                    (&RUN_START, format!("it answered {method} with an error: {message}"))
                }
                Trouble::Answer { method, problem } => {
                    (&RUN_START, format!("its answer to {method} is not MCP's: {problem}"))
                }
                Trouble::Text { lines, count } => {
                    let first = lines.first().map(String::as_str).unwrap_or_default();
                    let more = if *count > 1 { format!(" (and {} more lines)", count - 1) } else { String::new() };
                    (&RUN_STDOUT, format!("it printed text on stdout that is not JSON-RPC: {first:?}{more}"))
                }
                Trouble::Flood { what } => (&RUN_LIMIT, format!("it was stopped for too many or too large {what}")),
                Trouble::Stopped => (&RUN_START, "it was stopped before it was done".to_owned()),
                Trouble::Lingers { seconds } => {
                    (&RUN_END, format!("it still runs {seconds} s after its input has ended"))
                }
            };
            let fix = match trouble {
                Trouble::Flood { .. } => String::new(),
                Trouble::Lingers { .. } => "end when standard input ends: hosts may leave it running".to_owned(),
                Trouble::Text { .. } if advice.is_empty() => "print to standard error instead".to_owned(),
                _ => advice.clone(),
            };
            self.push(rule, "launch", message, fix);
        }
    }

    fn deeds(&mut self, trial: &Trial) {
        let observed = &trial.observed;
        let place = Some(self.recipe.place("launch"));
        let file = self.recipe.file();
        let network = self.recipe.sandbox.as_ref().is_some_and(|sandbox| sandbox.network == Network::Host);
        let writes = observed.writes.iter().map(|write| {
            let message = format!("it wanted to write here ({}: {})", write.by, write.outcome);
            let finding = RUN_WRITE.find(&write.path, message).at(file, place);
            match trial.fixes.get(&write.path) {
                Some(fix) => finding.fix(fix.clone()),
                None => finding,
            }
        });
        self.findings.extend_bounded(writes);
        let reads = observed.reads.iter().map(|path| {
            let finding = RUN_READ.find(path, "it looked for this file, which a launched server does not have");
            finding.at(file, place).fix("if it needs the file, put it into the artefact; if not, ask why it looks")
        });
        self.findings.extend_bounded(reads);
        let reached = observed.network.iter().filter(|_| !network).map(|to| {
            let finding = RUN_NETWORK.find(to, "it tried to reach this").at(file, place);
            finding.fix("if it must, declare sandbox: {network: host} in the recipe; if not, switch it off")
        });
        self.findings.extend_bounded(reached);
        let programs = observed.programs.iter().map(|program| {
            let what = if program.began { "it started this program" } else { "it did not find this program" };
            let finding = RUN_PROGRAM.find(&program.path, format!("{what}, with {:?}", program.arguments));
            let finding = finding.at(file, place);
            match program.began || program.path.starts_with("${TREE}") {
                true => finding,
                false => finding.fix("if it needs the program, put it into the artefact"),
            }
        });
        self.findings.extend_bounded(programs);
        let unseen = observed.unseen.iter().map(|how| RUN_UNSEEN.find("launch", how).at(file, place));
        self.findings.extend_bounded(unseen);
    }

    /// What became of the tools; whatever keeps it from being known is a finding.
    fn tools(
        &mut self,
        about: &About<'_>,
        published: &Published,
        artefact: &StagedArtefact,
        trial: &Trial,
        options: &TrialOptions,
    ) -> Option<ToolChanges> {
        let (version, before) = match previous(about, published, artefact, options) {
            // A new server. That a site cannot be read is a finding of its own.
            Ok(None) => return None,
            Ok(Some((version, None))) => return Some(ToolChanges::between(&version, &[], &[])),
            Ok(Some((version, Some(before)))) => (version, before),
            Err(message) => {
                self.push(&RUN_SKIPPED, "launch", message, "compare the tools by hand");
                return None;
            }
        };
        if before.initialize_ms.is_none() {
            let message = format!("the published version {version} does not start in a trial: its tools are not known");
            self.push(&RUN_SKIPPED, "launch", message, "compare the tools by hand");
            return None;
        }
        let changes = ToolChanges::between(&version, &before.tools, &trial.tools);
        let place = Some(self.recipe.place("launch"));
        let found = changes.changed.iter().map(|change| {
            let finding = TOOL_CHANGED.find(&change.name, change.summary()).at(self.recipe.file(), place);
            finding.fix("read both texts: a model acts by what the description says")
        });
        self.findings.extend_bounded(found);
        Some(changes)
    }
}

/// The published version, tried; `None` inside if it is the same files started in the same way.
fn previous(
    about: &About<'_>,
    published: &Published,
    artefact: &StagedArtefact,
    options: &TrialOptions,
) -> Result<Option<(Version, Option<Trial>)>, String> {
    let recipe = about.recipe;
    let found = changes::published_release(published, &recipe.name, &artefact.platform);
    let Ok(Some(PublishedRelease { release, tree, stored })) = found else { return Ok(None) };
    let version = release.version.clone();
    let Some(launch) = &release.launch else {
        return Err(format!("the published version {version} has no launch: its tools are not known"));
    };
    if tree.summary() == artefact.tree.summary() && Some(launch) == recipe.launch.as_ref() {
        return Ok(Some((version, None)));
    }
    let subject = Subject {
        name: &release.name,
        version: &release.version,
        launch,
        credentials: &release.credentials,
        tree: &tree,
    };
    let options = TrialOptions { call: None, ..options.clone() };
    let unread = |error: SiteError| format!("the published version {version} cannot be read: {}", chain(&error));
    let mut files = PublishedFiles::open(&published.site, &tree, &stored).map_err(unread)?;
    let trial = trial::run(&subject, &mut files, about.folder, &options);
    let trial = trial.map_err(|error| {
        format!("the published version {version} could not be tried, so its tools are not known: {}", chain(&error))
    })?;
    Ok(Some((version, Some(trial))))
}
