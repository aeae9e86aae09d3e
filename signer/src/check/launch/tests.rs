#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write as _;
use std::path::PathBuf;

use mcpfs_trust::digest::Digest;
use serde_json::{Value, json};

use super::super::tests::Place;
use crate::staging::Staging;

const MAIN: &str = "server/main.js";

/// A zip as packers of MCPB make it: every file 0644, and a signature block at the end.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().unix_permissions(0o644);
    for (name, content) in files {
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    let mut bytes = writer.finish().unwrap().into_inner();
    bytes.extend(b"MCPB_SIG_V1\x03\x00\x00\x00derMCPB_SIG_END");
    bytes
}

fn bundle(manifest: &[u8]) -> Vec<u8> {
    zip(&[("manifest.json", manifest), (MAIN, b"main"), ("server/other", b"other"), ("README", b"read me")])
}

fn manifest(server: Value) -> Value {
    json!({
        "manifest_version": "0.3", "name": "hello", "version": "1.0.0", "description": "d",
        "author": {"name": "a"}, "server": server,
    })
}

fn node() -> Value {
    manifest(json!({
        "type": "node", "entry_point": MAIN,
        "mcp_config": {"command": "node", "args": ["${__dirname}/server/main.js"]},
    }))
}

/// A recipe of the artefact `bytes` with `more` at its end.
fn recipe(place: &Place, bytes: &[u8], more: &str) -> PathBuf {
    place.write("hello.zip", bytes, 0o644);
    let text = format!(
        "name: hello\nversion: 1.0.0\nmaintainer: m@example.com\ndescription: says hello\n\
         data_classification: public\nreviewed_at: 2026-04-15\nreviewers: [r@example.com]\n\
         artefact:\n  url: file:hello.zip\n  sha256: {}\n{more}",
        Digest::of(bytes)
    );
    place.save("hello", &text)
}

/// What check says, with fixes.
fn said(bytes: &[u8], more: &str) -> String {
    let place = Place::new();
    let recipe = recipe(&place, bytes, more);
    place.check(&recipe).to_string()
}

fn said_of(manifest: &Value, more: &str) -> String {
    said(&bundle(manifest.to_string().as_bytes()), more)
}

#[test]
fn a_bundle_is_started_as_its_manifest_says() {
    for version in ["0.3", "0.4"] {
        let place = Place::new();
        let mut manifest = node();
        manifest["manifest_version"] = json!(version);
        let path = recipe(&place, &bundle(manifest.to_string().as_bytes()), "");
        let line = "launch: {command: node, args: [\"${TREE}/server/main.js\"]}";
        assert_eq!(
            place.check(&path).to_string(),
            format!(
                "check: 1 note\n· note L9 launch: taken from the bundle's manifest, since the recipe has none \
                 [launch-derived]\n    fix: to have it reviewed, write it in the recipe: {line}"
            )
        );
        place.ingest(&path, "staging");
        let derived = Staging::read(&place.path("staging")).unwrap().recheck(place.options().now).unwrap().recipe;
        assert_eq!(crate::launch::yaml(&derived.launch.unwrap()), line, "signing derives it again");
        // What was printed says the same and nothing is left to say.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{line}\n")).unwrap();
        assert_eq!(place.check(&path).to_string(), "check: ok");
    }
}

#[test]
fn staging_cannot_bring_another_launch() {
    let place = Place::new();
    let path = recipe(&place, &bundle(node().to_string().as_bytes()), "");
    let mut staging = place.ingest(&path, "staging");
    let mut other = node();
    other["server"]["mcp_config"]["args"] = json!(["${__dirname}/server/other"]);
    let other = bundle(other.to_string().as_bytes());
    let file = staging.artefacts[0].file.clone();
    let own = std::fs::read(&file).unwrap();
    std::fs::write(&file, &other).unwrap();
    assert!(
        Staging::read(&place.path("staging"))
            .unwrap()
            .recheck(place.options().now)
            .unwrap_err()
            .to_string()
            .contains("another artefact")
    );
    std::fs::write(&file, own).unwrap();
    // A recipe that pins the other bundle needs that bundle's launch, tree and record.
    staging.recipe = staging.recipe.replace(&staging.artefacts[0].sha256.to_string(), &Digest::of(&other).to_string());
    staging.recipe_sha256 = Digest::of(staging.recipe.as_bytes());
    staging.record = staging.expected_record();
    staging.write().unwrap();
    let error = Staging::read(&place.path("staging")).unwrap().recheck(place.options().now).unwrap_err().to_string();
    assert!(error.contains("not the one the recipe pins"), "{error}");
}

