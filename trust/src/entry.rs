//! The entry: everything the site says about one server (docs/format.md section 8).
//!
//! Its top has the shape of the recipe, readable by people and simple programs; the signed
//! statement beside it is the only authority, and an entry whose readable part differs
//! from it is refused. Only `status`, `reason`, `layout` and `details` are not signed by release
//! keys: they are under the head.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::catalogue::Blob;
use crate::chunk::{self, Chunk};
use crate::digest::Digest;
use crate::envelope::Envelope;
use crate::error::VerifyError;
use crate::name::{Platform, Version};
use crate::release::Release;
use crate::{json, limits};

/// `schema` of an entry.
pub const ENTRY_SCHEMA: &str = "mcpfs.entry/v1";

/// One server's releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The release that the reviewed recipe names now.
    pub selected: Listed,
    /// The others, newest first.
    pub earlier: Vec<Listed>,
}

/// One release as an entry lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The readable part; equal to the signed one once verified.
    pub release: Release,
    /// The signed statement.
    pub envelope: Envelope,
    /// Whether it may be used.
    pub status: Status,
    /// Why it may not.
    pub reason: Option<String>,
    /// Where the bytes of each platform's tree lie, in the artefacts' order.
    pub layout: Vec<PlatformLayout>,
    /// What its signer saw in it: [`crate::details::Details`].
    pub details: Option<Blob>,
}

/// Whether a release may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Yes.
    Active,
    /// Only where a host pins it exactly.
    Yanked,
    /// Never again.
    Revoked,
}

/// Where the bytes of one platform's tree lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformLayout {
    /// The artefact's platform.
    pub platform: Platform,
    /// The chunks of the encoded tree; its digest and size are in the statement.
    pub tree: Vec<Chunk>,
    /// The encoded layout.
    pub layout: StoredLayout,
    /// Content chunks that a launch wants first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<Chunk>,
}

/// An encoded layout and its chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredLayout {
    /// Digest of the encoding.
    pub sha256: Digest,
    /// Size of the encoding, bytes.
    pub size: u64,
    /// Its chunks.
    pub chunks: Vec<Chunk>,
}

impl Entry {
    /// Parses an entry and checks its form and bounds; no signature is looked at.
    ///
    /// # Errors
    /// `Malformed`, `SizeExceeded` or `NotARegistry`.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerifyError> {
        let Value::Object(mut top) = json::value(bytes, limits::ENTRY_BYTES, "entry")? else {
            return Err(malformed("must be an object with named fields"));
        };
        if top.remove("schema").as_ref().and_then(Value::as_str) != Some(ENTRY_SCHEMA) {
            return Err(malformed(format!("schema is not {ENTRY_SCHEMA}")));
        }
        let earlier = match top.remove("earlier") {
            None => Vec::new(),
            Some(Value::Array(earlier)) if !earlier.is_empty() => earlier,
            Some(_) => return Err(malformed("earlier: must be a list of releases; leave it out if there are none")),
        };
        if earlier.len() >= limits::ENTRY_RELEASES {
            return Err(malformed(format!("more than {} releases", limits::ENTRY_RELEASES)));
        }
        let selected = Listed::from_map(top)?;
        let listed = |value| match value {
            Value::Object(map) => Listed::from_map(map),
            _ => Err(malformed("earlier: each must be an object with named fields")),
        };
        let earlier = earlier.into_iter().map(listed).collect::<Result<Vec<_>, _>>()?;
        let entry = Self { selected, earlier };
        entry.check()?;
        Ok(entry)
    }

    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        let mut top = Map::new();
        top.insert("schema".to_owned(), ENTRY_SCHEMA.into());
        top.append(&mut self.selected.to_map());
        if !self.earlier.is_empty() {
            let earlier = self.earlier.iter().map(|listed| Value::Object(listed.to_map()));
            top.insert("earlier".to_owned(), earlier.collect());
        }
        json::encode(&top)
    }

    /// All releases, the selected one first.
    pub fn releases(&self) -> impl Iterator<Item = &Listed> {
        std::iter::once(&self.selected).chain(&self.earlier)
    }

    /// The release with this version.
    pub fn find(&self, version: &Version) -> Option<&Listed> {
        self.releases().find(|listed| listed.release.version == *version)
    }

    fn check(&self) -> Result<(), VerifyError> {
        let mut versions = std::collections::HashSet::new();
        for listed in self.releases() {
            let release = &listed.release;
            if release.name != self.selected.release.name {
                return Err(malformed(format!("a release of {} under {}", release.name, self.selected.release.name)));
            }
            if !versions.insert(&release.version) {
                return Err(malformed(format!("version {} stands there twice", release.version)));
            }
            listed.check()?;
        }
        Ok(())
    }
}

