//! Moving a site from one head to the next.

use mcpfs_trust::catalogue::{Bin, BinServer, Blob, Catalogue, bin_of};
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Status};
use mcpfs_trust::head::{CatalogueSize, Head};
use mcpfs_trust::limits;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::site as path;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::{self, Pin};
use serde::Serialize;

use super::state::{Published, at};
use super::{SiteError, SiteFolder};
use crate::key::{self, SigningKey};
use crate::log::{Row, SignerState};
use crate::sign;
use crate::staging::Staging;

/// A head's life by default: 7 days.
pub const LIFETIME_SECONDS: i64 = 7 * 86_400;

/// What has been done; every one of them may be the last before a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Chunks lie in the site.
    Objects,
    /// The original artefacts lie in the site.
    Artefacts,
    /// The new entry lies in the site.
    Entry,
    /// Its bin, or all of them, lie in the site.
    Bins,
    /// The new catalogue lies in the site.
    Catalogue,
    /// The new head is signed, in memory.
    Signed,
    /// The new state was verified as a host would.
    Verified,
    /// `servers/<name>.json` is the new entry.
    Server,
    /// The log has its segment.
    Log,
    /// The head has moved.
    Head,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Objects,
        Self::Artefacts,
        Self::Entry,
        Self::Bins,
        Self::Catalogue,
        Self::Signed,
        Self::Verified,
        Self::Server,
        Self::Log,
        Self::Head,
    ];
}

/// Who publishes where.
pub struct Publisher<'a> {
    /// The site.
    pub site: &'a SiteFolder,
    /// The trust root that the new state must satisfy.
    pub root: &'a TrustRoot,
    /// What this signer remembers.
    pub state: &'a SignerState,
    /// Keys that sign the head.
    pub head_keys: &'a [Box<dyn SigningKey>],
    /// The time.
    pub now: Timestamp,
    /// How long the head lives, seconds.
    pub lifetime: i64,
    /// Told after each step.
    pub progress: &'a mut dyn FnMut(Step),
}

/// One change of one server.
pub struct Change<'a> {
    /// The new entry.
    pub entry: Entry,
    /// A release whose bytes go with it.
    pub staged: Option<&'a Staging>,
    /// A version that hosts must be able to use afterwards.
    pub usable: Option<Version>,
    /// The log's row, but for time, keys and head.
    pub row: Row,
}

/// What publishing came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Whether there is a new head.
    pub changed: bool,
    /// The site's head now.
    pub head_version: u64,
    /// Digest of its payload.
    pub head: Digest,
    /// When it expires.
    pub expires: Timestamp,
    /// Servers in the registry.
    pub servers: usize,
}

