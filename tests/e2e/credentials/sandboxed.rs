//! Credentials that are files, which only a server in its sandbox sees.

use std::os::unix::fs::PermissionsExt as _;

use mcpfs_tests::author::Author;
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::oci::install;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::scratch::need;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;
use serde_json::json;

use super::vault::{Vault, digest, digest_of, row_of, secret};

pub(super) fn register(suite: &mut Suite) {
    suite.mounted("credentials::files_in_a_sandbox", files_in_a_sandbox);
    suite.plain("credentials::files_in_an_image", files_in_an_image);
    suite.plain("credentials::a_file_needs_a_sandbox", a_file_needs_a_sandbox);
    suite.plain("credentials::a_trial_gives_worthless_ones", a_trial_gives_worthless_ones);
}

const FILE: &str = "  env: {PGPASSFILE: \"${CREDENTIALS}/pgpass\", OTHER: \"${CREDENTIAL}\"}\ncredentials:\n  \
                    - {file: pgpass, ref: dw/pgpass}\n  - {env: TOKEN, ref: dw/pgpass}\n";

fn files_in_a_sandbox(reads: Reads) {
    let boxed = format!("{FILE}sandbox: {{network: none}}\n");
    let vault = Vault::new(reads, &[("boxed", &boxed)]);
    let value = secret();
    let file = vault.secret("pgpass", format!("{value}\n").as_bytes());
    vault.gives("dw/pgpass", &format!("file = {file:?}"), "boxed");
    let _mount = Mount::start(&vault.host);
    let mut client = McpClient::start(&vault.run("boxed"));
    client.initialize();
    let at = "/run/credentials/mcpfs/pgpass";
    assert_eq!(client.call("digest", &json!({"file": at})), digest_of(&value));
    assert_eq!(digest(&mut client, "PGPASSFILE"), digest_of(at), "the place that the recipe names");
    assert_eq!(digest(&mut client, "CREDENTIALS_DIRECTORY"), digest_of("/run/credentials/mcpfs"));
    assert_eq!(digest(&mut client, "OTHER"), digest_of("${CREDENTIAL}"), "no variable of ours");
    assert_eq!(digest(&mut client, "TOKEN"), digest_of(&value));
    assert!(!std::path::Path::new(at).exists(), "the host has no such file");
    let (outcome, detail) = row_of(&vault.host, "boxed");
    assert_eq!(outcome, "ok");
    assert!(detail.contains(r#"{"ref":"dw/pgpass","file":"pgpass"}"#), "{detail}");
}

/// A script that says what it has there, and tries to change it.
const PROBE: &str = r#"#!/bin/sh
cat "$1"; echo
{ echo x >"$1"; } 2>/dev/null && echo wrote
rm -f "$1" 2>/dev/null && echo removed
ls -l "$1" | { read -r mode _; echo "$mode"; }
for number in /proc/self/fd/*; do [ -e "$number" ] && echo "has ${number##*/}"; done
"#;

fn files_in_an_image() {
    let quick = Quick::new();
    // An image without a /run.
    let tree = quick.path("artefacts").join("image");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    let shell = need("sh", "dash").canonicalize().unwrap();
    for program in [shell.clone(), need("cat", "coreutils"), need("ls", "coreutils"), need("rm", "coreutils")] {
        install(&tree, &program.canonicalize().unwrap());
    }
    std::fs::copy(shell, tree.join("bin/sh")).unwrap();
    std::fs::write(tree.join("bin/probe"), PROBE).unwrap();
    std::fs::set_permissions(tree.join("bin/probe"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let rest = "launch:\n  command: bin/probe\n  runtime: image\n  args: [\"${CREDENTIALS}/pgpass\"]\ncredentials:\n  \
                - {file: pgpass, ref: dw/pgpass}\n";
    let recipe = quick.recipe_of(&Recipe::new("probe", "1.0.0", &fixture::tar(&tree)).with(rest));
    quick.release(&recipe, &quick.site()).ok();
    let site = Site::serve(std::path::Path::new(&quick.site()));
    let host = Host::new(&quick.trust(), &site.url(), Reads::Cached);
    let (value, file) = (secret(), host.path("etc/pgpass"));
    std::fs::write(&file, &value).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    host.drop_in("50-credentials", &format!("[credentials.\"dw/pgpass\"]\nfile = {file:?}\nservers = [\"probe\"]\n"));
    let _mount = Mount::start(&host);
    let ran = Run::new(host.at("probe/run")).env_clear().env("HOME", host.home()).run();
    // 10 is the shell's own: the script.
    let lines: Vec<&str> = ran.stdout.lines().filter(|line| *line != "has 10").collect();
    assert_eq!(lines, [value.as_str(), "-rw-------", "has 0", "has 1", "has 2"], "{ran}");
}

fn a_file_needs_a_sandbox() {
    let vault = Vault::new(Reads::Cached, &[("loose", FILE)]);
    let file = vault.secret("pgpass", b"x");
    vault.gives("dw/pgpass", &format!("file = {file:?}"), "loose");
    let _mount = Mount::start(&vault.host);
    // The policy of this host is "off", and the recipe declares no sandbox.
    vault.refused("loose").says("is a file, which only a sandbox has a place for").says("Set sandbox = \"required\"");
    vault.host.drop_in("60-sandbox", "[policy]\nsandbox = \"required\"\n");
    vault.reload();
    McpClient::start(&vault.run("loose")).initialize();
}

/// Whoever tries a server out has no secrets of a host.
fn a_trial_gives_worthless_ones() {
    let author = Author::new();
    author.bundle("pg", &fixture::hello_tree(&author.path(""), "1.0.0"));
    let launch = "{command: bin/hello-mcp, env: {PGPASSFILE: \"${CREDENTIALS}/pgpass\"}}\ncredentials:\n  \
                  - {file: pgpass, ref: dw/pgpass}\n  - {env: TOKEN, ref: dw/token}\nsandbox: {network: none}";
    author.recipe("pg", "1.0.0", launch);
    let worthless = digest_of("mcpfs-trial-no-credential");
    for (place, value) in [
        (json!({"variable": "TOKEN"}), worthless.clone()),
        (json!({"file": "/run/credentials/mcpfs/pgpass"}), worthless),
        (json!({"variable": "PGPASSFILE"}), digest_of("/run/credentials/mcpfs/pgpass")),
    ] {
        let call = ["--json", "--call", "digest", "--args"];
        let checked = author.check("pg").arg("--run").args(call).arg(place.to_string()).ok().json();
        assert_eq!(checked["trial"][0]["called"]["answer"], value, "{checked:#}");
        let foreign = checked["findings"].to_string();
        assert!(!foreign.contains("/run/credentials"), "what it is given is nothing of the host's: {foreign}");
        let tried = author.mounting().args(["try", "servers/pg.yaml"]).args(call).arg(place.to_string()).ok().json();
        assert_eq!(tried["trial"]["called"]["answer"], value, "{tried:#}");
    }
}
