//! What stands between a host and its registry in companies: proxies that forward and proxies that keep.

use std::os::unix::fs::PermissionsExt;

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::proxy::{CachingProxy, ForwardProxy};
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::{is_root, need};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;
use mcpfs_tests::tls::{Asks, TlsSite};

use crate::world::{World, flip};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("proxies::everything_goes_through_the_proxy", everything_goes_through_the_proxy);
    suite.plain("proxies::a_proxy_that_wants_a_login", a_proxy_that_wants_a_login);
    suite.mounted("proxies::a_proxy_that_keeps_a_torn_copy", a_proxy_that_keeps_a_torn_copy);
}

fn reads_large(host: &Host, registry: &Registry) {
    let _mount = Mount::start(host);
    host.refresh();
    let large = std::fs::read(host.at("files/1.0.0/tree/large")).unwrap();
    assert!(large == std::fs::read(registry.artefacts().join("files/large")).unwrap());
}

/// Two registries' worth of connections: in the clear, and a tunnel for TLS.
fn everything_goes_through_the_proxy(reads: Reads) {
    let registry = Registry::shared();
    let proxy = ForwardProxy::open();
    let set = |host: &Host, more: &str| {
        host.drop_in("50-proxy", &format!("[registry]\nproxy = \"http://{}\"\n{more}", proxy.address()));
    };
    let plain = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &plain.url(), reads);
    set(&host, "");
    reads_large(&host, &registry);
    assert!(proxy.log().contains("GET http://127.0.0.1:"), "{}", proxy.log());

    let tls = TlsSite::serve(&registry.site(), Asks::Nothing);
    let host = Host::new(&registry.trust(), &tls.url(), reads);
    set(&host, &format!("ca_file = {:?}\n", tls.authority().display().to_string()));
    reads_large(&host, &registry);
    assert!(proxy.log().contains("CONNECT localhost:"), "{}", proxy.log());
    // It is the only way: without it nothing comes.
    let gone = proxy.address();
    drop(proxy);
    let fresh = Host::new(&registry.trust(), &plain.url(), reads);
    fresh.drop_in("50-proxy", &format!("[registry]\nproxy = \"http://{gone}\"\n"));
    let _mount = Mount::start(&fresh);
    fresh.refresh_fails("Unreachable");
}

fn a_proxy_that_wants_a_login() {
    let registry = Registry::shared();
    let proxy = ForwardProxy::for_user("joe", "hunter_2");
    let plain = Site::serve(&registry.site());
    let tls = TlsSite::serve(&registry.site(), Asks::Nothing);
    for (url, more) in
        [(plain.url(), String::new()), (tls.url(), format!("ca_file = {:?}\n", tls.authority().display().to_string()))]
    {
        let host = Host::new(&registry.trust(), &url, Reads::Cached);
        host.drop_in("50-proxy", &format!("[registry]\nproxy = \"http://{}\"\n{more}", proxy.address()));
        let mount = Mount::start(&host);
        host.refresh_fails("Unreachable").says("the proxy wants a login (407)").says("registry.proxy");
        mount.stop();
        // As that says; and not for all to read.
        let address = format!("http://joe:hunter%5F2@{}", proxy.address());
        host.drop_in("50-proxy", &format!("[registry]\nproxy = {address:?}\n{more}"));
        let ran = host.mcpfs(["config", "check"]).exits(2).says("others can read this file").says("50-proxy.toml:2");
        assert!(!ran.text().contains("hunter"), "{ran}");
        let file = host.path("etc/conf.d/50-proxy.toml");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        if is_root() {
            Run::new("chgrp").arg("mcpfs").arg(&file).ok();
        }
        let ran = host.mcpfs(["config", "check"]).ok();
        assert!(!ran.text().contains("hunter"), "{ran}");
        reads_large(&host, &registry);
        let log = std::fs::read_to_string(host.path("mount.log")).unwrap();
        assert!(!log.contains("hunter"), "{log}");
        let rows = audit::listing(&audit::rows(&host));
        assert!(!rows.contains("hunter"), "{rows}");
    }
}

/// The origin is right again, but the proxy would give its wrong copy for an hour.
fn a_proxy_that_keeps_a_torn_copy(reads: Reads) {
    let world = World::new(reads);
    let proxy = CachingProxy::of(&world.site.url());
    let objects: Vec<_> = world.copy.files().into_iter().filter(|file| file.starts_with("objects/")).collect();
    for object in &objects {
        let whole = std::fs::read(world.file(object)).unwrap();
        flip(&world.file(object), whole.len() / 2);
        Run::new(need("curl", "curl"))
            .args(["-sS", "--fail", "--noproxy", "*", "-o", "/dev/null"])
            .arg(format!("{}{object}", proxy.url()))
            .ok();
        std::fs::write(world.file(object), whole).unwrap();
    }
    world.host.configure(&proxy.url());
    let _mount = Mount::start(&world.host);
    for file in ["large", "twin", "size-131073", "many/299.txt"] {
        let shown = std::fs::read(world.host.at(&format!("files/1.0.0/tree/{file}"))).unwrap();
        assert!(shown == std::fs::read(world.source("files").join(file)).unwrap(), "{file}");
    }
    let answered = proxy.answered();
    let how =
        |how: &str| answered.iter().filter(|(path, status)| path.starts_with("/objects/") && status == how).count();
    assert_eq!(how("MISS"), objects.len(), "only curl met an empty proxy: {answered:?}");
    assert!(how("HIT") > 0 && how("BYPASS") == how("HIT"), "each torn copy was passed by once: {answered:?}");
    audit::wait(&world.host, "DigestMismatch", None);
}
