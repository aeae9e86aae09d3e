//! What the host's own configuration decides: launches, pins, and what the commands say about them.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::{self, is_root};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;
use mcpfs_tests::{audit, forge};
use serde_json::{Value, json};

use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("policy::what_cannot_be_given_is_not_started", what_cannot_be_given_is_not_started);
    suite.plain("policy::nothing_starts_as_root_unless_allowed", nothing_starts_as_root_unless_allowed);
    suite.mounted("policy::only_pinned_names_are_shown", only_pinned_names_are_shown);
    suite.plain("policy::a_pin_may_insist_on_the_digest", a_pin_may_insist_on_the_digest);
    suite.plain("policy::a_pin_of_an_unknown_version", a_pin_of_an_unknown_version);
    suite.plain("policy::pins_need_a_release_that_is_there", pins_need_a_release_that_is_there);
    suite.plain("policy::commands_tell_refused_and_pinned_names", commands_tell_refused_and_pinned_names);
    suite.plain("policy::exit_codes", exit_codes);
}

/// What `run` says when it starts nothing; nothing may be on stdout.
fn starts_nothing(world: &Host, name: &str, code: &str) -> String {
    let ran = Run::new(world.at(&format!("{name}/run"))).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.trim_end().lines().count() == 1, "{ran}");
    assert!(ran.stderr.contains(code), "expected {code}: {ran}");
    let rows = audit::rows(world);
    let row = rows.iter().rfind(|row| row.server.as_deref() == Some(name) && row.event == "launch");
    assert!(row.is_some_and(|row| row.outcome == code), "no launch row says {code}: {}", audit::listing(&rows));
    ran.stderr
}

fn what_cannot_be_given_is_not_started() {
    let registry = Registry::new();
    let artefact = fixture::tar(&fixture::hello_tree(&registry.artefacts(), "1.0.0"));
    let release = |name: &str, rest: &str| {
        registry.release(&Recipe::new(name, "1.0.0", &artefact).with(rest));
    };
    let launch = "launch:\n  command: bin/hello-mcp\n";
    release("plain", "");
    release("keys", &format!("{launch}credentials:\n  - {{env: PGPASSWORD, ref: finance-dw/readonly}}\n"));
    release("ruby", "launch:\n  command: ruby\n");
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    for (name, why) in [("plain", "no launch section"), ("keys", "credentials"), ("ruby", "ruby")] {
        let said = starts_nothing(&host, name, "LaunchUnsupported");
        assert!(said.contains(why), "{name}: {said}");
        // What cannot be started can be read: it is reviewed and signed.
        assert_eq!(std::fs::read(host.at(&format!("{name}/1.0.0/tree/bin/VERSION"))).unwrap(), b"1.0.0\n");
    }
    let said = host.mcpfs(["status"]).ok();
    assert!(said.stdout.contains("sandbox off (launches run unconfined)"), "{said}");
}

fn nothing_starts_as_root_unless_allowed() {
    let world = World::new(Reads::Cached);
    world.host.drop_in("50-root", "[policy]\nallow_root = false\n");
    let _mount = Mount::start(&world.host);
    if !is_root() {
        // An ordinary user is not what this is about, and starts.
        assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
        return;
    }
    let said = starts_nothing(&world.host, "hello", "PolicyRefused");
    assert!(said.contains("root") && said.contains("allow_root"), "{said}");
    if !reachable_for_all(&world) {
        return;
    }
    // Somebody else on the same mount may.
    let home = world.host.path("home");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).unwrap();
    let mut command = Command::new(world.run("hello"));
    command.env_clear().env("HOME", &home).current_dir("/").uid(65_534).gid(65_534);
    assert_eq!(McpClient::start_with(command).initialize()["serverInfo"]["version"], "1.1.0");
    let rows = audit::rows(&world.host);
    let last = rows.iter().rfind(|row| row.event == "launch").unwrap();
    assert_eq!((last.user, last.outcome.as_str()), (Some(65_534), "ok"), "{}", audit::listing(&rows));
}

