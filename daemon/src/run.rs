//! `mcpfs mount`: the only place where the rooms are wired together.
//!
//! The order is the safety: the audit opens before `trust.json` is read, so that a refused
//! trust root is a row; state before the registry, so that nothing older than what was seen
//! is shown; the mount last but one, and it is said to be served only when it answers and
//! the site has been looked at once (or ten seconds have passed: a host boots without it).
//!
//! Root starts a supervisor, which starts this program again as its worker ([`crate::worker`]);
//! anybody else is served by one process.
//!
//! Without `--foreground` the program starts itself once more, detached, and waits for the
//! one line that says that the mount is served. A fork in this process was rejected: threads
//! and runtimes do not survive it.

mod damage;
mod detach;
mod ends;
mod retry;
mod rows;
mod source;
mod supervise;

use std::io::IsTerminal;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcpfs_trust::error::Code;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::ends::{Ends, beat};
use self::rows::{record, record_events, record_lost_audit, record_reset};
use self::source::Source;
use self::supervise::supervise;
use crate::audit::{Audit, AuditEvent, AuditOptions, EventKind};
use crate::caller::Caller;
use crate::cli::Global;
use crate::config::{Config, LogFormat, ReadsWanted};
use crate::content::{Content, ContentSettings};
use crate::daemon::{self, Daemon, MountFacts};
use crate::fs::Pulse;
use crate::fs::Vfs;
use crate::launched::Launches;
use crate::memory;
use crate::metrics;
use crate::mount::{Mountpoint, Seat, Session, Stopped};
use crate::open_files;
use crate::refusal::{Exit, Refusal, with_cause};
use crate::registry::state::State;
use crate::registry::{Parts, Pinned, Registry, now};
use crate::site::{Secrets, Site};
use crate::supervisor::charge::Handed;
use crate::supervisor::wire::Message;
use crate::supervisor::{Charge, Left, Signals, User};
use crate::worker::Link;
use crate::worker::confine::{Reach, confine};
use crate::{announce, control, fs, retention};

/// How long "served" waits for the first look at the site.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How long an unmount waits for the last user.
const PATIENCE: Duration = Duration::from_secs(5);

/// Options of `mcpfs mount`.
#[derive(Debug, Clone, clap::Args)]
pub struct MountArgs {
    /// Stay in the foreground and log to stderr.
    #[arg(long)]
    pub foreground: bool,
    /// Mount here instead of where the configuration says.
    #[arg(long, value_name = "DIR")]
    pub at: Option<PathBuf>,
    /// How the log is written, instead of what the configuration says.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Leave the mount to systemd's descriptor store when this process dies, or gets SIGINT to make room for another.
    #[arg(long, requires = "foreground", help_heading = "For units of systemd")]
    pub keep_mount: bool,
    /// The second start of a detached mount: leave the terminal's session.
    #[arg(long, hide = true, requires = "foreground")]
    pub detached: bool,
    /// A supervisor's worker; it cannot be started by hand.
    #[arg(long, hide = true, requires = "foreground")]
    pub worker: bool,
}

/// Why the daemon ended before it was asked to.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self { exit, message: with_cause(error) }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { exit: Exit::of(refusal.code), message: refusal.to_string() }
    }
}

