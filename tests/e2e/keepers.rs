//! Who keeps the keys of a registry, and types what docs/keys.md says.

use std::path::PathBuf;

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::hsm::Hsm;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::{self, wait_for};
use mcpfs_tests::site::Site;

use crate::docs;

/// Who keeps the keys of a registry: tokens, a folder with recipes, and the site.
pub(crate) struct Keepers {
    pub(crate) hsm: Hsm,
    dir: tempfile::TempDir,
}

impl Keepers {
    /// With tokens and the recipe of hello 1.0.0; no key is made yet.
    pub(crate) fn new() -> Self {
        let keepers = Self { hsm: Hsm::new(), dir: scratch::dir() };
        for token in ["hsm-a", "hsm-b", "hsm-c", "hsm-d"] {
            keepers.hsm.add_token(token);
        }
        for folder in ["servers", "artefacts"] {
            std::fs::create_dir(keepers.path(folder)).unwrap();
        }
        keepers.recipe("hello", "1.0.0");
        keepers
    }

    /// As docs/keys.md begins.
    pub(crate) fn from_the_first_day() -> Self {
        let keepers = Self::new();
        keepers.types("From the first day", 0);
        keepers
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn recipe(&self, name: &str, version: &str) {
        let artefact = fixture::tar(&fixture::hello_tree(&self.path("artefacts"), version));
        let recipe = Recipe::new(name, version, &artefact).with(fixture::HELLO_LAUNCH);
        std::fs::write(self.path(&format!("servers/{name}.yaml")), recipe.yaml()).unwrap();
    }

    /// A shell in that folder, with the functions of the page.
    pub(crate) fn shell(&self, script: &str) -> Run {
        let page = scratch::repository().join("docs/keys.md");
        let page = std::fs::read_to_string(page).unwrap();
        let functions: String =
            page.lines().filter(|line| line.starts_with("key() ")).map(|line| format!("{line}\n")).collect();
        assert_eq!(functions.lines().count(), 1);
        let path = format!("{}:{}", bin("mcpfs-signer").parent().unwrap().display(), std::env::var("PATH").unwrap());
        self.hsm
            .with_token(Run::new("bash"))
            .args(["-euc", &format!("{functions}{script}")])
            .env("PATH", path)
            .env("M", self.hsm.module())
            .env("SITE", self.path("site"))
            .env("MCPFS_PIN_FILE", self.hsm.pin_file())
            .env("MCPFS_SIGNER_STATE", self.path("state"))
            .dir(self.dir.path())
    }

    /// Types a block of a section of the page as it stands there.
    pub(crate) fn types(&self, section: &str, block: usize) {
        let blocks = blocks(section);
        self.shell(blocks.get(block).unwrap_or_else(|| panic!("{section} has {} blocks", blocks.len()))).ok();
    }

    pub(crate) fn key(&self, token: &str, label: &str) -> String {
        self.hsm.uri(label).replace("token=mcpfs", &format!("token={token}"))
    }

    /// A key's id, by the signer.
    pub(crate) fn id(&self, token: &str, label: &str) -> String {
        let run = self.hsm.signer().args(["--json", "keys", "show", "--key", &self.key(token, label)]);
        run.ok().json()["id"].as_str().unwrap().to_owned()
    }

    /// `release servers/NAME.yaml` with these release keys.
    pub(crate) fn release(&self, name: &str, head: &str, keys: &[(&str, &str)]) -> Run {
        let key =
            keys.iter().map(|(token, label)| format!("--key \"$(key {token} {label})\"")).collect::<Vec<_>>().join(" ");
        self.shell(&format!(
            "mcpfs-signer release servers/{name}.yaml --site $SITE --trust trust.json --file-root artefacts \
             --head-key \"$(key {head} head)\" {key}"
        ))
    }

    pub(crate) fn edit(&self, options: &str) -> Run {
        self.shell(&format!("mcpfs-signer --json trust edit trust.json {options}"))
    }

    pub(crate) fn root(&self) -> serde_json::Value {
        forge::read(&self.path("trust.json"))
    }

    pub(crate) fn entry(&self) -> serde_json::Value {
        forge::read(&self.path("site/servers/hello.json"))
    }

    pub(crate) fn head(&self) -> serde_json::Value {
        self.statement()["predicate"].clone()
    }

    /// What the head's signers signed.
    pub(crate) fn statement(&self) -> serde_json::Value {
        forge::payload(&forge::read(&self.path("site/head.json")))
    }

    pub(crate) fn host(&self) -> (Site, Host) {
        let site = Site::serve(&self.path("site"));
        let host = Host::new(&self.path("trust.json"), &site.url(), Reads::Cached);
        (site, host)
    }

    /// Gives a running host the trust root as it is now.
    pub(crate) fn roll_out(&self, host: &Host, mount: &Mount<'_>) {
        std::fs::copy(self.path("trust.json"), host.trust()).unwrap();
        mount.reload();
        let wanted = &self.root()["version"];
        wait_for("the new trust root", || {
            (host.mcpfs(["--json", "status"]).ok().json()["trust_version"] == *wanted).then_some(())
        });
    }

    /// The whole site verifies under the trust root of the hosts.
    pub(crate) fn verified(&self) {
        Run::new(bin("mcpfs")).arg("verify").arg(self.path("site")).arg("--trust").arg(self.path("trust.json")).ok();
    }
}

/// The shell blocks of a section of the page.
pub(crate) fn blocks(section: &str) -> Vec<String> {
    docs::blocks_of(&docs::section("keys.md", section), "```sh")
}
