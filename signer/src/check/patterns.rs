//! Malicious patterns: what code must not look like.
//!
//! The rules are YARA, which security teams have and can write: a set of our own, documented in
//! docs/patterns.md and built in, and any folders that are named. The engine is a program of its
//! own, `mcpfs-yara` (`engine`), for it takes minutes to build and reads hostile files with a
//! compiler inside. A match is a finding with the rule, the file and the line; how much it weighs
//! is said by the rule's own `severity`.
//!
//! Looking is an observation: signing does not look again (docs/decisions/0005-observations), the findings are
//! bound by the check record. A policy demands the look with `require: [patterns]`. What could
//! not be looked at (no engine, a crash, a time limit, a rule that does not compile) is a finding,
//! so that "nothing was found" never means "nobody looked".

mod engine;
mod protocol;
mod ruleset;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::tree::{Kind, NodeId, Tree};

use super::finding::{Finding, Findings};
use super::record::{Look, Observation};
use super::rules::{self, Rule};
use crate::recipe::Recipe;
use crate::unpack::Spool;

use engine::{Engine, EngineError};
use protocol::{FILE_BYTES, Match};
pub use ruleset::{RuleSet, RuleSetError, RuleSource};

/// How to look for patterns.
#[derive(Debug, Clone)]
pub struct Patterns {
    /// The rules.
    pub rules: RuleSet,
    /// The engine; if absent, the one beside this program, else the one in `PATH`.
    pub engine: Option<PathBuf>,
    /// How long a look at one artefact may take.
    pub limit: Duration,
}

impl Patterns {
    /// Time for one artefact: a gigabyte takes about half a minute.
    pub const LIMIT: Duration = Duration::from_secs(600);

    /// Looks at all files of an artefact, which stands at `field` of the recipe; `None` if it was
    /// not looked at whole.
    pub(super) fn look(
        &self,
        recipe: &Recipe,
        field: &str,
        (tree, spool): (&Tree, &Spool),
        findings: &mut Findings,
    ) -> Option<Observation> {
        let mut found = Found::default();
        let looked = self.look_at(tree, spool, &mut found);
        let place = Some(recipe.place(field));
        let observation = match looked {
            Ok(tool) => Some(Observation { kind: Look::Patterns, tool: bounded(&tool), result: found.digest() }),
            Err(error) => {
                let finding = rules::PATTERN_ENGINE.find(field, super::chain(&error)).fix(error.fix());
                findings.push(finding.at(recipe.file(), place));
                None
            }
        };
        for all in [found.rules, found.unscanned, found.errors, found.warnings, found.notes] {
            findings.extend_bounded(all.into_iter().map(|finding| finding.at(recipe.file(), place)));
        }
        observation
    }

    fn look_at(&self, tree: &Tree, spool: &Spool, found: &mut Found) -> Result<String, EngineError> {
        let path = self.engine.clone().or_else(engine::find).ok_or(EngineError::Missing)?;
        let mut engine = Engine::start(&path, self.limit)?;
        for file in self.rules.files() {
            if let Some(problem) = engine.rules(&file.name, &file.text)? {
                let message = format!("does not compile, so it finds nothing: {problem}");
                found
                    .rules
                    .push(rules::PATTERN_RULE.find(&file.name, message).fix("mend it, or take it out of the folder"));
            }
        }
        if engine.ready()? == 0 {
            return Err(EngineError::NoRules);
        }
        for (sha256, (size, nodes)) in contents(tree) {
            let paths = || nodes.iter().map(|id| tree.path(*id));
            let mut bytes = Vec::new();
            let read = match spool.reader(&sha256) {
                _ if size > FILE_BYTES => Err(format!("has more than {FILE_BYTES} bytes")),
                Some(mut reader) => reader.read_to_end(&mut bytes).map(drop).map_err(|error| error.to_string()),
                None if size == 0 => Ok(()),
                None => Err("is not in the artefact".to_owned()),
            };
            let answer = match read {
                Ok(()) => engine.scan(&bytes)?,
                Err(reason) => Err(reason),
            };
            match answer {
                Ok(matches) => paths().for_each(|path| matches.iter().for_each(|one| found.matched(&path, one))),
                Err(reason) => paths().for_each(|path| {
                    let message = format!("was not looked at for patterns: {reason}");
                    found.unscanned.push(
                        rules::PATTERN_UNSCANNED.find(&path, message).fix("look at it, and waive this with the reason"),
                    );
                }),
            }
        }
        let tool = format!("{}, {}", engine.said(), self.rules.sources().join(", "));
        engine.end()?;
        Ok(tool)
    }
}

/// Each content once, in the order of the tree, with the files that have it.
fn contents(tree: &Tree) -> impl Iterator<Item = (Digest, (u64, Vec<NodeId>))> {
    let mut order: Vec<Digest> = Vec::new();
    let mut all: BTreeMap<Digest, (u64, Vec<NodeId>)> = BTreeMap::new();
    for id in (1..tree.len()).map(NodeId) {
        if let Some(Kind::File { sha256, size, .. }) = tree.node(id).map(|node| node.kind) {
            let known = all.entry(sha256).or_insert_with(|| {
                order.push(sha256);
                (size, Vec::new())
            });
            known.1.push(id);
        }
    }
    order.into_iter().filter_map(move |sha256| Some((sha256, all.remove(&sha256)?)))
}

#[derive(Default)]
struct Found {
    rules: Vec<Finding>,
    unscanned: Vec<Finding>,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    notes: Vec<Finding>,
}

impl Found {
    fn matched(&mut self, path: &str, one: &Match) {
        let text = |name: &str| one.meta.get(name).map(String::as_str);
        if text("path_include").is_some_and(|patterns| !is_included(path, patterns)) {
            return;
        }
        let (rule, findings): (&Rule, _) = match text("severity").map(str::to_ascii_lowercase).as_deref() {
            Some("error" | "critical") => (&rules::PATTERN, &mut self.errors),
            Some("note" | "info" | "low") => (&rules::PATTERN_NOTE, &mut self.notes),
            // Of rules that say nothing or have words of their own.
            _ => (&rules::PATTERN_SUSPECT, &mut self.warnings),
        };
        let description = bounded(text("description").unwrap_or("matches a rule that does not describe itself"));
        let line = one.line.map(|line| format!(", line {line}")).unwrap_or_default();
        let message = format!("{description} ({}{line})", one.file);
        let finding = rule.find(&format!("{} {path}", one.rule), message);
        findings.push(finding.fix(bounded(text("fix").unwrap_or("look at that file, and ask what it is for"))));
    }

    /// Of all that was found, for the record.
    fn digest(&self) -> Digest {
        let all = [&self.rules, &self.unscanned, &self.errors, &self.warnings, &self.notes];
        Digest::of(&mcpfs_trust::json::encode(&all.into_iter().flatten().collect::<Vec<_>>()))
    }
}

/// Whether one of the patterns, separated by commas, fits the path: `*` stands for any text,
/// also across folders.
fn is_included(path: &str, patterns: &str) -> bool {
    patterns.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).any(|pattern| fits(path, pattern))
}

fn fits(path: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| path.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(middle) = last.replace(part) {
            let Some(at) = rest.find(middle) else { return false };
            rest = &rest[at + middle.len()..];
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}
