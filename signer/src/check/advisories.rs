//! Known vulnerabilities of what the artefact carries.
//!
//! Two sources can be asked, both only at the check. A **snapshot** of the OSV databases is a
//! pinned file: its answer is a function of (packages, snapshot), so it travels with staging and
//! signing computes it again. A **look-up** by `npm audit` or `pip-audit` is an answer of
//! somebody else's server at one time: it is written down with the packages it was about, and
//! signing can only see that it is about the same ones (docs/decisions/0012).
//!
//! What was asked for and not answered is an error: those programs say "no known vulnerabilities"
//! also when they could look up nothing. A severity becomes a rule by the policy, an exception is
//! a waiver for one advisory in one package.

pub mod audit;
mod osv;
mod program;
mod severity;
mod snapshot;
mod versions;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::Platform;
use mcpfs_trust::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::Inventory;
use super::dependencies::Ecosystem;
use super::finding::{Finding, Findings};
use super::record::{Look, Observation};
use super::rules::{self, Rule};
use crate::policy::{Policy, Vulnerabilities};
use crate::progress::Progress;
use crate::recipe::Recipe;

pub use audit::{Asking, Program};
pub use severity::Level;
pub use snapshot::{Coverage, Reading};

/// Findings of one rule that can be waived one by one; more are counted only.
const SHOWN: usize = 200;
/// `advisories.json`, bytes.
pub(crate) const BYTES: u64 = 32 << 20;

/// What to ask.
#[derive(Debug, Clone, Default)]
pub struct Lookups {
    /// Snapshots: files or folders.
    pub snapshots: Vec<PathBuf>,
    /// Digests that snapshots may have, besides those of the policy.
    pub pins: Vec<Digest>,
    /// Programs to ask, besides those of the policy.
    pub audit: Vec<Program>,
    /// How they are asked.
    pub asking: Asking,
    /// Shows how much of a snapshot was read.
    pub shown: Progress,
}

/// What was answered; `advisories.json` of staging.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// What each snapshot says.
    pub snapshots: Vec<Reading>,
    /// What programs said.
    pub audits: Vec<audit::Answer>,
    /// What was not answered, with the reason.
    #[serde(skip)]
    failed: Vec<Failure>,
}

/// A question without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    rule: Rule,
    subject: String,
    message: String,
    fix: String,
}

/// A package with an advisory. All texts are bounded and escaped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hit {
    /// How bad it is.
    pub level: Level,
    /// The package, such as `npm:zod@4.1.0`.
    pub package: String,
    /// The advisory's id in its database.
    pub advisory: String,
    /// Its ids elsewhere, such as that of CVE.
    pub aliases: Vec<String>,
    /// The first later version without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}

/// A package of which an advisory cannot tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unclear {
    /// The package.
    pub package: String,
    /// The advisory.
    pub advisory: String,
    /// Why.
    pub reason: String,
}

/// Whether an observation of this kind is one of [`Answers::observations`].
pub(crate) const fn is_look(kind: Look) -> bool {
    matches!(kind, Look::Advisories | Look::AuditNpm | Look::AuditPypi)
}

/// Packages by ecosystem and canonical name: each version with the package's id.
type Wanted = BTreeMap<(Ecosystem, String), BTreeSet<(String, String)>>;

fn wanted(dependencies: &[(Platform, Inventory)]) -> Wanted {
    let mut wanted = Wanted::new();
    for package in dependencies.iter().flat_map(|(_, inventory)| &inventory.packages) {
        let key = (package.ecosystem, package.ecosystem.canonical(&package.name));
        wanted.entry(key).or_default().insert((package.version.clone(), package.id()));
    }
    wanted
}

