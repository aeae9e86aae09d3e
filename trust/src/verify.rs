//! Verification: one straight, numbered path from bytes to [`Verified`] values.
//!
//! The numbers are those of docs/format.md section 13, so that an auditor can read both
//! side by side. This crate keeps nothing: what was seen before comes in, what is to be
//! remembered goes out, and the caller stores it only after it has recorded the decision.
//! A head that is refused anywhere leaves nothing to store.
//!
//! Only this module can make a [`Verified`], so a function that takes one cannot be handed
//! anything else.

use std::ops::Deref;

use crate::catalogue::{Bin, Catalogue};
use crate::chunk;
use crate::digest::Digest;
use crate::entry::{Entry, Listed, Status};
use crate::envelope::{Envelope, PAYLOAD_TYPE};
use crate::error::{VerifyError, bounded, visible};
use crate::head::{CATALOGUE_SUBJECT, HEAD_TYPE, Head};
use crate::limits;
use crate::name::{Platform, ServerName, Version};
use crate::release::{Artefact, RELEASE_TYPE, Release};
use crate::root::{Role, TrustRoot};
use crate::statement::{Statement, Subject};
use crate::threshold;
use crate::time::Timestamp;

/// A value whose whole chain up to the trust root has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    keys: Vec<Digest>,
}

impl<T> Verified<T> {
    /// The ids of the keys that counted; empty for what is named by digest alone.
    pub fn keys(&self) -> &[Digest] {
        &self.keys
    }

    fn by_digest(value: T) -> Self {
        Self { value, keys: Vec::new() }
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The trust root that this host used last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenTrust {
    /// Its version.
    pub version: u64,
    /// Its epoch: one that went back would let heads count again that a later one has ended.
    pub epoch: u64,
    /// Digest of its canonical text, so that white space is no change.
    pub sha256: Digest,
}

/// The newest head that this host accepted: nothing older is ever accepted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// The epoch.
    pub epoch: u64,
    /// The version.
    pub version: u64,
    /// Digest of the head's payload.
    pub sha256: Digest,
}

/// What a host remembers between refreshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// The newest head accepted.
    pub floor: Option<Floor>,
    /// The latest `issued` of all heads accepted in the floor's epoch.
    pub signed_time: Option<Timestamp>,
}

impl Seen {
    /// What of it counts under a trust root of this epoch. The time goes with the number: whoever stole a head
    /// key may have shown a head of next year to a host whose clock was there for a moment.
    #[must_use]
    pub fn of_epoch(self, epoch: u64) -> Self {
        match self.floor {
            Some(floor) if floor.epoch != epoch => Self::default(),
            _ => self,
        }
    }
}

/// A verified head, and what to remember of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedHead {
    /// The head.
    pub head: Verified<Head>,
    /// The catalogue that it names.
    pub catalogue: Digest,
    /// To be stored.
    pub seen: Seen,
}

/// A host's own choice of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The version.
    pub version: Version,
    /// The artefact's digest, if the host insists on it.
    pub artefact: Option<Digest>,
}

/// Step 1: reads the trust root of the host's configuration.
///
/// # Errors
/// Everything that [`TrustRoot::parse`] refuses; `TrustRollback` and `TrustEquivocation`
/// against the root used last.
pub fn trust_root(bytes: &[u8], seen: Option<&SeenTrust>) -> Result<(TrustRoot, SeenTrust), VerifyError> {
    let root = TrustRoot::parse(bytes)?;
    let now = SeenTrust { version: root.version, epoch: root.epoch, sha256: Digest::of(&root.encode()) };
    match seen {
        Some(seen) if now.version < seen.version => {
            Err(VerifyError::TrustRollback { found: now.version, seen: seen.version })
        }
        Some(seen) if now.version == seen.version && now.sha256 != seen.sha256 => {
            Err(VerifyError::TrustEquivocation { version: now.version })
        }
        Some(seen) if now.epoch < seen.epoch => {
            Err(VerifyError::TrustEpochRollback { found: now.epoch, seen: seen.epoch })
        }
        _ => Ok((root, now)),
    }
}

