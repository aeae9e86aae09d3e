//! What tests of the signing server start from: a registry, and the forge where it is reviewed.

use std::path::{Path, PathBuf};

use mcpfs_tests::codehost::{Clone, CodeHost, Kind, Merge};
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::forge;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::signing::recipe_in;
use serde_json::Value;

/// A registry, the artefact that its recipes name, and the forge where they are reviewed.
pub(crate) struct Desk {
    pub(crate) registry: Registry,
    pub(crate) forge: CodeHost,
    tar: PathBuf,
}

impl Desk {
    pub(crate) fn new(kind: Kind) -> Self {
        let registry = Registry::new();
        let tree = fixture::hello_tree(&registry.artefacts(), "1.0.0");
        let tar = fixture::tar(&tree);
        Self { registry, forge: CodeHost::new(kind), tar }
    }

    /// The artefact that every recipe of this desk names.
    pub(crate) fn artefact(&self) -> &Path {
        &self.tar
    }

    /// The text of a recipe in the registry's repository.
    pub(crate) fn recipe(&self, name: &str, version: &str) -> String {
        let recipe = Recipe::new(name, version, &self.tar).with(fixture::HELLO_LAUNCH);
        recipe_in(&self.registry.artefacts(), &recipe)
    }

    /// Opens a request with one recipe on a branch called after it.
    pub(crate) fn propose(&self, author: &Clone, name: &str, version: &str) -> u64 {
        let branch = format!("{name}-{version}");
        author.branch(&branch);
        author.commit(&format!("servers/{name}.yaml"), &self.recipe(name, version), &format!("{name} {version}"));
        author.push(&branch).ok();
        self.forge.open(author.login(), &branch, &format!("{name} {version}"))
    }

    /// Opens a request that changes one file, approved by these people and merged.
    pub(crate) fn change(&self, author: &Clone, file: &str, text: &str, approved_by: &[&str]) -> u64 {
        // A branch of its own each time.
        let branch = format!("change-at-{}", self.forge.tip());
        author.branch(&branch);
        author.commit(file, text, &format!("Change {file}"));
        author.push(&branch).ok();
        let number = self.forge.open(author.login(), &branch, &format!("Change {file}"));
        approved_by.iter().for_each(|reviewer| self.forge.approve(number, reviewer));
        self.forge.merge(number, "mona", Merge::Squash);
        number
    }

    /// The same with one recipe, approved by both reviewers.
    pub(crate) fn accept(&self, author: &Clone, name: &str, version: &str, how: Merge) -> u64 {
        let number = self.propose(author, name, version);
        for reviewer in ["sec", "plat"] {
            self.forge.approve(number, reviewer);
        }
        self.forge.merge(number, "mona", how);
        number
    }
}

/// The head's version of a site; 0 if it has none.
pub(crate) fn head_version(site: &Path) -> u64 {
    let head = site.join("head.json");
    if !head.is_file() {
        return 0;
    }
    forge::payload(&forge::read(&head))["predicate"]["version"].as_u64().expect("a number")
}

/// A site, a folder or an address, as a host verifies it.
pub(crate) fn verify(site: &(impl AsRef<std::ffi::OsStr> + ?Sized), trust: &Path) {
    Run::new(mcpfs_tests::binaries::bin("mcpfs")).args(["verify"]).arg(site).arg("--trust").arg(trust).ok();
}

/// What is signed about the selected release of `name`.
pub(crate) fn statement(site: &Path, name: &str) -> Value {
    forge::payload(&forge::read(&site.join(format!("servers/{name}.json")))["signature"])
}

/// The segment of the log that belongs to the site's head, if that has this version; else any of the version.
pub(crate) fn segment(site: &Path, version: u64) -> String {
    let folder = site.join("log");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(&format!("{version}-"))).collect();
    if head_version(site) == version {
        let head = forge::payload_sha256(&forge::read(&site.join("head.json")));
        names.retain(|name| *name == format!("{version}-{head}.jsonl"));
    }
    std::fs::read_to_string(folder.join(names.first().expect("a segment"))).unwrap()
}
