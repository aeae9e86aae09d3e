//! A project of PyPI and all that it needs, by pip from a lock: wheels only, so nothing of them
//! runs here. Bytecode is compiled, since on a read-only mount Python cannot keep its own; it
//! never looks at times (PEP 552, unchecked hashes) and comes out the same each time.

mod lock;
mod python;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use mcpfs_trust::digest::Hasher;
use mcpfs_trust::release::{AcceptArgs, Launch, Runtime};
use serde_json::Value;

use super::sbom::{self, Part};
use super::workshop::{self, Job, ToolError, Workshop};
use super::{Built, Order, SBOM, SourceError, Target, read, write};
use crate::check::dependencies;
use crate::fetch::FetchPolicy;
use lock::Lock;
use python::Python;

pub use python::PythonVersion;

/// An exact version of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// As it was written.
    pub name: String,
    /// Such as `1.2.3`.
    pub version: String,
}

/// Why a project of PyPI is not bundled.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum PypiError {
    #[error("the lockfile {problem}")]
    Lock { problem: String },
    #[error("{0:?} is not a version of Python such as 3.11")]
    Version(String),
    #[error("there is no Python {0} with pip here; bytecode is compiled by the Python that it is for")]
    NoPython(PythonVersion),
    #[error("pip fetched something else than the lock says: {0}")]
    Fetched(String),
    #[error("what pip resolved cannot be read")]
    Report,
}

impl PypiError {
    pub(super) fn fix(&self) -> Option<String> {
        match self {
            Self::Lock { .. } => {
                Some("make the lock again: mcpfs-signer bundle pypi:NAME==VERSION --out x.tar".to_owned())
            }
            Self::NoPython(version) => Some(format!("install python{version} with pip, and have it in PATH")),
            _ => None,
        }
    }
}

/// What is fetched: the wheels.
#[derive(Debug)]
pub(super) struct Gathered {
    project: Project,
    text: String,
    python: Python,
    target: Target,
    wheels: Vec<Wheel>,
}

/// One wheel, and what it says in its name.
#[derive(Debug)]
struct Wheel {
    file: PathBuf,
    name: String,
    version: String,
    tags: String,
    sha256: String,
}

impl Project {
    /// `name==1.2.3`
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, version) = text.split_once("==")?;
        (is_name(name) && is_version(version)).then(|| Self { name: name.to_owned(), version: version.to_owned() })
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=={}", self.name, self.version)
    }
}

/// The lock of `project` (`NAME==VERSION`) as it is passed on, once it was read.
#[cfg(any(test, fuzzing))]
pub(crate) fn lock_anew(text: &str, project: &str) -> Result<String, String> {
    let project = Project::parse(project).ok_or("not NAME==VERSION")?;
    let lock = Lock::read(text, &project).map_err(|error| error.to_string())?;
    Ok(lock.text())
}

/// The one spelling of a name (PEP 503).
pub fn normal(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    normal
}

fn is_name(name: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 200 && name.bytes().all(fine) && edge(name.bytes().next()) && edge(name.bytes().last())
}

fn is_version(version: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b".+!".contains(&byte);
    version.len() <= 128 && version.starts_with(|c: char| c.is_ascii_digit()) && version.bytes().all(fine)
}

pub(super) fn gather(
    project: &Project,
    order: &Order<'_>,
    policy: &FetchPolicy,
    workshop: &Workshop,
) -> Result<Gathered, SourceError> {
    let target = Target::of(order.platform)?;
    let given = order.lock.map(|text| Lock::read(text, project)).transpose()?;
    let python = Python::find(order.python, policy)?;
    let empty = workshop.make("empty")?;
    let lock = match given {
        Some(lock) => lock,
        None => resolve(project, &python, &target, workshop, &empty)?,
    };
    let text = lock.text();
    let (requirements, wheels) = (workshop.path("requirements.txt"), workshop.make("wheels")?);
    write(&requirements, &text)?;
    let job = python.pip(workshop, &empty, "download", &target).network(true);
    let job = job.arguments(["--no-deps", "--require-hashes", "--progress-bar", "off", "--quiet", "--dest"]);
    workshop.run(job.arguments([wheels.as_os_str(), "-r".as_ref(), requirements.as_os_str()]))?;
    let wheels = fetched(&wheels, &lock)?;
    Ok(Gathered { project: project.clone(), text, python, target, wheels })
}

