//! What the audit says of a launch after it: what its processes opened, and that it never began.

use std::os::unix::fs::PermissionsExt;

use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("launches::accesses_carry_their_launch", accesses_carry_their_launch);
    suite.mounted("launches::a_server_that_never_began_is_a_row", a_server_that_never_began_is_a_row);
}

/// Publishes `name`, whose server is this script; its first argument is its tree.
fn publish(registry: &Registry, name: &str, script: &str) {
    let tree = registry.artefacts().join(name);
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::write(tree.join("bin/server"), script).unwrap();
    std::fs::set_permissions(tree.join("bin/server"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(tree.join("note"), "by a child\n").unwrap();
    let launch = "launch:\n  command: bin/server\n  args: [\"${TREE}\"]\n";
    registry.release(&Recipe::new(name, "1.0.0", &fixture::tar(&tree)).with(launch));
}

fn store(host: &Host) -> rusqlite::Connection {
    rusqlite::Connection::open(host.audit_db()).unwrap()
}

/// The only number that a question answers.
fn number(host: &Host, sql: &str) -> Option<i64> {
    store(host).query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// A block of SQL in docs/audit.md, by a text in it.
fn question(part: &str) -> String {
    let page = std::fs::read_to_string(mcpfs_tests::scratch::repository().join("docs/audit.md")).unwrap();
    let mut blocks = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.find(|sql| sql.contains(part)).unwrap_or_else(|| panic!("no question with {part:?}")).to_owned()
}

fn accesses_carry_their_launch(reads: Reads) {
    let registry = Registry::new();
    // The shell's `cat` is a process of its own, and opens a file of the release.
    publish(&registry, "parent", "#!/bin/sh\ncat \"$1/note\"\necho \"child of $$\"\n");
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let mount = Mount::start(&host);
    let ran = Run::new(host.at("parent/run")).ok();
    assert!(ran.stdout.starts_with("by a child\nchild of "), "{ran}");
    // Nobody's launch: this process itself.
    std::fs::read(host.at("parent/1.0.0/tree/note")).unwrap();
    mount.stop();

    let launch = number(&host, "SELECT seq FROM event WHERE event = 'launch' AND outcome = 'ok'").unwrap();
    let of = |which: &str| {
        let sql = format!("SELECT count(*) FROM access WHERE event = 'access' AND launch = {launch} AND pid {which}");
        number(&host, &sql).unwrap()
    };
    let server = number(&host, &format!("SELECT pid FROM event WHERE seq = {launch}")).unwrap();
    assert_eq!(of(&format!("= {server}")), 1, "the launched process");
    assert_eq!(of(&format!("<> {server}")), 1, "its child");
    let own = format!("SELECT launch FROM event WHERE event = 'access' AND pid = {}", std::process::id());
    assert_eq!(number(&host, &own), None);
    let orphans = "SELECT count(*) FROM event AS e WHERE launch IS NOT NULL \
                   AND NOT EXISTS (SELECT 1 FROM event AS l WHERE l.seq = e.launch AND l.event = 'launch')";
    assert_eq!(number(&host, orphans), Some(0));

    // The published question names it too.
    let sql = question("WHERE pid = 4242").replace("4242", &server.to_string());
    let sql = sql.replace("strftime('%s', '2026-04-15T12:00:00')", "strftime('%s', 'now', '+1 day')");
    let (name, found): (String, Option<i64>) =
        store(&host).query_row(&sql, [], |row| Ok((row.get("server_name")?, row.get("launch")?))).unwrap();
    assert_eq!((name.as_str(), found), ("parent", Some(launch)), "{sql}");
    host.mcpfs(["audit", "verify"]).ok();
}

fn a_server_that_never_began_is_a_row(reads: Reads) {
    let registry = Registry::new();
    publish(&registry, "broken", "#!/usr/lib/no/such/interpreter\n");
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let mount = Mount::start(&host);
    let ran = Run::new(host.at("broken/run")).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.trim_end().lines().count() == 1, "{ran}");
    assert!(ran.stderr.contains("bin/server: No such file") && ran.stderr.contains("interpreter"), "{ran}");
    mount.stop();

    let launch = number(&host, "SELECT seq FROM event WHERE event = 'launch' AND outcome = 'ok'").unwrap();
    let (seq, outcome, version, reason, pid): (i64, String, String, String, i64) = store(&host)
        .query_row(
            "SELECT launch, verification_outcome, version, reason, pid FROM access WHERE event = 'exit'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )
        .expect("an exit row");
    assert_eq!((seq, outcome.as_str(), version.as_str()), (launch, "LaunchUnsupported", "1.0.0"));
    assert!(reason.contains("never started") && reason.contains("No such file"), "{reason}");
    assert_eq!(number(&host, &format!("SELECT pid FROM event WHERE seq = {launch}")), Some(pid));
    // Root asks in words.
    host.mcpfs(["audit", "query", "--outcome", "refused"]).ok().says("never started");
}
