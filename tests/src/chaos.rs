//! Everything at once, while everything goes wrong: what a host's users notice of it.
//!
//! Readers compare what they read with its source, an MCP session goes on, servers are launched,
//! releases are published and followed. Meanwhile workers are killed and stopped, bytes of the
//! cache are altered, the cache overflows, and the network cuts, corrupts and falls silent.
//!
//! An error counts as failed unless it has a name: what is not here cannot be fetched while the
//! network is at fault, and a cache that overflows may have no room at a moment. Both are counted. Other bytes than the source's have no excuse.

mod actors;
mod tally;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bench::resident_mib;
use crate::faulty::{Fault, FaultyServer};
use crate::fixture::{self, HELLO_LAUNCH, Recipe};
use crate::host::{Host, Reads};
use crate::mcp::McpClient;
use crate::mount::Mount;
use crate::quick::Quick;
use crate::scratch::wait_for;
use tally::Tally;

pub use tally::Report;

/// What is to happen.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How files are read.
    pub reads: Reads,
    /// Until when; whatever is under way then is finished.
    pub lasts: Duration,
    /// After how many kills it ends earlier.
    pub kills: usize,
    /// Whether more goes wrong than killed workers.
    pub troubles: bool,
}

/// Servers whose content alone is larger than the cache, which has room for all that is read at once.
const FILLERS: u64 = 10;
const FILLER_BYTES: usize = 8 << 20;
const QUOTA: &str = "[cache]\nquota = \"64MiB\"\n";
/// How long a network fault lasts.
const FAULT: Duration = Duration::from_millis(1_500);

/// A publisher, its site behind a server that can be told to misbehave, and a host.
struct World {
    quick: Quick,
    server: FaultyServer,
    host: Host,
    published: AtomicU64,
}

impl World {
    fn new(plan: &Plan) -> Self {
        let quick = Quick::new();
        let artefacts = quick.path("artefacts");
        let release = |recipe: &Recipe| {
            let file = quick.recipe_of(recipe);
            quick.release(&file, &quick.site()).ok();
        };
        let hello = fixture::hello_tree(&artefacts, "1.1.0");
        release(&Recipe::new("hello", "1.1.0", &fixture::tar(&hello)).with(HELLO_LAUNCH));
        let files = fixture::files_tree(&artefacts);
        release(&Recipe::new("files", "1.0.0", &fixture::tar(&files)).with("launch:\n  command: script.sh\n"));
        for (name, seed) in fillers().chain([("victim".to_owned(), 99)]).take(if plan.troubles { 99 } else { 0 }) {
            let file = quick.recipe(&name, "1.0.0", &[("data", &fixture::bytes(seed, FILLER_BYTES))]);
            quick.release(&file, &quick.site()).ok();
        }
        let server = FaultyServer::healthy(&quick.path("site"));
        let host = Host::new(&quick.trust(), &server.url(), plan.reads);
        if plan.troubles {
            host.drop_in("quota", QUOTA);
        }
        Self { quick, server, host, published: AtomicU64::new(0) }
    }

    fn source(&self, directory: &str) -> PathBuf {
        self.quick.path("artefacts").join(directory)
    }
}

fn fillers() -> impl Iterator<Item = (String, u64)> {
    (0..FILLERS).map(|at| (format!("filler-{at}"), at + 1))
}

/// Runs the plan.
///
/// # Panics
/// If there is no world to begin with: nothing is mounted or published.
pub fn run(plan: &Plan) -> Report {
    let world = World::new(plan);
    let mount = Mount::start(&world.host);
    let tally = Tally::default();
    let known = actors::known(&world);
    // Everything is here before the first kill, and what a worker keeps open is open.
    actors::read_all(&known, &tally);
    let mut session = McpClient::start(&world.host.at("hello/run"));
    session.initialize();
    let before = usage(&mount);
    std::thread::scope(|scope| {
        let tally = &tally;
        let (world, known) = (&world, &known);
        for seed in 0..3 {
            scope.spawn(move || tally.guard("a reader", || actors::read(known, tally, seed)));
        }
        scope.spawn(move || tally.guard("the session", || actors::converse(session, tally)));
        scope.spawn(move || tally.guard("a launch", || actors::launch(world, tally)));
        if plan.troubles {
            scope.spawn(move || tally.guard("publishing", || actors::publish(world, tally)));
            scope.spawn(move || tally.guard("the filler", || actors::fill(world, tally)));
            scope.spawn(move || tally.guard("the victim", || actors::alter(world, tally)));
            scope.spawn(move || tally.guard("the network", || spoil(world, tally)));
        }
        tally.guard("killing", || disturb(plan, &mount, tally));
        tally.finish();
    });
    world.server.turn(None);
    // Once more without a fault: everything is right again.
    tally.calm();
    actors::read_all(&known, &tally);
    let after = usage(&mount);
    mount.stop();
    tally.report(before, after)
}

/// Kills and stops workers until the plan is over.
fn disturb(plan: &Plan, mount: &Mount<'_>, tally: &Tally) {
    let started = Instant::now();
    for turn in 1..=plan.kills {
        if started.elapsed() >= plan.lasts {
            return;
        }
        // A worker that never lived for two seconds would be taken for one that a request kills.
        std::thread::sleep(Duration::from_millis(if turn % 4 == 0 { 2_500 } else { 300 }));
        let began = Instant::now();
        if plan.troubles && turn % 8 == 0 {
            let log = |what: &str| mount.log().matches(what).count();
            let silent = log("has said nothing");
            kill_process(Pid::from_raw(mount.server().cast_signed()).expect("a pid"), Signal::STOP).expect("a worker");
            wait_for("the end of the stopped worker", || (log("has said nothing") > silent).then_some(()));
            let served = log(" mounted at ");
            wait_for("its successor", || (log(" mounted at ") > served || mount.worker().is_some()).then_some(()));
            tally.stopped(began);
        } else {
            mount.kill_worker();
            tally.killed(began);
        }
    }
}

/// One fault of the network after another.
fn spoil(world: &World, tally: &Tally) {
    let faults = [Fault::Reset, Fault::Cut, Fault::Corrupt, Fault::Silence, Fault::Refuse];
    for fault in faults.into_iter().cycle() {
        tally.sleep(Duration::from_secs(8));
        if tally.is_over() {
            return;
        }
        tally.trouble_begins();
        world.server.turn(Some(fault));
        tally.sleep(FAULT);
        world.server.turn(None);
        tally.trouble_ends();
    }
}

/// What supervisor and worker hold.
#[derive(Debug, Clone, Copy)]
struct Usage {
    descriptors: [usize; 2],
    resident: [f64; 2],
}

fn usage(mount: &Mount<'_>) -> Usage {
    let both = [mount.pid(), mount.server()];
    let open = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    Usage { descriptors: both.map(open), resident: both.map(resident_mib) }
}

impl World {
    fn next_version(&self) -> u64 {
        self.published.fetch_add(1, Ordering::Relaxed) + 1
    }
}
