//! The real unit under real systemd: what it starts, keeps, replaces and takes away. Root only.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mcpfs_tests::host::Reads;
use mcpfs_tests::installed::{Installed, TOKEN, UNIT, UNITS, configure, install, kill, write};
use mcpfs_tests::machine::Machine;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::scratch::{is_root, repository, wait_for};
use mcpfs_tests::suite::Suite;
use rustix::process::{Pid, Signal, kill_process};

pub(crate) use load::under_load;
use load::under_load_with;

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.plain("systemd::a_machine_changes_nothing_outside", a_machine_changes_nothing_outside);
    suite.plain("systemd::it_starts_reloads_and_stops", it_starts_reloads_and_stops);
    suite.mounted("systemd::nobody_notices_what_happens_to_it", nobody_notices_what_happens_to_it);
    suite.plain("systemd::a_mistake_takes_nobodys_mount", a_mistake_takes_nobodys_mount);
    suite.plain("systemd::a_death_takes_up_no_edit", a_death_takes_up_no_edit);
    suite.plain("systemd::what_a_lost_store_leaves_is_cleared", what_a_lost_store_leaves_is_cleared);
    suite.plain("systemd::trust_credentials_and_registries", trust_credentials_and_registries);
    suite.plain("systemd::the_units_are_sound", the_units_are_sound);
}

/// The kernel's settings that are not a namespace's own, and are no counters.
fn settings() -> BTreeMap<PathBuf, String> {
    fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            match entry.file_type().unwrap().is_dir() {
                true => walk(&path, into),
                false => drop(fs::read_to_string(&path).map(|text| into.insert(path, text))),
            }
        }
    }
    let mut found = BTreeMap::new();
    for part in ["fs", "kernel", "vm", "user"] {
        walk(&Path::new("/proc/sys").join(part), &mut found);
    }
    let counts = ["-nr", "-state", "_last_pid", "/pty/nr", "/random/", "/stat_refresh", "/quota/"];
    found.retain(|path, _| !counts.iter().any(|word| path.to_string_lossy().contains(word)));
    found
}

fn a_machine_changes_nothing_outside() {
    let before = settings();
    let machine = Machine::boot(|_| ());
    let after = settings();
    let other: Vec<_> = before.iter().filter(|(path, text)| after.get(*path) != Some(text)).collect();
    assert!(other.is_empty() && before.len() == after.len(), "{other:?}");
    assert!(before.contains_key(Path::new("/proc/sys/fs/protected_symlinks")));
    for file in ["/proc/sys/fs/file-max", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/power/state"] {
        let written = machine.sh(&format!("[ ! -e {file} ] || ! (: >>{file}) 2>/dev/null"));
        written.ok();
    }
    let group = fs::read_to_string(format!("/proc/{}/cgroup", machine.outside(1))).unwrap();
    let group = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
    assert!(group.contains("mcpfs-tests-"), "{group}");
    let init = machine.outside(1);
    drop(machine);
    assert!(!Path::new(&format!("/proc/{init}")).exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(" - overlay machine "), "{mounts}");
}

