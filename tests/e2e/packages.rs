//! The packages: what is in them, and the .deb from its installation to its purge under real systemd. Root only.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::installed::{Installed, UNIT, serve_site, write};
use mcpfs_tests::machine::Machine;
use mcpfs_tests::packages::build;
use mcpfs_tests::registry::{Registry, files_below};
use mcpfs_tests::scratch::{self, is_root, need, repository, wait_for};
use mcpfs_tests::suite::Suite;

use crate::systemd::under_load;

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.plain("packages::a_deb_is_installed_upgraded_and_purged", a_deb_is_installed_upgraded_and_purged);
    suite.plain("packages::an_rpm_holds_the_same", an_rpm_holds_the_same);
    suite.plain("packages::the_signers_come_and_go", the_signers_come_and_go);
    suite.plain("packages::the_engines_are_small", the_engines_are_small);
}

/// Its silence.
fn lintian(deb: &Path) {
    let said = Run::new(need("lintian", "lintian")).args(["--allow-root", "--fail-on", "error,warning"]).arg(deb).ok();
    assert_eq!(said.stdout.trim(), "", "{said}");
}

/// What is in a package, below a new folder: the .rpm's, the .deb's.
fn opened(dir: &Path, deb: &Path, rpm: &Path) -> (PathBuf, PathBuf) {
    let (from_rpm, from_deb) = (dir.join("rpm"), dir.join("deb"));
    fs::create_dir(&from_rpm).unwrap();
    let archive = Run::new(need("rpm2cpio", "rpm2cpio")).arg(rpm).ok().stdout_bytes;
    Run::new(need("cpio", "cpio")).args(["-id", "--quiet"]).dir(&from_rpm).stdin(archive).ok();
    Run::new(need("dpkg-deb", "dpkg")).arg("--extract").arg(deb).arg(&from_deb).ok();
    (from_rpm, from_deb)
}

/// Both kinds hold the same files of the same bytes, but for what belongs to one of the two families.
fn hold_the_same(name: &str, from_rpm: &Path, from_deb: &Path) {
    // Where the two families keep the same thing.
    let usual = |file: &String| -> Option<(String, String)> {
        let place = file.replace("usr/share/zsh/site-functions", "usr/share/zsh/vendor-completions");
        let place = place.strip_prefix("usr/lib/systemd/").map_or(place.clone(), |rest| format!("lib/systemd/{rest}"));
        let own = [format!("usr/share/doc/{name}/CHANGELOG.md"), format!("usr/share/licenses/{name}/LICENSE")];
        (!own.contains(file)).then(|| (file.clone(), place))
    };
    let inside: Vec<(String, String)> = files_below(from_rpm).iter().filter_map(usual).collect();
    for (file, place) in &inside {
        assert!(fs::read(from_rpm.join(file)).unwrap() == fs::read(from_deb.join(place)).unwrap(), "{file}");
    }
    let places: BTreeSet<String> = inside.into_iter().map(|(_, place)| place).collect();
    let own = ["changelog.gz", "changelog.Debian.gz", "copyright"].map(|file| format!("usr/share/doc/{name}/{file}"));
    let overrides = format!("usr/share/lintian/overrides/{name}");
    let of_deb = files_below(from_deb).into_iter().filter(|file| !own.contains(file) && *file != overrides);
    assert_eq!(of_deb.collect::<BTreeSet<_>>(), places);
}

/// What bash makes of a command's beginning, by the package's own file.
fn completed(name: &str, from_deb: &Path, typed: &str) -> String {
    // As bash itself does it: the function that the file names for the command.
    let script = "set -e; source \"$1\"; by=$(complete -p \"$2\"); by=${by#* -F }; \
                  COMP_WORDS=(\"$2\" \"$3\"); COMP_CWORD=1; ${by%% *} \"$2\" \"$3\" \"$2\"; echo \"${COMPREPLY[*]}\"";
    let file = from_deb.join("usr/share/bash-completion/completions").join(name);
    Run::new("bash").args(["-c", script, "bash"]).arg(file).args([name, typed]).ok().stdout.trim().to_owned()
}

