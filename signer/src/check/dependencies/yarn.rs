//! `yarn.lock`: the format of Yarn 1, which is its own, and that of Yarn 2 and later, which is YAML.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::UNKNOWN;
use super::lockfile::lock_yaml;

/// One package that a lockfile of JavaScript names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Locked {
    pub(super) name: String,
    pub(super) version: String,
    /// A part of the project itself, which no registry has.
    pub(super) local: bool,
    /// Whether it builds something when it is installed, where the lockfile says so.
    pub(super) builds: bool,
}

/// The packages of a `yarn.lock`.
pub(super) fn read(text: &str) -> Result<Vec<Locked>, String> {
    if text.lines().any(|line| line.trim_end() == "__metadata:") {
        return berry(text);
    }
    match text.lines().take(10).any(|line| line.trim() == "# yarn lockfile v1") {
        true => classic(text),
        false => Err("is not a lockfile of Yarn".to_owned()),
    }
}

/// ```text
/// "@scope/a@^1.0.0", "@scope/a@~1.2":
///   version "1.2.3"
/// ```
fn classic(text: &str) -> Result<Vec<Locked>, String> {
    let mut all = Vec::new();
    let mut open: Option<(String, bool)> = None;
    for (index, line) in text.lines().enumerate() {
        let broken = |what: &str| format!("is not a lockfile of Yarn: line {} {what}", index + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if !line.starts_with(' ') {
            if open.is_some() {
                return Err(broken("begins a package before the last one has a version"));
            }
            let head = line.trim_end().strip_suffix(':').ok_or_else(|| broken("names no package"))?;
            let first = head.split(", ").next().unwrap_or_default().trim_matches('"');
            let (name, range) = descriptor(first).ok_or_else(|| broken("names no package"))?;
            open = Some(named(name, range));
        } else if let Some(version) = line.strip_prefix("  version ") {
            let (name, local) = open.take().ok_or_else(|| broken("is a version of nothing"))?;
            all.push(Locked { name, version: version.trim().trim_matches('"').to_owned(), local, builds: false });
        }
    }
    match open {
        None => Ok(all),
        Some((name, _)) => Err(format!("is not a lockfile of Yarn: {name:?} has no version")),
    }
}

#[derive(Deserialize)]
struct Berry {
    version: Option<String>,
    resolution: Option<String>,
}

fn berry(text: &str) -> Result<Vec<Locked>, String> {
    let documents: Vec<BTreeMap<String, Berry>> = lock_yaml(text)?;
    let mut all = Vec::new();
    for (key, one) in documents.into_iter().flatten().filter(|(key, _)| key != "__metadata") {
        // What was resolved: "lodash@npm:4.17.21", whatever it was asked by.
        let resolution = one.resolution.as_deref().unwrap_or(&key);
        let (name, range) = descriptor(resolution).ok_or_else(|| format!("names no package in {resolution:?}"))?;
        let local = is_local(range);
        let version = one.version.unwrap_or_else(|| UNKNOWN.to_owned());
        all.push(Locked { name: name.to_owned(), version, local, builds: false });
    }
    Ok(all)
}

/// `name@range`; a name may begin with '@'.
pub(super) fn descriptor(text: &str) -> Option<(&str, &str)> {
    let at = text.char_indices().skip(1).find(|(_, c)| *c == '@')?.0;
    let (name, range) = (&text[..at], &text[at + 1..]);
    (!name.is_empty() && !range.is_empty()).then_some((name, range))
}

/// The package that a range asks for: `a@npm:b@^1` is b.
fn named(name: &str, range: &str) -> (String, bool) {
    let alias = range.strip_prefix("npm:").and_then(descriptor).map(|(alias, _)| alias);
    (alias.unwrap_or(name).to_owned(), is_local(range))
}

fn is_local(range: &str) -> bool {
    ["file:", "link:", "portal:", "workspace:"].iter().any(|scheme| range.starts_with(scheme))
}