fn it_starts_reloads_and_stops() {
    let on = Installed::started();
    let status = on.machine.systemctl(["status", UNIT]).stdout;
    let line = status.lines().find(|line| line.trim_start().starts_with("Status:"));
    assert!(line.is_some_and(|line| line.contains("mounted at /mcp")), "{status}");
    assert_eq!(on.machine.property(UNIT, "NFileDescriptorStore"), "6");
    // Else a worker that the kernel ends for its memory would end the service.
    assert_eq!(on.machine.property(UNIT, "OOMPolicy"), "continue");
    let (worker, supervisor) = on.processes();
    // Under the unit's own filters the worker still walls itself in.
    let confined = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(confined.contains(line), "{line}: {confined}");
    }
    assert!(!on.journal().contains("Landlock"), "{}", on.journal());
    let may = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
    // SYS_ADMIN, SYS_PTRACE, SETPCAP, SETUID, SETGID, KILL, DAC_READ_SEARCH, CHOWN: not one more than the unit says.
    assert!(may.contains("CapEff:\t00000000002801e5") && may.contains("Seccomp:\t2"), "{may}");
    under_load(
        &on,
        &[("reload", &|| {
            on.machine.systemctl(["reload", UNIT]);
        })],
    );
    assert_eq!(on.processes().1, supervisor);
    // Whoever reloads and then looks finds what now holds, and hears of what does not.
    let edit = on.machine.path("/etc/mcpfs/conf.d/60-edit.toml");
    for (hides, shown) in [(true, "0"), (false, "1"), (true, "0"), (false, "1")] {
        match hides {
            true => write(&edit, "[policy]\nhide = [\"hello\"]\n"),
            false => fs::remove_file(&edit).unwrap(),
        }
        on.machine.sh("systemctl reload mcpfs && ls /mcp | grep -cx hello || true").ok().says(shown);
    }
    // Also of a file that this version cannot read at all, or that says the socket is elsewhere by now.
    for (mistake, says) in
        [("[polic]\n", "polic"), ("rundir = \"/run/elsewhere\"\n[policy]\nsandbox = 1\n", "60-edit.toml:3")]
    {
        write(&edit, mistake);
        on.machine.run("systemctl").args(["reload", UNIT]).exits(1);
        fs::remove_file(&edit).unwrap();
        let refused = on.mcpfs(["--json", "audit", "query", "--event", "config", "--limit", "1"]).ok().stdout;
        assert!(refused.contains(says), "{refused}");
        assert!(on.journal().contains("The configuration before it stays in force"), "{}", on.journal());
        on.session();
    }
    write(&edit, "rundir = \"/run/elsewhere\"\n");
    on.machine.systemctl(["reload", UNIT]);
    assert!(on.journal().contains("rundir changed"), "{}", on.journal());
    fs::remove_file(&edit).unwrap();
    on.machine.run("mcpfs").arg("reload").ok().says("in force");
    // What it says of itself follows the registry.
    let site = on.machine.path("/srv/site");
    fs::rename(&site, on.machine.path("/srv/gone")).unwrap();
    on.mcpfs(["refresh"]).exits(3);
    let status = || on.machine.property(UNIT, "StatusText");
    wait_for("the trouble in the status", || status().contains("Unreachable").then_some(()));
    fs::rename(on.machine.path("/srv/gone"), &site).unwrap();
    on.mcpfs(["refresh"]).ok();
    wait_for("the status without it", || status().ends_with("reads passthrough").then_some(()));
    on.machine.systemctl(["stop", UNIT]);
    assert!(on.machine.mounts_at("/mcp").is_empty(), "{}", on.journal());
    assert_eq!(on.machine.property(UNIT, "NFileDescriptorStore"), "0");
    assert_eq!(on.machine.property(UNIT, "Result"), "success");
    on.is("mcpfs-failed.service", "inactive");
    assert_eq!(on.machine.run("pgrep").args(["-x", "mcpfs"]).exits(1).stdout, "");
    // And again, from nothing.
    on.machine.systemctl(["start", UNIT]);
    on.session();
}

