//! A machine on which mcpfs is installed, and what happens to it there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::Reads;
use mcpfs_tests::machine::Machine;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::registry::{Registry, files_below};
use mcpfs_tests::scratch::{Until, copy_dir, need, repository, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::takeover::compare;

pub(crate) const UNIT: &str = "mcpfs.service";
/// What `systemd/` has.
pub(super) const UNITS: [&str; 6] = [
    "mcpfs.service",
    "mcpfs@.service",
    "mcpfs-failed.service",
    "mcpfs-failed@.service",
    "mcpfs-trust.path",
    "mcpfs-trust.service",
];
pub(super) const TOKEN: &str = "a-token-that-only-root-reads";

/// A machine with mcpfs installed as a package would, and a web server with the registry's site.
pub(crate) struct Installed {
    pub(crate) machine: Machine,
    pub(crate) registry: Arc<Registry>,
}

impl Installed {
    pub(crate) fn new() -> Self {
        let registry = Registry::shared();
        let machine = Machine::boot(|root| fill(root, &registry));
        machine.sh("systemd-sysusers && systemd-tmpfiles --create /usr/lib/tmpfiles.d/mcpfs.conf").ok();
        Self { machine, registry }
    }

    pub(crate) fn started() -> Self {
        let installed = Self::new();
        let started = installed.machine.run("systemctl").args(["enable", "--now", UNIT, "mcpfs-trust.path"]).run();
        assert!(started.code == 0, "{started}\n{}", installed.journal());
        installed
    }

    pub(crate) fn main_pid(&self) -> u32 {
        self.machine.property(UNIT, "MainPID").parse().unwrap()
    }

    /// The worker's number, as this machine numbers it, and the supervisor's.
    pub(crate) fn processes(&self) -> (u32, u32) {
        let supervisor = self.machine.outside(self.main_pid());
        let children = format!("/proc/{supervisor}/task/{supervisor}/children");
        let worker =
            wait_for("a worker", || fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok());
        (worker, supervisor)
    }

    /// Its number, as soon as a process other than `before` is ready.
    pub(crate) fn another_than(&self, before: u32) -> u32 {
        wait_for("another supervisor", || {
            let ready = self.machine.property(UNIT, "ActiveState") == "active";
            Some(self.main_pid()).filter(|&pid| ready && pid != 0 && pid != before)
        })
    }

    pub(crate) fn session(&self) -> McpClient {
        let mut session = McpClient::start_with(self.machine.command("/mcp/hello/run"));
        assert_eq!(session.initialize()["serverInfo"]["version"], "1.1.0");
        session
    }

    pub(crate) fn journal(&self) -> String {
        self.machine.journal(UNIT)
    }

    pub(crate) fn mcpfs<const N: usize>(&self, args: [&str; N]) -> Run {
        self.machine.run("mcpfs").args(args)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the journal\n{}", self.machine.journal("mcpfs*"));
        }
    }
}

pub(crate) fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

fn fill(root: &Path, registry: &Registry) {
    programs(root);
    serve_site(root, registry);
    configure(&root.join("etc/mcpfs"), "http://127.0.0.1/", "");
    fs::copy(registry.trust(), root.join("etc/mcpfs/trust.json")).unwrap();
}

/// What a package brings.
pub(crate) fn programs(root: &Path) {
    let units = repository().join("systemd");
    for unit in UNITS {
        let text = fs::read_to_string(units.join(unit)).unwrap();
        write(&root.join("usr/lib/systemd/system").join(unit), &text);
    }
    for (kind, place) in [("sysusers", "usr/lib/sysusers.d"), ("tmpfiles", "usr/lib/tmpfiles.d")] {
        let text = fs::read_to_string(units.join(format!("mcpfs.{kind}"))).unwrap();
        write(&root.join(place).join("mcpfs.conf"), &text);
    }
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    install("mcpfs", &root.join("usr/bin/mcpfs"));
}

/// A web server with the registry's site, on port 80, and on port 81 for those who have the token.
pub(crate) fn serve_site(root: &Path, registry: &Registry) {
    fs::create_dir(root.join("srv")).unwrap();
    copy_dir(&registry.site(), &root.join("srv/site"));
    let site = |port: u16, more: &str| {
        format!("server {{ listen 127.0.0.1:{port}; root /srv/site; default_type application/octet-stream; {more} }}\n")
    };
    let closed = format!("if ($http_authorization != \"Bearer {TOKEN}\") {{ return 401; }}");
    write(&root.join("etc/nginx/sites-enabled/default"), &(site(80, "") + &site(81, &closed)));
}

pub(crate) fn configure(etc: &Path, url: &str, more: &str) {
    let text = format!(
        "{more}\n[policy]\nsandbox = \"off\"\nallow_root = true\n\n[registry]\nurl = \"{url}\"\nrefresh = \"1h\"\n"
    );
    write(&etc.join("mcpfs.toml"), &text);
}

/// As a package does: a new file under the old name.
pub(crate) fn install(program: &str, at: &Path) {
    let new = at.with_extension("new");
    // A debug build is ten times larger than what it takes to run it.
    Run::new(need("strip", "binutils")).arg("-o").arg(&new).arg(bin(program)).ok();
    fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
    fs::rename(new, at).unwrap();
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Does things to the service, one after the other, while others read, launch and talk: none of them may fail.
pub(crate) fn under_load(on: &Installed, things: &[(&str, &dyn Fn())]) {
    under_load_with(Reads::Passthrough, on, things);
}

pub(super) fn under_load_with(reads: Reads, on: &Installed, things: &[(&str, &dyn Fn())]) {
    let (tree, source) = (on.machine.path("/mcp/hello/1.1.0/tree"), on.registry.artefacts().join("hello-1.1.0"));
    let files = files_below(&source);
    let mut session = on.session();
    let mounts = on.machine.mounts_at("/mcp");
    assert_eq!(mounts.len(), 1);
    // As long as this is open the kernel gives the mount's number to no other.
    let held = fs::File::open(on.machine.path("/mcp")).unwrap();
    let (over, launched) = (AtomicBool::new(false), AtomicU64::new(0));
    let compared: u64 = std::thread::scope(|scope| {
        let until = Until(&over);
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                let (tree, source, files, over) = (&tree, &source, &files, &over);
                scope.spawn(move || compare(tree, source, files, over, seed))
            })
            .collect();
        let launcher = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                drop(on.session());
                launched.fetch_add(1, Ordering::Relaxed);
            }
        });
        for (name, thing) in things {
            let before = launched.load(Ordering::Relaxed);
            thing();
            assert_eq!(session.call("echo", &json!({"message": name})), *name);
            wait_for("a launch after it", || {
                assert!(!launcher.is_finished(), "the launcher failed after {name}");
                (launched.load(Ordering::Relaxed) > before + 1).then_some(())
            });
            assert_eq!(on.machine.mounts_at("/mcp"), mounts, "{name}: another mount\n{}", on.journal());
        }
        drop(until);
        launcher.join().unwrap();
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(compared > 0);
    drop(held);
    on.mcpfs(["status"]).ok().says(&format!("reads {}", reads.word()));
    on.mcpfs(["audit", "verify"]).ok();
}
