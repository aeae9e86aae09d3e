//! From any kind of source to a recipe, a trial and a mount: npm, PyPI, git and images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpfs_tests::author::Author;
use mcpfs_tests::command::Run;
use mcpfs_tests::git::GitHost;
use mcpfs_tests::oci::{Compress, Kind, OciRegistry, node_image};
use mcpfs_tests::scratch::{self, need};
use mcpfs_tests::servers;
use mcpfs_tests::suite::Suite;
use serde_json::{Value, json};

use crate::author::{fill_in, left, rules};

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("sources::packages_get_recipes", packages_get_recipes);
    suite.plain("sources::tags_get_recipes", tags_get_recipes);
    suite.plain("sources::images_get_recipes", images_get_recipes);
    suite.plain("sources::packages_are_tried_at_once", packages_are_tried_at_once);
    suite.plain("sources::tags_and_images_are_tried_at_once", tags_and_images_are_tried_at_once);
    suite.plain("sources::a_try_has_the_walls_of_a_host", a_try_has_the_walls_of_a_host);
    suite.plain("sources::an_image_is_tried", an_image_is_tried);
}

const EVERYTHING: &str = "npm:@modelcontextprotocol/server-everything@2026.8.31";
const TIME: &str = "pypi:mcp-server-time==2026.10.19";
/// Builds are npm's and pip's own work, on machines that may have much else to do.
const LIMIT: Duration = Duration::from_secs(900);

/// `init --from`, twice: the file that it wrote, its text, and what is printed.
fn drafted(author: &Author, from: &str, more: &[String]) -> (PathBuf, String, String) {
    let init = || author.signer().args(["init", "--from", from]).args(more).limit(LIMIT);
    let report = init().arg("--json").ok().json();
    let file = author.path(report["file"].as_str().unwrap());
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(report["open"].as_array().unwrap().len(), text.matches("# FILL IN: ").count(), "{report}");
    let printed = init().ok().says("unchanged").stdout;
    (file, text, printed)
}

/// The text has each of these lines, or a line that begins with it and tells where it was guessed.
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        let guessed = format!("{line}  # guessed: from ");
        assert!(text.lines().any(|own| own == *line || own.starts_with(&guessed)), "{line}\n{text}");
    }
}

/// Fills the draft in, and types what `init` printed for a check with a trial.
fn checked(author: &Author, printed: &str, more: &[String], file: &Path) -> Value {
    fill_in(file);
    let line = printed.lines().find_map(|line| line.trim().strip_prefix("mcpfs-signer check ")).expect("the next step");
    let checked = author.signer().arg("check").args(line.split(' ')).args(more).arg("--json").limit(LIMIT).ok().json();
    // What is looked for and not there is for the reviewer.
    assert!(rules(&checked).iter().all(|rule| *rule == "run-read"), "{checked:#}");
    checked
}

fn packages_get_recipes() {
    let author = Author::new();
    let (file, text, printed) = drafted(&author, EVERYTHING, &[]);
    assert_eq!(file, author.path("servers/server-everything.yaml"));
    let main = format!("  args: [\"${{TREE}}/{}\"]", servers::EVERYTHING_MAIN);
    let lines = ["name: server-everything", "version: \"2026.8.31\"", "  lock: server-everything.lock.json"];
    has(&text, &lines);
    has(
        &text,
        &[&main, "# licence: \"SEE LICENSE IN LICENSE\"", "  command: node", &format!("  url: \"{EVERYTHING}\"")],
    );
    let lock = std::fs::read_to_string(author.path("servers/server-everything.lock.json")).unwrap();
    assert!(lock.contains("node_modules/@modelcontextprotocol/sdk") && lock.contains("sha512-"));
    let report = checked(&author, &printed, &[], &file);
    assert!(report["trial"][0]["tools"].as_array().unwrap().len() > 5, "{report:#}");

    let (file, text, printed) = drafted(&author, TIME, &[]);
    has(&text, &["name: mcp-server-time", "version: \"2026.10.19\"", "  lock: mcp-server-time.lock.txt"]);
    has(&text, &["  command: python3", "  args: [\"-m\", mcp_server_time]", "# licence: MIT"]);
    // Some of what it needs is machine code, and its bytecode is for one Python.
    assert!(text.contains("\n  platform: linux/") && text.contains("\n  python: \"3."), "{text}");
    let report = checked(&author, &printed, &[], &file);
    assert_eq!(report["trial"][0]["tools"].as_array().unwrap().len(), 2, "{report:#}");

    // A lock of somebody's own is used, and an edited one is not replaced unasked.
    let own = servers::lock("time", "requirements.txt").display().to_string();
    let again = || author.signer().args(["init", "clock", "--from", TIME, "--lock", &own]).limit(LIMIT);
    again().ok();
    let lock = author.path("servers/clock.lock.txt");
    assert!(std::fs::read_to_string(&lock).unwrap().contains("--hash=sha256:"));
    std::fs::write(&lock, "# mine\n").unwrap();
    again().exits(1).says("clock.lock.txt is there already");
}

