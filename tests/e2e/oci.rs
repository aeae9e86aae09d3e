//! OCI images and artifacts: from a real registry to a server that runs from the mount.

use std::path::{Path, PathBuf};

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::faulty::{Fault, FaultyServer};
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mcpb;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::oci::{Compress, Kind, Layout, OciRegistry, PASSWORD, install, node_image};
use mcpfs_tests::registry::{HEAD_KEY, RELEASE_KEY, Registry, files_below};
use mcpfs_tests::scratch::{self, need};
use mcpfs_tests::servers;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::{Attack, Suite};
use serde_json::{Value, json};

use crate::boundary::SIGNING_HOST;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("oci::an_image_runs_from_the_mount", an_image_runs_from_the_mount);
    suite.mounted("oci::an_image_of_node_runs_from_the_mount", an_image_of_node_runs_from_the_mount);
    suite.mounted("oci::an_artifact_runs_from_the_mount", an_artifact_runs_from_the_mount);
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "oci::every_way_to_ask_a_registry",
            "a registry that wants a login, and one that gets a wrong one: logins go to their host alone",
            &["exit 1", "wants a login"],
        ),
        every_way_to_ask_a_registry,
    );
    suite.plain("oci::layers_are_laid_as_umoci_lays_them", layers_are_laid_as_umoci_lays_them);
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "oci::a_hostile_registry_publishes_nothing",
            "a container registry that lies about sizes, digests, layers and addresses",
            &["exit 1"],
        ),
        a_hostile_registry_publishes_nothing,
    );
    suite.plain("oci::an_image_goes_where_its_release_goes", an_image_goes_where_its_release_goes);
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "oci::a_moved_tag_and_a_changed_staging_are_told",
            "a tag that moved after the review, and a layer changed in the staging folder",
            &["the tag 1.0.0 is at another manifest now"],
        ),
        a_moved_tag_and_a_changed_staging_are_told,
    );
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => panic!("no image platform is known for {other}"),
    }
}

/// The image of hello-mcp: its libraries, then the program, then a layer that replaces its version.
fn hello_image() -> Layout {
    let layout = Layout::new("1.0.0");
    let parts = scratch::dir();
    let program = fixture::hello_tree(parts.path(), "0.9.0").join("bin");
    layout.layer(|root| {
        install(root, &program.join("hello-mcp"));
        // Where `ldd` ran is no place in an image.
        std::fs::remove_dir_all(root.join("tmp")).expect("the program lay below /tmp");
        std::fs::create_dir_all(root.join("srv/app")).unwrap();
        std::fs::write(root.join("srv/app/old"), "old").unwrap();
    });
    layout.layer(|root| {
        Run::new("cp").arg("-r").arg(program).arg(root.join("srv/app/bin")).ok();
    });
    layout.layer(|root| {
        std::fs::write(root.join("srv/app/bin/VERSION"), "1.0.0\n").unwrap();
        std::fs::remove_file(root.join("srv/app/old")).unwrap();
    });
    layout.config(&[
        "--config.entrypoint=./bin/hello-mcp",
        "--config.cmd=--all",
        "--config.env=GREETING=hello there",
        "--config.workingdir=/srv/app",
    ]);
    layout
}

/// A recipe of `name:tag` in `registry`, whose manifest has this digest.
fn recipe(registry: &OciRegistry, name: &str, tag: &str, sha256: &str) -> Recipe {
    Recipe {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        artefact: PathBuf::from(format!("oci://{}/{name}:{tag}", registry.host())),
        sha256: sha256.to_owned(),
        rest: format!("  platform: {}\n", platform()),
    }
}

/// Writes the recipe; a command that releases it.
fn releasing(publisher: &Registry, registry: &OciRegistry, recipe: &Recipe) -> Run {
    let yaml = recipe.yaml().replace("file://oci:", "oci:");
    std::fs::write(publisher.recipe(&recipe.name), yaml).unwrap();
    publisher.release_command(&recipe.name).args(registry.options())
}

