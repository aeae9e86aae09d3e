//! Every way in which something is refused.
//!
//! [`Code`] is the one list of typed errors (design: the codes are audit outcomes and a
//! public interface); [`VerifyError`] carries what a person needs beside the code. Faults
//! that only a host can meet (`Unreachable`, `CacheFull`, …) have their code here and their
//! error type in the daemon.

use std::fmt;

use crate::digest::Digest;
pub use crate::text::{bounded, bounded_to, visible};
use crate::time::Timestamp;

/// The outcome codes, in the order of docs/format.md section 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The names are the documentation; docs/format.md explains each.
pub enum Code {
    SignatureInvalid,
    ThresholdNotMet,
    KeyNotAuthorised,
    WrongPredicate,
    ScopeDenied,
    WrongRegistry,
    HeadRollback,
    HeadExpired,
    HeadEquivocation,
    ChainBroken,
    DigestMismatch,
    EntryMismatch,
    ReleaseChanged,
    Revoked,
    Yanked,
    PinUnknown,
    PinDigestMismatch,
    SizeExceeded,
    TooSlow,
    Unreachable,
    NotARegistry,
    ClockRollback,
    TrustRollback,
    TrustEquivocation,
    Malformed,
    PayloadTooLarge,
    SelfVerifyFailed,
    TrustRootUnsafe,
    PolicyRefused,
    PlatformMissing,
    LaunchUnsupported,
    AuditUnavailable,
    CacheFull,
    CacheFault,
}

/// What a code means to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Somebody offers what the right people did not sign.
    Forged,
    /// It was right once; time or state has passed over it.
    Stale,
    /// Its publisher took it back.
    Withdrawn,
    /// It is genuine, and rules say no.
    NotAllowed,
    /// Bytes did not arrive as named.
    BrokenTransfer,
    /// This host itself is in the way.
    LocalFault,
}

impl Code {
    /// All codes, for documentation and tests.
    pub const ALL: [Self; 34] = [
        Self::SignatureInvalid,
        Self::ThresholdNotMet,
        Self::KeyNotAuthorised,
        Self::WrongPredicate,
        Self::ScopeDenied,
        Self::WrongRegistry,
        Self::HeadRollback,
        Self::HeadExpired,
        Self::HeadEquivocation,
        Self::ChainBroken,
        Self::DigestMismatch,
        Self::EntryMismatch,
        Self::ReleaseChanged,
        Self::Revoked,
        Self::Yanked,
        Self::PinUnknown,
        Self::PinDigestMismatch,
        Self::SizeExceeded,
        Self::TooSlow,
        Self::Unreachable,
        Self::NotARegistry,
        Self::ClockRollback,
        Self::TrustRollback,
        Self::TrustEquivocation,
        Self::Malformed,
        Self::PayloadTooLarge,
        Self::SelfVerifyFailed,
        Self::TrustRootUnsafe,
        Self::PolicyRefused,
        Self::PlatformMissing,
        Self::LaunchUnsupported,
        Self::AuditUnavailable,
        Self::CacheFull,
        Self::CacheFault,
    ];

    /// The group that people are told.
    pub const fn group(self) -> Group {
        match self {
            Self::SignatureInvalid
            | Self::ThresholdNotMet
            | Self::KeyNotAuthorised
            | Self::WrongPredicate
            | Self::ScopeDenied
            | Self::WrongRegistry
            | Self::HeadEquivocation
            | Self::ChainBroken
            | Self::EntryMismatch
            | Self::ReleaseChanged
            | Self::SelfVerifyFailed => Group::Forged,
            Self::HeadRollback
            | Self::HeadExpired
            | Self::ClockRollback
            | Self::TrustRollback
            | Self::TrustEquivocation => Group::Stale,
            Self::Revoked | Self::Yanked => Group::Withdrawn,
            Self::PinUnknown
            | Self::PinDigestMismatch
            | Self::PolicyRefused
            | Self::PlatformMissing
            | Self::LaunchUnsupported => Group::NotAllowed,
            Self::DigestMismatch
            | Self::SizeExceeded
            | Self::TooSlow
            | Self::Unreachable
            | Self::NotARegistry
            | Self::Malformed
            | Self::PayloadTooLarge => Group::BrokenTransfer,
            Self::TrustRootUnsafe | Self::AuditUnavailable | Self::CacheFull | Self::CacheFault => Group::LocalFault,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forged => "forged",
            Self::Stale => "stale",
            Self::Withdrawn => "withdrawn",
            Self::NotAllowed => "not allowed",
            Self::BrokenTransfer => "broken transfer",
            Self::LocalFault => "local fault",
        })
    }
}

