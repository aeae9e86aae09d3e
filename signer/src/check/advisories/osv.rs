//! One advisory in the OSV format, and whether it concerns a package.
//!
//! The evaluation is that of the OSV schema: a package is affected if its version is listed, or
//! lies in a range. Git ranges say nothing of published versions. Where a range cannot be
//! evaluated and no list names the version, the answer is "unclear" and never "no".

use std::cmp::Ordering;
use std::collections::BTreeSet;

use mcpfs_trust::error::bounded;
use mcpfs_trust::time::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::dependencies::Ecosystem;
use super::severity::Level;
use super::versions::Ordered;

/// Aliases that are kept of one advisory.
const ALIASES: usize = 16;

/// What is read of every advisory.
#[derive(Deserialize)]
pub(super) struct Outline {
    pub(super) id: String,
    modified: String,
    withdrawn: Option<IgnoredAny>,
    #[serde(default)]
    affected: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    package: Option<Package>,
}

#[derive(Deserialize)]
struct Package {
    ecosystem: String,
    name: String,
}

/// What is read of an advisory that names a package of the artefact.
#[derive(Deserialize)]
pub(super) struct Advisory {
    pub(super) id: String,
    #[serde(default)]
    aliases: Vec<String>,
    summary: Option<String>,
    details: Option<String>,
    #[serde(default)]
    severity: Vec<Score>,
    #[serde(default)]
    affected: Vec<Affected>,
    #[serde(default)]
    database_specific: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Score {
    score: String,
}

#[derive(Deserialize)]
struct Affected {
    package: Option<Package>,
    #[serde(default)]
    versions: Vec<String>,
    #[serde(default)]
    ranges: Vec<Range>,
    #[serde(default)]
    severity: Vec<Score>,
    #[serde(default)]
    database_specific: Option<serde_json::Value>,
    #[serde(default)]
    ecosystem_specific: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Range {
    #[serde(rename = "type")]
    kind: String,
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    introduced: Option<String>,
    fixed: Option<String>,
    last_affected: Option<String>,
    limit: Option<String>,
}

/// Whether one version is affected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is not.
    No,
    /// It is; with the first later version that is not, if there is one.
    Yes { fixed: Option<String> },
    /// Nobody can tell, and why.
    Unclear(String),
}

impl Outline {
    /// When it last changed.
    pub(super) fn modified(&self) -> Option<Timestamp> {
        let time: jiff::Timestamp = self.modified.parse().ok()?;
        Timestamp::from_unix(time.as_second())
    }

    pub(super) const fn is_withdrawn(&self) -> bool {
        self.withdrawn.is_some()
    }

    /// The packages that it names, with their ecosystems; others are not ours.
    pub(super) fn packages(&self) -> impl Iterator<Item = (Ecosystem, String)> {
        self.affected.iter().filter_map(|one| one.package.as_ref()?.key())
    }
}

impl Package {
    /// The part of an ecosystem behind `:` is a release of a distribution; ours have none.
    fn key(&self) -> Option<(Ecosystem, String)> {
        let name = self.ecosystem.split(':').next().unwrap_or_default();
        let ecosystem = Ecosystem::of_osv(name)?;
        Some((ecosystem, ecosystem.canonical(&self.name)))
    }
}

impl Advisory {
    /// Other names of it, bounded and escaped.
    pub(super) fn aliases(&self) -> Vec<String> {
        let named: BTreeSet<String> =
            self.aliases.iter().take(ALIASES).filter(|alias| **alias != self.id).map(|alias| bounded(alias)).collect();
        named.into_iter().collect()
    }

    /// What it is about, in one line.
    pub(super) fn summary(&self) -> Option<String> {
        let text = self.summary.as_deref().filter(|text| !text.trim().is_empty());
        let text = text.or_else(|| self.details.as_deref()?.lines().find(|line| !line.trim().is_empty()))?;
        Some(bounded(text.trim()))
    }

    /// Whether this version of the package `key` is affected, and how badly. The answers of
    /// several `affected` entries of one package are put together, the worst first.
    pub(super) fn concerns(&self, key: &(Ecosystem, String), version: &str) -> (Answer, Level) {
        let mut answer = Answer::No;
        let mut level = None;
        for affected in
            self.affected.iter().filter(|one| one.package.as_ref().and_then(Package::key).as_ref() == Some(key))
        {
            let this = affected.holds(key.0, version);
            if this == Answer::No {
                continue;
            }
            level = worse(level, affected.level());
            answer = match (answer, this) {
                (Answer::Yes { fixed: a }, Answer::Yes { fixed: b }) => Answer::Yes { fixed: later(key.0, a, b) },
                (Answer::Yes { fixed }, _) | (_, Answer::Yes { fixed }) => Answer::Yes { fixed },
                (_, other) => other,
            };
        }
        (answer, worse(level, self.level()).unwrap_or(Level::Unrated))
    }