fn nobody_notices_what_happens_to_it(reads: Reads) {
    let on = Installed::new();
    if reads == Reads::Cached {
        write(&on.machine.path("/etc/mcpfs/conf.d/50-reads.toml"), "[mount]\nreads = \"cached\"\n");
    }
    let soon = "[Service]\nWatchdogSec=4s\n";
    write(&on.machine.path("/etc/systemd/system/mcpfs.service.d/watchdog.conf"), soon);
    on.machine.systemctl(["daemon-reload"]);
    on.machine.systemctl(["enable", "--now", UNIT]);
    let worker_gone = |worker: u32| {
        wait_for("another worker", || (on.processes().0 != worker).then_some(()));
    };
    under_load_with(
        reads,
        &on,
        &[
            ("kill the worker", &|| {
                let (worker, _) = on.processes();
                kill(worker, Signal::KILL);
                worker_gone(worker);
            }),
            ("kill the supervisor", &|| {
                // Oftener than systemd would restart a service without limits of its own.
                for _ in 0..6 {
                    let before = on.main_pid();
                    kill(on.processes().1, Signal::KILL);
                    on.another_than(before);
                }
            }),
            ("stop the worker", &|| {
                let (worker, _) = on.processes();
                kill(worker, Signal::STOP);
                worker_gone(worker);
            }),
            ("stop the supervisor", &|| {
                let before = on.main_pid();
                kill(on.processes().1, Signal::STOP);
                on.another_than(before);
            }),
            ("restart", &|| {
                let before = on.main_pid();
                on.machine.systemctl(["restart", UNIT]);
                on.another_than(before);
            }),
            ("restarts that come before it serves", &|| {
                let before = on.main_pid();
                for _ in 0..8 {
                    on.machine.systemctl(["restart", "--no-block", UNIT]);
                }
                on.another_than(before);
            }),
            ("upgrade", &|| {
                let (before, program) = (on.main_pid(), on.machine.path("/usr/bin/mcpfs"));
                install("mcpfs", &program);
                on.machine.systemctl(["daemon-reload"]);
                on.machine.systemctl(["restart", UNIT]);
                on.another_than(before);
                let runs = fs::metadata(format!("/proc/{}/exe", on.processes().1)).unwrap();
                use std::os::unix::fs::MetadataExt;
                assert_eq!(runs.ino(), program.metadata().unwrap().ino());
            }),
        ],
    );
    assert!(on.journal().contains("Watchdog timeout"), "{}", on.journal());
    on.machine.systemctl(["stop", UNIT]);
    assert!(on.machine.mounts_at("/mcp").is_empty(), "{}", on.journal());
}

/// A supervisor that begins anew on the mount that is there goes on with what was in force, if what is on the disk cannot be used.
fn a_mistake_takes_nobodys_mount() {
    let on = Installed::started();
    let anew = |how: &dyn Fn()| {
        let before = on.main_pid();
        how();
        on.another_than(before);
    };
    let either_way = || {
        anew(&|| kill(on.processes().1, Signal::KILL));
        anew(&|| drop(on.machine.systemctl(["restart", UNIT])));
    };
    let rows = |event: &str, says: &str| {
        let audit = on.mcpfs(["--json", "audit", "query", "--event", event]).ok().stdout;
        assert!(audit.contains(says), "{audit}");
    };
    let (drop_in, trust) = (on.machine.path("/etc/mcpfs/conf.d/50-bad.toml"), on.machine.path("/etc/mcpfs/trust.json"));
    under_load(
        &on,
        &[
            ("an unknown key", &|| {
                write(&drop_in, "[polcy]\n");
                either_way();
                fs::remove_file(&drop_in).unwrap();
                rows("config", "50-bad.toml:1: unknown key");
            }),
            ("half a trust root", &|| {
                let whole = fs::read(&trust).unwrap();
                fs::write(&trust, &whole[..whole.len() / 2]).unwrap();
                either_way();
                // And its workers, one after the other.
                let (worker, _) = on.processes();
                kill(worker, Signal::KILL);
                wait_for("another worker", || (on.processes().0 != worker).then_some(()));
                fs::write(&trust, whole).unwrap();
                rows("trust", "trust.json");
            }),
        ],
    );
    // What is right again is taken over.
    write(&drop_in, "[policy]\nhide = [\"hello\"]\n");
    anew(&|| drop(on.machine.systemctl(["restart", UNIT])));
    assert!(!on.mcpfs(["ls"]).ok().stdout.contains("hello"));
    // Without a mount that it could go on with, it starts with nothing that it cannot use.
    on.machine.systemctl(["stop", UNIT]);
    write(&drop_in, "[polcy]\n");
    on.machine.run("systemctl").args(["start", UNIT]).exits(1);
    assert!(on.machine.mounts_at("/mcp").is_empty());
    assert!(on.journal().contains("did you mean \"policy\"?"), "{}", on.journal());
}