#[test]
fn a_launch_that_cannot_be_signed_is_not_signed() {
    // The check left no error behind, as one by another program might; signing asks again.
    let place = Place::new();
    let uv = manifest(json!({"type": "python", "entry_point": MAIN, "mcp_config": {"command": "uvx", "args": ["x"]}}));
    let bytes = bundle(uv.to_string().as_bytes());
    let good = place.ingest(&recipe(&place, &bytes, "launch: {command: python3}\n"), "staging");
    let mut staging = Staging::read(&place.path("staging")).unwrap();
    staging.recipe = good.recipe.replace("launch: {command: python3}\n", "");
    staging.recipe_sha256 = Digest::of(staging.recipe.as_bytes());
    staging.record = staging.expected_record();
    staging.write().unwrap();
    let error = Staging::read(&place.path("staging")).unwrap().recheck(place.options().now).unwrap_err().to_string();
    assert!(error.contains("a rule finds error") && error.contains("uvx, which downloads"), "{error}");
}

#[test]
fn a_binary_bundle_gets_its_mode_back() {
    let place = Place::new();
    let config = json!({
        "command": "server/main.js", "args": ["-v"],
        "platform_overrides": {"linux": {"command": "${__dirname}/server/other"}},
    });
    let binary = manifest(json!({"type": "binary", "entry_point": MAIN, "mcp_config": config}));
    let bytes = bundle(binary.to_string().as_bytes());
    let path = recipe(&place, &bytes, "  platform: linux/amd64\n");
    let findings = place.check(&path).to_string();
    assert!(findings.contains("launch: {command: server/other, args: [\"-v\"]}"), "{findings}");
    for program in [MAIN, "server/other"] {
        assert!(
            findings.contains(&format!("note L9 {program}: the bundle's program is made executable")),
            "{findings}"
        );
    }
    let staging = place.ingest(&path, "staging");
    let tree = &staging.artefacts[0].tree;
    let executable = |path: &str| {
        let node = tree.resolve(path).and_then(|id| tree.node(id)).unwrap();
        matches!(node.kind, mcpfs_trust::tree::Kind::File { executable: true, .. })
    };
    assert!(executable(MAIN) && executable("server/other") && !executable("README"));
    Staging::read(&place.path("staging")).unwrap().recheck(place.options().now).unwrap();
    // Which machines it is for, nobody knows but the reviewer.
    assert!(said(&bytes, "").contains("a binary bundle without a platform"));
    // A script's interpreter starts it, so a node bundle keeps its modes.
    let place = Place::new();
    let staging = place.ingest(&recipe(&place, &bundle(node().to_string().as_bytes()), ""), "staging");
    let tree = &staging.artefacts[0].tree;
    let node = tree.resolve(MAIN).and_then(|id| tree.node(id)).unwrap();
    assert!(matches!(node.kind, mcpfs_trust::tree::Kind::File { executable: false, .. }));
}

#[test]
fn secrets_are_credentials_of_the_recipe() {
    let mut secret = node();
    secret["server"]["mcp_config"]["env"] = json!({"API_KEY": "${user_config.api_key}", "AUTH": "Bearer ${user_config.token}", "HOST": "${user_config.host}"});
    let sensitive = json!({"type": "string", "title": "t", "description": "d", "sensitive": true, "required": true});
    secret["user_config"] = json!({
        "api_key": sensitive, "token": sensitive, "host": {"type": "string", "title": "t", "description": "d"},
    });
    let findings = said_of(&secret, "");
    for line in [
        "check: 2 errors, 1 note",
        "error L9 credentials: the variable API_KEY takes the secret user_config.api_key [bundle-credential]",
        "fix: add credentials: [{env: API_KEY, ref: hello/api_key}]",
        "and the credential is its whole text, \"Bearer ${user_config.token}\"",
        "without a value and left out: HOST",
    ] {
        assert!(findings.contains(line), "{line}\n{findings}");
    }
    let one = "credentials:\n  - {env: API_KEY, ref: hello/api_key}\n";
    let findings = said_of(&secret, one);
    assert!(findings.contains("check: 1 error, 1 note"), "{findings}");
    assert!(findings.contains("fix: add to credentials: {env: AUTH, ref: hello/token}"), "{findings}");
    let findings = said_of(&secret, &format!("{one}  - {{env: AUTH, ref: hello/token}}\n"));
    assert!(findings.starts_with("check: 1 note\n"), "{findings}");
    assert!(!findings.contains("API_KEY"), "a secret is no part of the launch: {findings}");
}

