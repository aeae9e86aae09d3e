//! `mcpfs doctor` on hosts that are well, and on hosts with one fault each.

use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::{Mount, unmount};
use mcpfs_tests::scratch::{Port, is_root, wait_for};
use mcpfs_tests::suite::Suite;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("doctor::before_the_first_start_and_after", before_the_first_start_and_after);
    suite.plain("doctor::configuration_and_trust_root", configuration_and_trust_root);
    suite.plain("doctor::the_site", the_site);
    suite.plain("doctor::clock_and_expiry", clock_and_expiry);
    suite.plain("doctor::an_altered_audit", an_altered_audit);
    if is_root() {
        suite.plain("doctor::owners", owners);
        suite.plain("doctor::what_others_mounted", what_others_mounted);
        suite.plain("doctor::numbers_for_monitoring", numbers_for_monitoring);
        suite.plain("doctor::a_stale_mount_and_a_silent_daemon", a_stale_mount_and_a_silent_daemon);
        suite.plain("doctor::as_another_user", as_another_user);
    }
}

/// Looks, and checks that exit code, `well` and the findings agree.
fn judged(ran: Ran) -> Value {
    let report = ran.json();
    let findings = report["findings"].as_array().unwrap();
    let wrong = findings.iter().any(|finding| finding["state"] == "wrong");
    assert_eq!(ran.code, i32::from(wrong), "{ran}");
    assert_eq!(report["well"], json!(!wrong), "{ran}");
    for finding in findings {
        assert_eq!(finding["fix"].is_string(), finding["state"] != "ok", "{finding}");
    }
    report
}

fn doctor(host: &Host) -> Value {
    judged(host.mcpfs(["--json", "doctor"]).limit(Duration::from_secs(60)).run())
}

/// The finding with this code has this state, and its words are among these.
#[track_caller]
fn finds(report: &Value, code: &str, state: &str, says: &str) {
    let findings = report["findings"].as_array().unwrap();
    let found: Vec<_> = findings.iter().filter(|finding| finding["code"] == code).collect();
    let [finding] = found.as_slice() else { panic!("{code}: {found:?} in {report:#}") };
    assert_eq!(finding["state"], state, "{finding:#}");
    assert!(finding.to_string().contains(says), "{finding:#} says nothing about {says}");
}

fn wrong(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.filter(|finding| finding["state"] == "wrong").map(|finding| finding["code"].as_str().unwrap()).collect()
}

fn before_the_first_start_and_after() {
    let world = World::new(Reads::usual());
    let before = doctor(&world.host);
    assert!(wrong(&before).is_empty(), "{before:#}");
    // A service of systemd's is root's.
    let start = if is_root() { "\"systemctl start mcpfs, or mcpfs mount\"" } else { "\"mcpfs mount\"" };
    finds(&before, "mount", "note", start);
    finds(&before, "daemon", "note", "no daemon runs");
    finds(&before, "registry", "ok", "answers");
    let mount = Mount::start(&world.host);
    let served = doctor(&world.host);
    assert!(wrong(&served).is_empty(), "{served:#}");
    for (code, state) in [("mount", "ok"), ("daemon", "ok"), ("servers", "ok"), ("head", "ok"), ("clock", "ok")] {
        finds(&served, code, state, "");
    }
    finds(&served, "audit", "ok", "the chain is whole");
    finds(&served, "takeover", if is_root() { "ok" } else { "note" }, "");
    let text = world.host.mcpfs(["doctor"]).ok();
    assert!(text.stdout.ends_with(" unknown\n") && text.stdout.starts_with("ok       config "), "{text}");
    assert_eq!(world.host.mcpfs(["-q", "doctor"]).ok().stdout, "");
    mount.stop();
    // Where no mount could be made.
    let (mcp, inside) = (world.host.mcp(), world.host.at("x"));
    std::fs::write(&inside, "").unwrap();
    finds(&doctor(&world.host), "mount", "wrong", "empty it");
    std::fs::remove_file(inside).unwrap();
    std::fs::remove_dir(&mcp).unwrap();
    finds(&doctor(&world.host), "mount", "wrong", "mkdir -p");
    std::fs::write(&mcp, "").unwrap();
    finds(&doctor(&world.host), "mount", "wrong", "no directory");
}

fn configuration_and_trust_root() {
    let world = World::new(Reads::Cached);
    std::fs::remove_file(world.host.trust()).unwrap();
    finds(&doctor(&world.host), "trust-root", "wrong", "trust.json");
    world.host.drop_in("50-typo", "[policy]\nsandbocks = \"off\"\n");
    let report = doctor(&world.host);
    finds(&report, "config", "wrong", "50-typo.toml:2");
    // It says what can be said without one.
    finds(&report, "kernel", "ok", "");
    let ran = world.host.mcpfs(["-q", "doctor"]).exits(1);
    assert!(ran.stdout.starts_with("WRONG    config ") && ran.stdout.contains("fix: "), "{ran}");
}

