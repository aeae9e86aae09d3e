//! What others made and the artefact carries: packages of npm, PyPI, crates.io and Go, and
//! machine code.
//!
//! Lists come from what package managers and compilers leave behind: `node_modules/.package-lock.json`
//! (what was installed), else `package-lock.json` or `npm-shrinkwrap.json` beside it; `yarn.lock` and
//! `pnpm-lock.yaml`; `METADATA` in `*.dist-info` and `PKG-INFO` in `*.egg-info`; `Cargo.lock`, `uv.lock`
//! and `poetry.lock`; `go.mod` and `go.sum`; and what programs say they were built from (`programs`). These are claims of the artefact about itself.
//! A package below `node_modules` that no lockfile names is told apart, and a file that cannot be
//! read is a finding: a list with a hole must not look like a short list. Everything is bounded
//! before it is parsed.

mod go;
mod javascript;
mod lockfile;
mod native;
mod package;
mod pnpm;
mod programs;
mod wheel;
mod yarn;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use mcpfs_trust::error::bounded;
use mcpfs_trust::tree::{Kind, NodeId, Tree};

pub(crate) use self::javascript::{npm_licence, npm_package};
use self::lockfile::{LOCKFILE_BYTES, TomlLock, lock_text};
pub(crate) use self::native::{for_one_platform, native};
pub use self::package::{Ecosystem, Package};
pub(crate) use self::wheel::wheel_package;
use super::finding::{Finding, Findings};
use super::rules::{self, Rule};
use crate::policy::Policy;
use crate::recipe::Recipe;

/// Files that list packages.
const NAMES: [&str; 14] = [
    ".package-lock.json",
    "npm-shrinkwrap.json",
    "package-lock.json",
    "package.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "lock.yaml",
    "METADATA",
    "PKG-INFO",
    "Cargo.lock",
    "uv.lock",
    "poetry.lock",
    "go.mod",
    "go.sum",
];
/// Headers of `METADATA` end long before, bytes.
const METADATA_BYTES: u64 = 256 << 10;
/// Largest program, bytes; it is read whole.
const PROGRAM_BYTES: u64 = 256 << 20;
/// The version of a package that does not say it.
const UNKNOWN: &str = "unknown";
/// Longest name or version, characters: more is not shown, so it could not be compared either.
const NAME: usize = 200;
/// Most packages of one artefact.
const PACKAGES: usize = 50_000;

/// What one artefact carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Each package once, by ecosystem, name and version.
    pub packages: BTreeSet<Package>,
    /// Files that should list packages and cannot be read, with the reason.
    unreadable: Vec<(String, String)>,
    /// Packages below `node_modules` that no lockfile names.
    unlisted: Vec<String>,
    /// Packages that are not what their lockfile says, with how.
    differs: Vec<(String, String)>,
}

impl Inventory {
    /// Lists what a tree carries; `content` gives at most so many bytes of a file, or the reason.
    pub(super) fn read(tree: &Tree, content: &mut Content<'_>) -> Self {
        let mut inventory = Self::default();
        let (mut javascript, mut go) = (javascript::Files::default(), BTreeMap::<String, go::Files>::new());
        for id in (1..tree.len()).map(NodeId) {
            let Some(node) = tree.node(id) else { continue };
            let size = match node.kind {
                Kind::File { size, .. } => size,
                // What it leads to is loaded as packages, and not listed as such.
                Kind::Link { .. } if node.name == "node_modules" => {
                    inventory.unlisted.push(tree.path(id));
                    continue;
                }
                _ => continue,
            };
            if size >= 64 {
                inventory.program(&tree.path(id), size, &mut |limit| content(id, limit));
            }
            if !NAMES.contains(&node.name) {
                continue;
            }
            let path = tree.path(id);
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            // Inside of an installed package it is about that package's own development.
            let own = !folder.contains("node_modules");
            match node.name {
                "METADATA" if folder.ends_with(".dist-info") => inventory.wheel(&path, content(id, METADATA_BYTES)),
                "PKG-INFO" if folder.ends_with(".egg-info") => inventory.wheel(&path, content(id, METADATA_BYTES)),
                "Cargo.lock" | "uv.lock" | "poetry.lock" if own => {
                    let ecosystem = if node.name == "Cargo.lock" { Ecosystem::Cargo } else { Ecosystem::Pypi };
                    inventory.locked(&path, ecosystem, content(id, LOCKFILE_BYTES + 1));
                }
                "go.mod" if own => go.entry(folder).or_default().module = Some((path, id)),
                "go.sum" if own => go.entry(folder).or_default().sums = Some((path, id)),
                name => javascript.take(name, folder, path, id),
            }
        }
        inventory.javascript(javascript, content);
        for files in go.values() {
            inventory.go(files, content);
        }
        if inventory.packages.len() > PACKAGES {
            inventory.unreadable.push((String::new(), format!("more than {PACKAGES} packages; the rest is left out")));
            inventory.packages = std::mem::take(&mut inventory.packages).into_iter().take(PACKAGES).collect();
        }
        inventory
    }

    /// How many files should list packages and do not, so that the list may lack some.
    pub fn unread(&self) -> usize {
        self.unreadable.len() + self.unlisted.len()
    }

    /// One package that the file at `path` names.
    fn add(
        &mut self,
        path: &str,
        ecosystem: Ecosystem,
        (name, version): (&str, &str),
        more: impl FnOnce(Package) -> Package,
    ) {
        // Cut or escaped it would be the name of something else, of which nothing is known.
        if name.chars().count() > NAME || version.chars().count() > NAME || bounded(name) != name {
            let reason = format!("names a package that no registry has: {:?}", bounded(name));
            return self.unreadable.push((path.to_owned(), reason));
        }
        let package = Package {
            ecosystem,
            name: name.to_owned(),
            version: bounded(version),
            licence: None,
            install_script: false,
        };
        self.packages.insert(more(package));
    }

