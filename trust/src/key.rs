//! Public keys and their ids (docs/format.md section 5).

use ed25519_dalek::{Signature, VerifyingKey};

use crate::digest::Digest;
use crate::error::VerifyError;

/// The DER of `SubjectPublicKeyInfo` for Ed25519 before the 32 key bytes (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An Ed25519 public key that is on the curve and not weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Takes 32 bytes as a key.
    ///
    /// # Errors
    /// `TrustRootUnsafe` if they are not a point of the curve, or one of small order, for
    /// which signatures can be made without the private key.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, VerifyError> {
        let refuse = |detail: &str| VerifyError::TrustRootUnsafe { detail: detail.to_owned() };
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| refuse("a public key that is not on the curve"))?;
        if key.is_weak() { Err(refuse("a weak public key")) } else { Ok(Self(key)) }
    }

    /// SHA-256 of the key's `SubjectPublicKeyInfo` DER.
    pub fn id(&self) -> Digest {
        Digest::of(&self.spki_der())
    }

    /// The raw 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The key as every other tool reads it.
    pub fn spki_der(&self) -> Vec<u8> {
        let mut der = SPKI_PREFIX.to_vec();
        der.extend_from_slice(self.0.as_bytes());
        der
    }

    /// Whether `signature` is this key's for `message`: strict, so that no second signature
    /// can be made from a good one and all verifiers agree.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}