fn the_site() {
    let mut world = World::new(Reads::Cached);
    let head = world.file("head.json");
    let good = std::fs::read(&head).unwrap();
    std::fs::write(&head, "<!DOCTYPE html><title>Hotel</title><form>Room number and name</form>").unwrap();
    finds(&doctor(&world.host), "registry", "wrong", "captive portal");
    std::fs::write(&head, &good).unwrap();
    let mount = Mount::start(&world.host);
    world.site.stop();
    world.host.refresh_fails("Unreachable");
    let report = doctor(&world.host);
    finds(&report, "registry", "wrong", "Unreachable");
    finds(&report, "daemon", "wrong", "last look at the site failed: Unreachable");
    // What is wrong is out there; all of the host is well.
    assert_eq!(wrong(&report), ["registry", "daemon"], "{report:#}");
    mount.stop();
}

/// A time as the formats write it.
fn at(words: &str) -> Value {
    let ran = Run::new("date").args(["-u", "-d", words, "+%Y-%m-%dT%H:%M:%SZ"]).ok();
    json!(ran.stdout.trim())
}

fn clock_and_expiry() {
    let world = World::new(Reads::Cached);
    let resign = |issued: &str, expires: &str| {
        forge::resign_head(&world.copy.path(), &world.registry, |head| {
            (head["issued"], head["expires"]) = (at(issued), at(expires));
        });
        doctor(&world.host)
    };
    finds(&resign("now + 2 hours", "now + 7 days"), "clock", "wrong", "timedatectl set-ntp true");
    let expired = resign("now - 9 days", "now - 2 days");
    finds(&expired, "head", "wrong", "HeadExpired");
    finds(&expired, "head", "wrong", "mcpfs-signer publish --resign");
    finds(&expired, "clock", "ok", "");
    finds(&resign("now - 6 days", "now + 1 day"), "head", "note", "ends in ");
    finds(&resign("now - 1 hour", "now + 7 days"), "head", "ok", "");
}

fn an_altered_audit() {
    let world = World::new(Reads::Cached);
    Mount::start(&world.host).stop();
    finds(&doctor(&world.host), "audit", "ok", "rows");
    mcpfs_tests::audit::alter(&world.host, "UPDATE event SET outcome = 'PolicyRefused' WHERE seq = 1");
    finds(&doctor(&world.host), "audit", "wrong", "mcpfs audit verify");
}

fn owners() {
    let world = World::new(Reads::Cached);
    Mount::start(&world.host).stop();
    // A backup that root put back.
    chown(world.host.audit_db(), Some(0), Some(0)).unwrap();
    finds(&doctor(&world.host), "state-owner", "wrong", "chown -R mcpfs: ");
    chown(world.host.path("cache"), Some(1), Some(1)).unwrap();
    finds(&doctor(&world.host), "cache-owner", "wrong", "belongs to user 1");
    world.host.give_to_worker("cache");
    std::fs::set_permissions(world.host.path("cache"), PermissionsExt::from_mode(0o777)).unwrap();
    finds(&doctor(&world.host), "cache-owner", "wrong", "chmod 700");
    std::fs::set_permissions(world.host.rundir(), PermissionsExt::from_mode(0o700)).unwrap();
    finds(&doctor(&world.host), "rundir-owner", "wrong", "chmod 755");
    world.host.drop_in("50-user", "user = \"no-such-user\"\n");
    finds(&doctor(&world.host), "user", "wrong", "useradd --system");
}

/// In a mount namespace of its own, where this and that can be mounted.
fn what_others_mounted() {
    let world = World::new(Reads::Passthrough);
    let inside = |mounts: &str| {
        let script = format!("{mounts}\nexec \"$@\"");
        let unshare = Run::new("unshare").args(["-m", "sh", "-euc", &script, "sh"]);
        let bin = mcpfs_tests::binaries::bin("mcpfs");
        judged(unshare.arg(bin).arg("--config").arg(world.host.config()).args(["--json", "doctor"]).run())
    };
    let (run, cache, mcp) = (world.host.rundir(), world.host.path("cache"), world.host.mcp());
    let (run, cache, mcp) = (run.display(), cache.display(), mcp.display());
    finds(&inside(&format!("mount -t tmpfs -o noexec none {run}")), "rundir-exec", "wrong", "remount,exec");
    finds(&inside("mount -t proc -o hidepid=2 proc /proc"), "hidepid", "wrong", "gid=mcpfs");
    finds(&inside("mount -t tmpfs none /dev"), "fuse", "wrong", "modprobe fuse");
    finds(&inside(&format!("mount -t tmpfs none {mcp}")), "mount", "wrong", "umount");
    world.host.drop_in("50-cache", "[cache]\nkeep_free = \"1GiB\"\n");
    let small = inside(&format!("mount -t tmpfs -o size=16m none {cache}"));
    finds(&small, "cache-kind", "note", "memory");
    finds(&small, "cache-space", "wrong", "ENOSPC");
    finds(&small, "cache-quota", "note", "quota");
    finds(&inside("ulimit -n 256"), "open-files", "note", "LimitNOFILE");
    world.host.drop_in("50-sandbox", "[policy]\nsandbox = \"required\"\n");
    finds(&inside("mount --bind /bin/false /usr/bin/bwrap"), "bubblewrap", "wrong", "makes no sandbox: exit status: 1");
    let hangs = "cd /run && mount -t tmpfs none . && cd . && printf '#!/bin/sh\\nexec sleep 60\\n' > bwrap && chmod 755 \
                 bwrap && mount --bind bwrap /usr/bin/bwrap";
    finds(&inside(hangs), "bubblewrap", "wrong", "did not end within 5 s");
    finds(&inside("mount -t tmpfs none /usr/bin"), "bubblewrap", "wrong", "install the package");
}

