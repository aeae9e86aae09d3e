//! A snapshot of an advisory database: one file that is pinned by its digest.
//!
//! That is what OSV publishes for each ecosystem, a .zip of JSON documents, or a folder of such
//! documents, which becomes a deterministic .tar first, so that it has one digest as well. It is
//! read as a stream, one document at a time: of an advisory that names no package of the artefact
//! nothing is kept. A document that cannot be read ends it: a database with a hole must not look
//! like a small database.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mcpfs_trust::digest::{Digest, Hasher};
use mcpfs_trust::error::bounded;
use mcpfs_trust::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::dependencies::Ecosystem;
use super::osv::{Advisory, Answer, Outline};
use super::{Hit, Unclear, Wanted};
use crate::fetch;
use crate::files;
use crate::progress::{Progress, Unit};
use crate::unpack;

/// Largest document, bytes. The longest that are published list ten thousands of versions.
const DOCUMENT_BYTES: u64 = 8 << 20;
/// Largest snapshot, bytes: of all of npm a few hundred MiB.
const SNAPSHOT_BYTES: u64 = 2 << 30;
/// Most documents.
const DOCUMENTS: u64 = 2_000_000;
/// Most matches; an artefact with more is not one to sort out by waivers.
const MATCHES: usize = 5_000;

/// What a snapshot says of one artefact's packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// The digest of the file, or of the folder's deterministic .tar.
    pub sha256: Digest,
    /// Whether the command line pinned it.
    pub pinned: bool,
    /// How much it holds of each ecosystem.
    pub covers: BTreeMap<Ecosystem, Coverage>,
    /// Packages with an advisory.
    pub hits: Vec<Hit>,
    /// Packages of which nobody can tell.
    pub unclear: Vec<Unclear>,
}

/// How much a snapshot holds of one ecosystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coverage {
    /// Advisories, without those that were withdrawn.
    pub advisories: u64,
    /// When the last one changed.
    pub newest: Timestamp,
}

/// An open snapshot.
pub(super) struct Snapshot {
    file: File,
    pub(super) sha256: Digest,
}

impl Snapshot {
    /// Opens the file, or bundles the folder, at `path`. With `keep` it lies in `folder` by its
    /// digest afterwards.
    pub(super) fn open(path: &Path, folder: &Path, keep: bool) -> Result<Self, String> {
        let unreadable = |error: io::Error| format!("cannot be read: {error}");
        if fs::metadata(path).map_err(unreadable)?.is_dir() {
            let mut file = tempfile::NamedTempFile::new_in(folder).map_err(unreadable)?;
            fetch::bundle(path, io::BufWriter::new(&mut file)).map_err(|error| super::super::chain(&error))?;
            let snapshot = Self::hashed(file.reopen().map_err(unreadable)?)?;
            if keep {
                file.persist(folder.join(snapshot.sha256.to_string())).map_err(|error| unreadable(error.error))?;
            }
            return Ok(snapshot);
        }
        let snapshot = Self::hashed(files::open_file(path).map_err(unreadable)?)?;
        if keep {
            let to = folder.join(snapshot.sha256.to_string());
            // A link where it can be one: a snapshot has hundreds of MiB, and signing hashes it again.
            if let Err(error) = fs::hard_link(path, &to)
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                fs::copy(path, &to).map_err(unreadable)?;
            }
        }
        Ok(snapshot)
    }

    fn hashed(mut file: File) -> Result<Self, String> {
        let mut hasher = Hasher::new();
        let unreadable = |error: io::Error| format!("cannot be read: {error}");
        if file.metadata().map_err(unreadable)?.len() > SNAPSHOT_BYTES {
            return Err(format!("has more than {SNAPSHOT_BYTES} bytes"));
        }
        io::copy(&mut file, &mut hasher).map_err(unreadable)?;
        Ok(Self { file, sha256: hasher.finish() })
    }

    /// What it says of the wanted packages.
    pub(super) fn read(&self, wanted: &Wanted, pinned: bool, shown: &Progress) -> Result<Reading, String> {
        let mut reading =
            Reading { sha256: self.sha256, pinned, covers: BTreeMap::new(), hits: Vec::new(), unclear: Vec::new() };
        let task = shown.count("advisories", Unit::Items);
        let (mut documents, mut bytes) = (0, Vec::new());
        let read = unpack::each_file(&self.file, &mut |name, size, content| {
            if !name.ends_with(b".json") {
                return Ok(());
            }
            documents += 1;
            let bad = |problem: String| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} {problem}", bounded(&String::from_utf8_lossy(name))),
                )
            };
            if size > DOCUMENT_BYTES || documents > DOCUMENTS {
                return Err(bad(format!(
                    "is more than is read of a snapshot ({DOCUMENT_BYTES} bytes, {DOCUMENTS} documents)"
                )));
            }
            bytes.clear();
            content.take(DOCUMENT_BYTES + 1).read_to_end(&mut bytes)?;
            task.add(1);
            reading.document(&bytes, wanted).map_err(bad)
        });
        drop(task);
        read.map_err(|error| super::super::chain(&error))?;
        if reading.hits.len() + reading.unclear.len() > MATCHES {
            return Err(format!("has more than {MATCHES} advisories of these packages"));
        }
        reading.hits.sort();
        reading.hits.dedup();
        reading.unclear.sort();
        reading.unclear.dedup();
        Ok(reading)
    }
}

