//! What a worker begins with that takes another's place: what that one had in force, and nothing that has
//! merely been written to the disk since. Root only.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use mcpfs_tests::audit;
use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::suite::Suite;
use mcpfs_tests::tls::{Asks, TlsSite};
use serde_json::json;

use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    if !is_root() {
        return;
    }
    suite.mounted("successor::reloads_at_once", reloads_at_once);
    suite.mounted("successor::killed_while_it_reloads", killed_while_it_reloads);
    suite.mounted("successor::an_edit_counts_from_the_reload", an_edit_counts_from_the_reload);
    suite.mounted("successor::what_cannot_be_used_takes_nobodys_mount", what_cannot_be_used_takes_nobodys_mount);
    suite.mounted("successor::where_things_are_holds_until_a_restart", where_things_are_holds_until_a_restart);
    suite.mounted("successor::a_token_moves_with_a_reload", a_token_moves_with_a_reload);
    suite.mounted("successor::without_its_certificates_it_serves_what_is_cached", without_its_certificates);
}

const TWIN: &str = "files/1.0.0/tree/twin";

fn twin(host: &Host) -> std::io::Result<Vec<u8>> {
    fs::read(host.at(TWIN))
}

fn reload(mount: &Mount<'_>, host: &Host) {
    // The configuration that a command would read may be one that it cannot.
    let audit = host.audit_db();
    let query = |event: &str| {
        let args = ["--json", "audit", "query", "--limit", "0", "--event", event, "--db"];
        Run::new(bin("mcpfs")).args(args).arg(&audit).ok().stdout.matches("\"event\"").count()
    };
    let rows = || query("config") + query("trust");
    let before = rows();
    mount.reload();
    wait_for("the reload's row", || (rows() > before).then_some(()));
}

fn an_edit_counts_from_the_reload(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    twin(&world.host).unwrap();
    world.host.drop_in("50-hide", "[policy]\nhide = [\"files\"]\n");
    mount.kill_worker();
    assert_eq!(twin(&world.host).unwrap(), b"deep\n", "nobody has said that it is to count");
    let standby = mount.standby();
    reload(&mount, &world.host);
    assert_eq!(errno(twin(&world.host)), libc::EACCES);
    // The one that stood by had been handed what is no longer in force.
    wait_for("another one", || (mount.standby() != standby).then_some(()));
    for _ in 0..2 {
        mount.kill_worker();
        assert_eq!(errno(twin(&world.host)), libc::EACCES);
    }
    fs::remove_file(world.host.path("etc/conf.d/50-hide.toml")).unwrap();
    mount.kill_worker();
    assert_eq!(errno(twin(&world.host)), libc::EACCES);
    // Not only a signal takes it over.
    let (standby, before) = (mount.standby(), mount.log().matches(" mounted at ").count());
    world.host.mcpfs(["pin", "hello", "1.0.0"]).ok();
    assert_eq!(twin(&world.host).unwrap(), b"deep\n");
    wait_for("another one", || (mount.standby() != standby).then_some(()));
    mount.kill_worker();
    assert!(mount.log().matches(" mounted at ").count() > before);
    assert_eq!(twin(&world.host).unwrap(), b"deep\n");
    world.host.mcpfs(["status"]).ok();
}

/// A worker may have put a trust root into force, which nobody goes back behind, and die before it has told.
fn killed_while_it_reloads(reads: Reads) {
    let world = World::new(reads);
    let first = forge::read(&world.registry.trust());
    let version = first["version"].as_u64().expect("a number");
    let mount = Mount::start(&world.host);
    let mut newest = version;
    for turn in 1..=30 {
        let mut root = first.clone();
        root["version"] = json!(version + turn);
        forge::write(&world.host.trust(), &root);
        mount.reload();
        // At another moment each time.
        std::thread::sleep(std::time::Duration::from_micros(1500 * (turn % 15)));
        mount.kill_worker();
        assert_eq!(
            twin(&world.host).unwrap_or_else(|error| panic!("turn {turn}: {error}\n{}", mount.log())),
            b"deep\n"
        );
        let now = world.host.mcpfs(["--json", "status"]).ok().json()["trust_version"].as_u64().expect("a number");
        assert!((newest..=version + turn).contains(&now), "{now} after {newest}, at turn {turn}\n{}", mount.log());
        newest = now;
    }
    reload(&mount, &world.host);
    let now = world.host.mcpfs(["--json", "status"]).ok().json()["trust_version"].as_u64();
    assert_eq!(now, Some(version + 30));
    assert!(!audit::has(&world.host, "TrustRollback", None));
}

