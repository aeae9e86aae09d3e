//! Taking a release away: from everybody, from this host, and from the processes that run it.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::disk::Disk;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::registry::{HEAD_KEY, Registry};
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;
use serde_json::json;

use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("withdrawal::stop_and_resume_need_no_network", stop_and_resume_need_no_network);
    suite.mounted("withdrawal::revoked_processes_are_found_and_ended", revoked_processes_are_found_and_ended);
    suite.plain("withdrawal::what_forks_when_it_is_told_to_end", what_forks_when_it_is_told_to_end);
    suite.plain("withdrawal::shown_before_it_is_done", shown_before_it_is_done);
    if is_root() {
        suite.plain("withdrawal::who_ended_what_is_recorded", who_ended_what_is_recorded);
        suite.plain("withdrawal::a_full_disk_holds_no_revocation_back", a_full_disk_holds_no_revocation_back);
        suite.plain("withdrawal::another_users_server_in_its_walls", another_users_server_in_its_walls);
    }
    suite.plain("withdrawal::a_revocation_ends_with_its_epoch_only", a_revocation_ends_with_its_epoch_only);
}

fn pids(host: &Host, args: &[&str]) -> Vec<u64> {
    let listed = host.mcpfs(["--json", "ps"]).args(args).ok().json();
    listed.as_array().unwrap().iter().map(|one| one["pid"].as_u64().unwrap()).collect()
}

fn stop_and_resume_need_no_network(reads: Reads) {
    let mut world = World::new(reads);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    let mut running = McpClient::start(&world.run("hello"));
    running.initialize();
    let file = world.host.at("hello/1.1.0/tree/README");
    assert!(std::fs::read(&file).is_ok());
    world.site.stop();

    world.host.mcpfs(["stop", "hello", "--reason", "odd traffic"]).ok().says("mcpfs resume hello");
    let stopped = |host: &Host| {
        let ran = Run::new(host.at("hello/run")).exits(77);
        assert!(ran.stdout.is_empty() && ran.stderr.contains("odd traffic"), "{ran}");
        assert!(std::fs::read(host.at("hello/1.1.0/tree/README")).is_err());
    };
    stopped(&world.host);
    world.host.mcpfs(["explain", "hello"]).run().says("mcpfs resume hello");
    world.host.mcpfs(["ls", "--all"]).ok().says("odd traffic");
    // What is open stays so, until somebody wants it to end.
    assert_eq!(running.call("add", &json!({"a": 1, "b": 1})), "2");
    let before = pids(&world.host, &["hello"]);
    assert_eq!(before.len(), 1);
    world.host.mcpfs(["stop", "hello", "--reason", "odd traffic", "--kill"]).ok().says(&before[0].to_string());
    assert_eq!(pids(&world.host, &["hello"]), [0_u64; 0]);
    drop(running);

    // Over a restart, and other servers are not touched.
    mount.stop();
    let mount = Mount::start(&world.host);
    stopped(&world.host);
    assert!(world.host.at("files/1.0.0").exists());
    world.host.mcpfs(["resume", "hello"]).ok();
    wait_for("hello to be there again", || std::fs::read(&file).ok());
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    world.host.mcpfs(["resume", "hello"]).exits(1).says("does not stop hello");
    mount.stop();

    // And without a daemon, from its next start.
    world.host.mcpfs(["stop", "hello", "--reason", "odd traffic"]).ok().says("from the next start");
    let _mount = Mount::start(&world.host);
    stopped(&world.host);
}

fn revoked_processes_are_found_and_ended(reads: Reads) {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let mount = Mount::start(&host);
    host.refresh();
    let mut running = McpClient::start(&host.at("hello/run"));
    running.initialize();
    assert_eq!(pids(&host, &[]).len(), 1);
    assert_eq!(pids(&host, &["--revoked"]).len(), 0);
    host.mcpfs(["ps", "--kill"]).exits(2).says("every server");

    registry.publishing("revoke").arg("--publish").args(["hello@1.0.0", "--reason", "CVE-2026-7"]).ok();
    host.refresh();
    assert_eq!(errno(std::fs::read(host.at("hello/1.0.0/tree/README"))), libc::EACCES);
    Run::new(host.at("hello/run")).exits(77).says("CVE-2026-7");
    assert_eq!(running.call("add", &json!({"a": 2, "b": 2})), "4", "what runs goes on");
    host.mcpfs(["ps", "--revoked"]).ok().says("hello 1.0.0").says("REVOKED: CVE-2026-7");
    let revoked = pids(&host, &["--revoked"]);
    assert_eq!(revoked, pids(&host, &[]));
    // Also while no daemon runs.
    mount.stop();
    assert_eq!(pids(&host, &["--revoked"]), revoked);
    let ended = host.mcpfs(["--json", "ps", "--revoked", "--kill"]).ok().json();
    assert!(ended.as_array().unwrap().iter().any(|one| one["pid"] == revoked[0]), "{ended}");
    assert_eq!(pids(&host, &[]), [0_u64; 0]);
    host.mcpfs(["ps", "--revoked", "--kill"]).ok().says("no process of that is known");
    drop(running);
}

