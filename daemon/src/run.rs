//! `mcpfs mount`: the only place where the rooms are wired together.
//!
//! The order is the safety: the audit opens before `trust.json` is read, so that a refused
//! trust root is a row; state before the registry, so that nothing older than what was seen
//! is shown; the mount last but one, and it is said to be served only when it answers and
//! the site has been looked at once (or ten seconds have passed: a host boots without it).
//!
//! Without `--foreground` the program starts itself once more, detached, and waits for the
//! one line that says that the mount is served. A fork in this process was rejected: threads
//! and runtimes do not survive it.

use std::io::{BufRead, BufReader, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mcpfs_trust::error::Code;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::audit::{Audit, AuditEvent, AuditOptions, EventKind};
use crate::caller::Caller;
use crate::cli::Global;
use crate::config::{Config, ReadsWanted};
use crate::content::{Content, ContentEvent, ContentSettings};
use crate::daemon::{self, Daemon, MountFacts};
use crate::fs::Vfs;
use crate::launched::Launches;
use crate::mount::{Mountpoint, Session, Stopped};
use crate::refusal::{Exit, Refusal, with_cause};
use crate::registry::state::{Opened, State};
use crate::registry::{Parts, Registry, now};
use crate::{control, fs, words};

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
    /// The second start of a detached mount: leave the terminal's session.
    #[arg(long, hide = true, requires = "foreground")]
    pub detached: bool,
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
    let outcome = match args.foreground {
        true => load(global, args).and_then(|config| serve(global, args, config)),
        false => load(global, args).and_then(|config| detach(&config)),
    };
    match outcome {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("mcpfs: {}", failure.message);
            }
            failure.exit
        }
    }
}

fn load(global: &Global, args: &MountArgs) -> Result<Config, Failure> {
    let file = std::path::absolute(global.file()).map_err(|error| Failure::new(Exit::Usage, &error))?;
    let mut config = Config::load(&file).map_err(|error| Failure::new(Exit::Usage, &error))?;
    if let Some(at) = &args.at {
        config.mount.at = std::path::absolute(at).map_err(|error| Failure::new(Exit::Usage, &error))?;
    }
    Ok(config)
}

/// Starts this program again in a session of its own; returns once the mount is served.
fn detach(config: &Config) -> Result<(), Failure> {
    let failed =
        |what: &str, error: std::io::Error| Failure { exit: Exit::Refused, message: format!("{what}: {error}") };
    let path = config.state.join("mcpfs.log");
    let log = || -> std::io::Result<(std::fs::File, u64)> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
        let length = log.metadata()?.len();
        Ok((log, length))
    };
    let (mut log, before) = log().map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                ". Mount as root, or as yourself with a configuration of your own (--config), whose state, rundir, \
                 [cache] dir and [mount] at are yours"
            }
            _ => "",
        };
        Failure { exit: Exit::Refused, message: format!("cannot write {}: {error}{advice}", path.display()) }
    })?;
    let program = std::env::current_exe().map_err(|error| failed("cannot find this program", error))?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .args(["--foreground", "--detached"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().map_err(|error| failed("cannot share the log", error))?)
        .spawn()
        .map_err(|error| failed("cannot start the daemon", error))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        // An error is an end without the line.
        drop(BufReader::new(stdout).take(4096).read_line(&mut line));
    }
    if line.ends_with('\n') {
        print!("{line}");
        return Ok(());
    }
    let status = child.wait().map_err(|error| failed("cannot wait for the daemon", error))?;
    let mut said = String::new();
    drop(log.seek(SeekFrom::Start(before)).and_then(|_| log.take(1 << 20).read_to_string(&mut said)));
    eprint!("{said}");
    let exit = match status.code() {
        Some(2) => Exit::Usage,
        Some(3) => Exit::Unreachable,
        Some(4) => Exit::Integrity,
        _ => Exit::Refused,
    };
    Err(Failure { exit, message: String::new() })
}

