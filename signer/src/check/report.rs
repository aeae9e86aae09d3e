//! One check in the form that its reader needs.
//!
//! | form | for |
//! |---|---|
//! | text | a terminal |
//! | JSON | programs of one's own |
//! | SARIF 2.1.0 | code scanning of a forge: findings at the lines of the recipe |
//! | Markdown | a pull request's comment, from which a reviewer decides |
//!
//! All forms say the same; none of them decides anything.

mod markdown;
mod sarif;
mod trial;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::Platform;
use serde::Serialize;
use serde_json::json;

use super::advisories::{Hit, Level};
use super::changes::{Changes, Gained, Paths, PlatformChanges};
use super::dependencies::{Ecosystem, Package};
use super::{Capabilities, Checked, Findings, Inventory, Observation, PlatformTrial};

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for a terminal
    Text,
    /// One JSON value
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// A comment for a pull request
    Markdown,
}

/// The report of a check of the recipe `file`, ending in a newline.
pub fn report(format: Format, file: &str, checked: &Checked) -> String {
    match format {
        Format::Text => text(checked),
        Format::Json => format!("{}\n", json!(Report::of(checked))),
        Format::Sarif => sarif::report(checked),
        Format::Markdown => markdown::report(file, checked),
    }
}

/// The JSON form; `mcpfs-signer schema report` prints its JSON Schema.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(deny_unknown_fields, title = "mcpfs check report")]
pub struct Report<'a> {
    /// What was found, errors first.
    findings: &'a Findings,
    /// Whether there are no errors that nobody waived.
    passed: bool,
    /// The files and answers that the verdict rests on besides recipe and artefacts.
    #[serde(skip_serializing_if = "Option::is_none")]
    sources: Option<&'a Vec<String>>,
    /// What each readable artefact carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    dependencies: Option<Vec<Carried<'a>>>,
    /// Known vulnerabilities of these packages, if they were looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    vulnerabilities: Option<Vec<Hit>>,
    /// What the code of each readable artefact can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Vec<Able<'a>>>,
    /// What was looked at that signing does not look at again.
    #[serde(skip_serializing_if = "Option::is_none")]
    observations: Option<&'a Vec<Observation>>,
    /// The digest of the check record, for `publish --record`.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Digest>,
    /// What differs from the published release, if one was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<&'a Changes>,
    /// What trials showed, if any were made; docs/publishing.md describes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    trial: Option<&'a Vec<PlatformTrial>>,
}

/// The packages of one platform's artefact.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Carried<'a> {
    /// The platform.
    platform: &'a Platform,
    /// Its packages.
    packages: &'a BTreeSet<Package>,
}

/// What the code of one platform's artefact can do.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Able<'a> {
    #[serde(flatten)]
    all: &'a Capabilities,
    /// The platform.
    platform: &'a Platform,
}

impl<'a> Report<'a> {
    fn of(checked: &'a Checked) -> Self {
        let carried =
            |(platform, inventory): &'a (Platform, Inventory)| Carried { platform, packages: &inventory.packages };
        let able = |(platform, all): &'a (Platform, Capabilities)| Able { all, platform };
        Self {
            findings: &checked.findings,
            passed: !checked.findings.has_errors(),
            sources: Some(&checked.sources).filter(|sources| !sources.is_empty()),
            dependencies: Some(checked.dependencies.iter().map(carried).collect())
                .filter(|list: &Vec<_>| !list.is_empty()),
            vulnerabilities: (!checked.answers.is_empty()).then(|| checked.answers.vulnerabilities()),
            capabilities: Some(checked.capabilities.iter().map(able).collect())
                .filter(|list: &Vec<_>| !list.is_empty()),
            observations: Some(&checked.observations).filter(|list| !list.is_empty()),
            record: checked.record,
            changes: checked.changes.as_ref(),
            trial: Some(&checked.trials).filter(|trials| !trials.is_empty()),
        }
    }
}

fn text(checked: &Checked) -> String {
    let mut text = format!("{}\n", checked.findings);
    for (platform, inventory) in &checked.dependencies {
        let _ = writeln!(text, "dependencies ({platform}): {}", inventory.counts());
    }
    if let Some(known) = known(checked) {
        let _ = writeln!(text, "known vulnerabilities: {known}");
    }
    for (platform, all) in checked.capabilities.iter().filter(|(_, all)| !all.packages.is_empty()) {
        let _ = writeln!(text, "capabilities ({platform}): {}", all.counts());
    }
    if let Some(changes) = &checked.changes {
        text.push_str(&changes_text(changes));
    }
    text.push_str(&trial::text(&checked.trials));
    if let Some(record) = checked.record {
        let _ = writeln!(text, "record {record}");
    }
    text
}

