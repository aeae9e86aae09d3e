//! What a host shows of one entry, as a matrix of rules.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, Status};
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::name::Version;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;

use super::{key, listed, root, time, version};
use crate::config::{DowngradePolicy, Pins, PinsDefault, Policy, SandboxPolicy};
use crate::registry::admit::{Rules, decide};
use crate::registry::state::Known;

/// A registry with one server in memory: hello 2 selected, 1 and 0 earlier.
pub(super) struct Case {
    pub(super) entry: Entry,
    root: TrustRoot,
    pins: Pins,
    policy: Policy,
    known: Known,
    expired: Option<Timestamp>,
    before: Vec<Version>,
    platform: &'static str,
}

impl Case {
    pub(super) fn new() -> Self {
        let listed = |number| listed("hello", number, "any", &key(2));
        Self {
            entry: Entry { selected: listed("2"), earlier: vec![listed("1"), listed("0")] },
            root: root("demo/cases", (1, 1, 1), &key(1), &key(2)),
            pins: Pins::default(),
            policy: Policy {
                sandbox: SandboxPolicy::Off,
                allow_root: false,
                downgrade: DowngradePolicy::Allow,
                expose: vec![],
                hide: vec![],
                scanners: vec![],
            },
            known: Known::default(),
            expired: None,
            before: vec![],
            platform: "linux/amd64",
        }
    }

    fn listed(&mut self, number: &str) -> &mut Listed {
        let mut all = std::iter::once(&mut self.entry.selected).chain(&mut self.entry.earlier);
        all.find(|one| one.release.version.as_str() == number).unwrap()
    }

    pub(super) fn status(&mut self, number: &str, status: Status) {
        let one = self.listed(number);
        (one.status, one.reason) = (status, Some("because".to_owned()));
    }

    fn pin(&mut self, text: &str) {
        self.pins.by_name.insert("hello".parse().unwrap(), text.parse().unwrap());
    }

    /// The selected version or why none, the others shown, and the version that was gone back from.
    fn decide(&self) -> String {
        let platform = self.platform.parse().unwrap();
        let rules = Rules {
            root: &self.root,
            platform: &platform,
            pins: &self.pins,
            policy: &self.policy,
            known: &self.known,
            closed: self.expired.map(|expires| VerifyError::HeadExpired { expires }),
        };
        let decision = decide(&self.entry, &self.before, &rules);
        let mut text = match &decision.selected {
            Ok(version) => version.to_string(),
            Err(refusal) => refusal.code.to_string(),
        };
        for chosen in &decision.chosen {
            if decision.selected.as_ref() != Ok(&chosen.release.version) {
                text += &format!(" +{}", chosen.release.version);
            }
        }
        if let Some(last) = &decision.downgrade {
            text += &format!(" back from {last}");
        }
        text
    }
}

