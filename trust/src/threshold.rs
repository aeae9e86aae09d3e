//! The one place where signatures are counted, for heads and releases alike.
//!
//! Two copies of such a loop have drifted apart elsewhere, and one of them then counted one
//! key twice. Here: only keys of the role can count, each at most once, and the key id in
//! the envelope only chooses which key is tried first (docs/format.md section 6).

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::envelope::Envelope;
use crate::error::VerifyError;
use crate::root::{Role, TrustRoot};

/// Checks that enough of a role's keys signed the envelope; gives the ids that counted.
///
/// # Errors
/// `ThresholdNotMet` if genuine signatures are too few, `SignatureInvalid` if a key of the
/// role is named but did not sign these bytes, else `KeyNotAuthorised`.
pub(crate) fn check(envelope: &Envelope, root: &TrustRoot, role: &Role) -> Result<Vec<Digest>, VerifyError> {
    let message = envelope.signed_bytes();
    let mut counted = BTreeSet::new();
    for signature in &envelope.signatures {
        let hinted = role.keys.iter().filter(|id| **id == signature.keyid);
        let others = role.keys.iter().filter(|id| **id != signature.keyid);
        let signer =
            hinted.chain(others).find(|id| root.key(id).is_some_and(|key| key.verify(&message, &signature.sig)));
        counted.extend(signer.copied());
    }
    let needed = role.threshold.get() as usize;
    if counted.len() >= needed {
        return Ok(counted.into_iter().collect());
    }
    // Refused. What is left only chooses the words.
    let named = |known: bool| envelope.signatures.iter().find(|one| role.keys.contains(&one.keyid) == known);
    Err(match (counted.len(), named(true), named(false)) {
        (0, Some(signature), _) => VerifyError::SignatureInvalid { key: signature.keyid },
        (0, None, Some(signature)) => VerifyError::KeyNotAuthorised { key: signature.keyid },
        (found, _, _) => VerifyError::ThresholdNotMet { found, needed },
    })
}
