//! What to do about a refusal, in one table without a wildcard.

use mcpfs_trust::error::Code;

/// What the person at the server can do, by code.
pub(super) const fn advice(code: Code) -> &'static str {
    match code {
        Code::SignatureInvalid
        | Code::ThresholdNotMet
        | Code::KeyNotAuthorised
        | Code::WrongPredicate
        | Code::ScopeDenied
        | Code::WrongRegistry
        | Code::HeadEquivocation
        | Code::ChainBroken
        | Code::EntryMismatch
        | Code::ReleaseChanged
        | Code::SelfVerifyFailed => "tell your security team: this was not signed by those who may sign it",
        Code::HeadRollback | Code::HeadExpired | Code::TrustRollback | Code::TrustEquivocation => {
            "tell your administrator: mcpfs status says how old the registry's word is"
        }
        Code::ClockRollback => "correct this host's clock",
        Code::Revoked => "its publisher withdrew it for good: use another version or server",
        Code::Yanked => "its publisher withdrew it: an administrator can keep it with mcpfs pin",
        Code::PinUnknown | Code::PinDigestMismatch => "an administrator can correct the pin with mcpfs pin",
        Code::PolicyRefused => "your administrator decides this in mcpfs.toml",
        Code::PlatformMissing => "ask its maintainer for a release for this platform",
        Code::LaunchUnsupported => "ask its maintainer for another release",
        Code::Unreachable | Code::TooSlow | Code::NotARegistry => {
            "check the network; mcpfs refresh looks at the registry again"
        }
        Code::DigestMismatch | Code::SizeExceeded | Code::Malformed | Code::PayloadTooLarge => {
            "try again; if it stays, tell those who run the registry's site"
        }
        Code::TrustRootUnsafe | Code::AuditUnavailable | Code::CacheFull => {
            "tell your administrator: the daemon's log says more"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_advice() {
        for code in Code::ALL {
            let words = advice(code);
            assert!(!words.is_empty() && !words.ends_with('.') && words.starts_with(char::is_lowercase), "{code}");
        }
    }
}
