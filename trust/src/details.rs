//! The details of a release: what its signer saw, beside what it signed (docs/format.md section 8).
//!
//! The statement must stay below what key services sign, and a list of packages does not fit into
//! it. So the entry names this object by digest, as it names layouts, and the head vouches for it. It
//! answers questions ("who carries lodash?") and decides nothing: no release is admitted or refused
//! for what stands here.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::VerifyError;
use crate::name::Platform;
use crate::time::Timestamp;
use crate::{chunk, json, limits};

/// `schema` of details.
pub const DETAILS_SCHEMA: &str = "mcpfs.details/v1";

/// What is known of a release besides its statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Details {
    /// [`DETAILS_SCHEMA`].
    pub schema: String,
    /// The check that the release passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Checked>,
    /// The packages in each platform's artefact, in platform order; absent if they are not listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<Carried>,
}

/// The packages in one platform's artefact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The platform.
    pub platform: Platform,
    /// Its packages, in order, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
    /// Files that should list packages and could not be read: the list may lack some.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreadable: u64,
}

/// One package, as the artefact itself names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// `npm`, `pypi`, `cargo` or `go`.
    pub ecosystem: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

/// A check that was passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    /// When.
    pub at: Timestamp,
    /// By which program.
    pub by: String,
    /// Warnings that the reviewer saw.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub warnings: u64,
    /// Notes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub notes: u64,
    /// Waivers that were applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waivers: Vec<String>,
    /// What was looked for besides, each with its tool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub looks: Vec<String>,
    /// The tools that the server offered in a trial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
}

/// A tool as a server describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The beginning of what a model reads about it.
    pub description: String,
}

impl Details {
    /// Reads the details that an entry names, exactly.
    ///
    /// # Errors
    /// `DigestMismatch`, `SizeExceeded` or `Malformed`.
    pub fn read(bytes: &[u8], sha256: &Digest) -> Result<Self, VerifyError> {
        chunk::expect("details", sha256, bytes)?;
        let details: Self = json::parse(bytes, limits::DETAILS_BYTES, "details")?;
        if details.schema != DETAILS_SCHEMA {
            return Err(VerifyError::malformed("details", format!("schema is not {DETAILS_SCHEMA}")));
        }
        for carried in &details.carried {
            if carried.packages.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(VerifyError::malformed("details", "packages are not in order, each once"));
            }
        }
        match details.carried.windows(2).any(|pair| pair[0].platform >= pair[1].platform) {
            true => Err(VerifyError::malformed("details", "carried is not in platform order")),
            false => Ok(details),
        }
    }

    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        json::encode_compact(self)
    }
}

impl Package {
    /// `npm:zod@4.1.0`
    pub fn id(&self) -> String {
        format!("{}:{}@{}", self.ecosystem, self.name, self.version)
    }
}

// serde gives a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn package(name: &str) -> Package {
        Package { ecosystem: "npm".into(), name: name.into(), version: "1.0.0".into(), licence: None }
    }

    fn details(packages: Vec<Package>) -> Details {
        let carried = Carried { platform: Platform::any(), packages, unreadable: 0 };
        Details { schema: DETAILS_SCHEMA.into(), check: None, carried: vec![carried] }
    }

    #[test]
    fn details_have_one_form() {
        let good = details(vec![package("a"), package("b")]);
        let bytes = good.encode();
        assert_eq!(Details::read(&bytes, &Digest::of(&bytes)).unwrap(), good);
        let code = |bytes: &[u8], sha256: &Digest| Details::read(bytes, sha256).unwrap_err().code().to_string();
        assert_eq!(code(&bytes, &Digest::EMPTY), "DigestMismatch");
        for bad in [details(vec![package("b"), package("a")]), details(vec![package("a"), package("a")])] {
            let bytes = bad.encode();
            assert_eq!(code(&bytes, &Digest::of(&bytes)), "Malformed");
        }
        for text in [
            r#"{"schema":"mcpfs.details/v2"}"#,
            r#"{"schema":"mcpfs.details/v1","carried":[]}"#,
            r#"{"schema":"mcpfs.details/v1","check":null}"#,
            r#"{"schema":"mcpfs.details/v1","carried":[{"platform":"any","packages":[["npm","a","1",null]]}]}"#,
            r#"{"schema":"mcpfs.details/v1","carried":[{"platform":"any"},{"platform":"any"}]}"#,
            r#"{"schema":"mcpfs.details/v1","admit":true}"#,
        ] {
            assert_eq!(code(text.as_bytes(), &Digest::of(text.as_bytes())), "Malformed", "{text}");
        }
    }
}
