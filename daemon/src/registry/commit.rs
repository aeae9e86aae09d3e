//! A decision takes effect: audit rows, then `state.db`, then the snapshot.
//!
//! If the audit cannot be written, nothing changes. If this process dies between the audit
//! and the state, the next one decides again and a row may stand there twice; nothing else
//! differs, as every write of the state may be repeated.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::site;
use serde_json::json;
use tokio::task::JoinSet;

use super::admit::{Chosen, Decision, admit, permitted};
use super::refresh::{Evidence, aborted, blocking};
use super::state::{AdmittedRow, Known, SlotKind, Writes, release_key};
use super::{Admitted, HeadFacts, Registry, Server, Settings, Slot, Snapshot};
use crate::audit::{AuditEvent, EventKind, ReleaseRef};
use crate::caller::Caller;
use crate::refusal::Refusal;

/// A name about which something was found out.
pub(super) enum Decided {
    /// Its entry verified, and this is what follows.
    Seen(Box<Decision>, Box<Evidence>, Known),
    /// Its entry could not be had.
    Unseen(ServerName, Refusal),
}

impl Decided {
    fn name(&self) -> &ServerName {
        match self {
            Self::Seen(decision, ..) => &decision.name,
            Self::Unseen(name, _) => name,
        }
    }
}

impl Registry {
    /// Records, stores and shows a batch of decisions taken under `settings`; nothing of it if others are in
    /// force by now, since a reload decides about all names itself.
    pub(super) async fn commit(&self, settings: &Arc<Settings>, mut batch: Vec<Decided>) -> Result<(), Refusal> {
        let _in_force = self.0.in_force.read().await;
        if !Arc::ptr_eq(&self.settings(), settings) {
            return Ok(());
        }
        let snapshot = self.snapshot();
        // What is shown already outlives an entry that cannot be had: it only grows stale.
        batch.retain(|decided| match decided {
            Decided::Unseen(name, refusal) => {
                tracing::warn!(%name, %refusal, "its entry could not be had");
                snapshot.servers.get(name).is_none_or(|server| server.entry.is_none())
            }
            Decided::Seen(..) => true,
        });
        if batch.is_empty() {
            return Ok(());
        }
        let mut rows = Vec::new();
        let mut writes = Writes::default();
        for decided in &mut batch {
            let before = snapshot.servers.get(decided.name()).map(Arc::as_ref);
            rows.extend(news(decided, before, &snapshot));
            note(decided, &mut writes);
        }
        self.record(rows).await?;
        // They hold from here on, whether or not they can be kept.
        let revoked = writes.revoked.iter().cloned().map(|(name, version, reason)| ((name, version), reason));
        self.0.revoked.write().unwrap_or_else(PoisonError::into_inner).extend(revoked);
        let slots = match self.0.state.known_slots(&writes)? {
            Some(slots) => slots,
            None => {
                let registry = self.clone();
                blocking(move || registry.0.state.commit(&writes)).await?
            }
        };

        let mut slots = slots.into_iter();
        let servers: Vec<_> = batch.into_iter().filter_map(|decided| server(decided, &mut slots)).collect();
        self.swap(|snapshot| {
            for server in servers {
                self.show(&server);
                snapshot.servers.insert(server.name.clone(), server);
            }
        });
        Ok(())
    }

    /// Admits a further version on its first lookup. `None`: the entry does not list it.
    pub(super) async fn admit_one(
        &self,
        server: &Arc<Server>,
        version: &Version,
    ) -> Result<Option<Arc<Admitted>>, Refusal> {
        let name = &server.name;
        let _alone = self.0.deciding[self.share(name)].lock().await;
        loop {
            let settings = self.settings();
            let admitted = self.admit_under(&settings, server, version).await?;
            // A reload in between asks for another decision, under what it brought.
            if admitted.is_some() || Arc::ptr_eq(&self.settings(), &settings) {
                return Ok(admitted);
            }
        }
    }

    async fn admit_under(
        &self,
        settings: &Arc<Settings>,
        server: &Arc<Server>,
        version: &Version,
    ) -> Result<Option<Arc<Admitted>>, Refusal> {
        let name = &server.name;
        let rows = server.admitted.iter().filter_map(|one| Some(row(one, server.entry?)));
        let rows: Vec<AdmittedRow> = rows.collect();
        let Some(evidence) = self.stored_evidence(name, &rows)? else { return Ok(None) };
        if evidence.entry().find(version).is_none() {
            return Ok(None);
        }
        let mut known = self.0.state.known(name)?;
        let rules = self.rules(settings, &known);
        permitted(name, &rules)?;
        admit(evidence.entry(), version, &rules)?;
        // It may be shown: from here on it is one of the versions that every decision keeps.
        known.admitted.entry(version.clone()).or_insert(evidence.sha256);
        let decided = self.decide_with(settings, evidence, known);
        self.commit(settings, vec![decided]).await?;
        Ok(self.snapshot().servers.get(name).and_then(|server| server.find(version).cloned()))
    }

