//! Staging: the folder that carries a release from ingest to signing.
//!
//! ```text
//! .mcpfs-staging          the folder is one of these, and may be replaced
//! staging.json            what is here: recipe file, artefacts, layouts
//! recipe.yaml             the recipe's very bytes
//! check.json              the check record
//! findings.json           what the check found
//! policy.yaml             the policy's very bytes, if there was one
//! waivers.yaml            the waivers' very bytes, if there were any
//! advisories.json         what is known of vulnerabilities, if that was asked
//! snapshots/<sha256>      snapshots of advisories that were asked
//! artefacts/<sha256>      the original files, and what an OCI manifest names
//! trees/<sha256>          encoded trees
//! layouts/<sha256>        encoded layouts
//! chunks/<sha256>         stored chunks that are not published yet
//! ```
//!
//! **Nothing here is trusted.** Ingest handles hostile input and may run on another machine
//! than the one with the key; whoever can write to the folder gains nothing, since
//! [`Staging::recheck`] recomputes all of it from the recipe and the artefact before signing.
//! Losing it costs another ingest.

mod places;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::{Digest, Hasher};
use mcpfs_trust::entry::PlatformLayout;
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::name::Platform;
use mcpfs_trust::release::{Artefact, Launch, TreeSummary};
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::tree::Tree;
use mcpfs_trust::{json, limits};
use serde::{Deserialize, Serialize};

use crate::check::record::{CheckRecord, CheckedArtefact, RECORD_SCHEMA, Verdict};
use crate::check::{self, Answers, Finding, Findings, Inventory, Severity, advisories};
use crate::image::Part;
use crate::pack::{self, PackError};
use crate::policy::{self, Gate};
use crate::recipe::{ArtefactSource, Recipe, RecipeErrors};
use crate::unpack;

pub(crate) use places::Places;

const SCHEMA: &str = "mcpfs.staging/v1";
/// `staging.json` and its neighbours, bytes: eight platforms with full chunk lists.
const JSON_BYTES: u64 = 8 << 20;

/// One release on its way to be signed.
#[derive(Debug)]
pub struct Staging {
    /// Where it lies.
    pub folder: PathBuf,
    /// The recipe's file name, such as `internal-postgres.yaml`.
    pub recipe_file: String,
    /// The recipe's text.
    pub recipe: String,
    /// Digest of that text.
    pub recipe_sha256: Digest,
    /// One for each platform, in platform order.
    pub artefacts: Vec<StagedArtefact>,
    /// What the check found; no errors.
    pub findings: Findings,
    /// What was checked.
    pub record: CheckRecord,
    /// The policy and waivers it was checked by.
    pub gate: Gate,
    /// What is known of vulnerabilities of its packages.
    pub answers: Answers,
}

/// One platform of a release.
#[derive(Debug, Clone)]
pub struct StagedArtefact {
    /// Its platform.
    pub platform: Platform,
    /// The original file.
    pub file: PathBuf,
    /// Its digest.
    pub sha256: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// What an OCI manifest names besides itself.
    pub parts: Vec<Part>,
    /// The canonical tree.
    pub tree: Tree,
    /// Where the tree's bytes lie.
    pub layout: Layout,
    /// What the entry lists: the chunks of tree and layout, and those a launch wants first.
    pub listed: PlatformLayout,
}

