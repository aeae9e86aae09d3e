//! What an artefact says of itself, and where it says it.

use std::collections::BTreeMap;
use std::io::Read as _;

use mcpfs_trust::name::{Platform, Version};
use mcpfs_trust::release::{AcceptArgs, Launch, Runtime};
use mcpfs_trust::tree::{Kind, NodeId, Tree};
use serde_json::Value;

use super::typed::Named;
use super::{image, node, python, words};
use crate::check::dependencies;
use crate::fetch::Pinned;
use crate::launch;
use crate::unpack::Archive;

/// A value, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess<T> {
    /// The value.
    pub value: T,
    /// A file of the artefact.
    pub from: String,
}

/// Everything that could be guessed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The fields of a recipe.
pub struct Guesses {
    pub name: Option<Guess<String>>,
    pub version: Option<Guess<Version>>,
    pub description: Option<Guess<String>>,
    pub maintainer: Option<Guess<String>>,
    pub launch: Option<Guess<Launch>>,
    pub platform: Option<Guess<Platform>>,
    /// Of the artefact's own licence; a recipe has no such field.
    pub licence: Option<Guess<String>>,
    /// Variables that take a secret.
    pub credentials: Vec<Guess<String>>,
    /// What is open, for the person who fills in the rest.
    pub remarks: Vec<String>,
}

/// An artefact that was unpacked.
pub(super) struct Looked<'a> {
    pub(super) tree: &'a Tree,
    pub(super) archive: &'a Archive,
    /// What its address says.
    pub(super) named: &'a Named,
}

/// Largest file that is read for a guess, bytes.
const READ: u64 = 1 << 20;

impl Looked<'_> {
    /// The beginning of a file of the tree.
    pub(super) fn bytes(&self, id: NodeId, limit: u64) -> Option<Vec<u8>> {
        let Kind::File { sha256, .. } = self.tree.node(id)?.kind else { return None };
        let mut bytes = Vec::new();
        self.archive.spool.reader(&sha256)?.take(limit).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// A text of the tree, by its path.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        String::from_utf8(self.bytes(self.tree.resolve(path)?, READ)?).ok()
    }

    /// A JSON file of the tree.
    pub(super) fn json(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.text(path)?).ok()
    }

    pub(super) fn is_file(&self, path: &str) -> bool {
        self.tree
            .resolve(path)
            .and_then(|id| self.tree.node(id))
            .is_some_and(|node| matches!(node.kind, Kind::File { .. }))
    }
}

/// A guess from `from`.
pub(super) fn guess<T>(value: T, from: &str) -> Guess<T> {
    Guess { value, from: mcpfs_trust::error::bounded(from) }
}

/// A launch without anything but these.
pub(super) fn start(command: &str, args: Vec<String>, env: BTreeMap<String, String>) -> Launch {
    let (accept_args, runtime) = (AcceptArgs::default(), Runtime::Host);
    Launch { command: command.to_owned(), args, env, accept_args, runtime, workdir: None, platform: None }
}

/// All guesses; what says it most surely comes first.
pub(super) fn all(looked: &Looked<'_>, pinned: &Pinned) -> Guesses {
    let mut guesses = Guesses::default();
    let source = &pinned.source;
    fill(&mut guesses.platform, Some(source.platform.clone()).filter(|own| !own.is_any()), &source.url);
    fill(&mut guesses.launch, pinned.launch.clone(), &source.url);
    image::look(looked, &mut guesses);
    if guesses.platform.is_none() {
        guesses.platform = platform(looked);
    }
    bundle(looked, &mut guesses);
    registry(looked, &mut guesses);
    node::look(looked, &mut guesses);
    python::look(looked, &mut guesses);
    executable(looked, &mut guesses);
    let named = looked.named;
    fill(&mut guesses.name, named.name.clone(), &source.url);
    fill(&mut guesses.version, named.version.as_deref().and_then(words::version), &source.url);
    if guesses.launch.as_ref().is_some_and(|guess| guess.value.validate().is_err()) {
        guesses.launch = None;
    }
    guesses.credentials.sort_by(|a, b| a.value.cmp(&b.value));
    guesses.credentials.dedup_by(|a, b| a.value == b.value);
    guesses
}

/// Fills in what is not known yet.
pub(super) fn fill<T>(field: &mut Option<Guess<T>>, value: Option<T>, from: &str) {
    if let (None, Some(value)) = (&field, value) {
        *field = Some(guess(value, from));
    }
}

