//! Statements and heads: what is signed, and when an old signature is used again.
//!
//! (name, version) has one statement, for ever. A release that is published again is not
//! signed anew: its statement is reused byte for byte, `issued` and `source` included, and
//! only signatures of further keys are added. A recipe that says something else under the
//! same version is refused; a re-review is a new version, `+rN`.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Listed;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::head::{CATALOGUE_SUBJECT, HEAD_TYPE, Head};
use mcpfs_trust::limits;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::release::{RELEASE_TYPE, Release};
use mcpfs_trust::statement::{Statement, Subject};

use crate::key::{self, KeyError, SigningKey};

/// Why something is not signed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum SignError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("no key was given; add --key URI")]
    NoKey,
    #[error("PayloadTooLarge: the statement of {name} {version} cannot be signed; shorten the recipe's texts or lists")]
    Payload { name: ServerName, version: Version, source: Box<VerifyError> },
    #[error("ReleaseChanged: {name} {version} is published already and says something else in {fields}. A published \
             version never changes: give the recipe a new version, such as {next}", fields = fields.join(", "))]
    ReleaseChanged { name: ServerName, version: Version, fields: Vec<String>, next: String },
    #[error("the published statement of {name} {version} cannot be read")]
    Published { name: ServerName, version: Version, source: Box<VerifyError> },
    #[error(
        "KeyNotAuthorised: key {key} signs no releases of {name} in this trust root; add it first, by \
             `trust edit --add-release-key`"
    )]
    NoRole { key: Digest, name: ServerName },
    #[error("{name} {version} has {limit} signatures, which is the most an envelope may have")]
    TooManySignatures { name: ServerName, version: Version, limit: usize },
}

/// A release's envelope: the published statement if there is one, with signatures of `keys`.
///
/// # Errors
/// `ReleaseChanged`, `PayloadTooLarge`, or whatever a key says.
pub fn release(
    wanted: &Release,
    published: Option<&Listed>,
    keys: &[Box<dyn SigningKey>],
) -> Result<(Release, Envelope), SignError> {
    let (release, mut envelope) = match published {
        Some(listed) => (published_release(wanted, listed)?, listed.envelope.clone()),
        None => (wanted.clone(), statement(wanted)?),
    };
    add_signatures(&mut envelope, &release.registry, keys.iter().map(AsRef::as_ref)).map_err(|error| match error {
        Some(error) => SignError::Key(error),
        None => SignError::TooManySignatures {
            name: release.name.clone(),
            version: release.version.clone(),
            limit: limits::SIGNATURES,
        },
    })?;
    match envelope.signatures.is_empty() {
        true => Err(SignError::NoKey),
        false => Ok((release, envelope)),
    }
}

/// A head's envelope.
///
/// # Errors
/// Whatever a key says.
pub fn head(head: Head, catalogue: Digest, keys: &[Box<dyn SigningKey>]) -> Result<Envelope, SignError> {
    let registry = head.registry.clone();
    let subject = vec![Subject { name: CATALOGUE_SUBJECT.to_owned(), digest: catalogue }];
    let payload = Statement { subject, predicate: head }.encode(HEAD_TYPE);
    let signatures =
        keys.iter().map(|key| key::sign(key.as_ref(), &registry, &payload)).collect::<Result<Vec<_>, _>>()?;
    if signatures.is_empty() {
        return Err(SignError::NoKey);
    }
    Ok(Envelope { payload_type: mcpfs_trust::envelope::PAYLOAD_TYPE.to_owned(), payload, signatures })
}

fn statement(release: &Release) -> Result<Envelope, SignError> {
    let payload = Statement { subject: release.subjects(), predicate: release.clone() }.encode(RELEASE_TYPE);
    Envelope::new(payload).map_err(|source| SignError::Payload {
        name: release.name.clone(),
        version: release.version.clone(),
        source: Box::new(source),
    })
}

/// The published release, if `wanted` says the same in every field that a recipe gives.
fn published_release(wanted: &Release, listed: &Listed) -> Result<Release, SignError> {
    let (name, version) = (wanted.name.clone(), wanted.version.clone());
    // The signed bytes count, not the readable copy beside them.
    let statement = Statement::<Release>::parse(&listed.envelope.payload, RELEASE_TYPE).map_err(|source| {
        SignError::Published { name: name.clone(), version: version.clone(), source: Box::new(source) }
    })?;
    let published = statement.predicate;
    let same = Release { issued: published.issued, source: published.source.clone(), ..wanted.clone() };
    if same == published && statement.subject == same.subjects() {
        return Ok(published);
    }
    let next = next_version(&version);
    Err(SignError::ReleaseChanged { name, version, fields: differing(&same, &published), next })
}

/// The top-level fields in which two releases differ.
pub fn differing(a: &Release, b: &Release) -> Vec<String> {
    let fields = |release: &Release| match serde_json::to_value(release) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (a, b) = (fields(a), fields(b));
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

/// `1.2.0` → `1.2.0+r2` → `1.2.0+r3`.
fn next_version(version: &Version) -> String {
    let text = version.as_str();
    match text.rsplit_once("+r").and_then(|(base, number)| Some((base, number.parse::<u32>().ok()?))) {
        Some((base, number)) => format!("{base}+r{}", number.saturating_add(1)),
        None => format!("{text}+r2"),
    }
}

/// Adds signatures of keys that have none yet; `Err(None)` if there is no room.
pub(crate) fn add_signatures<'k>(
    envelope: &mut Envelope,
    registry: &RegistryName,
    keys: impl IntoIterator<Item = &'k dyn SigningKey>,
) -> Result<(), Option<KeyError>> {
    let message = envelope.signed_bytes();
    for key in keys {
        let public = key.public();
        if envelope.signatures.iter().any(|one| one.keyid == public.id() && public.verify(&message, &one.sig)) {
            continue;
        }
        envelope.signatures.retain(|one| one.keyid != public.id());
        if envelope.signatures.len() >= limits::SIGNATURES {
            return Err(None);
        }
        envelope.signatures.push(key::sign(key, registry, &envelope.payload).map_err(Some)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn next_versions() {
        for (now, next) in [("1.2.0", "1.2.0+r2"), ("1.2.0+r2", "1.2.0+r3"), ("1+rx", "1+rx+r2")] {
            assert_eq!(next_version(&now.parse().unwrap()), next);
        }
    }
}
