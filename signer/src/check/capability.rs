//! What code can do, as far as a quick look tells: network, processes, writing, code made at run
//! time, machine code, environment.
//!
//! A reviewer cannot read 3,900 files, but can ask why a formatter began to open sockets. So what
//! counts is not the list, which is noisy by itself, but what came with this version: the same
//! look is taken at the published release, and the difference is shown with a file and a line.
//! The unit is the package, not the file: files move from version to version.
//!
//! The look is for the markers of `markers`, a documented table for each language, outside of
//! comments; of ELF files it takes the imported symbols. It is no proof of absence: code that
//! wants to hide can build every name at run time. What such code looks like is the business of
//! patterns. What could not be looked at (too large, too much) is said.

mod elf;
mod markers;
mod scan;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::name::Platform;
use mcpfs_trust::release::Network;
use mcpfs_trust::tree::{Kind, NodeId, Tree};
use serde::Serialize;

use super::changes::Changes;
use super::finding::Findings;
use super::rules;
use crate::recipe::Recipe;

use markers::Language;
pub(crate) use scan::Sighting;

/// Something that code can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Opens connections or listens.
    Network,
    /// Starts other programs.
    Exec,
    /// Writes, moves or removes files.
    Write,
    /// Runs code that is made or chosen at run time.
    Eval,
    /// Is machine code, or loads it.
    Native,
    /// Reads the environment, the home folder or a keyring, where secrets are.
    Environment,
}

impl Capability {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 6] = [Self::Network, Self::Exec, Self::Write, Self::Eval, Self::Native, Self::Environment];

    /// Its word in reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Exec => "exec",
            Self::Write => "write",
            Self::Eval => "eval",
            Self::Native => "native",
            Self::Environment => "environment",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where a capability was seen first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Evidence {
    /// The file, bounded and escaped.
    pub file: String,
    /// The line; none of machine code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What stands there.
    pub marker: &'static str,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line} {}", self.file, self.marker),
            None => write!(f, "{} {}", self.file, self.marker),
        }
    }
}

/// What the code of one artefact can do, by package.
#[derive(Debug, Clone, Default, Serialize, schemars::JsonSchema)]
pub struct Capabilities {
    /// By package (`npm:lodash`, `python:requests`, or [`OWN`]), then by capability.
    pub packages: BTreeMap<String, BTreeMap<Capability, Evidence>>,
    /// Files that could not be looked at whole, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub unread: Vec<(String, String)>,
    /// What was seen in each content, so that another tree need not look again.
    #[serde(skip)]
    seen: Seen,
}

/// By content and language.
type Seen = HashMap<(Digest, Language), Arc<[Sighting]>>;

/// The code that belongs to no installed package.
pub const OWN: &str = "own code";

/// Largest file that is looked at, bytes.
const FILE_BYTES: u64 = 256 << 20;
/// Most bytes that are looked at in one artefact.
const TOTAL_BYTES: u64 = 1 << 30;
/// What tells a script or machine code that has no telling name, bytes.
const BEGIN_BYTES: u64 = 128;

/// Gives at most so many bytes of a file, or the reason why not.
pub(super) type Content<'a> = dyn FnMut(NodeId, u64) -> Result<Vec<u8>, String> + 'a;

impl Capabilities {
    /// Looks at all code of a tree; contents that `known` has seen are not read again.
    pub(super) fn read(tree: &Tree, known: Option<&Self>, content: &mut Content<'_>) -> Self {
        let mut all = Self { seen: known.map(|known| known.seen.clone()).unwrap_or_default(), ..Self::default() };
        let roots = python_roots(tree);
        let mut left = TOTAL_BYTES;
        for id in (1..tree.len()).map(NodeId) {
            let Some(node) = tree.node(id) else { continue };
            let Kind::File { sha256, size, .. } = node.kind else { continue };
            let named = Language::of_name(node.name);
            let is_copy = named == Some(Language::Bytecode) && has_source(tree, &tree.path(id));
            if size == 0 || named == Some(Language::None) || is_copy {
                continue;
            }
            let mut look = |all: &mut Self| -> Result<Arc<[Sighting]>, String> {
                let known = |language| all.seen.get(&(sha256, language)).cloned();
                if let Some(seen) = known(named.unwrap_or(Language::None)) {
                    return Ok(seen);
                }
                let language = match named {
                    Some(language) => language,
                    None => Language::of_begin(&content(id, BEGIN_BYTES)?),
                };
                let seen: Arc<[Sighting]> = match language {
                    Language::None => Arc::from([]),
                    _ if size > FILE_BYTES => return Err(format!("has more than {FILE_BYTES} bytes")),
                    _ if size > left => return Err(format!("is beyond {TOTAL_BYTES} bytes of code")),
                    _ => {
                        left -= size;
                        scan::look(language, &content(id, size)?).into()
                    }
                };
                all.seen.insert((sha256, named.unwrap_or(Language::None)), seen.clone());
                Ok(seen)
            };
            match look(&mut all) {
                Ok(seen) if seen.is_empty() => {}
                Ok(seen) => all.saw(&tree.path(id), &roots, &seen),
                Err(reason) => all.unread.push((tree.path(id), reason)),
            }
        }
        all
    }

    fn saw(&mut self, path: &str, roots: &BTreeSet<String>, seen: &[Sighting]) {
        let uses = self.packages.entry(package(path, roots)).or_default();
        for sighting in seen {
            uses.entry(sighting.capability).or_insert_with(|| Evidence {
                file: bounded(path),
                line: sighting.line,
                marker: sighting.marker,
            });
        }
    }