/// Asks the index once what the project needs today.
fn resolve(
    project: &Project,
    python: &Python,
    target: &Target,
    workshop: &Workshop,
    empty: &Path,
) -> Result<Lock, SourceError> {
    let report = workshop.path("report.json");
    let job = python.pip(workshop, empty, "install", target).network(true);
    let job = job.arguments(["--dry-run", "--ignore-installed", "--progress-bar", "off", "--quiet", "--report"]);
    let job = job.arguments([report.as_os_str(), "--target".as_ref(), workshop.path("nothing").as_os_str()]);
    workshop.run(job.arguments([project.to_string()]))?;
    let bytes = crate::files::read_bounded(&report, 64 << 20).map_err(|_| PypiError::Report)?;
    let report: Value = serde_json::from_slice(&bytes).map_err(|_| PypiError::Report)?;
    let found = report["install"].as_array().ok_or(PypiError::Report)?.iter().map(|one| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (name, version) = (text(&one["metadata"]["name"])?, text(&one["metadata"]["version"])?);
        let hash = text(&one["download_info"]["archive_info"]["hashes"]["sha256"])?;
        (is_name(&name) && is_version(&version) && lock::is_sha256(&hash)).then_some((name, version, hash))
    });
    let found: Vec<_> = found.collect::<Option<_>>().ok_or(PypiError::Report)?;
    Ok(Lock::read(&Lock::of(found).text(), project)?)
}

/// The wheels that came: one for each line of the lock, each with a digest of its line.
fn fetched(folder: &Path, lock: &Lock) -> Result<Vec<Wheel>, SourceError> {
    let mut wheels = Vec::new();
    let entries = fs::read_dir(folder).map_err(workshop::at(folder))?;
    for entry in entries {
        let file = entry.map_err(workshop::at(folder))?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let parts: Vec<&str> = name.strip_suffix(".whl").unwrap_or_default().split('-').collect();
        let [project, version, .., python, abi, platform] = parts[..] else {
            return Err(PypiError::Fetched(format!("{} is not a wheel", mcpfs_trust::text::bounded(name))).into());
        };
        let mut hasher = Hasher::new();
        let mut bytes = File::open(&file).map_err(workshop::at(&file))?;
        std::io::copy(&mut bytes, &mut hasher).map_err(workshop::at(&file))?;
        let (name, tags) = (normal(project), format!("{python}-{abi}-{platform}"));
        let (version, sha256) = (version.to_owned(), hasher.finish().to_string());
        wheels.push(Wheel { file, name, version, tags, sha256 });
    }
    wheels.sort_by(|a, b| a.file.cmp(&b.file));
    for (name, version, hashes) in lock.projects() {
        let mut found = wheels.iter().filter(|wheel| wheel.name == name);
        match (found.next(), found.next()) {
            (Some(wheel), None) if hashes.contains(&wheel.sha256) => {}
            (Some(_), None) => return Err(PypiError::Fetched(format!("{name}=={version} has another digest")).into()),
            _ => return Err(PypiError::Fetched(format!("{name}=={version} did not come as one wheel")).into()),
        }
    }
    match wheels.len() == lock.projects().count() {
        true => Ok(wheels),
        false => Err(PypiError::Fetched("wheels that no line names".to_owned()).into()),
    }
}

/// Compiles a tree in place. The tree's own modules must not be found by the compiler, so its
/// folder is an argument; and what does not compile is left to those who import it.
const COMPILE: &str = "import compileall, py_compile, sys\n\
                       mode = py_compile.PycInvalidationMode.UNCHECKED_HASH\n\
                       compileall.compile_dir(sys.argv[1], maxlevels=100, quiet=2, force=True, stripdir=sys.argv[1],\n\
                       prependdir='.', invalidation_mode=mode)\n";

impl Gathered {
    pub(super) fn lock(&self) -> &str {
        &self.text
    }

    pub(super) fn python(&self) -> PythonVersion {
        self.python.version
    }

