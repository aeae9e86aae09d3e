//! A lost site made again: from git, the artefacts and the signing log.
//!
//! The log says what was signed, in which order, with which signatures; git has the recipes, found
//! by their digest; the artefacts are found by theirs. Each release is unpacked and packed as it
//! was at first and must give the very statement that the log names, byte for byte, or nothing is
//! published: so no release key is needed, and none could make a difference. Only the head is new.
//! It is the next one after the last of the log, so hosts that know the old site go on.
//!
//! What is finished is noted in the signer's state folder; a second run takes it up there.

mod recipes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, Status};
use mcpfs_trust::envelope::{Envelope, PAYLOAD_TYPE};
use mcpfs_trust::limits;
use mcpfs_trust::name::{Platform, ServerName, Version};
use mcpfs_trust::release::{RELEASE_TYPE, Release};
use mcpfs_trust::statement::Statement;
use mcpfs_trust::verify;
use serde::Deserialize as _;
use serde_json::json;

use crate::check::{self, CheckOptions, Lookups};
use crate::countersign::COUNTERSIGN;
use crate::details;
use crate::fetch::FetchPolicy;
use crate::files::{self, FileError};
use crate::log::{LoggedSignature, Row, Segment, signatures};
use crate::pack::{ChunkStore, KnownChunks};
use crate::policy::Gate;
use crate::progress::{Progress, Task, Unit};
use crate::release::select;
use crate::site::publish::{Outcome, Publisher};
use crate::site::state::at;
use crate::site::{Site, SiteError, parallel};

pub use recipes::Recipes;

/// Why a site is not made again.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum RebuildError {
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("git cannot read {path}: {problem}", path = path.display())]
    Git { path: PathBuf, problem: String },
    #[error("{place} has a head already: a site is made again in an empty place")]
    NotEmpty { place: String },
    #[error("the log holds no release")]
    NothingLogged,
    #[error("the log ends with head {found}, but this signer has published {known}; find a newer copy of the log")]
    OldLog { found: u64, known: u64 },
    #[error("{name} {version}: {problem}; nothing was published")]
    Release { name: ServerName, version: Version, problem: String },
}

/// What a site is made from.
#[derive(Debug)]
pub struct Rebuild<'a> {
    /// The log, oldest segment first.
    pub segments: &'a [Segment],
    /// The recipes of the repository's whole history.
    pub recipes: &'a Recipes,
    /// A folder of artefacts named by their digest.
    pub artefacts: &'a Path,
    /// Where finished releases are noted.
    pub notes: &'a Path,
    /// Shows how far it is.
    pub shown: Progress,
}

/// One release of the log.
#[derive(Debug)]
struct Wanted<'a> {
    name: &'a ServerName,
    version: &'a Version,
    row: &'a Row,
    /// Of its newest row: signatures are added, and the statement stays.
    signatures: &'a [LoggedSignature],
}

