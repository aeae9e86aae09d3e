//! The signing server: its configuration, one pass, or the running process.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binaries::bin;
use crate::codehost::{BOT_TOKEN, BRANCH, CodeHost, REPOSITORY};
use crate::command::{Run, exit_within};
use crate::registry::{HEAD_KEY, RELEASE_KEY, Registry};
use crate::scratch::{self, PATIENCE, wait_for};

/// What the forge and the server share.
pub const HOOK_SECRET: &str = "hook-secret-1c9e";

/// A signing server for a registry and the forge that its recipes are reviewed at.
#[derive(Debug)]
pub struct Signing<'a> {
    registry: &'a Registry,
    dir: tempfile::TempDir,
    /// Further keys of the sections that the harness writes, and sections of its own.
    pub extra: Extra,
}

/// Additions to `serve.toml`.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// Before the first section.
    pub top: String,
    /// In `[repository]`.
    pub repository: String,
    /// In `[reviewers]`.
    pub reviewers: String,
    /// In `[site]`.
    pub site: String,
    /// In `[artefacts]`.
    pub artefacts: String,
    /// After the last section.
    pub end: String,
    /// The site's folder, if it is not the registry's own.
    pub site_path: Option<PathBuf>,
    /// The site's address, if it is no folder.
    pub site_address: Option<String>,
    /// Another copy of the program.
    pub program: Option<PathBuf>,
    /// More for the server's environment.
    pub environment: Vec<(&'static str, String)>,
}

impl<'a> Signing<'a> {
    /// Secrets in files of their own, and who may approve: `sec` and `plat` for the people of
    /// [`crate::fixture::Recipe`], and `rita` for nobody's recipe.
    pub fn new(registry: &'a Registry) -> Self {
        let dir = scratch::dir_for("signing");
        for (name, text) in [("token", BOT_TOKEN), ("secret", HOOK_SECRET)] {
            let file = dir.path().join(name);
            std::fs::write(&file, format!("{text}\n")).expect("own directory");
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("own file");
        }
        Self { registry, dir, extra: Extra::default() }
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn journal_file(&self) -> PathBuf {
        self.path("state").join(self.registry.name().replace('/', "%2F")).join("serve.json")
    }

    /// Writes the journal, between passes.
    pub fn set_journal(&self, journal: &Value) {
        std::fs::write(self.journal_file(), journal.to_string()).expect("own directory");
    }

    /// The journal.
    pub fn journal(&self) -> Value {
        let file = self.journal_file();
        serde_json::from_slice(&std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
            .expect("JSON")
    }

    /// Writes `serve.toml` for `forge`; gives its path.
    pub fn configure(&self, forge: &CodeHost) -> PathBuf {
        let (hsm, file) = (self.registry.hsm(), self.path("serve.toml"));
        let folder = || self.extra.site_path.clone().unwrap_or_else(|| self.registry.site()).display().to_string();
        let site = self.extra.site_address.clone().unwrap_or_else(folder);
        let extra = &self.extra;
        let text = format!(
            "state = {:?}\nlisten = \"127.0.0.1:0\"\nreport = true\n{}\n\
             [repository]\nforge = \"{}\"\napi = \"{}\"\nname = \"{REPOSITORY}\"\nurl = \"{}\"\nbranch = \"{BRANCH}\"\ntoken_file = {:?}\n{}\n\
             [reviewers]\nsec = \"security@example.com\"\nplat = \"platform@example.com\"\nrita = \"rita@example.com\"\n{}\n\
             [hooks]\nsecret_file = {:?}\n\n[site]\naddress = {site:?}\ntrust = {:?}\n{}\n\
             [keys]\nhead = [\"{}\"]\nrelease = [\"{}\"]\n\n[artefacts]\nfile_root = {:?}\n{}\n{}",
            self.path("state"),
            extra.top,
            forge.kind().word(),
            forge.api_url(),
            forge.git_url(),
            self.path("token"),
            extra.repository,
            extra.reviewers,
            self.path("secret"),
            self.registry.trust(),
            extra.site,
            hsm.uri(HEAD_KEY),
            hsm.uri(RELEASE_KEY),
            self.registry.artefacts(),
            extra.artefacts,
            extra.end,
        );
        std::fs::write(&file, text).expect("own directory");
        file
    }

    /// `mcpfs-signer serve` with its configuration; add `--once` or the like.
    pub fn command(&self, forge: &CodeHost) -> Run {
        let config = self.configure(forge);
        let run = match &self.extra.program {
            None => self.registry.hsm().signer().env_remove("MCPFS_SIGNER_STATE"),
            Some(program) => {
                let environment = self.registry.hsm().environment().into_iter();
                environment.fold(Run::new(program), |run, (name, value)| run.env(name, value))
            }
        };
        let more = self.extra.environment.iter();
        more.fold(run.args(["serve", "--config"]).arg(config), |run, (name, value)| run.env(name, value))
    }

    /// One pass.
    pub fn once(&self, forge: &CodeHost) -> Run {
        self.command(forge).arg("--once")
    }

    /// Starts it and waits until it listens.
    pub fn start(&self, forge: &CodeHost) -> Running<'_> {
        let config = self.configure(forge);
        let log = self.path("serve.log");
        let file = File::options().create(true).append(true).open(&log).expect("own directory");
        let before = std::fs::metadata(&log).map_or(0, |facts| facts.len());
        let mut command = Command::new(bin("mcpfs-signer"));
        for (name, value) in self.registry.hsm().environment() {
            command.env(name, value);
        }
        command.envs(self.extra.environment.iter().map(|(name, value)| (name, value)));
        let child = command
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("own file"))
            .stderr(file)
            .spawn()
            .expect("cannot start mcpfs-signer");
        let mut running = Running { signing: self, child, address: String::new(), ended: false };
        running.address = wait_for("the signing server to listen", || {
            let log = running.log();
            if let Some(status) = running.child.try_wait().expect("own child") {
                running.ended = true;
                panic!("serve ended with {status}: {log}");
            }
            let since = log.get(usize::try_from(before).expect("small")..)?;
            let address = since.split_once("listening on ")?.1.split_once(',')?.0;
            Some(address.to_owned())
        });
        running
    }
}

