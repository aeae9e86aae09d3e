//! Real servers, frozen from their lockfiles, started from the mount.

use mcpfs_tests::audit;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::once::Once;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::servers;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;
use serde_json::json;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("servers::everything_runs_from_the_mount", everything_runs_from_the_mount);
    suite.mounted("servers::time_runs_from_the_mount", time_runs_from_the_mount);
    suite.plain("servers::bundles_are_the_same_every_time", bundles_are_the_same_every_time);
}

static PUBLISHED: Once<Registry> = Once::new();

/// Runs `test` with a registry that holds both servers, published once.
fn with_registry<T>(test: impl FnOnce(&Registry) -> T) -> T {
    let make = || {
        let registry = Registry::new();
        registry.release(&servers::everything_recipe(&registry));
        registry.release(&servers::time_recipe(&registry));
        registry
    };
    PUBLISHED.with(make, test)
}

/// Removes the registry.
pub(crate) fn drop_registry() {
    PUBLISHED.remove();
}

/// Mounts a registry's site and runs `test` with it.
pub(crate) fn mounted(registry: &Registry, reads: Reads, test: impl FnOnce(&Host, &Site)) {
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let _mount = Mount::start(&host);
    test(&host, &site);
}

/// The server `everything` answers from the mount.
pub(crate) fn everything_answers(host: &Host) {
    let mut client = McpClient::start(&host.at("everything/run"));
    client.initialize();
    let tools = client.tools();
    assert!(tools.len() > 5 && tools.contains(&"echo".to_owned()), "{tools:?}");
    assert_eq!(client.call("echo", &json!({"message": "hi"})), "Echo: hi");
    client.end();
}

/// The server `time` answers from the mount.
pub(crate) fn time_answers(host: &Host) {
    let mut client = McpClient::start(&host.at("time/run"));
    client.initialize();
    assert_eq!(client.tools(), ["convert_time", "get_current_time"]);
    let answer = client.call("get_current_time", &json!({"timezone": "Europe/Berlin"}));
    assert!(answer.contains("Europe/Berlin"), "{answer}");
    client.end();
}

fn everything_runs_from_the_mount(reads: Reads) {
    with_registry(|registry| {
        mounted(registry, reads, |host, site| {
            everything_answers(host);
            let objects = site.requests().iter().filter(|it| it.path.starts_with("/objects/")).count();
            assert!(objects < 400, "never one request per file: {objects} for about 3,900 files");
            audit::expect(host, "ok", Some("everything"));
        });
    });
}

fn time_runs_from_the_mount(reads: Reads) {
    with_registry(|registry| mounted(registry, reads, |host, _| time_answers(host)));
}

fn bundles_are_the_same_every_time() {
    let registry = Registry::shared();
    let tree = servers::time();
    let digest = |name: &str| mcpfs_tests::fixture::sha256_of(&servers::bundle(&registry, name, &tree));
    assert_eq!(digest("time-one"), digest("time-two"));
}
