//! Fetching an artefact: from where the operator allows, at most so much, and exactly the
//! bytes that the recipe pins.
//!
//! Recipes are written by people who do not run the signer, so a URL in one is a request to
//! make the signer connect somewhere. The digest protects what is signed; the rules here
//! protect the signer's network: only listed hosts, addresses resolved once and pinned, private
//! ones refused unless listed, every redirect checked again, proxies from the environment
//! ignored (behind a proxy the address that was checked is not the one that is used).

mod address;
mod bundle;
mod http;
mod lfs;
mod local;
mod oci;
mod pin;

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpfs_trust::digest::{Digest, Hasher};
use url::Url;

use crate::bundle::{self as source, Order, Registry, Source, SourceError, Tools};
use crate::image::{ImageError, Listed, Part};
use crate::progress::{Progress, Task, Unit};
use crate::recipe::ArtefactSource;
use crate::secret::without_logins;

pub use address::{AllowedHost, BadHost, Network};
pub use bundle::{BundleError, bundle};
pub(crate) use http::{install_crypto, resolve};
pub(crate) use lfs::{Pointer, fetch as fetch_lfs};
pub(crate) use local::{folder_beneath, read_beneath};
pub use oci::{BadLogins, Logins};
pub use pin::{Pinned, Wanted, pin};

/// Where artefacts may come from, and how much and how long.
#[derive(Debug, Clone)]
pub struct FetchPolicy {
    /// A folder of artefacts named by their digest: they come from there and nowhere else.
    pub by_digest: Option<PathBuf>,
    /// The folder that `file:` URLs must lie in; without one they are refused.
    pub file_root: Option<PathBuf>,
    /// Hosts that may be asked; none by default.
    pub hosts: Vec<AllowedHost>,
    /// Private networks that listed hosts may resolve to.
    pub networks: Vec<Network>,
    /// Further certificate authorities, PEM.
    pub authorities: Vec<Vec<u8>>,
    /// Registries that recipes may name packages of; none by default.
    pub registries: Vec<Registry>,
    /// How npm, pip and git run.
    pub tools: Tools,
    /// Largest artefact, bytes.
    pub limit: u64,
    /// Longest time for one artefact.
    pub deadline: Duration,
    /// Who asks OCI registries; nobody by default.
    pub logins: Logins,
    /// Shows how much has come; nothing by default.
    pub shown: Progress,
}

impl Default for FetchPolicy {
    /// Nothing is reachable; 2 GiB; 15 minutes.
    fn default() -> Self {
        Self {
            by_digest: None,
            file_root: None,
            hosts: Vec::new(),
            networks: Vec::new(),
            authorities: Vec::new(),
            registries: Vec::new(),
            tools: Tools::default(),
            limit: 2 << 30,
            deadline: Duration::from_secs(15 * 60),
            logins: Logins::default(),
            shown: Progress::silent(),
        }
    }
}

/// An artefact that has its pinned digest.
#[derive(Debug)]
pub struct Fetched {
    /// The file, named by its digest.
    pub path: PathBuf,
    /// Its size, bytes.
    pub size: u64,
    /// What an OCI manifest names; each lies beside it under its digest.
    pub parts: Vec<Part>,
    /// What a reviewer should know of the way it came.
    pub notes: Vec<FetchNote>,
}

/// Something about a fetch that does not stop it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchNote {
    /// The tag of the address is not at the pinned manifest any more, or could not be looked at.
    MovedTag(String),
    /// A registry was asked without encryption.
    PlainHttp,
    /// What its source says of itself, such as who signed a tag.
    Said(String),
}