    /// What the recipe does not say, and what could not be looked at; the artefact stands at `field`.
    pub(super) fn check(&self, recipe: &Recipe, field: &str, findings: &mut Findings) {
        let place = recipe.place(field);
        let unread = self.unread.iter().map(|(path, reason)| {
            rules::CAPABILITY_UNREAD
                .find(path, format!("{reason}, so nobody looked at what it can do"))
                .at(recipe.file(), Some(place))
                .fix("look at it, and waive this with the reason")
        });
        findings.extend_bounded(unread);
        let closed = recipe.sandbox.as_ref().is_some_and(|sandbox| sandbox.network == Network::None);
        let mut users = self.users(Capability::Network);
        if let (true, Some((first, evidence))) = (closed, users.next()) {
            let others = match users.count() {
                0 => String::new(),
                1 => ", and 1 other package".to_owned(),
                count => format!(", and {count} other packages"),
            };
            let message = format!("the recipe says none, but there is code that uses it: {first} ({evidence}){others}");
            let finding = rules::CAPABILITY_UNDECLARED.find("sandbox.network", message);
            let fix = "leave it if the server works without network: it gets none. Otherwise write host";
            findings.push(finding.fix(fix).at(recipe.file(), Some(recipe.place("sandbox.network"))));
        }
    }

    fn users(&self, capability: Capability) -> impl Iterator<Item = (&String, &Evidence)> {
        self.packages.iter().filter_map(move |(package, uses)| Some((package, uses.get(&capability)?)))
    }

    /// Each capability and package that `before` has not, with the evidence.
    pub(super) fn since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (&'a String, Capability, &'a Evidence)> {
        self.packages.iter().flat_map(move |(package, uses)| {
            let old = before.packages.get(package);
            let new = uses.iter().filter(move |(one, _)| !old.is_some_and(|old| old.contains_key(one)));
            new.map(move |(capability, evidence)| (package, *capability, evidence))
        })
    }

    /// `network (3 packages), exec (own code)`, or nothing.
    pub fn counts(&self) -> String {
        let shown = Capability::ALL.into_iter().filter_map(|capability| {
            let users: Vec<&String> = self.users(capability).map(|(package, _)| package).collect();
            match users.as_slice() {
                [] => None,
                [one] => Some(format!("{capability} ({})", bounded(one))),
                many => Some(format!("{capability} ({} packages)", many.len())),
            }
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

/// What the comparison with the published release says: a first release lists what its code can
/// do, a later one is asked about what came with it.
pub(super) fn compare(
    recipe: &Recipe,
    changes: &Changes,
    capabilities: &[(Platform, Capabilities)],
    findings: &mut Findings,
) {
    let place = Some(recipe.place("artefact"));
    if changes.previous.is_none() {
        let first = capabilities.iter().filter(|(_, all)| !all.packages.is_empty()).map(|(platform, all)| {
            let finding = rules::CAPABILITY_FIRST.find(platform.as_str(), format!("its code uses {}", all.counts()));
            finding.at(recipe.file(), place)
        });
        findings.extend_bounded(first);
    }
    let several = changes.platforms.len() > 1;
    let new = changes.platforms.iter().flat_map(|platform| {
        platform.capabilities_added.first.iter().map(move |new| {
            let only = if several { format!(" for {}", platform.platform) } else { String::new() };
            let message = format!("came with this version{only}: {}", new.evidence);
            let finding = rules::CAPABILITY_NEW.find(&format!("{} {}", new.package, new.capability), message);
            finding.fix("ask why it needs that; look at that line first").at(recipe.file(), place)
        })
    });
    findings.extend_bounded(new);
}

/// Whether the source of compiled Python lies where Python looks for it.
fn has_source(tree: &Tree, path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let module = name.split('.').next().unwrap_or(name);
    let folder = match folder.strip_suffix("__pycache__") {
        Some(above) if above.is_empty() || above.ends_with('/') => above.trim_end_matches('/'),
        _ => folder,
    };
    let source = if folder.is_empty() { format!("{module}.py") } else { format!("{folder}/{module}.py") };
    tree.resolve(&source).is_some()
}

/// Folders that Python packages are installed in: those that hold `*.dist-info`.
fn python_roots(tree: &Tree) -> BTreeSet<String> {
    let infos = (1..tree.len()).map(NodeId).filter(|id| {
        tree.node(*id).is_some_and(|node| node.name.ends_with(".dist-info") && matches!(node.kind, Kind::Directory))
    });
    infos.map(|id| tree.path(id)).map(|path| path.rsplit_once('/').map_or("", |(above, _)| above).to_owned()).collect()
}

/// The package that a file belongs to: the innermost one, without its version.
fn package(path: &str, roots: &BTreeSet<String>) -> String {
    if let Some(at) = path.rfind("node_modules/").filter(|at| *at == 0 || path.as_bytes()[at - 1] == b'/') {
        let mut parts = path[at + "node_modules/".len()..].split('/');
        let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        match (first.starts_with('@'), second, third) {
            (true, Some(name), Some(_)) => return bounded(&format!("npm:{first}/{name}")),
            (false, Some(_), _) if first != ".bin" => return bounded(&format!("npm:{first}")),
            _ => {}
        }
    }
    let root = roots
        .iter()
        .rev()
        .find(|root| root.is_empty() || path.strip_prefix(root.as_str()).is_some_and(|rest| rest.starts_with('/')));
    let Some(root) = root else { return OWN.to_owned() };
    let below = path[root.len()..].trim_start_matches('/');
    let first = below.split('/').next().unwrap_or(below);
    let module = if below.contains('/') { first } else { first.split('.').next().unwrap_or(first) };
    bounded(&format!("python:{module}"))
}