/// Steps 2 to 7: accepts a fetched head, or says why not.
///
/// # Errors
/// Any of the head's errors in docs/format.md section 12. Nothing may be stored then.
pub fn head(bytes: &[u8], root: &TrustRoot, seen: &Seen, now: Timestamp) -> Result<AcceptedHead, VerifyError> {
    let seen = seen.of_epoch(root.epoch);
    // 2. A clock that went back would let expired heads live: the last signed time is a floor.
    if let Some(signed) = seen.signed_time
        && now < signed.plus(-limits::CLOCK_SKEW_SECONDS)
    {
        return Err(VerifyError::ClockRollback { now, signed });
    }
    // 3 and 4. Signatures over the bytes, then those bytes.
    let (head, envelope, catalogue) = signed_head(bytes, root)?;
    let sha256 = envelope.statement();
    // 5. Never back. A new epoch starts again from the root's minimum.
    if head.epoch != root.epoch {
        return Err(VerifyError::WrongEpoch { found: head.epoch, expected: root.epoch });
    }
    let floor = seen.floor;
    let lowest = floor.map_or(root.minimum_head, |floor| floor.version.max(root.minimum_head));
    if head.version < lowest {
        return Err(VerifyError::HeadRollback { found: head.version, floor: lowest });
    }
    if let Some(floor) = floor {
        if head.version == floor.version && sha256 != floor.sha256 {
            return Err(VerifyError::HeadEquivocation { version: head.version });
        }
        // 6. The next head names the one that this host knows.
        if floor.version.checked_add(1) == Some(head.version) && head.previous != Some(floor.sha256) {
            return Err(VerifyError::ChainBroken { version: head.version });
        }
    }
    // 7. Time.
    if head.issued > now.plus(limits::CLOCK_SKEW_SECONDS) {
        return Err(VerifyError::NotYetValid { issued: head.issued, now });
    }
    if now >= head.expires {
        return Err(VerifyError::HeadExpired { expires: head.expires });
    }
    let seen = Seen {
        floor: Some(Floor { epoch: head.epoch, version: head.version, sha256 }),
        signed_time: Some(seen.signed_time.map_or(head.issued, |signed| signed.max(head.issued))),
    };
    Ok(AcceptedHead { head, catalogue, seen })
}

/// Takes up again the head that this host accepted before it was restarted.
///
/// It must be exactly the floor. Its time is not looked at: whether what it admits is
/// stale is the host's question.
///
/// # Errors
/// As [`head`]; `HeadRollback` if the bytes are not those of the floor.
pub fn restored_head(bytes: &[u8], root: &TrustRoot, seen: &Seen) -> Result<AcceptedHead, VerifyError> {
    let (head, envelope, catalogue) = signed_head(bytes, root)?;
    if head.epoch != root.epoch {
        return Err(VerifyError::WrongEpoch { found: head.epoch, expected: root.epoch });
    }
    if head.version < root.minimum_head {
        return Err(VerifyError::HeadRollback { found: head.version, floor: root.minimum_head });
    }
    match seen.floor {
        Some(floor) if floor.version == head.version && floor.sha256 == envelope.statement() => {
            Ok(AcceptedHead { head, catalogue, seen: *seen })
        }
        Some(floor) => Err(VerifyError::HeadRollback { found: head.version, floor: floor.version }),
        None => Err(VerifyError::HeadRollback { found: head.version, floor: root.minimum_head }),
    }
}

/// Steps 3 and 4 of a head: bound, envelope, signatures, statement, registry, lifetime.
fn signed_head(bytes: &[u8], root: &TrustRoot) -> Result<(Verified<Head>, Envelope, Digest), VerifyError> {
    let envelope = Envelope::parse(bytes, limits::HEAD_BYTES, "head")?;
    let keys = signed_by(&envelope, root, std::slice::from_ref(&root.head))?;
    let Statement { subject, predicate } = Statement::<Head>::parse(&envelope.payload, HEAD_TYPE)?;
    if predicate.registry != root.registry {
        return Err(wrong_registry(root, predicate.registry.as_str()));
    }
    let [Subject { name, digest }] = subject.as_slice() else {
        return Err(VerifyError::malformed("head", "needs one subject, the catalogue"));
    };
    if name != CATALOGUE_SUBJECT {
        return Err(VerifyError::malformed("head", format!("its subject is {name:?}, not the catalogue")));
    }
    let lifetime = predicate.expires.unix() - predicate.issued.unix();
    if !(1..=limits::HEAD_LIFETIME_SECONDS).contains(&lifetime) {
        return Err(VerifyError::malformed("head", format!("a lifetime of {lifetime} seconds")));
    }
    if predicate.catalogue.size > limits::CATALOGUE_BYTES {
        return Err(VerifyError::SizeExceeded { what: "catalogue", limit: limits::CATALOGUE_BYTES });
    }
    Ok((Verified { value: predicate, keys }, envelope, *digest))
}

