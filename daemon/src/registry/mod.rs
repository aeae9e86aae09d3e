//! Which releases this host admits, and why it refuses others.
//!
//! One value, the [`Snapshot`], says what the mount shows; readers take an `Arc` of it once
//! per operation and never see half of a change. One task, the reconciler (`refresh`),
//! makes new snapshots: it looks at the site's head, follows it to catalogue, bins and
//! entries, and decides about each name (`admit`, pure). It has no input but the present
//! (configuration, state, site) and may run at any time, any number of times: a nudge is
//! just "look now".
//!
//! Every decision goes the same way (`commit`): audit rows first, then `state.db`, then
//! the snapshot. What is slow never stands in the way of what is known: a head that cannot
//! be fetched or is refused leaves the snapshot as it is, an entry that cannot be fetched
//! leaves its server as it was, marked stale.
//!
//! Restarting is the same path with `state.db` in the place of the site: the documents kept
//! there are verified again from the trust root on. So a host without a network serves what
//! it had admitted, and nothing else.
//!
//! Rejected: entries held in memory (a hundred thousand of them are a gigabyte; a decision
//! is needed seldom and reads its entry again); a lock over names (readers would wait for
//! decisions); trusting admitted rows in place of signatures (removing a key from
//! `trust.json` must take effect at the next start).

mod admit;
mod clock;
mod commit;
mod pinned;
mod refresh;
mod snapshot;
mod stale;
pub mod state;
#[cfg(test)]
pub(crate) mod tests;
mod trees;
mod unknown;
mod wake;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use mcpfs_trust::name::{Platform, ServerName, Version};
use mcpfs_trust::root::{Role, TrustRoot};
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::SeenTrust;
use tokio::sync::watch;

pub(crate) use self::clock::{now, since_boot};
pub use self::pinned::Pinned;
pub use self::snapshot::{Admitted, Freshness, HeadFacts, Refreshed, Server, Slot, Snapshot, TrustFacts};
pub use self::stale::NextStop;
pub(crate) use self::stale::{STEPS, share};

use self::clock::Clock;
use self::refresh::Listing;
use self::state::State;
use self::trees::Trees;
use self::unknown::UnknownNames;
use crate::audit::Audit;
use crate::config::Config;
use crate::content::{Content, ReleaseContent};
use crate::refusal::Refusal;
use crate::site::Site;

/// How long a mount's kernel may keep a name that can change, if nobody tells it to ask again.
pub(crate) const KEPT: Duration = Duration::from_secs(2);

/// The registry as this host sees it. Clones share everything.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Shared>);

/// What configuration decides; replaced as a whole at a reload.
#[derive(Debug)]
pub(super) struct Settings {
    config: Arc<Config>,
    root: TrustRoot,
    trust: TrustFacts,
    site: Site,
}

#[derive(Debug)]
struct Shared {
    platform: Platform,
    content: Content,
    audit: Audit,
    state: State,
    trees: Trees,
    settings: RwLock<Arc<Settings>>,
    /// Written under `reconciling` or by one-name decisions; readers clone the `Arc`.
    snapshot: RwLock<Arc<Snapshot>>,
    /// What the accepted head names. Written by the reconciler alone.
    listing: RwLock<Option<Arc<Listing>>>,
    /// Every slot of this run, its newest meaning; never shrinks.
    slots: RwLock<HashMap<u32, Slot>>,
    /// All revocations seen; the same as in `state`.
    revoked: RwLock<HashMap<(ServerName, Version), String>>,
    /// Names asked for while no catalogue was there.
    unknown: Mutex<UnknownNames>,
    clock: Clock,
    /// One reconciler at a time.
    reconciling: tokio::sync::Mutex<()>,
    /// One decision at a time for each of a few shares of the names.
    deciding: [tokio::sync::Mutex<()>; 16],
    /// Held for reading while a decision takes effect, for writing while other settings come into force: what was
    /// decided by a trust root leaves nothing in `state` after that one is gone.
    in_force: tokio::sync::RwLock<()>,
    nudge: tokio::sync::Notify,
    /// The step of `max_stale`'s end that was announced last, percent.
    announced: Mutex<u8>,
    /// Two heads of one number that the look under way met.
    two_heads: Mutex<Option<serde_json::Value>>,
    /// Since when a mirror has served an older head than ours, in the clock's running time.
    lagging: Mutex<Option<Duration>>,
    changes: watch::Sender<u64>,
    /// The newest generation that the mount's kernel was told about; `None` while nobody tells it.
    shown: watch::Sender<Option<u64>>,
    /// Ticks when a look at the site has ended, however it went.
    looked: watch::Sender<u64>,
    /// Whether it is known how the last look of an earlier run ended.
    informed: bool,
}

