//! `serve`: the tiny signing server.
//!
//! It watches one protected branch and brings one site to what stands there. A webhook, a hint
//! or the clock only wakes it; what it signs follows from what it fetched itself, what the forge
//! answers, and what it computes (`pass`). So there is no queue to lose, to forge or to double:
//! the work that is left is always the difference between the branch and the site, and after a
//! crash at any moment the next pass finds the rest of it.
//!
//! One thread works, one answers HTTP and hears signals; they meet in `Shared`. SIGTERM lets
//! the release in hand end; SIGHUP reads configuration and secrets again, and keeps the old ones
//! if the new ones are wrong. systemd, where it is the parent, is told when this listens, and
//! after each pass how it stands.

pub mod config;
mod guard;
mod hook;
mod http;
mod journal;
mod pass;
mod people;
mod plan;
mod proof;
mod signing;
mod status;
pub mod trouble;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;
use sd_notify::NotifyState;

use crate::check::chain;
use crate::files::{self, FileError};
use crate::forge::{Api, Forge, ForgeError, Token};
use crate::log::SignerState;
use crate::mirror::{GitError, Mirror};
use crate::site::public::Public;
use crate::site::{Site, SiteError};
use crate::trust_cmd::{self, TrustError};

pub use config::{Config, ConfigError};
use journal::Journal;
use pass::{Pass, Settled};
use status::Status;
use trouble::{Wait, shown};

/// Reads the clock; `None` if it is not set.
pub type Clock = fn() -> Option<Timestamp>;

/// The pause after a pass that had to wait, seconds.
const RETRY: u64 = 30;

/// Why the server does not start, or a single pass did not do everything.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Forge(#[from] ForgeError),
    #[error("the mirror cannot be made")]
    Git(#[from] GitError),
    #[error("the site cannot be used")]
    Site(#[from] SiteError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("another signing server uses {path}; only one may", path = path.display())]
    Running { path: PathBuf },
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("the pass had to wait")]
    Wait(#[from] Wait),
    #[error("{count} of the recipes at the tip are not released: {first}")]
    Refused { count: usize, first: String },
}

/// What the two threads share.
struct Shared {
    bell: Mutex<Bell>,
    rung: Condvar,
    status: Mutex<Status>,
    settings: Mutex<(Option<String>, u64)>,
    budget: Mutex<http::Budget>,
    clock: Clock,
    say: fn(&str),
}

/// What the working thread is asked to do.
#[derive(Debug, Default)]
struct Bell {
    look: bool,
    reload: bool,
    stop: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(clock: Clock, say: fn(&str)) -> Self {
        Self {
            bell: Mutex::default(),
            rung: Condvar::new(),
            status: Mutex::default(),
            settings: Mutex::default(),
            budget: Mutex::default(),
            clock,
            say,
        }
    }

    fn ring(&self, change: impl FnOnce(&mut Bell)) {
        change(&mut locked(&self.bell));
        self.rung.notify_all();
    }

    /// Waits for something to do, at most `limit`. What was asked for is taken, and its pass has begun, before anybody
    /// can ask again: who asks later is answered by the next pass.
    fn wait(&self, limit: Duration) -> Bell {
        let (bell, until) = (locked(&self.bell), Instant::now() + limit);
        let asleep = |bell: &mut Bell| !(bell.look || bell.reload || bell.stop);
        let left = until.saturating_duration_since(Instant::now());
        let (mut bell, _) = self.rung.wait_timeout_while(bell, left, asleep).unwrap_or_else(PoisonError::into_inner);
        if !bell.stop {
            self.update(|status| status.counts.begun += 1);
        }
        Bell { look: std::mem::take(&mut bell.look), reload: std::mem::take(&mut bell.reload), stop: bell.stop }
    }

    fn stopping(&self) -> bool {
        locked(&self.bell).stop
    }

    fn status(&self) -> Status {
        locked(&self.status).clone()
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut locked(&self.status));
    }

    fn hook_secret(&self) -> Option<String> {
        locked(&self.settings).0.clone()
    }

    fn poll(&self) -> u64 {
        locked(&self.settings).1
    }

    fn budget(&self) -> MutexGuard<'_, http::Budget> {
        locked(&self.budget)
    }

    fn now(&self) -> Option<Timestamp> {
        (self.clock)()
    }

    fn say(&self, text: &str) {
        (self.say)(text);
    }
}

