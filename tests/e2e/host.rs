//! Faults of the host itself: mount points, trust root, keys and tokens.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::hsm::Hsm;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{audit, forge};
use serde_json::{Value, json};

use crate::boundary::LOCAL_USER;
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("host::a_stale_mount_is_cleared_at_start", a_stale_mount_is_cleared_at_start);
    suite.plain("host::a_busy_mount_point", a_busy_mount_point);
    suite.plain("host::a_missing_mount_point", a_missing_mount_point);
    suite.plain("host::a_cache_below_the_mount_point", a_cache_below_the_mount_point);
    suite.plain("host::mount_detaches_by_itself", mount_detaches_by_itself);
    suite.attack(
        Attack::new(
            LOCAL_USER,
            "host::a_trust_root_that_others_can_write",
            "a trust.json, or a directory on the way to it, that others can write",
            &["TrustRootUnsafe"],
        ),
        a_trust_root_that_others_can_write,
    );
    suite.plain("host::trust_roots_with_bad_keys", trust_roots_with_bad_keys);
    suite.plain("host::bad_configuration_names_its_line", bad_configuration_names_its_line);
    suite.plain("host::a_wrong_pin_is_tried_once", a_wrong_pin_is_tried_once);
    suite.plain("host::a_missing_token", a_missing_token);
}

/// `mcpfs mount --foreground` that must refuse.
fn mount_refuses(host: &Host) -> Ran {
    let ran = host.mcpfs(["mount", "--foreground"]).run();
    assert!(ran.code != 0 && ran.code < 100, "expected a refusal: {ran}");
    assert!(!ran.text().contains("panicked"), "{ran}");
    assert!(!is_mounted(&host.mcp()));
    ran
}

fn a_stale_mount_is_cleared_at_start(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let worker = mount.server();
    mount.kill();
    // Nobody waits for a daemon that is gone: with the supervisor its worker ends, and what is mounted is a ruin.
    wait_for("the worker's end", || (!Path::new(&format!("/proc/{worker}")).exists()).then_some(()));
    assert_eq!(errno(std::fs::read(world.run("hello"))), libc::ENOTCONN);
    assert!(is_mounted(&world.host.mcp()));
    let _mount = Mount::start(&world.host);
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}

fn a_busy_mount_point() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    let second = world.host.mcpfs(["mount", "--foreground"]).run();
    assert!(second.code == 1, "a served mount is not taken away: {second}");
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}

fn a_missing_mount_point() {
    let world = World::new(Reads::Cached);
    std::fs::remove_dir(world.host.mcp()).unwrap();
    mount_refuses(&world.host).says(world.host.mcp().to_str().unwrap());
    std::fs::write(world.host.mcp(), "a file").unwrap();
    mount_refuses(&world.host).says("directory");
}

/// Else the daemon asks itself for its own files, and waits.
fn a_cache_below_the_mount_point() {
    let world = World::new(Reads::Cached);
    std::os::unix::fs::symlink(world.host.mcp(), world.host.path("link")).unwrap();
    for place in [world.host.at("cache"), world.host.path("link/a/b")] {
        world.host.drop_in("50-cache", &format!("[cache]\ndir = \"{}\"\n", place.display()));
        mount_refuses(&world.host).says("lies below the mount point");
    }
    assert_eq!(std::fs::read_dir(world.host.mcp()).unwrap().count(), 0);
}

fn mount_detaches_by_itself() {
    let world = World::new(Reads::Cached);
    // Named from where a person stands, which is not where a daemon stays.
    let mount = Run::new(bin("mcpfs")).args(["--config", "etc/mcpfs.toml", "mount", "--at", "mcp"]);
    mount.dir(&world.host.path("")).ok();
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    // Who listens on the control socket is the daemon.
    let socket = std::os::unix::net::UnixStream::connect(world.host.rundir().join("control.sock")).unwrap();
    let pid = rustix::net::sockopt::socket_peercred(&socket).unwrap().pid;
    drop(socket);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_for("the mount to go", || (!is_mounted(&world.host.mcp())).then_some(()));
}

fn a_trust_root_that_others_can_write() {
    let world = World::new(Reads::Cached);
    for mode in [0o664, 0o646, 0o666] {
        std::fs::set_permissions(world.host.trust(), PermissionsExt::from_mode(mode)).unwrap();
        mount_refuses(&world.host).says("TrustRootUnsafe");
    }
    std::fs::set_permissions(world.host.trust(), PermissionsExt::from_mode(0o644)).unwrap();
    // A directory that others can write lets them replace the file.
    std::fs::set_permissions(world.host.path("etc"), PermissionsExt::from_mode(0o777)).unwrap();
    mount_refuses(&world.host).says("can be written by others");
    std::fs::remove_file(world.host.trust()).unwrap();
    std::fs::set_permissions(world.host.path("etc"), PermissionsExt::from_mode(0o755)).unwrap();
    mount_refuses(&world.host).says("trust.json");
}

