//! Trust root, site, head and clock, asked as the daemon would ask them.

use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::error::{Code, VerifyError};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::{self, Seen};
use mcpfs_trust::{limits, site};

use super::Subject;
use super::finding::{Check, Finding};
use crate::refusal::Refusal;
use crate::registry::now;
use crate::site::{BY_THE_CLOCK, Secrets};
use crate::words::span;

pub(super) fn look(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let root = match crate::daemon::trust(&config.trust, |_| Ok(None)) {
        Ok((root, _)) => root,
        Err(refusal) => {
            let owner = if subject.is_roots() { "owned by root, " } else { "" };
            let fix = format!("put the trust root of your registry at {}, {owner}mode 644", config.trust.display());
            return vec![Finding::wrong(Check::TrustRoot, refusal.to_string(), fix)];
        }
    };
    let mut findings = vec![Finding::ok(
        Check::TrustRoot,
        format!("{} (version {}; a trust root has no end, its heads have)", root.registry, root.version),
    )];
    findings.extend(ask(subject, &root));
    findings
}

fn ask(subject: &Subject, root: &TrustRoot) -> Vec<Finding> {
    let config = &subject.config;
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::unknown(Check::Registry, format!("cannot ask it: {error}"), "try again")],
    };
    let asked = match crate::daemon::site(config, runtime.handle(), &Secrets::Own) {
        Ok(asked) => asked,
        Err(refusal) => {
            let unreadable = refusal.message.contains("Permission denied");
            runtime.shutdown_background();
            return vec![match unreadable {
                true => Finding::unknown(Check::Registry, refusal.message, "run this as root"),
                false => Finding::wrong(Check::Registry, refusal.message, "correct [registry] in the configuration"),
            }];
        }
    };
    let bytes = {
        // A web page instead of a head is told apart where the answer is looked at.
        let is_head = |bytes: Vec<u8>| Envelope::parse(&bytes, limits::HEAD_BYTES, "head").map(|_| bytes);
        runtime.block_on(asked.get_checked(site::HEAD, limits::HEAD_BYTES, "head", is_head))
    };
    runtime.shutdown_background();
    match bytes {
        Err(refusal) => vec![unreachable(&refusal)],
        Ok(bytes) => {
            let mut findings = vec![Finding::ok(Check::Registry, format!("{} answers", asked.mirrors().join(", ")))];
            findings.extend(head(&bytes, root, now()));
            findings
        }
    }
}

/// Why the site brought no head.
pub(super) fn unreachable(refusal: &Refusal) -> Finding {
    let fix = match refusal.code {
        Code::NotARegistry => {
            "log in to the network (a captive portal answers for the registry), or correct registry.url: it leads to \
             a web page"
        }
        Code::Unreachable if refusal.message.contains(BY_THE_CLOCK) => {
            "if this host's clock is wrong: timedatectl set-ntp true; if it is right, the site's certificate is to be \
             renewed"
        }
        Code::TooSlow => "look at the network between here and the registry; [network] has the deadlines",
        _ => {
            "curl -v the address above from here; a proxy goes to registry.proxy, a private CA to registry.ca_file, a \
             second mirror to registry.url"
        }
    };
    Finding::wrong(Check::Registry, refusal.to_string(), fix)
}

/// Clock and head, as of `at`.
pub(super) fn head(bytes: &[u8], root: &TrustRoot, at: Timestamp) -> Vec<Finding> {
    let clock_ok = || Finding::ok(Check::Clock, format!("{at} is not before the head's signature"));
    match verify::head(bytes, root, &Seen::default(), at) {
        Ok(accepted) => {
            let head = &accepted.head;
            let left = head.expires.unix() - at.unix();
            let all = head.expires.unix() - head.issued.unix();
            let found = format!("version {}, signed {}, until {}", head.version, head.issued, head.expires);
            let soon = left.saturating_mul(5) < all;
            let left = span(u64::try_from(left).unwrap_or(0));
            let fix = "sign again on the signer (mcpfs-signer publish --resign), and look why its timer does not";
            vec![
                clock_ok(),
                match soon {
                    true => Finding::note(Check::Head, format!("{found}: ends in {left}"), fix),
                    false => Finding::ok(Check::Head, found),
                },
            ]
        }
        Err(VerifyError::NotYetValid { issued, .. }) => vec![Finding::wrong(
            Check::Clock,
            format!("this host's clock says {at}, and the head was signed at {issued}"),
            "set the clock: timedatectl set-ntp true; if it is right, the signer's clock is ahead",
        )],
        Err(error @ VerifyError::HeadExpired { .. }) => vec![
            clock_ok(),
            Finding::wrong(
                Check::Head,
                Refusal::from(error).to_string(),
                "sign again on the signer (mcpfs-signer publish --resign), and look why its timer does not; if this host's clock \
                 is ahead: timedatectl set-ntp true",
            ),
        ],
        Err(error) => vec![Finding::wrong(
            Check::Head,
            Refusal::from(error).to_string(),
            "this site and this trust root do not belong together, or somebody changed the site: compare registry.url \
             and trust.json with those of another host",
        )],
    }
}
