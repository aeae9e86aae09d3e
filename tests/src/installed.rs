//! A machine on which mcpfs is installed, under its own unit.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};

use crate::binaries::bin;
use crate::command::Run;
use crate::machine::Machine;
use crate::mcp::McpClient;
use crate::registry::Registry;
use crate::scratch::{copy_dir, need, repository, wait_for};

/// The host's service.
pub const UNIT: &str = "mcpfs.service";
/// What `systemd/` has.
pub const UNITS: [&str; 6] = [
    "mcpfs.service",
    "mcpfs@.service",
    "mcpfs-failed.service",
    "mcpfs-failed@.service",
    "mcpfs-trust.path",
    "mcpfs-trust.service",
];
/// What the site on port 81 wants to be told.
pub const TOKEN: &str = "a-token-that-only-root-reads";

/// A machine with mcpfs installed as a package would, and a web server with the registry's site.
#[derive(Debug)]
pub struct Installed {
    /// The machine.
    pub machine: Machine,
    /// Whose site it follows.
    pub registry: Arc<Registry>,
}

impl Default for Installed {
    fn default() -> Self {
        Self::new()
    }
}

impl Installed {
    /// At rest; the units lie where a package puts them.
    pub fn new() -> Self {
        let registry = Registry::shared();
        let machine = Machine::boot(|root| fill(root, &registry));
        machine.sh("systemd-sysusers && systemd-tmpfiles --create /usr/lib/tmpfiles.d/mcpfs.conf").ok();
        Self { machine, registry }
    }

    /// Enabled and started.
    pub fn started() -> Self {
        let installed = Self::new();
        let started = installed.machine.run("systemctl").args(["enable", "--now", UNIT, "mcpfs-trust.path"]).run();
        assert!(started.code == 0, "{started}\n{}", installed.journal());
        installed
    }

    /// Enabled and started as well, out of a package, with this in a file of `conf.d`.
    pub fn of_package(deb: &Path, more: &str) -> Self {
        let registry = Registry::shared();
        let machine = Machine::boot(|root| {
            serve_site(root, &registry);
            configure(&root.join("etc/mcpfs"), "http://127.0.0.1/", "");
            write(&root.join("etc/mcpfs/conf.d/50-more.toml"), more);
            fs::copy(registry.trust(), root.join("etc/mcpfs/trust.json")).expect("own directory");
        });
        let installed = Self { machine, registry };
        installed.install_package(deb);
        installed.machine.systemctl(["enable", "--now", UNIT]);
        installed
    }

    /// Installs a package, or upgrades to it. A file that is there already is the administrator's.
    pub fn install_package(&self, deb: &Path) {
        let place = Path::new("/var/tmp").join(deb.file_name().expect("a file"));
        fs::copy(deb, self.machine.path(&place.display().to_string())).expect("own directory");
        let dpkg = self.machine.run("dpkg").env("DEBIAN_FRONTEND", "noninteractive").arg("--force-confold");
        dpkg.arg("--install").arg(place).ok();
    }

    /// The supervisor's number in the machine; 0 if there is none.
    pub fn main_pid(&self) -> u32 {
        self.machine.property(UNIT, "MainPID").parse().expect("a number")
    }

    /// The worker's number, as this machine numbers it, and the supervisor's.
    pub fn processes(&self) -> (u32, u32) {
        let supervisor = self.machine.outside(self.main_pid());
        let children = format!("/proc/{supervisor}/task/{supervisor}/children");
        let worker =
            wait_for("a worker", || fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok());
        (worker, supervisor)
    }

    /// Its number, as soon as a process other than `before` is ready.
    pub fn another_than(&self, before: u32) -> u32 {
        wait_for("another supervisor", || {
            // Both of one moment.
            let said = self.machine.systemctl(["show", "--property", "ActiveState,MainPID", UNIT]).stdout;
            let ready = said.lines().any(|line| line == "ActiveState=active");
            let pid = said.lines().find_map(|line| line.strip_prefix("MainPID=")?.parse().ok());
            pid.filter(|&pid| ready && pid != 0 && pid != before)
        })
    }

    /// A conversation with the server `hello`.
    ///
    /// # Panics
    /// If it is not the version that the registry selects.
    pub fn session(&self) -> McpClient {
        let mut session = self.hello();
        assert_eq!(session.initialize()["serverInfo"]["version"], "1.1.0");
        session
    }

