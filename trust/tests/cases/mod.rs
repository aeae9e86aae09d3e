//! How each vector is built and what is done with it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::layout::Layout;
use mcpfs_trust::name::{Platform, ServerName};
use mcpfs_trust::release::TreeSummary;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::tree::Tree;
use mcpfs_trust::verify::{self, Floor, Pin, Seen, SeenTrust};
use serde::{Deserialize, Serialize};

mod content;
mod metadata;

/// One frozen input with its outcome: `ok` or the name of the error.
#[derive(Serialize, Deserialize, PartialEq)]
pub struct Vector {
    pub about: String,
    pub outcome: String,
    pub input: Input,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Input {
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
pub struct SeenRoot {
    pub version: u64,
    pub sha256: Digest,
}

#[derive(Serialize, Deserialize, PartialEq, Clone)]
pub struct SeenHead {
    pub epoch: u64,
    pub version: u64,
    pub sha256: Digest,
}

#[derive(Serialize, Deserialize, PartialEq, Clone)]
pub struct Pinned {
    pub version: mcpfs_trust::name::Version,
    pub artefact: Option<Digest>,
}

/// Bytes, as base64 in the file.
#[derive(Serialize, Deserialize, PartialEq, Clone)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub Vec<u8>);

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

impl Vector {
    /// Does what a host does with such an input.
    pub fn run(&self) -> String {
        match self.input.verify() {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.code().to_string(),
        }
    }
}

impl Input {
    fn verify(&self) -> Result<(), VerifyError> {
        match self {
            Self::TrustRoot { bytes, seen } => {
                let seen = seen.as_ref().map(|seen| SeenTrust { version: seen.version, sha256: seen.sha256 });
                verify::trust_root(&bytes.0, seen.as_ref()).map(drop)
            }
            Self::Head { trust, head, floor, signed_time, now } => {
                let (root, _) = verify::trust_root(&trust.0, None)?;
                let floor = floor.as_ref();
                let floor = floor.map(|seen| Floor { epoch: seen.epoch, version: seen.version, sha256: seen.sha256 });
                let seen = Seen { floor, signed_time: *signed_time };
                let accepted = verify::head(&head.0, &root, &seen, *now)?;
                // What was accepted once is accepted again, and can be taken up after a restart.
                assert_eq!(verify::head(&head.0, &root, &accepted.seen, *now).unwrap(), accepted);
                assert_eq!(verify::restored_head(&head.0, &root, &accepted.seen).unwrap(), accepted);
                Ok(())
            }
            Self::Release { trust, head, catalogue, bin, entry, now, name, pin, platform, published } => {
                let (root, _) = verify::trust_root(&trust.0, None)?;
                let accepted = verify::head(&head.0, &root, &Seen::default(), *now)?;
                let catalogue = verify::catalogue(&catalogue.0, &accepted)?;
                let index = mcpfs_trust::catalogue::bin_of(name, catalogue.bins.len());
                let bin = verify::bin(&bin.0, &catalogue, index)?;
                let entry = verify::entry(&entry.0, &bin, name)?;
                let pin = pin.clone().map(|pin| Pin { version: pin.version, artefact: pin.artefact });
                let listed = verify::select(&entry, pin.as_ref())?;
                let version = &listed.release.version;
                let release = verify::release(&entry, version, &root, published.as_ref())?;
                verify::artefact(&release, platform, pin.as_ref())?;
                Ok(())
            }
            Self::Tree { summary, bytes } => {
                let tree = Tree::decode(&bytes.0, summary)?;
                assert_eq!(tree.encode(), bytes.0);
                Ok(())
            }
            Self::Layout { tree, bytes } => {
                let layout = Layout::decode(&bytes.0, &Tree::parse(&tree.0)?)?;
                assert_eq!(layout.encode(), bytes.0);
                Ok(())
            }
            Self::Chunk { record, bytes } => record.decode(&bytes.0).map(drop),
        }
    }
}

/// All vectors by file name.
pub fn all() -> BTreeMap<String, Vector> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, about: &str, outcome: &str, input: Input| {
        let vector = Vector { about: about.to_owned(), outcome: outcome.to_owned(), input };
        assert!(all.insert(name.to_owned(), vector).is_none(), "{name} twice");
    };
    metadata::trust_roots(&mut add);
    metadata::heads(&mut add);
    metadata::releases(&mut add);
    content::trees(&mut add);
    content::layouts_and_chunks(&mut add);
    all
}

type Add<'a> = dyn FnMut(&str, &str, &str, Input) + 'a;
