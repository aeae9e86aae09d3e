//! What a host knows of before, when it is lost, copied, or its clock is another.
//!
//! Clocks are set by faketime, an outside tool: the daemon has no option for it.

use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{audit, forge};
use serde_json::json;

use crate::boundary::LOCAL_ROOT;
use crate::tuf::roles::deploy;
use crate::tuf::{CONTENT, README, Settled, head_of, shown};
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.attack(
        Attack::new(
            LOCAL_ROOT,
            "lost::state_is_gone",
            "state.db deleted, and an older site: like a new host this one believes what is signed and has not \
             expired; `minimum_head` in trust.json is what it cannot lose",
            &["HeadRollback", "EACCES", "ok"],
        ),
        state_is_gone,
    );
    suite.attack(
        Attack::new(
            LOCAL_ROOT,
            "lost::state_is_damaged",
            "state.db damaged behind its first page: it goes aside, a row says so, and what follows is a new host",
            &["exit 1", "ok"],
        ),
        state_is_damaged,
    );
    suite.mounted_attack(
        Attack::new(
            LOCAL_ROOT,
            "lost::a_golden_image",
            "two hosts from one disk image, with its state and cache: each goes on by itself, and neither goes back \
             behind the image",
            &["HeadRollback", "ok"],
        ),
        a_golden_image,
    );
    suite.mounted_attack(
        Attack::new(
            LOCAL_ROOT,
            "lost::a_clock_set_back",
            "the clock set back by two days over a restart: what was admitted runs, recorded as stale, nothing new is",
            &["ClockRollback", "EACCES"],
        ),
        a_clock_set_back,
    );
    suite.mounted_attack(
        Attack::new(
            LOCAL_ROOT,
            "lost::a_clock_set_forward",
            "the clock set forward by forty days, and right again: in between nothing is served, and nothing of it stays",
            &["HeadExpired", "EACCES", "ok"],
        ),
        a_clock_set_forward,
    );
}

/// Removes what a stopped host knows of the registry, and nothing else.
fn lose_state(host: &Host) {
    let mut found = 0;
    for entry in std::fs::read_dir(host.path("state")).unwrap() {
        let file = entry.unwrap().path();
        if file.file_name().unwrap().to_str().unwrap().starts_with("state.db") {
            std::fs::remove_file(file).unwrap();
            found += 1;
        }
    }
    assert!(found > 0, "there was none");
}

fn state_is_gone() {
    let world = World::new(Reads::Cached);
    let old = std::fs::read(world.file("head.json")).unwrap();
    forge::next_head(&world.copy.path(), &world.registry);
    let (head, before) = Settled::on(&world).stop();
    std::fs::write(world.file("head.json"), &old).unwrap();
    lose_state(&world.host);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!((head_of(&world.host), shown(&world.host)), (head - 1, before));
    audit::expect(&world.host, "ok", None);
    mount.stop();
    world.host.mcpfs(["audit", "verify"]).ok();
    // With a floor that comes by configuration.
    deploy(&world.host, |root| root["minimum_head"] = json!(head));
    lose_state(&world.host);
    crate::tuf::shows_nothing(&world, "HeadRollback");
}

fn state_is_damaged() {
    // All of it behind the header is seen when it is opened, a page of a table when that is read.
    for table in [None, Some("floor")] {
        let world = World::new(Reads::Cached);
        let before = Settled::on(&world).stop();
        let file = world.host.path("state/state.db");
        // What was written last is still beside it.
        let whole = rusqlite::Connection::open(&file).unwrap();
        whole.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        let page: u32 = table.map_or(2, |table| {
            whole.query_row("SELECT rootpage FROM sqlite_master WHERE name = ?1", [table], |row| row.get(0)).unwrap()
        });
        whole.close().unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        assert!(bytes.len() > 8192, "{} bytes: what it holds is elsewhere", bytes.len());
        let begin = (page as usize - 1) * 4096;
        let end = if table.is_some() { begin + 4096 } else { bytes.len() };
        bytes[begin..end].fill(0xff);
        std::fs::write(&file, bytes).unwrap();
        world.host.give_to_worker("state");
        if table.is_some() {
            let ran = world.host.mcpfs(["mount", "--foreground"]).exits(1).says("start mcpfs again");
            assert!(ran.text().contains("state.db.damaged-"), "{ran}");
        }
        let _mount = Mount::start(&world.host);
        let reset =
            |row: &audit::Row| row.reason.as_ref().is_some_and(|why| why.contains("StateReset: state.db was damaged"));
        let rows = audit::rows(&world.host);
        assert!(rows.iter().any(reset), "{}", audit::listing(&rows));
        world.host.refresh();
        assert_eq!((head_of(&world.host), shown(&world.host)), before);
        assert_eq!(std::fs::read(world.host.at(README)).unwrap(), CONTENT);
        audit::wait(&world.host, "ok", Some("hello"));
    }
}

