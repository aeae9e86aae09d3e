//! Packages of npm and PyPI as artefacts: the same bytes from the same lock, started from the mount
//! by the lines that `bundle` prints for the recipe.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::fixture::{self, sha256_of};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::once::Once;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;
use mcpfs_tests::{scratch, servers};
use serde_json::{Value, json};

use crate::servers::{everything_answers, mounted, time_answers};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("bundles::npm_runs_from_the_mount", npm_runs_from_the_mount);
    suite.mounted("bundles::pypi_runs_from_the_mount", pypi_runs_from_the_mount);
    suite.mounted("bundles::a_host_uses_its_own_platform", a_host_uses_its_own_platform);
    suite.plain("bundles::npm_is_the_same_everywhere", npm_is_the_same_everywhere);
    suite.plain("bundles::pypi_is_the_same_everywhere", pypi_is_the_same_everywhere);
    suite.plain("bundles::native_parts_are_for_a_platform", native_parts_are_for_a_platform);
    suite.plain("bundles::locks_are_made_once", locks_are_made_once);
    suite.plain("bundles::what_cannot_be_pinned_is_refused", what_cannot_be_pinned_is_refused);
}

const EVERYTHING: &str = "npm:@modelcontextprotocol/server-everything@2026.8.31";
const TIME: &str = "pypi:mcp-server-time==2026.10.19";
/// Builds are npm's and pip's own work, on machines that may have much else to do.
const LIMIT: Duration = Duration::from_secs(900);

/// `bundle` of a source; what it prints after the digest are lines for the recipe.
pub(crate) fn bundle(registry: &Registry, source: &str, out: &Path) -> Run {
    registry.signer().arg("bundle").arg(source).arg("--out").arg(out).limit(LIMIT)
}

/// The recipe lines that `bundle` printed, after the digest of the file.
pub(crate) fn recipe_lines(ran: &Ran, out: &Path) -> String {
    let (first, lines) = ran.stdout.split_once('\n').expect("two parts");
    assert_eq!(first, format!("{}  {}", sha256_of(out), out.display()));
    lines.to_owned()
}

/// Writes a recipe with these lines behind the reviewed ones.
pub(crate) fn write_recipe(registry: &Registry, name: &str, version: &str, lines: &str) {
    let yaml = format!(
        "name: {name}\nversion: {version}\nmaintainer: platform@example.com\ndescription: A server for tests.\n\
         scope:\n  - read:nothing\ndata_classification: internal\nreviewed_at: 2026-04-15\n\
         reviewers:\n  - security@example.com\n{lines}"
    );
    std::fs::write(registry.recipe(name), yaml).unwrap();
}

/// `check` of a recipe.
pub(crate) fn check(registry: &Registry, name: &str) -> Run {
    registry.signer().arg("check").arg(registry.recipe(name)).limit(LIMIT)
}

/// Copies a lock to the recipes; the name that recipes give it.
fn put_lock(registry: &Registry, lock: &Path, name: &str) -> PathBuf {
    let path = registry.recipe("x").with_file_name(name);
    std::fs::copy(lock, &path).unwrap();
    path
}

static PUBLISHED: Once<Registry> = Once::new();

/// Runs `test` with a registry that holds both servers, bundled and released by their recipes.
fn with_registry<T>(test: impl FnOnce(&Registry) -> T) -> T {
    let make = || {
        let registry = Registry::new();
        for (name, version, source, lock, registries) in [
            ("everything", "2026.8.31", EVERYTHING, servers::lock("everything", "package-lock.json"), "npm"),
            ("time", "2026.10.19", TIME, servers::lock("time", "requirements.txt"), "pypi"),
        ] {
            let ending = lock.extension().unwrap().to_str().unwrap();
            let lock = put_lock(&registry, &lock, &format!("{name}.lock.{ending}"));
            let out = registry.artefacts().join(format!("{name}.tar"));
            let ran = bundle(&registry, source, &out).arg("--lock").arg(&lock).ok();
            write_recipe(&registry, name, version, &recipe_lines(&ran, &out));
            // Built anew, from the recipe and the lock beside it.
            std::fs::remove_file(&out).unwrap();
            check(&registry, name).exits(1).says(&format!("add --allow-registry {registries}"));
            registry.release_command(name).args(["--allow-registry", registries]).limit(LIMIT).ok();
        }
        registry
    };
    PUBLISHED.with(make, test)
}

/// Removes the registry.
pub(crate) fn drop_registry() {
    PUBLISHED.remove();
}

