//! Sources that are not one file yet, made into one: npm and PyPI packages with all that they
//! need, and a commit of a git repository.
//!
//! An artefact is one file that anybody can hash. A package is not: `npx` and `uvx` resolve it
//! anew on every machine. So it is resolved once, into a lockfile that people review, and what
//! the lock names is installed here, scripts off and wheels only, into a folder that becomes a
//! deterministic tar. What depends on the machine is left out: addresses of mirrors, caches,
//! the paths of the builder. The same lock gives the same bytes elsewhere, and the recipe pins
//! their digest. Of a git repository the recipe pins the commit beside the tag.
//!
//! ```text
//! gather (network) ── Gathered ── folder (no network) ── tar
//! ```
//!
//! [`gather`] fetches; [`Gathered::folder`] builds from that alone, as often as one likes: the
//! `bundle` command builds twice and compares.

pub mod git;
pub mod npm;
pub mod pypi;
mod sbom;
mod target;
mod workshop;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::Platform;
use mcpfs_trust::release::Launch;

use crate::fetch::{FetchError, FetchPolicy};
use workshop::Workshop;

pub use git::{CommitId, GitError};
pub use npm::NpmError;
pub use pypi::{PypiError, PythonVersion};
pub use target::Target;
pub use workshop::ToolError;

/// Largest lockfile, bytes.
pub const LOCK_BYTES: u64 = 16 << 20;

/// Where the list of parts lies in a bundle of npm or PyPI.
pub const SBOM: &str = "sbom.cdx.json";

/// How the operator's programs run.
#[derive(Debug, Clone)]
pub struct Tools {
    /// npm's configuration: which registry, and how to log in there.
    pub npmrc: Option<PathBuf>,
    /// pip's configuration, likewise.
    pub pip_conf: Option<PathBuf>,
    /// Who may sign tags, in the form of `ssh-keygen`; with it every tag must be signed.
    pub allowed_signers: Option<PathBuf>,
    /// Whether they run in a sandbox.
    pub sandbox: bool,
}

impl Default for Tools {
    /// The system's own configuration, in a sandbox.
    fn default() -> Self {
        Self { npmrc: None, pip_conf: None, allowed_signers: None, sandbox: true }
    }
}

/// A registry that recipes may name packages of; the operator's configuration says where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Registry {
    /// npm
    Npm,
    /// PyPI
    Pypi,
}

/// What to bundle, as an address says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `npm:@scope/name@1.2.3`
    Npm(npm::Package),
    /// `pypi:name==1.2.3`
    Pypi(pypi::Project),
    /// `git+https://host/repository#tag`
    Git(git::Repository),
}

/// What a recipe says of a source besides its address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// The commit that the tag must point to.
    pub commit: Option<CommitId>,
    /// Whether submodules are fetched too.
    pub submodules: bool,
    /// Whether files of Git LFS are fetched too.
    pub lfs: bool,
    /// The lockfile beside the recipe.
    pub lock: Option<String>,
    /// The Python that a bundle of PyPI is for.
    pub python: Option<PythonVersion>,
}

/// One thing to bundle.
#[derive(Debug)]
pub struct Order<'a> {
    /// What.
    pub source: &'a Source,
    /// For which platform.
    pub platform: &'a Platform,
    /// The text of the lockfile; without one the source is resolved now.
    pub lock: Option<&'a str>,
    /// The pinned commit.
    pub commit: Option<&'a CommitId>,
    /// Whether submodules are fetched too; with them and without, a commit is another bundle.
    pub submodules: bool,
    /// Whether files of Git LFS are fetched too.
    pub lfs: bool,
    /// The Python.
    pub python: Option<PythonVersion>,
}

/// Everything that a bundle needs, fetched; it can be built from this without a network.
#[derive(Debug)]
pub struct Gathered {
    workshop: Workshop,
    what: What,
    built: u32,
}

#[derive(Debug)]
enum What {
    Npm(npm::Gathered),
    Pypi(pypi::Gathered),
    Git(git::Gathered),
}

/// A folder that is ready to become an artefact.
#[derive(Debug)]
pub struct Built {
    /// Where it lies; gone with the [`Gathered`] it came from.
    pub folder: PathBuf,
    /// How it is started, if the package says so plainly.
    pub launch: Option<Launch>,
    /// Parts for one platform only, each with what it says of that; empty if it runs anywhere.
    pub native: BTreeSet<String>,
    /// What a reviewer should know.
    pub notes: Vec<String>,
}