/// A folder that is a server, as people commit it.
fn project() -> tempfile::TempDir {
    let work = scratch::dir();
    let package = json!({"name": "@x/notes", "version": "1.2.0", "description": "Keeps notes.", "license": "ISC",
                         "main": "server.js"});
    std::fs::write(work.path().join("package.json"), package.to_string()).unwrap();
    std::fs::write(work.path().join("server.js"), include_str!("sources/server.js")).unwrap();
    work
}

fn tags_get_recipes() {
    let git = GitHost::serve();
    let repository = git.repository("notes");
    let commit = repository.commit(project().path());
    repository.tag("v1.2.0", &commit);
    let more = [format!("--ca-file={}", git.authority().display()), format!("--allow-host={}", git.name())];
    let author = Author::new();
    // As pip writes it, and as recipes do.
    let typed = format!("git+{}@v1.2.0", repository.url());
    let (file, text, printed) = drafted(&author, &typed, &more);
    assert_eq!(file, author.path("servers/notes.yaml"));
    has(&text, &["name: notes", "version: \"1.2.0\"", "description: \"Keeps notes.\"", "# licence: ISC"]);
    has(&text, &["  command: node", "  args: [\"${TREE}/server.js\"]", &format!("  commit: {commit}")]);
    has(&text, &[&format!("  url: \"git+{}#v1.2.0\"", repository.url())]);
    let report = checked(&author, &printed, &more, &file);
    assert_eq!(report["trial"][0]["tools"][0]["name"], "note", "{report:#}");
    // A repository on this machine.
    std::fs::remove_file(&file).unwrap();
    let local = format!("git+file:{}@v1.2.0", git.root().join("notes.git").display());
    let (file, text, printed) = drafted(&author, &local, &[]);
    has(&text, &["  url: \"git+file:notes.git#v1.2.0\"", &format!("  commit: {commit}")]);
    checked(&author, &printed, &[], &file);
    // What is not there.
    let missing = typed.replace("@v1.2.0", "#v9");
    author.signer().args(["init", "--from", &missing]).args(&more).exits(1).says("there is no tag v9");
    author.signer().args(["init", "--from", "git+file:nowhere#v1"]).exits(2).says("neither an address");
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => panic!("no image platform is known for {other}"),
    }
}

/// Puts an index of this one image under a tag, as builders for several platforms do.
fn index(registry: &OciRegistry, name: &str, tag: &str, sha256: &str, platform: &str) -> String {
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let at = |named: &str| format!("http://{}/v2/{name}/manifests/{named}", registry.host());
    let curl = || Run::new(need("curl", "curl")).args(["--silent", "--show-error", "--fail"]);
    let accept = format!("Accept: {kind}");
    let manifest = curl().args(["-H", &accept, &at(&format!("sha256:{sha256}"))]).ok().stdout_bytes;
    let (os, architecture) = platform.split_once('/').unwrap();
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": kind, "digest": format!("sha256:{sha256}"), "size": manifest.len(),
         "platform": {"os": os, "architecture": architecture}},
    ]});
    let kind = "Content-Type: application/vnd.oci.image.index.v1+json";
    curl().args(["-X", "PUT", "-H", kind, "--data-binary", &index.to_string(), &at(tag)]).ok();
    mcpfs_trust::digest::Digest::of(index.to_string().as_bytes()).to_string()
}