impl Rebuild<'_> {
    /// Makes the site again and publishes it under a new head.
    ///
    /// # Errors
    /// If something of the log cannot be made again exactly; the site has no head then.
    pub fn publish(&self, publisher: &mut Publisher<'_>) -> Result<Outcome, RebuildError> {
        let site = publisher.site;
        let last = self.segments.last().ok_or(RebuildError::NothingLogged)?;
        if site.published(publisher.root)?.head.is_some() {
            return Err(RebuildError::NotEmpty { place: site.place() });
        }
        if let Some(known) = publisher.state.floor(&publisher.root.registry, publisher.root.epoch)?
            && known.version > last.version
        {
            return Err(RebuildError::OldLog { found: last.version, known: known.version });
        }
        let servers = self.servers()?;
        let releases = servers.values().map(BTreeMap::len).sum::<usize>();
        let task = self.shown.start("releases", Unit::Items, releases as u64);
        let (root, now) = (publisher.root, publisher.now);
        let each: Vec<_> = servers.into_iter().collect();
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let entries = parallel::map(&each, workers, |(name, wanted)| {
            let listed = self.server(site, root, now, wanted, &task)?;
            let entry = self.replay(name, &listed)?;
            let bytes = entry.encode();
            site.put(&mcpfs_trust::site::entry(&Digest::of(&bytes)), &bytes)?;
            Ok::<_, RebuildError>((entry.selected.release.name, bytes))
        })?;
        drop(task);
        for segment in self.segments {
            site.put(&mcpfs_trust::site::log(segment.version, &segment.head), &segment.bytes)?;
        }
        let row = Row { action: "rebuild".to_owned(), request: format!("{releases} releases"), ..Row::default() };
        let outcome = publisher.rebuild(&entries, (last.version, last.head), row)?;
        // What is published needs no notes.
        drop(std::fs::remove_dir_all(self.notes));
        Ok(outcome)
    }

    /// The releases of each server; of several rows of one the last, which has all signatures.
    fn servers(&self) -> Result<BTreeMap<ServerName, BTreeMap<Version, Wanted<'_>>>, RebuildError> {
        let mut servers: BTreeMap<ServerName, BTreeMap<Version, Wanted<'_>>> = BTreeMap::new();
        for row in self.rows() {
            let (Some(name), Some(version)) = (&row.name, &row.version) else { continue };
            if row.issued.is_some() {
                let wanted = Wanted { name, version, row, signatures: &row.signatures };
                servers.entry(name.clone()).or_default().insert(version.clone(), wanted);
            } else if row.action == COUNTERSIGN
                && let Some(signed) = servers.get_mut(name).and_then(|server| server.get_mut(version))
                && signed.row.statement == row.statement
            {
                signed.signatures = &row.signatures;
            }
        }
        match servers.is_empty() {
            true => Err(RebuildError::NothingLogged),
            false => Ok(servers),
        }
    }

    /// What was done, without refusals.
    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.segments.iter().flat_map(|segment| &segment.rows).filter(|row| !row.refused)
    }

    fn server(
        &self,
        site: &Site,
        root: &mcpfs_trust::root::TrustRoot,
        now: mcpfs_trust::time::Timestamp,
        wanted: &BTreeMap<Version, Wanted<'_>>,
        task: &Task,
    ) -> Result<BTreeMap<Version, Listed>, RebuildError> {
        let (mut made, mut chunks) = (BTreeMap::new(), Vec::new());
        for (version, wanted) in wanted {
            let listed = match self.noted(site, wanted) {
                Some((listed, of_it)) => {
                    chunks.extend(of_it);
                    listed
                }
                None => self.release(site, root, now, wanted, &mut chunks)?,
            };
            made.insert(version.clone(), listed);
            task.add(1);
        }
        Ok(made)
    }

    fn note(&self, statement: &Digest) -> PathBuf {
        self.notes.join(format!("{statement}.json"))
    }

    /// What an earlier run has made, if all of it is still in the site.
    fn noted(&self, site: &Site, wanted: &Wanted<'_>) -> Option<(Listed, Vec<mcpfs_trust::chunk::Chunk>)> {
        let statement = wanted.row.statement?;
        let bytes = files::read_bounded(&self.note(&statement), limits::ENTRY_BYTES).ok()?;
        let listed = Entry::parse(&bytes).ok()?.selected;
        let chunks = site.release_chunks(&listed).ok()?;
        site.details(&listed).ok()?;
        let whole = listed.envelope.statement() == statement
            && signatures(&listed.envelope) == wanted.signatures
            && chunks.iter().all(|chunk| site.has_size(chunk).is_ok())
            && listed.release.artefact.all().iter().all(|one| {
                let name = mcpfs_trust::site::artefact(&one.sha256);
                site.store().stat(&name).is_ok_and(|facts| facts.is_some_and(|facts| facts.size == one.size))
            });
        whole.then_some((listed, chunks))
    }

    fn release(
        &self,
        site: &Site,
        root: &mcpfs_trust::root::TrustRoot,
        now: mcpfs_trust::time::Timestamp,
        wanted: &Wanted<'_>,
        chunks: &mut Vec<mcpfs_trust::chunk::Chunk>,
    ) -> Result<Listed, RebuildError> {
        let wrong = |problem: String| RebuildError::Release {
            name: wanted.name.clone(),
            version: wanted.version.clone(),
            problem,
        };
        let row = wanted.row;
        let (Some(sha256), Some(statement), Some(issued)) = (row.recipe, row.statement, row.issued) else {
            return Err(wrong("its row names no recipe, statement or time".to_owned()));
        };
        let text = match &row.recipe_text {
            Some(text) if Digest::of(text.as_bytes()) == sha256 => Some(text.as_bytes()),
            _ => self.recipes.get(&sha256),
        };
        let text =
            text.ok_or_else(|| wrong(format!("its recipe with the digest {sha256} is not in the repository")))?;
        let folder = tempfile::tempdir().map_err(FileError::write(&std::env::temp_dir()))?;
        let recipe = folder.path().join(format!("{}.yaml", wanted.name));
        std::fs::write(&recipe, text).map_err(FileError::write(&recipe))?;
        let options = CheckOptions {
            registry: Some(root.registry.clone()),
            fetch: FetchPolicy { by_digest: Some(self.artefacts.to_owned()), ..FetchPolicy::default() },
            known: chunks.iter().copied().collect::<KnownChunks>(),
            level: ChunkStore::LEVEL,
            now,
            published: None,
            // It was held against the policy when it was signed.
            gate: Gate::default(),
            lookups: Lookups::default(),
            trial: None,
            patterns: None,
        };
        let checked = check::ingest(&recipe, &folder.path().join("staging"), &options);
        let checked = checked.map_err(|error| wrong(error.to_string()))?;
        let (Some(staging), Some(recipe)) = (&checked.staging, &checked.recipe) else {
            return Err(wrong(format!("it does not pass the check any more: {}", checked.findings)));
        };
        let trees: Vec<Digest> = staging.artefacts.iter().map(|one| one.tree.summary().sha256).collect();
        if !row.trees.is_empty() && row.trees != trees {
            return Err(wrong(
                "its artefact gives another tree than the one that was signed (artefact.tree)".to_owned(),
            ));
        }
        let url = |platform: &Platform| {
            recipe.artefact.iter().find(|own| own.platform == *platform).map(|own| own.url.as_str()).unwrap_or_default()
        };
        let artefacts = staging.artefacts.iter().map(|one| one.artefact(url(&one.platform))).collect();
        let release = recipe
            .release(&root.registry, artefacts, row.source.clone(), issued)
            .map_err(|error| wrong(error.to_string()))?;
        let envelope = envelope(&release, wanted.signatures).map_err(&wrong)?;
        if envelope.statement() != statement {
            let problem =
                "its statement would be another one: its registry, source or issued is not the one that was signed";
            return Err(wrong(problem.to_owned()));
        }
        verify::statement(&envelope, wanted.name, wanted.version, root, Some(&statement))
            .map_err(at(&format!("{} {}", wanted.name, wanted.version)))?;
        for artefact in &staging.artefacts {
            for chunk in artefact.all_chunks() {
                if let Some(stored) = staging.chunk(&chunk).map_err(SiteError::from)? {
                    site.put(&mcpfs_trust::site::object(&chunk.sha256), &stored)?;
                }
                chunks.push(chunk);
            }
            for (file, part) in artefact.originals() {
                site.put_artefact(&file, &part.sha256)?;
            }
        }
        let layout = staging.artefacts.iter().map(|one| one.listed.clone()).collect();
        // A log of before there were details says nothing of the check.
        let details = row.check.clone().map(|check| details::told(Some(check), &checked.dependencies));
        let details = details.map(|details| site.put_details(&details)).transpose()?;
        let listed = Listed { release, envelope, status: Status::Active, reason: None, layout, details };
        let note = Entry { selected: listed.clone(), earlier: Vec::new() };
        files::write_durably(&self.note(&statement), &note.encode(), true)?;
        Ok(listed)
    }

    /// The entry after all rows of a server, in the order in which they were signed.
    fn replay(&self, name: &ServerName, made: &BTreeMap<Version, Listed>) -> Result<Entry, RebuildError> {
        let mut entry: Option<Entry> = None;
        let rows = self.rows().filter(|row| row.name.as_ref() == Some(name) && row.action != COUNTERSIGN);
        for row in rows {
            let Some(version) = &row.version else { continue };
            let status = match row.action.as_str() {
                "yank" => Some(Status::Yanked),
                "revoke" => Some(Status::Revoked),
                _ => None,
            };
            match (status, &mut entry, made.get(version)) {
                (None, _, Some(listed)) => entry = Some(select(entry.as_ref(), listed.clone())),
                (Some(status), Some(entry), _) => {
                    let all = std::iter::once(&mut entry.selected).chain(&mut entry.earlier);
                    for listed in all.filter(|one| one.release.version == *version) {
                        listed.status = status;
                        listed.reason.clone_from(&row.reason);
                    }
                }
                _ => {}
            }
        }
        entry.ok_or(RebuildError::NothingLogged)
    }
}

/// The statement with the signatures of the log.
fn envelope(release: &Release, signatures: &[LoggedSignature]) -> Result<Envelope, String> {
    let payload = Statement { subject: release.subjects(), predicate: release.clone() }.encode(RELEASE_TYPE);
    let value = json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": STANDARD.encode(&payload),
        "signatures": signatures,
    });
    Envelope::deserialize(value).map_err(|error| format!("its signatures in the log cannot be read: {error}"))
}
