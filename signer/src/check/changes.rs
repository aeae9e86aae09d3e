//! What differs from the published release: the first thing a reviewer wants to know.
//!
//! The other side is read as a host reads it: head, catalogue, entry and statement verify by
//! the trust root of its hosts, and the tree by the statement. Changes are facts for the
//! reviewer, not findings: they need the site, which signing does not look at again.

pub(crate) mod published;

use std::collections::BTreeMap;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, PlatformLayout};
use mcpfs_trust::error::{VerifyError, bounded};
use mcpfs_trust::name::{Platform, ServerName, Version};
use mcpfs_trust::release::Release;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::tree::{Kind, NodeId, Tree};
use mcpfs_trust::verify::{self, Verified};
use serde::Serialize;

use super::capability::{Capabilities, Capability, Evidence};
use super::dependencies::Ecosystem;
use super::{Inventory, Published};
use crate::recipe::Recipe;
use crate::site::state::at;
use crate::site::{Site, SiteError};
use crate::staging::StagedArtefact;

pub(super) use published::PublishedFiles;

/// Fields that differ from release to release by themselves, or are compared by content.
const NOT_COMPARED: [&str; 5] = ["version", "reviewed_at", "artefact", "source", "issued"];
/// Paths kept of one list; the rest are counted.
const KEPT: usize = 500;

/// What differs from the published release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Changes {
    /// The selected version and its statement; `None` if the server is new.
    pub previous: Option<Previous>,
    /// Whether this version is published already. It never changes then.
    pub published_already: bool,
    /// Fields of the recipe.
    pub fields: Vec<FieldChange>,
    /// What is in the artefacts, by platform.
    pub platforms: Vec<PlatformChanges>,
}

/// The release that is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Previous {
    /// Its version.
    pub version: Version,
    /// The digest of its statement.
    pub statement: Digest,
}

/// A field that differs. The values are as in the statement, as bounded JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct FieldChange {
    /// Its name.
    pub field: String,
    /// The published value; `None` if there was none.
    pub before: Option<String>,
    /// The new value; `None` if there is none.
    pub after: Option<String>,
}

/// What differs in one platform's tree. Paths are bounded and escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct PlatformChanges {
    /// The platform.
    pub platform: Platform,
    /// Files and links that are new.
    pub added: Paths,
    /// Files and links that are gone.
    pub removed: Paths,
    /// Files and links with another content, target or execute bit.
    pub changed: Paths,
    /// Packages that are new, as `npm:name@version`.
    pub packages_added: Paths,
    /// Packages that are gone.
    pub packages_removed: Paths,
    /// Packages of which there is another version, as `npm:name 1.0.0 -> 1.1.0`.
    pub packages_changed: Paths,
    /// New executables, and files that became executable.
    pub executables: Paths,
    /// What packages can do now and could not before.
    pub capabilities_added: Gained,
    /// What packages could do before, as `npm:name exec`.
    pub capabilities_removed: Paths,
}

/// Some capabilities, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
pub struct Gained {
    /// All of them.
    pub count: usize,
    /// The first 500, by package.
    pub first: Vec<NewCapability>,
}

/// Something that a package can do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct NewCapability {
    /// The package, such as `npm:lodash`.
    pub package: String,
    /// What it can do.
    pub capability: Capability,
    /// Where that stands.
    pub evidence: Evidence,
}

/// Some paths, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, schemars::JsonSchema)]
pub struct Paths {
    /// All of them.
    pub count: usize,
    /// The first 500, in the order of their bytes.
    pub paths: Vec<String>,
}

impl Paths {
    fn push(&mut self, path: &str) {
        self.count += 1;
        if self.paths.len() < KEPT {
            self.paths.push(bounded(path));
        }
    }
}

impl PlatformChanges {
    /// Whether the trees are the same.
    pub fn is_empty(&self) -> bool {
        self.added.count + self.removed.count + self.changed.count == 0
    }
}

