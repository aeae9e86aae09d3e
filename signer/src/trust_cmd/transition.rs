//! The step from one trust root to the next: what changes, what stands against it, what to know.
//!
//! Each of two roots may be whole and the step between them still wrong, since hosts remember the
//! version, and sites still carry heads and releases that the old keys signed. `trust edit` asks here
//! before it writes, `trust diff` for two files, such as those before and after a commit.

use std::fmt::Write as _;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::root::{ReleaseRule, Role, Scope, TrustRoot};
use serde::Serialize;

/// One finding about a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Its name, which does not change.
    pub code: &'static str,
    /// What it is about, and what to do.
    pub detail: String,
}

/// A step from one root to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Transition {
    /// What changes, a line each: `+`, `-` or `~`, what, and how.
    pub changes: Vec<String>,
    /// What to know, and what to do next.
    pub notes: Vec<Remark>,
    /// What stands against it.
    pub problems: Vec<Remark>,
}

impl Remark {
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}", self.code, self.detail)
    }
}

/// A group of a scope in the words of messages.
pub(super) fn group_word(scope: &Scope, index: usize, groups: usize) -> String {
    match groups {
        1 => format!("scope {scope}"),
        _ => format!("scope {scope}, group {}", index + 1),
    }
}

/// The step between two whole roots.
pub fn between(old: &TrustRoot, new: &TrustRoot) -> Transition {
    let mut step = Transition { changes: changes(old, new), ..Transition::default() };
    step.numbers(old, new);
    step.groups(new);
    step.heads(old, new);
    step.scopes(old, new);
    step
}

impl Transition {
    fn problem(&mut self, code: &'static str, detail: impl Into<String>) {
        self.problems.push(Remark::new(code, detail));
    }

    fn note(&mut self, code: &'static str, detail: impl Into<String>) {
        self.notes.push(Remark::new(code, detail));
    }

    fn numbers(&mut self, old: &TrustRoot, new: &TrustRoot) {
        if old.registry != new.registry {
            let detail =
                format!("{} is another registry than {}: make it a root of its own", new.registry, old.registry);
            self.problem("other-registry", detail);
            return;
        }
        if old != new && new.version <= old.version {
            let detail = format!(
                "version {} does not rise above {}: hosts refuse another root of the version they have (TrustEquivocation), \
                 and a lower one (TrustRollback)",
                new.version, old.version
            );
            self.problem("version-not-raised", detail);
        }
        for (what, number) in [("version", new.version), ("epoch", new.epoch), ("minimum_head", new.minimum_head)] {
            if number == u64::MAX {
                let detail = format!("{what} {number} is the last there can be: nothing could follow");
                self.problem("nothing-follows", detail);
            }
        }
        if new.epoch < old.epoch {
            self.problem("epoch-lowered", format!("the epoch goes back from {} to {}", old.epoch, new.epoch));
        }
        if new.epoch == old.epoch && new.minimum_head < old.minimum_head {
            let detail = format!(
                "minimum_head goes back from {} to {}: a new host would believe older heads. It may, with a new epoch",
                old.minimum_head, new.minimum_head
            );
            self.problem("minimum-head-lowered", detail);
        }
        if new.epoch == old.epoch && new.minimum_head > old.minimum_head {
            let detail = format!(
                "minimum_head rises to {}: the site's head must have that number already, else neither hosts nor this \
                 signer believe it; --site says",
                new.minimum_head
            );
            self.note("minimum-head", detail);
        }
        if new.epoch > old.epoch {
            self.note(
                "new-epoch",
                "hosts that get it forget their newest head and the revocations they saw, and believe nothing but heads of \
                 this epoch: publish the first one by `publish --resign --new-epoch`",
            );
            if new.minimum_head <= old.minimum_head {
                self.note(
                    "minimum-head",
                    "minimum_head stays: set it to the first head of the new epoch, so that new hosts believe no other",
                );
            }
        }
    }

    /// Within one root: people that count for several.
    fn groups(&mut self, new: &TrustRoot) {
        for rule in &new.release {
            let mut seen: Vec<Digest> = Vec::new();
            for id in rule.require.iter().flat_map(|role| &role.keys) {
                match seen.contains(id) {
                    true => self.problem(
                        "one-for-two-groups",
                        format!(
                            "scope {}: key {} stands in two of its groups, so one person would meet both",
                            rule.scope,
                            id.short()
                        ),
                    ),
                    false => seen.push(*id),
                }
            }
        }
    }

    fn heads(&mut self, old: &TrustRoot, new: &TrustRoot) {
        let kept = old.head.keys.iter().filter(|id| new.head.keys.contains(id)).count();
        if kept < new.head.threshold.get() as usize && new.epoch == old.epoch {
            self.note(
                "head-not-covered",
                "no head that the old keys signed counts under this root. Have it signed by old and new keys (several \
                 --head-key) before hosts get it, else they refuse what they are served until then",
            );
        }
        if new.head.keys.len() == new.head.threshold.get() as usize {
            self.note(
                "no-spare-head-key",
                "there is no spare head key: if a token is lost, nothing can be published until each host has another root",
            );
        }
        weaker(self, "heads", &old.head, &new.head);
    }

