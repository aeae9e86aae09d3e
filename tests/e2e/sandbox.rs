//! What a server of the host's root can and cannot do between its walls.

use std::os::unix::fs::PermissionsExt;

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::servers;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::{Attack, Suite};
use serde_json::{Value, json};

use crate::boundary::LOCAL_USER;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("sandbox::servers_start_in_it_by_default", servers_start_in_it_by_default);
    suite.mounted_attack(
        Attack::new(
            LOCAL_USER,
            "sandbox::walls_are_what_the_release_declares",
            "a server that reaches for files, network and rights that it did not declare",
            &["what it declared, no more"],
        ),
        walls_are_what_the_release_declares,
    );
    suite.plain("sandbox::a_server_that_never_began_is_a_row", a_server_that_never_began_is_a_row);
}

/// A release of a script that says what it can do.
fn publish(registry: &Registry, name: &str, script: &str, rest: &str) {
    let tree = registry.artefacts().join(name);
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::write(tree.join("bin/server"), script).unwrap();
    std::fs::set_permissions(tree.join("bin/server"), PermissionsExt::from_mode(0o755)).unwrap();
    let launch = format!("launch:\n  command: bin/server\n{rest}");
    registry.release(&Recipe::new(name, "1.0.0", &fixture::tar(&tree)).with(&launch));
}

/// A host with the default policy.
fn servers_start_in_it_by_default(reads: Reads) {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    registry.release(&servers::everything_recipe(&registry));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    host.drop_in("50-sandbox", "[policy]\nsandbox = \"required\"\n");
    let _mount = Mount::start(&host);
    let mut client = McpClient::start(&host.at("hello/run"));
    client.initialize();
    let who: Value = serde_json::from_str(&client.call("whoami", &json!({}))).unwrap();
    let tree = host.at("hello/1.0.0/tree");
    assert_eq!(who["exe"], tree.join("bin/hello-mcp").to_str().unwrap());
    assert_eq!(who["env"]["HELLO"], format!("from {}", tree.display()));
    assert_eq!(who["pid"], 2, "a process table of its own");
    client.end();
    // A runtime of the host, and the real client.
    let ran =
        servers::inspector().arg(host.at("everything/run")).args(["--method", "tools/call", "--tool-name", "echo"]);
    let called = ran.args(["--tool-arg", "message=hi"]).env("HOME", host.home()).ok().json();
    assert_eq!(called["content"][0]["text"], "Echo: hi");
    audit::expect(&host, "ok", Some("everything"));
}

/// `true` and not `:`, whose failed redirection would end the shell.
const PROBE: &str = r#"#!/bin/sh
cat "$1" 2>/dev/null && echo "read the secret"
[ -e "$2/secret" ] && echo "saw the secret"
{ true >"$3/x"; } 2>/dev/null && echo "wrote what is for reading"
cat "$3/file"
{ true >"$4/x"; } 2>/dev/null && echo "wrote what is for writing"
{ true >/usr/mcpfs-probe; } 2>/dev/null && echo "wrote the root"
true >/tmp/probe && echo "tmp"
true >kept && echo "state"
true >"$HOME/scribble" && echo "home"
while read -r key value; do [ "$key" = CapEff: ] && echo "caps $value"; done </proc/self/status
while read -r name _; do case $name in *:) echo "net $name";; esac; done </proc/net/dev
exit 7
"#;

fn walls_are_what_the_release_declares(reads: Reads) {
    let registry = Registry::new();
    // The host comes first: the recipe names its directories.
    std::fs::create_dir(registry.site()).unwrap();
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    for (dir, file) in [("readable", "file"), ("writable", "file"), ("user", "secret")] {
        std::fs::create_dir_all(host.path(dir)).unwrap();
        std::fs::write(host.path(dir).join(file), format!("{dir}\n")).unwrap();
    }
    let path = |name: &str| host.path(name).display().to_string();
    let args = json!([path("user/secret"), "${HOME}", path("readable"), path("writable")]);
    let sandbox = json!({"network": "none", "read": [path("readable")], "write": [path("writable")]});
    publish(&registry, "probe", PROBE, &format!("  args: {args}\nsandbox: {sandbox}\n"));
    let _mount = Mount::start(&host);
    // The policy is "off": what a release declares is applied all the same.
    let ran = Run::new(host.at("probe/run")).env_clear().env("HOME", host.path("user")).exits(7);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let want = ["readable", "wrote what is for writing", "tmp", "state", "home", "caps 0000000000000000", "net lo:"];
    assert_eq!(lines, want, "{ran}");
    assert!(host.path("writable/x").is_file() && !host.path("user/scribble").exists());
    assert!(host.path("user/.local/state/mcpfs/mcp.example.com+test/probe/kept").is_file());
    let rows = host.mcpfs(["audit", "query", "--server", "probe", "--json"]).ok();
    assert!(rows.stdout.replace(": ", ":").contains("\"sandbox\":\"host\""), "{rows}");
    mcpfs_tests::proof::note("what it declared, no more");
}

fn a_server_that_never_began_is_a_row() {
    let registry = Registry::new();
    publish(&registry, "broken", "#!/no/such/interpreter\n", "sandbox: {network: none}\n");
    publish(&registry, "greedy", "#!/bin/sh\n", "sandbox: {network: none, read: [/no/such/path]}\n");
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    let start = |name: &str| Run::new(host.at(&format!("{name}/run"))).env_clear().env("HOME", host.home()).exits(77);
    let ran = start("broken");
    assert!(ran.stdout.is_empty() && ran.stderr.contains("bubblewrap could not make its sandbox"), "{ran}");
    let ran = start("greedy");
    assert!(ran.stdout.is_empty() && ran.stderr.contains("/no/such/path, which cannot be found here"), "{ran}");
    for name in ["broken", "greedy"] {
        host.mcpfs(["audit", "query", "--server", name]).ok().says("it never started");
    }
}
