//! What most suites start from: the shared registry behind a web server, and a host.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::registry::{Registry, SiteCopy};
use mcpfs_tests::site::Site;

/// A published registry, a copy of its site that may be damaged, and a host that believes it.
pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) site: Site,
    pub(crate) copy: SiteCopy,
    pub(crate) registry: Arc<Registry>,
}

impl World {
    pub(crate) fn new(reads: Reads) -> Self {
        let registry = Registry::shared();
        let copy = registry.site_copy();
        let site = Site::serve(&copy.path());
        let host = Host::new(&registry.trust(), &site.url(), reads);
        Self { host, site, copy, registry }
    }

    /// A file of the site.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.copy.path().join(path)
    }

    /// The launcher of a server.
    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.host.at(&format!("{name}/run"))
    }

    /// The tree that `name` was packed from.
    pub(crate) fn source(&self, directory: &str) -> PathBuf {
        self.registry.artefacts().join(directory)
    }
}

/// The errno of a failed operation.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    let errno = result.map(drop).expect_err("expected a failure").raw_os_error().expect("an errno");
    mcpfs_tests::proof::note_errno(errno);
    errno
}

/// Flips one bit of a file's byte.
pub(crate) fn flip(file: &Path, offset: usize) {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = std::fs::read(file).unwrap();
    bytes[offset] ^= 1;
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(file, bytes).unwrap();
}