    fn scopes(&mut self, old: &TrustRoot, new: &TrustRoot) {
        for rule in &old.release {
            match rule_of(new, &rule.scope) {
                None => {
                    let detail = format!(
                        "scope {} goes: its names are decided by the next wider scope, or by nobody. --site says what \
                         that does to releases",
                        rule.scope
                    );
                    self.note("scope-removed", detail);
                }
                Some(now) if now.require.len() < rule.require.len() => {
                    let detail = format!("scope {} needs fewer groups than before", rule.scope);
                    self.note("weaker", detail);
                }
                Some(now) => {
                    for (index, (before, after)) in rule.require.iter().zip(&now.require).enumerate() {
                        weaker(self, &group_word(&rule.scope, index, now.require.len()), before, after);
                    }
                }
            }
        }
        for rule in new.release.iter().filter(|rule| rule_of(old, &rule.scope).is_none()) {
            let Some(before) = decided_before(old, &rule.scope) else { continue };
            if needed(rule) < needed(before) {
                let detail = format!(
                    "scope {}: {} signatures are enough where scope {} needed {}",
                    rule.scope,
                    needed(rule),
                    before.scope,
                    needed(before)
                );
                self.note("weaker", detail);
            }
        }
        let gone = old.keys().filter(|(id, ..)| new.key(id).is_none());
        let gone: Vec<String> =
            gone.filter(|(id, ..)| !old.head.keys.contains(id)).map(|(id, ..)| id.short()).collect();
        if !gone.is_empty() {
            let detail = format!(
                "releases that only {} signed stop verifying on each host that gets this root; --site says which, and \
                 `countersign` signs them again before",
                gone.join(" and ")
            );
            self.note("release-key-removed", detail);
        }
    }
}

fn weaker(step: &mut Transition, what: &str, old: &Role, new: &Role) {
    if new.threshold < old.threshold {
        step.note(
            "weaker",
            format!("{what}: {} signatures are enough where {} were needed", new.threshold, old.threshold),
        );
    }
}

fn rule_of<'r>(root: &'r TrustRoot, scope: &Scope) -> Option<&'r ReleaseRule> {
    root.release.iter().find(|rule| rule.scope == *scope)
}

/// The rule that decided all names of a scope that was not there.
fn decided_before<'r>(root: &'r TrustRoot, scope: &Scope) -> Option<&'r ReleaseRule> {
    let covers = |rule: &&ReleaseRule| {
        rule.scope.as_str().strip_suffix('*').is_some_and(|prefix| scope.as_str().starts_with(prefix))
    };
    root.release.iter().filter(covers).max_by_key(|rule| rule.scope.as_str().len())
}

/// How many signatures a scope's groups need together.
fn needed(rule: &ReleaseRule) -> u32 {
    rule.require.iter().map(|role| role.threshold.get()).fold(0, u32::saturating_add)
}

fn changes(old: &TrustRoot, new: &TrustRoot) -> Vec<String> {
    let mut lines = Vec::new();
    let mut number = |what, old: u64, new: u64| {
        if old != new {
            lines.push(format!("~ {what:<13} {old} -> {new}"));
        }
    };
    number("version", old.version, new.version);
    number("epoch", old.epoch, new.epoch);
    number("minimum_head", old.minimum_head, new.minimum_head);
    if old.registry != new.registry {
        lines.push(format!("~ {:<13} {} -> {}", "registry", old.registry, new.registry));
    }
    for (id, key, comment) in new.keys().filter(|(id, ..)| old.key(id).is_none()) {
        lines.push(format!("+ {:<13} {id}  {}  {}", "key", key.algorithm(), bounded(comment)));
    }
    for (id, key, comment) in old.keys().filter(|(id, ..)| new.key(id).is_none()) {
        lines.push(format!("- {:<13} {id}  {}  {}", "key", key.algorithm(), bounded(comment)));
    }
    for (id, _, comment) in new.keys() {
        let before = old.keys().find(|(known, ..)| *known == id).map(|(.., comment)| comment);
        if let Some(before) = before.filter(|before| *before != comment) {
            lines.push(format!("~ {:<13} {}  {} -> {}", "comment", id.short(), bounded(before), bounded(comment)));
        }
    }
    role(&mut lines, "heads", std::slice::from_ref(&old.head), std::slice::from_ref(&new.head));
    for rule in &new.release {
        let what = format!("releases {}", rule.scope);
        match rule_of(old, &rule.scope) {
            Some(before) => role(&mut lines, &what, &before.require, &rule.require),
            None => lines.push(format!("+ {what:<13} {}", said(&rule.require))),
        }
    }
    for rule in old.release.iter().filter(|rule| rule_of(new, &rule.scope).is_none()) {
        lines.push(format!("- {:<13} {}", format!("releases {}", rule.scope), said(&rule.require)));
    }
    lines
}

fn role(lines: &mut Vec<String>, what: &str, old: &[Role], new: &[Role]) {
    if old != new {
        lines.push(format!("~ {what:<13} {} -> {}", said(old), said(new)));
    }
}

/// Groups as people read them: `1 of a, b and 1 of c`.
fn said(groups: &[Role]) -> String {
    let mut text = String::new();
    for role in groups {
        let ids: Vec<_> = role.keys.iter().map(Digest::short).collect();
        let and = if text.is_empty() { "" } else { " and " };
        let _ = write!(text, "{and}{} of {}", role.threshold, ids.join(", "));
    }
    text
}