/// Whoever fills the disk of the state, and whatever becomes free of it, keeps no release that was revoked.
fn a_full_disk_holds_no_revocation_back() {
    let registry = Registry::new();
    let versions: Vec<String> = (0..12).map(|minor| format!("1.{minor}.0")).collect();
    for version in &versions {
        registry.release(&registry.hello(version));
    }
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let disk = Disk::at(host.path("state"), "60m");
    let mount = Mount::start(&host);
    host.refresh();
    // So that the audit has room of its own from which it goes on.
    for _ in 0..100 {
        Run::new("cat").arg(host.at("hello/1.11.0/tree/README")).ok();
    }
    let mut followed = 0;
    for (turn, version) in versions.iter().rev().take(10).enumerate() {
        disk.fill("others");
        assert_eq!(disk.free(), 0);
        registry.publishing("revoke").arg("--publish").args([&format!("hello@{version}"), "--reason", "stolen"]).ok();
        let ran = host.mcpfs(["refresh"]).run();
        let read = std::fs::read(host.at(&format!("hello/{version}/tree/README")));
        // Sooner or later the audit has no room either, and then nothing is opened at all.
        followed += usize::from(ran.code == 0);
        let refused = [libc::EACCES, libc::EIO].contains(&errno(read));
        assert!(refused && followed > 0, "turn {turn}: {ran}\n{}", mount.log());
    }
    // And a start knows them without the site.
    drop(site);
    mount.stop();
    std::fs::remove_file(disk.path().join("others")).unwrap();
    let _mount = Mount::start(&host);
    assert_eq!(errno(std::fs::read(host.at(&format!("hello/{}/tree/README", versions[11])))), libc::EACCES);
}

/// Neither is taken back, so who types one at night sees what it does, and nothing is done by half a command.
fn shown_before_it_is_done() {
    let quick = Quick::new();
    let site = quick.site();
    for version in ["1.0.0", "1.1.0"] {
        quick.release(&quick.recipe("hello", version, &[("a.txt", version.as_bytes())]), &site).ok();
    }
    let head = || std::fs::read(quick.path("site/head.json")).unwrap();
    let before = head();
    let asked =
        |command: &str, release: &str| quick.publishing(command, &site).args([release, "--reason", "CVE-2026-7"]);
    for (command, hosts) in [("revoke", "refuse each new open of it"), ("yank", "only where it is pinned")] {
        let ran = asked(command, "hello@1.1.0").exits(1).says(hosts).says("say it again with --publish");
        assert!(ran.stdout.contains("nothing: it is the selected release") && ran.stdout.contains("others     1.0.0"));
        asked(command, "hello@1.0.0").exits(1).says("start      1.1.0, as before");
        let shown = asked(command, "hello@1.1.0").arg("--json").exits(1).json();
        assert_eq!(
            (&shown["published"], &shown["selected"], &shown["head_version"]),
            (&json!(false), &json!(true), &json!(2))
        );
        // What cannot be done is said now, and not when it is urgent.
        asked(command, "hello@7.7.7").exits(1).says("1.1.0, 1.0.0");
        asked(command, "nobody@1.0.0").exits(1).says("nobody");
    }
    assert_eq!(head(), before);
    let told = asked("revoke", "hello@1.1.0").exits(1);
    let written = crate::docs::blocks("publishing.md", "```text");
    let written = written.iter().find_map(|block| block.strip_prefix("$ mcpfs-signer revoke hello@1.1.0 "));
    let (_, written) = written.expect("an example").split_once('\n').unwrap();
    assert_eq!(format!("{}{}", told.stdout, told.stderr), written);
    asked("revoke", "hello@1.1.0").arg("--publish").ok().says("published");
    assert_ne!(head(), before);
    asked("yank", "hello@1.1.0").exits(1).says("revoked");
    asked("yank", "hello@1.1.0").arg("--publish").exits(1).says("revoked");
    let log = quick.looking(&["inspect", "log"], &site).ok();
    // A look is no refusal: only what was to be published and could not be waits to be told.
    assert!(log.stdout.contains("revoke   hello 1.1.0") && !log.stdout.contains("REFUSED hello@1."), "{log}");
}