/// Why a source is not bundled.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum SourceError {
    #[error(
        "{0:?} is not a source: expected npm:NAME@VERSION, pypi:NAME==VERSION or git+https://HOST/REPOSITORY#TAG, \
         with an exact version"
    )]
    NotASource(String),
    #[error(
        "{0:?}: of git only git+https: (and git+file: below --file-root) is fetched, so that nobody's credentials are \
         used; of a private repository keep a mirror: git clone --mirror, then git+file:MIRROR#TAG"
    )]
    GitScheme(String),
    #[error("{0}")]
    NotAllowed(String),
    #[error("no bundle can be made for the platform {platform}: {problem}")]
    Platform { platform: Platform, problem: &'static str },
    #[error("built twice, and the digests differ: {first} and {second}")]
    Differs { first: Digest, second: Digest },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Npm(#[from] NpmError),
    #[error(transparent)]
    Pypi(#[from] PypiError),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Fetch(Box<FetchError>),
}

impl SourceError {
    /// Whether the address itself is wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::NotASource(_) | Self::GitScheme(_))
    }

    /// Whether it says that a tag was moved.
    pub fn is_moved_tag(&self) -> bool {
        matches!(self, Self::Git(GitError::Moved { .. }))
    }

    /// What to do about it, if there is one thing.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Git(error) => error.fix(),
            Self::Npm(error) => error.fix(),
            Self::Pypi(error) => error.fix(),
            _ => None,
        }
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let source = match text.split_once(':') {
            Some(("npm", package)) => npm::Package::parse(package).map(Self::Npm),
            Some(("pypi", project)) => pypi::Project::parse(project).map(Self::Pypi),
            Some(("git+https" | "git+file", _)) => git::Repository::parse(text).map(Self::Git),
            Some((scheme, _)) if scheme.starts_with("git+") => {
                return Err(SourceError::GitScheme(text.chars().take(200).collect()));
            }
            _ => None,
        };
        source.ok_or_else(|| SourceError::NotASource(text.chars().take(200).collect()))
    }
}

impl Source {
    /// The registry it is asked from.
    pub fn registry(&self) -> Option<Registry> {
        match self {
            Self::Npm(_) => Some(Registry::Npm),
            Self::Pypi(_) => Some(Registry::Pypi),
            Self::Git(_) => None,
        }
    }

    /// Whether the address is meant as such a source.
    pub fn is_one(url: &str) -> bool {
        ["npm:", "pypi:", "git+"].iter().any(|scheme| url.starts_with(scheme))
    }
}

/// Fetches what `order` needs.
///
/// # Errors
/// What is not allowed, not exact, not there or not what the lock or the commit says.
pub fn gather(order: &Order<'_>, policy: &FetchPolicy) -> Result<Gathered, SourceError> {
    if let Some(registry) = order.source.registry().filter(|registry| !policy.registries.contains(registry)) {
        let name = if registry == Registry::Npm { "npm" } else { "pypi" };
        return Err(SourceError::NotAllowed(format!(
            "packages of {name} may not be fetched here; if they may, add --allow-registry {name}"
        )));
    }
    let workshop = Workshop::new(policy.tools.sandbox, policy.limit, policy.deadline)?;
    let what = match order.source {
        Source::Npm(package) => What::Npm(npm::gather(package, order, policy, &workshop)?),
        Source::Pypi(project) => What::Pypi(pypi::gather(project, order, policy, &workshop)?),
        Source::Git(repository) => What::Git(git::gather(repository, order, policy, &workshop)?),
    };
    Ok(Gathered { workshop, what, built: 0 })
}

impl Gathered {
    /// Builds the folder, a new one each time.
    ///
    /// # Errors
    /// If a tool fails, or what it made is not what the lock says.
    pub fn folder(&mut self) -> Result<Built, SourceError> {
        self.built += 1;
        let folder = self.workshop.make(&format!("folder-{}", self.built))?;
        match &self.what {
            What::Npm(gathered) => gathered.build(&self.workshop, folder),
            What::Pypi(gathered) => gathered.build(&self.workshop, folder),
            What::Git(gathered) => gathered.build(&self.workshop, folder),
        }
    }

    /// The lock, as it should be committed; none for git.
    pub fn lock(&self) -> Option<&str> {
        match &self.what {
            What::Npm(gathered) => Some(gathered.lock()),
            What::Pypi(gathered) => Some(gathered.lock()),
            What::Git(_) => None,
        }
    }

    /// The commit, of git.
    pub fn commit(&self) -> Option<&CommitId> {
        match &self.what {
            What::Git(gathered) => Some(gathered.commit()),
            _ => None,
        }
    }

    /// The Python it is for, of PyPI.
    pub fn python(&self) -> Option<PythonVersion> {
        match &self.what {
            What::Pypi(gathered) => Some(gathered.python()),
            _ => None,
        }
    }
}

/// Writes a file of a bundle.
fn write(path: &Path, text: &str) -> Result<(), ToolError> {
    fs::write(path, text).map_err(workshop::at(path))
}

/// Reads a small text file of a bundle, if it is there.
fn read(path: &Path) -> Option<String> {
    let bytes = crate::files::read_bounded(path, 1 << 20).ok()?;
    String::from_utf8(bytes).ok()
}