/// Opens the host's directory, which is private, so that other users reach the mount and the socket.
/// Whether they reach the launcher too: not if this clone is private, such as one in /root.
fn reachable_for_all(world: &World) -> bool {
    use std::os::unix::fs::PermissionsExt;
    for dir in [world.host.path(""), world.host.rundir()] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("test");
    let launcher = command.arg("-x").arg(mcpfs_tests::binaries::bin("mcpfs")).uid(65_534).gid(65_534).status().unwrap();
    if !launcher.success() {
        println!("policy: another user's launch is not tried: only this user can reach the built programs");
    }
    launcher.success()
}

/// The names at the top, once the site was certainly looked at.
fn listed(host: &Host) -> Vec<String> {
    host.refresh();
    let mut names: Vec<String> =
        std::fs::read_dir(host.mcp()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn only_pinned_names_are_shown(reads: Reads) {
    let world = World::new(reads);
    world.host.drop_in("50-pins", "[pins]\ndefault = \"none\"\nhello = \"1.0.0\"\n");
    let _mount = Mount::start(&world.host);
    assert_eq!(listed(&world.host), ["hello"]);
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.0.0");
    let ran = Run::new(world.run("files")).exits(77);
    assert!(ran.stderr.contains("PolicyRefused") && ran.stdout.is_empty(), "{ran}");
    assert_eq!(errno(std::fs::read(world.host.at("files/1.0.0/tree/twin"))), libc::EACCES);
    audit::expect(&world.host, "PolicyRefused", Some("files"));
    let shown = world.host.mcpfs(["ls"]).ok();
    assert!(shown.stdout.contains("hello") && !shown.stdout.contains("files"), "{shown}");
}

fn artefact_sha256(world: &World, version: &str) -> String {
    fixture::sha256_of(&world.source(&format!("hello-{version}.tar")))
}

fn a_pin_may_insist_on_the_digest() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    let other = artefact_sha256(&world, "1.1.0");
    let pin = |digest: &str| world.host.mcpfs(["pin", "hello", &format!("1.0.0@sha256:{digest}")]);
    pin(&other).exits(1).says(&other);
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    pin(&artefact_sha256(&world, "1.0.0")).ok().says("switched 1.1.0 → 1.0.0");
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.0.0");
    world.host.mcpfs(["unpin", "hello"]).ok();
    // Written by hand, it is refused where the user is.
    world.host.drop_in("50-pin", &format!("[pins]\nhello = \"1.0.0@sha256:{other}\"\n"));
    drop(_mount);
    let _mount = Mount::start(&world.host);
    starts_nothing(&world.host, "hello", "PinDigestMismatch");
    pin("12").exits(2);
}

fn a_pin_of_an_unknown_version() {
    let world = World::new(Reads::Cached);
    world.host.drop_in("50-pin", "[pins]\nhello = \"7.7.7\"\n");
    let _mount = Mount::start(&world.host);
    let said = starts_nothing(&world.host, "hello", "PinUnknown");
    assert!(said.contains("7.7.7"), "{said}");
    assert_eq!(listed(&world.host), ["files"]);
}

fn pins_need_a_release_that_is_there() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    world.host.mcpfs(["pin", "nobody", "1.0.0"]).exits(1).says("nobody");
    world.host.mcpfs(["pin", "hello", "9.9.9"]).exits(1).says("9.9.9");
    world.host.mcpfs(["unpin", "hello"]).exits(1).says("not pinned");
    let dry = world.host.mcpfs(["pin", "hello", "1.0.0", "--dry-run"]).ok();
    assert!(dry.stdout.contains("would switch 1.1.0 → 1.0.0"), "{dry}");
    assert!(!world.host.path("etc/conf.d/90-pins.toml").exists(), "nothing was written");
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}