fn images_get_recipes() {
    let author = Author::new();
    let registry = OciRegistry::start(Kind::Plain);
    let image = node_image(&servers::everything(), servers::EVERYTHING_MAIN, "2026.8.31");
    let sha256 = registry.push(&image, "team/everything", "2026.8.31", Compress::Gzip);
    let listed = index(&registry, "team/everything", "many", &sha256, platform());
    let host = registry.host();
    for (typed, url) in [
        (format!("oci:{host}/team/everything:2026.8.31"), format!("oci://{host}/team/everything:2026.8.31")),
        (format!("oci:{host}/team/everything:many"), format!("oci://{host}/team/everything:many")),
        (
            format!("oci://{host}/team/everything@sha256:{sha256}"),
            format!("oci://{host}/team/everything@sha256:{sha256}"),
        ),
        (
            format!("oci:{host}/team/everything@sha256:{listed}"),
            format!("oci://{host}/team/everything@sha256:{sha256}"),
        ),
    ] {
        let (file, text, printed) = drafted(&author, &typed, &registry.options());
        assert_eq!(file, author.path("servers/everything.yaml"));
        // Whatever was typed, one manifest is pinned.
        has(&text, &[&format!("  url: \"{url}\""), &format!("  sha256: {sha256}")]);
        has(&text, &["name: everything", "description: \"A server in an image.\"", "# licence: MIT"]);
        has(&text, &["  command: usr/bin/node", "  runtime: image", "  workdir: \"/usr/src/app\""]);
        has(&text, &[&format!("  platform: {}", platform()), "    NODE_ENV: production"]);
        assert!(text.contains("# note: it asks to run as the user \"node\""), "{text}");
        if typed.ends_with(":2026.8.31") {
            has(&text, &["version: \"2026.8.31\""]);
            let report = checked(&author, &printed, &registry.options(), &file);
            assert!(report["trial"][0]["tools"].as_array().unwrap().len() > 5, "{report:#}");
        }
        std::fs::remove_file(file).unwrap();
    }
    let refused = |address: &str, says: &str| {
        author.signer().args(["init", "--from", address]).args(registry.options()).exits(1).says(says);
    };
    index(&registry, "team/everything", "other", &sha256, "linux/s390x");
    refused(&format!("oci:{host}/team/everything:other"), "an index without a manifest for linux/");
    refused(&format!("oci:{host}/team/everything"), "is not an address such as oci://");
    refused(&format!("oci:{host}/team/everything:gone"), "answered 404");
    // An address that was pasted connects to nothing.
    let typed = format!("oci:{host}/team/everything:2026.8.31");
    author.signer().args(["init", "--from", &typed]).exits(1).says("is not listed");
    author.mounting().args(["try", &typed]).exits(1).says("is not listed");
}

/// `try` of a source: what it reports.
fn tried(author: &Author, source: &str, more: &[String]) -> Value {
    let ran = author.mounting().args(["--json", "try", source]).args(more).limit(LIMIT).ok();
    assert!(!ran.stderr.contains("sandbox  none"), "{ran}");
    assert_eq!(left(author), Vec::<String>::new(), "{ran}");
    let report = ran.json();
    assert_eq!(report["trial"]["troubles"], json!([]), "{report:#}");
    report
}

fn call(tool: &str, arguments: Value) -> Vec<String> {
    vec!["--call".to_owned(), tool.to_owned(), "--args".to_owned(), arguments.to_string()]
}

fn packages_are_tried_at_once() {
    for author in Author::each() {
        let report = tried(&author, EVERYTHING, &call("echo", json!({"message": "hi"})));
        assert_eq!(report["trial"]["called"]["answer"], "Echo: hi", "{report:#}");
    }
    let author = Author::new();
    let report = tried(&author, TIME, &call("get_current_time", json!({"timezone": "Europe/Berlin"})));
    assert!(report["trial"]["called"]["answer"].as_str().unwrap().contains("Europe/Berlin"), "{report:#}");
    // The recipe that init writes is tried by what it names.
    author.signer().args(["init", "--from", EVERYTHING]).limit(LIMIT).ok();
    let recipe = "servers/server-everything.yaml";
    fill_in(&author.path(recipe));
    author.mounting().args(["try", recipe]).limit(LIMIT).exits(1).says("add --allow-registry npm");
    let report = tried(&author, recipe, &["--allow-registry=npm".to_owned()]);
    assert!(report["trial"]["tools"].as_array().unwrap().len() > 5, "{report:#}");
}

fn tags_and_images_are_tried_at_once() {
    let git = GitHost::serve();
    let repository = git.repository("notes");
    repository.tag("v1.2.0", &repository.commit(project().path()));
    let registry = OciRegistry::start(Kind::Plain);
    let image = node_image(&servers::everything(), servers::EVERYTHING_MAIN, "2026.8.31");
    registry.push(&image, "everything", "2026.8.31", Compress::Zstd);
    for author in Author::each() {
        // The registry's own folder is closed to others; its certificate is not needed for one without TLS.
        let listed = [format!("--allow-host=http://{}", registry.host())];
        let more = [listed.to_vec(), call("echo", json!({"message": "hi"}))].concat();
        let report = tried(&author, &format!("oci:{}/everything:2026.8.31", registry.host()), &more);
        assert_eq!(report["trial"]["called"]["answer"], "Echo: hi", "{report:#}");
        std::fs::copy(git.authority(), author.path("ca.pem")).unwrap();
        let listed = vec!["--ca-file=ca.pem".to_owned(), format!("--allow-host={}", git.name())];
        let more = [listed, call("note", json!({}))].concat();
        let report = tried(&author, &format!("git+{}@v1.2.0", repository.url()), &more);
        assert_eq!(report["name"], "notes");
        assert_eq!(report["trial"]["called"]["failed"], false, "{report:#}");
    }
}