impl Listed {
    /// The layout for `platform`: its own, or `any`.
    pub fn layout_for(&self, platform: &Platform) -> Option<&PlatformLayout> {
        self.layout.iter().find(|layout| layout.platform == *platform || layout.platform.is_any())
    }

    fn from_map(mut map: Map<String, Value>) -> Result<Self, VerifyError> {
        let envelope = map.remove("signature").ok_or_else(|| missing("signature"))?;
        let envelope = Envelope::deserialize(envelope).map_err(|error| malformed(format!("signature: {error}")))?;
        let status = take(&mut map, "status")?.ok_or_else(|| missing("status"))?;
        let layout = take(&mut map, "layout")?.ok_or_else(|| missing("layout"))?;
        let reason = take(&mut map, "reason")?;
        let details = take(&mut map, "details")?;
        let release = json::read(&Value::Object(map)).map_err(malformed)?;
        Ok(Self { release, envelope, status, reason, layout, details })
    }

    fn to_map(&self) -> Map<String, Value> {
        let value = |value: serde_json::Result<Value>| value.unwrap_or(Value::Null);
        let mut map = match serde_json::to_value(&self.release) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        map.insert("signature".to_owned(), value(serde_json::to_value(&self.envelope)));
        map.insert("status".to_owned(), value(serde_json::to_value(self.status)));
        if let Some(reason) = &self.reason {
            map.insert("reason".to_owned(), reason.clone().into());
        }
        map.insert("layout".to_owned(), value(serde_json::to_value(&self.layout)));
        if let Some(details) = &self.details {
            map.insert("details".to_owned(), value(serde_json::to_value(details)));
        }
        map
    }

    fn check(&self) -> Result<(), VerifyError> {
        if self
            .reason
            .as_ref()
            .is_some_and(|reason| reason.len() > limits::TEXT_BYTES || reason.chars().any(char::is_control))
        {
            return Err(malformed("reason is not one short line"));
        }
        if self.details.is_some_and(|details| details.size > limits::DETAILS_BYTES) {
            return Err(VerifyError::SizeExceeded { what: "details", limit: limits::DETAILS_BYTES });
        }
        let artefacts = self.release.artefact.all();
        if artefacts.iter().map(|one| &one.platform).ne(self.layout.iter().map(|one| &one.platform)) {
            return Err(malformed("layout and artefact name different platforms"));
        }
        for (artefact, stored) in artefacts.iter().zip(&self.layout) {
            let longest = stored.tree.len().max(stored.layout.chunks.len());
            if longest > limits::LISTED_CHUNKS || stored.first.len() > limits::FIRST_CHUNKS {
                return Err(malformed("more chunks than an entry may list"));
            }
            if stored.layout.size > limits::LAYOUT_BYTES || artefact.tree.size > limits::TREE_BYTES {
                return Err(VerifyError::SizeExceeded { what: "layout", limit: limits::LAYOUT_BYTES });
            }
            chunk::check_list("tree", &stored.tree, artefact.tree.size)?;
            chunk::check_list("layout", &stored.layout.chunks, stored.layout.size)?;
            stored.first.iter().try_for_each(Chunk::check)?;
        }
        Ok(())
    }
}

fn malformed(detail: impl std::fmt::Display) -> VerifyError {
    VerifyError::malformed("entry", detail)
}

fn missing(field: &str) -> VerifyError {
    malformed(format!("{field} is missing"))
}

/// Takes one field, in its one form, out of an object.
fn take<T: DeserializeOwned + Serialize>(map: &mut Map<String, Value>, field: &str) -> Result<Option<T>, VerifyError> {
    let value = map.remove(field).map(|value| json::read(&value)).transpose();
    value.map_err(|error| malformed(format!("{field}: {error}")))
}
