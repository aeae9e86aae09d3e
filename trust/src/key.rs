//! Public keys, their ids and their signatures (docs/format.md section 5).
//!
//! The algorithm belongs to the key, and the host's own trust root says it. An envelope names
//! none, so nobody who sends one can choose how it is verified. Each key, and each signature,
//! has exactly one spelling: a second one would let one key count as two, or let a signed
//! envelope change without its signer.

use ed25519_dalek::VerifyingKey as Ed25519Key;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature as EcdsaSignature, VerifyingKey as P256Key};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::VerifyError;

/// How a key's signatures are made and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Plain Ed25519 (RFC 8032).
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA on NIST P-256 over SHA-256 (FIPS 186-5): what TPMs and FIPS sites have.
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ed25519, Self::EcdsaP256];

    /// Its name in `trust.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256",
        }
    }

    /// How many bytes a public key has.
    fn key_bytes(self) -> usize {
        match self {
            Self::Ed25519 => 32,
            Self::EcdsaP256 => 65,
        }
    }

    /// The DER of `SubjectPublicKeyInfo` before the key's bytes (RFC 8410 section 4; RFC 5480).
    fn spki_prefix(self) -> &'static [u8] {
        match self {
            Self::Ed25519 => b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00",
            Self::EcdsaP256 => {
                b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
            }
        }
    }
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A public key that is on its curve and not weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(Point);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Ed25519(Ed25519Key),
    EcdsaP256(P256Key),
}

impl PublicKey {
    /// Takes the bytes of `trust.json` as a key: 32 bytes of Ed25519, or the 65 bytes of an
    /// uncompressed point of P-256.
    ///
    /// # Errors
    /// `TrustRootUnsafe` if they are not that, not a point of the curve, or one of small order,
    /// for which signatures can be made without the private key.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, VerifyError> {
        let refuse = |detail: String| VerifyError::TrustRootUnsafe { detail };
        let off_curve = |_| refuse("a public key that is not on the curve".to_owned());
        if bytes.len() != algorithm.key_bytes() {
            let wanted = algorithm.key_bytes();
            return Err(refuse(format!("a public {algorithm} key of {} bytes; it has {wanted}", bytes.len())));
        }
        match algorithm {
            Algorithm::Ed25519 => {
                let key = Ed25519Key::try_from(bytes).map_err(off_curve)?;
                // RFC 8032 section 5.1.3: a number of 2^255 - 19 or more is no coordinate.
                if key.to_edwards().compress().as_bytes() != bytes {
                    return Err(refuse("a public ed25519 key that is not in its one form".to_owned()));
                }
                if key.is_weak() { Err(refuse("a weak public key".to_owned())) } else { Ok(Self(Point::Ed25519(key))) }
            }
            // The first byte says that the point is not compressed; other forms are of other lengths,
            // but for the "hybrid" one of 06 and 07.
            Algorithm::EcdsaP256 if bytes.first() != Some(&4) => {
                Err(refuse("a public ecdsa-p256 key that is not an uncompressed point (04, X, Y)".to_owned()))
            }
            Algorithm::EcdsaP256 => {
                let key = P256Key::from_sec1_bytes(bytes).map_err(off_curve)?;
                Ok(Self(Point::EcdsaP256(key)))
            }
        }
    }

    /// Takes a `SubjectPublicKeyInfo`, in the one form that [`PublicKey::spki_der`] gives.
    ///
    /// # Errors
    /// `TrustRootUnsafe` as [`PublicKey::from_bytes`], and for keys of other algorithms.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, VerifyError> {
        let known = Algorithm::ALL.into_iter().find_map(|one| Some((one, der.strip_prefix(one.spki_prefix())?)));
        match known {
            Some((algorithm, bytes)) => Self::from_bytes(algorithm, bytes),
            None => Err(VerifyError::TrustRootUnsafe {
                detail: "a public key that is neither ed25519 nor ecdsa-p256 with an uncompressed point".to_owned(),
            }),
        }
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Point::Ed25519(_) => Algorithm::Ed25519,
            Point::EcdsaP256(_) => Algorithm::EcdsaP256,
        }
    }

    /// SHA-256 of the key's `SubjectPublicKeyInfo` DER.
    pub fn id(&self) -> Digest {
        Digest::of(&self.spki_der())
    }

    /// Its bytes as `trust.json` has them.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.0 {
            Point::Ed25519(key) => key.to_bytes().to_vec(),
            Point::EcdsaP256(key) => key.to_sec1_point(false).as_bytes().to_vec(),
        }
    }

    /// The key as every other tool reads it.
    pub fn spki_der(&self) -> Vec<u8> {
        [self.algorithm().spki_prefix(), &self.to_bytes()].concat()
    }

    /// Whether `signature` is this key's for `message`: strict, so that no second signature
    /// can be made from a good one and all verifiers agree.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Point::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            Point::EcdsaP256(key) => {
                ecdsa_signature(signature).is_some_and(|signature| key.verify(message, &signature).is_ok())
            }
        }
    }
}

/// An ECDSA signature in its one form: what it is written as again, with the lower of the two
/// values of S that verify.
fn ecdsa_signature(bytes: &[u8]) -> Option<EcdsaSignature> {
    let signature = EcdsaSignature::from_der(bytes).ok()?;
    (signature.normalize_s().to_der().as_bytes() == bytes).then_some(signature)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// RFC 6979 A.2.5, as `openssl pkey -pubin -outform DER | sha256sum` names it.
    #[test]
    fn spki_round_trips() {
        let point = P256Key::from_sec1_bytes(
            &[
                &[4][..],
                &hex("60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"),
                &hex("7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"),
            ]
            .concat(),
        )
        .unwrap();
        let key = PublicKey::from_bytes(Algorithm::EcdsaP256, point.to_sec1_point(false).as_bytes()).unwrap();
        assert_eq!(key.spki_der().len(), 91);
        assert_eq!(PublicKey::from_spki_der(&key.spki_der()).unwrap(), key);
        let mut longer = key.spki_der();
        longer.push(0);
        PublicKey::from_spki_der(&longer).unwrap_err();
        PublicKey::from_spki_der(&key.spki_der()[..90]).unwrap_err();
        PublicKey::from_spki_der(point.to_sec1_point(true).as_bytes()).unwrap_err();
        PublicKey::from_bytes(Algorithm::EcdsaP256, point.to_sec1_point(true).as_bytes()).unwrap_err();
    }

    fn hex(text: &str) -> Vec<u8> {
        text.parse::<Digest>().unwrap().as_bytes().to_vec()
    }
}
