//! `mcpfs ps`: which processes run servers, and ending them.
//!
//! A revoked release is refused at every new open; what was open before stays so, since taking pages from
//! under a running program would crash it in the middle of anything. Who wants it to end says so here.
//!
//! The launches are read from the audit and the revocations from `state.db`, so this also works while no
//! daemon does. A process is named by number and start time and held by a descriptor before it is judged: a number
//! that was used again is never hit. What a server started goes with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mcpfs_trust::error::bounded;
use mcpfs_trust::name::{ServerName, Version};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use super::{CommandError, Door};
use crate::audit::query::{AccessRow, Filter, Moment, Reader};
use crate::audit::{Act, AuditError, EventKind, verify};
use crate::caller::{self, Caller};
use crate::config::Config;
use crate::control::client::ClientError;
use crate::control::protocol::{ACTS, Request};
use crate::refusal::with_cause;
use crate::registry::state::seen_revocations;

/// Launches that are looked through, the newest.
const LAUNCHES: u32 = 100_000;
/// How long a server may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// How often what was started meanwhile is looked for.
const ROUNDS: usize = 64;

/// What became of a process that is gone: by itself when it was told to, or by force.
const ENDED: &str = "ended";
const KILLED: &str = "killed";

/// Options of `mcpfs ps`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Only processes of this server.
    pub name: Option<ServerName>,
    /// Only those of releases that were revoked.
    #[arg(long)]
    pub revoked: bool,
    /// End them, and what they started: SIGTERM, and after 5 seconds SIGKILL.
    #[arg(long)]
    pub kill: bool,
}

/// A process that runs a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Its number.
    pub pid: u32,
    /// When it began, microseconds after boot.
    pub start_us: u64,
    /// Whose it is.
    pub user: String,
    /// The server.
    pub name: String,
    /// The version.
    pub version: String,
    /// When it was launched.
    pub since: String,
    /// The audit's row of that.
    pub launch: i64,
    /// The registry that the server is of.
    #[serde(skip)]
    registry: Option<String>,
    /// Why the release was revoked, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

/// A process that was told to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// Its number.
    pub pid: u32,
    /// The server that it ran, or that started it.
    pub name: String,
    /// The version.
    pub version: String,
    /// `ended`, `killed`, or why not.
    pub outcome: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {} {}  {}", self.pid, self.name, self.version, self.outcome)
    }
}

/// Lists or ends processes.
///
/// # Errors
/// If the audit cannot be read, or a process cannot be ended.
pub fn run(door: &Door, args: &Args) -> Result<String, CommandError> {
    if args.kill && !args.revoked && args.name.is_none() {
        return Err(CommandError::Usage {
            message: "--kill would end every server of every user".to_owned(),
            advice: "name a server, or add --revoked".to_owned(),
        });
    }
    let wanted = |one: &Running| {
        args.name.as_ref().is_none_or(|name| name.as_str() == one.name) && (!args.revoked || one.revoked.is_some())
    };
    if args.kill {
        let ended = end(door, wanted)?;
        return Ok(door.show(&ended, |ended| match ended.as_slice() {
            [] => "no process of that is known\n".to_owned(),
            some => some.iter().map(|one| format!("{one}\n")).collect(),
        }));
    }
    let running: Vec<Running> = running(door)?.into_iter().filter(wanted).collect();
    Ok(door.show(&running, |running| table(running)))
}

/// Ends the processes that `wanted` picks, and all that they started.
pub(super) fn end(door: &Door, wanted: impl Fn(&Running) -> bool) -> Result<Vec<Ended>, CommandError> {
    let picked: Vec<Running> = running(door)?.into_iter().filter(wanted).collect();
    let mut held = hold(&picked, &[]);
    for one in &mut held {
        one.signal(Signal::TERM);
    }
    let deadline = Instant::now() + GRACE;
    for one in &mut held {
        one.wait_until(deadline, ENDED);
    }
    freeze(&picked, &mut held);
    for one in &mut held {
        one.signal(Signal::KILL);
    }
    for one in held.iter_mut().filter(|one| one.outcome.is_none()) {
        one.wait_until(Instant::now() + GRACE, KILLED);
    }
    let (acts, ended): (Vec<Act>, Vec<Ended>) = held.into_iter().map(Held::done).unzip();
    record(door, &acts)?;
    match ended.iter().find(|one| one.outcome != ENDED && one.outcome != KILLED) {
        Some(left) => Err(CommandError::refused(
            format!("process {} of {} {} goes on: {}", left.pid, left.name, left.version, left.outcome),
            "run it with sudo",
        )),
        None => Ok(ended),
    }
}

