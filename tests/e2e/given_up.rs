//! What systemd does with a service that fails, under real systemd: nothing of it is left when it is given up, and
//! what fails for a while comes back by itself. Root only.

use std::fs;
use std::io::Read;

use mcpfs_tests::installed::{Installed, UNIT, configure, kill, write};
use mcpfs_tests::kept::device;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::suite::Suite;
use rustix::process::Signal;
use serde_json::json;

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.plain("given_up::nobody_waits_for_what_is_left", nobody_waits_for_what_is_left);
    suite.plain("given_up::its_configuration_need_not_be_readable", its_configuration_need_not_be_readable);
    suite.plain("given_up::one_that_ends_well_leaves_nothing", one_that_ends_well_leaves_nothing);
    suite.plain("given_up::one_that_makes_room_is_followed", one_that_makes_room_is_followed);
    suite.plain("given_up::one_that_dies_of_a_stop_leaves_nothing", one_that_dies_of_a_stop_leaves_nothing);
    suite.plain("given_up::what_fails_for_a_while_comes_back", what_fails_for_a_while_comes_back);
    suite.plain("given_up::a_stop_in_a_start_leaves_nothing", a_stop_in_a_start_leaves_nothing);
    suite.plain("given_up::a_restart_in_the_pause_keeps_the_mount", a_restart_in_the_pause_keeps_the_mount);
    suite.plain("given_up::a_trust_root_that_is_cut_is_waited_for", a_trust_root_that_is_cut_is_waited_for);
    suite.plain("given_up::a_mount_made_anew_reads_the_disk", a_mount_made_anew_reads_the_disk);
}

/// Killed until systemd's limit is reached, while somebody else still holds the device, so that whoever asks waits.
fn nobody_waits_for_what_is_left() {
    let on = Installed::new();
    on.drop_in(UNIT, "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=4\n");
    on.machine.systemctl(["enable", "--now", UNIT]);
    let mut session = on.session();
    let mut open = fs::File::open(on.machine.path("/mcp/hello/1.1.0/tree/bin/VERSION")).unwrap();
    let held = device(on.machine.outside(on.main_pid()));
    let asked = on.machine.path("/mcp/hello/no-such-name");
    on.kill_for_good(UNIT);
    // This one has nobody to answer it, unless the mount is gone before it asks.
    let waits = std::thread::spawn(move || asked.symlink_metadata().map(drop).expect_err("nobody is there"));
    on.gone("/mcp");
    let errno = waits.join().unwrap().raw_os_error();
    assert!([libc::ENOTCONN, libc::ECONNABORTED, libc::ENOENT].map(Some).contains(&errno), "{errno:?}");
    // What runs in passthrough goes on.
    assert_eq!(session.call("echo", &json!({"message": "still here"})), "still here");
    let mut text = String::new();
    assert!(open.read_to_string(&mut text).unwrap() > 0);
    drop(held);
    on.is("mcpfs-failed.service", "inactive");
    assert_eq!(on.machine.property("mcpfs-failed.service", "Result"), "success");
    assert_eq!(on.machine.property(UNIT, "NFileDescriptorStore"), "0");
    let journal = on.journal();
    for part in ["systemd has given mcpfs.service up", "/mcp was a ruin", "systemctl reset-failed mcpfs.service"] {
        assert!(journal.contains(part), "{part}: {journal}");
    }
    // As it says there, and in the manual.
    let section = crate::docs::section("operating.md", "Given up by systemd");
    for block in crate::docs::blocks_of(&section, "```sh") {
        on.machine.sh(&block).ok();
    }
    assert_eq!(on.machine.mounts_at("/mcp").len(), 1, "{}", on.journal());
    on.session();
    // By hand, with nothing to do, it does nothing.
    on.machine.systemctl(["start", "mcpfs-failed.service"]);
    on.session();
}

