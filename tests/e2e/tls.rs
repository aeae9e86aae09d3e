//! The whole way over HTTPS: a private authority, client certificates, tokens. Content is fetched
//! when it is read, by the same client.

use std::os::unix::fs::PermissionsExt;

use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::suite::Suite;
use mcpfs_tests::tls::{Asks, TlsSite};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("tls::a_private_authority", a_private_authority);
    suite.plain("tls::a_clock_out_of_the_certificates_time", a_clock_out_of_the_certificates_time);
    suite.plain("tls::a_client_certificate", a_client_certificate);
    suite.plain("tls::a_token", a_token);
    suite.mounted("tls::a_token_is_exchanged", a_token_is_exchanged);
    suite.mounted("tls::http2", http2);
}

/// A host of the shared registry that reads it here, with these lines under `[registry]`.
fn host(site: &TlsSite, registry: &Registry, reads: Reads, more: &str) -> Host {
    let host = Host::new(&registry.trust(), &site.url(), reads);
    set(&host, &format!("ca_file = {:?}\n{more}", site.authority().display().to_string()));
    host
}

fn set(host: &Host, more: &str) {
    host.drop_in("50-tls", &format!("[registry]\n{more}"));
}

/// Mounts, starts a server, and reads a file of another one that nobody fetched before.
fn works(host: &Host, registry: &Registry, site: &TlsSite) {
    let _mount = Mount::start(host);
    assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"], "1.1.0");
    let before = site.objects_served();
    let read = std::fs::read(host.at("files/1.0.0/tree/large")).unwrap();
    assert!(read == std::fs::read(registry.artefacts().join("files/large")).unwrap());
    assert!(site.objects_served() > before, "content came over TLS when it was read");
}

/// Mounts, and gives what `refresh` says of the site, which cannot be used.
fn refused(host: &Host) -> String {
    let _mount = Mount::start(host);
    let ran = host.mcpfs(["refresh"]).exits(3);
    assert!(!ran.text().contains("captive"), "{ran}");
    assert!(host.cached_files().is_empty());
    ran.stderr
}

fn a_private_authority(reads: Reads) {
    let registry = Registry::shared();
    let site = TlsSite::serve(&registry.site(), Asks::Nothing);
    let host = host(&site, &registry, reads, "");
    works(&host, &registry, &site);
    // The system's authorities, and another private one, do not vouch for it.
    let other = TlsSite::serve(&registry.site(), Asks::Nothing);
    let fresh = Host::new(&registry.trust(), &site.url(), reads);
    for more in [String::new(), format!("ca_file = {:?}\n", other.authority().display().to_string())] {
        set(&fresh, &more);
        let said = refused(&fresh);
        assert!(said.contains("Unreachable") && said.contains("certificate"), "{said}");
    }
}

/// A certificate's time is judged by the host's clock, so that may be what is wrong.
fn a_clock_out_of_the_certificates_time() {
    let registry = Registry::shared();
    let site = TlsSite::serve(&registry.site(), Asks::Nothing);
    let host = host(&site, &registry, Reads::Cached, "");
    host.set_clock("+50y");
    for (clock, what) in [("+50y", "has expired"), ("-3y", "is not valid yet")] {
        host.set_clock(clock);
        let said = refused(&host);
        assert!(said.contains(&format!("certificate {what} by this host's clock")), "{said}");
        let mut doctor = host.mcpfs(["doctor"]);
        for (name, value) in host.clock() {
            doctor = doctor.env(name, value);
        }
        let doctor = doctor.exits(1);
        doctor.says("WRONG    registry").says("timedatectl set-ntp true");
    }
    host.set_clock("+0");
    works(&host, &registry, &site);
}

fn a_client_certificate() {
    let registry = Registry::shared();
    let site = TlsSite::serve(&registry.site(), Asks::Certificate);
    let without = host(&site, &registry, Reads::Cached, "");
    let said = refused(&without);
    assert!(said.contains("wants a client certificate") && said.contains("registry.client_certificate"), "{said}");
    let named = |site: &TlsSite| format!("client_certificate = {:?}\n", site.client().display().to_string());
    let with = host(&site, &registry, Reads::Cached, &named(&site));
    works(&with, &registry, &site);
    // One of another authority.
    let other = TlsSite::serve(&registry.site(), Asks::Nothing);
    let said = refused(&host(&site, &registry, Reads::Cached, &named(&other)));
    assert!(said.contains("wants a client certificate"), "{said}");
}

fn a_token() {
    let registry = Registry::shared();
    let site = TlsSite::serve(&registry.site(), Asks::Token("s3cret"));
    let host = host(&site, &registry, Reads::Cached, "");
    let said = refused(&host);
    assert!(said.contains("check token"), "{said}");
    let token = host.path("etc/token");
    std::fs::write(&token, "s3cret\n").unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    let authority = site.authority().display().to_string();
    set(&host, &format!("ca_file = {authority:?}\ntoken_file = {:?}\n", token.display().to_string()));
    works(&host, &registry, &site);
    // It is in no message, log or row.
    let log = std::fs::read_to_string(host.path("mount.log")).unwrap();
    assert!(!log.contains("s3cret"), "{log}");
}

/// The file is the operator's alone; as root the worker cannot even open it, and gets it from the supervisor.
fn a_token_is_exchanged(reads: Reads) {
    let registry = Registry::shared();
    let mut site = TlsSite::serve(&registry.site(), Asks::Token("the-first"));
    let host = host(&site, &registry, reads, "");
    let token = host.path("etc/token");
    std::fs::write(&token, "the-first\n").unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    let authority = site.authority().display().to_string();
    set(&host, &format!("ca_file = {authority:?}\ntoken_file = {:?}\n", token.display().to_string()));
    let mount = Mount::start(&host);
    host.refresh();
    site.restart(Asks::Token("the-second"));
    assert!(host.mcpfs(["refresh"]).exits(3).stderr.contains("check token"));
    std::fs::write(&token, "the-second\n").unwrap();
    host.refresh().says("nothing new");
    let large = std::fs::read(host.at("files/1.0.0/tree/large")).unwrap();
    assert!(large == std::fs::read(registry.artefacts().join("files/large")).unwrap());
    let log = mount.log();
    assert!(!log.contains("the-first") && !log.contains("the-second"), "{log}");
}

fn http2(reads: Reads) {
    let registry = Registry::shared();
    let site = TlsSite::serve(&registry.site(), Asks::Nothing);
    let host = host(&site, &registry, reads, "");
    works(&host, &registry, &site);
    let spoken = site.protocols();
    assert!(!spoken.is_empty() && spoken.iter().all(|protocol| protocol == "HTTP/2.0"), "{spoken:?}");
}
