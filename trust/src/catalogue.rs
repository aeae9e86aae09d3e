//! The catalogue and its bins: which entry each name has (docs/format.md section 7).
//!
//! Neither is signed: the head names the catalogue by digest, the catalogue its bins, a bin
//! its entries. With 256 bins, publishing one server changes one of them.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::VerifyError;
use crate::name::{RegistryName, ServerName};
use crate::{json, limits};

/// `schema` of a catalogue.
pub const CATALOGUE_SCHEMA: &str = "mcpfs.catalogue/v1";
/// `schema` of a bin.
pub const BIN_SCHEMA: &str = "mcpfs.bin/v1";

/// The bins of one registry: one, or 256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// [`CATALOGUE_SCHEMA`].
    pub schema: String,
    /// The registry.
    pub registry: RegistryName,
    /// By the first byte of the name's SHA-256, or all in one.
    pub bins: Vec<Blob>,
}

/// A file of the site by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Its digest.
    pub sha256: Digest,
    /// Its size, bytes.
    pub size: u64,
}

/// A share of the registry's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// [`BIN_SCHEMA`].
    pub schema: String,
    /// In name order, each once.
    pub servers: Vec<BinServer>,
}

/// A server and its entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinServer {
    /// The server.
    pub name: ServerName,
    /// Its entry's digest.
    pub sha256: Digest,
    /// Its entry's size, bytes.
    pub size: u64,
}

/// The bin that `name` is in, of `bins` bins.
pub fn bin_of(name: &ServerName, bins: usize) -> usize {
    match bins {
        0 | 1 => 0,
        _ => usize::from(Digest::of(name.as_str().as_bytes()).as_bytes()[0]),
    }
}

impl Catalogue {
    /// A catalogue of these bins.
    pub fn new(registry: RegistryName, bins: Vec<Blob>) -> Self {
        Self { schema: CATALOGUE_SCHEMA.to_owned(), registry, bins }
    }

    /// Parses a catalogue.
    ///
    /// # Errors
    /// `Malformed` or `SizeExceeded`.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerifyError> {
        let catalogue: Self = json::parse(bytes, limits::CATALOGUE_BYTES, "catalogue")?;
        if catalogue.schema != CATALOGUE_SCHEMA {
            return Err(VerifyError::malformed("catalogue", format!("schema is not {CATALOGUE_SCHEMA}")));
        }
        if !matches!(catalogue.bins.len(), 1 | 256) {
            return Err(VerifyError::malformed("catalogue", format!("{} bins, not 1 or 256", catalogue.bins.len())));
        }
        match catalogue.bins.iter().all(|bin| bin.size <= limits::BIN_BYTES) {
            true => Ok(catalogue),
            false => Err(VerifyError::SizeExceeded { what: "bin", limit: limits::BIN_BYTES }),
        }
    }

    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }
}

impl Bin {
    /// A bin of these servers, put in order.
    pub fn new(mut servers: Vec<BinServer>) -> Self {
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        Self { schema: BIN_SCHEMA.to_owned(), servers }
    }

    /// Parses the bin at `index` of `bins`.
    ///
    /// # Errors
    /// `Malformed` or `SizeExceeded`.
    pub fn parse(bytes: &[u8], index: usize, bins: usize) -> Result<Self, VerifyError> {
        let bin: Self = json::parse(bytes, limits::BIN_BYTES, "bin")?;
        let bad = |detail: String| Err(VerifyError::malformed("bin", detail));
        if bin.schema != BIN_SCHEMA {
            return bad(format!("schema is not {BIN_SCHEMA}"));
        }
        if bin.servers.windows(2).any(|pair| pair[0].name >= pair[1].name) {
            return bad("names are not in ascending order".to_owned());
        }
        for server in &bin.servers {
            if bin_of(&server.name, bins) != index {
                return bad(format!("{} belongs in another bin", server.name));
            }
            if server.size > limits::ENTRY_BYTES {
                return Err(VerifyError::SizeExceeded { what: "entry", limit: limits::ENTRY_BYTES });
            }
        }
        Ok(bin)
    }

    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    /// The server with this name.
    pub fn find(&self, name: &ServerName) -> Option<&BinServer> {
        let at = self.servers.binary_search_by(|server| server.name.cmp(name)).ok()?;
        self.servers.get(at)
    }
}