/// What differs between the published release and the recipe with its measured artefacts.
///
/// # Errors
/// If the site cannot be read or does not verify.
pub(super) fn since(
    published: &Published,
    recipe: &Recipe,
    artefacts: &[StagedArtefact],
    dependencies: &[(Platform, Inventory)],
    capabilities: &[(Platform, Capabilities)],
) -> Result<Changes, SiteError> {
    let (site, root) = (&published.site, &published.root);
    let state = site.published(root)?;
    // An empty folder is a registry before its first release; anything else is a mistyped name.
    if state.head.is_none() && !site.store().is_empty()? {
        return Err(SiteError::NothingPublished { place: site.place() });
    }
    let Some(entry) = site.entry(&state, &recipe.name)? else {
        return Ok(Changes { previous: None, published_already: false, fields: Vec::new(), platforms: Vec::new() });
    };
    let published_already = entry.find(&recipe.version).is_some();
    let Some((listed, before)) = believed(&entry, root)? else {
        return Ok(Changes { previous: None, published_already, fields: Vec::new(), platforms: Vec::new() });
    };
    let version = listed.release.version.clone();
    let fields = recipe.draft(&root.registry).map(|after| fields(&before, &after)).unwrap_or_default();
    let mut platforms = Vec::with_capacity(artefacts.len());
    for artefact in artefacts {
        let old = published_tree(site, listed, &artefact.platform)?;
        let mut changes = trees(&artefact.platform, old.as_ref(), &artefact.tree);
        let carried = dependencies.iter().find(|(platform, _)| *platform == artefact.platform);
        let can = capabilities.iter().find(|(platform, _)| *platform == artefact.platform);
        let mut files = match (&old, listed.layout_for(&artefact.platform)) {
            (Some(tree), Some(stored)) => Some(PublishedFiles::open(site, tree, stored)?),
            _ => None,
        };
        if let Some((_, after)) = carried {
            let before = files.as_mut().map(PublishedFiles::inventory).transpose()?.unwrap_or_default();
            packages(&before, after, &mut changes);
        }
        if let (Some((_, after)), Some(files)) = (can, &mut files) {
            gained(&files.capabilities(after)?, after, &mut changes);
        }
        platforms.push(changes);
    }
    Ok(Changes {
        previous: Some(Previous { version, statement: listed.envelope.statement() }),
        published_already,
        fields,
        platforms,
    })
}

fn fields(before: &Release, after: &Release) -> Vec<FieldChange> {
    let map = |release: &Release| match serde_json::to_value(release) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (map(before), map(after));
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let shown = |value: Option<&serde_json::Value>| value.map(|value| bounded(&value.to_string()));
    let differing = names
        .into_iter()
        .filter(|name| !NOT_COMPARED.contains(&name.as_str()) && before.get(name.as_str()) != after.get(name.as_str()));
    let change = |name: &String| FieldChange {
        field: name.clone(),
        before: shown(before.get(name)),
        after: shown(after.get(name)),
    };
    differing.map(change).collect()
}

/// The tree of a listed release; `None` if it has none for this platform.
pub(crate) fn published_tree(site: &Site, listed: &Listed, platform: &Platform) -> Result<Option<Tree>, SiteError> {
    let (Some(artefact), Some(stored)) = (listed.release.artefact.for_platform(platform), listed.layout_for(platform))
    else {
        return Ok(None);
    };
    Ok(Some(Tree::decode(&site.chunks(&stored.tree)?, &artefact.tree).map_err(at("tree"))?))
}

/// The selected release of a site, with what is listed of it for one platform.
pub(super) struct PublishedRelease {
    pub(super) release: Release,
    pub(super) tree: Tree,
    pub(super) stored: PlatformLayout,
}

/// The selected release; `None` if there is none for this name and platform.
///
/// # Errors
/// If the site cannot be read or does not verify.
pub(super) fn published_release(
    published: &Published,
    name: &ServerName,
    platform: &Platform,
) -> Result<Option<PublishedRelease>, SiteError> {
    let (site, root) = (&published.site, &published.root);
    let Some(entry) = site.entry(&site.published(root)?, name)? else { return Ok(None) };
    let Some((listed, release)) = believed(&entry, root)? else { return Ok(None) };
    let (Some(tree), Some(stored)) = (published_tree(site, listed, platform)?, listed.layout_for(platform)) else {
        return Ok(None);
    };
    Ok(Some(PublishedRelease { release: (*release).clone(), tree, stored: stored.clone() }))
}