    /// The versions that the server's entry lists, the selected one first; none if it is not here.
    pub fn versions(&self, server: &Server) -> Vec<Version> {
        let rows: Vec<AdmittedRow> = server.admitted.iter().filter_map(|one| Some(row(one, server.entry?))).collect();
        let evidence = self.stored_evidence(&server.name, &rows).ok().flatten();
        let listed = evidence.iter().flat_map(|evidence| evidence.entry().releases());
        listed.map(|listed| listed.release.version.clone()).collect()
    }

    /// Makes the slots of a server and its releases resolve to their newest meaning.
    pub(super) fn show(&self, server: &Arc<Server>) {
        let mut slots = self.0.slots.write().unwrap_or_else(PoisonError::into_inner);
        for admitted in &server.admitted {
            slots.insert(admitted.slot, Slot::Release(Arc::clone(admitted)));
        }
        slots.insert(server.slot, Slot::Server(Arc::clone(server)));
    }

    /// Commits audit rows together; they share a group commit.
    async fn record(&self, rows: Vec<AuditEvent>) -> Result<(), Refusal> {
        let mut pending = JoinSet::new();
        for row in rows {
            let audit = self.0.audit.clone();
            pending.spawn(async move { audit.record(row).await });
        }
        while let Some(done) = pending.join_next().await {
            match done {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(error) => return Err(aborted(error)),
            }
        }
        Ok(())
    }

    /// The row of an accepted head.
    pub(super) async fn record_head(&self, head: &HeadFacts) -> Result<(), Refusal> {
        let mut row = AuditEvent::new(EventKind::Refresh, Caller::daemon());
        row.head_version = Some(head.version);
        row.stale = Some(false);
        row.detail = Some(json!({
            "head_sha256": head.sha256.to_string(),
            "issued": head.issued.to_string(),
            "expires": head.expires.to_string(),
        }));
        self.record(vec![row]).await
    }

    /// The row of a look at the site that failed in a new way.
    pub(super) async fn record_failed_look(&self, refusal: &Refusal, stale: bool) -> Result<(), Refusal> {
        let row = AuditEvent::new(EventKind::Refresh, Caller::daemon());
        let mut row = row.refused(refusal.code, refusal.message.clone());
        row.head_version = self.snapshot().head.as_ref().map(|head| head.version);
        row.stale = Some(stale);
        let two = self.0.two_heads.lock().unwrap_or_else(PoisonError::into_inner).take();
        row.detail = two.filter(|_| refusal.code == Code::HeadEquivocation);
        self.record(vec![row]).await
    }

    /// The row of the first look that succeeded after failures.
    pub(super) async fn record_recovery(&self) -> Result<(), Refusal> {
        let mut row = AuditEvent::new(EventKind::Refresh, Caller::daemon());
        row.head_version = self.snapshot().head.as_ref().map(|head| head.version);
        row.stale = Some(false);
        row.reason = Some("the site is followed again".to_owned());
        self.record(vec![row]).await
    }
}

/// The audit rows of a decision: only what is new.
fn news(decided: &Decided, before: Option<&Server>, snapshot: &Snapshot) -> Vec<AuditEvent> {
    let mut rows = Vec::new();
    let registry = snapshot.registry.as_str();
    let bare = |name: &ServerName, version: Option<&Version>| {
        let version = version.map(Version::as_str);
        Arc::new(ReleaseRef::unverified(Some(registry), name.as_str(), version))
    };
    let event = |kind, release, head_version| {
        let mut row = AuditEvent::new(kind, Caller::daemon()).release(release);
        row.head_version = head_version;
        row
    };
    let head = snapshot.head.as_ref().map(|head| head.version);
    let told = before.and_then(|server| server.selected.as_ref().err());
    match decided {
        Decided::Unseen(name, refusal) => {
            if told.map(|told| told.code) != Some(refusal.code) {
                let row = event(EventKind::Verify, bare(name, None), head);
                rows.push(row.refused(refusal.code, refusal.message.clone()));
            }
        }
        Decided::Seen(decision, evidence, known) => {
            let head = Some(evidence.head_version);
            for (version, reason) in &decision.revoked {
                let mut row = event(EventKind::Revoke, bare(&decision.name, Some(version)), head);
                row.reason = Some(reason.clone());
                rows.push(row);
            }
            for chosen in &decision.chosen {
                let version = &chosen.release.version;
                // A version that a lookup is just admitted for is in `known`, but not published yet.
                if known.published.contains_key(version) && known.admitted.contains_key(version) {
                    continue;
                }
                let mut row = event(EventKind::Verify, reference(chosen), head);
                row.reason = chosen.yanked.as_ref().map(|reason| format!("yanked, kept by a pin: {reason}"));
                rows.push(row);
            }
            if let Some(last) = &decision.downgrade {
                let version = evidence.entry().selected.release.version.clone();
                let row = event(EventKind::Verify, bare(&decision.name, Some(&version)), head);
                let reason = format!("Downgrade: the registry went back from {last} to {version}");
                let mut row = match &decision.selected {
                    Err(refusal) => row.refused(refusal.code, String::new()),
                    Ok(_) => row,
                };
                row.reason = Some(reason);
                rows.push(row);
            } else if let Err(refusal) = &decision.selected
                && told.map(|told| told.code) != Some(refusal.code)
            {
                let row = event(EventKind::Verify, bare(&decision.name, None), head);
                rows.push(row.refused(refusal.code, refusal.message.clone()));
            }
        }
    }
    rows
}