    fn level(&self) -> Option<Level> {
        if self.id.starts_with("MAL-") {
            return Some(Level::Malicious);
        }
        worse(vectors(&self.severity), word(self.database_specific.as_ref()))
    }
}

/// The worse of two ratings.
fn worse(a: Option<Level>, b: Option<Level>) -> Option<Level> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn vectors(scores: &[Score]) -> Option<Level> {
    scores.iter().filter_map(|score| Level::of_vector(&score.score)).min()
}

fn word(specific: Option<&serde_json::Value>) -> Option<Level> {
    Level::of_word(specific?.get("severity")?.as_str()?)
}

/// Two entries that both hold need both mends: the later version, or none.
fn later(ecosystem: Ecosystem, a: Option<String>, b: Option<String>) -> Option<String> {
    let (a, b) = (a?, b?);
    let place = |text: &str| Ordered::of_event(ecosystem, text);
    match (place(&a), place(&b)) {
        (Some(x), Some(y)) if x.order(&y) == Ordering::Less => Some(b),
        _ => Some(a),
    }
}

impl Affected {
    fn level(&self) -> Option<Level> {
        let specific = [&self.database_specific, &self.ecosystem_specific];
        let words = specific.into_iter().filter_map(|one| word(one.as_ref())).min();
        worse(vectors(&self.severity), words)
    }

    fn holds(&self, ecosystem: Ecosystem, version: &str) -> Answer {
        let here = Ordered::parse(ecosystem, version);
        let listed = self.versions.iter().any(|one| {
            one == version
                || here
                    .as_ref()
                    .zip(Ordered::parse(ecosystem, one))
                    .is_some_and(|(a, b)| a.order(&b) == Ordering::Equal)
        });
        let ranges: Vec<&Range> = self.ranges.iter().filter(|range| range.kind != "GIT").collect();
        if ranges.is_empty() {
            return match (listed, self.versions.is_empty()) {
                (true, _) => Answer::Yes { fixed: None },
                (false, false) => Answer::No,
                (false, true) => Answer::Unclear("it lists no versions and no range of them".to_owned()),
            };
        }
        let Some(here) = here else {
            return match listed {
                true => Answer::Yes { fixed: None },
                false => Answer::Unclear(format!("{:?} has no place in the order of versions", bounded(version))),
            };
        };
        let mut answer = Answer::No;
        for range in ranges {
            match (range.holds(ecosystem, &here), &answer) {
                (Ok(Some(fixed)), _) => return Answer::Yes { fixed },
                (Err(reason), Answer::No) => answer = Answer::Unclear(reason),
                _ => {}
            }
        }
        if listed { Answer::Yes { fixed: self.fixed_after(ecosystem, &here) } } else { answer }
    }

    /// The first mended version after this one, for a version that only the list names.
    fn fixed_after(&self, ecosystem: Ecosystem, here: &Ordered) -> Option<String> {
        let fixes = self.ranges.iter().filter(|range| range.kind != "GIT").flat_map(|range| &range.events);
        let fixes = fixes.filter_map(|event| {
            let text = event.fixed.as_ref()?;
            Some((Ordered::of_event(ecosystem, text)?, text))
        });
        let later = fixes.filter(|(place, _)| place.order(here) == Ordering::Greater);
        later.min_by(|(a, _), (b, _)| a.order(b)).map(|(_, text)| bounded(text))
    }
}

impl Range {
    /// Walks the events in order: `Some` if the version is inside, with the version that mends it.
    fn holds(&self, ecosystem: Ecosystem, here: &Ordered) -> Result<Option<Option<String>>, String> {
        // At one version, what mends comes before what breaks again.
        const FIXED: u8 = 0;
        const INTRODUCED: u8 = 1;
        const LAST: u8 = 2;
        let place = |text: &str| {
            let placed = Ordered::of_event(ecosystem, text);
            placed.ok_or_else(|| format!("its event {:?} has no place in the order of versions", bounded(text)))
        };
        let mut events = Vec::with_capacity(self.events.len());
        let mut limits = Vec::new();
        for event in &self.events {
            for (kind, text) in [(INTRODUCED, &event.introduced), (FIXED, &event.fixed), (LAST, &event.last_affected)] {
                if let Some(text) = text {
                    events.push((place(text)?, kind, text));
                }
            }
            if let Some(limit) = event.limit.as_deref().filter(|limit| *limit != "*") {
                limits.push(place(limit)?);
            }
        }
        events.sort_by(|(a, x, _), (b, y, _)| a.order(b).then(x.cmp(y)));
        let mut inside = false;
        for (at, kind, _) in &events {
            let order = here.order(at);
            inside = match *kind {
                INTRODUCED if order != Ordering::Less => true,
                FIXED if order != Ordering::Less => false,
                LAST if order == Ordering::Greater => false,
                _ => inside,
            };
        }
        if !inside || (!limits.is_empty() && limits.iter().all(|limit| here.order(limit) != Ordering::Less)) {
            return Ok(None);
        }
        let fixed = events.iter().find(|(at, kind, _)| *kind == FIXED && at.order(here) == Ordering::Greater);
        Ok(Some(fixed.map(|(_, _, text)| bounded(text))))
    }
}