fn what_cannot_be_used_takes_nobodys_mount(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let open = fs::File::open(world.host.at("hello/1.1.0/tree/bin/VERSION")).unwrap();
    let whole = fs::read(world.host.trust()).unwrap();
    let main = fs::read_to_string(world.host.config()).unwrap();
    let still_served = |what: &str| {
        for _ in 0..2 {
            mount.kill_worker();
            assert_eq!(twin(&world.host).unwrap(), b"deep\n", "{what}: {}", mount.log());
            let mut byte = [0];
            assert_eq!(open.read_at(&mut byte, 0).unwrap(), 1, "{what}");
        }
    };
    for (what, text) in [("an unknown key", "[polcy]\n"), ("half a file", "[policy"), ("a wrong value", "user = 1\n")] {
        world.host.drop_in("50-bad", text);
        still_served(what);
        reload(&mount, &world.host);
        still_served(what);
        world.host.mcpfs(["config", "check"]).exits(2).says("50-bad.toml:1");
    }
    fs::remove_file(world.host.path("etc/conf.d/50-bad.toml")).unwrap();
    fs::remove_file(world.host.config()).unwrap();
    still_served("no configuration");
    fs::write(world.host.config(), main).unwrap();
    fs::set_permissions(world.host.config(), PermissionsExt::from_mode(0o666)).unwrap();
    still_served("a configuration that others can write");
    fs::set_permissions(world.host.config(), PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(world.host.trust(), &whole[..whole.len() / 2]).unwrap();
    still_served("half a trust root");
    reload(&mount, &world.host);
    still_served("half a trust root that a reload refused");
    fs::remove_file(world.host.trust()).unwrap();
    still_served("no trust root");
    fs::write(world.host.trust(), whole).unwrap();
    reload(&mount, &world.host);
    still_served("all of it");
}

fn where_things_are_holds_until_a_restart(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let large = world.source("files").join("large");
    let open = fs::File::open(world.host.at("files/1.0.0/tree/large")).unwrap();
    let place = |name: &str| world.host.path(name).display().to_string();
    let other = match reads {
        Reads::Cached => "auto",
        Reads::Passthrough => "cached",
    };
    for (key, toml) in [
        ("cache.dir", format!("[cache]\ndir = {:?}\n", place("another-cache"))),
        ("state", format!("state = {:?}\n", place("another-state"))),
        ("rundir", "rundir = \"/run/mcpfs-another\"\n".to_owned()),
        ("user", "user = \"daemon\"\n".to_owned()),
        ("mount.at", format!("[mount]\nat = {:?}\n", place("another-mount"))),
        ("mount.reads", format!("[mount]\nreads = {other:?}\n")),
        ("cache.quota", "[cache]\nquota = \"3GiB\"\n".to_owned()),
    ] {
        world.host.drop_in("50-moved", &toml);
        reload(&mount, &world.host);
        let when = if key == "mount.reads" { "stopped and started" } else { "restarted" };
        assert!(mount.log().contains(&format!("{key} changed; it takes effect when mcpfs is {when}")), "{key}");
        for _ in 0..2 {
            mount.kill_worker();
            assert_eq!(twin(&world.host).unwrap(), b"deep\n", "{key}: {}", mount.log());
            assert!(fs::read(world.host.at("files/1.0.0/tree/large")).unwrap() == fs::read(&large).unwrap(), "{key}");
            let mut bytes = vec![0; 4096];
            open.read_exact_at(&mut bytes, 1 << 16).unwrap();
            assert!(bytes == fs::read(&large).unwrap()[1 << 16..(1 << 16) + 4096], "{key}");
        }
    }
    assert!(!world.host.path("another-cache").exists() && !world.host.path("another-state").exists());
}

fn tls_host(site: &TlsSite, registry: &Registry, reads: Reads) -> Host {
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let ca = host.path("etc/ca.pem");
    fs::copy(site.authority(), &ca).unwrap();
    host.drop_in("20-ca", &format!("[registry]\nca_file = {:?}\n", ca.display().to_string()));
    host
}

fn a_token_moves_with_a_reload(reads: Reads) {
    let registry = Registry::shared();
    let mut site = TlsSite::serve(&registry.site(), Asks::Token("the-first"));
    let host = tls_host(&site, &registry, reads);
    let token = |name: &str, text: &str| {
        let path = host.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        host.drop_in("30-token", &format!("[registry]\ntoken_file = {:?}\n", path.display().to_string()));
    };
    token("etc/first", "the-first\n");
    let mount = Mount::start(&host);
    host.refresh();
    site.restart(Asks::Token("the-second"));
    token("etc/second", "the-second\n");
    reload(&mount, &host);
    host.refresh();
    mount.kill_worker();
    host.refresh();
    // One that is refused changes nothing of what is in force: the token is still found where it was.
    host.drop_in("50-bad", "[registry]\ntoken_file = \"/nowhere\"\n[polcy]\n");
    reload(&mount, &host);
    fs::remove_file(host.path("etc/conf.d/50-bad.toml")).unwrap();
    site.restart(Asks::Token("the-third"));
    assert!(host.mcpfs(["refresh"]).exits(3).stderr.contains("check token"));
    fs::write(host.path("etc/second"), "the-third\n").unwrap();
    host.refresh();
}

fn without_its_certificates(reads: Reads) {
    let registry = Registry::shared();
    let site = TlsSite::serve(&registry.site(), Asks::Nothing);
    let host = tls_host(&site, &registry, reads);
    let mount = Mount::start(&host);
    twin(&host).unwrap();
    let ca = fs::read(host.path("etc/ca.pem")).unwrap();
    fs::write(host.path("etc/ca.pem"), "nothing of the kind\n").unwrap();
    mount.kill_worker();
    assert_eq!(twin(&host).unwrap(), b"deep\n", "{}", mount.log());
    let said = host.mcpfs(["refresh"]).exits(3).stderr;
    assert!(said.contains("ca.pem") && said.contains("reload mcpfs"), "{said}");
    assert_eq!(errno(fs::read(host.at("files/1.0.0/tree/large"))), libc::EHOSTUNREACH);
    fs::write(host.path("etc/ca.pem"), ca).unwrap();
    reload(&mount, &host);
    host.refresh();
    let large = fs::read(host.at("files/1.0.0/tree/large")).unwrap();
    assert!(large == fs::read(registry.artefacts().join("files/large")).unwrap());
}

/// Two offers of a configuration that are on their way at once are not taken for one.
fn reloads_at_once(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let worker = mount.server();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let answer = mcpfs_tests::control::asks(&world.host, &serde_json::json!({"v": 1, "op": "reload"}));
                    assert_eq!(answer["ok"], serde_json::json!({}), "{answer}");
                }
            });
        }
    });
    assert_eq!(mount.server(), worker, "{}", mount.log());
}