fn commands_tell_refused_and_pinned_names() {
    let world = World::new(Reads::Cached);
    forge::replace_entry(&world.copy.path(), &world.registry, "files", |entry| {
        entry["status"] = json!("revoked");
        entry["reason"] = json!("CVE-2026-1234");
    });
    let _mount = Mount::start(&world.host);
    world.host.mcpfs(["pin", "hello", "1.0.0", "--reason", "1.1.0 is slow"]).ok();
    let host = &world.host;
    let run = |args: &[&str]| host.mcpfs(args).ok();

    let status = run(&["status"]);
    assert!(status.stdout.contains("1 server, 1 refused"), "{status}");
    assert!(status.stdout.contains("refused: files: Revoked (") && status.stdout.contains("CVE-2026-1234"), "{status}");
    let facts: Value = run(&["--json", "status"]).json();
    let refused = &facts["refused"][0];
    assert_eq!((&refused["name"], &refused["reason"]["code"]), (&json!("files"), &json!("Revoked")));

    let (short, all) = (run(&["ls"]), run(&["ls", "--all"]));
    assert!(short.stdout.contains("hello") && !short.stdout.contains("files"), "{short}");
    assert!(short.stdout.contains("1.0.0"), "the pinned version: {short}");
    assert!(all.stdout.contains("files") && all.stdout.contains("refused: Revoked"), "{all}");
    assert_eq!(run(&["--json", "ls", "--all"]).json().as_array().unwrap().len(), 2);

    let hello = run(&["explain", "hello"]);
    for words in ["hello 1.0.0: admitted", "this host's pin 1.0.0", "admitted    1.0.0, 1.1.0", "security@example.com"]
    {
        assert!(hello.stdout.contains(words), "{words:?}: {hello}");
    }
    run(&["explain", "hello@1.1.0"]).says("`run` without a version starts 1.0.0");
    for target in ["files", "files@1.0.0"] {
        let files = run(&["explain", target]);
        assert!(files.stdout.contains("refused: Revoked") && files.stdout.contains("CVE-2026-1234"), "{files}");
    }
    let path: PathBuf = host.at("files/1.0.0/tree/large");
    host.mcpfs(["explain"]).arg(path).ok().says("refused: Revoked");
    for target in ["hello@9.9.9", host.at("hello/9.9.9/run").to_str().unwrap()] {
        host.mcpfs(["explain", target]).exits(1).says("no version 9.9.9 of hello").says("has 1.1.0, 1.0.0");
    }
    host.mcpfs(["explain", "nobody"]).exits(1).says("no server nobody");
    host.mcpfs(["explain", "/etc/passwd"]).exits(1).says("/etc/passwd");

    let mut client = McpClient::start(&world.run("hello"));
    client.initialize();
    let who: Value = serde_json::from_str(&client.call("whoami", &json!({}))).unwrap();
    if let Some(pid) = who["pid"].as_u64() {
        let process = run(&["explain", &pid.to_string()]);
        assert!(process.stdout.contains("hello 1.0.0") && process.stdout.contains("known by launch"), "{process}");
    }
    let config = run(&["config", "check"]);
    assert!(config.stdout.contains(": ok") && config.stdout.contains("pins      1"), "{config}");
}

fn exit_codes() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    host.mcpfs(["--version"]).ok();
    // Usage.
    for wrong in [&["mount", "--nonsense"][..], &["nonsense"], &["pin", "hello"], &["audit", "query", "--since", "x"]] {
        host.mcpfs(wrong).exits(2);
    }
    host.mcpfs(["audit", "query", "--outcome", "Revokd"]).exits(2).says("did you mean Revoked?");
    let missing = host.path("etc/none.toml");
    Run::new(mcpfs_tests::binaries::bin("mcpfs")).arg("--config").arg(&missing).arg("status").exits(2);
    // Nobody answers.
    for asks in [&["status"][..], &["ls"], &["explain", "hello"], &["refresh"], &["pin", "hello", "1.0.0"]] {
        host.mcpfs(asks).exits(3).says("mcpfs mount");
    }
    let verify = |site: &str| host.mcpfs(["verify", site, "--trust"]).arg(host.trust());
    verify(&format!("http://127.0.0.1:{}/", scratch::Port::reserve().number())).exits(3);
    verify(world.site.url().as_str()).ok();
    // Integrity.
    crate::world::flip(&world.file("head.json"), 40);
    verify(world.copy.path().to_str().unwrap()).exits(4);
    // A refusal by this host's own rules.
    std::fs::set_permissions(host.trust(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    host.mcpfs(["config", "check"]).exits(1).says("TrustRootUnsafe");
}