/// `2 (1 critical, 1 low)`, or that nobody asked; `None` if there is nothing to ask about.
fn known(checked: &Checked) -> Option<String> {
    if checked.dependencies.iter().all(|(_, inventory)| inventory.packages.is_empty()) {
        return None;
    }
    if checked.answers.is_empty() {
        return Some("not looked up".to_owned());
    }
    let found = checked.answers.vulnerabilities();
    if found.is_empty() {
        // "None" only of what was answered: a question without an answer is a finding.
        let whole = checked.answers.is_complete();
        return Some(if whole { "none" } else { "not all could be looked up" }.to_owned());
    }
    let mut levels: Vec<(Level, usize)> = Vec::new();
    for hit in &found {
        match levels.last_mut() {
            Some((level, count)) if *level == hit.level => *count += 1,
            _ => levels.push((hit.level, 1)),
        }
    }
    let levels: Vec<String> = levels.iter().map(|(level, count)| format!("{count} {level}")).collect();
    Some(format!("{} ({})", found.len(), levels.join(", ")))
}

/// Paths of one list that a terminal shows; JSON has more.
const SHOWN: usize = 20;

fn changes_text(changes: &Changes) -> String {
    let Some(previous) = &changes.previous else { return "changes: the server is new\n".to_owned() };
    let mut text = format!("changes since {} (statement {})\n", previous.version, previous.statement.short());
    if changes.published_already {
        text.push_str("· this version is published already, and a published version never changes\n");
    }
    for change in &changes.fields {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        let _ = writeln!(text, "· {}: {} -> {}", change.field, value(&change.before), value(&change.after));
    }
    for platform in &changes.platforms {
        let counts = platform.counts();
        let _ = writeln!(text, "· files ({}): {counts}", platform.platform);
        for (mark, list) in [("+", &platform.added), ("-", &platform.removed), ("~", &platform.changed)] {
            lines(&mut text, mark, list);
        }
        lines(&mut text, "new executable:", &platform.executables);
        lines(&mut text, "new package:", &platform.packages_added);
        lines(&mut text, "package gone:", &platform.packages_removed);
        lines(&mut text, "package changed:", &platform.packages_changed);
        lines(&mut text, "new capability:", &platform.capabilities_added.shown());
        lines(&mut text, "capability gone:", &platform.capabilities_removed);
    }
    text
}

fn lines(text: &mut String, mark: &str, list: &Paths) {
    let shown = list.paths.len().min(SHOWN);
    for path in &list.paths[..shown] {
        let _ = writeln!(text, "    {mark} {path}");
    }
    if list.count > shown {
        let _ = writeln!(text, "    {mark} and {} more", list.count - shown);
    }
}

impl Inventory {
    /// `93 npm packages, 2 pypi packages`
    fn counts(&self) -> String {
        if self.packages.is_empty() {
            return "the artefact lists none".to_owned();
        }
        let count = |name| self.packages.iter().filter(|package| package.ecosystem == name).count();
        let counts = Ecosystem::ALL.map(|name| (count(name), name));
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        let counts = counts.map(|(count, name)| format!("{count} {name} package{}", if count == 1 { "" } else { "s" }));
        counts.collect::<Vec<_>>().join(", ")
    }
}

impl Gained {
    /// `npm:lodash exec (node_modules/lodash/x.js:3 child_process)`
    fn shown(&self) -> Paths {
        let shown = self.first.iter().map(|new| format!("{} {} ({})", new.package, new.capability, new.evidence));
        Paths { count: self.count, paths: shown.collect() }
    }
}

impl PlatformChanges {
    /// `3 added, 1 removed, 2 changed, 1 new executable`
    fn counts(&self) -> String {
        if self.is_empty() {
            return "none changed".to_owned();
        }
        let executables = match self.executables.count {
            0 => String::new(),
            1 => ", 1 new executable".to_owned(),
            count => format!(", {count} new executables"),
        };
        let (added, removed, changed) = (self.added.count, self.removed.count, self.changed.count);
        format!("{added} added, {removed} removed, {changed} changed{executables}")
    }
}
