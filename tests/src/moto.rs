//! moto, which plays Amazon's services: one process for each, that says on its first line what a test
//! needs to know of it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::scratch::{self, Port, repository};
use crate::servers;

/// A running service; gone on drop, with what it holds.
#[derive(Debug)]
pub struct Moto {
    dir: tempfile::TempDir,
    port: Port,
    child: Child,
    facts: Value,
}

impl Moto {
    /// Starts `tests/servers/NAME/serve.py PORT` with more arguments, each made from its directory.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(name: &str, args: impl FnOnce(&Path) -> Vec<PathBuf>) -> Self {
        let (dir, port) = (scratch::dir_for(name), Port::reserve());
        let mut child = Command::new(servers::python())
            .arg(repository().join("tests/servers").join(name).join("serve.py"))
            .arg(port.number().to_string())
            .args(args(dir.path()))
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
            panic!("{name} ended: {}", std::fs::read_to_string(dir.path().join("stderr")).unwrap_or_default())
        });
        Self { dir, port, child, facts }
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// What it said of itself.
    pub fn facts(&self) -> &Value {
        &self.facts
    }

    /// Ends it.
    pub fn stop(&mut self) {
        // It may have been stopped.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.stop();
    }
}