/// Step 8: the catalogue that an accepted head names.
///
/// # Errors
/// `DigestMismatch`, `SizeExceeded`, `Malformed`, `WrongRegistry`.
pub fn catalogue(bytes: &[u8], accepted: &AcceptedHead) -> Result<Verified<Catalogue>, VerifyError> {
    exactly("catalogue", bytes, accepted.head.catalogue.size, &accepted.catalogue)?;
    let catalogue = Catalogue::parse(bytes)?;
    if catalogue.registry != accepted.head.registry {
        return Err(VerifyError::WrongRegistry {
            expected: accepted.head.registry.to_string(),
            found: catalogue.registry.to_string(),
        });
    }
    Ok(Verified::by_digest(catalogue))
}

/// Step 9: a bin that a verified catalogue names.
///
/// # Errors
/// `DigestMismatch`, `SizeExceeded`, `Malformed`.
pub fn bin(bytes: &[u8], catalogue: &Verified<Catalogue>, index: usize) -> Result<Verified<Bin>, VerifyError> {
    let Some(blob) = catalogue.bins.get(index) else {
        return Err(VerifyError::malformed("bin", format!("there is no bin {index}")));
    };
    exactly("bin", bytes, blob.size, &blob.sha256)?;
    Ok(Verified::by_digest(Bin::parse(bytes, index, catalogue.bins.len())?))
}

/// Step 10: the entry that a verified bin names for a server.
///
/// # Errors
/// `DigestMismatch`, `SizeExceeded`, `Malformed`; `EntryMismatch` if it is another server's.
pub fn entry(bytes: &[u8], bin: &Verified<Bin>, name: &ServerName) -> Result<Verified<Entry>, VerifyError> {
    let Some(server) = bin.find(name) else {
        return Err(VerifyError::malformed("bin", format!("it has no server {name}")));
    };
    exactly("entry", bytes, server.size, &server.sha256)?;
    let entry = Entry::parse(bytes)?;
    match entry.selected.release.name == *name {
        true => Ok(Verified::by_digest(entry)),
        false => Err(VerifyError::EntryMismatch { field: "name".to_owned() }),
    }
}

/// Step 11: the release that this host shows: the pinned one, else the selected one, unless
/// it was withdrawn.
///
/// # Errors
/// `PinUnknown`, `Revoked`, or `Yanked` without an exact pin.
pub fn select<'a>(entry: &'a Verified<Entry>, pin: Option<&Pin>) -> Result<&'a Listed, VerifyError> {
    let listed = match pin {
        Some(pin) => {
            entry.find(&pin.version).ok_or_else(|| VerifyError::PinUnknown { version: pin.version.to_string() })?
        }
        None => &entry.selected,
    };
    check_status(listed, pin)?;
    Ok(listed)
}

/// Step 12: whether a listed release may be used at all under this pin.
///
/// # Errors
/// `Revoked` always; `Yanked` unless pinned to just this version.
pub fn check_status(listed: &Listed, pin: Option<&Pin>) -> Result<(), VerifyError> {
    let reason = || listed.reason.as_deref().map_or_else(|| "no reason given".to_owned(), visible);
    match listed.status {
        Status::Active => Ok(()),
        Status::Yanked if pin.is_some_and(|pin| pin.version == listed.release.version) => Ok(()),
        Status::Yanked => Err(VerifyError::Yanked { reason: reason() }),
        Status::Revoked => Err(VerifyError::Revoked { reason: reason() }),
    }
}

/// Steps 13 to 17: verifies the signed statement of one release of an entry, and that its
/// readable part says the same.
///
/// `published` is the statement that this host has seen for the same name and version.
///
/// # Errors
/// Any of the release's errors in docs/format.md section 12.
pub fn release(
    entry: &Verified<Entry>,
    version: &Version,
    root: &TrustRoot,
    published: Option<&Digest>,
) -> Result<Verified<Release>, VerifyError> {
    let Some(listed) = entry.find(version) else {
        return Err(VerifyError::PinUnknown { version: version.to_string() });
    };
    let verified = statement(&listed.envelope, &listed.release.name, version, root, published)?;
    // 17. People, simple clients and the daemon see the same.
    match difference(&listed.release, &verified) {
        None => Ok(verified),
        Some(field) => Err(VerifyError::EntryMismatch { field }),
    }
}

