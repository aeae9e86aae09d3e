//! Time that jumps, and time that stands still, while a daemon serves.
//!
//! By outside tools alone: user-mode Linux, a kernel whose clock may be set and which may sleep; faketime, with a
//! file that changes the clock of what runs; and signals that stop all of a daemon.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{audit, kernel};
use rustix::process::{Pid, Signal, kill_process};

use crate::boundary::LOCAL_ROOT;
use crate::tuf::{CONTENT, README};
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted_attack(
        Attack::new(
            LOCAL_ROOT,
            "slept::the_clock_of_a_running_daemon",
            "the clock of a running daemon set forward past the head's end and past `max_stale`, and back behind what \
             it has accepted, with nothing that tells it: each open is judged by itself, and a right clock makes all of it good",
            &["HeadExpired", "ClockRollback", "EACCES", "ok"],
        ),
        the_clock_of_a_running_daemon,
    );
    if is_root() {
        suite.plain("slept::a_kernel_that_sleeps_and_is_set", a_kernel_that_sleeps_and_is_set);
        suite.mounted("slept::everything_stands_still", everything_stands_still);
    }
}

/// A version that nobody has opened yet.
const OTHER: &str = "hello/1.0.0/tree/README";

fn the_clock_of_a_running_daemon(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    host.set_clock("+0");
    let _mount = Mount::start(host);
    host.refresh();
    let opens = || assert_eq!(std::fs::read(host.at(README)).unwrap(), CONTENT);
    let refused = |file: &str| assert_eq!(errno(std::fs::read(host.at(file))), libc::EACCES);
    opens();

    host.set_clock("+8d");
    opens();
    refused(OTHER);
    audit::wait(host, "HeadExpired", Some("hello"));
    host.set_clock("+40d");
    refused(README);
    let ran = Run::new(world.run("hello")).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("HeadExpired"), "{ran}");
    host.set_clock("-2d");
    opens();
    refused(OTHER);
    audit::wait(host, "ClockRollback", Some("hello"));
    host.refresh_fails("ClockRollback");
    host.set_clock("+0");
    opens();
    assert!(std::fs::read(host.at(OTHER)).is_ok());
    host.refresh();
    audit::wait(host, "ok", Some("hello"));
}

fn a_kernel_that_sleeps_and_is_set() {
    let registry = Registry::shared();
    let host = Host::new(&registry.trust(), "http://127.0.0.1:8000/", Reads::Cached);
    host.drop_in("50-seldom", "[registry]\nrefresh = \"1h\"\n");
    let (site, rundir, program) = (registry.site(), host.rundir(), bin("mcpfs"));
    let said: BTreeMap<String, String> =
        kernel::run("slept", &[("MCPFS", &program), ("HOST", &host.path("")), ("RUNDIR", &rundir), ("SITE", &site)]);
    let part = |name: &str| said.get(name).unwrap_or_else(|| panic!("no {name} in {said:#?}")).as_str();
    let has = |name: &str, words: &[&str]| {
        for word in words {
            assert!(part(name).contains(word), "no {word:?} in {name}: {said:#?}");
        }
    };
    let readme = String::from_utf8_lossy(CONTENT);
    has("served", &["nothing new", &readme]);
    // It is older than Linux 6.9, and no worker's death is hidden by it.
    has("served", &["reads cached", "takeover: no"]);
    has("slept", &["looked at the site"]);
    has("set forward by 8 days", &["looked at the site"]);
    has(
        "8 days ahead",
        &[
            &readme,
            "1.0.0/tree/README: Permission denied",
            "HeadExpired",
            "timedatectl set-ntp true",
            "looked at the site",
        ],
    );
    has("40 days ahead", &["1.1.0/tree/README: Permission denied", "max_stale ended", "exit 77"]);
    has(
        "2 days behind",
        &[&readme, "1.0.0/tree/README: Permission denied", "ClockRollback", "WRONG    clock", "looked at the site"],
    );
    has("right again", &[&readme, "nothing new", "audit ok"]);
    assert!(!part("right again").contains("Permission denied"), "{said:#?}");
    assert!(!part("log").contains("panicked"), "{said:#?}");
}

/// The service frozen, the container paused, a debugger: no clock of the kernel stops, but nobody runs.
fn everything_stands_still(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    let (serves, standby) = (mount.server(), mount.standby());
    let all = [serves, standby, mount.pid()];
    let send = |pid: u32, signal| kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    all.iter().for_each(|&pid| send(pid, Signal::STOP));
    // Longer than a worker may be silent while its supervisor runs.
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(8) {
        std::thread::sleep(Duration::from_millis(100));
    }
    all.iter().rev().for_each(|&pid| send(pid, Signal::CONT));
    wait_for("the supervisor's word", || mount.log().contains("everything stood still").then_some(()));
    assert!(!mount.log().contains("replacing it"), "{}", mount.log());
    assert_eq!(mount.server(), serves, "{}", mount.log());
    assert_eq!(std::fs::read(world.host.at(README)).unwrap(), CONTENT);
    world.host.refresh();
}
