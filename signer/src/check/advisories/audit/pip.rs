//! `pip-audit` over a list of pinned requirements.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mcpfs_trust::error::bounded;
use serde::Deserialize;

use super::super::super::dependencies::Ecosystem;
use super::super::Hit;
use super::super::program;
use super::super::severity::Level;
use super::super::versions::Ordered;
use super::{Asked, Asking};

#[derive(Deserialize)]
struct Report {
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    version: Option<String>,
    vulns: Option<Vec<Vulnerability>>,
    skip_reason: Option<String>,
}

#[derive(Deserialize)]
struct Vulnerability {
    id: String,
    #[serde(default)]
    fix_versions: Vec<String>,
    #[serde(default)]
    aliases: Vec<String>,
    description: Option<String>,
}

pub(super) fn ask(list: &[Asked<'_>], asking: &Asking, folder: &Path) -> Result<Vec<Hit>, String> {
    let mut hits = Vec::new();
    for round in rounds(list) {
        hits.extend(ask_once(&round, asking, folder)?);
    }
    Ok(hits)
}

/// A list of requirements has one version of each package; an artefact may have several.
fn rounds<'a>(list: &'a [Asked<'a>]) -> Vec<Vec<&'a Asked<'a>>> {
    let mut rounds: Vec<Vec<&Asked<'_>>> = Vec::new();
    for one in list {
        match rounds.iter_mut().find(|round| round.iter().all(|other| other.name != one.name)) {
            Some(round) => round.push(one),
            None => rounds.push(vec![one]),
        }
    }
    rounds
}

fn ask_once(list: &[&Asked<'_>], asking: &Asking, folder: &Path) -> Result<Vec<Hit>, String> {
    let requirements: String = list.iter().map(|one| format!("{}=={}\n", one.name, one.version)).collect();
    fs::write(folder.join("requirements.txt"), requirements)
        .map_err(|error| format!("cannot write requirements.txt: {error}"))?;
    let mut args = vec!["--strict", "--requirement", "requirements.txt", "--no-deps", "--disable-pip"];
    // A cache of its own: an old answer is no look-up.
    args.extend(["--cache-dir", "cache", "--format", "json", "--progress-spinner", "off"]);
    if let Some(url) = &asking.osv_url {
        args.extend(["--vulnerability-service", "osv", "--osv-url", url.as_str()]);
    }
    let ended = program::run("pip-audit", "pip-audit from PyPI", &args, folder, asking.limit)?;
    let report: Report = serde_json::from_slice(&ended.stdout)
        .map_err(|_| format!("pip-audit could not look it up: {}", ended.complaint))?;
    let found = report.dependencies.iter().any(|one| one.vulns.as_ref().is_some_and(|vulns| !vulns.is_empty()));
    if ended.code != Some(i32::from(found)) {
        return Err(format!("pip-audit ended with {:?}, which does not fit its report", ended.code));
    }
    let answers = report.dependencies.iter().map(|one| (Ecosystem::Pypi.canonical(&one.name), one));
    let answers: BTreeMap<String, &Dependency> = answers.collect();
    // It writes versions in their normal form.
    let place = |version: &str| Ordered::parse(Ecosystem::Pypi, version);
    let mut hits = Vec::new();
    for one in list {
        let answer = answers.get(one.name).filter(|answer| match &answer.version {
            Some(version) => place(version) == place(one.version),
            None => answer.skip_reason.is_some(),
        });
        let Some((dependency, vulns)) = answer.and_then(|answer| Some((answer, answer.vulns.as_ref()?))) else {
            let why = answer.and_then(|answer| answer.skip_reason.as_deref()).unwrap_or("it says nothing of it");
            return Err(format!("pip-audit did not look up {}: {}", one.id, bounded(why)));
        };
        if let Some(why) = &dependency.skip_reason {
            return Err(format!("pip-audit skipped {}: {}", one.id, bounded(why)));
        }
        hits.extend(vulns.iter().map(|vulnerability| {
            Hit {
                // It does not say.
                level: Level::Unrated,
                package: one.id.to_owned(),
                advisory: bounded(&vulnerability.id),
                aliases: vulnerability.aliases.iter().take(16).map(|alias| bounded(alias)).collect(),
                fixed: vulnerability.fix_versions.first().map(|version| bounded(version)),
                summary: vulnerability
                    .description
                    .as_deref()
                    .and_then(|text| text.lines().find(|line| !line.trim().is_empty()))
                    .map(bounded),
            }
        }));
    }
    Ok(hits)
}
