//! DSSE envelopes, the one signed shape (docs/format.md section 6; DSSE 1.0.2).
//!
//! The payload's bytes are verified before they are parsed, and then those very bytes are
//! parsed: there is no canonicalisation to disagree about.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::error::VerifyError;
use crate::{json, limits};

/// The only payload type: an in-toto statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A signed payload that nothing has verified yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "Wire")]
pub struct Envelope {
    /// The type that is signed with the payload.
    pub payload_type: String,
    /// The very bytes that are signed and parsed.
    pub payload: Vec<u8>,
    /// Signatures by different keys.
    pub signatures: Vec<Signature>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// A hint which key made it; decides nothing.
    pub keyid: Digest,
    /// In its key's form (docs/format.md section 6): 64 bytes of Ed25519, or the DER of ECDSA.
    pub sig: Vec<u8>,
}

/// The bytes that are signed: DSSE's pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Envelope {
    /// An envelope of a statement's bytes without signatures yet.
    ///
    /// # Errors
    /// `PayloadTooLarge` if a key could not sign that much.
    pub fn new(payload: Vec<u8>) -> Result<Self, VerifyError> {
        let size = pae(PAYLOAD_TYPE, &payload).len();
        if size > limits::SIGNED_BYTES {
            return Err(VerifyError::PayloadTooLarge { size, limit: limits::SIGNED_BYTES });
        }
        Ok(Self { payload_type: PAYLOAD_TYPE.to_owned(), payload, signatures: Vec::new() })
    }

    /// Parses an envelope that stands alone, such as `head.json`.
    ///
    /// # Errors
    /// `SizeExceeded`, `NotARegistry` or `Malformed`.
    pub fn parse(bytes: &[u8], limit: u64, what: &'static str) -> Result<Self, VerifyError> {
        Self::deserialize(json::value(bytes, limit, what)?).map_err(|error| VerifyError::malformed(what, error))
    }

    /// The JSON text, with a newline at its end.
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    /// The bytes that its signatures are for.
    pub fn signed_bytes(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// The statement's digest: that of the payload, so further signatures do not change it.
    pub fn statement(&self) -> Digest {
        Digest::of(&self.payload)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    payload_type: String,
    payload: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize)]
struct WireSignature {
    keyid: Digest,
    sig: String,
}

impl From<Envelope> for Wire {
    fn from(envelope: Envelope) -> Self {
        let signatures = envelope.signatures.into_iter();
        Self {
            payload_type: envelope.payload_type,
            payload: STANDARD.encode(envelope.payload),
            signatures: signatures
                .map(|one| WireSignature { keyid: one.keyid, sig: STANDARD.encode(&one.sig) })
                .collect(),
        }
    }
}

/// By hand: DSSE has readers ignore what they do not know and producers choose between two
/// alphabets, so "written again it is the same", which keeps all else in one form
/// ([`crate::json`]), does not hold here. The known fields are objects and texts, nothing else.
impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_fields(Map::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Envelope {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self, String> {
        let payload_type = text(&mut fields, "payloadType")?;
        let payload = decode(&text(&mut fields, "payload")?)?;
        let Some(Value::Array(signatures)) = fields.remove("signatures") else {
            return Err("signatures is missing or not a list".to_owned());
        };
        if signatures.len() > limits::SIGNATURES {
            return Err(format!("more than {} signatures", limits::SIGNATURES));
        }
        let signatures = signatures.into_iter().map(Signature::from_value).collect::<Result<_, _>>()?;
        Ok(Self { payload_type, payload, signatures })
    }
}

impl Signature {
    fn from_value(value: Value) -> Result<Self, String> {
        let Value::Object(mut fields) = value else { return Err("a signature that is not an object".to_owned()) };
        let keyid = text(&mut fields, "keyid")?.parse().map_err(|error| format!("keyid: {error}"))?;
        let sig = decode(&text(&mut fields, "sig")?)?;
        if !limits::SIGNATURE_BYTES.contains(&sig.len()) {
            return Err(format!("a signature of {} bytes", sig.len()));
        }
        Ok(Self { keyid, sig })
    }
}

/// Takes a text out of an object.
fn text(fields: &mut Map<String, Value>, name: &str) -> Result<String, String> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(format!("{name} is missing or not a text")),
    }
}

/// DSSE lets a producer choose the standard or the URL-safe alphabet; both with padding.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let url_safe = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let alphabet = if url_safe { &URL_SAFE } else { &STANDARD };
    alphabet.decode(text).map_err(|error| format!("not base64: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of DSSE protocol.md.
    #[test]
    fn pae_vector() {
        let bytes = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(bytes, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }
}
