//! `go.mod` and `go.sum`: the modules that a program of Go would be built from.
//!
//! Since Go 1.17 a `go.mod` names every module of the build, each in its one version, and `replace`
//! says what comes in its place. Before that it names only those that the code asks for itself; then
//! `go.sum` has the rest, and older versions that were only looked at.

use std::collections::{BTreeMap, BTreeSet};

use mcpfs_trust::tree::NodeId;

use super::UNKNOWN;

/// The files of one folder.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) module: Option<(String, NodeId)>,
    pub(super) sums: Option<(String, NodeId)>,
}

/// A module and its version.
pub(super) type Module = (String, String);

/// What a `go.mod` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ModFile {
    /// The modules, after what replaces them.
    pub(super) modules: BTreeSet<Module>,
    /// Whether they are all that a build takes.
    pub(super) complete: bool,
}

/// Reads a `go.mod`.
pub(super) fn mod_file(text: &str) -> Result<ModFile, String> {
    let mut file = ModFile::default();
    let mut named = false;
    let mut block: Option<String> = None;
    let mut required: Vec<Module> = Vec::new();
    // By path, or by path and version.
    let mut replaced: BTreeMap<(String, Option<String>), Module> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let broken = || format!("is not a go.mod: line {} is not understood", index + 1);
        let line = line.split("//").next().unwrap_or_default();
        let words: Vec<String> = line.split_whitespace().map(unquoted).collect();
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        match (words.as_slice(), &block) {
            ([], _) => continue,
            ([")"], Some(_)) => {
                block = None;
                continue;
            }
            ([verb, "("], None) => {
                block = Some((*verb).to_owned());
                continue;
            }
            _ => {}
        }
        let verb = match &block {
            Some(verb) => verb.clone(),
            None => words.remove(0).to_owned(),
        };
        match (verb.as_str(), words.as_slice()) {
            ("module", [_]) => named = true,
            ("go", [version]) => file.complete = is_complete(version),
            ("require", [path, version]) => required.push(((*path).to_owned(), (*version).to_owned())),
            ("replace", _) => {
                let (from, to) = replacement(&words).ok_or_else(broken)?;
                replaced.insert(from, to);
            }
            ("require" | "module" | "go", _) => return Err(broken()),
            // exclude, retract, toolchain, tool, godebug, and what is to come: no module is brought by them.
            _ => {}
        }
    }
    if !named || block.is_some() {
        return Err("is not a go.mod: it names no module, or ends in the middle".to_owned());
    }
    let after = |(path, version): Module| {
        let exact = replaced.get(&(path.clone(), Some(version.clone())));
        exact.or_else(|| replaced.get(&(path.clone(), None))).cloned().unwrap_or((path, version))
    };
    file.modules = required.into_iter().map(after).collect();
    Ok(file)
}

/// Reads a `go.sum`: the modules whose content it has, not those of which only the `go.mod` was read.
pub(super) fn sum_file(text: &str) -> Result<BTreeSet<Module>, String> {
    let mut modules = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [_, version, hash] if hash.starts_with("h1:") && version.ends_with("/go.mod") => {}
            [path, version, hash] if hash.starts_with("h1:") && version.starts_with('v') => {
                modules.insert(((*path).to_owned(), (*version).to_owned()));
            }
            _ => return Err(format!("is not a go.sum: line {} is not understood", index + 1)),
        }
    }
    Ok(modules)
}

/// `a => b v1`, `a v1 => b v2`, `a => ./folder`: by a folder, what is in it nobody knows.
fn replacement(words: &[&str]) -> Option<((String, Option<String>), Module)> {
    let at = words.iter().position(|word| *word == "=>")?;
    let text = |word: &&str| (**word).to_owned();
    let from = match &words[..at] {
        [path] => (text(path), None),
        [path, version] => (text(path), Some(text(version))),
        _ => return None,
    };
    let to = match &words[at + 1..] {
        [_folder] => (from.0.clone(), UNKNOWN.to_owned()),
        [path, version] => (text(path), text(version)),
        _ => return None,
    };
    Some((from, to))
}

/// Whether Go of this version writes all modules: 1.17 or later.
fn is_complete(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(1), Some(17))
}

fn unquoted(word: &str) -> String {
    word.trim_matches(['"', '`']).to_owned()
}
