//! A publisher with demo keys: no token, so many of them may work at once.

use std::path::{Path, PathBuf};

use crate::binaries::bin;
use crate::command::{Ran, Run};
use crate::fixture::{self, Recipe};
use crate::scratch;

/// Trust root, recipes, artefacts and state of one publisher; gone on drop.
#[derive(Debug)]
pub struct Quick {
    dir: tempfile::TempDir,
}

impl Quick {
    /// A publisher of the registry `demo/test`.
    pub fn new() -> Self {
        Self::named("demo/test")
    }

    /// The same for another registry, which must be a `demo/…`.
    pub fn named(registry: &str) -> Self {
        let quick = Self { dir: scratch::dir() };
        for name in ["servers", "artefacts"] {
            std::fs::create_dir(quick.path(name)).expect("own directory");
        }
        let args =
            ["trust", "init", "--registry", registry, "--head-key", "demo:head", "--release-key", "demo:release"];
        quick.signer().args(args).arg("--out").arg(quick.trust()).ok();
        quick
    }

    /// A path of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The trust root for hosts.
    pub fn trust(&self) -> PathBuf {
        self.path("trust.json")
    }

    /// A site in a folder of its own.
    pub fn site(&self) -> String {
        self.path("site").display().to_string()
    }

    /// The signer, without a registry's keys.
    pub fn signer(&self) -> Run {
        Run::new(bin("mcpfs-signer")).env("MCPFS_SIGNER_STATE", self.path("state")).dir(self.dir.path())
    }

    /// A command that changes the site.
    pub fn publishing(&self, command: &str, site: &str) -> Run {
        self.signer().args([command, "--site", site, "--trust"]).arg(self.trust()).args(["--head-key", "demo:head"])
    }

    /// A command that looks at the site.
    pub fn looking(&self, command: &[&str], site: &str) -> Run {
        self.signer().args(command).args(["--site", site, "--trust"]).arg(self.trust())
    }

    /// Writes a recipe whose artefact has these files.
    pub fn recipe(&self, name: &str, version: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let tree = self.path("artefacts").join(format!("{name}-{version}"));
        for (file, bytes) in files {
            let file = tree.join(file);
            std::fs::create_dir_all(file.parent().expect("below the tree")).expect("own directory");
            std::fs::write(file, bytes).expect("own file");
        }
        self.recipe_of(&Recipe::new(name, version, &fixture::tar(&tree)))
    }

    /// Writes a recipe.
    pub fn recipe_of(&self, recipe: &Recipe) -> PathBuf {
        let file = self.path("servers").join(format!("{}.yaml", recipe.name));
        std::fs::write(&file, recipe.yaml()).expect("own file");
        file
    }

    /// The command that releases a recipe.
    pub fn release(&self, recipe: &Path, site: &str) -> Run {
        let run = self.publishing("release", site).arg(recipe).args(["--key", "demo:release", "--file-root"]);
        run.arg(self.path("artefacts"))
    }

    /// What `mcpfs verify` says of the site at `place`, a folder or an address.
    pub fn verify(&self, place: &str) -> Ran {
        Run::new(bin("mcpfs"))
            .args(["verify", place, "--json", "--trust"])
            .arg(self.trust())
            .env("NO_PROXY", "127.0.0.1")
            .run()
    }
}

impl Default for Quick {
    fn default() -> Self {
        Self::new()
    }
}