impl Answers {
    /// Asks everything. Snapshots are kept in `folder` if the release is staged.
    pub(super) fn ask(
        lookups: &Lookups,
        dependencies: &[(Platform, Inventory)],
        policy: Option<&Policy>,
        (folder, keep): (&Path, bool),
        now: Timestamp,
    ) -> Self {
        let wanted = wanted(dependencies);
        let mut answers = Self::default();
        for path in &lookups.snapshots {
            let read = snapshot::Snapshot::open(path, folder, keep).and_then(|snapshot| {
                let pinned = lookups.pins.contains(&snapshot.sha256);
                let vulnerabilities = policy.and_then(|policy| policy.vulnerabilities.as_ref());
                let by_policy = vulnerabilities.is_some_and(|demands| demands.pins(&snapshot.sha256));
                match pinned || by_policy {
                    true => snapshot.read(&wanted, pinned, &lookups.shown),
                    false => Err(format!("has SHA-256 {}, which nothing pins", snapshot.sha256)),
                }
            });
            match read {
                Ok(reading) if answers.snapshots.iter().any(|one| one.sha256 == reading.sha256) => {}
                Ok(reading) => answers.snapshots.push(reading),
                Err(message) => answers.failed.push(Failure {
                    rule: rules::ADVISORIES_SNAPSHOT,
                    subject: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    message,
                    fix: "fetch the snapshot again, look where it comes from, and pin its digest in \
                          vulnerabilities.snapshots of the policy or by --osv-sha256"
                        .to_owned(),
                }),
            }
        }
        answers.snapshots.sort_by_key(|reading| reading.sha256);
        let demanded = |program: &Program| policy.is_some_and(|policy| policy.require.contains(&program.look()));
        for program in Program::ALL.into_iter().filter(|one| lookups.audit.contains(one) || demanded(one)) {
            match program.ask(&wanted, &lookups.asking, folder, now) {
                Ok(answer) => answers.audits.push(answer),
                Err(message) => answers.failed.push(Failure {
                    rule: rules::ADVISORIES_UNKNOWN,
                    subject: program.as_str().to_owned(),
                    message,
                    fix: "see that it can be started and reaches its service, and check again; or give a snapshot by --osv"
                        .to_owned(),
                }),
            }
        }
        answers
    }

