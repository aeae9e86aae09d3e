//! Moving a site from one head to the next.
//!
//! Two publishers at once: in a folder they wait for each other; in a bucket the one whose head
//! comes second is told so ([`SiteError::Conflict`]), reads the new state and makes its whole change
//! again. What the slower one has left is harmless: content under its own digest, and a log
//! segment under the digest of a head that nobody ever sees. The one name that both may write,
//! `servers/<name>.json`, follows the head: whoever wrote it last looks at the head after that.

mod as_host;
mod epoch;
mod put;
pub mod several;

use std::collections::HashSet;
use std::time::Duration;

use mcpfs_trust::catalogue::BinServer;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Status};
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::head::{CatalogueSize, Head};
use mcpfs_trust::limits;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::site as path;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::Floor;
use serde::Serialize;

use super::public::Public;
use super::state::Published;
use super::{Site, SiteError, parallel};
use crate::key::{self, SigningKey};
use crate::log::{Row, SignerState};
use crate::pages;
use crate::progress::Progress;
use crate::sign;
use crate::staging::Staging;

/// A head's life by default: 7 days.
pub const LIFETIME_SECONDS: i64 = 7 * 86_400;

/// How often a change is made again because another publisher was faster.
const ATTEMPTS: u32 = 8;

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
    /// The log has its segment.
    Log,
    /// The head has moved.
    Head,
    /// `servers/<name>.json` is the new entry.
    Server,
    /// The new state was read back as a host does.
    ReadBack,
    /// The pages show it.
    Pages,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Objects,
        Self::Artefacts,
        Self::Entry,
        Self::Bins,
        Self::Catalogue,
        Self::Signed,
        Self::Verified,
        Self::Log,
        Self::Head,
        Self::Server,
        Self::ReadBack,
        Self::Pages,
    ];
}

/// Who publishes where.
pub struct Publisher<'a> {
    /// The site.
    pub site: &'a Site,
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
    /// Shows how far uploads are.
    pub shown: Progress,
    /// Where hosts read, if that is not the store itself, such as a CDN: the new state is read back from there.
    pub public: Option<&'a Public>,
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
    /// Whether the head before was made by somebody else, though this signer had published here: another publisher, or
    /// a thief of the key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub after_others: bool,
    /// Chunks and artefacts that were not there yet.
    pub new_objects: u64,
    /// Their size together, bytes.
    pub new_bytes: u64,
}