/// Why something did not verify. `code` gives the audit outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A signature by an authorised key is wrong for these bytes.
    #[error("no signature of an authorised key fits these bytes (key {key})")]
    SignatureInvalid {
        /// The key the signature claims.
        key: Digest,
    },
    /// Genuine signatures, but too few of the required keys.
    #[error("{found} of the {needed} required signatures")]
    ThresholdNotMet {
        /// Distinct authorised keys that signed.
        found: usize,
        /// The threshold.
        needed: usize,
    },
    /// Signed by a key that may not sign this.
    #[error("key {key} may not sign this")]
    KeyNotAuthorised {
        /// The key the signature claims.
        key: Digest,
    },
    /// A statement or envelope of another kind.
    #[error("expected {expected}, found {found:?}")]
    WrongPredicate {
        /// What had to stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The trust root lets nobody publish this name.
    #[error("no scope of the trust root covers {name:?}")]
    ScopeDenied {
        /// The server's name.
        name: String,
    },
    /// Signed for another registry.
    #[error("belongs to registry {found:?}, this host trusts {expected:?}")]
    WrongRegistry {
        /// Named by the trust root.
        expected: String,
        /// Named by what was fetched.
        found: String,
    },
    /// An older head than the one this host has accepted.
    #[error("head {found} is older than head {floor}")]
    HeadRollback {
        /// The offered head's version.
        found: u64,
        /// The lowest acceptable version.
        floor: u64,
    },
    /// A head of another epoch than the trust root's.
    #[error("head of epoch {found}, the trust root is at epoch {expected}")]
    WrongEpoch {
        /// The offered head's epoch.
        found: u64,
        /// The trust root's epoch.
        expected: u64,
    },
    /// The head's time has passed.
    #[error("the head expired at {expires}")]
    HeadExpired {
        /// When it ended.
        expires: Timestamp,
    },
    /// Two signed heads with one number.
    #[error("two different signed heads carry version {version}")]
    HeadEquivocation {
        /// The version both carry.
        version: u64,
    },
    /// The next head does not name the one before it.
    #[error("head {version} does not follow the head this host has accepted")]
    ChainBroken {
        /// The offered head's version.
        version: u64,
    },
    /// Bytes are not what their name says.
    #[error("{what}: expected {expected:?}, found {found:?}")]
    DigestMismatch {
        /// catalogue, bin, entry, tree, layout, chunk or file.
        what: &'static str,
        /// The digest that names it.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// Readable fields differ from the signed ones.
    #[error("the entry's readable field {field:?} differs from the signed statement")]
    EntryMismatch {
        /// The field.
        field: String,
    },
    /// A published version with another statement.
    #[error("{name} {version} was published before with other content")]
    ReleaseChanged {
        /// The server's name.
        name: String,
        /// The version.
        version: String,
    },
    /// Revoked by its publisher, for ever.
    #[error("revoked: {reason}")]
    Revoked {
        /// The publisher's words.
        reason: String,
    },
    /// Yanked, and not pinned exactly.
    #[error("yanked: {reason}")]
    Yanked {
        /// The publisher's words.
        reason: String,
    },
    /// The pinned version is not in the registry.
    #[error("pinned version {version} is not in the registry")]
    PinUnknown {
        /// The pinned version.
        version: String,
    },
    /// The pinned version has another artefact than pinned.
    #[error("pinned to artefact {expected:?}, the registry has {found:?}")]
    PinDigestMismatch {
        /// The pin's digest.
        expected: Digest,
        /// The release's artefact digest on this platform.
        found: Digest,
    },
    /// More bytes than agreed.
    #[error("{what} is larger than {limit} bytes")]
    SizeExceeded {
        /// What was read.
        what: &'static str,
        /// The bound, bytes.
        limit: u64,
    },
    /// HTML where the registry's JSON should be.
    #[error("{what} is a web page, not registry data (captive portal or wrong address?)")]
    NotARegistry {
        /// What was read.
        what: &'static str,
    },
    /// The host's clock is before the last signed time.
    #[error("this host's clock says {now}, but a head was signed at {signed}")]
    ClockRollback {
        /// The host's clock.
        now: Timestamp,
        /// The newest signed time seen.
        signed: Timestamp,
    },
    /// A head from the future.
    #[error("the head was issued at {issued}, which is after {now}")]
    NotYetValid {
        /// When the head says it was issued.
        issued: Timestamp,
        /// The host's clock.
        now: Timestamp,
    },
    /// An older trust root than this host has used.
    #[error("trust root version {found} is older than version {seen}")]
    TrustRollback {
        /// The offered root's version.
        found: u64,
        /// The newest version seen.
        seen: u64,
    },
    /// A trust root whose epoch went back, whatever its version.
    #[error("trust root of epoch {found}, after one of epoch {seen}")]
    TrustEpochRollback {
        /// The offered root's epoch.
        found: u64,
        /// The highest epoch seen.
        seen: u64,
    },
    /// Two trust roots with one version.
    #[error("two different trust roots carry version {version}")]
    TrustEquivocation {
        /// The version both carry.
        version: u64,
    },
    /// Not in the format.
    #[error("{what}: {detail}")]
    Malformed {
        /// What was parsed.
        what: &'static str,
        /// Where and why; of bounded length, control characters escaped.
        detail: String,
    },
    /// More than may be signed.
    #[error("{size} bytes to sign, at most {limit} are allowed")]
    PayloadTooLarge {
        /// Bytes of the PAE.
        size: usize,
        /// The bound.
        limit: usize,
    },
    /// Nothing for this host's platform.
    #[error("no artefact for {platform}; there is {available}")]
    PlatformMissing {
        /// This host's platform.
        platform: String,
        /// The platforms there are.
        available: String,
    },
    /// The trust root contradicts itself.
    #[error("unsafe trust root: {detail}")]
    TrustRootUnsafe {
        /// What is wrong.
        detail: String,
    },
}

impl VerifyError {
    /// A `Malformed` with a bounded, escaped detail.
    pub fn malformed(what: &'static str, detail: impl fmt::Display) -> Self {
        Self::Malformed { what, detail: bounded(&detail.to_string()) }
    }

    /// The audit outcome of this error.
    pub const fn code(&self) -> Code {
        match self {
            Self::SignatureInvalid { .. } => Code::SignatureInvalid,
            Self::ThresholdNotMet { .. } => Code::ThresholdNotMet,
            Self::KeyNotAuthorised { .. } => Code::KeyNotAuthorised,
            Self::WrongPredicate { .. } => Code::WrongPredicate,
            Self::ScopeDenied { .. } => Code::ScopeDenied,
            Self::WrongRegistry { .. } => Code::WrongRegistry,
            Self::HeadRollback { .. } | Self::WrongEpoch { .. } => Code::HeadRollback,
            Self::HeadExpired { .. } => Code::HeadExpired,
            Self::HeadEquivocation { .. } => Code::HeadEquivocation,
            Self::ChainBroken { .. } => Code::ChainBroken,
            Self::DigestMismatch { .. } => Code::DigestMismatch,
            Self::EntryMismatch { .. } => Code::EntryMismatch,
            Self::ReleaseChanged { .. } => Code::ReleaseChanged,
            Self::Revoked { .. } => Code::Revoked,
            Self::Yanked { .. } => Code::Yanked,
            Self::PinUnknown { .. } => Code::PinUnknown,
            Self::PinDigestMismatch { .. } => Code::PinDigestMismatch,
            Self::SizeExceeded { .. } => Code::SizeExceeded,
            Self::NotARegistry { .. } => Code::NotARegistry,
            Self::ClockRollback { .. } | Self::NotYetValid { .. } => Code::ClockRollback,
            Self::TrustRollback { .. } | Self::TrustEpochRollback { .. } => Code::TrustRollback,
            Self::TrustEquivocation { .. } => Code::TrustEquivocation,
            Self::Malformed { .. } => Code::Malformed,
            Self::PayloadTooLarge { .. } => Code::PayloadTooLarge,
            Self::PlatformMissing { .. } => Code::PlatformMissing,
            Self::TrustRootUnsafe { .. } => Code::TrustRootUnsafe,
        }
    }
}
