//! What was shown once and is not any more, as far as somebody may still hold its inodes.
//!
//! A release that was revoked or yanked, that configuration hides or that no entry lists any
//! more is not shown, but who has a file of it open reads on, and who opens another one
//! through a directory kept open is told why not. In the process that admitted it its slot
//! simply stays. A successor makes the slot again from what `state.db` kept: the entry under
//! which the release was admitted, verified anew under the trust root in force. What fails
//! that leaves its reason in the slot, since "no such file" would be untrue.

use std::sync::{Arc, PoisonError};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Entry;
use mcpfs_trust::error::{Code, VerifyError};
use mcpfs_trust::verify;
use mcpfs_trust::{chunk, site};

use crate::refusal::Refusal;
use crate::registry::state::AdmittedRow;
use crate::registry::{Admitted, Registry, Settings, Slot};

impl Registry {
    /// Makes the slots of releases that were admitted once and are not shown mean something.
    pub(in crate::registry) fn take_up_withdrawn(&self, settings: &Settings) -> Result<(), Refusal> {
        let snapshot = self.snapshot();
        let shown = |row: &AdmittedRow| {
            snapshot.servers.get(&row.name).is_some_and(|server| server.find(&row.version).is_some())
        };
        for row in self.0.state.admitted()?.into_iter().filter(|row| !shown(row)) {
            let Some((slot, statement)) = self.0.state.release_slot(&row.name, &row.version)? else { continue };
            // At a reload it is there, with what was verified in this process.
            if self.by_slot(slot).is_some() {
                continue;
            }
            let meaning = match self.withdrawn(settings, &row, slot, &statement) {
                Ok(admitted) => Slot::Release(Arc::new(admitted)),
                Err(refusal) => Slot::Refused(refusal.of(format!("{} {}", row.name, row.version))),
            };
            self.0.slots.write().unwrap_or_else(PoisonError::into_inner).insert(slot, meaning);
        }
        Ok(())
    }

    /// The release of a row, verified as when it was admitted, but for whether it may be shown:
    /// that is asked at every open.
    fn withdrawn(
        &self,
        settings: &Settings,
        row: &AdmittedRow,
        slot: u32,
        statement: &Digest,
    ) -> Result<Admitted, Refusal> {
        let missing = || Refusal::new(Code::Unreachable, "the entry that it was admitted from is not in state.db");
        let bytes = self.0.state.document(&site::entry(&row.entry))?.ok_or_else(missing)?;
        chunk::expect("entry", &row.entry, &bytes)?;
        let entry = Entry::parse(&bytes)?;
        let version = &row.version;
        let listed = entry.find(version).ok_or_else(|| VerifyError::PinUnknown { version: version.to_string() })?;
        let release = verify::statement(&listed.envelope, &row.name, version, &settings.root, Some(statement))?;
        if let Some(field) = verify::difference(&listed.release, &release) {
            return Err(VerifyError::EntryMismatch { field }.into());
        }
        let artefact = verify::artefact(&release, &self.0.platform, None)?.clone();
        let layout = listed.layout_for(&artefact.platform).cloned();
        let layout =
            layout.ok_or_else(|| VerifyError::malformed("entry", format!("no layout for {}", artefact.platform)))?;
        Ok(Admitted {
            slot,
            statement: *statement,
            payload: listed.envelope.payload.clone(),
            artefact,
            keys: release.keys().to_vec(),
            head_version: row.head_version,
            head_issued: row.head_issued,
            yanked: None,
            layout,
            release,
        })
    }
}