/// The fields that JSON manifests have in common.
pub(super) fn common(guesses: &mut Guesses, manifest: &Value, from: &str) {
    let text = |field: &str| manifest[field].as_str();
    fill(&mut guesses.name, text("name").map(str::to_owned), from);
    fill(&mut guesses.version, text("version").and_then(words::version), from);
    fill(&mut guesses.description, text("description").and_then(words::line), from);
    let licence = dependencies::npm_licence(&manifest["license"]);
    fill(&mut guesses.licence, licence.as_deref().and_then(words::line), from);
}

/// `manifest.json` of an .mcpb.
fn bundle(looked: &Looked<'_>, guesses: &mut Guesses) {
    const FROM: &str = "manifest.json";
    let Some(Ok(manifest)) = &looked.archive.manifest else { return };
    if let Some(json) = looked.json(FROM) {
        common(guesses, &json, FROM);
    }
    let derived = launch::derive(manifest);
    guesses.remarks.extend(derived.problems.iter().map(|problem| format!("{FROM}: {}", problem.message)));
    guesses.credentials.extend(derived.secrets.iter().map(|secret| guess(secret.env.clone(), FROM)));
    fill(&mut guesses.launch, derived.launch, FROM);
}

/// `server.json` of the MCP registry.
fn registry(looked: &Looked<'_>, guesses: &mut Guesses) {
    const FROM: &str = "server.json";
    let Some(json) = looked.json(FROM) else { return };
    if !json["packages"].is_array() && !json["$schema"].is_string() {
        return;
    }
    common(guesses, &json, FROM);
    for variable in json["packages"].as_array().into_iter().flatten() {
        for variable in variable["environmentVariables"].as_array().into_iter().flatten() {
            let Some(name) = variable["name"].as_str() else { continue };
            if variable["isSecret"].as_bool().unwrap_or(false) || words::is_secret(name) {
                guesses.credentials.push(guess(name.to_owned(), FROM));
            } else if variable["isRequired"].as_bool().unwrap_or(false) && variable["default"].is_null() {
                let remark = format!("{FROM}: the variable {name} is required: write it under launch.env");
                guesses.remarks.push(mcpfs_trust::error::bounded(&remark));
            }
        }
    }
}

/// The one executable of an artefact that says nothing else.
fn executable(looked: &Looked<'_>, guesses: &mut Guesses) {
    if guesses.launch.is_some() {
        return;
    }
    let mut found = Vec::new();
    for id in (1..looked.tree.len()).map(NodeId) {
        let Some(Kind::File { executable: true, .. }) = looked.tree.node(id).map(|node| node.kind) else { continue };
        let path = looked.tree.path(id);
        let begin = looked.bytes(id, 4).unwrap_or_default();
        let starts = begin == b"\x7fELF" || begin.starts_with(b"#!");
        if starts && !path.contains("node_modules/") && !path.ends_with(".so") {
            found.push(path);
        }
    }
    let in_bin: Vec<String> = found.iter().filter(|path| path.starts_with("bin/")).cloned().collect();
    let one = match (found.as_slice(), in_bin.as_slice()) {
        ([one], _) | (_, [one]) => one,
        ([], _) => return,
        _ => {
            let some: Vec<&str> = found.iter().take(5).map(String::as_str).collect();
            let remark = format!("several executables, such as {}: name the one that serves", some.join(", "));
            return guesses.remarks.push(mcpfs_trust::error::bounded(&remark));
        }
    };
    let command = if one.contains(['/', '.']) { one.clone() } else { format!("./{one}") };
    fill(&mut guesses.launch, Some(start(&command, Vec::new(), BTreeMap::new())), &format!("the executable {one}"));
    let stem = one.rsplit('/').next().unwrap_or(one);
    fill(&mut guesses.name, Some(stem.to_owned()), &format!("the executable {one}"));
}

/// The machine of the artefact's machine code, if all of it is for Linux and for one.
fn platform(looked: &Looked<'_>) -> Option<Guess<Platform>> {
    let mut found: Option<(&'static str, String)> = None;
    for id in (1..looked.tree.len()).map(NodeId) {
        let Some(bytes) = looked.bytes(id, 20).filter(|bytes| bytes.starts_with(b"\x7fELF")) else { continue };
        // e_machine, little-endian on both.
        let machine = match bytes.get(18..20)? {
            [0x3e, 0] => "amd64",
            [0xb7, 0] => "arm64",
            _ => return None,
        };
        match &found {
            None => found = Some((machine, looked.tree.path(id))),
            Some((other, _)) if *other != machine => return None,
            Some(_) => {}
        }
    }
    let (machine, path) = found?;
    Some(guess(format!("linux/{machine}").parse().ok()?, &format!("machine code in {path}")))
}
