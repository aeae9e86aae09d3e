//! Everything that a head leads to: what must stay, what a copy needs.
//!
//! From catalogues down, each step by the digest that the step above names, so that nothing
//! is followed that a head does not vouch for. A file on the way that is missing or is something
//! else is an error: a site that does not verify is neither collected nor copied.

use std::collections::{BTreeMap, HashSet};

use mcpfs_trust::catalogue::{Bin, BinServer, Catalogue};
use mcpfs_trust::chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed};
use mcpfs_trust::limits;
use mcpfs_trust::release::Artefact;
use mcpfs_trust::site as path;

use super::state::at;
use super::{Site, SiteError, parallel};
use crate::image::{DOCUMENT_BYTES, Manifest, Part, is_manifest};
use crate::progress::{Progress, Unit};

/// Names and sizes of what some heads lead to.
#[derive(Debug, Default)]
pub struct Reached {
    /// Everything immutable, by name: chunks, artefacts, entries, bins, catalogues.
    pub files: BTreeMap<String, u64>,
    /// The entries on the way, each once.
    pub entries: Vec<Entry>,
    /// What was followed already.
    seen: HashSet<Digest>,
}

impl Reached {
    /// Follows a catalogue of `size` bytes.
    ///
    /// # Errors
    /// If anything on the way is missing or is not what its name says.
    pub fn follow(&mut self, site: &Site, catalogue: &Digest, size: u64, shown: &Progress) -> Result<(), SiteError> {
        if !self.seen.insert(*catalogue) {
            return Ok(());
        }
        let bytes = named(site, path::catalogue(catalogue), "catalogue", catalogue, size)?;
        let parsed = Catalogue::parse(&bytes).map_err(at(&path::catalogue(catalogue)))?;
        self.files.insert(path::catalogue(catalogue), size);
        let count = parsed.bins.len();
        let mut bins: Vec<_> = parsed.bins.iter().enumerate().collect();
        bins.retain(|(_, blob)| self.seen.insert(blob.sha256));
        let servers = parallel::map(&bins, site.workers(), |(index, blob)| {
            let bytes = named(site, path::bin(&blob.sha256), "bin", &blob.sha256, blob.size)?;
            let bin = Bin::parse(&bytes, *index, count).map_err(at(&path::bin(&blob.sha256)))?;
            Ok::<_, SiteError>(bin.servers)
        })?;
        self.files.extend(bins.iter().map(|(_, blob)| (path::bin(&blob.sha256), blob.size)));
        let mut servers: Vec<BinServer> = servers.into_iter().flatten().collect();
        servers.retain(|server| self.seen.insert(server.sha256));
        let entries = parallel::map(&servers, site.workers(), |server| {
            let bytes = named(site, path::entry(&server.sha256), "entry", &server.sha256, server.size)?;
            Entry::parse(&bytes).map_err(at(&path::entry(&server.sha256)))
        })?;
        self.files.extend(servers.iter().map(|server| (path::entry(&server.sha256), server.size)));
        self.follow_releases(site, &entries, shown)?;
        self.entries.extend(entries);
        Ok(())
    }

    /// Follows the releases of entries: their chunks and artefacts.
    ///
    /// # Errors
    /// As [`Reached::follow`].
    pub fn follow_releases(&mut self, site: &Site, entries: &[Entry], shown: &Progress) -> Result<(), SiteError> {
        let layout = |listed: &Listed| {
            let layouts = listed.layout.iter().map(|one| one.layout.sha256.to_string());
            let trees = listed.release.artefact.all().iter().map(|one| one.tree.sha256.to_string());
            Digest::of(layouts.chain(trees).collect::<Vec<_>>().join(" ").as_bytes())
        };
        let mut releases: Vec<&Listed> = entries.iter().flat_map(Entry::releases).collect();
        let details = releases.iter().filter_map(|listed| listed.details);
        self.files.extend(details.map(|blob| (path::details(&blob.sha256), blob.size)));
        for artefact in releases.iter().flat_map(|listed| listed.release.artefact.all()) {
            self.files.insert(path::artefact(&artefact.sha256), artefact.size);
            let parts = parts(site, artefact)?;
            self.files.extend(parts.iter().map(|part| (path::artefact(&part.sha256), part.size)));
        }
        releases.retain(|listed| self.seen.insert(layout(listed)));
        let task = shown.start("releases", Unit::Items, releases.len() as u64);
        let chunks = parallel::map(&releases, site.workers(), |listed| {
            let chunks = site.release_chunks(listed)?;
            task.add(1);
            Ok::<_, SiteError>(chunks)
        })?;
        let chunks = chunks.into_iter().flatten();
        self.files.extend(chunks.map(|chunk| (path::object(&chunk.sha256), u64::from(chunk.size))));
        Ok(())
    }
}

/// What an artefact names besides itself: something only if it is an OCI manifest.
///
/// # Errors
/// If the manifest is missing or is not what the release says.
pub(crate) fn parts(site: &Site, artefact: &Artefact) -> Result<Vec<Part>, SiteError> {
    if !is_manifest(&artefact.url) {
        return Ok(Vec::new());
    }
    let name = path::artefact(&artefact.sha256);
    let bytes = site.read(&name, artefact.size.min(DOCUMENT_BYTES))?;
    chunk::expect("artefact", &artefact.sha256, &bytes).map_err(at(&name))?;
    let manifest = Manifest::parse(&bytes).map_err(|_| SiteError::Damaged { path: name })?;
    Ok(manifest.parts())
}

/// Reads what a digest names, exactly.
fn named(site: &Site, name: String, what: &'static str, sha256: &Digest, size: u64) -> Result<Vec<u8>, SiteError> {
    let limit = match what {
        "catalogue" => limits::CATALOGUE_BYTES,
        "bin" => limits::BIN_BYTES,
        _ => limits::ENTRY_BYTES,
    };
    let bytes = site.read(&name, size.min(limit))?;
    chunk::expect(what, sha256, &bytes).map_err(at(&name))?;
    Ok(bytes)
}