/// The release that a new one is compared with: the selected one. After the theft of a key that may be one
/// which the trust root believes no more; then it is the newest that it does believe, lest nothing could follow.
fn believed<'e>(
    entry: &'e Verified<Entry>,
    root: &TrustRoot,
) -> Result<Option<(&'e Listed, Verified<Release>)>, SiteError> {
    for listed in entry.releases() {
        let version = &listed.release.version;
        match verify::release(entry, version, root, None) {
            Ok(release) => return Ok(Some((listed, release))),
            Err(VerifyError::KeyNotAuthorised { .. } | VerifyError::ThresholdNotMet { .. }) => {}
            Err(error) => return Err(at(&format!("{} {version}", listed.release.name))(error)),
        }
    }
    Ok(None)
}

/// What packages can do now and could not, and the other way round.
fn gained(before: &Capabilities, after: &Capabilities, changes: &mut PlatformChanges) {
    for (package, capability, evidence) in after.since(before) {
        let gained = &mut changes.capabilities_added;
        gained.count += 1;
        if gained.first.len() < KEPT {
            gained.first.push(NewCapability { package: package.clone(), capability, evidence: evidence.clone() });
        }
    }
    for (package, capability, _) in before.since(after) {
        changes.capabilities_removed.push(&format!("{package} {capability}"));
    }
}

/// Packages by name: one version that became another is a change, all else comes or goes.
fn packages(before: &Inventory, after: &Inventory, changes: &mut PlatformChanges) {
    type Versions<'a> = BTreeMap<(Ecosystem, &'a str), Vec<&'a str>>;
    fn versions(inventory: &Inventory) -> Versions<'_> {
        let mut versions = Versions::new();
        for package in &inventory.packages {
            let of = versions.entry((package.ecosystem, package.name.as_str())).or_default();
            if of.last() != Some(&package.version.as_str()) {
                of.push(&package.version);
            }
        }
        versions
    }
    let (before, after) = (versions(before), versions(after));
    for ((ecosystem, name), new) in &after {
        match before.get(&(*ecosystem, *name)) {
            None => {
                new.iter().for_each(|version| changes.packages_added.push(&format!("{ecosystem}:{name}@{version}")))
            }
            Some(old) if old != new => {
                let (old, new) = (old.join(", "), new.join(", "));
                changes.packages_changed.push(&format!("{ecosystem}:{name} {old} -> {new}"));
            }
            Some(_) => {}
        }
    }
    for ((ecosystem, name), old) in before.iter().filter(|(key, _)| !after.contains_key(*key)) {
        old.iter().for_each(|version| changes.packages_removed.push(&format!("{ecosystem}:{name}@{version}")));
    }
}

fn trees(platform: &Platform, before: Option<&Tree>, after: &Tree) -> PlatformChanges {
    let (before, after) = (before.map(leaves).unwrap_or_default(), leaves(after));
    let mut changes = PlatformChanges {
        platform: platform.clone(),
        added: Paths::default(),
        removed: Paths::default(),
        changed: Paths::default(),
        packages_added: Paths::default(),
        packages_removed: Paths::default(),
        packages_changed: Paths::default(),
        executables: Paths::default(),
        capabilities_added: Gained::default(),
        capabilities_removed: Paths::default(),
    };
    for (path, leaf) in &after {
        let old = before.get(path);
        match old {
            None => changes.added.push(path),
            Some(old) if old != leaf => changes.changed.push(path),
            Some(_) => {}
        }
        if leaf.is_executable() && !old.is_some_and(Leaf::is_executable) {
            changes.executables.push(path);
        }
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        changes.removed.push(path);
    }
    changes
}

/// A file or link, as far as it is compared.
#[derive(PartialEq, Eq)]
enum Leaf {
    File { executable: bool, sha256: Digest },
    Link { target: String },
}

impl Leaf {
    const fn is_executable(&self) -> bool {
        matches!(self, Self::File { executable: true, .. })
    }
}

fn leaves(tree: &Tree) -> BTreeMap<String, Leaf> {
    let leaf = |index| {
        let id = NodeId(index);
        let leaf = match tree.node(id)?.kind {
            Kind::Directory => return None,
            Kind::File { executable, sha256, .. } => Leaf::File { executable, sha256 },
            Kind::Link { target } => Leaf::Link { target: target.to_owned() },
        };
        Some((tree.path(id), leaf))
    };
    (1..tree.len()).filter_map(leaf).collect()
}
