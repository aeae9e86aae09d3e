//! A site in one file, for networks that are not connected.
//!
//! `bundle` writes everything that the present head leads to as a tar: the same bytes wherever it is
//! made, each file hashed on its way out. `unbundle` believes nothing in it: content is put under the digest that it has, the head
//! must be one that a host of the other side would accept next, everything under it must be there
//! and verify, and only then the head moves. With `--since`, what an earlier head led to is left
//! out, since the other side has it.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::limits;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::site as path;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify;
use serde::Serialize;

use super::reach::Reached;
use super::state::{at, restore};
use super::{Site, SiteError, Stored, parallel};
use crate::files::{FileError, Hashing};
use crate::log::{self, SignerState};
use crate::pages;
use crate::progress::{Progress, Unit};

/// The largest artefact, bytes.
const ARTEFACT_BYTES: u64 = 2 << 30;
/// Files in a bundle.
const FILES: usize = 4_000_000;
/// Log segments of a bundle together, bytes.
const LOG_BYTES: u64 = 256 << 20;

/// What was moved.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The head.
    pub head_version: u64,
    /// Whether the other side had it already.
    pub changed: bool,
    /// Files written.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes a site's present state to `out`.
///
/// # Errors
/// If it does not verify, or `out` cannot be written. `since` must be a head that the site keeps.
pub fn bundle(
    site: &Site,
    root: &TrustRoot,
    since: Option<u64>,
    out: &mut dyn Write,
    shown: &Progress,
) -> Result<Moved, SiteError> {
    let published = site.published(root)?;
    let Some((stored, accepted)) = &published.head else {
        return Err(SiteError::NothingPublished { place: site.place() });
    };
    let mut reached = Reached::default();
    let segments = log::segments(site, &published)?;
    if let Some(since) = since {
        let bytes = site.store().list("heads/")?;
        let found = bytes.iter().find(|one| one.name.starts_with(&format!("heads/{since}-")));
        let name = found.map(|one| one.name.clone()).ok_or(SiteError::NoHead { version: since })?;
        let earlier = restore(&site.read(&name, limits::HEAD_BYTES)?, root).map_err(at(&name))?;
        reached.follow(site, &earlier.catalogue, earlier.head.catalogue.size, shown)?;
        let had = std::mem::take(&mut reached.files);
        reached.follow(site, &accepted.catalogue, accepted.head.catalogue.size, shown)?;
        reached.files.retain(|name, _| !had.contains_key(name));
    } else {
        reached.follow(site, &accepted.catalogue, accepted.head.catalogue.size, shown)?;
    }
    let mut moved = Moved { head_version: published.version(), changed: true, ..Moved::default() };
    let task = shown.start("bundle", Unit::Bytes, reached.files.values().sum());
    let mut tar = tar::Builder::new(out);
    for (name, size) in &reached.files {
        // One file at a time in memory would be 2 GiB: an artefact goes through a temporary file, and
        // what goes out is what was hashed.
        let spool = tempfile::tempfile().map_err(FileError::write(&std::env::temp_dir()))?;
        let mut spool = Hashing::new(spool);
        if !site.store().copy_out(name, &mut spool)? {
            return Err(super::StoreError::Missing { place: site.place(), name: name.clone() }.into());
        }
        let (mut spool, found) = spool.finish();
        if Kind::of(name).and_then(|kind| kind.bound().1) != Some(found) {
            return Err(SiteError::Damaged { path: name.clone() });
        }
        std::io::Seek::rewind(&mut spool).map_err(FileError::read(&std::env::temp_dir()))?;
        append(&mut tar, name, *size, &mut spool.take(*size))?;
        task.add(*size);
        moved.files += 1;
        moved.bytes += size;
    }
    for segment in segments.iter().filter(|segment| since.is_none_or(|since| segment.version > since)) {
        let name = path::log(segment.version, &segment.head);
        append(&mut tar, &name, segment.bytes.len() as u64, &mut segment.bytes.as_slice())?;
    }
    append(&mut tar, path::HEAD, stored.bytes.len() as u64, &mut stored.bytes.as_slice())?;
    tar.finish().map_err(tar_error)?;
    Ok(moved)
}

fn append(
    tar: &mut tar::Builder<&mut dyn Write>,
    name: &str,
    size: u64,
    content: &mut dyn Read,
) -> Result<(), SiteError> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    let counted = &mut Counted { inner: content, count: 0 };
    tar.append_data(&mut header, name, &mut *counted).map_err(tar_error)?;
    match counted.count == size {
        true => Ok(()),
        false => Err(SiteError::Damaged { path: name.to_owned() }),
    }
}