/// Everything that follows from one reading of the configuration.
#[derive(Debug)]
struct Works {
    config: Config,
    root: TrustRoot,
    forge: Forge,
    mirror: Mirror,
    site: Site,
    public: Option<Public>,
    state: SignerState,
    hook_secret: Option<String>,
    settled: Option<Settled>,
}

impl Works {
    fn read(path: &Path) -> Result<Self, ServeError> {
        let config = Config::read(path)?;
        let root = trust_cmd::read(&config.site.trust)?;
        let (token, hook_secret) = (config.token()?, config.hook_secret()?);
        let repository = &config.repository;
        let authorities = match &repository.ca_file {
            Some(file) => vec![files::read_bounded(file, 1 << 20)?],
            None => Vec::new(),
        };
        let api = Api::new(repository.forge, &repository.api, token.as_ref(), &authorities)?;
        let forge = Forge::new(repository.forge, api, &repository.name);
        let git_token = token.as_ref().map(|token| (repository.user.as_str(), token.secret()));
        let state = SignerState::new(&config.state, &root.registry);
        let folder = state.file("mirror.git");
        let mirror = Mirror::open(
            &folder,
            &repository.url,
            git_token.filter(|_| repository.url.starts_with("http")),
            repository.ca_file.as_deref(),
        )?;
        let (site, public) = config.open_site()?;
        Ok(Self { config, root, forge, mirror, site, public, state, hook_secret, settled: None })
    }

    /// Runs a pass and notes how it went.
    fn pass(&mut self, shared: &Shared, accept: Option<&str>) -> Result<(), Wait> {
        let began = Instant::now();
        let result = Journal::open(&self.state).map_err(Wait::from).and_then(|mut journal| {
            let pass = Pass {
                config: &self.config,
                root: &self.root,
                forge: &self.forge,
                mirror: &self.mirror,
                site: &self.site,
                public: self.public.as_ref(),
                state: &self.state,
                journal: &mut journal,
                shared,
                clock: shared.clock,
                settled: &mut self.settled,
                accept,
            };
            { pass }.run()
        });
        let waiting = result.as_ref().err().map(|wait| shown(&chain(wait)));
        let now = shared.now();
        let before = shared.status().waiting;
        shared.update(|status| {
            status.registry = Some(self.root.registry.clone());
            *status.counts.passes.entry(if waiting.is_none() { "done" } else { "waiting" }).or_default() += 1;
            status.counts.pass_seconds += began.elapsed().as_secs_f64();
            if waiting.is_none() {
                status.succeeded = now;
            }
            status.waiting.clone_from(&waiting);
        });
        match (&before, &waiting) {
            (_, Some(reason)) if before != waiting => shared.say(&format!("waiting: {reason}")),
            (Some(_), None) => shared.say("no longer waiting"),
            _ => {}
        }
        result
    }

    /// One server for each state folder; held as long as the file is.
    fn lock(&self) -> Result<std::fs::File, ServeError> {
        let path = self.state.file("serve.lock");
        let write = FileError::write(&path);
        std::fs::create_dir_all(self.state.file("")).map_err(&write)?;
        let file = std::fs::File::options().create(true).append(true).open(&path).map_err(&write)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(ServeError::Running { path: path.clone() }),
            Err(std::fs::TryLockError::Error(error)) => Err(write(error).into()),
        }
    }

    /// What a pass that was cut short left behind.
    fn sweep(&self) -> Result<(), ServeError> {
        let work = self.config.state.join("work");
        match std::fs::remove_dir_all(&work) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(FileError::write(&work)(error).into()),
            _ => Ok(()),
        }
    }

    /// Tells the other thread what it needs of the configuration.
    fn announce(&self, shared: &Shared) {
        *locked(&shared.settings) = (self.hook_secret.clone(), self.config.poll);
    }
}