impl Reading {
    fn document(&mut self, bytes: &[u8], wanted: &Wanted) -> Result<(), String> {
        let bad = |error: serde_json::Error| format!("is not an advisory in OSV format: {error}");
        let outline: Outline = serde_json::from_slice(bytes).map_err(bad)?;
        if outline.id.is_empty() {
            return Err("is not an advisory in OSV format: its id is empty".to_owned());
        }
        if outline.is_withdrawn() {
            return Ok(());
        }
        let modified = outline.modified().ok_or("is not an advisory in OSV format: modified is not a time")?;
        let named: BTreeSet<(Ecosystem, String)> = outline.packages().collect();
        let ecosystems: BTreeSet<Ecosystem> = named.iter().map(|(ecosystem, _)| *ecosystem).collect();
        for ecosystem in ecosystems {
            let covered = self.covers.entry(ecosystem).or_insert(Coverage { advisories: 0, newest: modified });
            covered.advisories += 1;
            covered.newest = covered.newest.max(modified);
        }
        let ours: Vec<_> = named.iter().filter_map(|key| Some((key, wanted.get(key)?))).collect();
        if ours.is_empty() || self.hits.len() + self.unclear.len() > MATCHES {
            return Ok(());
        }
        let advisory: Advisory = serde_json::from_slice(bytes).map_err(bad)?;
        for (key, versions) in ours {
            for (version, package) in versions {
                let (answer, level) = advisory.concerns(key, version);
                match answer {
                    Answer::No => {}
                    Answer::Yes { fixed } => self.hits.push(Hit {
                        level,
                        package: package.clone(),
                        advisory: bounded(&advisory.id),
                        aliases: advisory.aliases(),
                        fixed,
                        summary: advisory.summary(),
                    }),
                    Answer::Unclear(reason) => {
                        self.unclear.push(Unclear { package: package.clone(), advisory: bounded(&advisory.id), reason })
                    }
                }
            }
        }
        Ok(())
    }
}

/// The kept snapshot with this digest.
pub(super) fn kept(folder: &Path, sha256: &Digest) -> Result<Snapshot, String> {
    let path: PathBuf = folder.join(sha256.to_string());
    let file = files::open_file(&path).map_err(|error| format!("snapshot {sha256} is not in staging: {error}"))?;
    let snapshot = Snapshot::hashed(file)?;
    match snapshot.sha256 == *sha256 {
        true => Ok(snapshot),
        false => Err(format!("snapshot {sha256} has another content")),
    }
}