fn trust_roots_with_bad_keys() {
    let world = World::new(Reads::Cached);
    let good = forge::read(&world.registry.trust());
    let mut bad: Vec<(&str, Value)> = Vec::new();
    let mut change = |name, edit: &dyn Fn(&mut Value)| {
        let mut root = good.clone();
        edit(&mut root);
        bad.push((name, root));
    };
    // The identity element: every signature with s = 0 would verify.
    change("a weak key", &|root| {
        root["keys"][0]["public"] = json!("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    });
    change("a duplicate key", &|root| {
        let key = root["keys"][0].clone();
        root["keys"].as_array_mut().unwrap().push(key);
    });
    change("a wrong id", &|root| root["keys"][0]["id"] = json!("00".repeat(32)));
    change("a threshold of zero", &|root| root["head"]["threshold"] = json!(0));
    change("a threshold above the keys", &|root| root["head"]["threshold"] = json!(2));
    change("an unknown field", &|root| root["extra"] = json!(1));
    change("one key in both roles", &|root| {
        root["release"][0]["require"][0]["keys"] = root["head"]["keys"].clone();
    });
    let words = ["weak", "twice", "id", "threshold is 0", "threshold", "extra", "head"];
    for ((name, root), says) in bad.into_iter().zip(words) {
        forge::write(&world.host.trust(), &root);
        let ran = mount_refuses(&world.host);
        assert!(ran.text().contains("trust.json"), "{name}: {ran}");
        // The audit is open before the trust root is read, so the refusal is a row with the same words.
        let rows = audit::rows(&world.host);
        let row = rows.iter().rfind(|row| row.event == "trust").unwrap_or_else(|| panic!("{name}: no row"));
        let reason = row.reason.clone().unwrap_or_default();
        assert!(row.outcome != "ok" && ran.text().contains(&row.outcome), "{name}: {row:?} {ran}");
        assert!(reason.contains(says) && ran.text().contains(says), "{name}: expected {says:?}: {row:?} {ran}");
    }
    let twice = std::fs::read_to_string(world.registry.trust()).unwrap().replacen('{', "{\"version\": 1, ", 1);
    std::fs::write(world.host.trust(), twice).unwrap();
    mount_refuses(&world.host).says("trust.json");
    forge::write(&world.host.trust(), &good);
    Mount::start(&world.host).stop();
}

fn bad_configuration_names_its_line() {
    let world = World::new(Reads::Cached);
    world.host.drop_in("50-typo", "[policy]\nsandbocks = \"off\"\n");
    let ran = mount_refuses(&world.host);
    assert!(ran.stderr.contains("50-typo.toml:2") && ran.stderr.contains("sandbox"), "{ran}");
}

fn a_wrong_pin_is_tried_once() {
    let hsm = Hsm::new();
    hsm.signer().args(["keys", "generate", "--key"]).arg(hsm.uri("k")).ok();
    let pin = std::fs::read(hsm.pin_file()).unwrap();
    std::fs::write(hsm.pin_file(), "000000\n").unwrap();
    let ran = hsm.signer().args(["keys", "show", "--key"]).arg(hsm.uri("k")).exits(1);
    assert!(ran.stderr.contains("PIN") && !ran.stderr.contains("000000"), "{ran}");
    // SoftHSM sets a flag on the first wrong PIN and another before it locks: only the first may be set.
    let slots = hsm.pkcs11_tool().arg("--list-token-slots").run().text();
    assert!(!slots.contains("final user PIN try") && !slots.contains("user PIN locked"), "{slots}");
    std::fs::write(hsm.pin_file(), pin).unwrap();
    hsm.signer().args(["keys", "show", "--key"]).arg(hsm.uri("k")).ok();
    std::fs::set_permissions(hsm.pin_file(), PermissionsExt::from_mode(0o644)).unwrap();
    hsm.signer().args(["keys", "show", "--key"]).arg(hsm.uri("k")).exits(1).says("pin");
}

fn a_missing_token() {
    let hsm = Hsm::new();
    let other = hsm.uri("k").replace("token=mcpfs", "token=elsewhere");
    hsm.signer().args(["keys", "show", "--key"]).arg(&other).exits(1).says("elsewhere");
    hsm.signer().args(["keys", "show", "--key"]).arg(hsm.uri("nobody")).exits(1).says("nobody");
    let nowhere = hsm.uri("k").replace("libsofthsm2.so", "libnothere.so");
    hsm.signer().args(["keys", "show", "--key"]).arg(&nowhere).exits(1).says("libnothere.so");
}