    /// Whether nothing was asked.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.audits.is_empty() && self.failed.is_empty()
    }

    /// Whether everything that was asked was answered.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }

    /// Computes again what can be, for packages that were found again; the first difference.
    pub(crate) fn again(&self, dependencies: &[(Platform, Inventory)], folder: &Path) -> Result<(), String> {
        let wanted = wanted(dependencies);
        for reading in &self.snapshots {
            let again = snapshot::kept(folder, &reading.sha256)?.read(&wanted, reading.pinned, &Progress::silent())?;
            if again != *reading {
                return Err(format!("snapshot {} says something else of these packages", reading.sha256));
            }
        }
        match self.audits.iter().find(|answer| answer.program.asked(&wanted) != (answer.asked, answer.packages)) {
            Some(answer) => Err(format!("{} was asked about other packages", answer.program.as_str())),
            None => Ok(()),
        }
    }

    /// The bytes of `advisories.json`.
    pub(crate) fn json(&self) -> Vec<u8> {
        mcpfs_trust::json::encode(self)
    }

    /// What the verdict rests on: stands in the record and in reports.
    pub(crate) fn sources(&self) -> Vec<String> {
        let mut sources = Vec::new();
        for reading in &self.snapshots {
            let covers = reading.covers.iter().map(|(ecosystem, covered)| {
                format!("{} {ecosystem} up to {}", covered.advisories, covered.newest.date())
            });
            let covers = covers.collect::<Vec<_>>().join(", ");
            sources.push(format!("advisories sha256:{} ({covers})", reading.sha256));
        }
        for answer in &self.audits {
            sources.push(format!("{} of {} ({} packages)", answer.program.as_str(), answer.at, answer.packages));
        }
        if !self.is_empty() {
            sources.push(format!("advisories.json sha256:{}", Digest::of(&self.json())));
        }
        sources
    }

    /// What was asked, as the check record names it.
    pub(crate) fn observations(&self) -> Vec<Observation> {
        let snapshots = self.snapshots.iter().map(|reading| Observation {
            kind: Look::Advisories,
            tool: format!("osv sha256:{}", reading.sha256),
            result: Digest::of(&mcpfs_trust::json::encode(reading)),
        });
        let audits = self.audits.iter().map(|answer| Observation {
            kind: answer.program.look(),
            tool: answer.program.as_str().to_owned(),
            result: Digest::of(&mcpfs_trust::json::encode(answer)),
        });
        let mut all: Vec<Observation> = snapshots.chain(audits).collect();
        all.sort();
        all
    }

    /// Every known vulnerability once, the worst first. Databases copy each other: an entry that
    /// names another one of the same package as its alias is shown as that one's alias.
    pub fn vulnerabilities(&self) -> Vec<Hit> {
        let mut found: Vec<Hit> = Vec::new();
        let mut all: Vec<&Hit> = self.hits().collect();
        // Of copies the one that most people know stays.
        all.sort_by_key(|hit| (!hit.advisory.starts_with("GHSA-"), *hit));
        for hit in all {
            let copy = found.iter_mut().find(|one| {
                one.package == hit.package
                    && (one.advisory == hit.advisory
                        || one.aliases.contains(&hit.advisory)
                        || hit.aliases.contains(&one.advisory))
            });
            let Some(copy) = copy else {
                found.push(hit.clone());
                continue;
            };
            copy.level = copy.level.min(hit.level);
            let names = copy.aliases.iter().chain(&hit.aliases).chain([&hit.advisory]);
            let names: BTreeSet<String> = names.filter(|name| **name != copy.advisory).cloned().collect();
            copy.aliases = names.into_iter().collect();
            copy.fixed = copy.fixed.take().or_else(|| hit.fixed.clone());
        }
        found.sort();
        found
    }

    fn hits(&self) -> impl Iterator<Item = &Hit> {
        let audits = self.audits.iter().flat_map(|answer| &answer.hits);
        self.snapshots.iter().flat_map(|reading| &reading.hits).chain(audits)
    }

    /// Everything that rules say of it at the time `now`.
    pub(crate) fn check(
        &self,
        recipe: &Recipe,
        dependencies: &[(Platform, Inventory)],
        policy: Option<&Policy>,
        now: Timestamp,
        findings: &mut Findings,
    ) {
        let policy = policy.and_then(|policy| policy.vulnerabilities.as_ref());
        let place = recipe.place("artefact");
        let mut found = |rule: &Rule, subject: &str, message: String, fix: String| {
            findings.push(rule.find(subject, message).at(recipe.file(), Some(place)).fix(fix));
        };
        for failure in &self.failed {
            found(&failure.rule, &failure.subject, failure.message.clone(), failure.fix.clone());
        }
        for (subject, message) in self.pins(policy) {
            found(&rules::ADVISORIES_SNAPSHOT, &subject, message, "give that snapshot by --osv".to_owned());
        }
        let counts = counts(dependencies);
        for (ecosystem, packages) in &counts {
            if self.is_empty() && policy.is_none() {
                break;
            }
            match self.asked(*ecosystem) {
                None => found(
                    &rules::ADVISORIES_UNCOVERED,
                    ecosystem.as_str(),
                    format!("{packages} packages, and nothing that was asked knows their advisories"),
                    format!("give a snapshot with the advisories of {ecosystem} by --osv, or ask a program by --audit"),
                ),
                Some(asked) => {
                    if let Some(message) = policy.and_then(|policy| policy.too_old(asked, now)) {
                        let fix = "fetch a new snapshot, pin it, and check again".to_owned();
                        found(&rules::ADVISORIES_SNAPSHOT, ecosystem.as_str(), message, fix);
                    }
                }
            }
        }
        if !self.is_empty() || policy.is_some() {
            for (platform, _) in dependencies.iter().filter(|(_, inventory)| inventory.packages.is_empty()) {
                let message = "lists no package, so nothing was asked; what is inside its files is not known";
                let fix = "ship it with its lockfile or package metadata, or look at what it was built from";
                found(&rules::ADVISORIES_NOTHING, &platform.to_string(), message.to_owned(), fix.to_owned());
            }
        }
        let at = |finding: Finding| finding.at(recipe.file(), Some(place));
        let (denied, others): (Vec<Hit>, Vec<Hit>) =
            self.vulnerabilities().into_iter().partition(|hit| Vulnerabilities::denies(policy, hit.level));
        for (rule, hits) in [(&rules::VULNERABILITY, denied), (&rules::VULNERABILITY_LESSER, others)] {
            one_by_one(findings, hits.iter().map(|hit| at(hit.finding(rule))));
        }
        let unclear = self.snapshots.iter().flat_map(|reading| &reading.unclear);
        let unclear: BTreeSet<&Unclear> =
            unclear.chain(self.audits.iter().flat_map(|answer| &answer.unclear)).collect();
        let unclear = unclear.into_iter().map(|one| {
            let message = format!("nobody can tell whether it concerns {}: {}", one.package, one.reason);
            let finding = rules::VULNERABILITY_UNCLEAR.find(&format!("{} {}", one.advisory, one.package), message);
            at(finding.fix("read the advisory, and ask for a waiver if it does not concern this package"))
        });
        one_by_one(findings, unclear);
    }

    /// Snapshots that the policy names and that are not here, and those that hold nothing.
    fn pins(&self, policy: Option<&Vulnerabilities>) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for pin in policy.into_iter().flat_map(|policy| policy.snapshots.iter().flatten()) {
            if !self.snapshots.iter().any(|reading| reading.sha256 == *pin) {
                found.push((pin.to_string(), "the policy names this snapshot, and it was not read".to_owned()));
            }
        }
        for reading in &self.snapshots {
            let subject = reading.sha256.to_string();
            if !reading.pinned && !policy.is_some_and(|policy| policy.pins(&reading.sha256)) {
                found.push((subject.clone(), "nothing pins this snapshot".to_owned()));
            }
            if reading.covers.is_empty() {
                found.push((subject, "holds no advisory of npm, PyPI, crates.io or Go".to_owned()));
            }
        }
        found
    }

    /// How fresh the freshest source of an ecosystem is; `None` if there is none.
    fn asked(&self, ecosystem: Ecosystem) -> Option<Timestamp> {
        let snapshots = self.snapshots.iter().filter_map(|reading| Some(reading.covers.get(&ecosystem)?.newest));
        let audits = self.audits.iter().filter(|answer| answer.program.ecosystem() == ecosystem);
        snapshots.chain(audits.map(|answer| answer.at)).max()
    }
}

