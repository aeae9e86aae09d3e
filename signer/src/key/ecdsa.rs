//! ECDSA P-256 signatures, from what tokens and key services return to the one form that hosts
//! take (docs/format.md section 6): DER with the lower of the two values of S that verify.
//!
//! Only the form is changed here. Whether it is a signature is for [`super::sign`] to see.

use mcpfs_trust::digest::Digest;
use p256::ecdsa::Signature;

/// What is signed of a message: its SHA-256.
pub(super) fn hashed(message: &[u8]) -> [u8; 32] {
    *Digest::of(message).as_bytes()
}

/// From R and S of 32 bytes each, as PKCS#11 has it; nothing if these are no numbers of the group.
pub(super) fn from_raw(bytes: &[u8]) -> Option<Vec<u8>> {
    Signature::from_slice(bytes).ok().map(normal)
}

/// From DER, as key services have it.
pub(super) fn from_der(bytes: &[u8]) -> Option<Vec<u8>> {
    Signature::from_der(bytes).ok().map(normal)
}

fn normal(signature: Signature) -> Vec<u8> {
    signature.normalize_s().to_der().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use mcpfs_trust::key::{Algorithm, PublicKey};
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer as _;

    use super::*;

    /// RFC 6979 A.2.5: the signature of "sample" has the higher S, that of "test" the lower one.
    #[test]
    fn either_s_becomes_the_lower_one() {
        let scalar: Digest = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721".parse().unwrap();
        let key = SigningKey::from_slice(scalar.as_bytes()).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        let public = PublicKey::from_bytes(Algorithm::EcdsaP256, point.as_bytes()).unwrap();
        for (message, lower) in [(b"sample".as_slice(), false), (b"test", true)] {
            let signature: Signature = key.sign(message);
            assert_eq!(signature.normalize_s() == signature, lower);
            assert_eq!(public.verify(message, signature.to_der().as_bytes()), lower);
            assert!(public.verify(message, &from_raw(&signature.to_bytes()).unwrap()));
        }
    }

    #[test]
    fn what_is_no_signature_stays_none() {
        for bad in [&[][..], &[0; 64], &[0xff; 64], &[1; 63], &[1; 65], b"\x30\x06\x02\x01\x01\x02\x01\x00"] {
            assert_eq!((from_raw(bad), from_der(bad)), (None, None), "{bad:02x?}");
        }
    }
}
