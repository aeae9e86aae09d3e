//! Rows of the audit go when they are older than what was agreed, and no others, whatever the clock says.
//!
//! Time passes by outside tools: faketime for the host, and heads that the registry signs later.

use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::{Mount, unmount};
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{forge, proof};
use mcpfs_trust::time::Timestamp;
use serde_json::{Value, json};

use crate::boundary::LOCAL_ROOT;
use crate::tuf::README;
use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("retention::old_rows_go_by_themselves", old_rows_go_by_themselves);
    suite.mounted_attack(
        Attack::new(
            LOCAL_ROOT,
            "retention::a_clock_decades_ahead",
            "the clock set forward by fourteen years, to have the audit emptied: no row goes unless the registry's \
             signed head says that its time is over, too",
            &["HeadExpired", "all rows are there"],
        ),
        a_clock_decades_ahead,
    );
    suite.plain("retention::a_forged_caller_stays", a_forged_caller_stays);
    suite.plain("retention::killed_in_the_middle", killed_in_the_middle);
    suite.plain("retention::what_was_moved_aside_goes_too", what_was_moved_aside_goes_too);
}

fn keep(host: &Host, what: &str) {
    host.drop_in("60-retention", &format!("[retention]\naudit = \"{what}\"\n"));
}

fn numbers(host: &Host, sql: &str) -> Vec<i64> {
    let store = rusqlite::Connection::open(host.audit_db()).unwrap();
    store.busy_timeout(mcpfs_tests::scratch::PATIENCE).unwrap();
    let mut query = store.prepare(sql).unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn seqs(host: &Host) -> Vec<i64> {
    numbers(host, "SELECT seq FROM event ORDER BY seq")
}

/// So many days pass, on the host and at the registry, which signs its head anew.
fn days_pass(world: &World, days: i64) {
    world.host.set_clock(&format!("+{days}d"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let then = Timestamp::from_unix(now.cast_signed() + days * 86_400).unwrap();
    let site = world.copy.path();
    forge::next_head(&site, &world.registry);
    forge::resign_head(&site, &world.registry, |head| {
        head["issued"] = json!(then);
        head["expires"] = json!(then.plus(7 * 86_400));
    });
    world.host.refresh();
}

fn verified(host: &Host) -> Value {
    serde_json::from_str(&host.mcpfs(["audit", "verify", "--json"]).ok().stdout).unwrap()
}

/// What doctor says of it: state and words.
fn doctor(host: &Host) -> (String, String) {
    let said: Value = serde_json::from_str(&host.mcpfs(["doctor", "--json"]).run().stdout).unwrap();
    let all = said["findings"].as_array().unwrap();
    let one = all.iter().find(|one| one["code"] == "retention").unwrap_or_else(|| panic!("{said:#}"));
    (one["state"].as_str().unwrap().to_owned(), one["found"].as_str().unwrap().to_owned())
}

fn old_rows_go_by_themselves(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    host.set_clock("+0");
    keep(host, "forever");
    let mount = Mount::start(host);
    host.refresh();
    let mut client = McpClient::start(&world.run("hello"));
    client.initialize();
    let before = verified(host);
    Run::new("cat").arg(host.at(README)).ok();
    host.mcpfs(["status"]).ok().says("audit ok, kept forever");
    let noted = before["last_seal"].as_str().unwrap().to_owned();
    let (bare, _) = noted.rsplit_once('@').unwrap();
    let last = *seqs(host).last().unwrap();
    let cats = "SELECT count(*) FROM caller WHERE process LIKE '%/cat'";
    assert_eq!(numbers(host, cats), [1]);

    days_pass(&world, 401);
    let (state, found) = doctor(host);
    assert!(state == "ok" && found.contains("rows are kept: forever"), "{state} {found}");
    assert_eq!(seqs(host)[0], 1);
    keep(host, "12h");
    host.mcpfs(["config", "check"]).exits(2).says("retention.audit = \"12h\"").says("60-retention.toml:2");
    keep(host, "400d");
    host.mcpfs(["config", "check"]).ok().says("audit     kept 400d");
    mount.reload();
    wait_for("old rows to go", || (seqs(host)[0] > last).then_some(()));
    // Those and only those.
    assert_eq!(seqs(host)[0], last + 1);
    assert_eq!(numbers(host, "SELECT last_seq FROM cut ORDER BY 1 DESC LIMIT 1"), [last]);
    assert_eq!(numbers(host, "SELECT sum(rows) FROM cut"), [last]);
    assert_eq!(numbers(host, cats), [0]);
    let unused = "SELECT count(*) FROM caller WHERE caller NOT IN (SELECT caller FROM event WHERE caller IS NOT NULL)";
    assert_eq!(numbers(host, unused), [0]);
    assert!(numbers(host, "SELECT * FROM pragma_foreign_key_check").is_empty());
    wait_for("status to say it", || host.mcpfs(["status"]).ok().stdout.contains("kept 400d").then_some(()));
    let (state, found) = doctor(host);
    assert!(state == "ok" && found.contains("the last were removed at"), "{state} {found}");

    let said = host.mcpfs(["audit", "verify"]).ok();
    let said =
        said.says("were removed under policy 400d").says(&format!("{last} rows up to row {last}, those of before"));
    assert!(said.stdout.contains("audit ok"), "{said}");
    host.mcpfs(["audit", "verify", "--anchor", bare]).exits(4).says("cannot be compared").says("HASH@SEQ@TIME");
    host.mcpfs(["audit", "verify", "--anchor", &noted]).ok().says("its rows are gone, as the policy (400d) says");
    // One that was noted later must not be gone.
    let seal = bare.to_owned() + "@2099-01-01T00:00:00Z";
    host.mcpfs(["audit", "verify", "--anchor", &seal]).exits(4).says("were not removed by retention");
    host.mcpfs(["audit", "query", "--event", "cut"]).ok().says("mcpfs").says("retention.audit = 400d");

    // What still runs is known, and ends as ever.
    let pid = client.pid().to_string();
    host.mcpfs(["ps"]).ok().says(&pid).says("hello");
    host.mcpfs(["explain", &pid]).ok().says("hello");
    host.mcpfs(["audit", "who-uses", "npm:nothing"]).run();
    McpClient::start(&world.run("hello")).initialize();
    host.mcpfs(["ps", "hello", "--kill"]).ok().says(&pid);
    drop(client);
    mount.stop();
    let whole = seqs(host);
    let mount = Mount::start(host);
    host.refresh();
    Run::new("cat").arg(host.at(README)).ok();
    mount.stop();
    let all = seqs(host);
    assert!(all.len() > whole.len() && all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    host.mcpfs(["audit", "verify", "--anchor", &noted]).ok();
}

fn a_clock_decades_ahead(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    host.set_clock("+0");
    let mount = Mount::start(host);
    host.refresh();
    Run::new("cat").arg(host.at(README)).ok();
    let before = seqs(host);
    host.set_clock("+5110d");
    host.refresh_fails("HeadExpired");
    // A reload makes a pass due, and with the shortest time that there is.
    keep(host, "1d");
    mount.reload();
    let words = "retention: rows older than retention.audit are kept: the oldest is of";
    wait_for("status to say that rows stay", || {
        let status = host.mcpfs(["status"]).ok().stdout;
        (status.contains(words) && status.contains("kept 1d")).then_some(())
    });
    let (state, found) = doctor(host);
    assert!(state == "wrong" && found.contains("older ones stay"), "{state} {found}");
    host.set_clock("+0");
    host.refresh();
    mount.stop();
    let mount = Mount::start(host);
    host.refresh();
    let after = seqs(host);
    assert!(after.starts_with(&before) && numbers(host, "SELECT last_seq FROM cut").is_empty(), "{after:?}");
    proof::note("all rows are there");
    mount.stop();
    host.mcpfs(["audit", "verify"]).ok();
}

/// Whoever can write the file puts another's name beside a launch, and waits for retention to take the evidence away.
fn a_forged_caller_stays() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    host.set_clock("+0");
    let mount = Mount::start(host);
    host.refresh();
    let mut client = McpClient::start(&world.run("hello"));
    client.initialize();
    Run::new("cat").arg(host.at(README)).ok();
    let last_launch = "FROM event WHERE event = 'launch' ORDER BY seq DESC LIMIT 1";
    let [caller] = numbers(host, &format!("SELECT caller {last_launch}"))[..] else { panic!("no launch") };
    let [launch] = numbers(host, &format!("SELECT seq {last_launch}"))[..] else { panic!("no launch") };
    let [first] = numbers(host, &format!("SELECT min(seq) FROM event WHERE caller = {caller}"))[..] else { panic!() };
    let named = |name: &str| {
        let store = rusqlite::Connection::open(host.audit_db()).unwrap();
        store.busy_timeout(mcpfs_tests::scratch::PATIENCE).unwrap();
        let before = "SELECT user_name FROM caller WHERE caller = ?1";
        let before: String = store.query_row(before, [caller], |row| row.get(0)).unwrap();
        let changed = store.execute("UPDATE caller SET user_name = ?1 WHERE caller = ?2", (name, caller)).unwrap();
        assert_eq!(changed, 1);
        before
    };
    let name = named("mallory");
    let altered = format!("caller {caller} altered");
    host.mcpfs(["audit", "verify"]).exits(4).says(&altered);
    let evidence: Vec<i64> = seqs(host).into_iter().filter(|seq| *seq >= first).collect();

    days_pass(&world, 401);
    wait_for("status to say that rows stay", || host.mcpfs(["status"]).ok().stdout.contains(&altered).then_some(()));
    let (state, found) = doctor(host);
    assert!(state == "wrong" && found.contains(&altered), "{state} {found}");
    let left = seqs(host);
    assert!(evidence.iter().all(|seq| left.contains(seq)), "{evidence:?} of {left:?}");
    // Nothing is told anew in the forged name.
    let carried = "SELECT count(*) FROM event WHERE event = 'cut' AND launch IS NOT NULL";
    assert_eq!(numbers(host, carried), [0]);
    host.mcpfs(["audit", "verify"]).exits(4).says(&altered);

    // Put right, it goes like any other, and the server that still runs is known.
    assert_eq!(named(&name), "mallory");
    host.mcpfs(["audit", "verify"]).ok();
    keep(host, "399d");
    mount.reload();
    wait_for("old rows to go", || (seqs(host)[0] > launch).then_some(()));
    assert_eq!(numbers(host, carried), [1]);
    host.mcpfs(["ps"]).ok().says(&client.pid().to_string()).says("hello");
    drop(client);
    mount.stop();
    host.mcpfs(["audit", "verify"]).ok();
}

/// So many processes that open a file.
fn opens(host: &Host, count: usize) {
    let script = format!("for i in $(seq {count}); do ( : < \"$1\" ); done");
    Run::new("sh").args(["-c", &script, "sh"]).arg(host.at(README)).ok();
}

fn killed_in_the_middle() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    host.set_clock("+0");
    let mount = Mount::start(host);
    host.refresh();
    opens(host, 3500);
    let last = *seqs(host).last().unwrap();
    assert!(last > 3500, "{last}");
    days_pass(&world, 401);
    let cuts = || numbers(host, "SELECT count(*) FROM cut")[0];
    wait_for("a step", || (cuts() >= 1).then_some(()));
    if is_root() {
        // The next worker does not begin at once: it may have been the pass that killed this one.
        mount.kill_worker();
        host.mcpfs(["audit", "verify"]).ok();
    }
    let mut mount = Some(mount);
    for round in 1..=2 {
        let running = mount.take().unwrap_or_else(|| Mount::start(host));
        wait_for("a step", || (cuts() >= round).then_some(()));
        running.kill();
        unmount(&host.mcp());
        host.mcpfs(["audit", "verify"]).ok();
        let left = seqs(host);
        let cut = numbers(host, "SELECT max(last_seq) FROM cut")[0];
        assert!(left[0] == cut + 1 && left.windows(2).all(|pair| pair[1] == pair[0] + 1), "{cut}: {left:?}");
    }
    let mount = Mount::start(host);
    wait_for("the rest to go", || (seqs(host)[0] > last).then_some(()));
    assert_eq!(numbers(host, "SELECT sum(rows) FROM cut"), [last]);
    assert!(cuts() >= 4, "{} steps of {last} rows", cuts());
    mount.stop();
    host.mcpfs(["audit", "verify"]).ok().says(&format!("{last} rows up to row {last}"));
}

fn what_was_moved_aside_goes_too() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    host.set_clock("+0");
    let mount = Mount::start(host);
    host.refresh();
    mount.stop();
    host.mcpfs(["audit", "restart", "--reason", "a test"]).ok();
    let aside = || {
        let entries = std::fs::read_dir(host.path("state")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.contains(".damaged-"));
        names
    };
    assert!(!aside().is_empty());
    let name = aside().into_iter().min_by_key(String::len).unwrap();
    let mount = Mount::start(host);
    host.refresh();
    assert!(!aside().is_empty());
    days_pass(&world, 401);
    wait_for("the old file to go", || aside().is_empty().then_some(()));
    host.mcpfs(["audit", "query", "--event", "cut"]).ok().says(&format!("{name} is removed"));
    mount.stop();
    host.mcpfs(["audit", "verify"]).ok();
}