/// Mounts, and serves or leaves a process behind that does.
pub fn mount(global: &Global, args: &MountArgs) -> Exit {
    let began = Instant::now();
    memory::keep_little();
    open_files::raise();
    // As early as that: a stop that comes while the configuration is read is for the mount that systemd keeps, too.
    let early = args.keep_mount.then(Signals::new);
    let left = args.keep_mount.then(Left::find).flatten();
    let loaded = Source::read(global, args, left.as_ref()).and_then(|source| Ok((source.config(args)?, source)));
    let as_json = args.foreground && loaded.as_ref().is_ok_and(|(config, _)| config.log.format == LogFormat::Json);
    let outcome = loaded.and_then(|(config, source)| match source {
        Source::Supervisor(handed) => work(global, config, handed),
        Source::Files(..) if !args.foreground => detach::detach(&config),
        Source::Files(texts, kept) if rustix::process::geteuid().is_root() => {
            let charge = Charge::new(texts, &config, kept);
            supervise(global, args, config, charge, early)
        }
        Source::Files(..) => serve(global, args, config),
        Source::Kept(kept) => {
            let charge = Charge::kept(kept, &config);
            supervise(global, args, config, charge, early)
        }
    });
    match outcome {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            if as_json && !failure.message.is_empty() {
                tracing::error!("{}", failure.message);
            } else if !failure.message.is_empty() {
                eprintln!("mcpfs: {}", failure.message);
            }
            // What is on the disk is not mended by another try, and not tried again.
            if args.keep_mount && failure.exit != Exit::Usage {
                retry::pause(began.elapsed(), left.as_ref());
            }
            failure.exit
        }
    }
}

/// What is said to somebody who starts a worker himself.
fn by_hand(error: &std::io::Error) -> Failure {
    let message = format!("a worker is started by `mcpfs mount` and by nothing else ({error})");
    Failure { exit: Exit::Usage, message }
}

/// Logs to stderr, and leaves the terminal's session if nobody is to wait for this process.
fn prepare(global: &Global, format: LogFormat, detached: bool) {
    let filter = tracing_subscriber::EnvFilter::new(global.level());
    let terminal = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    // It fails only if there is one already.
    drop(match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.with_ansi(false).json().flatten_event(true).try_init(),
    });
    if detached {
        // It leads no group yet, so this cannot fail; the terminal must not take us down with it.
        let _ = rustix::process::setsid();
        drop(std::env::set_current_dir("/"));
    }
}

fn exit_of(code: Option<i32>) -> Exit {
    match code {
        Some(2) => Exit::Usage,
        Some(3) => Exit::Unreachable,
        Some(4) => Exit::Integrity,
        _ => Exit::Refused,
    }
}

/// The worker's part: gives up root, waits for its turn, and serves.
///
/// What needs no word of the supervisor comes before it: while another worker serves, this one may stand by.
fn work(global: &Global, mut config: Config, handed: Handed) -> Result<(), Failure> {
    prepare(global, config.log.format, false);
    let user = User::named(&config.user).map_err(|message| Failure { exit: Exit::Usage, message })?;
    // The address of the metrics is the other worker's as long as that one serves, and to listen takes root.
    let confined = config.metrics.listen.is_none().then(|| give_up(&mut config, &user)).transpose()?;
    let (link, listener) = match Link::welcome() {
        // Its turn never came.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => std::process::exit(0),
        other => other.map_err(|error| by_hand(&error))?,
    };
    let (runtime, endpoint) = match confined {
        Some(confined) => confined,
        None => give_up(&mut config, &user)?,
    };
    let link = Arc::new(link);
    crate::caller::ask_supervisor(Arc::clone(&link));
    let at = std::path::absolute(&config.mount.at).map_err(|error| Failure::new(Exit::Usage, &error))?;
    on_runtime(config, Place::Handed { at, link, listener, endpoint, handed: Box::new(handed) }, runtime)
}

/// What a worker gives up, and what it makes before and after that: the one socket that listens, which
/// it may not make any more, and its threads, which must not be there yet.
fn give_up(config: &mut Config, user: &User) -> Result<(Runtime, Option<TcpListener>), Failure> {
    let endpoint = metrics::open(&mut config.metrics, Some(user));
    confine(user, &Reach::of(config)).map_err(|error| Failure::new(Exit::Refused, &error))?;
    Ok((threads()?, endpoint))
}

/// All of it in one process, by an ordinary user.
fn serve(global: &Global, args: &MountArgs, mut config: Config) -> Result<(), Failure> {
    prepare(global, config.log.format, args.detached);
    let endpoint = metrics::open(&mut config.metrics, None);
    on_runtime(config, Place::Own { endpoint }, threads()?)
}

