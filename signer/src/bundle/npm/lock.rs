//! A lockfile of npm, read so that it can only name packages of the registry.
//!
//! What a lock says goes to `npm ci`, which follows addresses in it. So none is passed on: every
//! package is asked from the registry by name and version and must have the locked digest, and
//! whatever could come from elsewhere (git, files, tarballs, workspaces, lockfiles inside of
//! packages) is refused. What is passed on is written anew, so the same packages give the same
//! lock, whichever mirror it was resolved at.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_trust::json::read_alike;
use serde_json::{Map, Value, json};

use super::{NpmError, Package};
use crate::bundle::Target;

/// Levels of objects and lists: those of version 2 have a tree of dependencies, each in another.
const LEVELS: usize = 100;
/// Most packages of one lock.
const PACKAGES: usize = 20_000;
/// Fields of a package that say what it is and what it needs.
const KEPT: &[&str] = &[
    "name",
    "version",
    "integrity",
    "license",
    "inBundle",
    "bundleDependencies",
    "hasInstallScript",
    "optional",
    "devOptional",
    "peer",
    "dependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "bin",
    "engines",
    "os",
    "cpu",
    "libc",
];
const NEEDS: &[&str] = &["dependencies", "optionalDependencies", "peerDependencies"];

/// A lock of one package and all that it needs.
#[derive(Debug, Clone)]
pub(super) struct Lock {
    package: Package,
    /// By path, such as `node_modules/a/node_modules/b`.
    packages: BTreeMap<String, Map<String, Value>>,
}

impl Lock {
    /// Reads the lock of a project that depends on `package` alone.
    pub(super) fn read(text: &str, package: &Package) -> Result<Self, NpmError> {
        let refuse = |problem: String| NpmError::Lock { problem };
        read_alike(text.as_bytes(), LEVELS, "package-lock.json").map_err(|error| refuse(error.to_string()))?;
        let lock: Value = serde_json::from_str(text).map_err(|error| refuse(format!("is not JSON: {error}")))?;
        if !matches!(lock["lockfileVersion"].as_u64(), Some(2 | 3)) {
            return Err(refuse("is not a package-lock.json of version 2 or 3".to_owned()));
        }
        let Some(found) = lock["packages"].as_object().filter(|found| found.len() <= PACKAGES) else {
            return Err(refuse(format!("has no list of at most {PACKAGES} packages")));
        };
        root(found.get("").unwrap_or(&Value::Null), package)?;
        let mut packages = BTreeMap::new();
        for (path, value) in found.iter().filter(|(path, _)| !path.is_empty()) {
            let shown = mcpfs_trust::text::visible(path);
            let checked = entry(path, value).map_err(|problem| refuse(format!("{shown}: {problem}")))?;
            packages.insert(path.clone(), checked);
        }
        let lock = Self { package: package.clone(), packages };
        for (path, entry) in &lock.packages {
            let bundled = entry.get("inBundle") == Some(&Value::Bool(true));
            let inside = path.rfind("/node_modules/").and_then(|end| lock.packages.get(&path[..end]));
            match (entry.contains_key("integrity"), bundled, inside) {
                (true, false, _) | (false, true, Some(_)) => {}
                _ => return Err(refuse(format!("{path}: has no sha512 digest (integrity)"))),
            }
        }
        let main = lock.packages.get(&package.path());
        match main.map(|entry| (name_of(&package.path(), entry), entry["version"].as_str().unwrap_or_default())) {
            Some((name, version)) if name == package.name && version == package.version => Ok(lock),
            Some((name, version)) => Err(refuse(format!("holds {name}@{version}, not {package}"))),
            None => Err(refuse(format!("does not hold {package}"))),
        }
    }

    /// The project's `package.json`.
    pub(super) fn package_json(&self) -> String {
        pretty(&json!({"name": NAME, "private": true, "dependencies": self.package.dependency()}))
    }