fn serve(global: &Global, args: &MountArgs, config: Config) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::new(global.level());
    let terminal = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    // It fails only if there is one already.
    drop(subscriber.try_init());
    if args.detached {
        // It leads no group yet, so this cannot fail; the terminal must not take us down with it.
        let _ = rustix::process::setsid();
        drop(std::env::set_current_dir("/"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Refused, &error))?;
    let outcome = runtime.block_on(daemon(Arc::new(config), runtime.handle().clone()));
    // A fetch that nobody waits for any more must not hold us up.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn daemon(config: Arc<Config>, runtime: Handle) -> Result<(), Failure> {
    let refused = |error: &dyn std::error::Error| Failure::new(Exit::Refused, error);
    let mut signals = Signals::new().map_err(|error| refused(&error))?;
    let point = Mountpoint::prepare(&config.mount.at).map_err(|error| refused(&error))?;
    for own in [&config.file, &config.trust, &config.state, &config.rundir, &config.cache.dir] {
        point.leaves_out(own).map_err(|error| refused(&error))?;
    }

    make_private(&config.state)?;
    let options = AuditOptions::at(config.state.join("audit.db"));
    let audit = tokio::task::spawn_blocking(move || Audit::open(&options));
    let audit = audit.await.map_err(|error| refused(&error))?.map_err(|error| refused(&error))?;
    let mut background = JoinSet::new();
    let served = start(config, runtime, audit.clone(), point, &mut signals, &mut background).await;
    // What still follows the site would find the audit closed, and complain of that.
    background.shutdown().await;
    // What is recorded must be on disk before this process is gone.
    drop(tokio::task::spawn_blocking(move || audit.close()).await);
    served
}

/// Everything between the audit's opening and its closing.
async fn start(
    config: Arc<Config>,
    runtime: Handle,
    audit: Audit,
    point: Mountpoint,
    signals: &mut Signals,
    background: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let refused = |error: &dyn std::error::Error| Failure::new(Exit::Refused, error);
    let named = config.mount.at.clone();
    let (state, opened) = State::open(&config.state).map_err(|error| refused(&error))?;
    let trust = match daemon::trust(&config.trust, |root| Ok(state.trust(&root.registry)?)) {
        Ok(trust) => trust,
        Err(refusal) => {
            let row = AuditEvent::new(EventKind::Trust, Caller::daemon());
            record(&audit, row.refused(refusal.code, refusal.message.clone())).await?;
            return Err(refusal.into());
        }
    };
    record_lost_audit(&audit, &state).await?;
    record_reset(&audit, &opened, &trust.0).await?;

    make_rundir(&config.rundir)?;
    let site =
        daemon::site(&config, &runtime).map_err(|refusal| Failure { exit: Exit::Usage, message: refusal.message })?;
    let settings = ContentSettings {
        quota: config.cache.quota,
        open_deadline: config.network.object,
        ..ContentSettings::new(&config.cache.dir, config.rundir.join("content"))
    };
    let (events, arriving) = mpsc::channel(256);
    let content = Content::open(settings, site.clone(), runtime.clone(), events).map_err(|error| refused(&error))?;
    runtime.spawn(record_events(audit.clone(), arriving));
    let parts = Parts {
        config: Arc::clone(&config),
        trust: trust.clone(),
        site,
        content: content.clone(),
        audit: audit.clone(),
        state,
    };
    let registry = Registry::open(parts).await?;
    background.spawn(registry.clone().follow());
    registry.clone().watch_clock();

    let listener = control::listen(&config.rundir).map_err(|error| refused(&error))?;
    let launches = Launches::default();
    let vfs = Vfs::new(registry.clone(), content.clone(), audit.clone(), launches.clone(), config.rundir.clone());
    let (cache, cached, handle) =
        (config.cache.dir.clone(), config.mount.reads == ReadsWanted::Cached, runtime.clone());
    let mounting = tokio::task::spawn_blocking(move || fs::mount(vfs, point, &cache, cached, &handle));
    let session = mounting.await.map_err(|error| refused(&error))?.map_err(|error| refused(&error))?;

    let facts = daemon::boot_facts(&config, &trust.0, &trust.1, session.reads());
    if let Err(error) = audit.describe(facts).await {
        stop(session).await?;
        return Err(refused(&error));
    }
    let daemon = Daemon {
        registry,
        content,
        audit,
        launches,
        mount: MountFacts { at: session.path().to_owned(), named, reads: session.reads(), takeover: false },
        started: now(),
        runtime: runtime.clone(),
    };
    let control = runtime.spawn(control::serve(listener, daemon.clone()));
    // Overdue is no fault: what was admitted before is there, and the rest follows.
    drop(timeout(FIRST_LOOK, daemon.registry.first_look()).await);
    announce(&daemon);
    tokio::select! {
        () = follow_signals(&daemon, signals) => {}
        () = session.ended() => tracing::warn!("somebody unmounted it"),
    }
    control.abort();
    drop(std::fs::remove_file(config.rundir.join("control.sock")));
    stop(session).await
}

/// Returns when this process is asked to end.
async fn follow_signals(daemon: &Daemon, signals: &mut Signals) {
    loop {
        tokio::select! {
            _ = signals.end.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => {
                // What was refused has been logged and recorded; the old stays in force. A reload
                // waits for a look at the site under way, and being asked to end must not.
                tokio::select! {
                    outcome = daemon.reload() => drop(outcome),
                    _ = signals.end.recv() => return,
                    _ = signals.interrupt.recv() => return,
                }
            }
        }
    }
}