fn an_image_runs_from_the_mount(reads: Reads) {
    let (publisher, registry) = (Registry::new(), OciRegistry::start(Kind::Tls));
    let sha256 = registry.push(&hello_image(), "hello", "1.0.0", Compress::Zstd);
    let released = releasing(&publisher, &registry, &recipe(&registry, "hello", "1.0.0", &sha256)).ok();
    assert!(released.stderr.contains("taken from the image's config"), "{released}");
    let site = Site::serve(&publisher.site());
    let host = Host::new(&publisher.trust(), &site.url(), reads);
    let _mount = Mount::start(&host);
    let mut client = McpClient::start(&host.at("hello/run"));
    assert_eq!(client.initialize()["serverInfo"], json!({"name": "hello", "version": "1.0.0"}));
    assert_eq!(client.tools(), ["add", "digest", "echo", "whoami"]);
    let who: Value = serde_json::from_str(&client.call("whoami", &json!({}))).unwrap();
    // Its own root, directory and environment.
    assert_eq!(who["exe"], "/srv/app/bin/hello-mcp");
    assert_eq!(who["cwd"], "/srv/app");
    assert_eq!(who["args"], json!(["/srv/app/bin/hello-mcp", "--all"]));
    assert_eq!(who["env"]["GREETING"], "hello there");
    let home = who["env"]["HOME"].as_str().unwrap();
    assert!(home.ends_with("/.local/state/mcpfs/mcp.example.com+test/hello"), "{who}");
    client.end();
    audit::expect(&host, "ok", Some("hello"));
    let rows = host.mcpfs(["audit", "query", "--server", "hello", "--json"]).ok();
    assert!(rows.stdout.contains("\"sandbox\": \"image\"") || rows.stdout.contains("\"sandbox\":\"image\""), "{rows}");
    // What the mount shows is the image's tree, without what a later layer hid.
    let tree = host.at("hello/1.0.0/tree");
    assert!(!tree.join("srv/app/old").exists() && tree.join("srv/app/bin/VERSION").is_file());
    walls_hold(&publisher, &registry, &host);
}

/// What a server in an image can and cannot do, by a shell that says so.
fn walls_hold(publisher: &Registry, registry: &OciRegistry, host: &Host) {
    let layout = Layout::new("1");
    layout.layer(|root| {
        let shell = need("sh", "dash").canonicalize().unwrap();
        install(root, &need("cat", "coreutils").canonicalize().unwrap());
        install(root, &shell);
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy(shell, root.join("bin/sh")).unwrap();
    });
    let (secret, shared) = (host.path("secret"), host.path("shared"));
    std::fs::write(&secret, "x").unwrap();
    std::fs::create_dir_all(&shared).unwrap();
    // `true` and not `:`, whose failed redirection would end the shell.
    let script = format!(
        "cat {secret} 2>/dev/null && echo read a secret; {{ true >/usr/x; }} 2>/dev/null && echo wrote the root; \
         true >/tmp/x && echo tmp; true >$HOME/kept && echo state; true >{shared}/x && echo shared; \
         {{ true >{readable}/x; }} 2>/dev/null && echo wrote what is for reading; cat {readable}/file; \
         while read k v; do [ $k = CapEff: ] && echo caps $v; done </proc/self/status; \
         while read k v; do case $k in *:) echo net $k;; esac; done </proc/net/dev; echo pid $$",
        secret = secret.display(),
        shared = shared.display(),
        readable = host.path("readable").display(),
    );
    std::fs::create_dir_all(host.path("readable")).unwrap();
    std::fs::write(host.path("readable/file"), "for reading\n").unwrap();
    layout.config(&["--config.entrypoint=/bin/sh", "--config.cmd=/walls"]);
    layout.layer(|root| std::fs::write(root.join("walls"), script).unwrap());
    let sha256 = registry.push(&layout, "walls", "1", Compress::Gzip);
    let sandbox = format!(
        "sandbox: {{network: none, read: [{:?}], write: [{:?}]}}\n",
        host.path("readable").display().to_string(),
        shared.display().to_string()
    );
    let recipe = recipe(registry, "walls", "1", &sha256).with(&sandbox);
    releasing(publisher, registry, &recipe).ok();
    host.refresh();
    let ran = Run::new(host.at("walls/run")).env_clear().env("HOME", host.home()).ok();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines, ["tmp", "state", "shared", "for reading", "caps 0000000000000000", "net lo:", "pid 2"], "{ran}");
    assert!(shared.join("x").is_file());
    let kept = host.home().join(".local/state/mcpfs/mcp.example.com+test/walls/kept");
    assert!(kept.is_file(), "{}", kept.display());
    // A declared path that this host lacks is a refusal, with a row that corrects the launch.
    std::fs::remove_dir_all(host.path("readable")).unwrap();
    let ran = Run::new(host.at("walls/run")).env_clear().env("HOME", host.home()).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("which cannot be found here"), "{ran}");
    host.mcpfs(["audit", "query", "--server", "walls"]).ok().says("it never started");
}

