//! What the site said before, taken up from `state.db` without a network.
//!
//! Everything is verified again, under the trust root in force now: a stored head whose keys
//! no longer count leaves nothing listed, and an entry is only what its digest says.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use mcpfs_trust::entry::Entry;
use mcpfs_trust::error::Code;
use mcpfs_trust::name::ServerName;
use mcpfs_trust::verify::{self, Seen};
use mcpfs_trust::{chunk, site};

use super::{BATCH, Evidence, Listing, Source, facts};
use crate::refusal::Refusal;
use crate::registry::state::AdmittedRow;
use crate::registry::{Registry, Settings};

impl Registry {
    /// Takes up what `state.db` has, under the trust root and configuration in force.
    pub(in crate::registry) async fn restore(&self) -> Result<(), Refusal> {
        let settings = self.settings();
        let (seen, head) = self.0.state.head()?;
        if let Some(signed) = seen.of_epoch(settings.root.epoch).signed_time {
            self.0.clock.saw(signed);
        }
        let listing = head.map(|head| self.restored_listing(&settings, &seen, &head));
        if let Some(Err(refusal)) = &listing {
            tracing::warn!(%refusal, "the head accepted last does not count any more");
        }
        match listing {
            Some(Ok(listing)) => self.vouch(&Arc::new(listing)),
            // Nor does that of another registry, after a reload.
            Some(Err(_)) | None if self.listing().is_some() => {
                *self.0.listing.write().unwrap_or_else(PoisonError::into_inner) = None;
                self.swap(|snapshot| snapshot.head = None);
            }
            Some(Err(_)) | None => {}
        }
        let mut names: BTreeMap<ServerName, Vec<AdmittedRow>> = BTreeMap::new();
        for row in self.0.state.admitted()? {
            names.entry(row.name.clone()).or_default().push(row);
        }
        if let Some(listing) = self.listing() {
            for listed in listing.servers() {
                names.entry(listed.name.clone()).or_default();
            }
        }
        let mut batch = Vec::new();
        for (name, rows) in names {
            if let Some(evidence) = self.stored_evidence(&name, &rows)? {
                batch.push(self.decide(&settings, name, Ok(evidence))?);
            }
            if batch.len() >= BATCH {
                self.commit(&settings, std::mem::take(&mut batch)).await?;
            }
        }
        self.commit(&settings, batch).await?;
        self.take_up_withdrawn(&settings)?;
        self.apply_max_stale();
        Ok(())
    }

    fn restored_listing(&self, settings: &Settings, seen: &Seen, head: &[u8]) -> Result<Listing, Refusal> {
        let missing = |what| Refusal::new(Code::Unreachable, format!("{what} is not in state.db"));
        let accepted = verify::restored_head(head, &settings.root, seen)?;
        let bytes = self.0.state.document(&site::catalogue(&accepted.catalogue))?;
        let catalogue = verify::catalogue(&bytes.ok_or_else(|| missing("the catalogue"))?, &accepted)?;
        let mut bins = Vec::new();
        for (index, blob) in catalogue.bins.iter().enumerate() {
            let bytes = self.0.state.document(&site::bin(&blob.sha256))?.ok_or_else(|| missing("a bin"))?;
            bins.push(Arc::new(verify::bin(&bytes, &catalogue, index)?));
        }
        Ok(Listing { head: facts(&accepted), accepted, catalogue, bins })
    }

    /// What can be said about a name offline: from the stored copy of its entry.
    pub(in crate::registry) fn stored_evidence(
        &self,
        name: &ServerName,
        rows: &[AdmittedRow],
    ) -> Result<Option<Evidence>, Refusal> {
        if let Some(listing) = self.listing()
            && let (Some(listed), Some(bin)) = (listing.find(name), listing.bin(name))
            && let Some(bytes) = self.0.state.document(&site::entry(&listed.sha256))?
        {
            return Ok(verify::entry(&bytes, bin, name).ok().map(|entry| Evidence {
                entry: Source::Listed(entry),
                sha256: listed.sha256,
                head_version: listing.head.version,
                head_issued: listing.head.issued,
                fetched: None,
            }));
        }
        let Some(row) = rows.iter().max_by_key(|row| row.head_version) else { return Ok(None) };
        let Some(bytes) = self.0.state.document(&site::entry(&row.entry))? else { return Ok(None) };
        let parsed = chunk::expect("entry", &row.entry, &bytes).and_then(|()| Entry::parse(&bytes));
        Ok(parsed.ok().filter(|entry| entry.selected.release.name == *name).map(|entry| Evidence {
            entry: Source::Kept(entry),
            sha256: row.entry,
            head_version: row.head_version,
            head_issued: row.head_issued,
            fetched: None,
        }))
    }
}