/// The row of `release` for a chosen one.
fn reference(chosen: &Chosen) -> Arc<ReleaseRef> {
    let status = if chosen.yanked.is_some() { "yanked" } else { "active" };
    let keys = chosen.release.keys();
    Arc::new(ReleaseRef::verified(&chosen.release, &chosen.artefact, chosen.statement, keys, status))
}

/// What `state.db` is to remember of a decision. The slots are asked for in the order in
/// which [`server`] takes them.
fn note(decided: &mut Decided, writes: &mut Writes) {
    writes.slots.push((SlotKind::Server, decided.name().to_string()));
    let Decided::Seen(decision, evidence, known) = decided else { return };
    let name = &decision.name;
    for (version, reason) in &decision.revoked {
        writes.revoked.push((name.clone(), version.clone(), reason.clone()));
    }
    for chosen in &decision.chosen {
        let version = &chosen.release.version;
        // What is known is not written again: a start decides about all names, and a head a day does too.
        if known.published.get(version) != Some(&chosen.statement) {
            writes.published.push((name.clone(), version.clone(), chosen.statement));
        }
        writes.slots.push((SlotKind::Release, release_key(name, version, &chosen.statement)));
        if known.admitted.get(version) != Some(&evidence.sha256) || !known.published.contains_key(version) {
            writes.admitted.push(AdmittedRow {
                name: name.clone(),
                version: version.clone(),
                entry: evidence.sha256,
                head_version: evidence.head_version,
                head_issued: evidence.head_issued,
            });
        }
        let selected = (version, &chosen.release.issued);
        let remembered = known.selected.as_ref().map(|(version, issued)| (version, issued)) == Some(selected);
        if decision.by_catalogue && decision.selected.as_ref() == Ok(version) && !remembered {
            writes.selected.push((name.clone(), version.clone(), chosen.release.issued));
        }
    }
    if let Some(bytes) = evidence.fetched.take() {
        writes.documents.push((site::entry(&evidence.sha256), bytes));
    }
}

/// The server of a decision, with its slots. `None` cannot happen while `note` asks for all of them.
fn server(decided: Decided, slots: &mut impl Iterator<Item = u32>) -> Option<Arc<Server>> {
    let slot = slots.next()?;
    let (decision, evidence) = match decided {
        Decided::Unseen(name, refusal) => {
            return Some(Arc::new(Server::refused(name, slot, refusal)));
        }
        Decided::Seen(decision, evidence, _) => (decision, evidence),
    };
    let mut by_version = BTreeMap::new();
    let mut admitted = Vec::new();
    for chosen in decision.chosen {
        let one = Arc::new(Admitted {
            slot: slots.next()?,
            statement: chosen.statement,
            payload: chosen.payload,
            artefact: chosen.artefact,
            keys: chosen.release.keys().to_vec(),
            head_version: evidence.head_version,
            head_issued: evidence.head_issued,
            yanked: chosen.yanked,
            layout: chosen.layout,
            release: chosen.release,
        });
        by_version.insert(one.version().clone(), Arc::clone(&one));
        admitted.push(one);
    }
    let selected = match decision.selected {
        Ok(version) => Ok(by_version.remove(&version)?),
        Err(refusal) => Err(refusal),
    };
    Some(Arc::new(Server {
        name: decision.name,
        slot,
        selected,
        admitted,
        entry: Some(evidence.sha256),
        stopped: None,
    }))
}

/// What is known of an admitted release, as a row of the state.
pub(super) fn row(one: &Admitted, entry: Digest) -> AdmittedRow {
    AdmittedRow {
        name: one.name().clone(),
        version: one.version().clone(),
        entry,
        head_version: one.head_version,
        head_issued: one.head_issued,
    }
}