/// Stops what goes on, and holds what it has started since: some fork when they are told to end. What is stopped
/// starts nothing any more, so when nothing new is found twice that is all.
fn freeze(picked: &[Running], held: &mut Vec<Held>) {
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        for one in held.iter_mut() {
            one.signal(Signal::STOP);
        }
        let new = hold(picked, held);
        quiet = if new.is_empty() { quiet + 1 } else { 0 };
        held.extend(new);
        if quiet == 2 {
            return;
        }
    }
}

/// Records what was done: by the daemon, or if none runs in the store itself.
///
/// # Errors
/// If it cannot be recorded, though it was done.
pub(super) fn record(door: &Door, acts: &[Act]) -> Result<(), CommandError> {
    let unrecorded = |why: String| {
        let advice = "the log of mcpfs says more; what was done stands";
        CommandError::refused(format!("it was done, but is not in the audit: {why}"), advice)
    };
    for some in acts.chunks(ACTS) {
        match door.ask::<serde::de::IgnoredAny>(&Request::Record { acts: some.to_vec() }) {
            Ok(_) => {}
            Err(ClientError::NoDaemon { .. }) => {
                let state = Config::load(&door.config)?.state;
                let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                let caller = Caller::of(std::process::id(), uid, gid);
                match Act::record(some, &caller, &state.join("audit.db")) {
                    // A host on which nothing ever ran has nothing to tell.
                    Ok(()) | Err(AuditError::Missing { .. }) => {}
                    Err(error) => return Err(unrecorded(with_cause(&error))),
                }
            }
            Err(error) => return Err(unrecorded(error.to_string())),
        }
    }
    Ok(())
}

/// What runs now, of this boot's launches.
fn running(door: &Door) -> Result<Vec<Running>, CommandError> {
    let config = Config::load(&door.config)?;
    let audit = config.state.join("audit.db");
    let unreadable = |error: String| CommandError::refused(error, "run it as root, or as the user of the mount");
    let reader = Reader::open(&audit).map_err(|error| unreadable(with_cause(&error)))?;
    let of = |event: EventKind| {
        let outcome = Some("ok".to_owned());
        let filter = Filter { since: boot(), event: Some(event), outcome, limit: Some(LAUNCHES), ..Filter::default() };
        reader.rows(&filter).map_err(|error| unreadable(with_cause(&error)))
    };
    // Of those that still ran when retention removed their launch there is another row.
    let mut rows = of(EventKind::Cut)?;
    rows.extend(of(EventKind::Launch)?);
    let revoked = seen_revocations(&config.state).map_err(|error| unreadable(with_cause(&error)))?;
    // The newest row of a process: `exec` keeps its number and start.
    let mut found: BTreeMap<(u32, u64), Running> = BTreeMap::new();
    for row in rows {
        let number = |column| row.number(column);
        let (Some(pid), Some(start_us)) = (number("pid"), number("pid_start_us")) else { continue };
        let (Ok(pid), Ok(start_us)) = (u32::try_from(pid), u64::try_from(start_us)) else { continue };
        let (Some(name), Some(version)) = (row.text("server_name"), row.text("version")) else { continue };
        if caller::start_us("/proc", pid) != Some(start_us) || has_ended(pid) {
            continue;
        }
        let user = row.text("user_name").or_else(|| number("user_id").map(|uid| uid.to_string())).unwrap_or_default();
        let revoked = why_revoked(&revoked, &name, &version);
        let carried = row.text("event").as_deref() == Some(EventKind::Cut.as_str());
        let since = if carried { launched(&row) } else { row.text("time") }.unwrap_or_default();
        let launch = number(if carried { "launch" } else { "seq" }).unwrap_or_default();
        let registry = row.text("registry");
        found.insert((pid, start_us), Running { pid, start_us, user, name, version, since, launch, registry, revoked });
    }
    Ok(found.into_values().collect())
}

/// When the process of such a row was launched.
fn launched(row: &AccessRow) -> Option<String> {
    let detail: serde_json::Value = serde_json::from_str(&row.text("detail")?).ok()?;
    Some(verify::moment(detail.get("launched_us")?.as_i64()?))
}