struct Signals {
    end: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            end: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// The one line that says that it is served.
fn announce(daemon: &Daemon) {
    let snapshot = daemon.registry.snapshot();
    let refused = snapshot.servers.values().filter(|server| server.selected.is_err()).count();
    let head = snapshot.head.as_ref().map_or_else(|| "no head yet".to_owned(), |head| format!("head {}", head.version));
    let trouble = match &snapshot.refreshed.outcome {
        Ok(()) => String::new(),
        Err(refusal) => format!(" · {refusal}"),
    };
    let line = format!(
        "{} mounted at {} · {head} · {}, {refused} refused · reads {}{trouble}",
        snapshot.registry,
        daemon.mount.at.display(),
        words::count((snapshot.servers.len() - refused) as u64, "server"),
        daemon.mount.reads,
    );
    tracing::info!("{line}");
    // Whoever started us may be gone; the mount is there all the same.
    let mut out = std::io::stdout();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
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

async fn record(audit: &Audit, row: AuditEvent) -> Result<(), Failure> {
    audit.record(row).await.map(drop).map_err(|error| Failure::new(Exit::Refused, &error))
}

/// State that is not there is a row: it is what rollback protection rests on.
async fn record_reset(audit: &Audit, opened: &Opened, root: &mcpfs_trust::root::TrustRoot) -> Result<(), Failure> {
    let what = match opened {
        Opened::Kept => return Ok(()),
        Opened::Created => "first start, or state.db was lost".to_owned(),
        Opened::Damaged(aside) => format!("state.db was damaged and is now {}", aside.display()),
    };
    let mut row = AuditEvent::new(EventKind::Trust, Caller::daemon());
    row.reason = Some(format!("StateReset: {what}; heads from {} on are accepted", root.minimum_head));
    record(audit, row).await
}

/// An audit that begins anew on a host with a history is a row: nothing else would tell that
/// the old one was removed. A head is never stored before its row, so state without rows cannot
/// be a first start that was cut short.
async fn record_lost_audit(audit: &Audit, state: &State) -> Result<(), Failure> {
    let lived = state.head().map_err(|error| Failure::new(Exit::Refused, &error))?.0.floor.is_some();
    if !lived || audit.health().sealed > 0 {
        return Ok(());
    }
    let mut row = AuditEvent::new(EventKind::AuditRestarted, Caller::daemon());
    row.reason = Some("audit.db was not there, though this host has accepted heads: what it held is lost".to_owned());
    tracing::warn!("audit.db was lost and begins anew");
    record(audit, row).await
}

/// What the cache found out about itself and its mirrors.
async fn record_events(audit: Audit, mut arriving: mpsc::Receiver<ContentEvent>) {
    while let Some(event) = arriving.recv().await {
        let row = match event {
            ContentEvent::Quarantined { sha256, found, kept } => {
                let found = found.map_or_else(|| "another size".to_owned(), |found| found.to_string());
                let kept = if kept { "kept in quarantine" } else { "removed" };
                AuditEvent::new(EventKind::Verify, Caller::daemon())
                    .refused(Code::DigestMismatch, format!("cached file {sha256} had become {found}; {kept}"))
            }
            ContentEvent::ChunkRefused { sha256, from, refusal } => {
                let mut row = AuditEvent::new(EventKind::Fetch, Caller::daemon())
                    .refused(refusal.code, format!("{from}: {}", refusal.message));
                row.path = Some(mcpfs_trust::site::object(&sha256));
                row
            }
        };
        if let Err(error) = audit.record(row).await {
            tracing::error!(%error, "an event of the cache was not recorded");
        }
    }
}

/// The state directory is this user's alone.
fn make_private(directory: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| Failure {
        exit: Exit::Refused,
        message: format!("cannot make {}: {error}; set `state` in the configuration", directory.display()),
    })
}

/// The run directory: everybody must reach the socket and the launcher in it, nobody else may
/// put another launcher there.
fn make_rundir(directory: &Path) -> Result<(), Failure> {
    let failed = |problem: String| Failure {
        exit: Exit::Refused,
        message: format!("{}: {problem}; set `rundir` in the configuration", directory.display()),
    };
    let made = !directory.exists();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|error| failed(format!("cannot be made: {error}")))?;
    if made {
        // UMask=0077 is a usual setting of services, and would keep everybody from the launcher.
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
            .map_err(|error| failed(error.to_string()))?;
    }
    let metadata = directory.metadata().map_err(|error| failed(error.to_string()))?;
    let user = rustix::process::geteuid().as_raw();
    if (metadata.uid() != user && metadata.uid() != 0) || metadata.mode() & 0o022 != 0 {
        return Err(failed("belongs to another user or can be written by others".to_owned()));
    }
    Ok(())
}