/// The parts a registry is put together from.
#[derive(Debug)]
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// The trust root, and what to remember of it.
    pub trust: (TrustRoot, SeenTrust),
    /// The site of that configuration.
    pub site: Site,
    /// The content room.
    pub content: Content,
    /// The audit.
    pub audit: Audit,
    /// The open state.
    pub state: State,
}

impl Registry {
    /// The registry as `state.db` left it; the network is not touched.
    ///
    /// # Errors
    /// If state or audit cannot be read or written.
    pub async fn open(parts: Parts) -> Result<Self, Refusal> {
        Self::open_by(parts, Clock::default()).await
    }

    /// The same by another clock.
    async fn open_by(parts: Parts, clock: Clock) -> Result<Self, Refusal> {
        let Parts { config, trust: (root, seen), site, content, audit, state } = parts;
        state.set_trust(&root, &seen)?;
        let trust = TrustFacts { version: root.version, epoch: root.epoch, sha256: seen.sha256 };
        let (refreshed, informed) = refresh::looked::last(&state, config.registry.refresh)?;
        let snapshot = Snapshot {
            generation: 0,
            registry: root.registry.clone(),
            trust: trust.clone(),
            head: None,
            servers: BTreeMap::new(),
            access: Arc::clone(&config.access),
            refreshed,
        };
        let registry = Self(Arc::new(Shared {
            platform: Platform::from_rust(std::env::consts::OS, std::env::consts::ARCH),
            content,
            audit,
            revoked: RwLock::new(state.revoked()?),
            state,
            trees: Trees::default(),
            settings: RwLock::new(Arc::new(Settings { config, root, trust, site })),
            snapshot: RwLock::new(Arc::new(snapshot)),
            listing: RwLock::new(None),
            slots: RwLock::new(HashMap::new()),
            unknown: Mutex::default(),
            clock,
            reconciling: tokio::sync::Mutex::new(()),
            deciding: Default::default(),
            in_force: tokio::sync::RwLock::new(()),
            nudge: tokio::sync::Notify::new(),
            announced: Mutex::new(0),
            two_heads: Mutex::new(None),
            lagging: Mutex::new(None),
            changes: watch::Sender::new(0),
            shown: watch::Sender::new(None),
            looked: watch::Sender::new(0),
            informed,
        }));
        registry.restore().await?;
        Ok(registry)
    }

    /// What the mount shows now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.0.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn listing(&self) -> Option<Arc<Listing>> {
        self.0.listing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The server of this name, refused ones included.
    ///
    /// A name whose entry has not been looked at yet is fetched and decided now, within the
    /// site's deadlines. Without any accepted catalogue every name answers, with the
    /// refusal of the last look at the site. `None` is "no such name".
    ///
    /// # Errors
    /// `AuditUnavailable` if the decision about a name could not be recorded or kept.
    pub async fn server(&self, name: &ServerName) -> Result<Option<Arc<Server>>, Refusal> {
        if let Some(server) = self.snapshot().servers.get(name) {
            return Ok(Some(Arc::clone(server)));
        }
        let Some(listing) = self.listing() else {
            self.first_look().await;
            return match self.listing() {
                Some(_) => Box::pin(self.server(name)).await,
                None => Ok(Some(self.unknown(name))),
            };
        };
        match listing.find(name) {
            Some(_) => self.decide_one(name).await,
            None => Ok(None),
        }
    }

    /// The release of this version. `None` is "no such version"; a refusal says why a
    /// version that exists is not shown, yanked and unpinned among others: ask again
    /// before every launch.
    pub async fn version(&self, server: &Arc<Server>, version: &Version) -> Option<Result<Arc<Admitted>, Refusal>> {
        let server = self.snapshot().servers.get(&server.name).map_or_else(|| Arc::clone(server), Arc::clone);
        if let Some(admitted) = server.find(version) {
            return Some(Ok(Arc::clone(admitted)));
        }
        if server.entry.is_none() {
            return server.selected.as_ref().err().cloned().map(Err);
        }
        self.admit_one(&server, version).await.transpose()
    }