/// Where this process serves.
enum Place {
    /// Where it mounts itself.
    Own { endpoint: Option<TcpListener> },
    /// Where the supervisor mounts; with the control socket, which launches may already wait at.
    Handed { at: PathBuf, link: Arc<Link>, listener: UnixListener, endpoint: Option<TcpListener>, handed: Box<Handed> },
}

fn threads() -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Refused, &error))
}

fn on_runtime(config: Config, place: Place, runtime: Runtime) -> Result<(), Failure> {
    let outcome = runtime.block_on(daemon(Arc::new(config), place, runtime.handle().clone()));
    // A fetch that nobody waits for any more must not hold us up.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn daemon(config: Arc<Config>, place: Place, runtime: Handle) -> Result<(), Failure> {
    let refused = |error: &dyn std::error::Error| Failure::new(Exit::Refused, error);
    let ends = Ends::new(&place).map_err(|error| refused(&error))?;
    let place = match place {
        Place::Own { endpoint } => {
            let point = Mountpoint::prepare(&config.mount.at).map_err(|error| refused(&error))?;
            for own in [&config.file, &config.trust, &config.state, &config.rundir, &config.cache.dir] {
                point.leaves_out(own).map_err(|error| refused(&error))?;
            }
            make_private(&config.state)?;
            control::make_rundir(&config.rundir).map_err(|problem| Failure {
                exit: Exit::Refused,
                message: format!("{}: {problem}; set `rundir` in the configuration", config.rundir.display()),
            })?;
            let listener = control::bind(&config.rundir).map_err(|error| refused(&error))?;
            let trust = daemon::read_trust(&config.trust);
            let (before, perhaps, problem) = (None, None, None);
            Seated { seat: Seat::Own(point), listener, link: None, endpoint, trust, before, perhaps, problem }
        }
        Place::Handed { at, link, listener, endpoint, handed } => {
            let Handed { trust, before, perhaps, problem, .. } = *handed;
            let trust = trust.map_err(daemon::unsafe_root);
            let seat = Seat::Handed(at, Arc::clone(&link));
            Seated { seat, listener, link: Some(link), endpoint, trust, before, perhaps, problem }
        }
    };
    let options = AuditOptions { begin: !place.takes_over(), ..AuditOptions::at(config.state.join("audit.db")) };
    // Here, as all that follows until the mount is served: this thread has nothing else to do, and each
    // other one would have to be woken on a host that may be busy.
    let audit = Audit::open(&options).map_err(|error| of_the_worker(&error, &config.state))?;
    let mut background = JoinSet::new();
    let handed = place.link.is_some();
    let directory = config.state.clone();
    let served = start(config, runtime, audit.clone(), place, ends, &mut background).await;
    // What still follows the site would find the audit closed, and complain of that.
    background.shutdown().await;
    let served = match served {
        Err(failure) => Err(damage::set_aside(&audit, &directory, failure).await),
        Ok(()) => Ok(()),
    };
    // What is recorded must be on disk before this process is gone.
    if handed && served.is_ok() {
        // Whoever has asked and got no answer yet gets it from the next worker, so nothing here may
        // come apart and answer with an error: no thread, no task, no queue.
        drop(tokio::task::spawn_blocking(move || audit.leave()).await);
        std::process::exit(0);
    }
    drop(tokio::task::spawn_blocking(move || audit.close()).await);
    served
}

