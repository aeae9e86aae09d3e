//! The reconciler: from the site's head to decisions about every name.
//!
//! It has no input. Each run asks for the head, follows whatever is new, and decides about
//! names whose entry is not the one that the accepted head lists. Runs never overlap. What
//! it fetched is kept in `state.db`, from where the next start takes it up without a network.
//!
//! An authentic head that is older than ours is what a lagging mirror serves: the snapshot
//! stays, and only after a quarter of an hour does it count as stale, with an alarm.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mcpfs_trust::catalogue::{Bin, BinServer, Catalogue, bin_of};
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Entry;
use mcpfs_trust::error::{Code, VerifyError};
use mcpfs_trust::name::ServerName;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::{self, AcceptedHead, Verified};
use mcpfs_trust::{limits, site};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::admit::{Rules, decide};
use super::commit::{Decided, row};
use super::state::{AdmittedRow, Known, StateError};
use super::{HeadFacts, Registry, Server, Settings};
use crate::refusal::Refusal;

pub(super) mod looked;
mod restore;
mod withdrawn;

/// Files fetched at once.
const PARALLEL: usize = 8;
/// Decisions that are recorded and swapped in together.
const BATCH: usize = 32;
/// Pause after a failure; doubled up to the configured interval.
const RETRY: Duration = Duration::from_secs(15);

/// What the accepted head names, verified down to the bins.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) head: HeadFacts,
    accepted: AcceptedHead,
    catalogue: Verified<Catalogue>,
    bins: Vec<Arc<Verified<Bin>>>,
}

impl Listing {
    fn bin(&self, name: &ServerName) -> Option<&Arc<Verified<Bin>>> {
        self.bins.get(bin_of(name, self.bins.len()))
    }

    /// The entry that the head names for a server.
    pub(super) fn find(&self, name: &ServerName) -> Option<&BinServer> {
        self.bin(name)?.find(name)
    }

    fn servers(&self) -> impl Iterator<Item = &BinServer> {
        self.bins.iter().flat_map(|bin| &bin.servers)
    }

    /// Every document it rests on.
    fn documents(&self) -> HashSet<String> {
        let bins = self.catalogue.bins.iter().map(|blob| site::bin(&blob.sha256));
        let entries = self.servers().map(|server| site::entry(&server.sha256));
        std::iter::once(site::catalogue(&self.accepted.catalogue)).chain(bins).chain(entries).collect()
    }
}

/// An entry and what vouches for it.
#[derive(Debug)]
pub(super) struct Evidence {
    entry: Source,
    pub(super) sha256: Digest,
    /// The last head that listed it.
    pub(super) head_version: u64,
    pub(super) head_issued: Timestamp,
    /// Its bytes, if they were fetched just now.
    pub(super) fetched: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Source {
    /// Verified under the accepted head.
    Listed(Verified<Entry>),
    /// Verified once under an older head; this host's own copy.
    Kept(Entry),
}

impl Evidence {
    pub(super) fn entry(&self) -> &Entry {
        match &self.entry {
            Source::Listed(entry) => entry,
            Source::Kept(entry) => entry,
        }
    }
}

impl Registry {
    /// Follows the site for ever: periodically, and at every nudge.
    pub async fn follow(self) {
        let mut pause = Duration::ZERO;
        let mut retry = RETRY;
        loop {
            if !pause.is_zero() && timeout(pause, self.0.nudge.notified()).await.is_ok() {
                // Something is different now, and a network needs a moment after a sleep.
                retry = RETRY;
            }
            let outcome = self.refresh_now().await;
            let regular = self.settings().config.registry.refresh;
            pause = match outcome {
                Ok(()) => {
                    retry = RETRY;
                    regular.mul_f64(rand::random_range(0.9..1.1))
                }
                Err(_) => {
                    let soon = retry.min(regular);
                    retry = retry.saturating_mul(2);
                    soon.mul_f64(rand::random_range(0.7..1.3))
                }
            };
        }
    }

    /// Looks at the site now and waits for the outcome.
    ///
    /// # Errors
    /// Why the site was not followed; the snapshot then stays as it was.
    pub async fn refresh_now(&self) -> Result<(), Refusal> {
        let _alone = self.0.reconciling.lock().await;
        let outcome = self.look().await;
        let recorded = self.record_look(outcome.clone()).await;
        self.apply_max_stale();
        self.0.looked.send_modify(|looks| *looks += 1);
        recorded.and(outcome)
    }