/// Why an artefact is not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The scheme is known, but not to this version.
    #[error("{scheme}: artefacts cannot be fetched by this version")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// Not a URL.
    #[error("{0:?} is not a URL")]
    Url(String),
    /// `file:` without a root, or outside it.
    #[error("{0}")]
    Local(String),
    /// A host or address that is not listed.
    #[error("{0}")]
    NotAllowed(String),
    /// The server said no.
    #[error("the server answered {0}")]
    Status(u16),
    /// More than five redirects, or one without a place to go.
    #[error("it redirects too often, or to nowhere")]
    Redirects,
    /// More bytes than allowed.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// Not done in time.
    #[error("not done within {0:?}")]
    TooSlow(Duration),
    /// Other bytes than pinned.
    #[error("its SHA-256 is {found}, the recipe pins {expected}")]
    Digest {
        /// What the recipe pins.
        expected: Digest,
        /// What was there.
        found: Digest,
    },
    /// A folder that cannot be bundled.
    #[error("the folder cannot be bundled")]
    Bundle(#[source] BundleError),
    /// A package or a commit that cannot be bundled.
    #[error("the source cannot be bundled")]
    Source(#[source] SourceError),
    /// An `oci:` address that is not one.
    #[error("{0:?} is not an address such as oci://registry.example.com/team/server:1.2.0")]
    Reference(String),
    /// The digest of an index, which stands for several artefacts.
    #[error("the pinned digest is that of an index; an artefact is the manifest of one platform")]
    Index(Vec<Listed>),
    /// An index that has nothing for a platform.
    #[error("it is an index without a manifest for {platform}")]
    NoPlatform {
        /// The platform.
        platform: String,
        /// What it has.
        listed: Vec<Listed>,
    },
    /// A manifest that cannot be taken.
    #[error("its manifest is refused")]
    Manifest(#[source] ImageError),
    /// A blob that is not what the manifest says.
    #[error("{sha256}, which the manifest names, {problem}")]
    Part {
        /// Its digest.
        sha256: Digest,
        /// What is wrong.
        problem: String,
    },
    /// The registry wants somebody else, or somebody.
    #[error("{0}")]
    Login(String),
    /// The transfer failed.
    #[error("the transfer failed: {0}")]
    Transfer(String),
    /// A file cannot be read or written.
    #[error("{path}: cannot read or write it")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FetchError {
    /// What to do about it, if there is one thing.
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Scheme { .. } => {
                Some("use an https:, oci: or file: artefact, such as a bundle of the folder".to_owned())
            }
            Self::Digest { found, .. } => Some(format!(
                "if the new content was reviewed, set artefact.sha256 to {found}; if not, find out who changed it"
            )),
            Self::Source(error) => error.fix(),
            Self::Index(listed) => {
                let each = listed.iter().map(|one| format!("{} for {}", one.sha256, one.platform));
                Some(format!("set artefact.sha256 to one of its manifests: {}", each.collect::<Vec<_>>().join(", ")))
            }
            Self::NoPlatform { listed, .. } => {
                let each: Vec<&str> = listed.iter().map(|one| one.platform.as_str()).collect();
                Some(format!("it has manifests for {}: name one by --platform", each.join(", ")))
            }
            Self::TooLarge(_) => Some("ship only what the server needs at run time".to_owned()),
            _ => None,
        }
    }
}

/// Fetches `source` into `folder`, under the name of its digest; the lockfile that it may name
/// lies in `beside`, the recipe's folder.
///
/// Must not be called from within an async runtime: it drives its own.
///
/// # Errors
/// The first reason to refuse it; nothing is left in `folder` then.
pub fn fetch(
    source: &ArtefactSource,
    policy: &FetchPolicy,
    beside: &Path,
    folder: &Path,
) -> Result<Fetched, FetchError> {
    // What is at hand by its digest is not built again: a rebuild has no network and no lock.
    if policy.by_digest.is_none() && Source::is_one(&source.url) {
        return build(source, policy, beside, folder);
    }
    if source.is_manifest() {
        return oci::fetch(source, policy, folder);
    }
    get(&source.url, Some(source.sha256), policy, folder).map(|(_, fetched)| fetched)
}

