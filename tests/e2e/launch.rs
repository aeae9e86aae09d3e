//! Starting a server through `/mcp/<name>/run`, as an MCP host does.

use std::process::Command;

use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{audit, command::Run, forge};
use serde_json::{Value, json};

use crate::boundary::LOCAL_USER;
use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("launch::a_client_lists_and_calls_tools", a_client_lists_and_calls_tools);
    suite.mounted_attack(
        Attack::new(
            LOCAL_USER,
            "launch::the_environment_is_built_from_empty",
            "variables by which loaders and runtimes would run other code",
            &["not handed on"],
        ),
        the_environment_is_built_from_empty,
    );
    suite.mounted("launch::each_version_has_its_own_run", each_version_has_its_own_run);
    suite.mounted("launch::a_pin_changes_the_next_launch_only", a_pin_changes_the_next_launch_only);
    suite.mounted("launch::a_change_is_shown_when_its_command_returns", a_change_is_shown_when_its_command_returns);
    suite.mounted_attack(
        Attack::new(
            LOCAL_USER,
            "launch::arguments_of_the_host_are_refused",
            "arguments that the recipe does not accept",
            &["PolicyRefused", "exit 77"],
        ),
        arguments_of_the_host_are_refused,
    );
    suite.mounted("launch::a_refused_name_says_why_and_exits_77", a_refused_name_says_why_and_exits_77);
    suite.mounted_attack(
        Attack::new(
            LOCAL_USER,
            "launch::a_sandbox_that_cannot_be_made_is_no_launch",
            "a launch where no sandbox can be made",
            &["LaunchUnsupported", "exit 77"],
        ),
        a_sandbox_that_cannot_be_made_is_no_launch,
    );
}

fn a_client_lists_and_calls_tools(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let mut client = McpClient::start(&world.run("hello"));
    let answer = client.initialize();
    assert_eq!(answer["serverInfo"], json!({"name": "hello", "version": "1.1.0"}));
    assert_eq!(client.tools(), ["add", "digest", "echo", "whoami"]);
    assert_eq!(client.call("add", &json!({"a": 2, "b": 3})), "5");
    let ended = client.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "nothing on stderr when all is well");
    let rows = audit::rows(&world.host);
    let launches: Vec<_> = rows.iter().filter(|row| row.event == "launch").collect();
    assert_eq!(launches.len(), 1, "{}", audit::listing(&rows));
    assert_eq!(launches[0].outcome, "ok");
    assert_eq!((launches[0].server.as_deref(), launches[0].version.as_deref()), (Some("hello"), Some("1.1.0")));
    assert_eq!(launches[0].user, Some(i64::from(rustix::process::getuid().as_raw())));
}