    /// What a slot stands for. Every slot handed out in this run is found, but for those of
    /// names that no catalogue listed and that nobody asked for lately.
    pub fn by_slot(&self, slot: u32) -> Option<Slot> {
        if UnknownNames::holds(slot) {
            let mut unknown = self.0.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            return unknown.by_slot(slot).map(Slot::Server);
        }
        self.0.slots.read().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned()
    }

    /// The decoded tree and layout of a release; fetched once however many wait.
    ///
    /// # Errors
    /// Those of fetching, and `DigestMismatch` or `Malformed` for what is not the tree.
    pub async fn content(&self, admitted: &Arc<Admitted>) -> Result<Arc<ReleaseContent>, Refusal> {
        self.0.trees.load(&self.0.content, admitted).await
    }

    /// Brings a release that is being launched, in the background as far as content goes:
    /// tree, layout and the entry's first chunks in one parallel round, then the rest if it
    /// is small.
    ///
    /// Where another version of the server is here, most chunks are likely to be, and only
    /// the layout tells: they are not asked for ahead of it.
    ///
    /// # Errors
    /// As [`Self::content`]; the opens that follow tell the user.
    pub async fn bring(&self, admitted: &Arc<Admitted>) -> Result<(), Refusal> {
        let content = &self.0.content;
        let server = self.snapshot().servers.get(admitted.name()).map(|server| server.admitted());
        let here = |one: &Arc<Admitted>| content.has_metadata(&one.layout.layout.sha256);
        let ahead =
            (!here(admitted) && !server.iter().flatten().any(here)).then(|| content.ahead(&admitted.layout.first));
        let release = self.content(admitted).await?;
        if let Some(ahead) = ahead {
            ahead.belongs_to(&release);
        }
        content.prefetch(&release);
        Ok(())
    }