    /// One look: head, catalogue, bins, entries.
    async fn look(&self) -> Result<(), Refusal> {
        let settings = self.settings();
        let (seen, head) = self.0.state.head()?;
        // A clock that went back would let expired heads live.
        self.0.clock.check()?;
        let at = self.0.clock.now();
        let check = |bytes: Vec<u8>| match verify::head(&bytes, &settings.root, &seen, at) {
            Ok(accepted) => Ok((accepted, bytes)),
            Err(error) => {
                if let (VerifyError::HeadEquivocation { .. }, Some(head)) = (&error, &head) {
                    self.keep_two_heads(&settings.root, head, &bytes);
                }
                Err(error)
            }
        };
        let (accepted, bytes) = settings.site.get_checked(site::HEAD, limits::HEAD_BYTES, "head", check).await?;
        let known = self.listing();
        let same = known.as_ref().filter(|listing| Some(listing.head.sha256) == accepted.seen.floor.map(|f| f.sha256));
        let listing = match same {
            Some(listing) => Arc::clone(listing),
            None => self.accept(&settings, accepted, bytes, known.as_deref()).await?,
        };
        let changed = same.is_none();
        let snapshot = self.snapshot();
        let pending = listing.servers().filter(|listed| {
            snapshot
                .servers
                .get(&listed.name)
                .is_none_or(|server| server.entry != Some(listed.sha256) || undecided(server, changed))
        });
        let pending: Vec<ServerName> = pending.map(|listed| listed.name.clone()).collect();
        self.decide_all(&settings, &listing, pending).await?;
        if changed {
            self.collect(&listing)?;
        }
        Ok(())
    }

    /// Follows a new head to its bins, then makes it the accepted one.
    async fn accept(
        &self,
        settings: &Arc<Settings>,
        accepted: AcceptedHead,
        bytes: Vec<u8>,
        before: Option<&Listing>,
    ) -> Result<Arc<Listing>, Refusal> {
        let mut documents = Vec::new();
        let path = site::catalogue(&accepted.catalogue);
        let check = |bytes: Vec<u8>| verify::catalogue(&bytes, &accepted).map(|catalogue| (catalogue, bytes));
        let (catalogue, text) = match self.0.state.document(&path)?.map(check) {
            Some(Ok(stored)) => stored,
            _ => settings.site.get_checked(&path, accepted.head.catalogue.size, "catalogue", check).await?,
        };
        documents.push((path, text));

        let mut bins: Vec<Option<Arc<Verified<Bin>>>> = vec![None; catalogue.bins.len()];
        let mut fetches = JoinSet::new();
        let shared = Arc::new(catalogue);
        for index in 0..bins.len() {
            let same = before.filter(|before| {
                before.catalogue.bins.len() == bins.len() && before.catalogue.bins[index] == shared.bins[index]
            });
            if let Some(before) = same {
                bins[index] = Some(Arc::clone(&before.bins[index]));
                continue;
            }
            if fetches.len() >= PARALLEL {
                take_bin(&mut fetches, &mut bins, &mut documents).await?;
            }
            let (registry, settings, catalogue) = (self.clone(), Arc::clone(settings), Arc::clone(&shared));
            fetches.spawn(async move {
                let blob = catalogue.bins[index];
                let path = site::bin(&blob.sha256);
                let check = |bytes: Vec<u8>| verify::bin(&bytes, &catalogue, index).map(|bin| (bin, bytes));
                let (bin, bytes) = match registry.0.state.document(&path)?.map(check) {
                    Some(Ok(stored)) => stored,
                    _ => settings.site.get_checked(&path, blob.size, "bin", check).await?,
                };
                Ok::<_, Refusal>((index, Arc::new(bin), path, bytes))
            });
        }
        while !fetches.is_empty() {
            take_bin(&mut fetches, &mut bins, &mut documents).await?;
        }
        let listing = Arc::new(Listing {
            head: facts(&accepted),
            accepted,
            catalogue: Verified::clone(&shared),
            bins: bins.into_iter().flatten().collect(),
        });
        self.adopt(&listing, bytes, documents, before).await?;
        Ok(listing)
    }