/// The running process; on drop it gets SIGTERM and must end well.
#[derive(Debug)]
pub struct Running<'s> {
    signing: &'s Signing<'s>,
    child: Child,
    address: String,
    ended: bool,
}

impl Running<'_> {
    /// Where it listens, as `http://…` without a slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.signing.path("serve.log")).unwrap_or_default()
    }

    /// One request; status and body.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> (u16, String) {
        ask(TcpStream::connect(&self.address).expect("it listens"), method, path, headers, body)
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, &[], b"")
    }

    /// The status and body of `/readyz`.
    pub fn ready(&self) -> (u16, Value) {
        let (status, body) = self.get("/readyz");
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
    }

    /// A number of `/metrics`; `None` if it is not there.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let page = self.get("/metrics").1;
        page.lines().find_map(|line| line.strip_prefix(&format!("mcpfs_signer_{name} "))?.parse().ok())
    }

    /// Wakes it by the hint's way.
    pub fn hint(&self) {
        let bearer = format!("Authorization: Bearer {HOOK_SECRET}");
        let (status, body) = self.ask("POST", "/v1/hint", &[&bearer], b"");
        assert_eq!(status, 202, "{body}");
    }

    /// Waits until a pass that began after this call has ended; no other follows it.
    pub fn pass(&self) {
        let result = |result: &str| self.metric(&format!("passes_total{{result=\"{result}\"}}")).unwrap_or(0.0);
        let begun = self.metric("passes_begun_total").expect("it counts passes");
        self.hint();
        wait_for("a pass of the signing server", || (result("done") + result("waiting") > begun).then_some(()));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("own child");
    }

    /// Kills it at once.
    pub fn kill(mut self) {
        self.ended = true;
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
    }

    /// SIGTERM; it must end well.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.signal(Signal::TERM);
        let code = exit_within(&mut self.child, PATIENCE);
        if code.is_none() {
            self.child.kill().expect("own child");
            self.child.wait().expect("own child");
        }
        if std::thread::panicking() {
            eprintln!("--- the signing server's log\n{}", self.log());
        } else {
            assert_eq!(code, Some(0), "serve did not end well after SIGTERM: {}", self.log());
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// One request over a fresh connection; status and body.
pub fn ask(mut stream: TcpStream, method: &str, path: &str, headers: &[&str], body: &[u8]) -> (u16, String) {
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        head.push_str(&format!("{header}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).expect("it reads");
    // A server that refuses by the headers alone need not read the body.
    drop(stream.write_all(body));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (status.unwrap_or_else(|| panic!("no status: {answer}")), body)
}

/// A recipe as the registry's repository holds it: its artefact below the file root.
pub fn recipe_in(root: &Path, recipe: &crate::fixture::Recipe) -> String {
    let relative = recipe.artefact.strip_prefix(root).expect("below the root").display().to_string();
    recipe.yaml().replace(&format!("file://{}", recipe.artefact.display()), &format!("file:{relative}"))
}
