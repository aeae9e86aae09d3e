//! How each vector is built. What a host does with one is in `vectors.rs`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{Platform, ServerName};
use mcpfs_trust::release::TreeSummary;
use mcpfs_trust::time::Timestamp;
use serde::{Deserialize, Serialize};

mod content;
mod forms;
mod metadata;
mod p256;
mod releases;

/// One frozen input with its outcome: `ok` or the name of the error.
#[derive(Serialize, Deserialize, PartialEq)]
pub(crate) struct Vector {
    pub(crate) about: String,
    pub(crate) outcome: String,
    pub(crate) input: Input,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Input {
    TrustRoot {
        bytes: Bytes,
        seen: Option<SeenRoot>,
    },
    Head {
        trust: Bytes,
        head: Bytes,
        floor: Option<SeenHead>,
        signed_time: Option<Timestamp>,
        now: Timestamp,
    },
    Release {
        trust: Bytes,
        head: Bytes,
        catalogue: Bytes,
        bin: Bytes,
        entry: Bytes,
        now: Timestamp,
        name: ServerName,
        pin: Option<Pinned>,
        platform: Platform,
        published: Option<Digest>,
    },
    Tree {
        summary: TreeSummary,
        bytes: Bytes,
    },
    Layout {
        tree: Bytes,
        bytes: Bytes,
    },
    Chunk {
        record: Chunk,
        bytes: Bytes,
    },
}

#[derive(Serialize, Deserialize, PartialEq, Clone)]
pub(crate) struct SeenRoot {
    pub(crate) version: u64,
    /// The first one, if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<u64>,
    pub(crate) sha256: Digest,
}

#[derive(Serialize, Deserialize, PartialEq, Clone)]
pub(crate) struct SeenHead {
    pub(crate) epoch: u64,
    pub(crate) version: u64,
    pub(crate) sha256: Digest,
}

#[derive(Serialize, Deserialize, PartialEq, Clone)]
pub(crate) struct Pinned {
    pub(crate) version: mcpfs_trust::name::Version,
    pub(crate) artefact: Option<Digest>,
}

/// Bytes, as base64 in the file.
#[derive(Serialize, Deserialize, PartialEq, Clone)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        STANDARD.encode(bytes.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Self)
    }
}

/// All vectors by file name.
pub(crate) fn all() -> BTreeMap<String, Vector> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, about: &str, outcome: &str, input: Input| {
        let vector = Vector { about: about.to_owned(), outcome: outcome.to_owned(), input };
        assert!(all.insert(name.to_owned(), vector).is_none(), "{name} twice");
    };
    metadata::trust_roots(&mut add);
    metadata::heads(&mut add);
    releases::releases(&mut add);
    forms::all(&mut add);
    p256::all(&mut add);
    content::trees(&mut add);
    content::layouts_and_chunks(&mut add);
    all
}

type Add<'a> = dyn FnMut(&str, &str, &str, Input) + 'a;
