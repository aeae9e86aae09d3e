//! AWS KMS (moto), with two users, keys of several kinds, and faults on demand.

use std::path::{Path, PathBuf};

use crate::command::Run;
use crate::moto::Moto;
use crate::servers;

/// A running service; gone on drop, with its keys.
#[derive(Debug)]
pub struct Kms(Moto);

impl Kms {
    /// With keys `head` and `release` under aliases, and others that are not fit.
    pub fn new() -> Self {
        Self(Moto::start("kms", |dir| vec![dir.join("fault")]))
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        self.0.endpoint()
    }

    /// The URI of a key that has an alias: `head` or `release`.
    pub fn uri(&self, key: &str) -> String {
        format!("awskms:///alias/test-{key}?region=eu-central-1&endpoint={}", self.endpoint())
    }

    /// The URI of any key, by its ARN.
    pub fn uri_of(&self, key: &str) -> String {
        let arn = self.0.facts()["keys"][key].as_str().unwrap_or_else(|| panic!("no key {key}"));
        format!("awskms:///{arn}?endpoint={}", self.endpoint())
    }

    /// The access key of `publisher`, or of `guest`, who may do nothing here: id and secret.
    pub fn access_key(&self, user: &str) -> (String, String) {
        let text = |name: &str| self.0.facts()["users"][user][name].as_str().expect("a user").to_owned();
        (text("id"), text("secret"))
    }

    /// The signer as nobody in particular: no access key, no profile, no machine to ask.
    pub fn stranger(&self) -> Run {
        self.alone(Run::new(crate::binaries::bin("mcpfs-signer")))
    }

    /// Without what this user has for AWS.
    fn alone(&self, run: Run) -> Run {
        let path = std::env::var_os("PATH").expect("a PATH");
        run.env_clear().env("PATH", path).env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", self.0.dir())
    }

    /// A shell script in `dir` that finds the signer, and Amazon's `aws` to ask this KMS as `publisher`.
    pub fn script(&self, script: &str, dir: &Path) -> Run {
        let (id, secret) = self.access_key("publisher");
        let bins =
            [crate::binaries::bin("mcpfs-signer").parent().expect("a folder").to_owned(), servers::moto().join("bin")];
        let rest = std::env::var_os("PATH").expect("a PATH");
        let path = std::env::join_paths(bins.into_iter().chain(std::env::split_paths(&rest))).expect("no colons");
        self.alone(Run::new("sh").args(["-euc", script]).dir(dir))
            .env("PATH", path)
            .env("PYTHONPATH", servers::moto())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("AWS_ENDPOINT_URL_KMS", self.endpoint())
            .env("AWS_ACCESS_KEY_ID", id)
            .env("AWS_SECRET_ACCESS_KEY", secret)
    }

    /// The signer with the access key of this user in its environment.
    pub fn signer_as(&self, user: &str) -> Run {
        let (id, secret) = self.access_key(user);
        self.stranger().env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret)
    }

    /// The signer as who may use the keys.
    pub fn signer(&self) -> Run {
        self.signer_as("publisher")
    }

    /// Bends answers to Sign from now on; an empty word ends that. The words are in `serve.py`.
    pub fn fault(&self, word: &str) {
        std::fs::write(self.0.path("fault"), word).expect("own directory");
    }

    /// A file of our own below the home of the signer.
    pub fn home(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    /// Ends the service.
    pub fn stop(&mut self) {
        self.0.stop();
    }
}

impl Default for Kms {
    fn default() -> Self {
        Self::new()
    }
}