fn an_image_of_node_runs_from_the_mount(reads: Reads) {
    let (publisher, registry) = (Registry::new(), OciRegistry::start(Kind::Plain));
    let layout = node_image(&servers::everything(), servers::EVERYTHING_MAIN, "2026.8.31");
    let sha256 = registry.push(&layout, "everything", "2026.8.31", Compress::Gzip);
    let released = releasing(&publisher, &registry, &recipe(&registry, "everything", "2026.8.31", &sha256)).ok();
    assert!(released.stderr.contains("it asks to run as the user \"node\""), "{released}");
    assert!(released.stderr.contains("asked without encryption"), "{released}");
    let site = Site::serve(&publisher.site());
    let host = Host::new(&publisher.trust(), &site.url(), reads);
    let _mount = Mount::start(&host);
    let ran =
        servers::inspector().arg(host.at("everything/run")).args(["--method", "tools/call", "--tool-name", "echo"]);
    let called = ran.args(["--tool-arg", "message=hi"]).ok().json();
    assert_eq!(called["content"][0]["text"], "Echo: hi");
}

/// One blob that is an .mcpb, under a manifest with an empty config, as `oras push` makes it.
fn an_artifact_runs_from_the_mount(reads: Reads) {
    let (publisher, registry) = (Registry::new(), OciRegistry::start(Kind::Plain));
    let tree = fixture::hello_tree(&publisher.artefacts(), "1.0.0");
    let config = json!({"command": "${__dirname}/bin/hello-mcp", "args": [], "env": {}});
    let manifest = json!({
        "manifest_version": "0.3", "name": "hello", "version": "1.0.0", "description": "A server.",
        "author": {"name": "Tests"}, "server": {"type": "binary", "entry_point": "bin/hello-mcp", "mcp_config": config},
    });
    let file = mcpb::pack(&tree, &manifest, &publisher.artefacts().join("hello.mcpb"));
    let layout = Layout::new("1.0.0");
    let sha256 = layout.artifact(&file, "application/vnd.mcpb");
    assert_eq!(registry.push_as_is(&layout, "hello", "1.0.0"), sha256);
    let released = releasing(&publisher, &registry, &recipe(&registry, "hello", "1.0.0", &sha256)).ok();
    assert!(released.stderr.contains("taken from the bundle's manifest"), "{released}");
    let site = Site::serve(&publisher.site());
    let host = Host::new(&publisher.trust(), &site.url(), reads);
    let _mount = Mount::start(&host);
    let mut client = McpClient::start(&host.at("hello/run"));
    client.initialize();
    assert_eq!(client.call("add", &json!({"a": 2, "b": 3})), "5");
    client.end();
}