    /// Whether a file of an admitted release may be opened now. To be asked at every open;
    /// never waits.
    ///
    /// A yanked release is not refused here, so that what runs goes on running;
    /// [`Self::version`] refuses it to whoever comes next.
    ///
    /// # Errors
    /// `Revoked`; `HeadExpired` past `max_stale`; `PolicyRefused` if configuration does not
    /// show the name any more; `KeyNotAuthorised` if the trust root in force does not believe its keys any more.
    pub fn check_open(&self, admitted: &Admitted) -> Result<Freshness, Refusal> {
        let latest = match self.by_slot(admitted.slot) {
            Some(Slot::Release(latest)) => latest,
            _ => Arc::new(admitted.clone()),
        };
        let key = (latest.name().clone(), latest.version().clone());
        if let Some(reason) = self.0.revoked.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Err(Refusal::new(Code::Revoked, format!("{} {}: {reason}", key.0, key.1)));
        }
        let (settings, snapshot) = (self.settings(), self.snapshot());
        settings.config.shows(&key.0).map_err(|why| Refusal::new(Code::PolicyRefused, why))?;
        check_keys(&latest, &settings.root)?;
        let at = self.0.clock.now();
        self.check_age(&latest, &settings.config, at)?;
        let stale = snapshot.refreshed.stale
            || self.0.clock.check().is_err()
            || snapshot.head.as_ref().is_none_or(|head| head.version != latest.head_version || at >= head.expires);
        Ok(Freshness { stale })
    }

    /// A moment that has certainly been, whatever this host's clock is set to; `None` while nothing signed says so.
    pub fn certain_time(&self) -> Option<Timestamp> {
        self.0.clock.certain()
    }

    /// The generation of the newest snapshot, and when there is a newer one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Puts another configuration and trust root into force: every name is decided again
    /// from what is stored, then the site is looked at in the background.
    ///
    /// # Errors
    /// If the state cannot be read or written.
    pub async fn reconfigure(
        &self,
        config: Arc<Config>,
        (root, seen): (TrustRoot, SeenTrust),
        site: Site,
    ) -> Result<(), Refusal> {
        let alone = self.0.reconciling.lock().await;
        let changing = self.0.in_force.write().await;
        self.0.state.set_trust(&root, &seen)?;
        let trust = TrustFacts { version: root.version, epoch: root.epoch, sha256: seen.sha256 };
        let registry = root.registry.clone();
        *self.0.revoked.write().unwrap_or_else(PoisonError::into_inner) = self.0.state.revoked()?;
        let old = self.settings();
        // The cache holds this site too, so it must become another one, not be replaced by one.
        old.site.become_like(site);
        let access = Arc::clone(&config.access);
        let settings = Settings { config, root, trust: trust.clone(), site: old.site.clone() };
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        if old.root.registry != registry || old.trust.epoch != trust.epoch {
            self.0.clock.forget();
        }
        self.swap(|snapshot| {
            if snapshot.registry != registry {
                snapshot.servers.clear();
            }
            snapshot.registry = registry;
            snapshot.trust = trust;
            snapshot.access = access;
        });
        drop(changing);
        self.restore().await?;
        drop(alone);
        self.refresh();
        Ok(())
    }

    /// Notes that the kernel keeps nothing older than this generation; `None` when nobody tells it any more.
    pub fn set_shown(&self, generation: Option<u64>) {
        self.0.shown.send_replace(generation);
    }

    /// Waits until the mount shows this snapshot or a later one, if there is a mount: who changed
    /// something and looks next must not find what the kernel remembers from before.
    ///
    /// Waits no longer than the kernel remembers, `KEPT`.
    pub async fn shown(&self) {
        let wanted = self.snapshot().generation;
        let mut shown = self.0.shown.subscribe();
        let reached = shown.wait_for(|shown| shown.is_none_or(|shown| shown >= wanted));
        drop(tokio::time::timeout(KEPT, reached).await);
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.settings().config)
    }

    /// The trust root in force, and what is remembered of it.
    pub fn trust(&self) -> (TrustRoot, SeenTrust) {
        let settings = self.settings();
        let TrustFacts { version, epoch, sha256 } = settings.trust;
        let seen = SeenTrust { version, epoch, sha256 };
        (settings.root.clone(), seen)
    }

    /// Look at the site now, in the background.
    pub fn refresh(&self) {
        self.0.nudge.notify_one();
    }

    /// Waits until the site has been looked at once in this run.
    pub async fn first_look(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        drop(self.0.looked.subscribe().wait_for(|looks| *looks > 0).await);
    }

    /// A name of which nothing can be known yet.
    fn unknown(&self, name: &ServerName) -> Arc<Server> {
        let refusal = match &self.snapshot().refreshed.outcome {
            Err(refusal) => refusal.clone(),
            Ok(()) => Refusal::new(Code::Unreachable, "there is no catalogue yet"),
        };
        self.0.unknown.lock().unwrap_or_else(PoisonError::into_inner).answer(name, refusal)
    }

    /// The lock under which a single name is decided.
    fn share(&self, name: &ServerName) -> usize {
        usize::from(Digest::of(name.as_str().as_bytes()).as_bytes()[0]) % self.0.deciding.len()
    }

    /// Replaces the snapshot by an edited copy; one swap, one tick.
    fn swap(&self, edit: impl FnOnce(&mut Snapshot)) {
        let generation = self.note(|snapshot| {
            edit(snapshot);
            snapshot.generation += 1;
        });
        self.0.changes.send_replace(generation);
    }

    /// The same without a tick, for what the mount does not show.
    fn note(&self, edit: impl FnOnce(&mut Snapshot)) -> u64 {
        let mut place = self.0.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot::clone(&place);
        edit(&mut next);
        let generation = next.generation;
        *place = Arc::new(next);
        generation
    }
}

/// Whether the keys that counted for a release still suffice. A reload decides about every
/// name anew and gives those that still verify their new keys; what is left behind by it is
/// reached by whoever has an old directory open and never asks for the name again.
fn check_keys(admitted: &Admitted, root: &TrustRoot) -> Result<(), Refusal> {
    let counts = |role: &Role| role.keys.iter().filter(|id| admitted.keys.contains(id)).count();
    let met = |role: &Role| counts(role) >= role.threshold.get() as usize;
    let rule = root.rule_for(admitted.name()).ok().filter(|_| root.registry == admitted.release.registry);
    if rule.is_some_and(|rule| rule.require.iter().all(met)) {
        return Ok(());
    }
    let what = format!("{} {}", admitted.name(), admitted.version());
    Err(Refusal::new(Code::KeyNotAuthorised, format!("the trust root in force does not accept the keys of {what}")))
}
