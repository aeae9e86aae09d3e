//! Real servers, frozen from their lockfiles, started from the mount.

use std::sync::{Mutex, PoisonError};

use mcpfs_tests::audit;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
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

static PUBLISHED: Mutex<Option<Registry>> = Mutex::new(None);

/// Runs `test` with a registry that holds both servers, published once.
pub(crate) fn with_registry<T>(test: impl FnOnce(&Registry) -> T) -> T {
    let mut slot = PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner);
    let registry = slot.get_or_insert_with(|| {
        let registry = Registry::new();
        registry.release(&servers::everything_recipe(&registry));
        registry.release(&servers::time_recipe(&registry));
        registry
    });
    test(registry)
}

/// Removes what [`with_registry`] made; statics are never dropped.
pub(crate) fn drop_registry() {
    PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner).take();
}

fn everything_runs_from_the_mount(reads: Reads) {
    with_registry(|registry| {
        let site = Site::serve(&registry.site());
        let host = Host::new(&registry.trust(), &site.url(), reads);
        let _mount = Mount::start(&host);
        let mut client = McpClient::start(&host.at("everything/run"));
        client.initialize();
        let tools = client.tools();
        assert!(tools.len() > 5 && tools.contains(&"echo".to_owned()), "{tools:?}");
        assert_eq!(client.call("echo", &json!({"message": "hi"})), "Echo: hi");
        client.end();
        let objects = site.requests().iter().filter(|it| it.path.starts_with("/objects/")).count();
        assert!(objects < 400, "never one request per file: {objects} for about 3,900 files");
        audit::expect(&host, "ok", Some("everything"));
    });
}

fn time_runs_from_the_mount(reads: Reads) {
    with_registry(|registry| {
        let site = Site::serve(&registry.site());
        let host = Host::new(&registry.trust(), &site.url(), reads);
        let _mount = Mount::start(&host);
        let mut client = McpClient::start(&host.at("time/run"));
        client.initialize();
        assert_eq!(client.tools(), ["convert_time", "get_current_time"]);
        let answer = client.call("get_current_time", &json!({"timezone": "Europe/Berlin"}));
        assert!(answer.contains("Europe/Berlin"), "{answer}");
        client.end();
    });
}

fn bundles_are_the_same_every_time() {
    let registry = Registry::shared();
    let tree = servers::time();
    let digest = |name: &str| mcpfs_tests::fixture::sha256_of(&servers::bundle(&registry, name, &tree));
    assert_eq!(digest("time-one"), digest("time-two"));
}