/// Another registry's, whose configuration on the disk does not even say where it was mounted.
fn its_configuration_need_not_be_readable() {
    let on = Installed::started();
    let lab = on.machine.path("/etc/mcpfs/lab");
    let places = "rundir = \"/run/mcpfs-lab\"\nstate = \"/var/lib/mcpfs-lab\"\n[mount]\nat = \"/lab\"\n[cache]\n\
                  dir = \"/var/cache/mcpfs-lab\"\n";
    configure(&lab, "http://127.0.0.1/", places);
    fs::copy(on.registry.trust(), lab.join("trust.json")).unwrap();
    on.drop_in("mcpfs@lab.service", "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=3\n");
    on.machine.sh("mkdir -m 755 /lab && systemctl enable --now mcpfs@lab.service").ok();
    let launched = || McpClient::start_with(on.machine.command("/lab/hello/run")).initialize();
    assert_eq!(launched()["serverInfo"]["version"], "1.1.0");
    let right = fs::read_to_string(lab.join("mcpfs.toml")).unwrap();
    fs::write(lab.join("mcpfs.toml"), format!("{right}\nurl = \"again\"\n")).unwrap();
    on.kill_for_good("mcpfs@lab.service");
    on.gone("/lab");
    on.is("mcpfs-failed@lab.service", "inactive");
    let journal = on.machine.journal("mcpfs@lab.service");
    for part in ["given mcpfs@lab.service up", "/lab was a ruin", "systemctl reset-failed mcpfs@lab.service"] {
        assert!(journal.contains(part), "{part}: {journal}");
    }
    // The one beside it goes on.
    assert_eq!(on.machine.mounts_at("/mcp").len(), 1);
    on.session();
    fs::write(lab.join("mcpfs.toml"), right).unwrap();
    on.machine.sh("systemctl reset-failed mcpfs@lab.service && systemctl start mcpfs@lab.service").ok();
    assert_eq!(launched()["serverInfo"]["version"], "1.1.0");
}

/// SIGTERM by hand is no failure, and after it systemd starts nothing: so the mount goes as with a stop.
fn one_that_ends_well_leaves_nothing() {
    let on = Installed::started();
    on.session();
    on.machine.systemctl(["kill", "--signal=TERM", "--kill-whom=main", UNIT]);
    on.is(UNIT, "inactive");
    assert!(on.machine.mounts_at("/mcp").is_empty(), "{}", on.journal());
    assert_eq!(on.machine.property(UNIT, "Result"), "success");
    on.machine.systemctl(["start", UNIT]);
    on.session();
}

/// What a restart sends is sent by hand: another process serves the mount.
fn one_that_makes_room_is_followed() {
    let on = Installed::started();
    let mut session = on.session();
    let (before, mounts) = (on.main_pid(), on.machine.mounts_at("/mcp"));
    let held = fs::File::open(on.machine.path("/mcp")).unwrap();
    on.machine.systemctl(["kill", "--signal=INT", "--kill-whom=main", UNIT]);
    on.another_than(before);
    assert_eq!(on.machine.mounts_at("/mcp"), mounts, "{}", on.journal());
    assert_eq!(session.call("echo", &json!({"message": "still here"})), "still here");
    drop(held);
    on.session();
    assert!(!on.journal().contains("Failed with result"), "{}", on.journal());
}

/// What is to end it kills it, so that it leaves all as it is.
fn one_that_dies_of_a_stop_leaves_nothing() {
    let on = Installed::new();
    on.drop_in(UNIT, "[Service]\nKillSignal=SIGKILL\n");
    on.machine.systemctl(["enable", "--now", UNIT]);
    on.session();
    on.machine.systemctl(["stop", UNIT]);
    on.is(UNIT, "failed");
    on.gone("/mcp");
    on.machine.systemctl(["start", UNIT]);
    on.session();
}

/// State on a disk that cannot be written: no worker can begin, and the service neither is given up nor tries without a
/// pause.
fn what_fails_for_a_while_comes_back() {
    let on = Installed::new();
    on.machine.sh("mount -t tmpfs -o size=64m,mode=700 none /var/lib/mcpfs && chown mcpfs: /var/lib/mcpfs").ok();
    // Five starts within ten seconds would be too many; with pauses of five there are three.
    on.drop_in(UNIT, "[Unit]\nStartLimitIntervalSec=10s\nStartLimitBurst=4\n");
    on.machine.systemctl(["enable", "--now", UNIT]);
    on.session();
    // Nobody may have a file of it open for writing then.
    let (worker, supervisor) = on.processes();
    kill(supervisor, Signal::STOP);
    kill(worker, Signal::KILL);
    wait_for("the disk to be read-only", || {
        (on.machine.sh("mount -o remount,ro /var/lib/mcpfs").run().code == 0).then_some(())
    });
    kill(supervisor, Signal::CONT);
    let status = || on.machine.property(UNIT, "StatusText");
    wait_for("word of it in the status", || status().contains("no worker serves").then_some(()));
    on.gone("/mcp");
    let restarts = || on.machine.property(UNIT, "NRestarts").parse::<u32>().unwrap();
    wait_for("several starts", || {
        assert_ne!(on.machine.property(UNIT, "ActiveState"), "failed", "{}", on.journal());
        (restarts() >= 5).then_some(())
    });
    let journal = on.journal();
    assert!(journal.contains("no worker serves: none was ready within 10 s"), "{journal}");
    assert!(journal.contains("Read-only file system") || journal.contains("readonly"), "{journal}");
    on.machine.sh("mount -o remount,rw /var/lib/mcpfs").ok();
    on.is(UNIT, "active");
    on.session();
    on.mcpfs(["audit", "verify"]).ok();
}