struct Counted<'a> {
    inner: &'a mut dyn Read,
    count: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

fn tar_error(error: std::io::Error) -> SiteError {
    SiteError::Transfer { problem: mcpfs_trust::error::bounded(&error.to_string()) }
}

/// A bundle's head, and its log segments by name.
type Later = (Vec<u8>, BTreeMap<String, Vec<u8>>);

/// The other side of a bundle.
#[derive(Debug)]
pub struct Unbundle<'a> {
    /// Where it goes.
    pub site: &'a Site,
    /// The trust root of its hosts.
    pub root: &'a TrustRoot,
    /// What this side remembers.
    pub state: &'a SignerState,
    /// The time.
    pub now: Timestamp,
    /// Shows how far it is.
    pub shown: Progress,
}

impl Unbundle<'_> {
    /// Takes a bundle in.
    ///
    /// # Errors
    /// If it is not one, its head is not the next one for a host of this side, or anything under
    /// that is missing or does not verify. The old head stands then.
    pub fn take(&self, bundle: impl Read) -> Result<Moved, SiteError> {
        let _own = self.state.lock()?;
        let _lock = self.site.store().lock()?;
        let published = self.site.published(self.root)?;
        if let Some(known) = self.state.floor(&self.root.registry, self.root.epoch)?
            && published.version() < known.version
        {
            return Err(SiteError::SetBack { found: published.version(), known: known.version });
        }
        let mut moved = Moved::default();
        let (head, segments) = self.unpack(bundle, &mut moved)?;
        let accepted = verify::head(&head, self.root, &published.seen(), self.now).map_err(at(path::HEAD))?;
        moved.head_version = accepted.head.version;
        let floor = accepted.seen.floor.map(|floor| floor.sha256).unwrap_or(Digest::EMPTY);
        moved.changed = published.head_digest() != Some(floor);
        let next = self.site.under(Stored { bytes: head.clone(), tag: None }, accepted)?;
        self.verify_all(&next)?;
        if !moved.changed {
            pages::write(self.site, self.root, false, &self.shown).map_err(SiteError::pages)?;
            return Ok(moved);
        }
        for (name, bytes) in &segments {
            self.site.put(name, bytes)?;
        }
        // The whole chain, from the new head to the first segment.
        log::segments(self.site, &next)?;
        let read = published.head.as_ref().map(|(stored, _)| stored);
        if let (Some(stored), Some(digest)) = (read, published.head_digest()) {
            self.site.put(&path::earlier_head(published.version(), &digest), &stored.bytes)?;
        }
        if !self.site.store().swap(path::HEAD, read, &head)? {
            return Err(SiteError::Conflict { expected: published.version(), found: moved.head_version });
        }
        self.state.set_floor(&self.root.registry, self.root.epoch, moved.head_version, floor)?;
        let servers: Vec<_> = next.servers().collect();
        parallel::map(&servers, self.site.workers(), |server| {
            let entry = self.site.read(&path::entry(&server.sha256), limits::ENTRY_BYTES)?;
            let name = path::server(&server.name);
            match self.site.find(&name, limits::ENTRY_BYTES).ok().flatten().as_ref() == Some(&entry) {
                true => Ok(()),
                false => self.site.replace(&name, &entry),
            }
        })?;
        pages::write(self.site, self.root, false, &self.shown).map_err(SiteError::pages)?;
        Ok(moved)
    }

    /// Puts content under the digest that it has; head and log are kept for later.
    fn unpack(&self, bundle: impl Read, moved: &mut Moved) -> Result<Later, SiteError> {
        let wrong = |problem: String| SiteError::Transfer { problem };
        let (mut head, mut segments, mut log_bytes) = (None, BTreeMap::new(), 0);
        let folder = tempfile::tempdir().map_err(FileError::write(&std::env::temp_dir()))?;
        let mut archive = tar::Archive::new(bundle);
        for (count, entry) in archive.entries().map_err(tar_error)?.enumerate() {
            let mut entry = entry.map_err(tar_error)?;
            let size = entry.size();
            let name = String::from_utf8(entry.path_bytes().into_owned())
                .map_err(|_| wrong("a name is not UTF-8".to_owned()))?;
            let shown = mcpfs_trust::error::bounded(&name);
            if !entry.header().entry_type().is_file() || head.is_some() || count >= FILES {
                return Err(wrong(format!("{shown} does not belong into a site's bundle")));
            }
            let kind = Kind::of(&name).ok_or_else(|| wrong(format!("{shown} does not belong into a site's bundle")))?;
            let (limit, sha256) = kind.bound();
            log_bytes += if matches!(kind, Kind::Log) { size } else { 0 };
            if size > limit || log_bytes > LOG_BYTES {
                return Err(wrong(format!("{shown} has {size} bytes, more than a site may have there")));
            }
            moved.files += 1;
            moved.bytes += size;
            match (kind, sha256) {
                (Kind::Artefact(_), Some(sha256)) => {
                    let mut file =
                        tempfile::NamedTempFile::new_in(folder.path()).map_err(FileError::write(folder.path()))?;
                    std::io::copy(&mut entry, &mut file).map_err(tar_error)?;
                    self.site.put_artefact(file.path(), &sha256)?;
                }
                (_, sha256) => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).map_err(tar_error)?;
                    if bytes.len() as u64 != size {
                        return Err(wrong(format!("it ends within {shown}")));
                    }
                    match sha256 {
                        Some(sha256) if Digest::of(&bytes) != sha256 => return Err(SiteError::Damaged { path: name }),
                        Some(_) => drop(self.site.put(&name, &bytes)?),
                        None if name == path::HEAD => head = Some(bytes),
                        None => drop(segments.insert(name, bytes)),
                    }
                }
            }
        }
        Ok((
            head.ok_or_else(|| wrong("it has no head.json at its end: it is cut, or no bundle of a site".to_owned()))?,
            segments,
        ))
    }

    /// Every release under the head: signatures, trees, layouts; and that all chunks and artefacts are there.
    fn verify_all(&self, next: &super::state::Published) -> Result<(), SiteError> {
        let servers: Vec<_> = next.servers().collect();
        let task = self.shown.start("verify", Unit::Items, servers.len() as u64);
        parallel::map(&servers, self.site.workers(), |server| {
            let entry = self.site.entry(next, &server.name)?;
            let entry = entry.ok_or_else(|| SiteError::NoServer { name: server.name.clone() })?;
            for listed in entry.releases() {
                let version = &listed.release.version;
                verify::release(&entry, version, self.root, None).map_err(at(&format!("{} {version}", server.name)))?;
                self.site.details(listed)?;
                for chunk in self.site.release_chunks(listed)? {
                    self.site.has_size(&chunk)?;
                }
                for artefact in listed.release.artefact.all() {
                    let name = path::artefact(&artefact.sha256);
                    if self.site.store().stat(&name)?.map(|facts| facts.size) != Some(artefact.size) {
                        return Err(SiteError::Damaged { path: name });
                    }
                }
            }
            task.add(1);
            Ok::<_, SiteError>(())
        })?;
        Ok(())
    }
}

