//! The signing log, and what a signer remembers.
//!
//! Each head has a segment `log/<version>-<digest>.jsonl` in the site: rows of what was signed, by
//! which keys, from which commit, and of what was refused since the head before. The first
//! row names the digest of the previous segment, so a cut or an edit in the middle shows, and the
//! previous head, which leads to that segment's name. The digest is the head's own: of two
//! publishers that make a head of one number, each has its segment, and only one is ever named.
//! A refusal makes no head, so its row waits in the signer's own `refused.jsonl` and goes
//! into the next segment.
//!
//! The floor beside it is the signer's memory of its last head: a site folder that was set
//! back would otherwise make it sign a second head of one number.

mod heads;
pub mod public;
mod read;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_trust::details::Checked;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::envelope::{Envelope, Signature};
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::release::Source;
use mcpfs_trust::site as path;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::Floor;
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::site;
use crate::site::state::Published;
use crate::site::{Lock, Site, SiteError};

pub use read::{Segment, copied, newest, segments};

/// Refusals that are kept until the next head, bytes. A flood of them loses the later ones.
const JOURNAL_BYTES: u64 = 1 << 20;
/// A segment that is read to chain the next one to it, bytes.
pub(crate) const SEGMENT_BYTES: u64 = 4 << 20;

/// One row of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// `release`, `yank`, `revoke`, `resign`, `countersign`, `new-epoch`, or one of them that was refused.
    pub action: String,
    /// What was asked for: the recipe's file ([`public::name`]), or `NAME@VERSION`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    /// The head that this row came with; absent while a refusal waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_version: Option<u64>,
    /// Digest of the payload of the head before; in the first row of a segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_head: Option<Digest>,
    /// The version of that head, where it is not the number before: a trust root's `minimum_head` skips numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<u64>,
    /// Digest of the previous head's segment; in the first row of a segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// The server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ServerName>,
    /// The version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The reviewed commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The tip of the branch that a signing server had read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tip: Option<BranchTip>,
    /// Who approved it, as far as the signer has proof.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<String>,
    /// Keys that signed the release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Digest>,
    /// Keys that signed the head.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub head_keys: Vec<Digest>,
    /// The statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<Digest>,
    /// Where the reviewed recipe comes from, and when it was committed: with recipe and artefacts
    /// this is all that a statement says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The statement's time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued: Option<Timestamp>,
    /// The statement's signatures, so that it can be made again without its keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<LoggedSignature>,
    /// Its artefacts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artefacts: Vec<Digest>,
    /// The trees that they make, in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trees: Vec<Digest>,
    /// The release of another registry that this one was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PromotedFrom>,
    /// The recipe itself, where no repository has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe_text: Option<String>,
    /// Digest of the recipe's bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Digest>,
    /// The check, as the release's details tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Checked>,
    /// Digest of the check's findings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub findings: Option<Digest>,
    /// Why it was withdrawn or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it was refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

/// A signature, as envelopes write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedSignature {
    /// The key's id.
    pub keyid: Digest,
    /// Base64.
    pub sig: String,
}

/// Where a branch was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchTip {
    /// The repository's address.
    pub repository: String,
    /// The commit.
    pub commit: String,
}

/// Where a promoted release comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotedFrom {
    /// The other registry.
    pub registry: RegistryName,
    /// Its head then.
    pub head_version: u64,
    /// The statement there.
    pub statement: Digest,
}

/// The folder in which a signer keeps its floor and its refusals. It holds no secret.
#[derive(Debug, Clone)]
pub struct SignerState {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFloor {
    registry: RegistryName,
    epoch: u64,
    version: u64,
    sha256: Digest,
}

/// Refusals that are about to go into a segment.
#[derive(Debug)]
pub struct Folding {
    taken: PathBuf,
    rows: Vec<u8>,
}

impl SignerState {
    /// The state of one registry below `base`.
    pub fn new(base: &Path, registry: &RegistryName) -> Self {
        Self { folder: base.join(registry.as_str().replace('/', "%2F")) }
    }