#[test]
fn settings_that_nobody_can_answer_need_a_launch() {
    let mut open = node();
    open["server"]["mcp_config"]["args"] = json!(["${__dirname}/server/main.js", "${user_config.url}"]);
    open["user_config"] = json!({"url": {"type": "string", "title": "t", "description": "d", "required": true}});
    let findings = said_of(&open, "");
    for line in [
        "argument 2 needs user_config.url, which has no default, and nobody is asked on a host [bundle-manifest]",
        "fix: write it in the recipe: launch: {command: node, args: [\"${TREE}/server/main.js\", \"<url>\"]}; \
         with a value in place of <url>",
    ] {
        assert!(findings.contains(line), "{line}\n{findings}");
    }
}

#[test]
fn a_recipes_own_launch_wins() {
    let own = "launch: {command: node, args: [\"${TREE}/server/main.js\", --debug], env: {A: b}}\n";
    let mut other = node();
    other["server"]["mcp_config"]["env"] = json!({"B": "c"});
    let findings = said_of(&other, own);
    assert!(findings.contains("check: 1 warning"), "{findings}");
    assert!(findings.contains("warning L11 launch: the recipe's own launch is used; the bundle says something else in args, env.B [launch-differs]"), "{findings}");
    assert!(findings.contains("env: {B: c}"), "{findings}");
    let place = Place::new();
    let path = recipe(&place, &bundle(other.to_string().as_bytes()), own);
    place.ingest(&path, "staging");
    let launch =
        Staging::read(&place.path("staging")).unwrap().recheck(place.options().now).unwrap().recipe.launch.unwrap();
    assert_eq!(launch.args, ["${TREE}/server/main.js", "--debug"]);
    // A manifest that cannot be read does not matter then, but is told.
    let findings = said(&bundle(b"{"), own);
    assert!(findings.contains("check: 1 warning") && findings.contains("[bundle-unread]"), "{findings}");
}

#[test]
fn what_would_be_downloaded_is_refused() {
    let uv = json!({"type": "uv", "entry_point": MAIN});
    let mut manifest = manifest(uv);
    let findings = said_of(&manifest, "");
    assert!(findings.contains("server.type uv needs manifest_version 0.4"), "{findings}");
    manifest["manifest_version"] = json!("0.4");
    let findings = said_of(&manifest, "");
    assert!(findings.contains("server.type is uv: its packages would be downloaded"), "{findings}");
    assert!(findings.contains("[bundle-resolved]\n    fix: pack the server together with all it needs"), "{findings}");
    let findings = said_of(&manifest, "launch: {command: uv, args: [run, x]}\n");
    assert!(findings.contains("error L11 launch.command: the command is uv, which downloads"), "{findings}");
    // Resolved: the reviewer says how what is in the bundle starts.
    assert_eq!(said_of(&manifest, "launch: {command: python3, args: [\"${TREE}/server/main.js\"]}\n"), "check: ok");
    manifest = node();
    manifest["server"]["mcp_config"] = json!({"command": "npx", "args": ["-y", "x"]});
    assert!(said_of(&manifest, "").contains("the command is npx, which downloads what it starts [bundle-resolved]"));
}

