//! A staging folder as it is written and read back. Its form is checked here, its truth in
//! [`recheck`](super::recheck).

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::PlatformLayout;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::name::Platform;
use mcpfs_trust::release::TreeSummary;
use mcpfs_trust::tree::Tree;
use mcpfs_trust::{json, limits};
use serde::{Deserialize, Serialize};

use super::{Places, StagedArtefact, Staging, StagingError};
use crate::check::{Answers, advisories};
use crate::files;
use crate::image::Part;
use crate::policy::{self, Gate};
use crate::recipe::Recipe;

const SCHEMA: &str = "mcpfs.staging/v1";
/// `staging.json` and its neighbours, bytes: eight platforms with full chunk lists.
const JSON_BYTES: u64 = 8 << 20;

/// `staging.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    schema: String,
    recipe_file: String,
    artefacts: Vec<IndexedArtefact>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexedArtefact {
    platform: Platform,
    sha256: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part>,
    tree: TreeSummary,
    layout: PlatformLayout,
}

impl Staging {
    /// Writes everything but artefacts and chunks, which the check has put in place already;
    /// `staging.json` comes last, so a folder without it is an unfinished one.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self) -> Result<(), StagingError> {
        let places = Places::new(&self.folder);
        for artefact in &self.artefacts {
            put(&places.tree(&artefact.tree.summary().sha256), &artefact.tree.encode())?;
            put(&places.layout(&artefact.listed.layout.sha256), &artefact.layout.encode())?;
        }
        put(&places.recipe(), self.recipe.as_bytes())?;
        put(&places.findings(), &self.findings.json())?;
        put(&places.record(), &json::encode(&self.record))?;
        for (path, text) in [(places.policy(), self.gate.policy_text()), (places.waivers(), self.gate.waivers_text())] {
            if let Some(text) = text {
                put(&path, text.as_bytes())?;
            }
        }
        if !self.answers.is_empty() {
            put(&places.advisories(), &self.answers.json())?;
        }
        let index = Index {
            schema: SCHEMA.to_owned(),
            recipe_file: self.recipe_file.clone(),
            artefacts: self.artefacts.iter().map(|artefact| artefact.indexed()).collect(),
        };
        put(&places.index(), &json::encode(&index))
    }

    /// Reads a folder that [`Staging::write`] wrote. Its form is checked, its truth is not:
    /// see [`Staging::recheck`].
    ///
    /// # Errors
    /// `Absent`, `Unfinished`, `Io` or `Format`.
    pub fn read(folder: &Path) -> Result<Self, StagingError> {
        let places = Places::new(folder);
        if !places.is_staging() {
            return Err(StagingError::Absent(folder.to_owned()));
        }
        let index: Index = match parse(&places.index(), "staging") {
            Err(StagingError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(StagingError::Unfinished(folder.to_owned()));
            }
            index => index?,
        };
        if index.schema != SCHEMA || index.artefacts.is_empty() || index.recipe_file.contains('/') {
            return Err(StagingError::Differs(format!("staging.json is not of schema {SCHEMA}")));
        }
        let recipe = bounded_read(&places.recipe(), Recipe::BYTES as u64).map_err(at(&places.recipe()))?;
        let recipe_sha256 = Digest::of(&recipe);
        let recipe =
            String::from_utf8(recipe).map_err(|_| StagingError::Differs("the recipe is not UTF-8".to_owned()))?;
        let artefacts = index.artefacts.into_iter().map(|artefact| artefact.load(&places)).collect::<Result<_, _>>()?;
        let gate = Gate::from_texts(optional_text(&places.policy())?, optional_text(&places.waivers())?)
            .map_err(StagingError::Policy)?;
        Ok(Self {
            gate,
            folder: folder.to_owned(),
            recipe_file: index.recipe_file,
            recipe,
            recipe_sha256,
            artefacts,
            answers: match parse_bounded(&places.advisories(), "advisories", advisories::BYTES) {
                Err(StagingError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Answers::default(),
                answers => answers?,
            },
            findings: parse(&places.findings(), "findings")?,
            record: parse(&places.record(), "check record")?,
        })
    }

    /// The stored bytes of a chunk, checked; `None` if it is taken from the published ones.
    ///
    /// # Errors
    /// `Io`, or `Format` if they are not the chunk's.
    pub fn chunk(&self, chunk: &Chunk) -> Result<Option<Vec<u8>>, StagingError> {
        let folder = Places::new(&self.folder).chunks();
        let path = folder.join(chunk.sha256.to_string());
        let Some(stored) = chunk_in(&folder, chunk).map_err(at(&path))? else { return Ok(None) };
        chunk.decode(&stored).map_err(|source| StagingError::Format { path, source })?;
        Ok(Some(stored))
    }
}

impl StagedArtefact {
    fn indexed(&self) -> IndexedArtefact {
        IndexedArtefact {
            platform: self.platform.clone(),
            sha256: self.sha256,
            size: self.size,
            parts: self.parts.clone(),
            tree: self.tree.summary(),
            layout: self.listed.clone(),
        }
    }
}

impl IndexedArtefact {
    fn load(self, places: &Places) -> Result<StagedArtefact, StagingError> {
        let path = places.tree(&self.tree.sha256);
        let bytes = bounded_read(&path, limits::TREE_BYTES).map_err(at(&path))?;
        let tree = Tree::decode(&bytes, &self.tree).map_err(|source| StagingError::Format { path, source })?;
        let path = places.layout(&self.layout.layout.sha256);
        let bytes = bounded_read(&path, limits::LAYOUT_BYTES).map_err(at(&path))?;
        let layout = Layout::decode(&bytes, &tree).map_err(|source| StagingError::Format { path, source })?;
        Ok(StagedArtefact {
            platform: self.platform,
            file: places.artefact(&self.sha256),
            sha256: self.sha256,
            size: self.size,
            parts: self.parts,
            tree,
            layout,
            listed: self.layout,
        })
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StagingError {
    let path = path.to_owned();
    move |source| StagingError::Io { path, source }
}

/// A folder's chunk; `None` if it was taken from the published ones.
fn chunk_in(folder: &Path, chunk: &Chunk) -> io::Result<Option<Vec<u8>>> {
    match bounded_read(&folder.join(chunk.sha256.to_string()), limits::CHUNK_STORED_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file of at most `limit` bytes; of a longer one the reader gets one byte too many, and says so.
fn bounded_read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    files::open_file(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a file that need not be there.
fn optional_text(path: &Path) -> Result<Option<String>, StagingError> {
    match bounded_read(path, policy::BYTES) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| StagingError::Differs(format!("{} is not UTF-8", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), StagingError> {
    fs::write(path, bytes).map_err(at(path))
}

fn parse<T: serde::de::DeserializeOwned + Serialize>(path: &Path, what: &'static str) -> Result<T, StagingError> {
    parse_bounded(path, what, JSON_BYTES)
}

fn parse_bounded<T: serde::de::DeserializeOwned + Serialize>(
    path: &Path,
    what: &'static str,
    limit: u64,
) -> Result<T, StagingError> {
    let bytes = bounded_read(path, limit).map_err(at(path))?;
    json::parse(&bytes, limit, what).map_err(|source| StagingError::Format { path: path.to_owned(), source })
}
