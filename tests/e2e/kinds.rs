//! Kinds of artefacts, each with a real server in it, started from the mount by what the
//! artefact says of its start: these recipes have no `launch`.

use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mcpb;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::servers;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;
use serde_json::{Value, json};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("kinds::a_binary_bundle_runs_from_the_mount", a_binary_bundle_runs_from_the_mount);
    suite.mounted("kinds::a_node_bundle_runs_from_the_mount", a_node_bundle_runs_from_the_mount);
    suite.plain(
        "kinds::a_bundle_without_its_credential_is_not_released",
        a_bundle_without_its_credential_is_not_released,
    );
}

fn manifest(version: &str, server: Value, user_config: Value) -> Value {
    json!({
        "manifest_version": version, "name": "bundle", "version": "1.0.0", "description": "A server.",
        "author": {"name": "Tests"}, "server": server, "user_config": user_config,
    })
}

/// The platform line of the machine that the tests run on.
fn platform() -> String {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("  platform: linux/{machine}\n")
}

/// A recipe of hello-mcp as a binary bundle.
fn hello(registry: &Registry, env: Value, user_config: Value) -> Recipe {
    let tree = fixture::hello_tree(&registry.artefacts(), "1.0.0");
    let config = json!({
        "command": "${__dirname}/bin/hello.exe", "args": ["--all"], "env": {},
        "platform_overrides": {"linux": {
            "command": "${__dirname}/bin/hello-mcp",
            "args": ["--in", "${user_config.folders}", "--limit=${user_config.limit}"],
            "env": env,
        }},
    });
    let server = json!({"type": "binary", "entry_point": "bin/hello-mcp", "mcp_config": config});
    let file = registry.artefacts().join("hello.mcpb");
    Recipe::new("hello", "1.0.0", &mcpb::pack(&tree, &manifest("0.4", server, user_config), &file)).with(&platform())
}

fn a_binary_bundle_runs_from_the_mount(reads: Reads) {
    let registry = Registry::new();
    let user_config = json!({
        "folders": {"type": "directory", "multiple": true, "required": true, "default": ["${DOCUMENTS}", "/srv"]},
        "limit": {"type": "number", "default": 10},
        "open": {"type": "string"},
    });
    let env = json!({"HELLO": "from ${__dirname}", "OPEN": "${user_config.open}"});
    let released = registry.release(&hello(&registry, env, user_config));
    assert!(released.stderr.contains("taken from the bundle's manifest"), "{released}");
    assert!(released.stderr.contains("bin/hello-mcp: the bundle's program is made executable"), "{released}");
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let _mount = Mount::start(&host);
    let mut client = McpClient::start(&host.at("hello/run"));
    assert_eq!(client.initialize()["serverInfo"], json!({"name": "hello", "version": "1.0.0"}));
    assert_eq!(client.tools(), ["add", "digest", "echo", "whoami"]);
    let who: Value = serde_json::from_str(&client.call("whoami", &json!({}))).unwrap();
    let tree = host.at("hello/1.0.0/tree");
    assert_eq!(who["exe"], tree.join("bin/hello-mcp").to_str().unwrap());
    assert_eq!(who["env"]["HELLO"], format!("from {}", tree.display()));
    assert!(who["env"].get("OPEN").is_none(), "{who}");
    let home = who["env"]["HOME"].as_str().unwrap();
    assert_eq!(
        who["args"].as_array().unwrap()[1..],
        [json!("--in"), json!(format!("{home}/Documents")), json!("/srv"), json!("--limit=10")]
    );
    client.end();
}

fn a_node_bundle_runs_from_the_mount(reads: Reads) {
    let registry = Registry::new();
    let config = json!({"command": "node", "args": [format!("${{__dirname}}/{}", servers::EVERYTHING_MAIN), "stdio"]});
    let server = json!({"type": "node", "entry_point": servers::EVERYTHING_MAIN, "mcp_config": config});
    let file = registry.artefacts().join("everything.mcpb");
    mcpb::pack(&servers::everything(), &manifest("0.3", server, json!({})), &file);
    registry.release(&Recipe::new("everything", "2026.8.31", &file));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let _mount = Mount::start(&host);
    let ran =
        servers::inspector().arg(host.at("everything/run")).args(["--method", "tools/call", "--tool-name", "echo"]);
    let called = ran.args(["--tool-arg", "message=hi"]).ok().json();
    assert_eq!(called["content"][0]["text"], "Echo: hi");
}

fn a_bundle_without_its_credential_is_not_released() {
    let registry = Registry::new();
    let user_config = json!({
        "folders": {"type": "directory", "default": "/srv"},
        "limit": {"type": "number", "default": 10},
        "token": {"type": "string", "sensitive": true, "required": true},
    });
    let recipe = hello(&registry, json!({"TOKEN": "${user_config.token}"}), user_config);
    std::fs::write(registry.recipe("hello"), recipe.yaml()).unwrap();
    registry.release_command("hello").exits(1).says("add credentials: [{env: TOKEN, ref: hello/token}]");
    assert!(!registry.site().join("servers/hello.json").exists());
    let recipe = recipe.with("credentials: [{env: TOKEN, ref: hello/token}]\n");
    registry.release(&recipe);
    let statement = std::fs::read_to_string(registry.site().join("servers/hello.json")).unwrap();
    assert!(statement.contains("hello/token") && !statement.contains("user_config"), "{statement}");
}