fn npm_runs_from_the_mount(reads: Reads) {
    with_registry(|registry| {
        mounted(registry, reads, |host, _| {
            everything_answers(host);
            let ran = servers::inspector().arg(host.at("everything/run")).args(["--method", "tools/list"]).ok();
            assert!(ran.json()["tools"].as_array().unwrap().len() > 5, "{ran}");
            lists_its_parts(registry, "everything", "npm", &host.at("everything/2026.8.31/tree/sbom.cdx.json"));
        });
    });
}

fn pypi_runs_from_the_mount(reads: Reads) {
    with_registry(|registry| {
        mounted(registry, reads, |host, _| {
            time_answers(host);
            lists_its_parts(registry, "time", "pypi", &host.at("time/2026.10.19/tree/sbom.cdx.json"));
        });
    });
}

/// The list of parts is valid, and the check lists the same packages with the same licences.
fn lists_its_parts(registry: &Registry, name: &str, kind: &str, sbom: &Path) {
    assert_eq!(servers::cyclonedx_problems(sbom), "");
    let bom: Value = serde_json::from_slice(&std::fs::read(sbom).unwrap()).unwrap();
    let components = bom["components"].as_array().unwrap().iter().chain([&bom["metadata"]["component"]]);
    let mut parts: Vec<Value> = components
        .map(|one| {
            let group = one["group"].as_str().map(|group| format!("{group}/")).unwrap_or_default();
            let licence = &one["licenses"][0];
            let licence = [&licence["expression"], &licence["license"]["name"]].into_iter().find(|one| one.is_string());
            assert!(one["hashes"][0]["content"].as_str().unwrap().len() >= 64, "{one}");
            json!([format!("{group}{}", one["name"].as_str().unwrap()), one["version"], licence])
        })
        .collect();
    let checked = check(registry, name).args(["--allow-registry", kind, "--json"]).ok().json();
    let listed = checked["dependencies"][0]["packages"].as_array().unwrap().iter();
    // What is compiled into machine code is no package of the lock.
    let listed = listed.filter(|one| one["ecosystem"] == kind);
    let mut listed: Vec<Value> = listed.map(|one| json!([one["name"], one["version"], one.get("licence")])).collect();
    parts.sort_by_key(Value::to_string);
    listed.sort_by_key(Value::to_string);
    assert_eq!(parts, listed);
}

fn npm_is_the_same_everywhere() {
    let registry = Registry::shared();
    let (one, two) = (scratch::dir(), scratch::dir());
    let lock = servers::lock("everything", "package-lock.json");
    let made = |dir: &Path, mask: &str, lock: &Path| {
        let out = dir.join("x.tar");
        bundle(&registry, EVERYTHING, &out).arg("--lock").arg(lock).umask(mask).ok();
        sha256_of(&out)
    };
    // Resolved at another mirror, with words in it that registries change.
    let mut elsewhere: Value = serde_json::from_slice(&std::fs::read(&lock).unwrap()).unwrap();
    for (path, package) in
        elsewhere["packages"].as_object_mut().unwrap().iter_mut().filter(|(path, _)| !path.is_empty())
    {
        package["resolved"] = json!(format!("https://mirror.example.com/{path}.tgz"));
        package["deprecated"] = json!("no longer supported");
    }
    let other = two.path().join("package-lock.json");
    std::fs::write(&other, elsewhere.to_string()).unwrap();
    assert_eq!(made(one.path(), "022", &lock), made(two.path(), "077", &other));
    let listed = Run::new("tar").arg("-tf").arg(one.path().join("x.tar")).ok().stdout;
    assert!(listed.contains("\nsbom.cdx.json\n") && !listed.contains("\npackage-lock.json\n"), "{listed}");
    let hidden = Run::new("tar").arg("-xOf").arg(one.path().join("x.tar")).arg("node_modules/.package-lock.json").ok();
    assert!(!hidden.stdout.contains("resolved") && hidden.stdout.contains("sha512-"), "{hidden}");
}

fn pypi_is_the_same_everywhere() {
    let registry = Registry::shared();
    let (one, two) = (scratch::dir(), scratch::dir());
    let lock = servers::lock("time", "requirements.txt");
    let made = |dir: &Path, mask: &str| {
        let out = dir.join("x.tar");
        let ran = bundle(&registry, TIME, &out).arg("--lock").arg(&lock).umask(mask).ok();
        assert!(ran.stderr.contains("cffi 2.1.1 cp3") && ran.stderr.contains("manylinux"), "{ran}");
        sha256_of(&out)
    };
    assert_eq!(made(one.path(), "022"), made(two.path(), "077"));
    let listed = Run::new("tar").arg("-tf").arg(one.path().join("x.tar")).ok().stdout;
    for left_out in ["/RECORD\n", "/INSTALLER\n", "/REQUESTED\n", "/direct_url.json\n", "\nbin/mcp-server-time\n"] {
        assert!(!listed.contains(left_out), "{left_out:?} is in {listed}");
    }
    assert!(listed.contains("\nmcp_server_time/__pycache__/server.cpython-3"), "{listed}");
}