fn every_way_to_ask_a_registry() {
    let image = hello_image();
    let publisher = Registry::new();
    let mut digests = Vec::new();
    for (kind, compress) in [
        (Kind::Plain, Compress::Gzip),
        (Kind::Tls, Compress::Zstd),
        (Kind::Password, Compress::Gzip),
        (Kind::Token, Compress::Gzip),
    ] {
        let registry = OciRegistry::start(kind);
        let sha256 = registry.push(&image, "hello", "1.0.0", compress);
        let recipe = recipe(&registry, "hello", "1.0.0", &sha256);
        std::fs::write(publisher.recipe("hello"), recipe.yaml().replace("file://oci:", "oci:")).unwrap();
        let check =
            || publisher.signer().args(["check", "--json"]).arg(publisher.recipe("hello")).args(registry.options());
        if matches!(kind, Kind::Password | Kind::Token) {
            check().exits(1).says("wants a login");
            let wrong = check().arg("--registry-auth").arg(registry.logins("wrong")).exits(1);
            assert!(wrong.text().contains("refuses the login") && !wrong.text().contains("wrong"), "{wrong}");
        }
        let logins = registry.logins(PASSWORD);
        // The flag, and the variable: a file in both.
        let checked = check().arg("--registry-auth").arg(&logins).ok();
        assert!(!checked.text().contains(PASSWORD), "{checked}");
        let staging = scratch::dir();
        check().env("MCPFS_REGISTRY_AUTH_FILE", logins).arg("--staging").arg(staging.path().join("s")).ok();
        let record = std::fs::read_to_string(staging.path().join("s/check.json")).unwrap();
        digests.push(serde_json::from_str::<Value>(&record).unwrap()["artefacts"][0]["tree"].clone());
        // Not listed: not asked.
        publisher.signer().arg("check").arg(publisher.recipe("hello")).exits(1).says("is not listed");
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "one tree however the layers are packed: {digests:?}");
}

/// Two programs that never met lay the same layers over each other.
fn layers_are_laid_as_umoci_lays_them() {
    let layout = Layout::new("1");
    let write = |path: PathBuf, text: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    layout.layer(|root| {
        for (path, text) in [("a/1", "1"), ("a/2", "2"), ("b/x/y", "y"), ("c", "c"), ("d/keep", "k"), ("hard", "h")] {
            write(root.join(path), text);
        }
        std::os::unix::fs::symlink("a", root.join("l")).unwrap();
    });
    layout.layer(|root| {
        std::fs::remove_file(root.join("a/1")).unwrap();
        std::fs::remove_dir_all(root.join("b")).unwrap();
        write(root.join("b"), "now a file");
        std::fs::remove_file(root.join("c")).unwrap();
        write(root.join("c/d"), "now a directory");
        std::fs::hard_link(root.join("hard"), root.join("a/again")).unwrap();
    });
    layout.layer(|root| {
        std::fs::remove_file(root.join("l")).unwrap();
        write(root.join("l/z"), "now a directory too");
        std::fs::remove_file(root.join("hard")).unwrap();
        write(root.join("a/2"), "2 again");
    });
    layout.config(&["--config.cmd=/a/2"]);
    let (publisher, registry) = (Registry::new(), OciRegistry::start(Kind::Plain));
    let sha256 = registry.push(&layout, "layers", "1", Compress::Gzip);
    let recipe = recipe(&registry, "layers", "1", &sha256).with("launch: {command: a/2, runtime: image}\n");
    // Nothing here is executable, so the tree is looked at as it is staged.
    releasing(&publisher, &registry, &recipe).exits(1).says("is not executable");
    let recipe = Recipe {
        rest: recipe.rest.replace("launch: {command: a/2, runtime: image}\n", "launch: {command: sh}\n"),
        ..recipe
    };
    releasing(&publisher, &registry, &recipe).ok();
    let site = Site::serve(&publisher.site());
    let host = Host::new(&publisher.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    let into = scratch::dir();
    let theirs = layout.unpacked(into.path());
    let ours = host.at("layers/1.0.0/tree");
    assert_eq!(contents(&ours), contents(&theirs));
}

fn contents(root: &Path) -> Vec<(String, String)> {
    files_below(root)
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(root.join(&path)).unwrap();
            (path, text)
        })
        .collect()
}