/// What a name in a bundle is.
#[derive(Clone, Copy)]
enum Kind {
    Object(Digest),
    Artefact(Digest),
    Json(Digest, u64),
    Log,
    Head,
}

impl Kind {
    /// Only names that a bundle has, exactly as it writes them.
    fn of(name: &str) -> Option<Self> {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let json = || file.strip_suffix(".json")?.parse::<Digest>().ok();
        match folder {
            "" if file == path::HEAD => Some(Self::Head),
            "artefacts" => file.parse().ok().map(Self::Artefact),
            "entries" => Some(Self::Json(json()?, limits::ENTRY_BYTES)),
            "details" => Some(Self::Json(json()?, limits::DETAILS_BYTES)),
            "catalogue" => Some(Self::Json(json()?, limits::CATALOGUE_BYTES)),
            "catalogue/bins" => Some(Self::Json(json()?, limits::BIN_BYTES)),
            "log" => {
                let (version, head) = file.strip_suffix(".jsonl")?.split_once('-')?;
                let (version, head): (u64, Digest) = (version.parse().ok()?, head.parse().ok()?);
                (path::log(version, &head) == name).then_some(Self::Log)
            }
            _ => file.parse().ok().filter(|sha256| path::object(sha256) == name).map(Self::Object),
        }
    }

    fn bound(self) -> (u64, Option<Digest>) {
        match self {
            Self::Object(sha256) => (limits::CHUNK_STORED_BYTES, Some(sha256)),
            Self::Artefact(sha256) => (ARTEFACT_BYTES, Some(sha256)),
            Self::Json(sha256, limit) => (limit, Some(sha256)),
            Self::Log => (log::SEGMENT_BYTES, None),
            Self::Head => (limits::HEAD_BYTES, None),
        }
    }
}
