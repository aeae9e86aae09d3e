//! A scratch registry: token, keys, trust root, recipes and site, made by the real signer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::command::{Ran, Run};
use crate::fixture::{self, Recipe};
use crate::hsm::Hsm;
use crate::scratch;

/// The label of the key that signs heads.
pub const HEAD_KEY: &str = "head";
/// The label of the key that signs releases.
pub const RELEASE_KEY: &str = "release";

/// The label of a key that no trust root names, in the token of [`Registry::shared`].
pub const UNKNOWN_KEY: &str = "mallory";

/// Everything a platform team has; gone on drop.
#[derive(Debug)]
pub struct Registry {
    hsm: Hsm,
    dir: tempfile::TempDir,
    name: String,
}

impl Registry {
    /// An empty registry `mcp.example.com/test` with two keys and a trust root.
    pub fn new() -> Self {
        Self::named("mcp.example.com/test")
    }

    /// The same under another name.
    pub fn named(name: &str) -> Self {
        let registry = Self { hsm: Hsm::new(), dir: scratch::dir_for("publisher"), name: name.to_owned() };
        for dir in ["servers", "artefacts"] {
            std::fs::create_dir(registry.dir.path().join(dir)).expect("own directory");
        }
        for key in [HEAD_KEY, RELEASE_KEY] {
            registry.generate(key);
        }
        registry
            .signer()
            .args(["trust", "init", "--registry", name])
            .arg("--head-key")
            .arg(registry.hsm.uri(HEAD_KEY))
            .arg("--release-key")
            .arg(registry.hsm.uri(RELEASE_KEY))
            .arg("--out")
            .arg(registry.trust())
            .ok();
        registry
    }

    /// A finished registry shared by all tests of a run; copy its site before changing it.
    ///
    /// hello 1.0.0 and 1.1.0 (selected), and files 1.0.0.
    pub fn shared() -> Arc<Self> {
        let mut slot = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = slot.get_or_insert_with(|| {
            let registry = Self::new();
            // Made now: SoftHSM may hide a token from others for a moment while it stores a key.
            registry.generate(UNKNOWN_KEY);
            registry.release(&registry.hello("1.0.0"));
            registry.release(&registry.hello("1.1.0"));
            registry.release(&registry.files());
            Arc::new(registry)
        });
        Arc::clone(registry)
    }

    /// Removes what [`Registry::shared`] made; statics are never dropped.
    pub fn drop_shared() {
        SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The token.
    pub fn hsm(&self) -> &Hsm {
        &self.hsm
    }

    /// The registry's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The trust root for hosts.
    pub fn trust(&self) -> PathBuf {
        self.dir.path().join("trust.json")
    }

    /// The published site.
    pub fn site(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    /// Where artefacts lie before they are published.
    pub fn artefacts(&self) -> PathBuf {
        self.dir.path().join("artefacts")
    }

    /// The recipe of a server.
    pub fn recipe(&self, name: &str) -> PathBuf {
        self.dir.path().join("servers").join(format!("{name}.yaml"))
    }

    /// A private copy of the site.
    pub fn site_copy(&self) -> SiteCopy {
        let dir = scratch::dir();
        scratch::copy_dir(&self.site(), &dir.path().join("site"));
        SiteCopy { dir }
    }

    /// The signer with the token and its PIN.
    pub fn signer(&self) -> Run {
        self.hsm.signer().env("MCPFS_SIGNER_STATE", self.dir.path().join("signer-state")).dir(self.dir.path())
    }

    /// Makes another key pair in the token.
    pub fn generate(&self, key: &str) {
        self.signer().args(["keys", "generate", "--key"]).arg(self.hsm.uri(key)).ok();
    }

    /// A recipe of the demo's server.
    pub fn hello(&self, version: &str) -> Recipe {
        let tree = fixture::hello_tree(&self.artefacts(), version);
        Recipe::new("hello", version, &fixture::tar(&tree)).with(fixture::HELLO_LAUNCH)
    }

    /// A recipe of [`fixture::files_tree`], which nobody launches.
    pub fn files(&self) -> Recipe {
        let tree = fixture::files_tree(&self.artefacts());
        Recipe::new("files", "1.0.0", &fixture::tar(&tree)).with("launch:\n  command: script.sh\n")
    }

    /// Writes the recipe and publishes it.
    pub fn release(&self, recipe: &Recipe) -> Ran {
        std::fs::write(self.recipe(&recipe.name), recipe.yaml()).expect("own directory");
        self.release_command(&recipe.name).ok()
    }

    /// The command that publishes the recipe of `name`.
    pub fn release_command(&self, name: &str) -> Run {
        self.publishing("release")
            .arg(self.recipe(name))
            .arg("--key")
            .arg(self.hsm.uri(RELEASE_KEY))
            .arg("--file-root")
            .arg(self.artefacts())
    }

    /// A signer command that publishes: `release`, `yank`, `revoke`.
    pub fn publishing(&self, command: &str) -> Run {
        self.publishing_at(command, &self.site().display().to_string())
    }

    /// The same for another site: a folder or a bucket.
    pub fn publishing_at(&self, command: &str, site: &str) -> Run {
        self.signer()
            .arg(command)
            .arg("--site")
            .arg(site)
            .arg("--trust")
            .arg(self.trust())
            .arg("--head-key")
            .arg(self.hsm.uri(HEAD_KEY))
    }
}

static SHARED: Mutex<Option<Arc<Registry>>> = Mutex::new(None);

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// A copy of a site that a test may damage; gone on drop.
#[derive(Debug)]
pub struct SiteCopy {
    dir: tempfile::TempDir,
}

impl SiteCopy {
    /// The directory to serve.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    /// Every file, as paths relative to the site, sorted.
    pub fn files(&self) -> Vec<String> {
        files_below(&self.path())
    }
}

/// Every file below `root`, as relative paths, sorted.
pub fn files_below(root: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            let found_as = match path.symlink_metadata() {
                // A draft of a daemon's that works there meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.expect("readable"),
            };
            if found_as.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}