    /// The server `hello`, started and nothing more.
    pub fn hello(&self) -> McpClient {
        McpClient::start_with(self.machine.command("/mcp/hello/run"))
    }

    /// What the service wrote, and systemd about it.
    pub fn journal(&self) -> String {
        self.machine.journal(UNIT)
    }

    /// `mcpfs` with these arguments, in the machine.
    pub fn mcpfs<const N: usize>(&self, args: [&str; N]) -> Run {
        self.machine.run("mcpfs").args(args)
    }

    /// Waits until a unit is in this state.
    pub fn is(&self, unit: &str, state: &str) {
        wait_for(&format!("{unit} to be {state}"), || {
            (self.machine.property(unit, "ActiveState") == state).then_some(())
        });
    }

    /// Waits until nothing is mounted there.
    pub fn gone(&self, at: &str) {
        wait_for("the end of the mount", || self.machine.mounts_at(at).is_empty().then_some(()));
    }

    /// Lays a drop-in over a unit.
    pub fn drop_in(&self, unit: &str, text: &str) {
        write(&self.machine.path(&format!("/etc/systemd/system/{unit}.d/test.conf")), text);
        self.machine.systemctl(["daemon-reload"]);
    }

    /// Kills all of a service until systemd's limit is reached.
    pub fn kill_for_good(&self, unit: &str) {
        wait_for("systemd to give up", || {
            // Between two starts there is nothing to kill.
            self.machine.run("systemctl").args(["kill", "--signal=KILL", "--kill-whom=all", unit]).run();
            (self.machine.property(unit, "ActiveState") == "failed").then_some(())
        });
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the journal\n{}", self.machine.journal("mcpfs*"));
        }
    }
}

/// Writes a file, and the directories above it.
pub fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().expect("own directory")).expect("own directory");
    fs::write(file, text).expect("own directory");
}

fn fill(root: &Path, registry: &Registry) {
    programs(root);
    serve_site(root, registry);
    configure(&root.join("etc/mcpfs"), "http://127.0.0.1/", "");
    fs::copy(registry.trust(), root.join("etc/mcpfs/trust.json")).expect("own directory");
}

/// What a package brings.
pub fn programs(root: &Path) {
    let units = repository().join("systemd");
    for unit in UNITS {
        let text = fs::read_to_string(units.join(unit)).expect("own directory");
        write(&root.join("usr/lib/systemd/system").join(unit), &text);
    }
    for (kind, place) in [("sysusers", "usr/lib/sysusers.d"), ("tmpfiles", "usr/lib/tmpfiles.d")] {
        let text = fs::read_to_string(units.join(format!("mcpfs.{kind}"))).expect("own directory");
        write(&root.join(place).join("mcpfs.conf"), &text);
    }
    fs::create_dir_all(root.join("usr/bin")).expect("own directory");
    install("mcpfs", &root.join("usr/bin/mcpfs"));
}

/// A web server with the registry's site, on port 80, and on port 81 for those who have the token.
pub fn serve_site(root: &Path, registry: &Registry) {
    fs::create_dir(root.join("srv")).expect("own directory");
    copy_dir(&registry.site(), &root.join("srv/site"));
    let site = |port: u16, more: &str| {
        format!("server {{ listen 127.0.0.1:{port}; root /srv/site; default_type application/octet-stream; {more} }}\n")
    };
    let closed = format!("if ($http_authorization != \"Bearer {TOKEN}\") {{ return 401; }}");
    write(&root.join("etc/nginx/sites-enabled/default"), &(site(80, "") + &site(81, &closed)));
}

/// `mcpfs.toml` in `etc`, with `more` at its beginning.
pub fn configure(etc: &Path, url: &str, more: &str) {
    let text = format!(
        "{more}\n[policy]\nsandbox = \"off\"\nallow_root = true\n\n[registry]\nurl = \"{url}\"\nrefresh = \"1h\"\n"
    );
    write(&etc.join("mcpfs.toml"), &text);
}

/// As a package does: a new file under the old name.
pub fn install(program: &str, at: &Path) {
    let new = at.with_extension("new");
    // A debug build is ten times larger than what it takes to run it.
    Run::new(need("strip", "binutils")).arg("-o").arg(&new).arg(bin(program)).ok();
    fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).expect("own directory");
    fs::rename(new, at).expect("own directory");
}

/// Sends a signal to a process, as this machine numbers it.
pub fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).expect("a pid"), signal).expect("root may");
}