fn the_environment_is_built_from_empty(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let home = world.host.path("home");
    std::fs::create_dir(&home).unwrap();
    let mut command = Command::new(world.run("hello"));
    let inherited = [("HOME", home.to_str().unwrap()), ("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")];
    let hostile = [
        ("LD_PRELOAD", "/tmp/evil.so"),
        ("LD_LIBRARY_PATH", "/tmp"),
        ("NODE_OPTIONS", "--require /tmp/evil.js"),
        ("PYTHONPATH", "/tmp"),
        ("PYTHONSTARTUP", "/tmp/evil.py"),
        ("BASH_ENV", "/tmp/evil.sh"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("MCPFS_CONFIG", "/tmp/evil.toml"),
    ];
    command.env_clear().envs(inherited).current_dir("/");
    // The loader would act on these two before any code of ours does, in the launcher itself.
    command.envs(hostile.iter().filter(|(name, _)| !name.starts_with("LD_")).copied());
    let mut client = McpClient::start_with(command);
    client.initialize();
    let who: Value = serde_json::from_str(&client.call("whoami", &json!({}))).unwrap();
    for (name, _) in hostile {
        assert!(who["env"].get(name).is_none(), "{name} got through: {who}");
    }
    for (name, value) in [("PYTHONNOUSERSITE", "1"), ("PYTHONSAFEPATH", "1"), ("PYTHONDONTWRITEBYTECODE", "1")] {
        assert_eq!(who["env"][name], value, "{who}");
    }
    let tree = world.host.at("hello/1.1.0/tree");
    assert_eq!(who["env"]["HELLO"], format!("from {}", tree.display()));
    assert_eq!(who["exe"], tree.join("bin/hello-mcp").to_str().unwrap());
    let state = who["cwd"].as_str().unwrap();
    assert!(state.starts_with(home.to_str().unwrap()) && state.contains("hello"), "the state directory: {state}");
    assert_eq!(who["args"].as_array().unwrap()[1..], [json!("--state"), json!(format!("{state}/notes"))]);
    std::fs::write(format!("{state}/notes"), "kept").unwrap();
    mcpfs_tests::proof::note("not handed on");
}

fn each_version_has_its_own_run(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    for version in ["1.0.0", "1.1.0"] {
        let mut client = McpClient::start(&world.host.at(&format!("hello/{version}/run")));
        assert_eq!(client.initialize()["serverInfo"]["version"], version);
        let statement: Value = forge::read(&world.host.at(&format!("hello/{version}/release.json")));
        assert_eq!(statement["predicate"]["version"], version);
        assert_eq!(statement["predicate"]["reviewers"], json!(["security@example.com", "platform@example.com"]));
    }
    let line = std::fs::read_to_string(world.run("hello")).unwrap();
    let line = line.lines().next().unwrap();
    assert!(line.starts_with("#!") && line.len() <= 255 && line.contains(" hello@1.1.0#"), "{line}");
    mount.stop();
}

fn a_pin_changes_the_next_launch_only(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let mut running = McpClient::start(&world.run("hello"));
    assert_eq!(running.initialize()["serverInfo"]["version"], "1.1.0");
    world.host.mcpfs(["pin", "hello", "1.0.0", "--reason", "1.1.0 is slow"]).ok();
    let mut next = McpClient::start(&world.run("hello"));
    assert_eq!(next.initialize()["serverInfo"]["version"], "1.0.0");
    assert_eq!(running.call("echo", &json!({"message": "still here"})), "still here");
    world.host.mcpfs(["unpin", "hello"]).ok();
    let mut last = McpClient::start(&world.run("hello"));
    assert_eq!(last.initialize()["serverInfo"]["version"], "1.1.0");
    world.host.mcpfs(["pin", "hello", "9.9.9"]).exits(1).says("9.9.9");
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}

/// The kernel keeps a name for two seconds unless it is told to ask again: whoever types `mcpfs pin`
/// and starts the server at once must not get the other version.
fn a_change_is_shown_when_its_command_returns(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let leads_to = |version: &str| {
        let line = std::fs::read_to_string(world.run("hello")).unwrap();
        assert!(line.contains(&format!(" hello@{version}#")), "expected {version}: {line}");
    };
    for _ in 0..5 {
        leads_to("1.1.0");
        world.host.mcpfs(["pin", "hello", "1.0.0"]).ok();
        leads_to("1.0.0");
        world.host.mcpfs(["unpin", "hello"]).ok();
        leads_to("1.1.0");
    }
    // The same for what a look at the site brings.
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        entry["status"] = json!("revoked");
        entry["reason"] = json!("CVE-2026-1234");
    });
    leads_to("1.1.0");
    world.host.refresh();
    let line = std::fs::read_to_string(world.run("hello")).unwrap();
    assert!(!line.contains(" hello@1.1.0#"), "revoked: {line}");
}

fn arguments_of_the_host_are_refused(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    // The recipe says nothing about arguments, so none are accepted.
    let ran = Run::new(world.run("hello")).arg("--evil").exits(77);
    assert_eq!(ran.stdout, "");
    assert_eq!(ran.stderr.trim_end().lines().count(), 1, "one line: {ran}");
    audit::expect(&world.host, "PolicyRefused", Some("hello"));
}

fn a_refused_name_says_why_and_exits_77(reads: Reads) {
    let world = World::new(reads);
    // The selected release loses its signature's last bit: the readable copy stays as it was.
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        let sig = entry["signature"]["signatures"][0]["sig"].as_str().unwrap().to_owned();
        let other = if sig.starts_with('A') { "B" } else { "A" };
        entry["signature"]["signatures"][0]["sig"] = json!(format!("{other}{}", &sig[1..]));
    });
    let _mount = Mount::start(&world.host);
    let ran = Run::new(world.run("hello")).exits(77);
    assert_eq!(ran.stdout, "", "nothing on stdout, which belongs to the protocol");
    assert_eq!(ran.stderr.trim_end().lines().count(), 1, "one line: {ran}");
    assert!(ran.stderr.starts_with("mcpfs: hello") && ran.stderr.contains("SignatureInvalid"), "{ran}");
    audit::expect(&world.host, "SignatureInvalid", Some("hello"));
    // Another server is not concerned.
    Run::new(world.host.at("files/1.0.0/tree/script.sh")).ok();
}

fn a_sandbox_that_cannot_be_made_is_no_launch(reads: Reads) {
    let world = World::new(reads);
    let missing = "[policy]\nsandbox = \"required\"\n\n[runtimes]\nbwrap = \"/nowhere/bwrap\"\n";
    world.host.drop_in("50-sandbox", missing);
    let _mount = Mount::start(&world.host);
    let ran = Run::new(world.run("hello")).exits(77);
    assert!(ran.stderr.contains("LaunchUnsupported") && ran.stderr.contains("Install the package bubblewrap"), "{ran}");
    audit::expect(&world.host, "LaunchUnsupported", Some("hello"));
}