fn numbers_for_monitoring() {
    let world = World::new(Reads::Cached);
    let report = doctor(&world.host);
    for code in ["metrics-listen", "metrics-textfile"] {
        finds(&report, code, "ok", "not asked for");
    }
    let (port, folder) = (Port::reserve(), world.host.path("numbers"));
    let file = folder.join("mcpfs.prom");
    world
        .host
        .drop_in("50-metrics", &format!("[metrics]\nlisten = \"127.0.0.1:{}\"\ntextfile = {file:?}\n", port.number()));
    finds(&doctor(&world.host), "metrics-textfile", "ok", "a daemon will write");
    let mount = Mount::start(&world.host);
    wait_for("the first numbers", || file.exists().then_some(()));
    let report = doctor(&world.host);
    assert!(wrong(&report).is_empty(), "{report:#}");
    finds(&report, "metrics-listen", "ok", " answers");
    finds(&report, "metrics-textfile", "ok", "was written");
    // The daemon's own limit, and not that of who asks.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", mount.server())).unwrap();
    let own = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()).unwrap();
    let asked = Run::new("sh").args(["-c", "ulimit -n 200; exec \"$@\"", "sh"]);
    let asked = asked.arg(mcpfs_tests::binaries::bin("mcpfs")).arg("--config").arg(world.host.config());
    finds(&judged(asked.args(["--json", "doctor"]).run()), "open-files", "ok", &format!("up to {own} files"));
    std::fs::rename(&folder, world.host.path("gone")).unwrap();
    finds(&doctor(&world.host), "metrics-textfile", "wrong", "its directory must belong");
    mount.stop();

    // Somebody else has the port, and is no daemon of ours.
    let url = world.site.url();
    let other = url.trim_start_matches("http://").trim_end_matches('/');
    world.host.drop_in("50-metrics", &format!("[metrics]\nlisten = {other:?}\n"));
    let mount = Mount::start(&world.host);
    finds(&doctor(&world.host), "metrics-listen", "wrong", "another program has the port");
    mount.stop();
}

fn a_stale_mount_and_a_silent_daemon() {
    let world = World::new(Reads::Cached);
    let mount = Mount::start(&world.host);
    let pids = [mount.pid(), mount.server()].map(|pid| Pid::from_raw(pid.cast_signed()).unwrap());
    for pid in pids {
        kill_process(pid, Signal::STOP).unwrap();
        // On a busy machine others of its threads answer until the one that takes the signal has its turn.
        let stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            status.contains("State:\tT").then_some(())
        };
        let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
        wait_for("all threads to stand still", || std::fs::read_dir(&tasks).ok()?.map(stopped).collect::<Option<()>>());
    }
    // Whoever touched the mount now would wait until somebody lets it go on.
    let silent = doctor(&world.host);
    for pid in pids {
        kill_process(pid, Signal::CONT).unwrap();
    }
    finds(&silent, "daemon", "wrong", "did not answer within");
    finds(&silent, "mount", "wrong", "stale");
    mount.kill();
    let stale = doctor(&world.host);
    unmount(&world.host.mcp());
    finds(&stale, "mount", "wrong", "mcpfs unmount");
    finds(&stale, "daemon", "wrong", "no mcpfs daemon answers");
}

fn as_another_user() {
    let world = World::new(Reads::Cached);
    let mount = Mount::start(&world.host);
    let bin = mcpfs_tests::binaries::bin("mcpfs");
    let user = Run::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(bin);
    let report = judged(user.arg("--config").arg(world.host.config()).args(["--json", "doctor"]).run());
    assert!(wrong(&report).is_empty(), "{report:#}");
    finds(&report, "daemon", "ok", "it answers");
    finds(&report, "takeover", "ok", "");
    finds(&report, "audit", "unknown", "run this as root");
    mount.stop();
}