fn a_deb_is_installed_upgraded_and_purged() {
    let dir = scratch::dir();
    let first = build("mcpfs", dir.path(), "1", &["deb"]).remove(0);
    let second = build("mcpfs", dir.path(), "2", &["deb"]).remove(0);
    let same = fs::read(&first).unwrap();
    lintian(&first);
    assert!(
        fs::read(build("mcpfs", dir.path(), "1", &["deb"]).remove(0)).unwrap() == same,
        "the same input, another package"
    );

    let registry = Registry::shared();
    let machine = Machine::boot(|root| serve_site(root, &registry));
    for (deb, name) in [(&first, "first.deb"), (&second, "second.deb")] {
        fs::copy(deb, machine.path("/var/tmp").join(name)).unwrap();
    }
    fs::create_dir(machine.path("/var/tmp/next")).unwrap();
    fs::copy(&second, machine.path("/var/tmp/next").join(second.file_name().unwrap())).unwrap();
    let on = Installed { machine, registry };
    let dpkg = |args: &[&str]| on.machine.run("dpkg").env("DEBIAN_FRONTEND", "noninteractive").args(args).ok();
    dpkg(&["--install", "/var/tmp/first.deb"]);
    // There, and at rest: nobody has said yet which registry.
    assert_eq!(on.machine.property(UNIT, "ActiveState"), "inactive");
    assert_eq!(on.machine.property(UNIT, "UnitFileState"), "disabled");
    on.mcpfs(["config", "check"]).exits(2).says("url");
    on.machine.sh("[ \"$(stat -c %U:%a /var/lib/mcpfs /var/cache/mcpfs | sort -u)\" = mcpfs:700 ] && [ -d /mcp ]").ok();

    let etc = on.machine.path("/etc/mcpfs");
    write(
        &etc.join("conf.d/site.toml"),
        "[registry]\nurl = \"http://127.0.0.1/\"\n[policy]\nsandbox = \"off\"\nallow_root = true\n",
    );
    fs::copy(on.registry.trust(), etc.join("trust.json")).unwrap();
    let edited = fs::read_to_string(etc.join("mcpfs.toml")).unwrap() + "# Ours.\n";
    fs::write(etc.join("mcpfs.toml"), &edited).unwrap();
    // As the file itself says.
    on.machine.sh("mcpfs config check && systemctl enable --now mcpfs.service mcpfs-trust.path").ok();
    let section = crate::docs::section("operating.md", "An upgrade");
    let upgrade = section.lines().find(|line| line.starts_with("apt-get install ")).expect("the command");
    under_load(
        &on,
        &[("upgrade as written", &|| {
            let before = on.main_pid();
            on.machine.sh(&format!("cd /var/tmp/next && {upgrade}")).env("DEBIAN_FRONTEND", "noninteractive").ok();
            on.another_than(before);
            let runs = fs::metadata(format!("/proc/{}/exe", on.machine.outside(on.main_pid()))).unwrap();
            assert_eq!(runs.ino(), on.machine.path("/usr/bin/mcpfs").metadata().unwrap().ino());
        })],
    );
    on.machine.run("dpkg-query").args(["--show", "--showformat", "${Version}", "mcpfs"]).ok().says("-2");
    assert_eq!(fs::read_to_string(etc.join("mcpfs.toml")).unwrap(), edited);

    dpkg(&["--remove", "mcpfs"]);
    assert!(on.machine.mounts_at("/mcp").is_empty(), "{}", on.journal());
    // What looks for a ruin may still be at it.
    wait_for("the end of all processes", || {
        (on.machine.run("pgrep").args(["-x", "mcpfs"]).run().code == 1).then_some(())
    });
    let failed = on.machine.run("systemctl").args(["list-units", "--failed", "--plain", "--no-legend", "mcpfs*"]).ok();
    assert_eq!(failed.stdout, "", "{}", on.machine.journal("mcpfs-failed.service"));
    assert!(on.machine.path("/var/lib/mcpfs/audit.db").exists(), "a removal keeps the audit");
    dpkg(&["--install", "/var/tmp/second.deb"]);
    on.machine.systemctl(["start", UNIT]);
    on.session();
    dpkg(&["--purge", "mcpfs"]);
    for gone in ["/var/lib/mcpfs", "/var/cache/mcpfs", "/mcp", "/etc/mcpfs/mcpfs.toml", "/usr/bin/mcpfs"] {
        assert!(on.machine.path(gone).symlink_metadata().is_err(), "{gone} is still there");
    }
    assert!(on.machine.mounts_at("/mcp").is_empty());
    assert!(etc.join("trust.json").exists(), "what somebody else put there is not the package's to remove");
    assert_eq!(on.machine.property(UNIT, "LoadState"), "not-found");
    on.machine.sh("! find /etc/systemd -name 'mcpfs*' | grep .").ok();
}

