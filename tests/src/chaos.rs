//! Everything at once, while everything goes wrong: what a host's users notice of it.
//!
//! Readers compare what they read with its source, an MCP session goes on, servers are launched,
//! releases are published and followed. Meanwhile workers are killed and stopped, bytes of the
//! cache are altered, the cache overflows, others fill its disk, and the network cuts, corrupts and
//! falls silent.
//!
//! An error counts as failed unless it has a name, and those that have are counted: what the cache
//! does not have cannot be fetched while the network is at fault or others have filled the disk. A
//! cache that is smaller than what is read from it is no excuse, and other bytes than the source's
//! have none. In the end everything is closed, and nothing may be left of it.

mod actors;
pub mod blows;
pub mod service;
mod tally;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bench::resident_mib;
use crate::disk::Disk;
use crate::faulty::{Fault, FaultyServer};
use crate::fixture::{self, HELLO_LAUNCH, Recipe};
use crate::host::{Host, Reads};
use crate::mcp::McpClient;
use crate::mount::Mount;
use crate::quick::Quick;
use crate::scratch::wait_for;
use actors::{All, Place};
use blows::Blow;
use tally::{Tally, Trouble};

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
const CACHE: &str = "[cache]\nquota = \"64MiB\"\nkeep_free = \"8MiB\"\n";
/// The disk that the cache has for itself, and which others fill.
const DISK: &str = "160m";
/// Shorter than the defaults, so that what a fault swallowed is given up soon: `tally::AFTERMATH`.
const NETWORK: &str = "[network]\nconnect = \"1s\"\nstall = \"2s\"\nmetadata = \"4s\"\nobject = \"10s\"\n";
/// How long a network fault lasts, and how long the disk is full.
const FAULT: Duration = Duration::from_millis(1_500);
const FULL: Duration = Duration::from_millis(800);

/// A publisher, its site behind a server that can be told to misbehave, and a host.
struct World {
    quick: Quick,
    server: FaultyServer,
    /// Unmounted before the host's directory goes.
    disk: Option<Disk>,
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
        let disk = plan.troubles.then(|| Disk::at(host.path("cache"), DISK));
        if plan.troubles {
            host.drop_in("cache", CACHE);
            host.drop_in("network", NETWORK);
        }
        Self { quick, server, disk, host, published: AtomicU64::new(0) }
    }

    fn place(&self) -> Place {
        Place { mount: self.host.mcp(), cache: self.host.path("cache"), sources: self.quick.path("artefacts") }
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
    // Everything is here before the first kill, and what a worker keeps open is open.
    let all = actors::all(&world.place(), &tally);
    let start = || McpClient::start(&world.host.at("hello/run"));
    let before = usage(&world, &mount);
    std::thread::scope(|scope| {
        let tally = &tally;
        let (world, all) = (&world, &all);
        load(scope, &start, all, tally);
        if plan.troubles {
            scope.spawn(move || tally.guard("publishing", || actors::publish(world, tally)));
            scope.spawn(move || tally.guard("the filler", || actors::fill(world, tally)));
            scope.spawn(move || tally.guard("the victim", || actors::alter(world, tally)));
            scope.spawn(move || tally.guard("the network", || spoil(world, tally)));
            scope.spawn(move || tally.guard("the disk", || overfill(world, tally)));
        }
        tally.guard("killing", || disturb(plan, &mount, tally));
        tally.finish();
    });
    world.server.turn(None);
    // Once more without a fault: everything is right again.
    tally.calm();
    all.read(&tally);
    // The kernel says that a file is closed when it was.
    let closed = |_| {
        usage(&world, &mount).open_handles == 0 || {
            std::thread::sleep(Duration::from_millis(50));
            false
        }
    };
    (0..100).any(closed);
    let after = usage(&world, &mount);
    [mount.pid(), mount.server()].into_iter().for_each(|pid| tally.saw(pid));
    mount.stop();
    tally.report(before, after)
}

/// Those who use the mount: each in a thread, until it is over.
fn load<'s>(scope: &'s Scope<'s, '_>, start: &'s (dyn Fn() -> McpClient + Sync), all: &'s All, tally: &'s Tally) {
    let mut session = start();
    session.initialize();
    for seed in 0..3 {
        scope.spawn(move || tally.guard("a reader", || actors::read(all, tally, seed)));
    }
    scope.spawn(move || tally.guard("the session", || actors::converse(session, tally)));
    scope.spawn(move || tally.guard("a launch", || actors::launch(start, all, tally)));
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
        if let Some(worker) = mount.worker() {
            tally.saw(worker);
        }
        if plan.troubles && turn % 8 == 0 {
            let log = |what: &str| mount.log().matches(what).count();
            let (silent, served) = (log("has said nothing"), log(" mounted at "));
            kill_process(Pid::from_raw(mount.server().cast_signed()).expect("a pid"), Signal::STOP).expect("a worker");
            wait_for("the end of the stopped worker", || (log("has said nothing") > silent).then_some(()));
            wait_for("its successor", || (log(" mounted at ") > served).then_some(()));
            tally.struck(Blow::Stopped, began);
        } else {
            mount.kill_worker();
            tally.struck(Blow::Killed, began);
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
        tally.trouble(Trouble::Network, FAULT, || world.server.turn(Some(fault)), || world.server.turn(None));
    }
}

/// Others fill the cache's disk, and give it back.
fn overfill(world: &World, tally: &Tally) {
    let disk = world.disk.as_ref().expect("a plan with troubles has one");
    let others = disk.path().join("others");
    loop {
        tally.sleep(Duration::from_secs(11));
        if tally.is_over() {
            return;
        }
        tally.trouble(
            Trouble::Disk,
            FULL,
            || disk.fill("others"),
            || std::fs::remove_file(&others).expect("a file of our own"),
        );
        tally.count("times the disk was full");
    }
}

/// What supervisor and worker hold.
#[derive(Debug, Clone, Copy)]
struct Usage {
    descriptors: [usize; 2],
    resident: [f64; 2],
    open_handles: u64,
}

fn usage(world: &World, mount: &Mount<'_>) -> Usage {
    let status = world.host.mcpfs(["--json", "status"]).ok().json();
    Usage::of([mount.pid(), mount.server()], status["open_handles"].as_u64().expect("a number"))
}

impl Usage {
    fn of(both: [u32; 2], open_handles: u64) -> Self {
        let open = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
        Self { descriptors: both.map(open), resident: both.map(resident_mib), open_handles }
    }
}

impl World {
    fn next_version(&self) -> u64 {
        self.published.fetch_add(1, Ordering::Relaxed) + 1
    }
}
