//! Taking a release back: yanked (only where a host pins it) or revoked (never again).
//!
//! Both are statuses of the entry, under the head: they need no release key, so a stolen
//! release key cannot undo them, and the person on call needs only the head key. Neither is
//! taken back: a host that saw a revocation remembers it, and "un-yanked" would mean two
//! things under one version. The cure is a new version.

use mcpfs_trust::entry::{Entry, Listed, Status};
use mcpfs_trust::limits;
use mcpfs_trust::name::{ServerName, Version};
use serde::Serialize;

use crate::log::Row;
use crate::site::SiteError;
use crate::site::publish::{Change, Outcome, Publisher, status_word};

/// Whether a reason is one line that hosts can show.
///
/// # Errors
/// `BadReason`.
pub fn check_reason(reason: &str) -> Result<(), SiteError> {
    match reason.trim().is_empty() || reason.len() > limits::TEXT_BYTES || reason.chars().any(char::is_control) {
        true => Err(SiteError::BadReason),
        false => Ok(()),
    }
}

/// What a withdrawal will mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prospect {
    /// The server.
    pub name: ServerName,
    /// The version that is to be withdrawn.
    pub version: Version,
    /// Its status until now.
    pub now: &'static str,
    /// The site's head until now.
    pub head_version: u64,
    /// What hosts start as long as nothing changes.
    pub starts: Version,
    /// Whether that is the one that is to be withdrawn: then they start nothing.
    pub selected: bool,
    /// The other versions that are not withdrawn.
    pub usable: Vec<String>,
}

/// Looks at what withdrawing `name` `version` will mean, and changes nothing.
///
/// # Errors
/// If [`withdraw`] would be refused, as far as that can be told without signing.
pub fn prospect(
    publisher: &Publisher<'_>,
    name: &ServerName,
    version: &Version,
    status: Status,
) -> Result<Prospect, SiteError> {
    let published = publisher.present()?;
    let site = publisher.site;
    let entry = site.entry(&published, name)?.ok_or_else(|| SiteError::NoServer { name: name.clone() })?;
    let listed = entry.find(version).ok_or_else(|| no_version(&entry, version))?;
    changes(listed, status)?;
    let others = entry.releases().filter(|one| one.status == Status::Active && one.release.version != *version);
    Ok(Prospect {
        name: name.clone(),
        version: version.clone(),
        now: status_word(listed.status),
        head_version: published.head.as_ref().map_or(0, |(_, accepted)| accepted.head.version),
        starts: entry.selected.release.version.clone(),
        selected: entry.selected.release.version == *version,
        usable: others.map(|one| one.release.version.to_string()).collect(),
    })
}

/// Withdraws `name` `version`.
///
/// # Errors
/// If it is not published, or was withdrawn for good already.
pub fn withdraw(
    publisher: &mut Publisher<'_>,
    name: &ServerName,
    version: &Version,
    status: Status,
    reason: &str,
) -> Result<Outcome, SiteError> {
    check_reason(reason)?;
    let site = publisher.site;
    publisher.publish(|published| {
        let entry = site.entry(published, name)?.ok_or_else(|| SiteError::NoServer { name: name.clone() })?;
        let mut entry: Entry = (*entry).clone();
        let missing = no_version(&entry, version);
        let Some(listed) = find(&mut entry, version) else { return Err(missing) };
        if !changes(listed, status)? {
            return Ok(None);
        }
        listed.status = status;
        listed.reason = Some(reason.to_owned());
        let row = Row {
            action: if status == Status::Revoked { "revoke" } else { "yank" }.to_owned(),
            request: format!("{name}@{version}"),
            name: Some(name.clone()),
            version: Some(version.clone()),
            statement: Some(listed.envelope.statement()),
            reason: Some(reason.to_owned()),
            ..Row::default()
        };
        Ok(Some(Change { entry, staged: None, usable: None, row }))
    })
}

fn no_version(entry: &Entry, version: &Version) -> SiteError {
    let present = entry.releases().map(|listed| listed.release.version.to_string()).collect::<Vec<_>>().join(", ");
    SiteError::NoVersion { name: entry.selected.release.name.clone(), version: version.clone(), present }
}

/// Whether the status is another one; what is withdrawn for good has no other.
fn changes(listed: &Listed, status: Status) -> Result<bool, SiteError> {
    match (listed.status, status) {
        (now, wanted) if now == wanted => Ok(false),
        (Status::Revoked, _) | (_, Status::Active) => Err(withdrawn(listed)),
        (Status::Active | Status::Yanked, _) => Ok(true),
    }
}

/// Why a withdrawn release is not touched again.
pub(crate) fn withdrawn(listed: &Listed) -> SiteError {
    SiteError::Withdrawn {
        name: listed.release.name.clone(),
        version: listed.release.version.clone(),
        status: status_word(listed.status),
        reason: listed.reason.clone().unwrap_or_default(),
    }
}

fn find<'e>(entry: &'e mut Entry, version: &Version) -> Option<&'e mut Listed> {
    let listed = std::iter::once(&mut entry.selected).chain(&mut entry.earlier);
    listed.into_iter().find(|listed| listed.release.version == *version)
}