/// The rows of one kind, as programs read them.
fn recorded(host: &Host, event: &str) -> Vec<serde_json::Value> {
    let rows = host.mcpfs(["--json", "audit", "query", "--event", event]).ok().stdout;
    rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn who_ended_what_is_recorded() {
    let world = World::new(Reads::Cached);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    let start = || {
        let mut running = McpClient::start(&world.run("hello"));
        running.initialize();
        running
    };
    let mut running = start();
    let pid = pids(&world.host, &["hello"])[0];
    // Who may read the audit, and may not end a process of root's.
    let as_daemon = Run::new("setpriv").args(["--reuid=mcpfs", "--regid=mcpfs", "--clear-groups"]).arg(bin("mcpfs"));
    let as_daemon = as_daemon.arg("--config").arg(world.host.config()).args(["ps", "hello", "--kill"]);
    as_daemon.exits(1).says("Operation not permitted");
    assert_eq!(running.call("add", &json!({"a": 1, "b": 1})), "2");
    world.host.mcpfs(["ps", "hello", "--kill"]).ok();
    let rows = recorded(&world.host, "kill");
    assert_eq!(rows.len(), 2, "{rows:#?}");
    let launch = &recorded(&world.host, "launch")[0]["seq"];
    for (row, user, outcome) in [(&rows[0], "mcpfs", "PolicyRefused"), (&rows[1], "root", "ok")] {
        assert_eq!((&row["user_name"], &row["verification_outcome"]), (&json!(user), &json!(outcome)), "{row:#}");
        assert_eq!((&row["server_name"], &row["version"]), (&json!("hello"), &json!("1.1.0")), "{row:#}");
        assert_eq!((&row["launch"], &row["detail"]["pid"]), (launch, &json!(pid)), "{row:#}");
        assert_eq!(row["detail"]["user"], "root");
    }
    assert!(rows[0]["reason"].as_str().unwrap().contains("Operation not permitted"));
    assert_ne!(rows[1]["pid"], json!(pid), "who ended it, not what was ended");
    drop(running);

    world.host.mcpfs(["stop", "hello", "--reason", "odd traffic"]).ok();
    world.host.mcpfs(["resume", "hello"]).ok();
    // Without a daemon, by the command itself.
    let running = start();
    mount.stop();
    world.host.mcpfs(["ps", "hello", "--kill"]).ok();
    world.host.mcpfs(["stop", "hello", "--reason", "still odd"]).ok();
    let stops = recorded(&world.host, "stop");
    let reasons: Vec<&str> = stops.iter().filter_map(|row| row["reason"].as_str()).collect();
    assert_eq!(reasons, ["stopped: odd traffic", "resumed", "stopped: still odd"], "{stops:#?}");
    let rows = recorded(&world.host, "kill");
    assert_eq!(
        (rows.len(), &rows[2]["user_name"], &rows[2]["verification_outcome"]),
        (3, &json!("root"), &json!("ok"))
    );
    drop(running);
    world.host.mcpfs(["audit", "verify"]).ok();
    // And the daemon goes on with it.
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    world.host.mcpfs(["audit", "verify"]).ok();
}

/// A thief of the head key revokes what is good and takes revocations back. Hosts keep what they saw until the
/// epoch rises; then they believe what the new epoch says.
fn a_revocation_ends_with_its_epoch_only() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let mount = Mount::start(&host);
    host.refresh();
    assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"], "1.0.0");
    let refused = || drop(Run::new(host.at("hello/run")).exits(77).says("Revoked"));
    forge::replace_entry(&registry.site(), &registry, "hello", |entry| entry["status"] = json!("revoked"));
    host.refresh();
    refused();
    forge::replace_entry(&registry.site(), &registry, "hello", |entry| {
        entry.as_object_mut().unwrap().insert("status".to_owned(), json!("active"));
    });
    host.refresh();
    refused();
    // The publisher itself does not take it back either.
    let old = registry.trust().with_file_name("old.json");
    std::fs::copy(registry.trust(), &old).unwrap();
    registry.generate("head-2");
    let uri = |key| registry.hsm().uri(key);
    let edit = registry.signer().args(["trust", "edit"]).arg(registry.trust());
    edit.args(["--raise-epoch", "--minimum-head", "50", "--add-head-key", &uri("head-2")])
        .args(["--remove-key", &uri(HEAD_KEY)])
        .ok();
    let publish = registry.signer().args(["publish", "--resign", "--new-epoch"]).arg(&old);
    publish
        .arg("--site")
        .arg(registry.site())
        .arg("--trust")
        .arg(registry.trust())
        .args(["--head-key", &uri("head-2")])
        .ok();
    refused();
    std::fs::copy(registry.trust(), host.trust()).unwrap();
    mount.reload();
    wait_for("the new trust root", || {
        (host.mcpfs(["--json", "status"]).ok().json()["trust_version"] == 2).then_some(())
    });
    host.refresh();
    assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"], "1.0.0");
}