/// Everything between the audit's opening and its closing.
async fn start(
    config: Arc<Config>,
    runtime: Handle,
    audit: Audit,
    Seated { seat, listener, link, endpoint, trust, before, perhaps, problem }: Seated,
    mut ends: Ends,
    background: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let refused = |error: &dyn std::error::Error| Failure::new(Exit::Refused, error);
    let named = config.mount.at.clone();
    let pulse = Arc::<Pulse>::default();
    if let Some(link) = &link {
        background.spawn(beat(Arc::clone(link), Arc::clone(&pulse)));
    }
    let (state, opened) = State::open(&config.state).map_err(|error| of_the_worker(&error, &config.state))?;
    let judge = |bytes: &[u8]| daemon::trust_of(&config.trust, bytes, |root| Ok(state.trust(&root.registry)?));
    // A predecessor that has taken a root over has kept it, whether or not it came to say so.
    let is_kept = |bytes: &Vec<u8>| {
        let kept = judge(bytes).ok().filter(|(root, seen)| state.trust(&root.registry).ok().flatten() == Some(*seen));
        kept.is_some()
    };
    let taken_over = perhaps.filter(is_kept);
    if let (Some(link), Some(_)) = (&link, &taken_over) {
        link.tell(&Message::Judged { config: false, trust: true });
    }
    let judged = taken_over.map_or(trust, Ok).and_then(|bytes| judge(&bytes));
    if let Err(refusal) = &judged {
        let row = AuditEvent::new(EventKind::Trust, Caller::daemon());
        record(&audit, row.refused(refusal.code, refusal.message.clone())).await?;
    }
    if let (Some(link), Some(_)) = (&link, &before) {
        link.tell(&Message::Judged { config: true, trust: judged.is_ok() });
    }
    let trust = match (judged, before) {
        (Err(refusal), Some(before)) => {
            tracing::error!(%refusal, "the trust root of before stays in force");
            judge(&before)?
        }
        (judged, _) => judged?,
    };
    if let Some(problem) = problem {
        tracing::error!(problem, "the configuration cannot be used; the one of before stays in force");
        let row = AuditEvent::new(EventKind::Config, Caller::daemon());
        record(&audit, row.refused(Code::PolicyRefused, problem)).await?;
    }
    record_lost_audit(&audit, &state).await?;
    record_reset(&audit, &opened, &trust.0).await?;

    let secrets = link.clone().map_or(Secrets::Own, Secrets::Roots);
    let takes_over = link.as_ref().is_some_and(|link| link.generation() > 1);
    let site = match daemon::site(&config, &runtime, &secrets) {
        Ok(site) => site,
        // What is cached is served all the same.
        Err(refusal) if takes_over => {
            let why = format!("{}; once that is mended, reload mcpfs", refusal.message);
            tracing::error!(why, "the site cannot be asked");
            Site::unusable(Refusal::new(refusal.code, why))
        }
        Err(refusal) => return Err(Failure { exit: Exit::Usage, message: refusal.message }),
    };
    let settings = ContentSettings {
        quota: config.cache.quota,
        keep_free: config.cache.keep_free,
        open_deadline: config.network.object,
        ..ContentSettings::new(&config.cache.dir, config.rundir.join("content"))
    };
    let (events, arriving) = mpsc::channel(256);
    let content = Content::open_idle(settings, site.clone(), runtime.clone(), events);
    let content = content.map_err(|error| of_the_worker(&error, &config.cache.dir))?;
    if takes_over {
        content.inherit();
    }
    runtime.spawn(record_events(audit.clone(), arriving));
    let slots = state.slots().map_err(|error| refused(&error))?;
    let parts = Parts {
        config: Arc::clone(&config),
        trust: trust.clone(),
        site,
        content: content.clone(),
        audit: audit.clone(),
        state,
    };
    let registry = Registry::open(parts).await?;

    let listener = control::on_runtime(listener).map_err(|error| refused(&error))?;
    let launches = Launches::default();
    let vfs = Vfs::new(registry.clone(), content.clone(), audit.clone(), launches.clone(), config.rundir.clone());
    let cached = config.mount.reads == ReadsWanted::Cached;
    let session =
        fs::mount(vfs, seat, &config.cache.dir, cached, slots, &runtime, pulse).map_err(|error| refused(&error))?;
    // Others wait for the mount, nobody for these. Nothing is evicted before the walk has ended.
    background.spawn(spare_pinned(registry.clone(), content.clone()));
    background.spawn(registry.clone().follow());
    registry.clone().watch_clock();

    let facts = daemon::boot_facts(&config, &trust.0, &trust.1, session.reads());
    match audit.describe(facts).await {
        // Whoever opens something gets an error until it can be written again; what runs goes on.
        Err(error) if takes_over => tracing::error!(error = %with_cause(&error), "the audit cannot be written"),
        Err(error) => {
            stop(session).await?;
            return Err(refused(&error));
        }
        Ok(()) => {}
    }
    let daemon = Daemon {
        registry,
        content,
        audit,
        launches,
        mount: MountFacts {
            at: session.path().to_owned(),
            named,
            reads: session.reads(),
            takeover: session.takeover(),
        },
        secrets,
        started: now(),
        runtime: runtime.clone(),
        reloading: Arc::default(),
    };
    let control = runtime.spawn(control::serve(listener, daemon.clone()));
    // A successor has kept people waiting already. And overdue is no fault: what was admitted
    // before is there, and the rest follows.
    if !takes_over {
        drop(timeout(FIRST_LOOK, daemon.registry.first_look()).await);
    }
    // With what that look found: the file is not written again for a while.
    metrics::publish(&daemon, link.as_ref().map_or(1, |link| link.generation()), endpoint, background);
    background.spawn(retention::follow(daemon.clone(), takes_over));
    announce::served(&daemon, link.as_deref());
    if let Some(link) = &link {
        background.spawn(announce::follow(daemon.clone(), Arc::clone(link)));
    }
    tokio::select! {
        () = ends.follow(&daemon) => {}
        () = session.ended() => if link.is_none() { tracing::warn!("somebody unmounted it") },
    }
    control.abort();
    if link.is_none() {
        drop(std::fs::remove_file(config.rundir.join("control.sock")));
    }
    stop(session).await
}