/// Why a staging folder is refused.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// A file of it cannot be read or written.
    #[error("{path}: cannot read or write it")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of it is not in its format.
    #[error("{path}: not what ingest writes; ingest again")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifyError,
    },
    /// A folder with something else in it.
    #[error("{0} is not empty and not a staging folder: name another, or empty it")]
    NotStaging(PathBuf),
    /// It contradicts the recipe or the artefact.
    #[error("staging does not fit its recipe and artefact: {0}; ingest again")]
    Differs(String),
    /// The recipe in it is wrong.
    #[error("the staged recipe is not valid")]
    Recipe(#[source] RecipeErrors),
    /// The policy or waivers file cannot be used.
    #[error("the policy cannot be applied")]
    Policy(#[source] RecipeErrors),
    /// Its record is not the one that was pinned.
    #[error("the check record of staging is {found}, not {pinned}: it is another check, or was edited on the way")]
    OtherRecord {
        /// The digest of the record there.
        found: Digest,
        /// What `publish --record` named.
        pinned: Digest,
    },
    /// It was checked by other demands than those that are made now.
    #[error("this was checked by another {0} than the one that publishing names: check it again with the same files")]
    OtherPolicy(&'static str),
    /// The artefact in it is refused.
    #[error("the staged artefact is refused")]
    Unpack(#[source] unpack::UnpackError),
    /// The artefact's entries do not make a tree.
    #[error("the staged artefact makes no tree")]
    Tree(#[source] mcpfs_trust::tree::BadTree),
    /// Packing it again fails.
    #[error("the staged artefact cannot be packed again")]
    Pack(#[source] PackError),
}

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

impl StagedArtefact {
    /// What the release statement says of it; `url` is the recipe's.
    pub fn artefact(&self, url: &str) -> Artefact {
        Artefact {
            platform: self.platform.clone(),
            url: url.to_owned(),
            sha256: self.sha256,
            size: self.size,
            tree: self.tree.summary(),
        }
    }

    /// The original files: what an OCI manifest names, and then the artefact itself.
    pub(crate) fn originals(&self) -> Vec<(PathBuf, Part)> {
        let beside = |part: &Part| (self.file.with_file_name(part.sha256.to_string()), *part);
        let own = Part { sha256: self.sha256, size: self.size };
        self.parts.iter().map(beside).chain([(self.file.clone(), own)]).collect()
    }

    /// Every chunk that a host may ask for: content, tree and layout, each once.
    pub fn all_chunks(&self) -> Vec<Chunk> {
        let mut seen = std::collections::HashSet::new();
        let lists = [&self.layout.chunks, &self.listed.tree, &self.listed.layout.chunks];
        lists.into_iter().flatten().copied().filter(|chunk| seen.insert(chunk.sha256)).collect()
    }
}

impl Staging {
    /// Writes everything but artefacts and chunks, which ingest has put in place already;
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
    /// `Io` or `Format`.
    pub fn read(folder: &Path) -> Result<Self, StagingError> {
        let places = Places::new(folder);
        let index: Index = parse(&places.index(), "staging")?;
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

    /// Refuses a staging that was made by another policy or other waivers than those of `gate`.
    ///
    /// # Errors
    /// `Policy` if the files of `gate` themselves are broken, `OtherPolicy` if they are others.
    pub fn demand(&self, gate: &Gate) -> Result<(), StagingError> {
        if let Some(errors) = gate.broken().first() {
            return Err(StagingError::Policy(errors.clone()));
        }
        let same = [
            (gate.policy_text() == self.gate.policy_text(), "policy"),
            (gate.waivers_text() == self.gate.waivers_text(), "waivers file"),
        ];
        match same.into_iter().find(|(same, _)| !same) {
            Some((_, what)) if !gate.is_empty() => Err(StagingError::OtherPolicy(what)),
            _ => Ok(()),
        }
    }

    /// Refuses a staging whose record is not the pinned one.
    ///
    /// # Errors
    /// `OtherRecord`.
    pub fn pinned(&self, pinned: Option<Digest>) -> Result<(), StagingError> {
        let found = self.record.digest();
        match pinned {
            Some(pinned) if pinned != found => Err(StagingError::OtherRecord { found, pinned }),
            _ => Ok(()),
        }
    }

    /// Recomputes everything from the recipe and the artefacts: digests, trees, chunks, layouts
    /// and the record, and asks the rules again. Returns the parsed recipe, with the launch that
    /// its artefacts say if it has none. This is what signing relies on. Three things are the
    /// checker's word alone: the time of the check, that no other recipe has a similar name, and
    /// the observations. Reviews and waivers must hold `now` too, not only when it was checked.
    ///
    /// # Errors
    /// The first difference.
    pub fn recheck(&self, now: Timestamp) -> Result<Recipe, StagingError> {
        let mut recipe = Recipe::parse(&self.recipe, &self.recipe_file).map_err(StagingError::Recipe)?;
        let differs = |what: String| Err(StagingError::Differs(what));
        if recipe.artefact.len() != self.artefacts.len() {
            return differs("another number of artefacts".to_owned());
        }
        let mut findings = Findings::new();
        let mut launches = Vec::with_capacity(self.artefacts.len());
        let mut dependencies = Vec::with_capacity(self.artefacts.len());
        for (index, source) in recipe.artefact.iter().enumerate() {
            let Some(staged) = self.artefacts.iter().find(|staged| staged.platform == source.platform) else {
                return differs(format!("no artefact for {}", source.platform));
            };
            if staged.sha256 != source.sha256 {
                return differs(format!("the artefact for {} is not the one the recipe pins", source.platform));
            }
            let field = recipe.artefact_field(index);
            let (launch, inventory) = self.recheck_artefact(staged, &recipe, source, &field, &mut findings)?;
            launches.push(launch);
            dependencies.push((staged.platform.clone(), inventory));
        }
        self.answers.again(&dependencies, &Places::new(&self.folder).snapshots()).map_err(StagingError::Differs)?;
        let answered = self.record.observations.iter().filter(|one| advisories::is_look(one.kind));
        if !answered.eq(self.answers.observations().iter()) {
            return differs("its check record names other look-ups of advisories than staging holds".to_owned());
        }
        check::settle_again(&mut recipe, launches, &mut findings);
        check::again(&recipe, self.record.checked_at, &mut findings);
        let observed = self.findings.all().iter().filter(|one| check::rules::is_observed(&one.rule));
        observed.for_each(|one| findings.push(Finding { waiver: None, ..one.clone() }));
        let settled = |now| {
            let mut findings = findings.clone();
            let policy = self.gate.policy();
            self.answers.check(&recipe, &dependencies, policy, now, &mut findings);
            self.gate.check(&recipe, now, &self.record.observations, &mut findings);
            self.gate.settle(&recipe, now, &mut findings);
            findings
        };
        let at_check = settled(self.record.checked_at);
        for findings in [&at_check, &settled(now)] {
            let open = |one: &&Finding| one.severity == Severity::Error && one.waiver.is_none();
            if let Some(error) = findings.all().iter().find(open) {
                return differs(format!("a rule finds {error}"));
            }
        }
        if self.record.waivers != at_check.waivers() {
            return differs("its check record names other waivers than those that apply".to_owned());
        }
        let expected = CheckRecord { checked_at: self.record.checked_at, ..self.expected_record() };
        if self.findings.has_errors() || self.record != expected {
            return differs("its check record is for something else, or did not pass".to_owned());
        }
        Ok(recipe)
    }

    /// The record that this staging must carry, but for its time.
    pub(crate) fn expected_record(&self) -> CheckRecord {
        CheckRecord {
            schema: RECORD_SCHEMA.to_owned(),
            recipe: self.recipe_sha256,
            artefacts: self
                .artefacts
                .iter()
                .map(|artefact| CheckedArtefact {
                    platform: artefact.platform.clone(),
                    sha256: artefact.sha256,
                    tree: artefact.tree.summary().sha256,
                })
                .collect(),
            verdict: if self.findings.has_errors() { Verdict::Fail } else { Verdict::Pass },
            policy: self.gate.digest(),
            findings: Digest::of(&self.findings.json()),
            checked_at: self.record.checked_at,
            checker: concat!("mcpfs-signer ", env!("CARGO_PKG_VERSION")).to_owned(),
            waivers: self.findings.waivers(),
            sources: [self.gate.sources(), self.answers.sources()].concat(),
            observations: self.record.observations.clone(),
        }
    }

    fn recheck_artefact(
        &self,
        staged: &StagedArtefact,
        recipe: &Recipe,
        source: &ArtefactSource,
        field: &str,
        findings: &mut Findings,
    ) -> Result<(Option<Launch>, Inventory), StagingError> {
        let differs = |what: &str| StagingError::Differs(format!("{what} for {}", staged.platform));
        let mut file = File::open(&staged.file).map_err(at(&staged.file))?;
        let mut hasher = Hasher::new();
        let size = io::copy(&mut file, &mut hasher).map_err(at(&staged.file))?;
        if hasher.finish() != staged.sha256 || size != staged.size {
            return Err(differs("another artefact"));
        }
        // The same open file is read again: what was hashed is what is unpacked.
        let artefacts = Places::new(&self.folder).artefacts();
        let archive = unpack::of_source(source, file, &artefacts, &self.folder).map_err(StagingError::Unpack)?;
        if archive.parts != staged.parts {
            return Err(differs("other parts"));
        }
        let tree = pack::tree(&archive.entries).map_err(StagingError::Tree)?;
        if tree != staged.tree {
            return Err(differs("another tree"));
        }
        let launch = check::launch_again(recipe, source, field, (&archive, &tree), findings);
        let started = recipe.started_by(launch.as_ref());
        check::content_again(&started, field, &tree, &archive.remarks, findings);
        let carried = check::carried(recipe, field, (&tree, &archive.spool), self.gate.policy(), findings);
        let expected: HashMap<Digest, Chunk> =
            staged.all_chunks().into_iter().map(|chunk| (chunk.plain_sha256, chunk)).collect();
        let mut put = |plain: &[u8]| {
            let digest = Digest::of(plain);
            let chunk = expected.get(&digest).copied().ok_or(PackError::Unexpected(digest))?;
            // A chunk of this folder is decoded; one that is published is decoded by publish.
            match self.chunk(&chunk) {
                Ok(_) => Ok(chunk),
                Err(_) => Err(PackError::Unexpected(digest)),
            }
        };
        let packed = pack::pack(&staged.platform, &tree, &archive.spool, launch.as_ref(), &mut put)
            .map_err(StagingError::Pack)?;
        match packed.layout == staged.layout && packed.listed == staged.listed {
            true => Ok((launch, carried.inventory)),
            false => Err(differs("another layout")),
        }
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

fn at(path: &Path) -> impl FnOnce(io::Error) -> StagingError {
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
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
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

fn put(path: &Path, bytes: &[u8]) -> Result<(), StagingError> {
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
