//! A host with secrets, servers that want them, and a search for where they are.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::site::Site;
use mcpfs_trust::digest::Digest;
use serde_json::{Value, json};

/// What the server of the manual declares.
pub(super) const PG: &str =
    "credentials:\n  - {env: PGPASSWORD, ref: finance-dw/readonly, scope: \"read:finance.*\"}\n";

/// A host whose registry has these servers: a name, and the end of the recipe.
pub(super) struct Vault {
    pub(super) host: Host,
    _site: Site,
    quick: Quick,
}

impl Vault {
    pub(super) fn new(reads: Reads, servers: &[(&str, &str)]) -> Self {
        let quick = Quick::new();
        let artefact = fixture::tar(&fixture::hello_tree(&quick.path("artefacts"), "1.0.0"));
        for (name, rest) in servers {
            let launch = format!("launch:\n  command: bin/hello-mcp\n{rest}");
            let recipe = quick.recipe_of(&Recipe::new(name, "1.0.0", &artefact).with(&launch));
            quick.release(&recipe, &quick.site()).ok();
        }
        let site = Site::serve(Path::new(&quick.site()));
        let host = Host::new(&quick.trust(), &site.url(), reads);
        Self { host, _site: site, quick }
    }

    /// The folder of the site.
    pub(super) fn site(&self) -> PathBuf {
        self.quick.site().into()
    }

    pub(super) fn run(&self, name: &str) -> PathBuf {
        self.host.at(&format!("{name}/run"))
    }

    /// A file of root's own in the configuration's directory.
    pub(super) fn secret(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.host.path("etc").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("new");
        std::fs::write(&new, bytes).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path.display().to_string()
    }

    /// A program in shell; another process writes it, so that none that a test starts meanwhile has it open.
    pub(super) fn script(&self, name: &str, text: &str) -> String {
        let path = self.host.path("etc").join(name);
        Run::new("sh")
            .args(["-euc", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&path)
            .stdin(format!("#!/bin/sh\n{text}\n"))
            .ok();
        path.display().to_string()
    }

    /// Maps one ref for one server.
    pub(super) fn gives(&self, reference: &str, source: &str, server: &str) {
        let entry = format!("[credentials.\"{reference}\"]\nservers = [{server:?}]\n{source}\n");
        self.host.drop_in("50-credentials", &entry);
    }

    pub(super) fn reload(&self) {
        tell(&self.host, "reload").unwrap();
    }

    /// Starts it, and it must not start.
    pub(super) fn refused(&self, name: &str) -> Ran {
        self.refused_by(Run::new(self.run(name)).env_clear().env("HOME", self.host.home()))
    }

    pub(super) fn refused_by(&self, run: Run) -> Ran {
        let ran = run.exits(77);
        assert!(ran.stdout.is_empty() && ran.stderr.trim_end().lines().count() == 1, "one line: {ran}");
        assert!(ran.stderr.contains(". ") && ran.stderr.contains("Details: mcpfs explain "), "with advice: {ran}");
        ran
    }
}

/// Has the daemon do something by the control socket, as root or the daemon's own user.
pub(super) fn tell(host: &Host, op: &str) -> Result<(), Value> {
    let mut stream = UnixStream::connect(host.rundir().join("control.sock")).unwrap();
    stream.write_all(format!("{{\"v\":1,\"op\":{op:?}}}\n").as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    let answer: Value = serde_json::from_str(&line).unwrap();
    match answer.get("error") {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    }
}

/// A secret that nothing else in the world has.
pub(super) fn secret() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("s3cr3t-{}-{number}", Digest::of(&bytes).short())
}

pub(super) fn digest_of(value: &str) -> String {
    Digest::of(value.as_bytes()).to_string()
}

/// What the server says of a variable.
pub(super) fn digest(client: &mut McpClient, variable: &str) -> String {
    client.call("digest", &json!({"variable": variable}))
}

/// Outcome and detail of the last launch of a server.
pub(super) fn row_of(host: &Host, server: &str) -> (String, String) {
    let store = rusqlite::Connection::open(host.audit_db()).unwrap();
    store.busy_timeout(mcpfs_tests::scratch::PATIENCE).unwrap();
    let sql =
        "SELECT verification_outcome, coalesce(detail, '') FROM launches WHERE server_name = ?1 ORDER BY seq DESC";
    store.query_row(sql, [server], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

pub(super) fn holds(bytes: &[u8], value: &str) -> bool {
    bytes.windows(value.len()).any(|window| window == value.as_bytes())
}

/// All processes of this machine.
pub(super) fn processes() -> Vec<PathBuf> {
    let numbered =
        |path: &PathBuf| path.file_name().unwrap().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
    std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).filter(numbered).collect()
}

/// Whether a process has it anywhere in what it can write to of its memory.
pub(super) fn remembers(pid: u32, value: &str) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut looked = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
        // Overlapping, so that nothing lies between two parts.
        let mut at = start;
        while at < end {
            let mut part = vec![0; usize::try_from((end - at).min(1 << 20)).unwrap()];
            memory.seek(SeekFrom::Start(at)).unwrap();
            // What is reserved and not there cannot be read.
            if memory.read_exact(&mut part).is_ok() {
                looked += part.len();
                if holds(&part, value) {
                    return true;
                }
            }
            at += (1 << 20) - 256;
        }
    }
    assert!(looked > 64 << 10, "nothing of process {pid} could be looked at");
    false
}

/// The files below a place, or the one that it is, that hold it.
pub(super) fn found_below(place: &Path, value: &str) -> Vec<PathBuf> {
    let Ok(kind) = place.symlink_metadata().map(|found| found.file_type()) else { return vec![] };
    if kind.is_dir() {
        let entries = std::fs::read_dir(place).unwrap();
        return entries.flat_map(|entry| found_below(&entry.unwrap().path(), value)).collect();
    }
    let found = kind.is_file() && std::fs::read(place).is_ok_and(|bytes| holds(&bytes, value));
    if found { vec![place.to_owned()] } else { vec![] }
}
