//! A worker that was taken over, for the end-to-end test `hostile_worker`.
//!
//! It is its own supervisor: `hostile-worker CONFIG` runs the real one with itself as the worker,
//! which confines itself as the real worker does and then does everything that it should not be
//! able to. Each worker of the session does one thing that must cost it its place; the last one
//! tries what must be refused, says on stderr what came of each, and waits for its end.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test program")]

#[path = "hostile-worker/credentials.rs"]
mod credentials;
#[path = "hostile-worker/door.rs"]
mod door;
#[path = "hostile-worker/system.rs"]
mod system;

use std::path::Path;

use door::Door;
use mcpfs::config::Config;
use mcpfs::config::Texts;
use mcpfs::supervisor::{self, Charge, Settings, Signals, User, WorkerCommand};
use mcpfs::worker::confine::{Reach, confine};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if mcpfs::credentials::invoked(args.first().map(AsRef::as_ref)) {
        mcpfs::credentials::run();
        return;
    }
    let texts = Texts::read(Path::new(args.get(1).expect("a configuration"))).expect("a configuration");
    let config = texts.config().expect("a configuration");
    let user = User::named(&config.user).expect("tests/setup makes the user mcpfs");
    if args.get(2).is_some_and(|arg| arg == "worker") {
        return work(&config, &user, args.get(3).map_or("all", String::as_str));
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let which = args.get(2).cloned().unwrap_or_else(|| "all".to_owned());
    let settings = Settings {
        at: config.mount.at.clone(),
        outside: vec![],
        state: config.state.clone(),
        cache: config.cache.dir.clone(),
        rundir: config.rundir.clone(),
        charge: Charge::new(texts, &config, None),
        user,
        keep: false,
        worker: WorkerCommand {
            program: "/proc/self/exe".into(),
            args: [args[1].as_str(), "worker", &which].map(Into::into).into(),
        },
        signals: Signals::new().expect("pipes"),
    };
    if let Err(error) = supervisor::run(settings) {
        say(&format!("supervisor: {error}"));
        std::process::exit(1);
    }
}

/// A line in one piece: `eprintln!` writes it in several, and another process may come between them.
fn say(line: &str) {
    use std::io::Write as _;
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("a log");
}

fn work(config: &Config, user: &User, which: &str) {
    let held = system::descriptors();
    let mut door = Door::welcome();
    confine(user, &Reach::of(config)).expect("what every worker gives up");
    let generation = door.generation;
    door.mount(which == "init" && generation > 1);
    door.ready();
    say(&format!("worker {generation} serves, started with descriptors {held:?}"));
    match which {
        // Dies as soon as it serves, as of a request that kills whoever takes it.
        "deadly" => {
            door.take_one();
            say(&format!("worker {generation} took a request and dies of it"));
            // SIGSEGV is no kill by somebody else.
            unsafe { libc::raise(libc::SIGABRT) };
        }
        "mute" if generation > 1 => unreachable!("it waits in `mount`"),
        "init" | "mute" => door.stay(),
        _ => {
            let acts = door::acts();
            let at = usize::try_from(generation).expect("small") - 1;
            if let Some((name, act)) = acts.get(at) {
                say(&format!("act {name}"));
                act(&mut door, config);
                door.wait_for_death(name);
                return;
            }
            for (name, outcome) in
                door.refusals(config).into_iter().chain(door.credentials(config)).chain(system::refusals(config))
            {
                say(&format!("refusal {name}: {outcome}"));
            }
            eprintln!("all acts done");
            door.stay();
        }
    }
}