/// The server tells what it can see and do: as on a host, nobody else's files and no network.
fn a_try_has_the_walls_of_a_host() {
    for author in Author::each() {
        let work = project();
        scratch::copy_dir(work.path(), &author.path("notes"));
        std::fs::write(author.path("secret"), "x").unwrap();
        let look = json!({"path": author.path("secret")});
        let report = tried(&author, "notes", &call("look", look.clone()));
        let seen: Value = serde_json::from_str(report["trial"]["called"]["answer"].as_str().unwrap()).unwrap();
        assert_eq!((&seen["read"], &seen["interfaces"]), (&json!("ENOENT"), &json!(["lo"])), "{seen}");
    }
    // Where bubblewrap makes none it says so, and goes on.
    let author = Author::new();
    scratch::copy_dir(project().path(), &author.path("notes"));
    let bwrap = author.path("bin/bwrap");
    std::fs::write(&bwrap, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&bwrap, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let named = format!("bwrap={}", bwrap.display());
    let ran = author.mounting().args(["try", "notes", "--runtime", &named]).ok();
    assert!(ran.stdout.contains("sandbox  none: bubblewrap makes no sandbox here"), "{ran}");
    // What a recipe declares is not started with less.
    author.bundle("notes", &author.path("notes"));
    let launch = "{command: node, args: [\"${TREE}/server.js\"]}\nsandbox: {network: none}";
    author.recipe("notes", "1.2.0", launch);
    let ran = author.mounting().args(["try", "servers/notes.yaml", "--runtime", &named]).exits(1);
    assert!(ran.stdout.contains("trouble") && !ran.stdout.contains("note()"), "{ran}");
}

fn an_image_is_tried() {
    let registry = OciRegistry::start(Kind::Plain);
    let image = node_image(&servers::memory(), servers::MEMORY_MAIN, "1.0.0");
    let sha256 = registry.push(&image, "memory", "1.0.0", Compress::Gzip);
    for author in Author::each() {
        let recipe = |rest: &str| {
            let text = format!(
                "name: memory\nversion: 1.0.0\nmaintainer: platform@example.com\ndescription: Remembers.\n\
                 data_classification: internal\nreviewed_at: 2026-04-15\nreviewers: [security@example.com]\n\
                 artefact: {{url: \"oci://{}/memory:1.0.0\", sha256: {sha256}, platform: {}}}\n{rest}",
                registry.host(),
                platform()
            );
            std::fs::write(author.path("servers/memory.yaml"), text).unwrap();
        };
        let check = || {
            let entity = r#"{"entities": [{"name": "a", "entityType": "b", "observations": ["c"]}]}"#;
            let listed = format!("--allow-host=http://{}", registry.host());
            author.check("memory").arg(listed).args(["--run", "--call", "create_entities", "--args", entity])
        };
        // The launch is the image's own.
        recipe("");
        let report = check().arg("--json").ok().json();
        assert_eq!(rules(&report), ["run-write"], "{report:#}");
        let trial = &report["trial"][0];
        assert_eq!(trial["platform"], platform());
        assert!(trial["tools"].as_array().unwrap().len() > 5, "{trial:#}");
        let folder = Path::new("usr/src/app").join(servers::MEMORY_MAIN);
        let opened: Vec<&str> = trial["opened"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
        assert!(opened.contains(&folder.to_str().unwrap()), "{opened:?}");
        // The image's libraries are files of the release too; what the sandbox brings is not.
        assert!(opened.iter().any(|path| path.contains("libc.so")), "{opened:?}");
        let brought = |path: &&&str| ["proc/", "dev/", "tmp/"].iter().any(|place| path.starts_with(place));
        assert_eq!(opened.iter().find(brought), None, "{opened:?}");
        let write = trial["writes"][0]["path"].as_str().unwrap();
        assert!(write.starts_with("${TREE}/usr/src/app/") && write.contains("memory.jsonl"), "{trial:#}");
        assert_eq!(trial["writes"][0]["outcome"], "EROFS");
        check().ok().says("fix: under launch.env set MEMORY_FILE_PATH: \"${STATE}/memory.jsonl\"");
        // The fix is right; a program by its name is found in the image's PATH.
        recipe(&format!(
            "launch: {{command: node, args: [\"/usr/src/app/{}\"], runtime: image, \
             env: {{MEMORY_FILE_PATH: \"${{STATE}}/memory.jsonl\"}}}}\n",
            servers::MEMORY_MAIN
        ));
        let report = check().arg("--json").ok().json();
        assert!(rules(&report).is_empty(), "{report:#}");
        assert_eq!(report["trial"][0]["called"]["failed"], false, "{report:#}");
        // A program that is not in it.
        recipe("launch: {command: usr/bin/node, args: [nothing.js], runtime: image}\n");
        check().exits(1).says("[run-start]");
    }
}