    /// The lock anew, for `npm ci` and to be committed.
    pub(super) fn text(&self) -> String {
        let root = json!({"name": NAME, "dependencies": self.package.dependency()});
        let packages = std::iter::once((String::new(), root));
        self.document(packages.chain(self.packages.iter().map(|(path, entry)| (path.clone(), json!(entry)))))
    }

    /// What npm leaves in `node_modules/.package-lock.json`, of the packages at these paths.
    pub(super) fn installed_text(&self, installed: &BTreeSet<&str>) -> String {
        let packages = self.packages.iter().filter(|(path, _)| installed.contains(path.as_str()));
        self.document(packages.map(|(path, entry)| (path.clone(), json!(entry))))
    }

    fn document(&self, packages: impl Iterator<Item = (String, Value)>) -> String {
        let packages: Map<String, Value> = packages.collect();
        pretty(&json!({"name": NAME, "lockfileVersion": 3, "requires": true, "packages": packages}))
    }

    /// All packages by their paths.
    pub(super) fn packages(&self) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
        self.packages.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The paths that an installation for `target` has: what is needed, without optional packages
    /// for other machines.
    pub(super) fn wanted(&self, target: &Target) -> BTreeSet<&str> {
        let mut wanted = BTreeSet::new();
        let mut open: Vec<&str> = self.find("", &self.package.name).into_iter().collect();
        while let Some(path) = open.pop() {
            let Some(entry) = self.packages.get(path) else { continue };
            let skipped = entry.get("optional") == Some(&Value::Bool(true)) && !fits(entry, target);
            if skipped || !wanted.insert(path) {
                continue;
            }
            let names = NEEDS.iter().filter_map(|kind| entry.get(*kind)?.as_object()).flat_map(Map::keys);
            open.extend(names.filter_map(|name| self.find(path, name)));
        }
        wanted
    }

    /// Packages for Linux that are for some machines only.
    pub(super) fn particular(&self) -> impl Iterator<Item = &str> {
        let particular = |entry: &Map<String, Value>| {
            entry_fits(entry, "os", "linux") && (!words(entry, "cpu").is_empty() || !words(entry, "libc").is_empty())
        };
        self.packages.iter().filter(move |(_, entry)| particular(entry)).map(|(path, _)| path.as_str())
    }

    /// Where Node finds `name` from `path`.
    fn find(&self, path: &str, name: &str) -> Option<&str> {
        let mut folder = path;
        loop {
            let candidate = if folder.is_empty() {
                format!("node_modules/{name}")
            } else {
                format!("{folder}/node_modules/{name}")
            };
            if let Some((found, _)) = self.packages.get_key_value(&candidate) {
                return Some(found);
            }
            if folder.is_empty() {
                return None;
            }
            folder = folder.rfind("/node_modules/").map_or("", |end| &folder[..end]);
        }
    }
}

/// The name of the project around the package.
const NAME: &str = "bundle";

/// The project itself must need the package and nothing else.
fn root(root: &Value, package: &Package) -> Result<(), NpmError> {
    let only = root["dependencies"] == package.dependency();
    let kinds = ["devDependencies", "optionalDependencies", "peerDependencies", "workspaces"];
    let more = kinds.iter().find(|kind| root.get(**kind).is_some_and(|value| value.as_object() != Some(&Map::new())));
    match (only, more) {
        (true, None) => Ok(()),
        _ => Err(NpmError::Lock {
            problem: format!("is not of a project whose only dependency is exactly {package} (no range, nothing else)"),
        }),
    }
}