/// Walks over the cache, and so allows eviction, once the cache knows what is pinned.
async fn spare_pinned(registry: Registry, content: Content) {
    let mut pinned = Pinned::default();
    registry.spare_pinned(&mut pinned).await;
    content.walk();
    registry.follow_pinned(pinned).await;
}

/// Where this process serves, and who asks it for launches.
struct Seated {
    seat: Seat,
    listener: UnixListener,
    link: Option<Arc<Link>>,
    endpoint: Option<TcpListener>,
    /// `trust.json`, or why it cannot be read.
    trust: Result<Vec<u8>, Refusal>,
    /// The trust root that was in force before, should this one not be usable.
    before: Option<Vec<u8>>,
    /// One that a predecessor may have taken over.
    perhaps: Option<Vec<u8>>,
    /// Why the configuration is not the one on the disk.
    problem: Option<String>,
}

impl Seated {
    /// Whether another worker has served here before.
    fn takes_over(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.generation() > 1)
    }
}

async fn stop(session: Session) -> Result<(), Failure> {
    let stopped = tokio::task::spawn_blocking(move || session.stop(PATIENCE)).await;
    match stopped {
        Ok(Ok(Stopped::Clean)) => Ok(()),
        Ok(Ok(Stopped::StillInUse)) => {
            tracing::warn!("unmounted, but somebody still has files of it open");
            Ok(())
        }
        Ok(Err(error)) => Err(Failure::new(Exit::Refused, &error)),
        Err(error) => Err(Failure::new(Exit::Refused, &error)),
    }
}

/// A store that cannot be used; with what to do if somebody put another user's file into it.
fn of_the_worker(error: &dyn std::error::Error, directory: &Path) -> Failure {
    let mut failure = Failure::new(Exit::Refused, error);
    if ["Permission denied", "no permission"].iter().any(|words| failure.message.contains(words)) {
        let user = rustix::process::geteuid().as_raw();
        let directory = directory.display();
        failure.message.push_str(&format!("; all in {directory} belongs to user {user}: chown -R {user} {directory}"));
    }
    failure
}

/// The state directory is this user's alone.
fn make_private(directory: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| Failure {
        exit: Exit::Refused,
        message: format!("cannot make {}: {error}; set `state` in the configuration", directory.display()),
    })
}