fn an_rpm_holds_the_same() {
    let dir = scratch::dir();
    let mut files = build("mcpfs", dir.path(), "1", &["deb", "rpm"]);
    let (rpm, deb) = (files.pop().unwrap(), files.pop().unwrap());
    let query = |args: &[&str]| Run::new(need("rpm", "rpm")).args(args).arg(&rpm).ok().stdout;
    let (from_rpm, from_deb) = opened(dir.path(), &deb, &rpm);
    hold_the_same("mcpfs", &from_rpm, &from_deb);
    assert_eq!(completed("mcpfs", &from_deb, "unm"), "unmount");
    assert_eq!(query(&["--query", "--configfiles", "--package"]).trim(), "/etc/mcpfs/mcpfs.toml");
    let owners = query(&["--query", "--package", "--queryformat", "[%{FILEUSERNAME}:%{FILEGROUPNAME}\\n]"]);
    assert_eq!(owners.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["root:root"]));
    assert!(query(&["--query", "--requires", "--package"]).lines().any(|line| line == "systemd"));

    // Its scripts, where they would run.
    let script = |tag: &str| query(&["--query", "--package", "--queryformat", &format!("%{{{tag}}}")]);
    let registry = Registry::shared();
    let machine = Machine::boot(|root| {
        Run::new("cp").arg("-a").arg(from_rpm.join("usr")).arg(from_rpm.join("etc")).arg(root).ok();
        serve_site(root, &registry);
    });
    let on = Installed { machine, registry };
    let run = |tag: &str, left: &str| on.machine.run("sh").args(["-euc", &script(tag), "sh", left]).ok();
    run("POSTIN", "1");
    run("POSTTRANS", "1");
    assert_eq!(on.machine.property(UNIT, "ActiveState"), "inactive");
    let etc = on.machine.path("/etc/mcpfs");
    write(
        &etc.join("conf.d/site.toml"),
        "[registry]\nurl = \"http://127.0.0.1/\"\n[policy]\nsandbox = \"off\"\nallow_root = true\n",
    );
    fs::copy(on.registry.trust(), etc.join("trust.json")).unwrap();
    on.machine.systemctl(["enable", "--now", UNIT]);
    under_load(
        &on,
        &[("upgrade by rpm", &|| {
            let before = on.main_pid();
            // In the order of an upgrade: the new one's, the old one's, and at the end.
            run("POSTIN", "2");
            run("PREUN", "1");
            run("POSTUN", "1");
            run("POSTTRANS", "2");
            on.another_than(before);
        })],
    );
    run("PREUN", "0");
    assert!(on.machine.mounts_at("/mcp").is_empty(), "{}", on.journal());
    run("POSTUN", "0");
    assert_eq!(on.machine.property(UNIT, "UnitFileState"), "disabled");
}