impl Publisher<'_> {
    /// Publishes the change that `make` gives for the present state; without one, or with one
    /// that changes nothing, the site keeps its head.
    ///
    /// # Errors
    /// Everything in [`SiteError`]; the old head still stands then.
    pub fn publish<'s>(
        &mut self,
        make: impl FnOnce(&Published) -> Result<Option<Change<'s>>, SiteError>,
    ) -> Result<Outcome, SiteError> {
        let _lock = self.site.lock()?;
        let published = self.present()?;
        let Some(change) = make(&published)? else { return self.unchanged(&published) };
        let name = change.entry.selected.release.name.clone();
        let before = self.site.entry(&published, &name)?;
        if before.as_deref() == Some(&change.entry) {
            return self.unchanged(&published);
        }
        if before.is_none() {
            similar_name(&published, &name)?;
        }
        self.put_staged(change.staged)?;
        let bytes = change.entry.encode();
        check_entry(&change.entry, &bytes)?;
        let server = BinServer { name: name.clone(), sha256: Digest::of(&bytes), size: bytes.len() as u64 };
        self.site.put(&path::entry(&server.sha256), &bytes)?;
        self.done(Step::Entry);
        let mut servers: Vec<BinServer> = published.servers().filter(|one| one.name != name).cloned().collect();
        servers.push(server);
        self.advance(&published, servers, Some((&name, &bytes, change.usable.as_ref())), change.row)
    }

    /// Signs the present catalogue again under a new head; a site that has none gets an empty one.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn resign(&mut self, row: Row) -> Result<Outcome, SiteError> {
        let _lock = self.site.lock()?;
        let published = self.present()?;
        let servers = published.servers().cloned().collect();
        self.advance(&published, servers, None, row)
    }

    /// The site's state, unless it is not the one that this signer left.
    fn present(&self) -> Result<Published, SiteError> {
        if !(3_600..=limits::HEAD_LIFETIME_SECONDS).contains(&self.lifetime) {
            return Err(SiteError::Lifetime { seconds: self.lifetime });
        }
        let published = self.site.published(self.root)?;
        if let Some(known) = self.state.floor(&self.root.registry, self.root.epoch)? {
            let (found, head) = (published.version(), published.head_digest());
            if found < known.version {
                return Err(SiteError::SetBack { found, known: known.version });
            }
            if found == known.version && head != Some(known.sha256) {
                return Err(SiteError::Forked { version: found });
            }
        }
        Ok(published)
    }

    /// Bins, catalogue, head, the host's own verification, and then the moves.
    fn advance(
        &mut self,
        published: &Published,
        servers: Vec<BinServer>,
        changed: Option<(&ServerName, &[u8], Option<&Version>)>,
        row: Row,
    ) -> Result<Outcome, SiteError> {
        let count = servers.len();
        let catalogue = self.put_bins(servers)?;
        let bytes = catalogue.encode();
        let digest = Digest::of(&bytes);
        self.site.put(&path::catalogue(&digest), &bytes)?;
        self.done(Step::Catalogue);
        let head = Head {
            registry: self.root.registry.clone(),
            epoch: self.root.epoch,
            version: (published.version() + 1).max(self.root.minimum_head).max(1),
            issued: self.now,
            expires: self.now.plus(self.lifetime),
            catalogue: CatalogueSize { size: bytes.len() as u64 },
            previous: published.head_digest(),
        };
        let (version, expires) = (head.version, head.expires);
        let envelope = sign::head(head, digest, self.head_keys)?;
        self.done(Step::Signed);
        let head_bytes = envelope.encode();
        self.verify_as_host(&head_bytes, published, changed)?;
        self.done(Step::Verified);
        if let Some((name, entry, _)) = changed {
            self.site.replace(&path::server(name), entry)?;
        }
        self.done(Step::Server);
        let folding = self.state.begin_folding()?;
        let row = Row { time: Some(self.now), head_keys: key::ids(self.head_keys), ..row };
        let segment = folding.segment(self.site, version, row)?;
        self.site.replace(&path::log(version), &segment)?;
        self.done(Step::Log);
        self.swap_head(published, &head_bytes)?;
        self.done(Step::Head);
        // From here on the site is right; what follows only spares the next run some work.
        self.state.set_floor(&self.root.registry, self.root.epoch, version, envelope.statement())?;
        folding.finish()?;
        Ok(Outcome { changed: true, head_version: version, head: envelope.statement(), expires, servers: count })
    }

    fn put_staged(&mut self, staged: Option<&Staging>) -> Result<(), SiteError> {
        if let Some(staging) = staged {
            for artefact in &staging.artefacts {
                for chunk in artefact.all_chunks() {
                    match staging.chunk(&chunk)? {
                        Some(stored) => self.site.put(&path::object(&chunk.sha256), &stored)?,
                        // Said to be published: then it must be there and decode.
                        None => drop(self.site.chunk(&chunk)?),
                    }
                }
            }
            self.done(Step::Objects);
            for artefact in &staging.artefacts {
                self.site.put_artefact(&artefact.file, &artefact.sha256)?;
            }
            self.done(Step::Artefacts);
        }
        Ok(())
    }

    fn put_bins(&mut self, servers: Vec<BinServer>) -> Result<Catalogue, SiteError> {
        let bins = if servers.len() <= limits::ONE_BIN_SERVERS { 1 } else { 256 };
        let mut shares: Vec<Vec<BinServer>> = vec![Vec::new(); bins];
        for server in servers {
            if let Some(share) = shares.get_mut(bin_of(&server.name, bins)) {
                share.push(server);
            }
        }
        let mut blobs = Vec::with_capacity(bins);
        for share in shares {
            let bytes = Bin::new(share).encode();
            let blob = Blob { sha256: Digest::of(&bytes), size: bytes.len() as u64 };
            self.site.put(&path::bin(&blob.sha256), &bytes)?;
            blobs.push(blob);
        }
        self.done(Step::Bins);
        Ok(Catalogue::new(self.root.registry.clone(), blobs))
    }

    /// The way a host goes, over the bytes that it will get, with the memory of a host that
    /// has the present head.
    fn verify_as_host(
        &self,
        head: &[u8],
        published: &Published,
        changed: Option<(&ServerName, &[u8], Option<&Version>)>,
    ) -> Result<(), SiteError> {
        let accepted = verify::head(head, self.root, &published.seen(), self.now).map_err(at(path::HEAD))?;
        let name = path::catalogue(&accepted.catalogue);
        let catalogue = self.site.read(&name, limits::CATALOGUE_BYTES)?;
        let catalogue = verify::catalogue(&catalogue, &accepted).map_err(at(&name))?;
        let Some((server, _, usable)) = changed else { return Ok(()) };
        let index = bin_of(server, catalogue.bins.len());
        let Some(blob) = catalogue.bins.get(index) else { return Ok(()) };
        let name = path::bin(&blob.sha256);
        let bin = verify::bin(&self.site.read(&name, limits::BIN_BYTES)?, &catalogue, index).map_err(at(&name))?;
        let Some(listed) = bin.find(server) else { return Err(SiteError::NoServer { name: server.clone() }) };
        let name = path::entry(&listed.sha256);
        let bytes = self.site.read(&name, limits::ENTRY_BYTES)?;
        let entry = verify::entry(&bytes, &bin, server).map_err(at(&name))?;
        let Some(version) = usable else { return Ok(()) };
        let pin = Pin { version: version.clone(), artefact: None };
        let listed = verify::select(&entry, Some(&pin)).map_err(at(&name))?;
        verify::release(&entry, version, self.root, None).map_err(at(&name))?;
        for chunk in self.site.release_chunks(listed)? {
            let object = path::object(&chunk.sha256);
            let size = std::fs::metadata(self.site.root().join(&object)).map(|facts| facts.len()).ok();
            if size != Some(u64::from(chunk.size)) {
                return Err(SiteError::Damaged { path: object });
            }
        }
        Ok(())
    }

    /// Compare and swap, under the lock.
    fn swap_head(&self, published: &Published, head: &[u8]) -> Result<(), SiteError> {
        let found = self.site.find(path::HEAD, limits::HEAD_BYTES)?;
        let expected = published.head.as_ref().map(|(bytes, _)| bytes);
        if found.as_ref() != expected {
            let found = self.site.published(self.root).map_or(0, |now| now.version());
            return Err(SiteError::Conflict { expected: published.version(), found });
        }
        self.site.replace(path::HEAD, head)
    }

    fn unchanged(&self, published: &Published) -> Result<Outcome, SiteError> {
        let servers = published.servers().count();
        match (&published.head, published.head_digest()) {
            (Some((_, accepted)), Some(head)) => Ok(Outcome {
                changed: false,
                head_version: accepted.head.version,
                head,
                expires: accepted.head.expires,
                servers,
            }),
            // Nothing to do in an empty folder: there is no head to report.
            _ => Ok(Outcome { changed: false, head_version: 0, head: Digest::EMPTY, expires: self.now, servers }),
        }
    }

    fn done(&mut self, step: Step) {
        (self.progress)(step);
    }
}

/// Two names that people confuse may not stand in one registry.
fn similar_name(published: &Published, name: &ServerName) -> Result<(), SiteError> {
    match published.servers().find(|one| one.name.folded() == name.folded()) {
        Some(other) => Err(SiteError::SimilarName { name: name.clone(), other: other.name.clone() }),
        None => Ok(()),
    }
}

fn check_entry(entry: &Entry, bytes: &[u8]) -> Result<(), SiteError> {
    let name = entry.selected.release.name.clone();
    let releases = entry.releases().count();
    if releases > limits::ENTRY_RELEASES {
        return Err(SiteError::EntryFull { name, what: format!("{releases} releases") });
    }
    if bytes.len() as u64 > limits::ENTRY_BYTES {
        return Err(SiteError::EntryFull { name, what: format!("{} bytes", bytes.len()) });
    }
    Ok(())
}

/// A status in the words of messages.
pub fn status_word(status: Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Yanked => "yanked",
        Status::Revoked => "revoked",
    }
}

#[cfg(test)]
mod tests;