/// A stop right after a crash, and in the middle of a restart: a signal still ends the next process before that can do
/// anything.
fn a_stop_in_a_start_leaves_nothing() {
    let on = Installed::started();
    for millis in [0, 3, 7, 12, 20, 40] {
        for crashed in [true, false] {
            on.session();
            let before = on.main_pid();
            let first = match crashed {
                true => format!("kill -9 {before}"),
                false => format!("systemctl restart --no-block {UNIT}"),
            };
            on.machine.sh(&format!("{first}; sleep 0.{millis:03}; systemctl stop {UNIT}")).ok();
            on.gone("/mcp");
            on.is("mcpfs-failed.service", "inactive");
            assert_eq!(on.machine.property("mcpfs-failed.service", "Result"), "success", "{}", on.journal());
            on.machine.sh(&format!("systemctl reset-failed {UNIT}; systemctl start {UNIT}")).ok();
        }
    }
}

/// Waits until a process rests before it ends.
fn rests(on: &Installed) {
    wait_for("a process that rests", || {
        on.machine.property(UNIT, "StatusText").contains("trying again in 5 s").then_some(())
    });
}

/// What the failing process was to go on with is for the next one, which reads the disk: it was asked for.
fn a_restart_in_the_pause_keeps_the_mount() {
    let on = Installed::started();
    let mut session = on.session();
    let mounts = on.machine.mounts_at("/mcp");
    on.machine.sh("chown root: /var/lib/mcpfs").ok();
    kill(on.machine.outside(on.main_pid()), Signal::KILL);
    rests(&on);
    on.machine.sh("chown mcpfs: /var/lib/mcpfs").ok();
    write(&on.machine.path("/etc/mcpfs/conf.d/60-edit.toml"), "[policy]\nhide = [\"files\"]\n");
    on.machine.systemctl(["restart", UNIT]);
    assert_eq!(on.machine.mounts_at("/mcp"), mounts, "{}", on.journal());
    assert_eq!(session.call("echo", &json!({"message": "still here"})), "still here");
    assert!(!on.mcpfs(["ls"]).ok().stdout.contains("files"), "{}", on.journal());
    on.session();
}

/// It is tried again with a pause, as everything else that fails.
fn a_trust_root_that_is_cut_is_waited_for() {
    let on = Installed::started();
    on.machine.systemctl(["disable", "--now", "mcpfs-trust.path"]);
    on.machine.systemctl(["stop", UNIT]);
    let trust = on.machine.path("/etc/mcpfs/trust.json");
    let whole = fs::read(&trust).unwrap();
    fs::write(&trust, &whole[..100]).unwrap();
    on.machine.run("systemctl").args(["start", UNIT]).run();
    rests(&on);
    assert_ne!(on.machine.property(UNIT, "ActiveState"), "failed", "{}", on.journal());
    fs::write(&trust, whole).unwrap();
    on.is(UNIT, "active");
    on.session();
}

/// With no mount to go on with, what is on the disk counts, whatever the process before died of.
fn a_mount_made_anew_reads_the_disk() {
    let on = Installed::started();
    on.session();
    write(&on.machine.path("/etc/mcpfs/conf.d/60-edit.toml"), "[policy]\nhide = [\"files\"]\n");
    let (before, supervisor) = (on.main_pid(), on.processes().1);
    kill(supervisor, Signal::STOP);
    on.machine.sh("umount -l /mcp").ok();
    kill(supervisor, Signal::KILL);
    on.another_than(before);
    assert!(!on.mcpfs(["ls"]).ok().stdout.contains("files"), "{}", on.journal());
    on.session();
}
