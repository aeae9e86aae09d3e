//! Several servers under one head.

use mcpfs_trust::catalogue::BinServer;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Entry;
use mcpfs_trust::limits;
use mcpfs_trust::name::ServerName;
use mcpfs_trust::site as path;

use super::super::state::Published;
use super::super::{SiteError, parallel};
use super::{ATTEMPTS, Outcome, Publisher, Put, Rows, Step, check_entry};
use crate::log::Row;

/// New entries of servers that are published already.
#[derive(Debug)]
pub struct Several {
    /// Of each server one.
    pub entries: Vec<Entry>,
    /// What the log says of all of them, and of each release.
    pub rows: (Row, Vec<Row>),
}

impl Publisher<'_> {
    /// Replaces entries of servers that are there; without any the site keeps its head. `make` is asked
    /// again if another publisher was faster.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn publish_several(
        &mut self,
        mut make: impl FnMut(&Published) -> Result<Several, SiteError>,
    ) -> Result<Outcome, SiteError> {
        self.in_turn(|publisher| {
            let published = publisher.present()?;
            let Several { entries, rows: (first, further) } = make(&published)?;
            if entries.is_empty() {
                return publisher.unchanged(&published);
            }
            let site = publisher.site;
            let changed = parallel::map(&entries, site.workers(), |entry| {
                let bytes = entry.encode();
                check_entry(entry, &bytes)?;
                let name = entry.selected.release.name.clone();
                let server = BinServer { name, sha256: Digest::of(&bytes), size: bytes.len() as u64 };
                site.put(&path::entry(&server.sha256), &bytes)?;
                Ok::<_, SiteError>(server)
            })?;
            publisher.done(Step::Entry);
            let names: Vec<ServerName> = changed.iter().map(|server| server.name.clone()).collect();
            let mut servers: Vec<BinServer> =
                published.servers().filter(|one| !names.contains(&one.name)).cloned().collect();
            servers.extend(changed);
            let outcome = publisher.advance(&published, servers, None, Rows { first, further }, Put::default())?;
            publisher.settle_all(&names)?;
            Ok(outcome)
        })
    }

    /// Makes each `servers/<name>.json` the entry under the head, also if the head moves meanwhile.
    fn settle_all(&self, names: &[ServerName]) -> Result<(), SiteError> {
        for _ in 0..ATTEMPTS {
            let now = self.site.published(self.root)?;
            parallel::map(names, self.site.workers(), |name| {
                let Some(entry) = self.site.entry(&now, name)? else { return Ok(()) };
                let (place, bytes) = (path::server(name), entry.encode());
                match self.site.find(&place, limits::ENTRY_BYTES).ok().flatten() == Some(bytes.clone()) {
                    true => Ok(()),
                    false => self.site.replace(&place, &bytes),
                }
            })?;
            let head = now.head.map(|(stored, _)| stored.bytes);
            if self.site.find(path::HEAD, limits::HEAD_BYTES)? == head {
                break;
            }
        }
        Ok(())
    }
}
