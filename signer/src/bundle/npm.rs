//! A package of npm and all that it needs, by `npm ci` from a lock.

mod lock;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use mcpfs_trust::release::{AcceptArgs, Launch, Runtime};
use serde_json::{Map, Value, json};

use super::sbom::{self, Part};
use super::workshop::{self, Job, Program, ToolError, Workshop};
use super::{Built, Order, SBOM, SourceError, Target, read, write};
use crate::check::dependencies;
use crate::fetch::FetchPolicy;
use lock::Lock;

/// An exact version of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Such as `@scope/name`.
    pub name: String,
    /// Such as `1.2.3`.
    pub version: String,
}

/// Why a package of npm is not bundled.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum NpmError {
    #[error("the lockfile {problem}")]
    Lock { problem: String },
    #[error("{path} is only for some machines, and the artefact is for any: name its platform")]
    Particular { path: String },
    #[error("npm installed something else than the lock says: {0}")]
    Installed(String),
}

impl NpmError {
    pub(super) fn fix(&self) -> Option<String> {
        let text = match self {
            Self::Lock { .. } => "make the lock again: mcpfs-signer bundle npm:NAME@VERSION --out x.tar",
            Self::Particular { .. } => "set artefact.platform, such as linux/amd64",
            Self::Installed(_) => "use a newer npm (10 or later)",
        };
        Some(text.to_owned())
    }
}

/// What is fetched: npm's cache.
#[derive(Debug)]
pub(super) struct Gathered {
    package: Package,
    lock: Lock,
    text: String,
    target: Target,
    npm: Npm,
    /// What was installed while fetching: the first build takes it.
    first: RefCell<Option<PathBuf>>,
}

impl Package {
    /// `@scope/name@1.2.3`
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, version) = text.rsplit_once('@')?;
        (is_name(name) && is_version(version)).then(|| Self { name: name.to_owned(), version: version.to_owned() })
    }

    fn path(&self) -> String {
        format!("node_modules/{}", self.name)
    }

    fn dependency(&self) -> Value {
        json!({ &self.name: self.version })
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// The lock of `package` (`NAME@VERSION`) as it is passed on, once it was read.
#[cfg(any(test, fuzzing))]
pub(crate) fn lock_anew(text: &str, package: &str, target: &Target) -> Result<String, String> {
    let package = Package::parse(package).ok_or("not NAME@VERSION")?;
    let lock = Lock::read(text, &package).map_err(|error| error.to_string())?;
    let wanted = lock.wanted(target);
    let _ = lock.installed_text(&wanted);
    Ok(lock.text())
}

fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !part.is_empty() && !part.starts_with(['.', '-']) && part.bytes().all(fine)
    };
    let whole = match name.strip_prefix('@') {
        Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| part(scope) && part(name)),
        None => part(name) && name != "node_modules",
    };
    whole && name.len() <= 214
}

/// An exact version: three numbers, and what may follow them.
fn is_version(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b".+-".contains(&byte);
    version.len() <= 128 && core.split('.').count() == 3 && core.split('.').all(number) && version.bytes().all(fine)
}

/// npm, and the configuration it is given.
#[derive(Debug)]
struct Npm {
    program: Program,
    configuration: PathBuf,
}

impl Npm {
    fn find(policy: &FetchPolicy) -> Result<Self, ToolError> {
        let missing = ToolError::Missing { program: "npm", package: "npm" };
        let script = workshop::find("npm").ok_or(missing)?;
        let node = workshop::find("node").ok_or(ToolError::Missing { program: "node", package: "nodejs" })?;
        let mut sees = [workshop::installed_in(&node), workshop::installed_in(&script)].concat();
        let configuration = policy.tools.npmrc.clone().unwrap_or_else(|| PathBuf::from("/dev/null"));
        let configuration = configuration.canonicalize().map_err(workshop::at(&configuration))?;
        if policy.tools.npmrc.is_some() {
            sees.push(configuration.clone());
        }
        Ok(Self { program: Program { name: "npm", start: vec![node.into(), script.into()], sees }, configuration })
    }

    /// A command of npm's in `folder`, with nothing that would run, ask or tell somebody.
    fn job<'a>(&'a self, workshop: &Workshop, folder: &'a Path, target: &Target, command: &[&str]) -> Job<'a> {
        let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
        Job::new(&self.program, folder)
            .arguments(command)
            .arguments(["--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier"])
            .arguments(["--loglevel=error", "--no-progress", "--install-strategy=hoisted", "--bin-links"])
            .arguments(["--os=linux", "--libc=glibc", &format!("--cpu={}", target.npm())])
            .arguments([option("cache", &workshop.path("npm")), option("userconfig", &self.configuration)])
    }
}

pub(super) fn gather(
    package: &Package,
    order: &Order<'_>,
    policy: &FetchPolicy,
    workshop: &Workshop,
) -> Result<Gathered, SourceError> {
    let target = Target::of(order.platform)?;
    // A bad lock is refused before anything is asked.
    let given = order.lock.map(|text| Lock::read(text, package)).transpose()?;
    let npm = Npm::find(policy)?;
    let lock = match given {
        Some(lock) => lock,
        None => resolve(&npm, package, &target, workshop)?,
    };
    if target.is_any()
        && let Some(path) = lock.particular().next()
    {
        return Err(NpmError::Particular { path: path.to_owned() }.into());
    }
    let text = lock.text();
    // Fills the cache; what is built from it later needs no network.
    let folder = workshop.make("gather")?;
    install(&npm, &lock, &text, &target, workshop, &folder, true)?;
    Ok(Gathered { package: package.clone(), lock, text, target, npm, first: RefCell::new(Some(folder)) })
}