fn get(
    url: &str,
    expected: Option<Digest>,
    policy: &FetchPolicy,
    folder: &Path,
) -> Result<(Digest, Fetched), FetchError> {
    let parsed = Url::parse(url).map_err(|_| FetchError::Url(url.to_owned()))?;
    let mut sink = Sink::new(folder, task(policy, url), expected, policy.limit)?;
    if let (Some(named), Some(expected)) = (&policy.by_digest, expected) {
        let path = named.join(expected.to_string());
        let missing = |_| FetchError::Local(format!("no file with the digest {expected} is there"));
        sink.copy(crate::files::open_file(&path).map_err(missing)?, &path)?;
        return sink.finish();
    }
    match parsed.scheme() {
        "file" => local::fetch(url, policy, &mut sink)?,
        "https" | "http" => http::fetch(parsed, policy, &mut sink)?,
        scheme => return Err(FetchError::Scheme { scheme: scheme.to_owned() }),
    }
    sink.finish()
}

/// Builds the bundle of a package or a commit; its digest must be the pinned one.
fn build(source: &ArtefactSource, policy: &FetchPolicy, beside: &Path, folder: &Path) -> Result<Fetched, FetchError> {
    let named: Source = source.url.parse().map_err(FetchError::Source)?;
    let lock = source.inputs.lock.as_deref().map(|lock| read_beneath(beside, lock, source::LOCK_BYTES)).transpose()?;
    let inputs = &source.inputs;
    let order = Order {
        source: &named,
        platform: &source.platform,
        lock: lock.as_deref(),
        commit: inputs.commit.as_ref(),
        submodules: inputs.submodules,
        lfs: inputs.lfs,
        python: inputs.python,
    };
    let mut gathered = source::gather(&order, policy).map_err(FetchError::Source)?;
    let built = gathered.folder().map_err(FetchError::Source)?;
    let mut sink = Sink::new(folder, task(policy, &source.url), Some(source.sha256), policy.limit)?;
    bundle::bundle_into(&built.folder, |bytes| sink.write(bytes)).map_err(|error| match error {
        bundle::Failed::Sink(error) => error,
        bundle::Failed::Folder(error) => FetchError::Bundle(error),
    })?;
    let (_, fetched) = sink.finish()?;
    Ok(Fetched { notes: built.notes.into_iter().map(FetchNote::Said).collect(), ..fetched })
}

/// Takes an artefact's bytes: bounded, hashed, written, shown.
struct Sink<'a> {
    folder: &'a Path,
    file: tempfile::NamedTempFile,
    hasher: Hasher,
    expected: Option<Digest>,
    written: u64,
    limit: u64,
    task: Task,
}

/// An artefact that comes; its address was chosen by others.
fn task(policy: &FetchPolicy, url: &str) -> Task {
    policy.shown.count(&mcpfs_trust::error::bounded(&without_logins(url)), Unit::Bytes)
}

impl<'a> Sink<'a> {
    fn new(folder: &'a Path, task: Task, expected: Option<Digest>, limit: u64) -> Result<Self, FetchError> {
        let file = tempfile::NamedTempFile::new_in(folder).map_err(at(folder))?;
        Ok(Self { folder, file, hasher: Hasher::new(), expected, written: 0, limit, task })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.written += bytes.len() as u64;
        if self.written > self.limit {
            return Err(FetchError::TooLarge(self.limit));
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(at(self.folder))?;
        self.task.add(bytes.len() as u64);
        Ok(())
    }

    fn copy(&mut self, mut reader: impl Read, path: &Path) -> Result<(), FetchError> {
        let mut buffer = vec![0; 128 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self.write(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at(path)(error)),
            }
        }
    }

    fn finish(self) -> Result<(Digest, Fetched), FetchError> {
        let found = self.hasher.finish();
        if let Some(expected) = self.expected.filter(|expected| *expected != found) {
            return Err(FetchError::Digest { expected, found });
        }
        let path = self.folder.join(found.to_string());
        self.file.persist(&path).map_err(|error| at(&path)(error.error))?;
        Ok((found, Fetched { path, size: self.written, parts: Vec::new(), notes: Vec::new() }))
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::Io { path, source }
}