fn a_golden_image(reads: Reads) {
    let world = World::new(reads);
    let older = std::fs::read(world.file("head.json")).unwrap();
    forge::next_head(&world.copy.path(), &world.registry);
    let newest = std::fs::read(world.file("head.json")).unwrap();
    let (head, before) = Settled::on(&world).stop();
    let clone = Host::new(&world.registry.trust(), &world.site.url(), reads);
    for folder in ["state", "cache"] {
        std::fs::remove_dir_all(clone.path(folder)).unwrap();
        scratch::copy_dir(&world.host.path(folder), &clone.path(folder));
    }
    let hosts = [&world.host, &clone];
    let mounts = hosts.map(Mount::start);
    std::fs::write(world.file("head.json"), &older).unwrap();
    for host in hosts {
        host.refresh_fails("HeadRollback");
        audit::wait(host, "HeadRollback", None);
        assert_eq!((head_of(host), shown(host)), (head, before.clone()));
        assert_eq!(std::fs::read(host.at(README)).unwrap(), CONTENT);
    }
    // Each at its own time: one sees the next head, the other one the one after it.
    std::fs::write(world.file("head.json"), &newest).unwrap();
    for (host, further) in hosts.into_iter().zip(1..) {
        forge::next_head(&world.copy.path(), &world.registry);
        host.refresh();
        assert_eq!(head_of(host), head + further);
        audit::wait(host, "ok", None);
    }
    mounts.into_iter().for_each(Mount::stop);
    for host in hosts {
        host.mcpfs(["audit", "verify"]).ok();
    }
}

/// A version that nobody has opened yet.
const OTHER: &str = "hello/1.0.0/tree/README";

fn a_clock_set_back(reads: Reads) {
    let world = World::new(reads);
    let before = Settled::on(&world).stop();
    world.host.set_clock("-2d");
    let _mount = Mount::start(&world.host);
    world.host.refresh_fails("ClockRollback");
    assert_eq!((head_of(&world.host), shown(&world.host)), before);
    world.host.mcpfs(["explain", "hello"]).ok().says("stale       ClockRollback").says("mcpfs doctor");
    assert_eq!(std::fs::read(world.host.at(README)).unwrap(), CONTENT);
    let rows = audit::rows(&world.host);
    let last = rows.iter().rfind(|row| row.event == "access").expect("an access");
    assert!(last.stale && last.outcome == "ok", "{}", audit::listing(&rows));
    assert_eq!(errno(std::fs::read(world.host.at(OTHER))), libc::EACCES);
    audit::expect(&world.host, "ClockRollback", Some("hello"));
}

fn a_clock_set_forward(reads: Reads) {
    let world = World::new(reads);
    let before = Settled::on(&world).stop();
    world.host.set_clock("+40d");
    let mount = Mount::start(&world.host);
    world.host.refresh_fails("HeadExpired");
    let ran = Run::new(world.run("hello")).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("HeadExpired"), "{ran}");
    assert_eq!(errno(std::fs::read(world.host.at(README))), libc::EACCES);
    audit::expect(&world.host, "HeadExpired", None);
    mount.stop();
    world.host.set_clock("+0");
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!((head_of(&world.host), shown(&world.host)), before);
    assert_eq!(std::fs::read(world.host.at(README)).unwrap(), CONTENT);
    audit::wait(&world.host, "ok", Some("hello"));
}
