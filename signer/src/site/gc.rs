//! Removing what no host can ask for any more.
//!
//! Kept is everything that an unexpired head leads to (the present one and those below
//! `heads/`), everything that a declared pin names, every segment of the log, and every name
//! that is not of a known form. Removed is what is of a known form, is reached by nothing, and is
//! older than the grace period: a publisher that is at work now has put content that no head
//! leads to yet.
//!
//! A publisher that finds content which it needs already there writes it again in a bucket, so
//! that it counts as new; the age of each object is asked for once more just before it goes, and
//! collecting ends when the head moves. In a folder both hold the same lock.

use std::collections::{HashMap, HashSet};

use mcpfs_trust::catalogue::Blob;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Entry;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::head::{HEAD_TYPE, Head};
use mcpfs_trust::limits;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::site as path;
use mcpfs_trust::statement::Statement;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify;
use serde::Serialize;

use super::reach::Reached;
use super::state::at;
use super::store::Listing;
use super::{Site, SiteError};
use crate::progress::{Progress, Unit};

/// A release that some host pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The server.
    pub name: ServerName,
    /// The version.
    pub version: Version,
    /// The artefact's digest, if the pin says it.
    pub sha256: Option<Digest>,
}

/// How to collect.
#[derive(Debug)]
pub struct Collector<'a> {
    /// The site.
    pub site: &'a Site,
    /// The trust root that the site must satisfy.
    pub root: &'a TrustRoot,
    /// The time.
    pub now: Timestamp,
    /// What is younger is kept, seconds.
    pub grace: i64,
    /// What hosts pin.
    pub pins: &'a [Pinned],
    /// Removes nothing.
    pub dry_run: bool,
    /// Shows how far it is.
    pub shown: Progress,
}

/// What collecting came to.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Heads that hosts may still have.
    pub heads: usize,
    /// Files that stay because something leads to them.
    pub kept: usize,
    /// Files that stay because they are new.
    pub young: usize,
    /// What was removed, or would be: name and bytes.
    pub removed: Vec<(String, u64)>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Whether nothing was removed on purpose.
    pub dry_run: bool,
    /// What stays and is damaged, as far as it shows without reading everything: it is missing, or has
    /// another size than what leads to it says.
    pub damaged: Vec<String>,
}

impl Collector<'_> {
    /// Removes what nothing leads to.
    ///
    /// # Errors
    /// Nothing is removed unless everything that is kept verifies and every pin is there.
    pub fn collect(&self) -> Result<Collected, SiteError> {
        let _lock = self.site.store().lock()?;
        let published = self.site.published(self.root)?;
        let Some((stored, accepted)) = &published.head else {
            return Err(SiteError::NothingPublished { place: self.site.place() });
        };
        let listing = self.site.store().list("")?;
        let mut reached = Reached::default();
        let present = Blob { sha256: accepted.catalogue, size: accepted.head.catalogue.size };
        let mut heads = vec![present];
        for one in listing.iter().filter(|one| one.name.starts_with("heads/")) {
            if let Some(blob) = self.earlier_head(&one.name)? {
                reached.files.insert(one.name.clone(), one.size);
                heads.push(blob);
            }
        }
        for blob in &heads {
            reached.follow(self.site, &blob.sha256, blob.size, &self.shown)?;
        }
        self.keep_pins(&mut reached, &listing)?;
        let mut collected = Collected { heads: heads.len(), dry_run: self.dry_run, ..Collected::default() };
        let garbage: Vec<&Listing> =
            listing.iter().filter(|one| self.is_garbage(one, &reached, &mut collected)).collect();
        collected.damaged = damaged(&reached, &listing);
        let task = self.shown.start("removed", Unit::Items, garbage.len() as u64);
        for one in garbage {
            if !self.dry_run {
                // Somebody published: what leads where is another question now.
                let head = self.site.find(path::HEAD, limits::HEAD_BYTES)?;
                if head.as_ref() != Some(&stored.bytes) {
                    return Err(SiteError::Conflict { expected: published.version(), found: published.version() + 1 });
                }
                match self.site.store().stat(&one.name)? {
                    Some(facts) if self.is_old(facts.modified) => self.site.store().remove(&one.name)?,
                    _ => {
                        collected.young += 1;
                        continue;
                    }
                }
            }
            task.add(1);
            collected.bytes += one.size;
            collected.removed.push((one.name.clone(), one.size));
        }
        Ok(collected)
    }

    fn is_old(&self, modified: i64) -> bool {
        modified < self.now.unix().saturating_sub(self.grace)
    }

    fn is_garbage(&self, one: &Listing, reached: &Reached, collected: &mut Collected) -> bool {
        if reached.files.contains_key(&one.name) || !is_known(&one.name) {
            collected.kept += 1;
            return false;
        }
        let old = self.is_old(one.modified);
        collected.young += usize::from(!old);
        old
    }

    /// What an earlier head leads to, if a host may still use it. Its signature does not matter:
    /// keys may have changed, and following it only keeps more.
    fn earlier_head(&self, name: &str) -> Result<Option<Blob>, SiteError> {
        let bytes = self.site.read(name, limits::HEAD_BYTES)?;
        let envelope = Envelope::parse(&bytes, limits::HEAD_BYTES, "head").map_err(at(name))?;
        let statement = Statement::<Head>::parse(&envelope.payload, HEAD_TYPE).map_err(at(name))?;
        let head = statement.predicate;
        let over = self.now >= head.expires.plus(limits::CLOCK_SKEW_SECONDS);
        let subject = statement.subject.first();
        Ok(subject.filter(|_| !over).map(|one| Blob { sha256: one.digest, size: head.catalogue.size }))
    }

    /// Pins that no head leads to are looked for in the other entries of the site.
    fn keep_pins(&self, reached: &mut Reached, listing: &[Listing]) -> Result<(), SiteError> {
        let mut open: Vec<&Pinned> = self.pins.iter().filter(|pin| !has(&reached.entries, pin)).collect();
        for one in listing {
            if open.is_empty() {
                break;
            }
            let other = one.name.starts_with("entries/") && is_known(&one.name);
            if !other || reached.files.contains_key(&one.name) {
                continue;
            }
            let bytes = self.site.read(&one.name, limits::ENTRY_BYTES)?;
            // What is broken here is no entry of any head.
            let Ok(entry) = Entry::parse(&bytes) else { continue };
            let entries = [entry];
            let signed = |pin: &&&Pinned| {
                let listed = entries[0].find(&pin.version);
                let name = &entries[0].selected.release.name;
                listed.is_some_and(|one| verify::statement(&one.envelope, name, &pin.version, self.root, None).is_ok())
            };
            if open.iter().filter(|pin| has(&entries, pin)).any(|pin| signed(&pin)) {
                reached.follow_releases(self.site, &entries, &self.shown)?;
                reached.files.insert(one.name.clone(), one.size);
                open.retain(|pin| !has(&entries, pin));
            }
        }
        match open.first() {
            None => Ok(()),
            Some(pin) => Err(SiteError::PinMissing { name: pin.name.clone(), version: pin.version.clone() }),
        }
    }
}

