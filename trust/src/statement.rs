//! in-toto statements: what an envelope of ours holds (docs/format.md section 6).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{VerifyError, bounded};
use crate::{json, limits};

/// `_type` of every statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// A statement about subjects. It says nothing until a signature over its bytes verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement<P> {
    /// What it is about, by digest.
    pub subject: Vec<Subject>,
    /// What it says.
    pub predicate: P,
}

/// A named digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WireSubject", into = "WireSubject")]
pub struct Subject {
    /// Such as `catalogue` or `tree/linux/amd64`.
    pub name: String,
    /// Its SHA-256.
    pub digest: Digest,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSubject {
    name: String,
    digest: DigestSet,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DigestSet {
    sha256: Digest,
}

impl From<Subject> for WireSubject {
    fn from(subject: Subject) -> Self {
        Self { name: subject.name, digest: DigestSet { sha256: subject.digest } }
    }
}

impl From<WireSubject> for Subject {
    fn from(wire: WireSubject) -> Self {
        Self { name: wire.name, digest: wire.digest.sha256 }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wire<P> {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: P,
}

impl<P: Serialize + DeserializeOwned> Statement<P> {
    /// Parses a payload whose signatures have been counted already.
    ///
    /// # Errors
    /// `WrongPredicate` for a statement of another kind, `Malformed` for what is none.
    pub fn parse(payload: &[u8], predicate_type: &'static str) -> Result<Self, VerifyError> {
        let value = json::value(payload, limits::SIGNED_BYTES as u64, "statement")?;
        // The two types first, so that a statement of another kind is told from a broken one.
        for (field, expected) in [("_type", STATEMENT_TYPE), ("predicateType", predicate_type)] {
            let Some(found) = value.get(field).and_then(Value::as_str) else {
                return Err(VerifyError::malformed("statement", format!("{field} is missing or not a text")));
            };
            if found != expected {
                return Err(VerifyError::WrongPredicate { expected, found: bounded(found) });
            }
        }
        let wire: Wire<P> = json::read(&value).map_err(|error| VerifyError::malformed("statement", error))?;
        Ok(Self { subject: wire.subject, predicate: wire.predicate })
    }

    /// The payload bytes: compact JSON, fields in the order of the types.
    pub fn encode(self, predicate_type: &'static str) -> Vec<u8> {
        json::encode_compact(&Wire {
            kind: STATEMENT_TYPE.to_owned(),
            subject: self.subject,
            predicate_type: predicate_type.to_owned(),
            predicate: self.predicate,
        })
    }
}