    pub(super) fn build(&self, workshop: &Workshop, folder: PathBuf) -> Result<Built, SourceError> {
        let empty = workshop.path("empty");
        let job = self.python.pip(workshop, &empty, "install", &self.target);
        let job = job.arguments(["--no-index", "--no-deps", "--no-compile", "--quiet", "--target"]);
        let job = job.arguments([&folder]).arguments(self.wheels.iter().map(|wheel| &wheel.file));
        workshop.run(job)?;
        let mut notes = drop_scripts(&folder.join("bin"))?;
        let mut parts = Vec::new();
        let mut main = None;
        for info in dist_infos(&folder)? {
            for name in ["RECORD", "INSTALLER", "REQUESTED", "direct_url.json"] {
                // Not every wheel leaves each of them.
                let _absent = fs::remove_file(info.join(name));
            }
            let metadata = read(&info.join("METADATA")).and_then(|text| dependencies::wheel_package(&text));
            let package = metadata.ok_or_else(|| PypiError::Fetched(format!("{}: no METADATA", info.display())))?;
            let wheel = self.wheels.iter().find(|wheel| wheel.name == normal(&package.name));
            let part = Part { hash: wheel.map(|wheel| ("SHA-256", wheel.sha256.clone())), package };
            if normal(&part.package.name) == normal(&self.project.name) {
                main = Some((part, self.launch(&folder, &info)));
            } else {
                parts.push(part);
            }
        }
        let (main, launch) = main.ok_or_else(|| PypiError::Fetched(format!("{} is not there", self.project)))?;
        write(&folder.join(SBOM), &sbom::text(&main, parts))?;
        let job = Job::new(&self.python.program, &empty).arguments(["-s", "-c", COMPILE]).arguments([&folder]);
        workshop.run(job.variable("PYTHONHASHSEED", "0"))?;
        notes.push(format!("for Python {}", self.python.version));
        let native = self.wheels.iter().filter(|wheel| !wheel.tags.ends_with("-any"));
        let native = native.map(|wheel| format!("{} {} {}", wheel.name, wheel.version, wheel.tags)).collect();
        Ok(Built { folder, launch, native, notes })
    }

    /// From the console script of the project's own name, or its only one.
    fn launch(&self, folder: &Path, info: &Path) -> Option<Launch> {
        let text = read(&info.join("entry_points.txt"))?;
        let section = text.lines().map(str::trim).skip_while(|line| *line != "[console_scripts]").skip(1);
        let lines = section.take_while(|line| !line.starts_with('['));
        let scripts: BTreeMap<String, &str> =
            lines.filter_map(|line| line.split_once('=')).map(|(name, to)| (normal(name.trim()), to.trim())).collect();
        let own = scripts.get(&normal(&self.project.name));
        let to = own.or_else(|| scripts.values().next().filter(|_| scripts.len() == 1))?;
        let (module, function) = to.split('[').next()?.trim().split_once(':')?;
        let word = |text: &str| text.split('.').all(|part| !part.is_empty() && part.bytes().all(is_word));
        if !word(module) || !word(function) {
            return None;
        }
        let args = match folder.join(module.replace('.', "/")).join("__main__.py").is_file() {
            true => vec!["-m".to_owned(), module.to_owned()],
            false => {
                let first = function.split('.').next()?;
                vec!["-c".to_owned(), format!("import sys; from {module} import {first}; sys.exit({function}())")]
            }
        };
        let env = BTreeMap::from([("PYTHONPATH".to_owned(), "${TREE}".to_owned())]);
        let (accept_args, runtime) = (AcceptArgs::default(), Runtime::default());
        Some(Launch { command: "python3".to_owned(), args, env, accept_args, runtime, workdir: None, platform: None })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn dist_infos(folder: &Path) -> Result<BTreeSet<PathBuf>, ToolError> {
    let entries = fs::read_dir(folder).map_err(workshop::at(folder))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(workshop::at(folder)));
    let paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
    let is_info = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "dist-info");
    Ok(paths.into_iter().filter(is_info).collect())
}

/// Removes the scripts that name the builder's own Python; programs of other kinds stay.
fn drop_scripts(folder: &Path) -> Result<Vec<String>, ToolError> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut dropped = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(workshop::at(folder))?.path();
        let mut begin = Vec::new();
        let read = File::open(&path)
            .and_then(|file| std::io::Read::read_to_end(&mut std::io::Read::take(file, 2), &mut begin));
        if read.is_ok() && begin == b"#!" {
            fs::remove_file(&path).map_err(workshop::at(&path))?;
            dropped.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    // Only if it is empty now.
    let _kept = fs::remove_dir(folder);
    let names = dropped.into_iter().collect::<Vec<_>>().join(", ");
    Ok(if names.is_empty() {
        Vec::new()
    } else {
        vec![format!("left out, since they name the builder's Python: {names}")]
    })
}