fn a_moved_tag_and_a_changed_staging_are_told() {
    let (publisher, registry) = (Registry::new(), OciRegistry::start(Kind::Plain));
    let image = hello_image();
    let first = registry.push(&image, "hello", "1.0.0", Compress::Gzip);
    image.layer(|root| std::fs::write(root.join("srv/app/bin/VERSION"), "1.0.1\n").unwrap());
    let second = registry.push(&image, "hello", "1.0.0", Compress::Gzip);
    assert_ne!(first, second);
    let staging = scratch::dir();
    let folder = staging.path().join("s");
    let recipe = recipe(&registry, "hello", "1.0.0", &first);
    std::fs::write(publisher.recipe("hello"), recipe.yaml().replace("file://oci:", "oci:")).unwrap();
    let check = publisher.signer().arg("check").arg(publisher.recipe("hello")).args(registry.options());
    check.arg("--staging").arg(&folder).ok().says("the tag 1.0.0 is at another manifest now");
    // From here on without a network: the registry is gone.
    drop(registry);
    let publish = || {
        let run = publisher.publishing("publish").arg("--staging").arg(&folder);
        run.arg("--no-policy").arg("--key").arg(publisher.hsm().uri(RELEASE_KEY))
    };
    let parts = files_below(&folder.join("artefacts"));
    assert!(parts.len() >= 5 && parts.contains(&first), "manifest, config and layers: {parts:?}");
    let layer = parts.iter().find(|part| **part != first).unwrap();
    let at = folder.join("artefacts").join(layer);
    let bytes = std::fs::read(&at).unwrap();
    let mut changed = bytes.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    std::fs::write(&at, changed).unwrap();
    publish().exits(1).says("other bytes lie there");
    assert!(!publisher.site().join("servers/hello.json").exists());
    std::fs::write(&at, bytes).unwrap();
    publish().ok();
    for part in parts {
        let published = publisher.site().join("artefacts").join(&part);
        assert_eq!(fixture::sha256_of(&published), part);
    }
    let entry = std::fs::read_to_string(publisher.site().join("servers/hello.json")).unwrap();
    assert!(entry.contains(&first) && !entry.contains(&second), "{entry}");
}

