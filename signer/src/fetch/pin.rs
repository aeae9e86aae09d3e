//! Fetching what nobody has pinned yet, for a recipe that is being written.
//!
//! Whoever reviews the recipe decides whether these bytes are meant; here is only found out which
//! they are, and what a recipe must say so that everybody else gets the same: the digest, the
//! commit of a tag, the lock of a package, the manifest of one platform.

use std::io::Write as _;
use std::path::Path;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::Platform;
use mcpfs_trust::release::Launch;

use super::{FetchError, FetchNote, FetchPolicy, Fetched, Sink, bundle, get, oci, task};
use crate::bundle::{self as source, Inputs, Order, PythonVersion, Source, SourceError};
use crate::image;
use crate::recipe::ArtefactSource;

/// What is wanted of a source besides its address.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The machine it is to run on, where its source has several.
    pub platform: Platform,
    /// The Python that a bundle of PyPI is for.
    pub python: Option<PythonVersion>,
    /// Whether submodules are fetched too.
    pub submodules: bool,
    /// Whether files of Git LFS are fetched too.
    pub lfs: bool,
    /// The text of a lockfile that is there already.
    pub lock: Option<String>,
    /// Whether a bundle is built once only, without comparing.
    pub once: bool,
}

impl Default for Wanted {
    /// For this machine.
    fn default() -> Self {
        let platform = Platform::from_rust(std::env::consts::OS, std::env::consts::ARCH);
        Self { platform, python: None, submodules: false, lfs: false, lock: None, once: false }
    }
}

/// An artefact, and what a recipe says of it.
#[derive(Debug)]
pub struct Pinned {
    /// Its address, digest and inputs; the platform is `any` where the source names none.
    pub source: ArtefactSource,
    /// Where it lies.
    pub fetched: Fetched,
    /// The text of the lock that it was built by; it belongs beside the recipe.
    pub lock: Option<String>,
    /// How a package says it is started.
    pub launch: Option<Launch>,
}

/// Fetches `url` into `folder`, under its digest.
///
/// # Errors
/// As [`super::fetch`].
pub fn pin(url: &str, wanted: &Wanted, policy: &FetchPolicy, folder: &Path) -> Result<Pinned, FetchError> {
    let source = |platform: Platform, url: &str, sha256: Digest, inputs: Inputs| ArtefactSource {
        platform,
        url: url.to_owned(),
        sha256,
        inputs,
    };
    if Source::is_one(url) {
        return build(url, wanted, policy, folder);
    }
    if image::is_manifest(url) {
        let (url, sha256) = oci::resolve(url, &wanted.platform, policy)?;
        // Its config says the platform.
        let source = source(Platform::any(), &url, sha256, Inputs::default());
        let fetched = oci::fetch(&source, policy, folder)?;
        return Ok(Pinned { source, fetched, lock: None, launch: None });
    }
    let (sha256, fetched) = get(url, None, policy, folder)?;
    let source = source(Platform::any(), url, sha256, Inputs::default());
    Ok(Pinned { source, fetched, lock: None, launch: None })
}

/// Builds the bundle of a package or a commit; twice, since a digest that does not come out again
/// is no pin.
fn build(url: &str, wanted: &Wanted, policy: &FetchPolicy, folder: &Path) -> Result<Pinned, FetchError> {
    let named: Source = url.parse().map_err(FetchError::Source)?;
    let order = Order {
        source: &named,
        platform: &wanted.platform,
        lock: wanted.lock.as_deref(),
        commit: None,
        submodules: wanted.submodules,
        lfs: wanted.lfs,
        python: wanted.python,
    };
    let mut gathered = source::gather(&order, policy).map_err(FetchError::Source)?;
    let built = gathered.folder().map_err(FetchError::Source)?;
    let mut sink = Sink::new(folder, task(policy, url), None, policy.limit)?;
    let failed = |error| match error {
        bundle::Failed::Sink(error) => error,
        bundle::Failed::Folder(error) => FetchError::Bundle(error),
    };
    bundle::bundle_into(&built.folder, |bytes| sink.write(bytes)).map_err(failed)?;
    let (sha256, fetched) = sink.finish()?;
    if !wanted.once {
        let again = gathered.folder().map_err(FetchError::Source)?;
        let mut hasher = mcpfs_trust::digest::Hasher::new();
        bundle::bundle_into(&again.folder, |bytes| hasher.write_all(bytes).map_err(super::at(&again.folder)))
            .map_err(failed)?;
        let found = hasher.finish();
        if found != sha256 {
            return Err(FetchError::Source(SourceError::Differs { first: sha256, second: found }));
        }
    }
    let git = matches!(named, Source::Git(_));
    let inputs = Inputs {
        commit: gathered.commit().cloned(),
        submodules: wanted.submodules && git,
        lfs: wanted.lfs && git,
        lock: None,
        python: gathered.python(),
    };
    let platform = if built.native.is_empty() { Platform::any() } else { wanted.platform.clone() };
    let notes = built.notes.iter().chain(&built.native).cloned().map(FetchNote::Said).collect();
    Ok(Pinned {
        source: ArtefactSource { platform, url: url.to_owned(), sha256, inputs },
        fetched: Fetched { notes, ..fetched },
        lock: gathered.lock().map(str::to_owned),
        launch: built.launch,
    })
}
