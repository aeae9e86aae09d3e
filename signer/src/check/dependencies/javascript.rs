//! Packages of npm, by the lockfiles of npm, Yarn and pnpm.
//!
//! npm's own lockfile names the folder of each package. Those of Yarn and pnpm name packages only, so a
//! package that is installed stands in one if its `package.json` has a name and version that it lists. Where npm's lockfile
//! and the package itself say different things, both are listed: whoever wrote the lockfile may want
//! another version to be asked about than the one that is there.

use std::collections::{BTreeMap, BTreeSet};

use mcpfs_trust::error::bounded;
use mcpfs_trust::json::read_alike;
use mcpfs_trust::tree::NodeId;
use serde::Deserialize;

use super::lockfile::{LOCKFILE_BYTES, lock_text};
use super::yarn::Locked as Named;
use super::{Content, Ecosystem, Inventory, Package, UNKNOWN, pnpm, yarn};

/// Largest `package.json`, bytes.
const MANIFEST_BYTES: u64 = 1 << 20;

/// A lockfile of npm, version 2 or 3; what is not needed is skipped.
#[derive(Deserialize)]
struct Lockfile {
    packages: BTreeMap<String, Locked>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Locked {
    name: Option<String>,
    version: Option<String>,
    license: Option<serde_json::Value>,
    #[serde(default)]
    has_install_script: bool,
    #[serde(default)]
    link: bool,
}

/// What an installed package says of itself.
#[derive(Deserialize)]
struct Manifest {
    name: String,
    version: String,
    license: Option<serde_json::Value>,
}

/// Name and version that npm's lockfiles give for a folder.
type Claims = BTreeMap<String, (String, String)>;

/// Files that were found, by the folder of their project.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// npm's, the one that tells most surely what was installed.
    npm: BTreeMap<String, (u8, String, NodeId)>,
    yarn: BTreeMap<String, (String, NodeId)>,
    pnpm: BTreeMap<String, (u8, String, NodeId)>,
    /// Folders of installed packages, each with its `package.json`.
    installed: BTreeMap<String, NodeId>,
}

impl Files {
    /// Notes a file by its name.
    pub(super) fn take(&mut self, name: &str, folder: String, path: String, id: NodeId) {
        // Of an installed package: for its own development, not about this tree.
        let own = !folder.contains("node_modules");
        let better = |all: &mut BTreeMap<String, (u8, String, NodeId)>, root: String, rank: u8, path: String| {
            if all.get(&root).is_none_or(|found| rank < found.0) {
                all.insert(root, (rank, path, id));
            }
        };
        let project = |below: &str| {
            let above = folder.strip_suffix(below)?;
            (above.is_empty() || above.ends_with('/')).then(|| above.trim_end_matches('/').to_owned())
        };
        match name {
            ".package-lock.json" => {
                if let Some(root) = project("node_modules") {
                    better(&mut self.npm, root, 0, path);
                }
            }
            "npm-shrinkwrap.json" if own => better(&mut self.npm, folder, 1, path),
            "package-lock.json" if own => better(&mut self.npm, folder, 2, path),
            "lock.yaml" => {
                if let Some(root) = project("node_modules/.pnpm") {
                    better(&mut self.pnpm, root, 0, path);
                }
            }
            "pnpm-lock.yaml" if own => better(&mut self.pnpm, folder, 1, path),
            "yarn.lock" if own => drop(self.yarn.insert(folder, (path, id))),
            "package.json" if is_package(&folder) => drop(self.installed.insert(folder, id)),
            _ => {}
        }
    }
}

impl Inventory {
    pub(super) fn javascript(&mut self, files: Files, content: &mut Content<'_>) {
        let (mut listed, mut claims) = (BTreeSet::<String>::new(), Claims::new());
        for (root, (_, path, id)) in &files.npm {
            let locked = content(*id, LOCKFILE_BYTES + 1).and_then(|bytes| lockfile(&bytes));
            match locked {
                Ok(locked) => self.npm(root, locked, &mut listed, &mut claims),
                Err(reason) => self.unreadable.push((path.clone(), reason)),
            }
        }
        // Where npm wrote down what it installed, other lockfiles are of the project's development.
        let npm_installed = |root: &String| files.npm.get(root).is_some_and(|(rank, ..)| *rank == 0);
        type Read = fn(&str) -> Result<Vec<Named>, String>;
        let yarns = files.yarn.iter().map(|(root, (path, id))| (root, path, *id, yarn::read as Read));
        let pnpms = files.pnpm.iter().map(|(root, (_, path, id))| (root, path, *id, pnpm::read as Read));
        for (root, path, id, read) in yarns.chain(pnpms).filter(|(root, ..)| !npm_installed(root)) {
            match lock_text(content(id, LOCKFILE_BYTES + 1)).and_then(|text| read(&text)) {
                Ok(named) => self.named((root, path), named, &files.installed, &mut listed, content),
                Err(reason) => self.unreadable.push((path.clone(), reason)),
            }
        }
        self.compare(&claims, &files.installed, content);
        self.unlisted.extend(files.installed.into_keys().filter(|folder| !listed.contains(folder)));
    }