#[test]
fn bad_manifests_are_findings() {
    let mut cases: Vec<(Vec<u8>, &str)> = vec![
        (b"{".to_vec(), "manifest.json"),
        (b"[]".to_vec(), "not an object"),
        (b"\xff".to_vec(), "manifest.json"),
        (br#"{"server": 1, "server": 2}"#.to_vec(), "server"),
        (format!("{{\"server\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes(), "manifest.json"),
        ([b"{\"server\": \"".as_slice(), &vec![b'x'; 1 << 20], b"\"}"].concat(), "larger than 1048576 bytes"),
        (br#"{"server": {}}"#.to_vec(), "manifest_version is missing"),
        (br#"{"manifest_version": 3}"#.to_vec(), "manifest_version is not a text"),
    ];
    let changed = |pointer: &str, value: Value| {
        let mut manifest = node();
        *manifest.pointer_mut(pointer).unwrap() = value;
        manifest.to_string().into_bytes()
    };
    cases.extend([
        (changed("/manifest_version", json!("0.2")), "manifest_version \"0.2\" is not known here: 0.3 and 0.4 are"),
        (changed("/manifest_version", json!("1.0")), "is not known here"),
        (changed("/name", json!(7)), "string"),
        (changed("/server", json!(["node", MAIN, {"command": "node"}])), "server is not an object"),
        (changed("/server/mcp_config", json!(["node"])), "server.mcp_config is not an object"),
        (changed("/server", json!({})), "missing field"),
        (changed("/server/type", json!("ruby")), "ruby"),
        (changed("/server/entry_point", json!("../main.js")), "not a path inside the bundle"),
        (changed("/server/entry_point", json!("/server/main.js")), "not a path inside the bundle"),
        (changed("/server/entry_point", json!("server\\main.js")), "not a path inside the bundle"),
        (changed("/server/entry_point", json!("")), "not a path inside the bundle"),
        (changed("/server/entry_point", json!("server/none.js")), "is not in the bundle"),
        (changed("/server/entry_point", json!("server")), "is not in the bundle"),
        (changed("/server/mcp_config", Value::Null), "mcp_config is missing"),
        (changed("/server/mcp_config/args", json!("x")), "sequence"),
        (changed("/server/mcp_config/args", json!([1])), "string"),
        (changed("/server/mcp_config/args", json!(vec!["x"; 65])), "more than 64 items"),
        (changed("/server/mcp_config/args", json!(["x".repeat(1025)])), "longer than 1024 bytes"),
        (changed("/server/mcp_config/args", json!(["\u{0}"])), "must not contain NUL"),
        (changed("/server/mcp_config/command", json!("../node")), "neither a path inside the tree"),
        (changed("/server/mcp_config", json!({"command": "node", "cwd": "/"})), "unknown field `cwd`"),
    ]);
    for (manifest, reason) in cases {
        let findings = said(&bundle(&manifest), "");
        let shown = String::from_utf8_lossy(&manifest[..manifest.len().min(300)]).into_owned();
        assert!(findings.contains("[bundle-manifest]") && findings.contains(reason), "{shown}\n{findings}");
        assert!(!findings.contains("[launch-derived]"), "{shown}\n{findings}");
    }
    // What fits the format but not what is signed.
    let long = changed("/server/mcp_config/args", json!(vec!["x".repeat(1000); 6]));
    let findings = said(&bundle(&long), "");
    assert!(findings.contains("[statement-size]"), "{findings}");
    // Its program is not in the bundle.
    let mut binary = node();
    binary["server"]["mcp_config"] = json!({"command": "${__dirname}/server/none"});
    assert!(said_of(&binary, "").contains("\"server/none\" is not in the artefact [launch-command]"));
}

#[test]
fn other_zips_are_not_bundles() {
    let launch = "launch: {command: node, args: [\"${TREE}/server/main.js\"]}\n";
    assert_eq!(said(&bundle(br#"{"name": "an app", "icons": []}"#), launch), "check: ok");
    assert_eq!(said(&zip(&[("sub/manifest.json", b"{"), (MAIN, b"")]), launch), "check: ok");
    assert!(said(&bundle(br#"{"name": "an app"}"#), "").contains("[launch-missing]"));
}

#[test]
fn platforms_say_the_same() {
    let place = Place::new();
    let mut other = node();
    other["server"]["mcp_config"]["args"] = json!(["${__dirname}/server/other"]);
    let (one, two) = (bundle(node().to_string().as_bytes()), bundle(other.to_string().as_bytes()));
    let same = bundle(format!("{} ", node()).as_bytes());
    for (name, bytes) in [("one.mcpb", &one), ("two.mcpb", &two), ("same.mcpb", &same)] {
        place.write(name, bytes, 0o644);
    }
    let check = |second: &str, bytes: &[u8]| {
        let text = format!(
            "name: hello\nversion: 1.0.0\nmaintainer: m\ndescription: d\ndata_classification: public\n\
             reviewed_at: 2026-04-15\nreviewers: [r]\nartefact:\n\
             \x20 - {{url: file:one.mcpb, sha256: {}, platform: linux/amd64}}\n\
             \x20 - {{url: file:{second}, sha256: {}, platform: linux/arm64}}\n",
            Digest::of(&one),
            Digest::of(bytes)
        );
        place.check(&place.save("hello", &text)).to_string()
    };
    let findings = check("two.mcpb", &two);
    assert!(findings.contains("do not say the same of how they are started [launch-unlike]"), "{findings}");
    assert!(check("same.mcpb", &same).starts_with("check: 2 notes"));
    let mut mac = node();
    mac["compatibility"] = json!({"platforms": ["darwin", "win32"]});
    assert!(said_of(&mac, "").contains("runs on darwin, win32 only [bundle-platform]"));
}
