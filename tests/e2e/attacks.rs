//! What somebody between the signer and the host, or on the host's disk, can try.

use std::path::PathBuf;

use mcpfs_tests::command::Run;
use mcpfs_tests::faulty::{self, FaultyServer};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::{HEAD_KEY, UNKNOWN_KEY, files_below};
use mcpfs_tests::site::Fault;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{audit, forge};
use serde_json::{Value, json};

use crate::boundary::{HEAD_THIEF, LOCAL_ROOT, NETWORK, RELEASE_THIEF, SITE};
use crate::world::{World, errno, flip};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted_attack(
        Attack::new(
            SITE,
            "attacks::altered_objects_never_reach_a_reader",
            "another byte in every object",
            &["DigestMismatch", "EIO"],
        ),
        altered_objects_never_reach_a_reader,
    );
    suite.mounted_attack(
        Attack::new(
            LOCAL_ROOT,
            "attacks::an_altered_cache_is_healed",
            "another byte in a file of the cache, while the daemon is stopped",
            &["DigestMismatch"],
        ),
        an_altered_cache_is_healed,
    );
    suite.mounted_attack(
        Attack::new(
            LOCAL_ROOT,
            "attacks::an_altered_cache_is_healed_while_running",
            "the same while it runs",
            &["DigestMismatch"],
        ),
        an_altered_cache_is_healed_while_running,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "attacks::an_entry_signed_by_an_unknown_key",
            "a release signed by a key of nobody's",
            &["KeyNotAuthorised", "EACCES"],
        ),
        an_entry_signed_by_an_unknown_key,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "attacks::an_entry_signed_by_a_head_key",
            "a release signed by the head key itself",
            &["KeyNotAuthorised"],
        ),
        an_entry_signed_by_a_head_key,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "attacks::readable_fields_that_differ",
            "an entry that tells people something else than what is signed",
            &["EntryMismatch"],
        ),
        readable_fields_that_differ,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "attacks::swapped_entries",
            "two servers' releases under each other's names",
            &["EntryMismatch"],
        ),
        swapped_entries,
    );
    suite.attack(Attack::new(SITE, "attacks::an_older_head", "an older head", &["HeadRollback"]), an_older_head);
    suite.attack(
        Attack::new(
            SITE,
            "attacks::an_expired_head",
            "an old site to a new host: its head has expired",
            &["HeadExpired"],
        ),
        an_expired_head,
    );
    suite.attack(
        Attack::new(
            SITE,
            "attacks::another_registrys_head",
            "the head of another registry that has the same key",
            &["WrongRegistry"],
        ),
        another_registrys_head,
    );
    suite.attack(
        Attack::new(
            RELEASE_THIEF,
            "attacks::a_head_by_a_release_key",
            "a head signed by a release key",
            &["KeyNotAuthorised"],
        ),
        a_head_by_a_release_key,
    );
    suite.attack(
        Attack::new(
            HEAD_THIEF,
            "attacks::two_heads_with_one_number",
            "another head with the number of the accepted one: both are in the audit then, whole, as proof",
            &["HeadEquivocation"],
        ),
        two_heads_with_one_number,
    );
    suite.attack(
        Attack::new(
            NETWORK,
            "attacks::a_head_of_ten_gigabytes",
            "ten gigabytes, announced or not, where the head should be",
            &["SizeExceeded"],
        ),
        a_head_of_ten_gigabytes,
    );
    suite.attack(
        Attack::new(NETWORK, "attacks::one_byte_a_second", "a byte a second, or none at all", &["TooSlow"]),
        one_byte_a_second,
    );
    suite.attack(
        Attack::new(NETWORK, "attacks::a_captive_portal", "a captive portal's page for everything", &["NotARegistry"]),
        a_captive_portal,
    );
    suite.mounted_attack(
        Attack::new(
            NETWORK,
            "attacks::registry_down_without_a_cache",
            "no answer, to a host that has nothing yet",
            &["Unreachable"],
        ),
        registry_down_without_a_cache,
    );
    suite.mounted_attack(
        Attack::new(
            NETWORK,
            "attacks::registry_down_with_a_cache",
            "no answer, to a host that has a server in its cache: that one runs, what is not there does not",
            &["EHOSTUNREACH"],
        ),
        registry_down_with_a_cache,
    );
    suite.attack(
        Attack::new(
            NETWORK,
            "attacks::broken_transfers_use_the_next_mirror",
            "transfers that are cut or reset, beside a mirror whose are not",
            &["the next mirror"],
        ),
        broken_transfers_use_the_next_mirror,
    );
}