/// Each can be waived by itself, so each is there; what is above the bound cannot be waived.
fn one_by_one(findings: &mut Findings, found: impl Iterator<Item = Finding>) {
    let mut found = found.peekable();
    findings.push_all(found.by_ref().take(SHOWN));
    if let Some(mut last) = found.next() {
        last.subject = String::new();
        last.message = format!("and {} more like these", 1 + found.count());
        last.fix = None;
        findings.push(last);
    }
}

fn counts(dependencies: &[(Platform, Inventory)]) -> BTreeMap<Ecosystem, usize> {
    let mut ids = BTreeMap::<Ecosystem, BTreeSet<String>>::new();
    for package in dependencies.iter().flat_map(|(_, inventory)| &inventory.packages) {
        ids.entry(package.ecosystem).or_default().insert(package.id());
    }
    ids.into_iter().map(|(ecosystem, ids)| (ecosystem, ids.len())).collect()
}

impl Hit {
    fn finding(&self, rule: &Rule) -> Finding {
        let names = match self.aliases.is_empty() {
            true => String::new(),
            false => format!(" (also {})", self.aliases.join(", ")),
        };
        let about = self.summary.as_ref().map(|summary| format!(": {summary}")).unwrap_or_default();
        let (mended, fix) = match &self.fixed {
            Some(fixed) => (format!("fixed in {fixed}"), format!("use {fixed} or later")),
            None => ("no fixed version is known".to_owned(), "use another package".to_owned()),
        };
        let message = format!("{}, {mended}{about}{names}", self.level);
        let subject = format!("{} {}", self.advisory, self.package);
        rule.find(&subject, message).fix(format!("{fix}, or ask for a waiver of \"{subject}\""))
    }
}