    fn npm(&mut self, root: &str, locked: Lockfile, listed: &mut BTreeSet<String>, claims: &mut Claims) {
        for (path, one) in locked.packages {
            // "" is the project itself; a link is listed where it leads to.
            let Some((_, last)) = path.rsplit_once("node_modules/") else { continue };
            if one.link {
                continue;
            }
            let folder = if root.is_empty() { path.clone() } else { format!("{root}/{path}") };
            let (name, version) = (one.name.as_deref().unwrap_or(last), one.version.as_deref().unwrap_or(UNKNOWN));
            listed.insert(folder.clone());
            claims.insert(folder, (name.to_owned(), version.to_owned()));
            let licence = one.license.as_ref().and_then(npm_licence).map(|text| bounded(&text));
            let install_script = one.has_install_script;
            self.add(&path, Ecosystem::Npm, (name, version), |package| Package { licence, install_script, ..package });
        }
    }

    /// Packages that say of themselves that they are others than npm's lockfile names in their folders.
    fn compare(&mut self, claims: &Claims, installed: &BTreeMap<String, NodeId>, content: &mut Content<'_>) {
        for (folder, id) in installed {
            let Some((name, version)) = claims.get(folder) else { continue };
            let manifest = content(*id, MANIFEST_BYTES).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let Some(Manifest { name: own, version: own_version, license }) = manifest else { continue };
            if own == *name && plain(&own_version) == plain(version) {
                continue;
            }
            let is = |name: &str, version: &str| format!("{} {}", bounded(name), bounded(version));
            let message = format!(
                "says that it is {}, and the lockfile that it is {}",
                is(&own, &own_version),
                is(name, version)
            );
            self.differs.push((folder.clone(), message));
            let licence = license.as_ref().and_then(npm_licence).map(|text| bounded(&text));
            self.add(folder, Ecosystem::Npm, (&own, &own_version), |package| Package { licence, ..package });
        }
    }

    /// The packages of a lockfile that names no folders; the installed ones say their licence.
    fn named(
        &mut self,
        (root, path): (&str, &str),
        named: Vec<Named>,
        installed: &BTreeMap<String, NodeId>,
        listed: &mut BTreeSet<String>,
        content: &mut Content<'_>,
    ) {
        let mut wanted: BTreeMap<(String, String), (bool, Option<String>)> = BTreeMap::new();
        let mut local = BTreeSet::new();
        for one in named {
            match one.local {
                true => drop(local.insert(one.name)),
                false => wanted.entry((one.name, one.version)).or_default().0 |= one.builds,
            }
        }
        for (folder, id) in installed {
            let below = root.is_empty() || folder.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
            if !below || listed.contains(folder) {
                continue;
            }
            let manifest = content(*id, MANIFEST_BYTES).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let Some(Manifest { name, version, license }) = manifest else { continue };
            let is_local = local.contains(&name);
            if let Some((_, licence)) = wanted.get_mut(&(name, version)) {
                *licence = license.as_ref().and_then(npm_licence).map(|text| bounded(&text));
                listed.insert(folder.clone());
            } else if is_local {
                listed.insert(folder.clone());
            }
        }
        for ((name, version), (install_script, licence)) in wanted {
            self.add(path, Ecosystem::Npm, (&name, &version), |package| Package { licence, install_script, ..package });
        }
    }
}

/// A version without what npm leaves out of its lockfile.
fn plain(version: &str) -> &str {
    let version = version.trim().trim_start_matches(['v', '=']).trim_start();
    version.split('+').next().unwrap_or(version)
}

/// `…/node_modules/x` or `…/node_modules/@scope/x`.
fn is_package(folder: &str) -> bool {
    let Some((before, name)) = folder.rsplit_once('/') else { return false };
    let is_modules = |folder: &str| folder == "node_modules" || folder.ends_with("/node_modules");
    match before.rsplit_once('/') {
        Some((above, scope)) if scope.starts_with('@') => is_modules(above),
        _ => is_modules(before) && !name.starts_with('@'),
    }
}

/// Levels of objects and lists: a lockfile of version 2 has a tree of dependencies, each in another.
const LEVELS: usize = 100;

fn lockfile(bytes: &[u8]) -> Result<Lockfile, String> {
    let refused = |error: &dyn std::fmt::Display| format!("is not a lockfile of version 2 or 3: {error}");
    if bytes.len() as u64 > LOCKFILE_BYTES {
        return Err(format!("has more than {LOCKFILE_BYTES} bytes"));
    }
    read_alike(bytes, LEVELS, "lockfile").map_err(|error| refused(&error))?;
    serde_json::from_slice(bytes).map_err(|error| refused(&error))
}

/// A package as a lockfile of npm lists it.
pub(crate) fn npm_package(
    name: &str,
    version: Option<&str>,
    licence: Option<&serde_json::Value>,
    install_script: bool,
) -> Package {
    Package {
        ecosystem: Ecosystem::Npm,
        name: bounded(name),
        version: bounded(version.unwrap_or(UNKNOWN)),
        licence: licence.and_then(npm_licence).map(|text| bounded(&text)),
        install_script,
    }
}

/// `"MIT"`, or the older `{"type": "MIT"}`.
pub(crate) fn npm_licence(value: &serde_json::Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("type")?.as_str())?;
    (!text.trim().is_empty()).then(|| text.to_owned())
}