    /// Where a signer's state lies by default: systemd's state directory, else the user's.
    pub fn default_base() -> PathBuf {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        variable("MCPFS_SIGNER_STATE")
            .or_else(|| variable("STATE_DIRECTORY"))
            .or_else(|| variable("XDG_STATE_HOME").map(|home| home.join("mcpfs-signer")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/state/mcpfs-signer")))
            .unwrap_or_else(|| PathBuf::from(".mcpfs-signer"))
    }

    /// The last head that this signer published under `epoch`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn floor(&self, registry: &RegistryName, epoch: u64) -> Result<Option<Floor>, SiteError> {
        let path = self.folder.join("floor.json");
        let bytes = match files::read_bounded(&path, 4096) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let broken = |error: serde_json::Error| FileError::read(&path)(error.into());
        let floor: StoredFloor = serde_json::from_slice(&bytes).map_err(broken)?;
        let ours = floor.registry == *registry && floor.epoch == epoch;
        Ok(ours.then_some(Floor { epoch, version: floor.version, sha256: floor.sha256 }))
    }

    pub(crate) fn set_floor(
        &self,
        registry: &RegistryName,
        epoch: u64,
        version: u64,
        sha256: Digest,
    ) -> Result<(), SiteError> {
        let floor = StoredFloor { registry: registry.clone(), epoch, version, sha256 };
        Ok(files::write_durably(&self.folder.join("floor.json"), &line(&floor), true)?)
    }

    /// Waits for other publishers that use this folder: their floor and refusals are the same files.
    ///
    /// # Errors
    /// `Locked` after a minute.
    pub(crate) fn lock(&self) -> Result<Lock, SiteError> {
        Ok(site::wait_for_lock(&self.folder.join("publish.lock"))?)
    }

    /// A folder for what a long command has finished so far.
    pub fn notes(&self, command: &str) -> PathBuf {
        self.folder.join(command)
    }

    /// Notes a refusal for the next segment, without paths of this machine: segments are public.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn refuse(&self, row: Row) -> Result<(), FileError> {
        let path = self.journal();
        let write = FileError::write(&path);
        fs::create_dir_all(&self.folder).map_err(&write)?;
        let mut file = File::options().create(true).append(true).open(&path).map_err(&write)?;
        if file.metadata().map_err(&write)?.len() < JOURNAL_BYTES {
            let reason = row.reason.map(|reason| public::without_paths(&reason, &[]));
            file.write_all(&line(&Row { refused: true, reason, ..row })).map_err(&write)?;
        }
        file.sync_all().map_err(&write)
    }

    /// Takes the waiting refusals; a run that crashed after taking them is taken up again.
    pub(crate) fn begin_folding(&self) -> Result<Folding, SiteError> {
        let (journal, taken) = (self.journal(), self.folder.join("refused.taken.jsonl"));
        if !taken.exists() && journal.exists() {
            fs::rename(&journal, &taken).map_err(FileError::write(&journal))?;
        }
        let rows = match files::read_bounded(&taken, JOURNAL_BYTES * 2) {
            Ok(rows) => rows,
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Folding { taken, rows })
    }

    /// Another file of a signer's memory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn journal(&self) -> PathBuf {
        self.folder.join("refused.jsonl")
    }
}

impl Folding {
    /// The segment of head `version`: this row first, then those that belong to it, then the refusals.
    pub(crate) fn segment(
        &self,
        site: &Site,
        published: &Published,
        version: u64,
        row: Row,
        further: Vec<Row>,
    ) -> Result<Vec<u8>, SiteError> {
        let previous_head = published.head_digest();
        let previous = match &previous_head {
            Some(head) => {
                let name = path::log(published.version(), head);
                site.find(&name, SEGMENT_BYTES)?.map(|bytes| Digest::of(&bytes))
            }
            None => None,
        };
        let previous_version =
            previous_head.map(|_| published.version()).filter(|before| before.checked_add(1) != Some(version));
        let row = Row { head_version: Some(version), previous, previous_head, previous_version, ..row };
        let mut segment = line(&row);
        for own in further {
            segment.extend(line(&Row { time: row.time, head_version: Some(version), ..own }));
        }
        for text in self.rows.split(|byte| *byte == b'\n') {
            // A line that a crash cut short is left out.
            if let Ok(row) = serde_json::from_slice::<Row>(text) {
                segment.extend(line(&Row { head_version: Some(version), ..row }));
            }
        }
        Ok(segment)
    }

    /// Forgets the refusals: they are published.
    pub(crate) fn finish(self) -> Result<(), SiteError> {
        match fs::remove_file(&self.taken) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(FileError::write(&self.taken)(error).into())
            }
            _ => Ok(()),
        }
    }
}

/// An envelope's signatures for a row.
pub(crate) fn signatures(envelope: &Envelope) -> Vec<LoggedSignature> {
    let logged = |one: &Signature| LoggedSignature { keyid: one.keyid, sig: STANDARD.encode(&one.sig) };
    envelope.signatures.iter().map(logged).collect()
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // These types hold only strings, numbers and lists of them: they always have a JSON form.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