    /// Records and stores an accepted head, and shows it. Servers whose entry it still
    /// lists are vouched for by it from now on; for others their last head is noted.
    async fn adopt(
        &self,
        listing: &Arc<Listing>,
        head: Vec<u8>,
        documents: Vec<(String, Vec<u8>)>,
        before: Option<&Listing>,
    ) -> Result<(), Refusal> {
        self.record_head(&listing.head).await?;
        let snapshot = self.snapshot();
        let left_behind = snapshot.servers.values().filter(|server| {
            let listed = |listing: &Listing| listing.find(&server.name).map(|listed| listed.sha256);
            server.entry.is_some() && before.and_then(listed) == server.entry && listed(listing) != server.entry
        });
        let rows = left_behind.flat_map(|server| server.admitted.iter().zip(std::iter::repeat(server.entry)));
        let rows: Vec<AdmittedRow> = rows.filter_map(|(one, entry)| Some(row(one, entry?))).collect();
        let (registry, accepted) = (self.clone(), listing.accepted.seen);
        blocking(move || registry.0.state.accept_head(&accepted, &head, &documents, &rows)).await?;
        self.vouch(listing);
        Ok(())
    }

    /// Makes `listing` the one in force, and its head the word for all servers it lists unchanged.
    fn vouch(&self, listing: &Arc<Listing>) {
        if let Some(signed) = listing.accepted.seen.signed_time {
            self.0.clock.saw(signed);
        }
        *self.0.listing.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(listing));
        self.swap(|snapshot| {
            snapshot.head = Some(listing.head.clone());
            for server in snapshot.servers.values_mut() {
                let listed = listing.find(&server.name).map(|listed| listed.sha256);
                if listed.is_some() && listed == server.entry {
                    *server = self.vouched(server, &listing.head);
                }
            }
        });
    }

    /// The same server, listed by a newer head.
    fn vouched(&self, server: &Server, head: &HeadFacts) -> Arc<Server> {
        let mut renewed = server.clone();
        for admitted in &mut renewed.admitted {
            let one = Arc::make_mut(admitted);
            one.head_version = head.version;
            one.head_issued = head.issued;
        }
        if let Ok(selected) = &server.selected
            && let Some(same) = renewed.find(selected.version())
        {
            renewed.selected = Ok(Arc::clone(same));
        }
        let renewed = Arc::new(renewed);
        self.show(&renewed);
        renewed
    }

    /// Decides about `names`, a bounded number at a time.
    async fn decide_all(
        &self,
        settings: &Arc<Settings>,
        listing: &Arc<Listing>,
        names: Vec<ServerName>,
    ) -> Result<(), Refusal> {
        let mut fetches = JoinSet::new();
        let mut batch = Vec::new();
        let mut names = names.into_iter();
        loop {
            while fetches.len() < PARALLEL
                && let Some(name) = names.next()
            {
                let (registry, settings, listing) = (self.clone(), Arc::clone(settings), Arc::clone(listing));
                fetches.spawn(async move {
                    let found = registry.evidence(&settings, &listing, &name).await;
                    (name, found)
                });
            }
            let Some(done) = fetches.join_next().await else { break };
            let (name, found) = done.map_err(aborted)?;
            batch.push(self.decide(settings, name, found)?);
            if batch.len() >= BATCH {
                self.commit(settings, std::mem::take(&mut batch)).await?;
            }
        }
        self.commit(settings, batch).await
    }

    /// Decides about one name now: the first lookup did not wait for the reconciler.
    ///
    /// # Errors
    /// If the decision cannot be recorded or kept: then there is none.
    pub(super) async fn decide_one(&self, name: &ServerName) -> Result<Option<Arc<Server>>, Refusal> {
        let _alone = self.0.deciding[self.share(name)].lock().await;
        loop {
            if let Some(server) = self.snapshot().servers.get(name) {
                return Ok(Some(Arc::clone(server)));
            }
            let (settings, Some(listing)) = (self.settings(), self.listing()) else { return Ok(None) };
            let found = self.evidence(&settings, &listing, name).await;
            let decided = self.decide(&settings, name.clone(), found)?;
            self.commit(&settings, vec![decided]).await?;
            // A reload in between asks for another decision, under what it brought.
            if Arc::ptr_eq(&self.settings(), &settings) {
                return Ok(self.snapshot().servers.get(name).cloned());
            }
        }
    }