/// Steps 13 to 16: verifies a release statement by itself.
///
/// # Errors
/// As [`release`], but for `EntryMismatch` of readable fields.
pub fn statement(
    envelope: &Envelope,
    name: &ServerName,
    version: &Version,
    root: &TrustRoot,
    published: Option<&Digest>,
) -> Result<Verified<Release>, VerifyError> {
    // 13. The one matching scope decides, and all of its groups must have signed.
    let rule = root.rule_for(name)?;
    let keys = signed_by(envelope, root, &rule.require)?;
    // 14. The signed bytes are a release of this registry, name and version.
    let Statement { subject, predicate } = Statement::<Release>::parse(&envelope.payload, RELEASE_TYPE)?;
    if predicate.registry != root.registry {
        return Err(wrong_registry(root, predicate.registry.as_str()));
    }
    for (field, same) in [("name", predicate.name == *name), ("version", predicate.version == *version)] {
        if !same {
            return Err(VerifyError::EntryMismatch { field: field.to_owned() });
        }
    }
    // 15. Its subjects are its artefacts and trees, and its fields keep their rules.
    if subject != predicate.subjects() {
        return Err(VerifyError::malformed("statement", "its subjects are not its artefacts and trees"));
    }
    predicate.validate().map_err(|error| VerifyError::malformed("statement", error))?;
    // 16. A published version never changes.
    if published.is_some_and(|published| *published != envelope.statement()) {
        return Err(VerifyError::ReleaseChanged { name: name.to_string(), version: version.to_string() });
    }
    Ok(Verified { value: predicate, keys })
}

/// Step 18: what runs on this host's platform, and that it is what the host pinned.
///
/// # Errors
/// `PlatformMissing`, `PinDigestMismatch`.
pub fn artefact<'a>(
    release: &'a Verified<Release>,
    platform: &Platform,
    pin: Option<&Pin>,
) -> Result<&'a Artefact, VerifyError> {
    let Some(artefact) = release.artefact.for_platform(platform) else {
        let available: Vec<_> = release.artefact.all().iter().map(|one| one.platform.as_str()).collect();
        return Err(VerifyError::PlatformMissing { platform: platform.to_string(), available: available.join(", ") });
    };
    match pin.and_then(|pin| pin.artefact) {
        Some(expected) if expected != artefact.sha256 => {
            Err(VerifyError::PinDigestMismatch { expected, found: artefact.sha256 })
        }
        _ => Ok(artefact),
    }
}

/// The payload's type, and every role's threshold.
fn signed_by(envelope: &Envelope, root: &TrustRoot, roles: &[Role]) -> Result<Vec<Digest>, VerifyError> {
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(VerifyError::WrongPredicate { expected: PAYLOAD_TYPE, found: bounded(&envelope.payload_type) });
    }
    let size = envelope.signed_bytes().len();
    if size > limits::SIGNED_BYTES {
        return Err(VerifyError::PayloadTooLarge { size, limit: limits::SIGNED_BYTES });
    }
    let mut keys = Vec::new();
    for role in roles {
        keys.extend(threshold::check(envelope, root, role)?);
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

fn wrong_registry(root: &TrustRoot, found: &str) -> VerifyError {
    VerifyError::WrongRegistry { expected: root.registry.to_string(), found: found.to_owned() }
}

fn exactly(what: &'static str, bytes: &[u8], size: u64, sha256: &Digest) -> Result<(), VerifyError> {
    if bytes.len() as u64 > size {
        return Err(VerifyError::SizeExceeded { what, limit: size });
    }
    chunk::expect(what, sha256, bytes)
}

/// The first field in which two releases differ.
pub fn difference(readable: &Release, signed: &Release) -> Option<String> {
    if readable == signed {
        return None;
    }
    let fields = |release: &Release| serde_json::to_value(release).unwrap_or_default();
    let (readable, signed) = (fields(readable), fields(signed));
    let names = signed.as_object().into_iter().chain(readable.as_object()).flat_map(serde_json::Map::keys);
    let mut differing = names.filter(|name| readable.get(name) != signed.get(name));
    Some(differing.next().cloned().unwrap_or_else(|| "form".to_owned()))
}
