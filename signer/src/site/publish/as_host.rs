//! A new state seen as a host sees it: before its head moves, and once more afterwards, read
//! back from where hosts read.

use std::time::Duration;

use mcpfs_trust::catalogue::bin_of;
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::entry::{Entry, Listed};
use mcpfs_trust::limits;
use mcpfs_trust::site as path;
use mcpfs_trust::verify::{self, AcceptedHead, Pin, Verified};

use super::super::state::{Published, at, restore};
use super::super::{SiteError, parallel};
use super::{Changed, Publisher, Put};

/// Pauses before a head that is still the old one is asked for again: what a CDN may keep it.
const PATIENCE: [u64; 6] = [1, 2, 5, 10, 15, 30];
/// Reads a name of at most so many bytes.
type Read<'a> = dyn Fn(&str, u64) -> Result<Vec<u8>, SiteError> + 'a;

/// Content chunks of a new release that are read back.
const FIRST: usize = 8;

impl Publisher<'_> {
    /// The way a host goes, over the bytes that it will get, with the memory of a host that
    /// has the present head.
    pub(super) fn verify_as_host(
        &self,
        head: &[u8],
        published: &Published,
        changed: Option<Changed<'_>>,
        put: &Put,
    ) -> Result<(), SiteError> {
        let accepted = verify::head(head, self.root, &published.seen(), self.now).map_err(at(path::HEAD))?;
        let read = |name: &str, limit| self.site.read(name, limit);
        let Some(entry) = walk(&read, &accepted, changed)? else { return Ok(()) };
        let Some(listed) = self.usable(&entry, changed)? else { return Ok(()) };
        let mut chunks = self.site.release_chunks(listed)?;
        chunks.retain(|chunk| !put.present.contains(&chunk.sha256));
        parallel::map(&chunks, self.site.workers(), |chunk| self.site.has_size(chunk))?;
        Ok(())
    }

    /// Reads the published state back, from the public address if there is one.
    pub(super) fn read_back(&self, head: &[u8], changed: Option<Changed<'_>>) -> Result<(), SiteError> {
        let place = self.public.map_or_else(|| self.site.place(), |public| public.to_string());
        self.read_back_from(head, changed).map_err(|source| SiteError::ReadBack { place, source: Box::new(source) })
    }

    fn read_back_from(&self, head: &[u8], changed: Option<Changed<'_>>) -> Result<(), SiteError> {
        let (site, public) = (self.site, self.public);
        let read = |name: &str, limit| match public {
            Some(public) => Ok(public.read(name, limit)?),
            None => site.read(name, limit),
        };
        let own = restore(head, self.root).map_err(at(path::HEAD))?;
        let mut pauses = PATIENCE.iter();
        let found = loop {
            let found = restore(&read(path::HEAD, limits::HEAD_BYTES)?, self.root).map_err(at(path::HEAD))?;
            match (found.head.version < own.head.version, pauses.next()) {
                (true, Some(seconds)) if self.public.is_some() => std::thread::sleep(Duration::from_secs(*seconds)),
                (true, _) => {
                    let (expected, found) = (own.head.version, found.head.version);
                    return Err(SiteError::StillOld { expected, found });
                }
                (false, _) => break found,
            }
        };
        // The next publisher may have been here already: then this is its state, whole as well.
        let changed = changed.filter(|_| found.seen.floor == own.seen.floor);
        let Some(entry) = walk(&read, &found, changed)? else { return Ok(()) };
        let Some(listed) = self.usable(&entry, changed)? else { return Ok(()) };
        let lists = |stored: &mcpfs_trust::entry::PlatformLayout| {
            let first = stored.first.iter().take(FIRST);
            stored.tree.iter().chain(&stored.layout.chunks).chain(first).copied().collect::<Vec<Chunk>>()
        };
        let chunks: Vec<Chunk> = listed.layout.iter().flat_map(lists).collect();
        parallel::map(&chunks, site.workers(), |chunk| {
            let name = path::object(&chunk.sha256);
            let stored = read(&name, u64::from(chunk.size))?;
            chunk.decode(&stored).map(drop).map_err(at(&name))
        })?;
        Ok(())
    }

    /// The release that hosts must be able to use now, verified.
    fn usable<'e>(
        &self,
        entry: &'e Verified<Entry>,
        changed: Option<Changed<'_>>,
    ) -> Result<Option<&'e Listed>, SiteError> {
        let Some(version) = changed.and_then(|changed| changed.usable) else { return Ok(None) };
        let place = format!("{} {version}", entry.selected.release.name);
        let pin = Pin { version: version.clone(), artefact: None };
        let listed = verify::select(entry, Some(&pin)).map_err(at(&place))?;
        verify::release(entry, version, self.root, None).map_err(at(&place))?;
        Ok(Some(listed))
    }
}

/// From an accepted head down to the changed server's entry.
fn walk(
    read: &Read<'_>,
    accepted: &AcceptedHead,
    changed: Option<Changed<'_>>,
) -> Result<Option<Verified<Entry>>, SiteError> {
    let name = path::catalogue(&accepted.catalogue);
    let catalogue = verify::catalogue(&read(&name, limits::CATALOGUE_BYTES)?, accepted).map_err(at(&name))?;
    let Some(changed) = changed else { return Ok(None) };
    let index = bin_of(changed.name, catalogue.bins.len());
    let Some(blob) = catalogue.bins.get(index) else { return Ok(None) };
    let name = path::bin(&blob.sha256);
    let bin = verify::bin(&read(&name, limits::BIN_BYTES)?, &catalogue, index).map_err(at(&name))?;
    let Some(listed) = bin.find(changed.name) else {
        return Err(SiteError::NoServer { name: changed.name.clone() });
    };
    let name = path::entry(&listed.sha256);
    let bytes = read(&name, limits::ENTRY_BYTES)?;
    Ok(Some(verify::entry(&bytes, &bin, changed.name).map_err(at(&name))?))
}