/// Kept files whose sizes already tell that they are not what they should be.
fn damaged(reached: &Reached, listing: &[Listing]) -> Vec<String> {
    let sizes: HashMap<&str, u64> = listing.iter().map(|one| (one.name.as_str(), one.size)).collect();
    let wrong = reached.files.iter().filter(|(name, size)| sizes.get(name.as_str()) != Some(*size));
    wrong.map(|(name, _)| name.clone()).collect()
}

/// Whether one of the entries has the pinned release.
fn has(entries: &[Entry], pin: &Pinned) -> bool {
    let of_name = entries.iter().filter(|entry| entry.selected.release.name == pin.name);
    of_name.filter_map(|entry| entry.find(&pin.version)).any(|listed| {
        let mut artefacts = listed.release.artefact.all().iter();
        pin.sha256.is_none_or(|sha256| artefacts.any(|artefact| artefact.sha256 == sha256))
    })
}

/// Names that a publisher makes and that may go: everything else is somebody else's, or the log.
fn is_known(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let digest = |text: &str| text.parse::<Digest>().is_ok();
    let json = |text: &str| text.strip_suffix(".json").is_some_and(digest);
    // What a crash left while it wrote into a folder.
    if parts.last().is_some_and(|last| last.starts_with(".new-")) {
        let places = HashSet::from([
            "objects",
            "artefacts",
            "entries",
            "details",
            "catalogue",
            "heads",
            "log",
            "servers",
            "browse",
            "v0.1",
        ]);
        return parts.len() == 1 || places.contains(parts[0]);
    }
    match parts.as_slice() {
        ["objects", first, sha256] => digest(sha256) && sha256.starts_with(first) && first.len() == 2,
        ["artefacts", sha256] => digest(sha256),
        ["entries" | "details" | "catalogue", file] | ["catalogue", "bins", file] => json(file),
        ["heads", file] => {
            file.split_once('-').is_some_and(|(number, rest)| number.parse::<u64>().is_ok() && json(rest))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_known_form_may_go() {
        let sha256 = Digest::EMPTY.to_string();
        let known = [
            format!("objects/{}/{sha256}", &sha256[..2]),
            format!("artefacts/{sha256}"),
            format!("entries/{sha256}.json"),
            format!("details/{sha256}.json"),
            format!("catalogue/{sha256}.json"),
            format!("catalogue/bins/{sha256}.json"),
            format!("heads/12-{sha256}.json"),
            "objects/00/.new-abc".to_owned(),
        ];
        for name in known {
            assert!(is_known(&name), "{name}");
        }
        let others = [
            "head.json".to_owned(),
            "servers/hello.json".to_owned(),
            format!("log/12-{sha256}.jsonl"),
            format!("objects/00/{sha256}"),
            format!("entries/{sha256}"),
            "index.html".to_owned(),
            "browse/hello/index.html".to_owned(),
            "v0.1/servers/index.json".to_owned(),
            "deps.json".to_owned(),
            ".publish.lock".to_owned(),
            "private/.new-abc".to_owned(),
        ];
        for name in others {
            assert!(!is_known(&name), "{name}");
        }
    }
}