/// esbuild: a small package with one native optional package for each platform.
const NATIVE: &str = "npm:esbuild@0.25.5";

fn native_parts_are_for_a_platform() {
    let registry = Registry::new();
    let out = |name: &str| registry.recipe("x").with_file_name(name);
    let amd64 = bundle(&registry, NATIVE, &out("amd64.tar")).args(["--platform", "linux/amd64"]).ok();
    let amd64 = amd64.says("npm:esbuild@0.25.5 has an install script, which did not run");
    assert!(amd64.stdout.contains("  platform: linux/amd64\n"), "{amd64}");
    // The lock is for all platforms.
    let arm64 = bundle(&registry, NATIVE, &out("arm64.tar")).args(["--platform", "linux/arm64", "--lock"]);
    let arm64 = arm64.arg(out("amd64.lock.json")).ok();
    assert!(arm64.stdout.contains("  platform: linux/arm64\n"), "{arm64}");
    let holds = |name: &str| Run::new("tar").arg("-tf").arg(out(name)).ok().stdout;
    assert!(holds("amd64.tar").contains("@esbuild/linux-x64/") && !holds("amd64.tar").contains("linux-arm64"));
    assert!(holds("arm64.tar").contains("@esbuild/linux-arm64/") && !holds("arm64.tar").contains("linux-x64"));
    let any = bundle(&registry, NATIVE, &out("any.tar")).args(["--platform", "any", "--lock"]);
    any.arg(out("amd64.lock.json")).exits(1).says("is only for some machines");
    assert!(!out("any.tar").exists());

    // One version with both, built by the check; each artefact has its own line.
    let artefact = |ran: &Ran| {
        let lines: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("  ")).map(str::trim).collect();
        format!("  - {{{}}}\n", lines.join(", ").replace("arm64.lock.json", "amd64.lock.json"))
    };
    let lines = format!("artefact:\n{}{}", artefact(&amd64), artefact(&arm64));
    write_recipe(&registry, "esbuild", "0.25.5", &lines);
    let checked = check(&registry, "esbuild").args(["--allow-registry", "npm", "--json"]).ok().json();
    let platforms = checked["dependencies"].as_array().unwrap().iter().map(|one| one["platform"].clone());
    assert_eq!(platforms.collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
    assert!(!checked["findings"].to_string().contains("native-platform"), "{checked}");

    // Machine code that is said to run anywhere.
    let file = registry.artefacts().join("amd64.tar");
    std::fs::rename(out("amd64.tar"), &file).unwrap();
    let lines = format!("artefact: {{url: 'file:amd64.tar', sha256: {}}}\n", sha256_of(&file));
    write_recipe(&registry, "esbuild", "0.25.5", &lines);
    let checked = check(&registry, "esbuild").arg("--file-root").arg(registry.artefacts()).ok();
    assert!(checked.text().contains("[native-platform]"), "{checked}");

    // Wheels for another machine.
    let wheels = bundle(&registry, "pypi:rpds-py==2026.9.1", &out("rpds.tar")).args(["--platform", "linux/arm64"]).ok();
    assert!(wheels.stderr.contains("aarch64") && wheels.stdout.contains("  platform: linux/arm64\n"), "{wheels}");
}