/// Reads everything that the configuration names, and says what is wrong with it.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_config(path: &Path) -> Result<Config, ServeError> {
    let config = Config::read(path)?;
    trust_cmd::read(&config.site.trust)?;
    let token: Option<Token> = config.token()?;
    config.hook_secret()?;
    config.open_site()?;
    Api::new(config.repository.forge, &config.repository.api, token.as_ref(), &[])?;
    Ok(config)
}

/// One pass, for timers: everything is released at its end, or an error says what is not.
///
/// # Errors
/// [`ServeError`].
pub fn once(path: &Path, clock: Clock, say: fn(&str), accept: Option<&str>) -> Result<(), ServeError> {
    let mut works = Works::read(path)?;
    let _lock = works.lock()?;
    works.sweep()?;
    let shared = Shared::new(clock, say);
    works.pass(&shared, accept)?;
    let status = shared.status();
    match status.pending.first() {
        None => Ok(()),
        Some(one) => {
            let reason = one.reason.as_deref().unwrap_or("it was not tried yet");
            Err(ServeError::Refused { count: status.pending.len(), first: format!("{}: {reason}", one.recipe) })
        }
    }
}

/// Serves until SIGTERM.
///
/// # Errors
/// Only what keeps it from starting.
pub fn run(path: &Path, clock: Clock, say: fn(&str)) -> Result<(), ServeError> {
    let mut works = Works::read(path)?;
    let _lock = works.lock()?;
    works.sweep()?;
    let shared = Arc::new(Shared::new(clock, say));
    works.announce(&shared);
    // The first pass, which nobody has to ask for.
    shared.update(|status| status.counts.begun += 1);
    let address = works.config.listen;
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let answering = http::spawn(listener, Arc::clone(&shared)).map_err(failed)?;
    let watching = format!("watching {} of {}", works.config.repository.branch, works.config.repository.url);
    shared.say(&format!("listening on {bound}, {watching}"));
    tell_systemd(&[NotifyState::Ready, NotifyState::Status(&watching)]);
    loop {
        let result = works.pass(&shared, None);
        tell_systemd(&[NotifyState::Status(&shared.status().line())]);
        let bell = shared.wait(works.pause(&shared, result.as_ref().err()));
        if bell.stop {
            break;
        }
        if bell.reload {
            // Which also ends `systemctl reload`, whatever comes of it: the journal says that.
            if let Ok(now) = NotifyState::monotonic_usec_now() {
                tell_systemd(&[NotifyState::Reloading, now]);
            }
            match Works::read(path) {
                Ok(new) if new.config.state == works.config.state && new.config.listen == address => {
                    works = new;
                    works.announce(&shared);
                    shared.say("the configuration was read again");
                }
                Ok(_) => shared.say("state and listen change with a restart only; the old configuration stays"),
                Err(error) => shared.say(&format!("the old configuration stays: {}", chain(&error))),
            }
            tell_systemd(&[NotifyState::Ready]);
        }
    }
    tell_systemd(&[NotifyState::Stopping]);
    shared.say("stopped");
    // It ended when the signal came; a connection that is still open ends with the process.
    drop(answering);
    Ok(())
}

/// Under another parent this does nothing, and a parent that does not listen is no reason to stop.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}

impl Works {
    /// Until the next pass: the poll, a recipe's next try, the head's renewal, or a short while if
    /// this one had to wait.
    fn pause(&self, shared: &Shared, wait: Option<&Wait>) -> Duration {
        let poll = self.config.poll;
        let now = shared.now().map_or(0, Timestamp::unix);
        let until = |time: i64| u64::try_from(time.saturating_sub(now)).unwrap_or(0).max(1);
        let due = Journal::open(&self.state).ok().and_then(|journal| journal.next_due()).map(|next| until(next.unix()));
        let age = i64::try_from(self.config.site.resign_after).unwrap_or(i64::MAX);
        let renewal = shared.status().head.map(|head| until(head.issued.unix().saturating_add(age)));
        let least = wait.map(|wait| wait.seconds().unwrap_or(RETRY.min(poll)));
        let seconds = [Some(poll), due, renewal].into_iter().flatten().min().unwrap_or(poll);
        Duration::from_secs(least.unwrap_or(seconds))
    }
}