/// The cache's file with this content.
fn cached(host: &Host, content: &[u8]) -> PathBuf {
    let files = host.cached_files();
    let found = files.iter().find(|file| std::fs::read(file).is_ok_and(|bytes| bytes == content));
    found.unwrap_or_else(|| panic!("not in the cache; there are {files:?}")).clone()
}

/// The launcher of a refused name: exit 77, the reason on stderr, nothing else readable.
fn refused(world: &World, name: &str, code: &str) {
    let ran = Run::new(world.run(name)).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains(code), "expected {code}: {ran}");
    let listed: Vec<_> = std::fs::read_dir(world.host.mcp()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!listed.iter().any(|it| it == name), "{name} is listed: {listed:?}");
    mcpfs_tests::proof::note(code);
}

fn altered_objects_never_reach_a_reader(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let tree = world.host.at("files/1.0.0/tree");
    // Tree and layout are known, content is not.
    assert_eq!(std::fs::read_dir(tree.join("many")).unwrap().count(), 300);
    let objects = world.file("objects");
    for object in files_below(&objects) {
        let file = objects.join(object);
        flip(&file, file.metadata().unwrap().len() as usize / 2);
    }
    assert_eq!(errno(std::fs::read(tree.join("large"))), libc::EIO);
    assert_eq!(errno(std::fs::read(tree.join("many/007.txt"))), libc::EIO);
    audit::expect(&world.host, "DigestMismatch", Some("files"));
    let why = world.host.mcpfs(["explain"]).arg(tree.join("large")).run();
    assert!(why.text().contains("files"), "{why}");
    // The site heals, and so does the mount, without a restart.
    for object in files_below(&objects) {
        let file = objects.join(object);
        flip(&file, file.metadata().unwrap().len() as usize / 2);
    }
    assert!(std::fs::read(tree.join("large")).unwrap() == std::fs::read(world.source("files/large")).unwrap());
}

fn an_altered_cache_is_healed(reads: Reads) {
    let world = World::new(reads);
    let content = std::fs::read(world.source("files/size-131073")).unwrap();
    let read = || std::fs::read(world.host.at("files/1.0.0/tree/size-131073")).unwrap();
    let mount = Mount::start(&world.host);
    assert!(read() == content);
    mount.stop();
    flip(&cached(&world.host, &content), 70_000);
    let _mount = Mount::start(&world.host);
    assert!(read() == content, "the altered cache reached a reader");
    // No reply depends on this row, so it may come after the reader has its bytes.
    audit::wait(&world.host, "DigestMismatch", None);
    cached(&world.host, &content);
}

fn an_altered_cache_is_healed_while_running(reads: Reads) {
    let world = World::new(reads);
    let content = std::fs::read(world.source("files/size-65536")).unwrap();
    let read = || std::fs::read(world.host.at("files/1.0.0/tree/size-65536")).unwrap();
    let _mount = Mount::start(&world.host);
    assert!(read() == content);
    flip(&cached(&world.host, &content), 100);
    assert!(read() == content, "the altered cache reached a reader");
    audit::wait(&world.host, "DigestMismatch", None);
}

/// Signs hello's statement with `key` only.
fn entry_signed_by(world: &World, key: &str) {
    let hsm = world.registry.hsm();
    let id = hsm.key_id(key);
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        let payload = serde_json::to_vec(&forge::payload(&entry["signature"])).unwrap();
        entry["signature"] = forge::envelope(hsm, key, &id, &payload);
    });
}

fn an_entry_signed_by_an_unknown_key() {
    let world = World::new(Reads::Cached);
    entry_signed_by(&world, UNKNOWN_KEY);
    let _mount = Mount::start(&world.host);
    refused(&world, "hello", "KeyNotAuthorised");
    assert_eq!(errno(std::fs::read_dir(world.host.at("hello/1.1.0/tree"))), libc::EACCES);
    audit::expect(&world.host, "KeyNotAuthorised", Some("hello"));
}

