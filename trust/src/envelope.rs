//! DSSE envelopes, the one signed shape (docs/format.md section 6; DSSE 1.0.2).
//!
//! The payload's bytes are verified before they are parsed, and then those very bytes are
//! parsed: there is no canonicalisation to disagree about.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::VerifyError;
use crate::{json, limits};

/// The only payload type: an in-toto statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A signed payload that nothing has verified yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
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
    /// Raw Ed25519.
    pub sig: [u8; 64],
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
        json::parse(bytes, limit, what)
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

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    payload_type: String,
    payload: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
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
                .map(|one| WireSignature { keyid: one.keyid, sig: STANDARD.encode(one.sig) })
                .collect(),
        }
    }
}

impl TryFrom<Wire> for Envelope {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        if wire.signatures.len() > limits::SIGNATURES {
            return Err(format!("more than {} signatures", limits::SIGNATURES));
        }
        let signature = |one: WireSignature| {
            let sig = decode(&one.sig)?.try_into().map_err(|_| "a signature that is not 64 bytes")?;
            Ok(Signature { keyid: one.keyid, sig })
        };
        Ok(Self {
            payload_type: wire.payload_type,
            payload: decode(&wire.payload)?,
            signatures: wire.signatures.into_iter().map(signature).collect::<Result<_, String>>()?,
        })
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
