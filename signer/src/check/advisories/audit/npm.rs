//! `npm audit` over a lockfile of just these packages.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mcpfs_trust::error::bounded;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::super::dependencies::Ecosystem;
use super::super::Hit;
use super::super::program;
use super::super::severity::Level;
use super::super::versions::Ordered;
use super::{Asked, Asking};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    audit_report_version: Option<u32>,
    #[serde(default)]
    vulnerabilities: BTreeMap<String, Vulnerable>,
    metadata: Option<Metadata>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    dependencies: Counts,
}

#[derive(Deserialize)]
struct Counts {
    total: u64,
}

#[derive(Deserialize)]
struct Vulnerable {
    via: Vec<Via>,
    nodes: Vec<String>,
}

/// An advisory, or the name of a package that has one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Via {
    Advisory(Advisory),
    #[allow(dead_code)] // That it is a text is what counts: it is told where it stands itself.
    Package(String),
}

#[derive(Deserialize)]
struct Advisory {
    title: Option<String>,
    url: String,
    severity: String,
    range: String,
}

pub(super) fn ask(list: &[Asked<'_>], asking: &Asking, folder: &Path) -> Result<Vec<Hit>, String> {
    // Each in a folder of its own: two versions of one package are two packages.
    let mut paths: BTreeMap<String, &Asked<'_>> = BTreeMap::new();
    let mut packages = Map::new();
    packages.insert(String::new(), json!({"name": "mcpfs-check", "version": "0.0.0"}));
    for (index, one) in list.iter().enumerate() {
        let path = format!("p{index}/node_modules/{}", one.name);
        packages.insert(path.clone(), json!({"version": one.version}));
        paths.insert(path, one);
    }
    let write = |name: &str, value: Value| {
        fs::write(folder.join(name), value.to_string()).map_err(|error| format!("cannot write {name}: {error}"))
    };
    write("package.json", json!({"name": "mcpfs-check", "version": "0.0.0", "private": true}))?;
    let lock = json!({"name": "mcpfs-check", "version": "0.0.0", "lockfileVersion": 3, "requires": true, "packages": packages});
    write("package-lock.json", lock)?;
    let args =
        ["audit", "--json", "--package-lock-only", "--ignore-scripts", "--no-update-notifier", "--loglevel=error"];
    let ended = program::run("npm", "npm", &args, folder, asking.limit)?;
    let report: Report = serde_json::from_slice(&ended.stdout)
        .map_err(|error| format!("npm audit gave no report ({error}): {}", ended.complaint))?;
    let (Some(2), Some(metadata)) = (report.audit_report_version, &report.metadata) else {
        let said = report.message.as_deref().map_or(ended.complaint, bounded);
        return Err(format!("npm audit could not look it up: {said}"));
    };
    if !matches!(ended.code, Some(0 | 1)) || (ended.code == Some(1)) == report.vulnerabilities.is_empty() {
        return Err(format!("npm audit ended with {:?}, which does not fit its report", ended.code));
    }
    if metadata.dependencies.total != list.len() as u64 {
        return Err(format!("npm audit looked at {} of {} packages", metadata.dependencies.total, list.len()));
    }
    let mut hits = Vec::new();
    for (name, vulnerable) in &report.vulnerabilities {
        for via in &vulnerable.via {
            let Via::Advisory(advisory) = via else { continue };
            for node in &vulnerable.nodes {
                let one = paths.get(node);
                let one = one
                    .ok_or_else(|| format!("npm audit speaks of {:?}, which it was not asked about", bounded(name)))?;
                hits.extend(advisory.hit(one));
            }
        }
    }
    Ok(hits)
}

impl Advisory {
    /// None if its range says that it is about another version.
    fn hit(&self, one: &Asked<'_>) -> Option<Hit> {
        let (holds, fixed) = in_range(&self.range, one.version);
        holds.then(|| Hit {
            level: Level::of_word(&self.severity).unwrap_or(Level::Unrated),
            package: one.id.to_owned(),
            advisory: bounded(self.url.trim_end_matches('/').rsplit('/').next().unwrap_or_default()),
            aliases: Vec::new(),
            fixed,
            summary: self.title.as_deref().map(bounded),
        })
    }
}

/// Whether a version lies in a range such as `>=1.0.0 <1.4.2 || 2.0.0`, and the first one behind
/// it. What is not of that form holds: npm has said that the package is concerned.
fn in_range(range: &str, version: &str) -> (bool, Option<String>) {
    let parse = |text: &str| Ordered::parse(Ecosystem::Npm, text);
    let Some(here) = parse(version) else { return (true, None) };
    for alternative in range.split("||") {
        let (mut holds, mut fixed) = (true, None);
        let joined = alternative.replace(',', " ");
        let mut words = joined.split_whitespace();
        while let Some(word) = words.next() {
            let end = word.find(|c: char| c.is_ascii_alphanumeric() || c == '*').unwrap_or(word.len());
            let (operator, rest) = word.split_at(end);
            let text = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
            if operator.is_empty() && matches!(text, "*" | "x") {
                continue;
            }
            let Some(order) = parse(text).map(|bound| here.order(&bound)) else { return (true, None) };
            holds &= match operator {
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                ">=" => order.is_ge(),
                "" | "=" => order.is_eq(),
                _ => return (true, None),
            };
            if operator == "<" {
                fixed = Some(bounded(text));
            }
        }
        if holds {
            return (true, fixed);
        }
    }
    (false, None)
}

#[cfg(test)]
mod tests {
    use super::in_range;

    #[test]
    fn ranges_of_npm() {
        for (range, version, holds, fixed) in [
            ("<4.17.21", "4.17.20", true, Some("4.17.21")),
            ("<4.17.21", "4.17.21", false, None),
            (">=1.0.0 <1.4.2 || >=2.0.0 <=2.3.0", "1.5.0", false, None),
            (">=1.0.0 <1.4.2 || >=2.0.0 <=2.3.0", "2.3.0", true, None),
            (">= 1.0.0, < 1.4.2", "1.4.1", true, Some("1.4.2")),
            ("*", "9.0.0", true, None),
            ("=1.0.0", "1.0.1", false, None),
            ("~1.0.0 what", "9.0.0", true, None),
        ] {
            assert_eq!(in_range(range, version), (holds, fixed.map(str::to_owned)), "{range} {version}");
        }
    }
}