fn an_entry_signed_by_a_head_key() {
    let world = World::new(Reads::Cached);
    entry_signed_by(&world, HEAD_KEY);
    let _mount = Mount::start(&world.host);
    refused(&world, "hello", "KeyNotAuthorised");
    audit::expect(&world.host, "KeyNotAuthorised", Some("hello"));
}

fn readable_fields_that_differ() {
    let world = World::new(Reads::Cached);
    forge::replace_entry(&world.copy.path(), &world.registry, "hello", |entry| {
        entry["data_classification"] = json!("public");
    });
    let _mount = Mount::start(&world.host);
    refused(&world, "hello", "EntryMismatch");
    audit::expect(&world.host, "EntryMismatch", Some("hello"));
}

fn swapped_entries() {
    let world = World::new(Reads::Cached);
    forge::replace_bins(&world.copy.path(), &world.registry, |servers| {
        let find = |servers: &[Value], name: &str| servers.iter().position(|it| it["name"] == name);
        if let (Some(a), Some(b)) = (find(servers, "hello"), find(servers, "files")) {
            servers.swap(a, b);
            let name = servers[a]["name"].take();
            servers[a]["name"] = servers[b]["name"].take();
            servers[b]["name"] = name;
        }
    });
    let _mount = Mount::start(&world.host);
    for name in ["hello", "files"] {
        refused(&world, name, "EntryMismatch");
        audit::expect(&world.host, "EntryMismatch", Some(name));
    }
}

fn an_older_head() {
    let world = World::new(Reads::Cached);
    let old = std::fs::read(world.file("head.json")).unwrap();
    forge::next_head(&world.copy.path(), &world.registry);
    let _mount = Mount::start(&world.host);
    std::fs::write(world.file("head.json"), old).unwrap();
    world.host.refresh_fails("HeadRollback");
    audit::wait(&world.host, "HeadRollback", None);
    // The newer state goes on being served.
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}

fn an_expired_head() {
    let world = World::new(Reads::Cached);
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["issued"] = json!("2026-01-01T00:00:00Z");
        head["expires"] = json!("2026-01-08T00:00:00Z");
    });
    let _mount = Mount::start(&world.host);
    refused(&world, "hello", "HeadExpired");
    audit::wait(&world.host, "HeadExpired", None);
}

fn another_registrys_head() {
    let world = World::new(Reads::Cached);
    forge::resign_head(&world.copy.path(), &world.registry, |head| head["registry"] = json!("mcp.example.com/staging"));
    let _mount = Mount::start(&world.host);
    refused(&world, "hello", "WrongRegistry");
    audit::wait(&world.host, "WrongRegistry", None);
}

fn a_head_by_a_release_key() {
    let world = World::new(Reads::Cached);
    let (hsm, key) = (world.registry.hsm(), mcpfs_tests::registry::RELEASE_KEY);
    forge::resign(&world.file("head.json"), hsm, key, &hsm.key_id(key), |_| ());
    let _mount = Mount::start(&world.host);
    refused(&world, "hello", "KeyNotAuthorised");
}

fn two_heads_with_one_number() {
    let world = World::new(Reads::Cached);
    let accepted = forge::read(&world.file("head.json"));
    let _mount = Mount::start(&world.host);
    forge::resign_head(&world.copy.path(), &world.registry, |head| {
        head["issued"] = json!(head["issued"].as_str().unwrap().replacen("2026", "2025", 1));
        head["expires"] = json!(head["expires"].as_str().unwrap().replacen("2026", "2025", 1));
    });
    world.host.refresh_fails("HeadEquivocation");
    audit::wait(&world.host, "HeadEquivocation", None);
    // Both are kept, whole and signed: whoever has the public key is convinced.
    let offered = forge::read(&world.file("head.json"));
    let query = world.host.mcpfs(["--json", "audit", "query", "--outcome", "HeadEquivocation"]).ok();
    for (name, head) in [("accepted", accepted), ("offered", offered)] {
        let kept = query.stdout.lines().find_map(|line| {
            let row: Value = serde_json::from_str(line).ok()?;
            row["detail"][name].is_object().then(|| row["detail"][name].clone())
        });
        let kept = kept.unwrap_or_else(|| panic!("no {name} head: {query}"));
        assert_eq!((&kept["payload"], &kept["signatures"]), (&head["payload"], &head["signatures"]), "{name}");
    }
}