/// What is on the disk counts from a reload or a restart on, whoever dies before that.
fn a_death_takes_up_no_edit() {
    let on = Installed::started();
    let edit = on.machine.path("/etc/mcpfs/conf.d/50-edit.toml");
    let hidden = || !on.mcpfs(["ls"]).ok().stdout.contains("hello");
    let dies = |with_its_worker: bool| {
        let before = on.main_pid();
        let (worker, supervisor) = on.processes();
        kill(supervisor, Signal::KILL);
        if with_its_worker {
            // It may have ended by itself.
            let _ = kill_process(Pid::from_raw(worker.cast_signed()).unwrap(), Signal::KILL);
        }
        on.another_than(before);
    };
    write(&edit, "[policy]\nhide = [\"hello\"]\n");
    dies(false);
    assert!(!hidden(), "{}", on.journal());
    dies(true);
    assert!(!hidden(), "{}", on.journal());
    assert!(on.journal().contains("what is on the disk counts from a reload or a restart"), "{}", on.journal());
    on.machine.systemctl(["reload", UNIT]);
    assert!(hidden(), "{}", on.journal());
    // The supervisor hears of the reload before it answers what it is asked now.
    fs::read(on.machine.path("/mcp/files/1.0.0/tree/large")).unwrap();
    // What a reload has taken over is what stays.
    fs::remove_file(&edit).unwrap();
    for with_its_worker in [false, true] {
        dies(with_its_worker);
        assert!(hidden(), "{}", on.journal());
    }
    // To be told to end is another matter.
    let before = on.main_pid();
    on.machine.systemctl(["restart", UNIT]);
    on.another_than(before);
    assert!(!hidden(), "{}", on.journal());
    // And what a restart has taken over stays as well.
    write(&edit, "[policy]\nhide = [\"hello\"]\n");
    dies(true);
    assert!(!hidden(), "{}", on.journal());
}

/// Everything of it is killed at once, systemd gives up, and what takes ruins away is masked: the next start clears it.
fn what_a_lost_store_leaves_is_cleared() {
    let on = Installed::new();
    write(&on.machine.path("/etc/systemd/system/mcpfs.service.d/once.conf"), "[Service]\nRestart=no\n");
    on.machine.systemctl(["mask", "mcpfs-failed.service"]);
    on.machine.systemctl(["daemon-reload"]);
    on.machine.systemctl(["enable", "--now", UNIT]);
    on.session();
    on.machine.systemctl(["kill", "--signal=KILL", "--kill-whom=all", UNIT]);
    wait_for("systemd to give up", || (on.machine.property(UNIT, "ActiveState") == "failed").then_some(()));
    assert_eq!(on.machine.mounts_at("/mcp").len(), 1, "{}", on.journal());
    wait_for("an error instead of a wait", || on.machine.path("/mcp/hello/run").metadata().err());
    on.machine.systemctl(["start", UNIT]);
    assert_eq!(on.machine.mounts_at("/mcp").len(), 1, "{}", on.journal());
    assert!(on.journal().contains("clearing a stale mount"), "{}", on.journal());
    on.session();
}