/// An image in the form of files that a web server hands out as a registry does, and what it pins.
fn static_image(root: &Path, layer: &[u8], edit: impl Fn(&mut Value)) -> String {
    let put = |folder: &str, bytes: &[u8]| {
        let sha256 = mcpfs_trust::digest::Digest::of(bytes).to_string();
        let path = root.join("v2/evil").join(folder).join(format!("sha256:{sha256}"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        json!({"mediaType": "application/octet-stream", "digest": format!("sha256:{sha256}"), "size": bytes.len()})
    };
    let diff_ids = json!([format!("sha256:{}", mcpfs_trust::digest::Digest::of(layer))]);
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let mut config = put("blobs", config.to_string().as_bytes());
    config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let mut manifest = json!({"schemaVersion": 2, "config": config, "layers": [put("blobs", layer)]});
    edit(&mut manifest);
    let listed = put("manifests", manifest.to_string().as_bytes());
    listed["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned()
}

fn a_hostile_registry_publishes_nothing() {
    let publisher = Registry::new();
    let parts = scratch::dir();
    let tar = |name: &str, script: &str| {
        let at = parts.path().display();
        let script = format!("cd {at} && {script} >{at}/{name}");
        Run::new("sh").args(["-c", &script]).ok();
        std::fs::read(parts.path().join(name)).unwrap()
    };
    let good = tar("good", "echo 1 >a && tar -cf - a");
    let escape = tar("escape", "mkdir -p d && echo 1 >x && cd d && tar -P -cf - ../x");
    let bomb = tar("bomb", "truncate -s 300M zeros && tar -czf - zeros");
    type Edit = fn(&mut Value);
    let nothing: Edit = |_| ();
    let many: Edit = |manifest| manifest["layers"] = Value::Array(vec![manifest["layers"][0].clone(); 1000]);
    let huge: Edit = |manifest| manifest["layers"][0]["size"] = json!(1_u64 << 60);
    let short: Edit = |manifest| manifest["layers"][0]["size"] = json!(3);
    let elsewhere: Edit = |manifest| manifest["layers"][0]["urls"] = json!(["http://169.254.169.254/latest"]);
    let absurd: Edit = |manifest| *manifest = json!({"schemaVersion": 2, "layers": {"0": []}, "config": 7});
    for (case, layer, edit, fault, words) in [
        ("an escape", &escape, nothing, None, "climbs with '..'"),
        ("a bomb", &bomb, nothing, None, "decompression bomb"),
        ("1,000 layers", &good, many, None, "1000 layers"),
        ("an announced exabyte", &good, huge, None, "larger than"),
        ("more than announced", &good, short, None, "more than its 3 bytes"),
        ("a layer elsewhere", &good, elsewhere, None, "outside its registry"),
        ("an absurd manifest", &good, absurd, None, "its manifest is refused"),
        ("an endless layer", &good, nothing, Some(Fault::Endless), "more than its"),
        ("ten gigabytes", &good, nothing, Some(Fault::TenGigabytes), "more than its"),
        ("a layer cut off", &good, nothing, Some(Fault::Cut), "the transfer failed"),
    ] {
        let root = scratch::dir();
        let sha256 = static_image(root.path(), layer, edit);
        let layer = format!("v2/evil/blobs/sha256:{}", mcpfs_trust::digest::Digest::of(layer));
        let path = if fault.is_some() { layer.as_str() } else { "none" };
        let server = FaultyServer::over(root.path(), path, fault.unwrap_or(Fault::Reset));
        let host = server.url().trim_end_matches('/').to_owned();
        let recipe = Recipe {
            name: "evil".to_owned(),
            version: "1.0.0".to_owned(),
            artefact: PathBuf::from(host.replace("http:", "oci:")).join("evil"),
            sha256,
            rest: "  platform: linux/amd64\nlaunch: {command: a, runtime: image}\n".to_owned(),
        };
        std::fs::write(publisher.recipe("evil"), recipe.yaml().replace("file://oci:", "oci:")).unwrap();
        let ran = publisher.release_command("evil").arg(format!("--allow-host={host}")).exits(1);
        assert!(ran.stderr.contains(words), "{case}: expected {words:?}: {ran}");
        assert!(!publisher.site().join("servers").exists(), "{case}");
        assert!(server.sent() < 64 << 20, "{case}: {} bytes were taken", server.sent());
    }
}

/// The layers lie beside the manifest: collecting, promoting and making again must not lose them.
fn an_image_goes_where_its_release_goes() {
    let (publisher, registry) = (Registry::new(), OciRegistry::start(Kind::Plain));
    let sha256 = registry.push(&hello_image(), "hello", "1.0.0", Compress::Gzip);
    let recipe = recipe(&registry, "hello", "1.0.0", &sha256);
    let servers = publisher.recipe("hello").parent().unwrap().to_owned();
    let git = |args: &[&str]| {
        let git = Run::new(need("git", "git")).dir(&servers);
        git.args(["-c", "user.name=A", "-c", "user.email=a@example.com"]).args(args).ok();
    };
    std::fs::write(publisher.recipe("hello"), recipe.yaml().replace("file://oci:", "oci:")).unwrap();
    git(&["init", "--quiet", "."]);
    git(&["remote", "add", "origin", "https://git.example.com/servers.git"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "hello"]);
    releasing(&publisher, &registry, &recipe).ok();
    // From here on without the registry.
    drop(registry);
    let originals = files_below(&publisher.site().join("artefacts"));
    assert_eq!(originals.len(), 5, "manifest, config and three layers: {originals:?}");
    let site = publisher.site().display().to_string();
    Run::new("find").args([&site, "-type", "f", "-exec", "touch", "-d", "40 days ago", "{}", "+"]).ok();
    let collected = publisher.signer().args(["gc", "--json", "--site", &site, "--trust"]).arg(publisher.trust()).ok();
    assert_eq!(collected.json()["removed"], json!([]));
    let other = Registry::named("mcp.example.com/other");
    let promote = other.publishing("promote").args(["hello@1.0.0", "--from", &site, "--from-trust"]);
    promote.arg(publisher.trust()).arg("--no-policy").arg("--key").arg(other.hsm().uri(RELEASE_KEY)).ok();
    assert_eq!(files_below(&other.site().join("artefacts")), originals);
    let new = publisher.site().with_file_name("new");
    let rebuild = publisher.signer().arg("rebuild").arg("--site").arg(&new).arg("--trust").arg(publisher.trust());
    let rebuild = rebuild.arg("--head-key").arg(publisher.hsm().uri(HEAD_KEY)).arg("--git").arg(&servers);
    let rebuild = rebuild.arg("--log").arg(&site).arg("--artefacts").arg(publisher.site().join("artefacts"));
    rebuild.ok();
    assert_eq!(files_below(&new.join("artefacts")), originals);
    let entry = |site: &Path| std::fs::read(site.join("servers/hello.json")).unwrap();
    assert_eq!(entry(&new), entry(&publisher.site()));
}