fn the_signers_come_and_go() {
    let dir = scratch::dir();
    let mut files = build("mcpfs-signer", dir.path(), "1", &["deb", "rpm"]);
    let (rpm, deb) = (files.pop().unwrap(), files.pop().unwrap());
    lintian(&deb);
    let (from_rpm, from_deb) = opened(dir.path(), &deb, &rpm);
    hold_the_same("mcpfs-signer", &from_rpm, &from_deb);
    assert_eq!(completed("mcpfs-signer", &from_deb, "rel"), "release");
    let example = "usr/share/doc/mcpfs-signer/examples";
    for file in ["registry/ci/check.sh", "registry/servers/hello.yaml"] {
        let template = repository().join("signer/templates").join(file);
        assert!(fs::read(from_deb.join(example).join(file)).unwrap() == fs::read(template).unwrap(), "{file}");
    }

    let machine = Machine::boot(|_| ());
    fs::copy(&deb, machine.path("/var/tmp/signer.deb")).unwrap();
    let dpkg = |args: &[&str]| machine.run("dpkg").env("DEBIAN_FRONTEND", "noninteractive").args(args).ok();
    dpkg(&["--install", "/var/tmp/signer.deb"]);
    let unit = "mcpfs-signer.service";
    assert_eq!(machine.property(unit, "UnitFileState"), "disabled");
    machine.run("mcpfs-signer").arg("--version").ok();
    machine
        .sh("[ \"$(stat -c %U:%a /etc/mcpfs-signer /etc/mcpfs-signer/secrets /srv/mcp | tr '\\n' ' ')\" = \
                \"root:755 root:700 mcpfs-signer:755 \" ]")
        .ok();
    // It is at rest until somebody has said what it signs, whatever is enabled.
    machine.systemctl(["enable", "--now", unit]);
    assert_eq!(machine.property(unit, "ActiveState"), "inactive");
    write(&machine.path("/etc/mcpfs-signer/serve.toml"), "# Ours.\n");
    write(&machine.path("/srv/mcp/site/head.json"), "{}\n");
    write(&machine.path("/var/lib/mcpfs-signer/tokens/token.object"), "a key\n");
    write(&machine.path("/var/lib/mcpfs-signer/work/tip"), "x\n");
    dpkg(&["--remove", "mcpfs-signer"]);
    assert!(machine.path("/var/lib/mcpfs-signer/work/tip").exists(), "a removal keeps what it works on");
    dpkg(&["--install", "/var/tmp/signer.deb"]);
    dpkg(&["--purge", "mcpfs-signer"]);
    for gone in ["/var/lib/mcpfs-signer/work", "/usr/bin/mcpfs-signer"] {
        assert!(machine.path(gone).symlink_metadata().is_err(), "{gone} is still there");
    }
    for kept in ["/etc/mcpfs-signer/serve.toml", "/srv/mcp/site/head.json", "/var/lib/mcpfs-signer/tokens/token.object"]
    {
        assert!(machine.path(kept).exists(), "{kept} is not the package's to remove");
    }
    assert_eq!(machine.property(unit, "LoadState"), "not-found");
}

fn the_engines_are_small() {
    let dir = scratch::dir();
    // It takes long to build, and what a package is does not hang on what its program does.
    let engine = dir.path().join("engine");
    fs::create_dir(&engine).unwrap();
    fs::copy(bin("hello-mcp"), engine.join("mcpfs-yara")).unwrap();
    let files = build("mcpfs-yara", dir.path(), "1", &["deb", "rpm"]);
    lintian(&files[0]);
    let (from_rpm, from_deb) = opened(dir.path(), &files[0], &files[1]);
    hold_the_same("mcpfs-yara", &from_rpm, &from_deb);
    assert!(
        from_deb.join("usr/bin/mcpfs-yara").is_file() && from_deb.join("usr/share/man/man1/mcpfs-yara.1.gz").is_file()
    );
}
