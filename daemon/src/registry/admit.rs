//! The decision: which releases of one verified entry this host shows.
//!
//! Pure: everything that is known comes in, one [`Decision`] comes out, and nothing is
//! stored, audited or swapped here. The order of the questions is the order of the table in
//! docs/format.md section 13, steps 11 to 18, with this host's own rules around them:
//! policy first (a hidden name says nothing), then the pin, then the catalogue's choice.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, PlatformLayout, Status};
use mcpfs_trust::error::{Code, VerifyError};
use mcpfs_trust::name::{Platform, ServerName, Version};
use mcpfs_trust::release::{Artefact, Release};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::{self, Verified};

use super::state::Known;
use crate::config::{self, DowngradePolicy, Pins, Policy};
use crate::refusal::Refusal;

/// What is known when a decision is taken about one name.
pub(super) struct Rules<'a> {
    pub(super) root: &'a TrustRoot,
    pub(super) platform: &'a Platform,
    pub(super) pins: &'a Pins,
    pub(super) policy: &'a Policy,
    /// What `state.db` remembers of the name.
    pub(super) known: &'a Known,
    /// Why nothing new is admitted, if so: the head expired, or the clock went back.
    pub(super) closed: Option<VerifyError>,
}

/// A release that may be shown.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) release: Verified<Release>,
    pub(super) statement: Digest,
    pub(super) payload: Vec<u8>,
    pub(super) artefact: Artefact,
    pub(super) layout: PlatformLayout,
    pub(super) yanked: Option<String>,
}

/// What was decided about one name.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) name: ServerName,
    /// The version that `run` starts; it is the first of `chosen`.
    pub(super) selected: Result<Version, Refusal>,
    pub(super) chosen: Vec<Chosen>,
    /// The catalogue went back from this version to an older one.
    pub(super) downgrade: Option<Version>,
    /// Whether `selected` is the catalogue's choice and is to be remembered as such.
    pub(super) by_catalogue: bool,
    /// Revocations that the entry announces.
    pub(super) revoked: Vec<(Version, String)>,
}

/// Decides about the server of `entry`. `before` are the versions that were shown until
/// now; they stay if they still may.
pub(super) fn decide(entry: &Entry, before: &[Version], rules: &Rules<'_>) -> Decision {
    let name = entry.selected.release.name.clone();
    let announced = |listed: &Listed| {
        let reason = listed.reason.clone().unwrap_or_else(|| "no reason given".to_owned());
        (listed.status == Status::Revoked).then(|| (listed.release.version.clone(), reason))
    };
    let revoked =
        entry.releases().filter_map(announced).filter(|(version, _)| !rules.known.revoked.contains_key(version));
    let mut decision = Decision {
        selected: Err(Refusal::new(Code::PolicyRefused, "not decided")),
        chosen: Vec::new(),
        downgrade: None,
        by_catalogue: false,
        revoked: revoked.collect(),
        name,
    };
    if let Err(refusal) = permitted(&decision.name, rules) {
        decision.selected = Err(refusal);
        return decision;
    }
    decision.selected = match select(entry, rules) {
        Ok((chosen, by_catalogue)) => {
            let version = chosen.release.version.clone();
            let age = |(last, seen): &&(Version, Timestamp)| {
                chosen.release.issued.cmp(seen).then_with(|| version.precedence(last))
            };
            let older = rules.known.selected.as_ref().filter(|last| by_catalogue && age(last).is_lt());
            decision.downgrade = older.map(|(last, _)| last.clone());
            match (&decision.downgrade, rules.policy.downgrade) {
                (Some(last), DowngradePolicy::PinOnly) => Err(Refusal::new(
                    Code::PolicyRefused,
                    format!(
                        "the registry went back from {last} to {version}, and policy.downgrade is \"pin-only\": \
                         to accept it, mcpfs pin {} {version}",
                        decision.name
                    ),
                )),
                _ => {
                    decision.by_catalogue = by_catalogue;
                    decision.chosen.push(chosen);
                    Ok(version)
                }
            }
        }
        Err(refusal) => Err(refusal),
    };
    for version in before {
        let shown = decision.chosen.iter().any(|chosen| chosen.release.version == *version);
        if let (false, Ok(chosen)) = (shown, admit(entry, version, rules)) {
            decision.chosen.push(chosen);
        }
    }
    decision
}

/// Whether policy lets this host show any version of `name`.
pub(super) fn permitted(name: &ServerName, rules: &Rules<'_>) -> Result<(), Refusal> {
    config::shows(rules.policy, rules.pins, name).map_err(|why| Refusal::new(Code::PolicyRefused, why))
}

/// The release that `run` starts: the pinned one, else the catalogue's choice.
fn select(entry: &Entry, rules: &Rules<'_>) -> Result<(Chosen, bool), Refusal> {
    let name = &entry.selected.release.name;
    match rules.pins.by_name.get(name) {
        Some(pin) => Ok((admit(entry, &pin.version, rules)?, false)),
        None => Ok((admit(entry, &entry.selected.release.version, rules)?, true)),
    }
}

/// Whether one listed version may be shown on this host.
///
/// A pin counts only for its own version: it makes a yanked release usable, and may insist
/// on one artefact.
pub(super) fn admit(entry: &Entry, version: &Version, rules: &Rules<'_>) -> Result<Chosen, Refusal> {
    let listed = entry.find(version).ok_or_else(|| VerifyError::PinUnknown { version: version.to_string() })?;
    let name = &entry.selected.release.name;
    if let Some(reason) = rules.known.revoked.get(version) {
        return Err(VerifyError::Revoked { reason: reason.clone() }.into());
    }
    let pin = rules.pins.by_name.get(name).filter(|pin| pin.version == *version);
    let pin = pin.map(|pin| verify::Pin { version: pin.version.clone(), artefact: pin.sha256 });
    verify::check_status(listed, pin.as_ref())?;
    let published = rules.known.published.get(version);
    let release = verify::statement(&listed.envelope, name, version, rules.root, published)?;
    if let Some(field) = verify::difference(&listed.release, &release) {
        return Err(VerifyError::EntryMismatch { field }.into());
    }
    let artefact = verify::artefact(&release, rules.platform, pin.as_ref())?.clone();
    let Some(layout) = listed.layout_for(&artefact.platform).cloned() else {
        return Err(VerifyError::malformed("entry", format!("no layout for {}", artefact.platform)).into());
    };
    if let (Some(why), false) = (&rules.closed, rules.known.admitted.contains_key(version)) {
        return Err(why.clone().into());
    }
    Ok(Chosen {
        statement: listed.envelope.statement(),
        payload: listed.envelope.payload.clone(),
        artefact,
        layout,
        yanked: (listed.status == Status::Yanked).then(|| listed.reason.clone().unwrap_or_default()),
        release,
    })
}