/// One package's fields that are passed on, or what is wrong with it.
fn entry(path: &str, value: &Value) -> Result<Map<String, Value>, String> {
    if !is_path(path) {
        return Err("is not a path below node_modules".to_owned());
    }
    let Some(fields) = value.as_object() else { return Err("is not an object".to_owned()) };
    if fields.get("link").is_some_and(|link| *link != Value::Bool(false)) {
        return Err("is a link to a folder, not a package of the registry".to_owned());
    }
    if let Some(resolved) = fields.get("resolved") {
        let text = resolved.as_str().unwrap_or_default();
        if !text.starts_with("https://") {
            return Err(format!("comes from {}, not from the registry over https", mcpfs_trust::text::bounded(text)));
        }
    }
    if fields.get("hasShrinkwrap").is_some_and(|own| *own != Value::Bool(false)) {
        return Err("brings a lockfile of its own, which this one cannot pin".to_owned());
    }
    let version = fields.get("version").and_then(Value::as_str).unwrap_or_default();
    if !super::is_version(version) {
        return Err(format!("has the version {version:?}, which is not an exact one of the registry"));
    }
    if let Some(name) = fields.get("name")
        && !name.as_str().is_some_and(super::is_name)
    {
        return Err("has an odd name".to_owned());
    }
    if let Some(integrity) = fields.get("integrity")
        && integrity.as_str().and_then(sha512).is_none()
    {
        return Err("has an integrity that is not one sha512 digest".to_owned());
    }
    for kind in NEEDS {
        for (name, wanted) in fields.get(*kind).and_then(Value::as_object).into_iter().flatten() {
            let wanted = wanted.as_str().unwrap_or(":");
            if !super::is_name(name) || !is_range(wanted) {
                let wanted = mcpfs_trust::text::bounded(wanted);
                return Err(format!("needs {name:?} from {wanted:?}, which is not the registry"));
            }
        }
    }
    let kept = KEPT.iter().filter_map(|name| Some(((*name).to_owned(), sorted(fields.get(*name)?))));
    Ok(kept.collect())
}

/// The digest of an integrity text, in hexadecimal.
pub(super) fn sha512(integrity: &str) -> Option<String> {
    let bytes = STANDARD.decode(integrity.strip_prefix("sha512-")?).ok().filter(|bytes| bytes.len() == 64)?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A range or tag of the registry, or an alias of such: never an address.
fn is_range(text: &str) -> bool {
    match text.strip_prefix("npm:") {
        Some(alias) => {
            let (name, range) = match alias.get(1..).and_then(|rest| rest.find('@')) {
                Some(at) => (&alias[..=at], &alias[at + 2..]),
                None => (alias, ""),
            };
            super::is_name(name) && !range.contains([':', '/'])
        }
        None => !text.contains([':', '/', '\\']) && !text.starts_with('.'),
    }
}

fn is_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("node_modules/") else { return false };
    path.len() <= 1024 && rest.split("/node_modules/").all(super::is_name)
}

/// The package's own name: of an alias it differs from the path's.
pub(super) fn name_of(path: &str, entry: &Map<String, Value>) -> String {
    let last = path.rsplit_once("node_modules/").map_or(path, |(_, last)| last);
    entry.get("name").and_then(Value::as_str).unwrap_or(last).to_owned()
}

/// Whether a package may be installed for `target`.
pub(super) fn fits(entry: &Map<String, Value>, target: &Target) -> bool {
    [("os", "linux"), ("cpu", target.npm()), ("libc", "glibc")].iter().all(|(kind, own)| entry_fits(entry, kind, own))
}

fn entry_fits(entry: &Map<String, Value>, kind: &str, own: &str) -> bool {
    let words = words(entry, kind);
    let denied = words.iter().any(|word| word.strip_prefix('!') == Some(own));
    let mut named = words.iter().filter(|word| !word.starts_with('!')).peekable();
    !denied && (named.peek().is_none() || named.any(|word| *word == own || *word == "any"))
}

/// `"linux"`, or a list of such.
fn words<'a>(entry: &'a Map<String, Value>, kind: &str) -> Vec<&'a str> {
    match entry.get(kind) {
        Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(word)) => vec![word],
        _ => Vec::new(),
    }
}

/// The value with its objects' keys in order, so that the text depends on what is said alone.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), sorted(value))).collect();
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
