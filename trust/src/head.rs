//! The head: the one small object that changes (docs/format.md section 7).

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::RegistryName;
use crate::time::Timestamp;

/// `predicateType` of a head.
pub const HEAD_TYPE: &str = "urn:mcpfs:head:v1";

/// The name of its one subject.
pub const CATALOGUE_SUBJECT: &str = "catalogue";

/// The predicate of a head; its subject is the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The registry.
    pub registry: RegistryName,
    /// The trust root's epoch.
    pub epoch: u64,
    /// Rises by one with every head.
    pub version: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// When hosts stop believing it.
    pub expires: Timestamp,
    /// The catalogue; its digest is the subject.
    pub catalogue: CatalogueSize,
    /// Digest of the previous head's payload; absent in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
}

/// How large the catalogue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueSize {
    /// Bytes.
    pub size: u64,
}
