//! What was recorded, and that nobody can change it unseen.

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::{is_root, need};
use mcpfs_tests::suite::Suite;

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("audit::acts_leave_rows_before_their_effect", acts_leave_rows_before_their_effect);
    suite.mounted("audit::threads_of_a_process_have_one_row", threads_of_a_process_have_one_row);
    if is_root() {
        suite.mounted("audit::a_number_used_again_is_somebody_new", a_number_used_again_is_somebody_new);
    }
    suite.plain("audit::the_articles_columns_are_there", the_articles_columns_are_there);
    suite.plain("audit::query_shows_rows", query_shows_rows);
    suite.plain("audit::an_altered_row_is_found", an_altered_row_is_found);
    suite.plain("audit::a_deleted_row_is_found", a_deleted_row_is_found);
    suite.plain("audit::rows_survive_a_kill", rows_survive_a_kill);
}

fn acts_leave_rows_before_their_effect(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let count =
        |event: &str| audit::rows(&world.host).iter().filter(|row| row.event == event && row.outcome == "ok").count();
    assert_eq!((count("launch"), count("access")), (0, 0));
    std::fs::read(world.host.at("files/1.0.0/tree/size-1")).unwrap();
    assert_eq!(count("access"), 1, "{}", audit::listing(&audit::rows(&world.host)));
    // The same process again: its first access is recorded already.
    std::fs::read(world.host.at("files/1.0.0/tree/size-4095")).unwrap();
    assert_eq!(count("access"), 1);
    let mut client = McpClient::start(&world.run("hello"));
    client.initialize();
    assert_eq!(count("launch"), 1);
    assert!(count("fetch") >= 1, "{}", audit::listing(&audit::rows(&world.host)));
    assert!(count("refresh") >= 1, "{}", audit::listing(&audit::rows(&world.host)));
    client.end();
    mount.stop();
    world.host.mcpfs(["audit", "verify"]).ok();
}

/// Runs a program of Python's that opens a file of the mount and says a process's number: how many rows of first
/// accesses there are with that number, and of how many processes.
fn rows_of(program: &str, host: &Host) -> (i64, i64) {
    let ran = Run::new(need("python3", "python3")).arg("-c").arg(program).arg(host.at("files/1.0.0/tree/size-1")).ok();
    let pid: i64 = ran.stdout.trim().parse().unwrap();
    let store = rusqlite::Connection::open(host.audit_db()).unwrap();
    let sql = "SELECT count(*), count(DISTINCT pid_start_us) FROM event WHERE event = 'access' AND pid = ?";
    store.query_row(sql, [pid], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

fn threads_of_a_process_have_one_row(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    assert_eq!(rows_of(include_str!("audit/threads.py"), &world.host), (1, 1));
    mount.stop();
}

/// Who has the number of one that was known is not taken for it.
fn a_number_used_again_is_somebody_new(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    assert_eq!(rows_of(include_str!("audit/again.py"), &world.host), (6, 6));
    mount.stop();
}

fn the_articles_columns_are_there() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    McpClient::start(&world.run("hello")).initialize();
    let store = rusqlite::Connection::open(world.host.audit_db()).unwrap();
    let sql = "SELECT user_id, server_name, version, verification_outcome FROM access WHERE event = 'launch'";
    let row = store.query_row(sql, [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
    });
    let uid = i64::from(rustix::process::getuid().as_raw());
    assert_eq!(row.unwrap(), (uid, "hello".to_owned(), "1.1.0".to_owned(), "ok".to_owned()));
    let columns = "time, host, event, user_name, login_uid, pid, process, host_app, unit, artefact_sha256, \
                   statement_sha256, key_ids, head_version, stale, reason, path, bytes, duration_us";
    store.prepare(&format!("SELECT {columns} FROM access")).unwrap();
    let statement: String =
        store.query_row("SELECT statement_sha256 FROM access WHERE event = 'launch'", [], |row| row.get(0)).unwrap();
    let line = std::fs::read_to_string(world.run("hello")).unwrap();
    assert!(line.contains(&statement), "the row names what ran: {statement}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(world.host.audit_db().metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

fn query_shows_rows() {
    let world = World::new(Reads::Cached);
    let _mount = Mount::start(&world.host);
    McpClient::start(&world.run("hello")).initialize();
    let text = world.host.mcpfs(["audit", "query"]).ok();
    assert!(text.stdout.contains("hello") && text.stdout.contains("launch"), "{text}");
    let json = world.host.mcpfs(["audit", "query", "--json"]).ok();
    assert!(json.stdout.contains("\"server_name\""), "{json}");
    world.host.mcpfs(["audit", "tail"]).ok().says("hello");
}

/// A host with a short, sound history.
fn history(world: &World) {
    let mount = Mount::start(&world.host);
    McpClient::start(&world.run("hello")).initialize();
    std::fs::read(world.host.at("files/1.0.0/tree/size-1")).unwrap();
    mount.stop();
    world.host.mcpfs(["audit", "verify"]).ok();
}

fn an_altered_row_is_found() {
    let world = World::new(Reads::Cached);
    history(&world);
    audit::alter(&world.host, "UPDATE event SET outcome = 'Revoked' WHERE event = 'launch'");
    let ran = world.host.mcpfs(["audit", "verify"]).exits(4);
    let seq: i64 = rusqlite::Connection::open(world.host.audit_db())
        .unwrap()
        .query_row("SELECT seq FROM event WHERE event = 'launch'", [], |row| row.get(0))
        .unwrap();
    assert!(ran.text().contains(&seq.to_string()), "it names row {seq}: {ran}");
}

fn a_deleted_row_is_found() {
    let world = World::new(Reads::Cached);
    history(&world);
    audit::alter(&world.host, "DELETE FROM event WHERE event = 'launch'");
    world.host.mcpfs(["audit", "verify"]).exits(4);
}

fn rows_survive_a_kill() {
    let world = World::new(Reads::Cached);
    let mount = Mount::start(&world.host);
    let mut client = McpClient::start(&world.run("hello"));
    client.initialize();
    mount.kill();
    let rows = audit::rows(&world.host);
    assert!(rows.iter().any(|row| row.event == "launch" && row.outcome == "ok"), "{}", audit::listing(&rows));
    mcpfs_tests::mount::unmount(&world.host.mcp());
    world.host.mcpfs(["audit", "verify"]).ok();
}
