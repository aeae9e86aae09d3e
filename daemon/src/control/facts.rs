//! What `status`, `list`, `explain` and `refresh` answer: facts, without a word of layout.
//! `--json` prints them as they are, so their names are public.

use std::path::PathBuf;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::release::{Artefact, Source};
use mcpfs_trust::time::{Date, Timestamp};
use serde::{Deserialize, Serialize};

/// The state of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's clock.
    pub now: Timestamp,
    /// The registry that the trust root names.
    pub registry: String,
    /// The trust root's version.
    pub trust_version: u64,
    /// The accepted head, if there is one.
    pub head: Option<Head>,
    /// What `registry.max_stale` stops next if no newer head comes; none if nothing starts.
    #[serde(default)]
    pub next_stop: Option<NextStop>,
    /// The last look at the site.
    pub refreshed: Timestamp,
    /// Why the last look failed, if it did.
    pub refresh_error: Option<Reason>,
    /// Names that start.
    pub servers: u64,
    /// Names that do not, up to [`super::protocol::PAGE`]; hidden ones are not counted.
    pub refused: Vec<RefusedName>,
    /// How many there are.
    pub refused_count: u64,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// `passthrough` or `cached`.
    pub reads: String,
    /// Whether a new daemon can take the mount over.
    pub takeover: bool,
    /// Bytes of the cache on disk, in whole blocks; still growing while a started daemon looks through it.
    pub cache_bytes: u64,
    /// What it may hold, bytes.
    pub cache_quota: u64,
    /// Free bytes of its file system; none if that does not say.
    #[serde(default)]
    pub cache_free: Option<u64>,
    /// How many of them it leaves to others: `cache.keep_free`.
    #[serde(default)]
    pub cache_keep_free: u64,
    /// Bytes of chunks in memory, on their way into the cache.
    #[serde(default)]
    pub in_flight: u64,
    /// How many files it may have open at once; none if that is not limited.
    #[serde(default)]
    pub open_files: Option<u64>,
    /// How often files of the mount are open. With cached reads a worker that took over knows of those
    /// that were read since.
    #[serde(default)]
    pub open_handles: u64,
    /// Servers that are shown and lack a credential on this host, with the first of them; up to
    /// [`super::protocol::PAGE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<RefusedName>,
    /// Why the audit cannot be written, if it cannot.
    pub audit_error: Option<String>,
    /// How long rows of the audit are kept: `400d`, or `forever`.
    #[serde(default)]
    pub audit_kept: String,
    /// When its oldest row was written, if there is one.
    #[serde(default)]
    pub audit_oldest: Option<Timestamp>,
    /// When rows were last removed, if some were.
    #[serde(default)]
    pub audit_cut: Option<Timestamp>,
    /// Why rows stay that are old enough, if they do.
    #[serde(default)]
    pub audit_kept_because: Option<String>,
    /// `required` or `off`.
    pub sandbox: String,
}

/// The accepted head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its version.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// The server that `registry.max_stale` stops next; others may stop with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStop {
    /// Its name.
    pub name: String,
    /// When the last head that lists it was signed.
    pub issued: Timestamp,
    /// When it stops.
    pub at: Timestamp,
    /// Which share of `max_stale` is over, percent.
    pub share: u8,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The outcome code.
    pub code: String,
    /// One sentence.
    pub message: String,
}

/// A name that does not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedName {
    /// The server.
    pub name: String,
    /// Why not.
    pub reason: Reason,
}

/// One page of `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// In name order.
    pub servers: Vec<Row>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// One server in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The server.
    pub name: String,
    /// The version that `run` starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The class of the data it touches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_classification: Option<String>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Why `run` starts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Reason>,
    /// The group that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether that keeps whoever asks from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

/// All about one name, version or process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The server.
    pub name: String,
    /// The version asked for, else the one that `run` starts.
    pub version: Option<String>,
    /// The version that `run` starts.
    pub selected: Option<String>,
    /// The versions that this host shows.
    pub admitted: Vec<String>,
    /// Why the version asked for, or else the name, does not start.
    pub refused: Option<Reason>,
    /// What to do about it.
    pub advice: Option<String>,
    /// The group that it is for, and the setting that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupFacts>,
    /// This host's pin, as configuration writes it.
    pub pin: Option<String>,
    /// The head it was last seen under.
    pub head_version: Option<u64>,
    /// Whether it runs on stale word.
    pub stale: bool,
    /// Why, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_because: Option<String>,
    /// What it needs of this host's `[credentials]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<CredentialFacts>,
    /// The release, if it verified.
    pub release: Option<Box<ReleaseFacts>>,
    /// The process asked for.
    pub process: Option<ProcessFacts>,
}

/// The group that a server is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupFacts {
    /// Its name.
    pub name: String,
    /// Its number.
    pub gid: Option<u32>,
    /// The setting that says so.
    pub setting: String,
    /// Whether that lets whoever asks use it: its members, and root.
    pub yours: bool,
}

/// A credential that a release declares; never its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialFacts {
    /// What the release calls it.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The variable that it becomes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// or the name of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Why this host cannot give it, as far as its configuration tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A verified release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseFacts {
    /// Digest of the signed statement.
    pub statement: Digest,
    /// The artefact of this host's platform.
    pub artefact: Artefact,
    /// The keys whose signatures counted.
    pub keys: Vec<Digest>,
    /// One line for people.
    pub description: String,
    /// Who answers for it.
    pub maintainer: String,
    /// The class of the data it touches.
    pub data_classification: String,
    /// What it may do.
    pub scope: Vec<String>,
    /// Who reviewed it.
    pub reviewers: Vec<String>,
    /// When.
    pub reviewed_at: Date,
    /// When it was issued.
    pub issued: Timestamp,
    /// The reviewed commit.
    pub source: Option<Source>,
    /// The publisher's words if it was yanked and a pin keeps it.
    pub yanked: Option<String>,
}

/// A process that runs a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Its number.
    pub pid: u32,
    /// How it is known: `launch` (this daemon started it) or `exe` (its program lies in the mount).
    pub known_by: String,
}

/// What `refresh` and `reload` led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// The accepted head's version.
    pub head_version: Option<u64>,
    /// The one before the look.
    #[serde(default)]
    pub before: Option<u64>,
    /// Why the look at the site failed, if it did.
    pub error: Option<Reason>,
}