/// Whether only its number is left, until its parent asks how it ended.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_none_or(|state| "ZXx".contains(state))
}

/// Rows before this are of processes that the last boot ended.
fn boot() -> Option<Moment> {
    // An hour for a clock that was set since.
    let before = crate::registry::since_boot() + Duration::from_secs(3600);
    format!("{}s", before.as_secs()).parse().ok()
}

fn why_revoked(revoked: &HashMap<(ServerName, Version), String>, name: &str, version: &str) -> Option<String> {
    let key = (name.parse().ok()?, version.parse().ok()?);
    revoked.get(&key).cloned()
}

/// A process that cannot be mistaken for another any more.
struct Held {
    running: Running,
    pid: u32,
    start_us: u64,
    process: Option<OwnedFd>,
    outcome: Option<String>,
}

/// The picked ones and their descendants, each held by a descriptor that was opened before it was looked at; but for
/// those that are `known`, whose descendants belong to them.
fn hold(picked: &[Running], known: &[Held]) -> Vec<Held> {
    let mut held = Vec::new();
    let of_picked = picked.iter().map(|one| ((one.pid, one.start_us), one));
    let of_known = known.iter().map(|one| ((one.pid, one.start_us), &one.running));
    let roots: HashMap<(u32, u64), &Running> = of_known.chain(of_picked).collect();
    let known: HashSet<(u32, u64)> = known.iter().map(|one| (one.pid, one.start_us)).collect();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // Who asks may be one of them, such as a shell that a server started.
    for pid in pids.filter(|pid| *pid != std::process::id()) {
        let Some(process) = Pid::from_raw(pid.cast_signed()) else { continue };
        let opened = pidfd_open(process, PidfdFlags::empty());
        let Some(start) = caller::start_us("/proc", pid) else { continue };
        if known.contains(&(pid, start)) {
            continue;
        }
        let mut family = caller::lineage("/proc", pid, start);
        let Some(running) = family.find_map(|one| roots.get(&one).copied()) else { continue };
        let (process, outcome) = match opened {
            Ok(process) => (Some(process), None),
            Err(rustix::io::Errno::SRCH) => continue,
            Err(error) => (None, Some(error.to_string())),
        };
        held.push(Held { running: running.clone(), pid, start_us: start, process, outcome });
    }
    held
}

impl Held {
    fn signal(&mut self, signal: Signal) {
        if let (Some(process), None) = (&self.process, &self.outcome) {
            match pidfd_send_signal(process, signal) {
                Ok(()) => {}
                Err(rustix::io::Errno::SRCH) => self.outcome = Some(ENDED.to_owned()),
                Err(error) => self.outcome = Some(error.to_string()),
            }
        }
    }

    /// Waits for its end; a descriptor of a process is readable when that has come.
    fn wait_until(&mut self, deadline: Instant, word: &str) {
        let (Some(process), None) = (&self.process, &self.outcome) else { return };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
            let mut polled = [PollFd::new(process, PollFlags::IN)];
            match poll(&mut polled, Some(&timeout)) {
                Ok(0) => return,
                Ok(_) => {
                    self.outcome = Some(word.to_owned());
                    return;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    self.outcome = Some(error.to_string());
                    return;
                }
            }
        }
    }

    fn done(self) -> (Act, Ended) {
        let outcome = self.outcome.unwrap_or_else(|| "it does not end".to_owned());
        let Running { start_us, user, name, version, launch, registry, .. } = self.running;
        let (pid, gone) = (self.pid, outcome == ENDED || outcome == KILLED);
        let ended = Ended { pid, name: name.clone(), version: version.clone(), outcome: outcome.clone() };
        (Act::Kill { pid, start_us, user, registry, name, version, launch, outcome, gone }, ended)
    }
}

fn table(running: &[Running]) -> String {
    if running.is_empty() {
        return "no process of that is known\n".to_owned();
    }
    running.iter().fold(String::new(), |text, one| {
        let revoked = one.revoked.as_ref().map(|why| format!("  REVOKED: {}", bounded(why))).unwrap_or_default();
        let (name, version, user) = (bounded(&one.name), bounded(&one.version), bounded(&one.user));
        text + &format!("{:>7}  {user:<12}  {name} {version}  since {}{revoked}\n", one.pid, one.since)
    })
}