/// Asks the registry once what the package needs today.
fn resolve(npm: &Npm, package: &Package, target: &Target, workshop: &Workshop) -> Result<Lock, SourceError> {
    let folder = workshop.make("resolve")?;
    let project = json!({"name": "bundle", "private": true, "dependencies": package.dependency()});
    write(&folder.join("package.json"), &project.to_string())?;
    workshop.run(npm.job(workshop, &folder, target, &["install", "--package-lock-only"]).network(true))?;
    let path = folder.join("package-lock.json");
    let text =
        crate::files::read_bounded(&path, super::LOCK_BYTES).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| NpmError::Lock { problem: "that npm made cannot be read".to_owned() })?;
    Ok(Lock::read(&text, package)?)
}

fn install(
    npm: &Npm,
    lock: &Lock,
    text: &str,
    target: &Target,
    workshop: &Workshop,
    folder: &Path,
    network: bool,
) -> Result<(), SourceError> {
    write(&folder.join("package.json"), &lock.package_json())?;
    write(&folder.join("package-lock.json"), text)?;
    let command: &[&str] = if network { &["ci"] } else { &["ci", "--offline"] };
    workshop.run(npm.job(workshop, folder, target, command).network(network))?;
    Ok(())
}

impl Gathered {
    pub(super) fn lock(&self) -> &str {
        &self.text
    }

    pub(super) fn build(&self, workshop: &Workshop, folder: PathBuf) -> Result<Built, SourceError> {
        match self.first.take() {
            Some(first) => std::fs::rename(&first, &folder).map_err(workshop::at(&first))?,
            None => install(&self.npm, &self.lock, &self.text, &self.target, workshop, &folder, false)?,
        }
        let installed = self.installed(&folder)?;
        std::fs::remove_file(folder.join("package-lock.json")).map_err(workshop::at(&folder))?;
        // npm's own has addresses of the mirror, and more or less of it by npm's version.
        write(&folder.join("node_modules/.package-lock.json"), &self.lock.installed_text(&installed))?;
        let mut parts = Vec::new();
        let mut main = None;
        let mut notes = Vec::new();
        for (path, entry) in self.lock.packages().filter(|(path, _)| installed.contains(path)) {
            let part = part(path, entry);
            if part.package.install_script {
                notes.push(format!("{} has an install script, which did not run", part.package.id()));
            }
            match path == self.package.path() {
                true => main = Some(part),
                false => parts.push(part),
            }
        }
        let main = main.ok_or_else(|| NpmError::Installed(format!("{} is not there", self.package)))?;
        write(&folder.join(SBOM), &sbom::text(&main, parts))?;
        let particular = self.lock.particular().filter(|path| installed.contains(path)).map(str::to_owned).collect();
        let launch = self.launch(&folder);
        Ok(Built { folder, launch, native: particular, notes })
    }

    /// What is there, which must be just what the lock wants: npm leaves out optional packages
    /// that it could not get, and old versions do not know `--cpu`.
    fn installed(&self, folder: &Path) -> Result<BTreeSet<&str>, NpmError> {
        let wanted = self.lock.wanted(&self.target);
        let mut installed = BTreeSet::new();
        for (path, entry) in self.lock.packages() {
            let there = folder.join(path).join("package.json").is_file();
            let bundled = entry.contains_key("inBundle");
            match (there, wanted.contains(path)) {
                (true, false) if !bundled => {
                    return Err(NpmError::Installed(format!("{path} is there, but not for this platform")));
                }
                (false, true) if !bundled => return Err(NpmError::Installed(format!("{path} is missing"))),
                (true, _) => drop(installed.insert(path)),
                (false, _) => {}
            }
        }
        Ok(installed)
    }

    /// From `bin` in the package's own `package.json`.
    fn launch(&self, folder: &Path) -> Option<Launch> {
        let package: Value =
            serde_json::from_str(&read(&folder.join(self.package.path()).join("package.json"))?).ok()?;
        let last = self.package.name.rsplit('/').next()?;
        let file = match &package["bin"] {
            Value::String(file) => file,
            Value::Object(bins) if bins.len() == 1 => bins.values().next()?.as_str()?,
            Value::Object(bins) => bins.get(last)?.as_str()?,
            _ => return None,
        };
        let path = format!("{}/{}", self.package.path(), file.trim_start_matches("./"));
        folder.join(&path).is_file().then(|| Launch {
            command: "node".to_owned(),
            args: vec![format!("${{TREE}}/{path}")],
            env: std::collections::BTreeMap::new(),
            accept_args: AcceptArgs::default(),
            runtime: Runtime::default(),
            workdir: None,
            platform: None,
        })
    }
}

fn part(path: &str, entry: &Map<String, Value>) -> Part {
    let hash = entry.get("integrity").and_then(Value::as_str).and_then(lock::sha512);
    let package = dependencies::npm_package(
        &lock::name_of(path, entry),
        entry.get("version").and_then(Value::as_str),
        entry.get("license"),
        entry.get("hasInstallScript") == Some(&Value::Bool(true)),
    );
    Part { package, hash: hash.map(|hash| ("SHA-512", hash)) }
}