fn faulty_head(world: &World, fault: faulty::Fault, code: &str) -> u64 {
    let server = FaultyServer::over(&world.copy.path(), "head.json", fault);
    world.host.configure(&server.url());
    if code == "TooSlow" {
        world.host.drop_in("50-network", "[network]\nconnect = \"2s\"\nstall = \"2s\"\nmetadata = \"3s\"\n");
    }
    let _mount = Mount::start(&world.host);
    audit::wait(&world.host, code, None);
    refused(world, "hello", code);
    server.sent()
}

fn a_head_of_ten_gigabytes() {
    let sent = faulty_head(&World::new(Reads::Cached), faulty::Fault::TenGigabytes, "SizeExceeded");
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    let sent = faulty_head(&World::new(Reads::Cached), faulty::Fault::Endless, "SizeExceeded");
    assert!(sent < 32 << 20, "{sent} bytes were taken");
}

fn one_byte_a_second() {
    // A head of some kilobytes would take hours: it is given up, and not taken in the end.
    faulty_head(&World::new(Reads::Cached), faulty::Fault::Drip, "TooSlow");
    faulty_head(&World::new(Reads::Cached), faulty::Fault::Silence, "TooSlow");
}

fn a_captive_portal() {
    let mut world = World::new(Reads::Cached);
    world.site.restart(&[Fault::Html("^/", "<!DOCTYPE html><html><body>Please sign in</body></html>")]);
    let _mount = Mount::start(&world.host);
    refused(&world, "hello", "NotARegistry");
    audit::wait(&world.host, "NotARegistry", None);
    // Signed in: the next refresh heals it.
    world.site.restart(&[]);
    world.host.refresh();
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
}

fn registry_down_without_a_cache(reads: Reads) {
    let mut world = World::new(reads);
    world.site.stop();
    let _mount = Mount::start(&world.host);
    refused(&world, "hello", "Unreachable");
    audit::wait(&world.host, "Unreachable", None);
}

fn registry_down_with_a_cache(reads: Reads) {
    let mut world = World::new(reads);
    let mount = Mount::start(&world.host);
    assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
    // Its tree becomes known, its large file is never read.
    assert_eq!(std::fs::read_dir(world.host.at("files/1.0.0/tree/many")).unwrap().count(), 300);
    world.site.stop();
    assert_eq!(errno(std::fs::read(world.host.at("files/1.0.0/tree/large"))), libc::EHOSTUNREACH);
    mount.stop();
    let _mount = Mount::start(&world.host);
    let mut client = McpClient::start(&world.run("hello"));
    assert_eq!(client.initialize()["serverInfo"]["version"], "1.1.0");
    assert_eq!(client.call("add", &json!({"a": 1, "b": 1})), "2");
    let rows = audit::rows(&world.host);
    let last = rows.iter().rfind(|row| row.event == "launch").unwrap();
    assert!(last.stale && last.outcome == "ok", "{}", audit::listing(&rows));
}

fn broken_transfers_use_the_next_mirror() {
    for fault in [faulty::Fault::Cut, faulty::Fault::Reset] {
        let world = World::new(Reads::Cached);
        let broken = FaultyServer::over(&world.copy.path(), "objects/", fault);
        world.host.configure_mirrors(&[&broken.url(), &world.site.url()]);
        let _mount = Mount::start(&world.host);
        let shown = std::fs::read(world.host.at("files/1.0.0/tree/large")).unwrap();
        assert!(shown == std::fs::read(world.source("files/large")).unwrap(), "{fault:?}");
        assert!(broken.sent() > 0, "{fault:?}: the broken mirror was asked first");
    }
    mcpfs_tests::proof::note("the next mirror");
}