    /// What a program says it was built from.
    fn program(&mut self, path: &str, size: u64, content: &mut dyn FnMut(u64) -> Result<Vec<u8>, String>) {
        if !content(4).is_ok_and(|begin| begin == b"\x7fELF") {
            return;
        }
        let parts = match size > PROGRAM_BYTES {
            true => Err(format!("is a program of more than {PROGRAM_BYTES} bytes, which is not searched for packages")),
            false => content(PROGRAM_BYTES).and_then(|bytes| programs::parts(&bytes)),
        };
        match parts {
            Ok(parts) => {
                for part in parts {
                    self.add(path, part.ecosystem, (&part.name, &part.version), |package| package);
                }
            }
            Err(reason) => self.unreadable.push((path.to_owned(), reason)),
        }
    }

    /// A lockfile in TOML. What is at hand in the project itself has no registry.
    fn locked(&mut self, path: &str, ecosystem: Ecosystem, content: Result<Vec<u8>, String>) {
        let list = lock_text(content).and_then(|text| {
            toml::from_str::<TomlLock>(&text).map_err(|error| format!("is not a lockfile: {}", error.message()))
        });
        let list = match list {
            Ok(list) => list,
            Err(reason) => return self.unreadable.push((path.to_owned(), reason)),
        };
        for one in list.package {
            let local = match &one.source {
                // Poetry names no source for what comes from PyPI; Cargo none for what is local.
                None => ecosystem == Ecosystem::Cargo,
                Some(toml::Value::Table(source)) => {
                    ["editable", "virtual", "directory"].iter().any(|key| source.contains_key(*key))
                }
                Some(_) => false,
            };
            if !local {
                let version = one.version.as_deref().unwrap_or(UNKNOWN);
                self.add(path, ecosystem, (&one.name, version), |package| package);
            }
        }
    }

    /// The modules of one folder.
    fn go(&mut self, files: &go::Files, content: &mut Content<'_>) {
        let mut read = |file: &Option<(String, NodeId)>| {
            let (path, id) = file.as_ref()?;
            Some((path.clone(), lock_text(content(*id, LOCKFILE_BYTES + 1))))
        };
        let (module, sums) = (read(&files.module), read(&files.sums));
        let mut complete = false;
        if let Some((path, text)) = module {
            match text.and_then(|text| go::mod_file(&text)) {
                Ok(file) => {
                    complete = file.complete;
                    self.add_modules(&path, file.modules);
                }
                Err(reason) => self.unreadable.push((path, reason)),
            }
        }
        if let Some((path, text)) = sums.filter(|_| !complete) {
            match text.and_then(|text| go::sum_file(&text)) {
                Ok(modules) => self.add_modules(&path, modules),
                Err(reason) => self.unreadable.push((path, reason)),
            }
        }
    }

    fn add_modules(&mut self, path: &str, modules: BTreeSet<go::Module>) {
        for (name, version) in modules {
            self.add(path, Ecosystem::Go, (&name, &version), |package| package);
        }
    }

    fn wheel(&mut self, path: &str, content: Result<Vec<u8>, String>) {
        let package = content.and_then(|bytes| {
            let text = String::from_utf8_lossy(&bytes);
            wheel::wheel(&text).ok_or_else(|| "has no Name and Version".to_owned())
        });
        match package {
            Ok((name, version, licence)) => {
                let licence = licence.map(|text| bounded(&text));
                self.add(path, Ecosystem::Pypi, (&name, &version), |package| Package { licence, ..package });
            }
            Err(reason) => self.unreadable.push((path.to_owned(), reason)),
        }
    }

    /// Everything that rules say of it, and the policy of licences; it stands at `field` of the recipe.
    pub(super) fn check(&self, recipe: &Recipe, field: &str, policy: Option<&Policy>, findings: &mut Findings) {
        let place = recipe.place(field);
        let mut all = |rule: &Rule, fix: &str, found: Vec<(String, String)>| {
            findings.extend_bounded(found.into_iter().map(|(subject, message)| -> Finding {
                rule.find(&subject, message).at(recipe.file(), Some(place)).fix(fix)
            }));
        };
        all(&rules::DEPENDENCY_UNREADABLE, "ship the file as the package manager writes it", self.unreadable.clone());
        let unlisted = self.unlisted.iter().map(|path| (path.clone(), "stands in no lockfile".to_owned()));
        all(
            &rules::DEPENDENCY_UNLISTED,
            "install with npm ci, and ship node_modules/.package-lock.json (or the lockfile of yarn or pnpm)",
            unlisted.collect(),
        );
        all(
            &rules::DEPENDENCY_DIFFERS,
            "install anew with npm ci; a list that names something else hides what is there",
            self.differs.clone(),
        );
        let scripts = self.packages.iter().filter(|package| package.install_script);
        let scripts =
            scripts.map(|package| (package.id(), "has an install script; what it made is in the artefact".to_owned()));
        all(
            &rules::INSTALL_SCRIPT,
            "install with --ignore-scripts, or look at what the script does",
            scripts.collect(),
        );
        let licences = policy.and_then(|policy| policy.licences.as_ref());
        let refused = licences.into_iter().flat_map(|licences| {
            self.packages.iter().filter_map(|package| {
                let problem = licences.refuses(package.licence.as_deref())?;
                Some((package.id(), problem))
            })
        });
        all(&rules::POLICY_LICENCE, "use another package, or ask for a waiver", refused.collect());
    }
}

/// Gives at most so many bytes of a file of the tree, or the reason.
type Content<'a> = dyn FnMut(NodeId, u64) -> Result<Vec<u8>, String> + 'a;