/// A server that starts itself anew at each SIGTERM, and has started more than a chain of parents is looked up.
fn what_forks_when_it_is_told_to_end() {
    let registry = Registry::new();
    let tree = registry.artefacts().join("phoenix");
    std::fs::create_dir(&tree).unwrap();
    let script = "#!/bin/bash\nborn() { trap 'born & disown' TERM; while :; do sleep 3; done; }\n\
                  deep() { if [ $1 -gt 0 ]; then deep $(($1 - 1)) & disown; fi; born; }\ndeep 40\n";
    std::fs::write(tree.join("phoenix.sh"), script).unwrap();
    std::fs::set_permissions(tree.join("phoenix.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    let launch = "launch:\n  command: phoenix.sh\n";
    registry.release(&Recipe::new("phoenix", "1.0.0", &fixture::tar(&tree)).with(launch));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    host.refresh();
    let own = host.at("phoenix/1.0.0/tree/phoenix.sh").display().to_string();
    let alive = || processes(|command| command.iter().any(|argument| *argument == own));
    let mut server = std::process::Command::new(host.at("phoenix/run")).stdin(Stdio::null()).spawn().unwrap();
    wait_for("a chain of forty", || (alive().len() > 40).then_some(()));
    let ran = host.mcpfs(["ps", "phoenix", "--kill"]).run();
    let left = alive();
    for pid in &left {
        Run::new("kill").args(["-9", pid]).run();
    }
    server.wait().unwrap();
    assert!(ran.code == 0 && left.is_empty(), "{left:?} of {own}: {ran}");
}

/// A server of another user, in its sandbox, with what it has put into the background and let go of: root ends
/// all of it, and a third user nothing.
fn another_users_server_in_its_walls() {
    let registry = Registry::new();
    let tree = registry.artefacts().join("ghost");
    std::fs::create_dir(&tree).unwrap();
    let script = "#!/bin/bash\n(setsid bash -c 'trap \"\" TERM HUP; exec -a \"$0\" sleep 600' \"$0.ghost\" &)\n\
                  while read -r line; do :; done\n";
    std::fs::write(tree.join("ghost.sh"), script).unwrap();
    std::fs::set_permissions(tree.join("ghost.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    let walls = "launch:\n  command: ghost.sh\nsandbox: {network: none, read: [], write: []}\n";
    registry.release(&Recipe::new("ghost", "1.0.0", &fixture::tar(&tree)).with(walls));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    host.refresh();
    let mark = host.at("ghost/1.0.0/tree/ghost.sh.ghost").display().to_string();
    let ghosts = || processes(|command| command.iter().any(|argument| *argument == mark));
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(65534), Some(65534)).unwrap();
    let by = |user: &str, program: &std::path::Path| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home.path()).current_dir("/");
        command
    };
    let start = || {
        let mut run = by("65534", &host.at("ghost/run")).stdin(Stdio::piped()).spawn().unwrap();
        wait_for("the server's ghost", || {
            assert_eq!(run.try_wait().unwrap(), None, "it did not start");
            (ghosts().len() == 1).then_some(())
        });
        run
    };
    let kill = |user: &str| {
        let ran = by(user, &bin("mcpfs")).arg("--config").arg(host.config()).args(["ps", "ghost", "--kill"]).output();
        let ran = ran.unwrap();
        (ran.status.code(), format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr)))
    };
    let mut server = start();
    // Whoever reads no audit finds nothing to end.
    let (code, said) = kill("65533");
    assert!(code == Some(1) && ghosts().len() == 1 && server.try_wait().unwrap().is_none(), "{code:?} {said}");
    let ran = host.mcpfs(["ps", "ghost", "--kill"]).run();
    let left = ghosts();
    for pid in &left {
        Run::new("kill").args(["-9", pid]).run();
    }
    server.wait().unwrap();
    assert!(ran.code == 0 && left.is_empty(), "{left:?}: {ran}");
    let row = recorded(&host, "kill").pop().unwrap();
    assert_eq!((&row["user_name"], &row["detail"]["user"]), (&json!("root"), &json!("nobody")), "{row:#}");
    assert_eq!(pids(&host, &["ghost"]), [0_u64; 0]);
}

/// Numbers of the processes that live and whose arguments are wanted.
fn processes(wanted: impl Fn(&[&str]) -> bool) -> Vec<String> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let runs = |pid: &String| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let dead = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        let command = String::from_utf8_lossy(&command).into_owned();
        !dead && wanted(&command.split('\0').collect::<Vec<_>>())
    };
    pids.filter(runs).collect()
}