fn a_host_uses_its_own_platform(reads: Reads) {
    let registry = Registry::new();
    let own = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        _ => "linux/arm64",
    };
    let other = if own == "linux/amd64" { "linux/arm64" } else { "linux/amd64" };
    let tars = ["1.0.0", "2.0.0"].map(|version| fixture::tar(&fixture::hello_tree(&registry.artefacts(), version)));
    let artefact = |platform: &str, file: &Path| {
        format!("  - {{platform: {platform}, url: 'file://{}', sha256: {}}}\n", file.display(), sha256_of(file))
    };
    let both = format!("artefact:\n{}{}", artefact(own, &tars[0]), artefact(other, &tars[1]));
    write_recipe(&registry, "hello", "1.0.0", &format!("{both}{}", fixture::HELLO_LAUNCH));
    registry.release_command("hello").ok();
    let foreign = format!("artefact:\n{}", artefact(other, &tars[1]));
    write_recipe(&registry, "foreign", "1.0.0", &format!("{foreign}{}", fixture::HELLO_LAUNCH));
    registry.release_command("foreign").ok();

    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let _mount = Mount::start(&host);
    let mut client = McpClient::start(&host.at("hello/run"));
    // What the binary says of itself lies beside it, and differs between the two.
    assert_eq!(client.initialize()["serverInfo"], json!({"name": "hello", "version": "1.0.0"}));
    client.end();
    let refused = Run::new(host.at("foreign/run")).exits(77);
    assert!(refused.stderr.contains("PlatformMissing") && refused.stderr.contains(other), "{refused}");
    let explained = host.mcpfs(["explain", "foreign"]).run();
    assert!(explained.text().contains(other), "{explained}");
}

fn locks_are_made_once() {
    let registry = Registry::shared();
    let dir = scratch::dir();
    let out = dir.path().join("six.tar");
    let ran = bundle(&registry, "pypi:six==1.17.0", &out).ok();
    let lock = dir.path().join("six.lock.txt");
    assert!(ran.stderr.contains(&lock.display().to_string()) && ran.stdout.contains("  lock: six.lock.txt\n"), "{ran}");
    // Pure Python runs anywhere.
    assert!(!ran.stdout.contains("platform:"), "{ran}");
    let first = sha256_of(&out);
    bundle(&registry, "pypi:six==1.17.0", &out).exits(1).says("use it with --lock");
    let any = bundle(&registry, "pypi:six==1.17.0", &out).args(["--platform", "any", "--lock"]).arg(&lock);
    let any = any.arg("--json").ok().json();
    assert_eq!((any["sha256"].as_str(), any["platform"].as_str()), (Some(&*first), Some("any")));
    assert!(any["python"].as_str().unwrap().starts_with("3."), "{any}");
    bundle(&registry, "pypi:six==1.17.0", &out).args(["--python", "3.99"]).arg("--lock").arg(&lock).exits(1);
}

fn what_cannot_be_pinned_is_refused() {
    let registry = Registry::shared();
    let dir = scratch::dir();
    let out = dir.path().join("x.tar");
    let refused = |source: &str, lock: Option<&str>, says: &str| {
        let file = dir.path().join("lock");
        let run = bundle(&registry, source, &out);
        let run = match lock {
            Some(text) => {
                std::fs::write(&file, text).unwrap();
                run.arg("--lock").arg(&file)
            }
            None => run,
        };
        run.exits(1).says(says);
        assert!(!out.exists(), "{source}: nothing half made");
    };
    let lock = std::fs::read_to_string(servers::lock("everything", "package-lock.json")).unwrap();
    let replaced = |from: &str, to: &str| Some(lock.replacen(from, to, 1));
    let git = replaced("\"integrity\":", "\"resolved\": \"git+ssh://git@git.example.com/x.git#main\", \"integrity\":");
    refused(EVERYTHING, git.as_deref(), "not from the registry over https");
    let changed = replaced("sha512-", "sha512-AAAA");
    refused(EVERYTHING, changed.as_deref(), "is not one sha512 digest");
    refused(
        "npm:@modelcontextprotocol/server-everything@2026.8.30",
        Some(&lock),
        "not of a project whose only dependency",
    );
    // The digest of another package: npm itself refuses what the registry sends.
    let mut other: Value = serde_json::from_str(&lock).unwrap();
    let sdk = other["packages"]["node_modules/@modelcontextprotocol/sdk"]["integrity"].clone();
    other["packages"]["node_modules/zod"]["integrity"] = sdk;
    refused(EVERYTHING, Some(&other.to_string()), "EINTEGRITY");
    refused("npm:@modelcontextprotocol/server-everything@0.0.999", None, "npm failed");
    // Only a source archive, whose build would run.
    refused("pypi:docopt==0.6.2", None, "pip failed");
    let hash = "0".repeat(64);
    refused("pypi:six==1.17.0", Some(&format!("six==1.17.0 --hash=sha256:{hash}\n")), "pip failed");
    let index = format!("--extra-index-url https://index.example.com\nsix==1.17.0 --hash=sha256:{hash}\n");
    refused("pypi:six==1.17.0", Some(&index), "is an option");
    bundle(&registry, "npm:@modelcontextprotocol/server-everything", &out).exits(2).says("is not a source");
}