fn trust_credentials_and_registries() {
    let on = Installed::started();
    let looks = |path: &str| {
        let ran = on.machine.run("stat").args(["--format", "%U:%G %a", path]).ok();
        ran.stdout.trim().to_owned()
    };
    // By sysusers and tmpfiles.
    assert_eq!(looks("/var/lib/mcpfs"), "mcpfs:mcpfs 700");
    assert_eq!(looks("/var/cache/mcpfs"), "mcpfs:mcpfs 700");
    let user = on.machine.run("getent").args(["passwd", "mcpfs"]).ok().stdout;
    assert!(user.trim().ends_with(":/nonexistent:/usr/sbin/nologin"), "{user}");
    // A trust root that cannot be believed is heard of at once, and changes nothing.
    let trust = on.machine.path("/etc/mcpfs/trust.json");
    let good = fs::read(&trust).unwrap();
    fs::write(trust.with_extension("new"), "{").unwrap();
    fs::rename(trust.with_extension("new"), &trust).unwrap();
    wait_for("a reload by the path unit", || on.journal().contains("trust.json").then_some(()));
    on.session();
    fs::write(&trust, good).unwrap();
    // A second registry, by the template, whose site wants a token that only systemd hands out.
    let lab = on.machine.path("/etc/mcpfs/lab");
    let places = "rundir = \"/run/mcpfs-lab\"\nstate = \"/var/lib/mcpfs-lab\"\n[mount]\nat = \"/lab\"\n[cache]\n\
                  dir = \"/var/cache/mcpfs-lab\"\n";
    configure(&lab, "http://127.0.0.1:81/", places);
    let config = fs::read_to_string(lab.join("mcpfs.toml")).unwrap();
    let config = config + "token_file = \"/run/credentials/mcpfs@lab.service/token\"\n";
    fs::write(lab.join("mcpfs.toml"), config).unwrap();
    fs::copy(on.registry.trust(), lab.join("trust.json")).unwrap();
    let secret = on.machine.path("/etc/mcpfs/lab/token");
    fs::write(&secret, TOKEN).unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    write(
        &on.machine.path("/etc/systemd/system/mcpfs@lab.service.d/token.conf"),
        "[Service]\nLoadCredential=token:/etc/mcpfs/lab/token\n",
    );
    on.machine.sh("mkdir -m 755 /lab && systemctl daemon-reload").ok();
    let started = on.machine.run("systemctl").args(["enable", "--now", "mcpfs@lab.service"]).run();
    let journal = on.machine.journal("mcpfs@lab.service");
    assert!(started.code == 0, "{started}\n{journal}");
    let run = McpClient::start_with(on.machine.command("/lab/hello/run")).initialize();
    assert_eq!(run["serverInfo"]["version"], "1.1.0", "{journal}");
    assert!(!journal.contains(TOKEN));
    on.machine.systemctl(["restart", "mcpfs@lab.service"]);
    on.machine.systemctl(["stop", "mcpfs@lab.service"]);
    assert!(on.machine.mounts_at("/lab").is_empty() && !on.machine.mounts_at("/mcp").is_empty());
    on.session();
}

fn the_units_are_sound() {
    let on = Installed::started();
    for unit in UNITS.map(|unit| unit.replace("@.", "@lab.")) {
        // It only warns.
        let said = on.machine.run("systemd-analyze").args(["verify", "--man=no", &unit]).ok().text();
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("mcpfs")).collect();
        assert_eq!(ours, Vec::<&str>::new());
    }
    let said = on.machine.run("systemd-analyze").args(["security", "--no-pager", UNIT]).ok().stdout;
    let figure = said.lines().find_map(|line| line.split_once("Overall exposure level for mcpfs.service: "));
    let figure = figure.unwrap_or_else(|| panic!("no figure in {said}")).1;
    let figure = figure.split(' ').next().unwrap();
    let readme = fs::read_to_string(repository().join("systemd/README.md")).unwrap();
    assert!(readme.contains(&format!("exposure {figure} ")), "systemd/README.md does not say {figure}: {said}");
    // The template is the same unit but for its names.
    let units = repository().join("systemd");
    let body = |unit: &str, from: &str| {
        let text = fs::read_to_string(units.join(unit)).unwrap();
        text[text.find(from).unwrap()..].replace("RuntimeDirectory=mcpfs-%i", "RuntimeDirectory=mcpfs")
    };
    for (unit, template, from) in [
        ("mcpfs.service", "mcpfs@.service", "FileDescriptorStoreMax"),
        ("mcpfs-failed.service", "mcpfs-failed@.service", "TimeoutStartSec"),
    ] {
        assert_eq!(body(template, from), body(unit, from));
    }
    // All that there is, so that a new one is not forgotten here.
    let there = fs::read_dir(&units).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let there: BTreeSet<String> = there.filter(|name| name.ends_with(".service") || name.ends_with(".path")).collect();
    assert_eq!(there, UNITS.map(str::to_owned).into());
}