/// design.md sections 3 and 12.5 to 12.7: what a host shows of one entry.
#[test]
fn the_selection_matrix() {
    let digest = |text: &str| Digest::of(text.as_bytes());
    type Edit<'a> = &'a dyn Fn(&mut Case);
    let cases: &[(&str, Edit<'_>, &str)] = &[
        ("the catalogue's choice", &|_| {}, "2"),
        ("what was shown stays", &|case| case.before = vec![version("1")], "2 +1"),
        ("a pin overrides", &|case| case.pin("1"), "1"),
        ("a pin of what is not there", &|case| case.pin("9"), "PinUnknown"),
        ("a pin of the artefact", &|case| case.pin(&format!("1@sha256:{}", digest("1"))), "1"),
        ("a pin of another artefact", &|case| case.pin(&format!("1@sha256:{}", digest("2"))), "PinDigestMismatch"),
        ("pins only, without one", &|case| case.pins.default = PinsDefault::None, "PolicyRefused"),
        (
            "pins only, with one",
            &|case| {
                case.pins.default = PinsDefault::None;
                case.pin("1");
            },
            "1",
        ),
        ("hidden", &|case| case.policy.hide = vec!["he*".to_owned()], "PolicyRefused"),
        (
            "hidden, and shown before",
            &|case| {
                case.policy.hide = vec!["hello".to_owned()];
                case.before = vec![version("1")];
            },
            "PolicyRefused",
        ),
        ("yanked", &|case| case.status("2", Status::Yanked), "Yanked"),
        (
            "yanked, and pinned",
            &|case| {
                case.status("2", Status::Yanked);
                case.pin("2");
            },
            "2",
        ),
        (
            "yanked, and another is pinned",
            &|case| {
                case.status("2", Status::Yanked);
                case.before = vec![version("2")];
                case.pin("1");
            },
            "1",
        ),
        ("revoked", &|case| case.status("2", Status::Revoked), "Revoked"),
        (
            "revoked, and pinned; the other stays",
            &|case| {
                case.status("2", Status::Revoked);
                case.before = vec![version("1")];
                case.pin("2");
            },
            "Revoked +1",
        ),
        (
            "revoked once is revoked for ever",
            &|case| drop(case.known.revoked.insert(version("2"), "because".to_owned())),
            "Revoked",
        ),
        (
            "published with the same statement",
            &|case| {
                let statement = case.entry.selected.envelope.statement();
                case.known.published.insert(version("2"), statement);
            },
            "2",
        ),
        (
            "published with another",
            &|case| {
                case.known.published.insert(version("2"), Digest::EMPTY);
            },
            "ReleaseChanged",
        ),
        ("went back", &|case| case.known.selected = Some((version("3"), time(3))), "2 back from 3"),
        (
            "went back to one of the same second",
            &|case| case.known.selected = Some((version("3"), time(2))),
            "2 back from 3",
        ),
        ("went on to one of the same second", &|case| case.known.selected = Some((version("1"), time(2))), "2"),
        ("went on", &|case| case.known.selected = Some((version("1"), time(1))), "2"),
        (
            "went back where only a pin may",
            &|case| {
                case.known.selected = Some((version("3"), time(3)));
                case.policy.downgrade = DowngradePolicy::PinOnly;
                case.before = vec![version("1")];
            },
            "PolicyRefused +1 back from 3",
        ),
        (
            "a pin that goes back is no downgrade",
            &|case| {
                case.known.selected = Some((version("2"), time(2)));
                case.policy.downgrade = DowngradePolicy::PinOnly;
                case.pin("1");
            },
            "1",
        ),
        (
            "another platform only",
            &|case| case.entry.selected = listed("hello", "2", "linux/arm64", &key(2)),
            "PlatformMissing",
        ),
        ("this platform", &|case| case.entry.selected = listed("hello", "2", "linux/amd64", &key(2)), "2"),
        ("expired, never admitted", &|case| case.expired = Some(time(5)), "HeadExpired"),
        (
            "expired, admitted before",
            &|case| {
                case.expired = Some(time(5));
                case.known.admitted.insert(version("2"), Digest::EMPTY);
            },
            "2",
        ),
        (
            "signed by the head's key",
            &|case| {
                case.entry.selected = listed("hello", "2", "any", &key(1));
                case.before = vec![version("1")];
            },
            "KeyNotAuthorised +1",
        ),
        (
            "signed by an unknown key",
            &|case| case.entry.selected = listed("hello", "2", "any", &key(3)),
            "KeyNotAuthorised",
        ),
        (
            "another server's statement",
            &|case| {
                let other = listed("other", "2", "any", &key(2));
                case.entry.selected.envelope = other.envelope;
            },
            "EntryMismatch",
        ),
        (
            "readable fields that lie",
            &|case| "Does more.".clone_into(&mut case.listed("2").release.description),
            "EntryMismatch",
        ),
        ("no scope covers it", &|case| case.root.release.retain(|_| false), "ScopeDenied"),
    ];
    for (what, edit, expected) in cases {
        let mut case = Case::new();
        edit(&mut case);
        assert_eq!(case.decide(), *expected, "{what}");
    }
}