    /// The entry that the listing names, from `state.db` or the site.
    async fn evidence(&self, settings: &Settings, listing: &Listing, name: &ServerName) -> Result<Evidence, Refusal> {
        let (Some(listed), Some(bin)) = (listing.find(name), listing.bin(name)) else {
            return Err(Refusal::new(Code::PinUnknown, format!("{name} is not in the catalogue")));
        };
        let path = site::entry(&listed.sha256);
        let check = |bytes: Vec<u8>| verify::entry(&bytes, bin, name).map(|entry| (entry, bytes));
        let (entry, fetched) = match self.0.state.document(&path)?.map(check) {
            Some(Ok((entry, _))) => (entry, None),
            _ => {
                let (entry, bytes) = settings.site.get_checked(&path, listed.size, "entry", check).await?;
                (entry, Some(bytes))
            }
        };
        Ok(Evidence {
            entry: Source::Listed(entry),
            sha256: listed.sha256,
            head_version: listing.head.version,
            head_issued: listing.head.issued,
            fetched,
        })
    }

    /// The decision about one name.
    pub(super) fn decide(
        &self,
        settings: &Settings,
        name: ServerName,
        found: Result<Evidence, Refusal>,
    ) -> Result<Decided, Refusal> {
        let evidence = match found {
            Ok(evidence) => evidence,
            Err(refusal) => return Ok(Decided::Unseen(name, refusal)),
        };
        let known = self.0.state.known(&name)?;
        Ok(self.decide_with(settings, evidence, known))
    }

    /// The decision that an entry and what is known lead to.
    pub(super) fn decide_with(&self, settings: &Settings, evidence: Evidence, known: Known) -> Decided {
        let name = &evidence.entry().selected.release.name;
        let mut before: BTreeSet<_> = known.admitted.keys().cloned().collect();
        if let Some(server) = self.snapshot().servers.get(name) {
            before.extend(server.admitted.iter().map(|one| one.version().clone()));
        }
        let before: Vec<_> = before.into_iter().collect();
        let mut decision = decide(evidence.entry(), &before, &self.rules(settings, &known));
        // What an entry of before revokes was recorded under its head. After an epoch has risen that would be the
        // word of the key that was stolen, and it would outlast it.
        if matches!(evidence.entry, Source::Kept(_)) {
            decision.revoked.clear();
        }
        Decided::Seen(Box::new(decision), Box::new(evidence), known)
    }

    /// This host's rules, with what it knows of a name.
    pub(super) fn rules<'a>(&'a self, settings: &'a Settings, known: &'a Known) -> Rules<'a> {
        let (at, head) = (self.0.clock.now(), self.snapshot().head.clone());
        let expired = match head {
            Some(head) => (at >= head.expires).then_some(head.expires),
            None => Some(at),
        };
        let expired = expired.map(|expires| VerifyError::HeadExpired { expires });
        Rules {
            root: &settings.root,
            platform: &self.0.platform,
            pins: &settings.config.pins,
            policy: &settings.config.policy,
            known,
            closed: self.0.clock.check().err().or(expired),
        }
    }

    /// Forgets documents that neither the head nor an admitted release needs.
    fn collect(&self, listing: &Listing) -> Result<(), Refusal> {
        let mut keep = listing.documents();
        keep.extend(self.0.state.admitted()?.iter().map(|row| site::entry(&row.entry)));
        Ok(self.0.state.keep_documents(&keep)?)
    }
}

/// Whether what was decided by the same entry may be otherwise now: under another head, and what was refused for
/// the time that a wrong clock said.
fn undecided(server: &Server, changed: bool) -> bool {
    let by_the_clock = |refusal: &Refusal| matches!(refusal.code, Code::HeadExpired | Code::ClockRollback);
    server.selected.as_ref().is_err_and(|refusal| changed || (server.stopped.is_none() && by_the_clock(refusal)))
}

fn facts(accepted: &AcceptedHead) -> HeadFacts {
    HeadFacts {
        version: accepted.head.version,
        sha256: accepted.seen.floor.map_or(accepted.catalogue, |floor| floor.sha256),
        issued: accepted.head.issued,
        expires: accepted.head.expires,
    }
}

type FetchedBin = (usize, Arc<Verified<Bin>>, String, Vec<u8>);

async fn take_bin(
    fetches: &mut JoinSet<Result<FetchedBin, Refusal>>,
    bins: &mut [Option<Arc<Verified<Bin>>>],
    documents: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), Refusal> {
    if let Some(done) = fetches.join_next().await {
        let (index, bin, path, bytes) = done.map_err(aborted)??;
        bins[index] = Some(bin);
        documents.push((path, bytes));
    }
    Ok(())
}

/// Disk work of `state.db` away from the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(aborted)?.map_err(Refusal::from)
}

pub(super) fn aborted(_: tokio::task::JoinError) -> Refusal {
    Refusal::new(Code::AuditUnavailable, "the daemon is being stopped")
}