impl Publisher<'_> {
    /// Publishes the change that `make` gives for the present state; without one, or with one
    /// that changes nothing, the site keeps its head. `make` is asked again if another publisher
    /// was faster.
    ///
    /// # Errors
    /// Everything in [`SiteError`]; the old head still stands then.
    pub fn publish<'s>(
        &mut self,
        mut make: impl FnMut(&Published) -> Result<Option<Change<'s>>, SiteError>,
    ) -> Result<Outcome, SiteError> {
        self.in_turn(|publisher| {
            let published = publisher.present()?;
            match make(&published)? {
                Some(change) => publisher.change(&published, change),
                None => publisher.unchanged(&published),
            }
        })
    }

    /// Signs the present catalogue again under a new head; a site that has none gets an empty one.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn resign(&mut self, row: Row) -> Result<Outcome, SiteError> {
        self.in_turn(|publisher| {
            let published = publisher.present()?;
            let servers = published.servers().cloned().collect();
            publisher.advance(&published, servers, None, row.clone().into(), Put::default())
        })
    }

    /// Publishes the entries of a site that is made again, as the head after `last`.
    ///
    /// # Errors
    /// As [`Publisher::publish`]; `Conflict` if the site has a head meanwhile.
    pub fn rebuild(
        &mut self,
        entries: &[(ServerName, Vec<u8>)],
        last: (u64, Digest),
        row: Row,
    ) -> Result<Outcome, SiteError> {
        let _own = self.state.lock()?;
        let _lock = self.site.store().lock()?;
        let floor = Floor { epoch: self.root.epoch, version: last.0, sha256: last.1 };
        let published = Published { head: None, bins: Vec::new(), after: Some(floor) };
        let named = |(name, bytes): &(ServerName, Vec<u8>)| BinServer {
            name: name.clone(),
            sha256: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        let outcome =
            self.advance(&published, entries.iter().map(named).collect(), None, row.into(), Put::default())?;
        let site = self.site;
        parallel::map(entries, site.workers(), |(name, bytes)| site.replace(&path::server(name), bytes))?;
        self.pages()?;
        Ok(outcome)
    }

    /// Waits for its turn where there is one, and begins again where there is none.
    fn in_turn(&mut self, mut work: impl FnMut(&mut Self) -> Result<Outcome, SiteError>) -> Result<Outcome, SiteError> {
        let _own = self.state.lock()?;
        let _lock = self.site.store().lock()?;
        let mut attempt = 1;
        loop {
            match work(self) {
                Err(SiteError::Conflict { .. }) if attempt < ATTEMPTS => {
                    // Of several that met, each waits another while.
                    let longest = 50 << attempt;
                    std::thread::sleep(Duration::from_millis(rand::random_range(longest / 2..=longest)));
                    attempt += 1;
                }
                Ok(outcome) => {
                    self.pages()?;
                    return Ok(outcome);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings what people and IDEs read to the head, also if a run before this one could not.
    fn pages(&mut self) -> Result<(), SiteError> {
        pages::write(self.site, self.root, false, &self.shown).map_err(SiteError::pages)?;
        self.done(Step::Pages);
        Ok(())
    }

    fn change(&mut self, published: &Published, change: Change<'_>) -> Result<Outcome, SiteError> {
        let name = change.entry.selected.release.name.clone();
        let before = self.site.entry(published, &name)?;
        if before.as_deref() == Some(&change.entry) {
            // A run that ended after its head moved may have left this behind.
            self.settle(
                published.head.as_ref().map(|(stored, _)| stored.bytes.as_slice()),
                &name,
                change.entry.encode(),
            )?;
            return self.unchanged(published);
        }
        if before.is_none() {
            similar_name(published, &name)?;
        }
        let stored = self.put_staged(change.staged)?;
        let bytes = change.entry.encode();
        check_entry(&change.entry, &bytes)?;
        let server = BinServer { name: name.clone(), sha256: Digest::of(&bytes), size: bytes.len() as u64 };
        self.site.put(&path::entry(&server.sha256), &bytes)?;
        self.done(Step::Entry);
        let mut servers: Vec<BinServer> = published.servers().filter(|one| one.name != name).cloned().collect();
        servers.push(server);
        let changed = Changed { name: &name, entry: &bytes, usable: change.usable.as_ref() };
        self.advance(published, servers, Some(changed), change.row.into(), stored)
    }

    /// The site's state, unless it is not the one that this signer left.
    pub(crate) fn present(&self) -> Result<Published, SiteError> {
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
        changed: Option<Changed<'_>>,
        rows: Rows,
        stored: Put,
    ) -> Result<Outcome, SiteError> {
        let count = servers.len();
        let catalogue = self.put_bins(published, servers)?;
        let bytes = catalogue.encode();
        let digest = Digest::of(&bytes);
        self.site.put(&path::catalogue(&digest), &bytes)?;
        self.done(Step::Catalogue);
        let head = Head {
            registry: self.root.registry.clone(),
            epoch: self.root.epoch,
            version: published.version().saturating_add(1).max(self.root.minimum_head).max(1),
            issued: self.now,
            expires: self.now.plus(self.lifetime),
            catalogue: CatalogueSize { size: bytes.len() as u64 },
            previous: published.head_digest(),
        };
        let (version, expires) = (head.version, head.expires);
        let envelope = sign::head(head, digest, self.head_keys)?;
        self.done(Step::Signed);
        let head_bytes = envelope.encode();
        self.verify_as_host(&head_bytes, published, changed, &stored)?;
        self.done(Step::Verified);
        let folding = self.state.begin_folding()?;
        let row = Row { time: Some(self.now), head_keys: key::ids(self.head_keys), ..rows.first };
        let segment = folding.segment(self.site, published, version, row, rows.further)?;
        // Another content under this name: this very head was made within the same second by a run that
        // stopped before it moved. That run's segment is as good; refusals wait for the next one.
        let folded = match self.site.put(&path::log(version, &envelope.statement()), &segment) {
            Err(SiteError::Damaged { .. }) => false,
            other => other.map(|_| true)?,
        };
        self.done(Step::Log);
        let after_others = self.after_others(published)?;
        if after_others {
            self.state.keep_before_others(self.root.epoch)?;
        }
        self.state.set_next_head(&head_bytes)?;
        self.swap_head(published, &head_bytes)?;
        self.done(Step::Head);
        // From here on the site is right; what follows spares readers and the next run some work.
        self.state.set_last_head(&head_bytes)?;
        self.state.set_floor(&self.root.registry, self.root.epoch, version, envelope.statement())?;
        if folded {
            folding.finish()?;
        }
        if let Some(changed) = changed {
            self.settle(Some(&head_bytes), changed.name, changed.entry.to_vec())?;
        }
        self.done(Step::Server);
        self.read_back(&head_bytes, changed)?;
        self.done(Step::ReadBack);
        Ok(Outcome {
            changed: true,
            head_version: version,
            head: envelope.statement(),
            expires,
            servers: count,
            after_others,
            new_objects: stored.objects,
            new_bytes: stored.bytes,
        })
    }

    /// Whether somebody else made the present head, though this signer has published in this epoch.
    fn after_others(&self, published: &Published) -> Result<bool, SiteError> {
        let known = self.state.floor(&self.root.registry, self.root.epoch)?;
        let (Some(known), Some(present)) = (known, published.head_digest()) else { return Ok(false) };
        // A run that ended when its head had moved did not come to say so.
        Ok(present != known.sha256 && self.state.next_head()? != Some(present))
    }

    /// Compare and swap; the head that goes is kept beside, for hosts that still have it and for
    /// whoever wants to remove what no head needs.
    fn swap_head(&self, published: &Published, head: &[u8]) -> Result<(), SiteError> {
        let read = published.head.as_ref().map(|(stored, _)| stored);
        // What lies there is another head only where a new epoch begins over it: nobody is to go back to that one.
        if let (Some(stored), Some(digest)) = (read, published.head_digest())
            && Envelope::parse(&stored.bytes, limits::HEAD_BYTES, "head").is_ok_and(|one| one.statement() == digest)
        {
            self.site.put(&path::earlier_head(published.version(), &digest), &stored.bytes)?;
        }
        if self.site.store().swap(path::HEAD, read, head)? {
            return Ok(());
        }
        let found = self.site.published(self.root).map_or(0, |now| now.version());
        Err(SiteError::Conflict { expected: published.version(), found })
    }

    /// Makes `servers/<name>.json` the entry under the head, also if the head moves meanwhile.
    fn settle(&self, head: Option<&[u8]>, name: &ServerName, entry: Vec<u8>) -> Result<(), SiteError> {
        let (mut head, mut entry, place) = (head.map(<[u8]>::to_vec), entry, path::server(name));
        for _ in 0..ATTEMPTS {
            if self.site.find(&place, limits::ENTRY_BYTES).ok().flatten().as_ref() != Some(&entry) {
                self.site.replace(&place, &entry)?;
            }
            if self.site.find(path::HEAD, limits::HEAD_BYTES)? == head {
                break;
            }
            let now = self.site.published(self.root)?;
            let Some(current) = self.site.entry(&now, name)? else { break };
            entry = current.encode();
            head = now.head.map(|(stored, _)| stored.bytes);
        }
        Ok(())
    }

    fn unchanged(&self, published: &Published) -> Result<Outcome, SiteError> {
        let servers = published.servers().count();
        let (head_version, head, expires) = match (&published.head, published.head_digest()) {
            (Some((_, accepted)), Some(head)) => (accepted.head.version, head, accepted.head.expires),
            // Nothing to do in an empty site: there is no head to report.
            _ => (0, Digest::EMPTY, self.now),
        };
        Ok(Outcome {
            changed: false,
            head_version,
            head,
            expires,
            servers,
            after_others: self.after_others(published)?,
            new_objects: 0,
            new_bytes: 0,
        })
    }

    fn done(&mut self, step: Step) {
        (self.progress)(step);
    }
}

/// What a change did to one server.
#[derive(Clone, Copy)]
struct Changed<'a> {
    name: &'a ServerName,
    entry: &'a [u8],
    usable: Option<&'a Version>,
}

/// What the log says of a head.
#[derive(Debug)]
struct Rows {
    first: Row,
    /// Of single releases, where one head changes several.
    further: Vec<Row>,
}

impl From<Row> for Rows {
    fn from(first: Row) -> Self {
        Self { first, further: Vec::new() }
    }
}

/// What was put, and what is known to be there.
#[derive(Debug, Default)]
struct Put {
    objects: u64,
    bytes: u64,
    present: HashSet<Digest>,
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
pub(crate) mod tests;
