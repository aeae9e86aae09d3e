//! AWS KMS (moto), with two users, keys of several kinds, and faults on demand.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::command::Run;
use crate::scratch::{self, Port, repository};
use crate::servers;

/// A running service; gone on drop, with its keys.
#[derive(Debug)]
pub struct Kms {
    dir: tempfile::TempDir,
    port: Port,
    child: Child,
    facts: Value,
}

impl Kms {
    /// With keys `head` and `release` under aliases, and others that are not fit.
    pub fn new() -> Self {
        let (dir, port) = (scratch::dir_for("kms"), Port::reserve());
        let mut child = Command::new(servers::python())
            .arg(repository().join("tests/servers/kms/serve.py"))
            .arg(port.number().to_string())
            .arg(dir.path().join("fault"))
            .env("PYTHONPATH", servers::moto())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.path().join("stderr")).expect("own directory"))
            .spawn()
            .expect("cannot start python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a pipe");
        let facts = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("the KMS ended: {}", std::fs::read_to_string(dir.path().join("stderr")).unwrap_or_default())
        });
        Self { dir, port, child, facts }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// The URI of a key that has an alias: `head` or `release`.
    pub fn uri(&self, key: &str) -> String {
        format!("awskms:///alias/test-{key}?region=eu-central-1&endpoint={}", self.endpoint())
    }

    /// The URI of any key, by its ARN.
    pub fn uri_of(&self, key: &str) -> String {
        let arn = self.facts["keys"][key].as_str().unwrap_or_else(|| panic!("no key {key}"));
        format!("awskms:///{arn}?endpoint={}", self.endpoint())
    }

    /// The access key of `publisher`, or of `guest`, who may do nothing here: id and secret.
    pub fn access_key(&self, user: &str) -> (String, String) {
        let text = |name: &str| self.facts["users"][user][name].as_str().expect("a user").to_owned();
        (text("id"), text("secret"))
    }

    /// The signer as nobody in particular: no access key, no profile, no machine to ask.
    pub fn stranger(&self) -> Run {
        self.alone(Run::new(crate::binaries::bin("mcpfs-signer")))
    }

    /// Without what this user has for AWS.
    fn alone(&self, run: Run) -> Run {
        let path = std::env::var_os("PATH").expect("a PATH");
        run.env_clear().env("PATH", path).env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", self.dir.path())
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
        std::fs::write(self.dir.path().join("fault"), word).expect("own directory");
    }

    /// A file of our own below the home of the signer.
    pub fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Ends the service.
    pub fn stop(&mut self) {
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
    }
}

impl Default for Kms {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Kms {
    fn drop(&mut self) {
        // It may have been stopped.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
