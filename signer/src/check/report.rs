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

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use serde_json::json;

use super::changes::{Changes, Gained, Paths, PlatformChanges};
use super::{Checked, Inventory};

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
        Format::Json => format!("{}\n", json(checked)),
        Format::Sarif => sarif::report(checked),
        Format::Markdown => markdown::report(file, checked),
    }
}

fn json(checked: &Checked) -> serde_json::Value {
    let mut value = json!({"findings": checked.findings, "passed": !checked.findings.has_errors()});
    if let (false, Some(map)) = (checked.sources.is_empty(), value.as_object_mut()) {
        map.insert("sources".to_owned(), json!(checked.sources));
    }
    if let (false, Some(map)) = (checked.dependencies.is_empty(), value.as_object_mut()) {
        let listed = checked
            .dependencies
            .iter()
            .map(|(platform, inventory)| json!({"platform": platform, "packages": inventory.packages}));
        map.insert("dependencies".to_owned(), listed.collect());
    }
    if let (false, Some(map)) = (checked.capabilities.is_empty(), value.as_object_mut()) {
        let listed = checked.capabilities.iter().map(|(platform, all)| {
            let mut one = json!(all);
            one.as_object_mut().map(|one| one.insert("platform".to_owned(), json!(platform)));
            one
        });
        map.insert("capabilities".to_owned(), listed.collect());
    }
    if let (false, Some(map)) = (checked.observations.is_empty(), value.as_object_mut()) {
        map.insert("observations".to_owned(), json!(checked.observations));
    }
    if let (Some(record), Some(map)) = (checked.record, value.as_object_mut()) {
        map.insert("record".to_owned(), json!(record));
    }
    if let (Some(changes), Some(map)) = (&checked.changes, value.as_object_mut()) {
        map.insert("changes".to_owned(), json!(changes));
    }
    value
}

fn text(checked: &Checked) -> String {
    let mut text = format!("{}\n", checked.findings);
    for (platform, inventory) in checked.dependencies.iter().filter(|(_, one)| !one.packages.is_empty()) {
        let _ = writeln!(text, "dependencies ({platform}): {}", inventory.counts());
    }
    for (platform, all) in checked.capabilities.iter().filter(|(_, all)| !all.packages.is_empty()) {
        let _ = writeln!(text, "capabilities ({platform}): {}", all.counts());
    }
    if let Some(changes) = &checked.changes {
        text.push_str(&changes_text(changes));
    }
    if let Some(record) = checked.record {
        let _ = writeln!(text, "record {record}");
    }
    text
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
        let count = |name: &str| self.packages.iter().filter(|package| package.ecosystem == name).count();
        let counts = ["npm", "pypi"].map(|name| (count(name), name));
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
