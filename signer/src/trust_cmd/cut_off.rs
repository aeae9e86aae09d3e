//! What a site offers that a new trust root would not believe any more.

use mcpfs_trust::entry::Status;
use mcpfs_trust::limits;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::site as path;
use mcpfs_trust::verify;
use serde::Serialize;

use crate::progress::{Progress, Unit};
use crate::site::state::restore;
use crate::site::{Site, SiteError, parallel};

/// A release, or the head, that would stop verifying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CutOff {
    /// The server; none for the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ServerName>,
    /// The version; none for the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Why, as hosts would say it.
    pub why: String,
}

/// What of the site verifies under `old` and not under `new`, revoked releases aside.
///
/// # Errors
/// If the site does not verify under `old`.
pub fn cut_off(site: &Site, old: &TrustRoot, new: &TrustRoot, shown: &Progress) -> Result<Vec<CutOff>, SiteError> {
    let published = site.published(old)?;
    let mut found = Vec::new();
    // Of another epoch no head of this site counts, and the next one is made anew.
    if old.epoch == new.epoch
        && let Some(head) = site.find(path::HEAD, limits::HEAD_BYTES)?
        && let Err(error) = restore(&head, new)
    {
        found.push(CutOff { name: None, version: None, why: error.to_string() });
    }
    let names: Vec<ServerName> = published.servers().map(|server| server.name.clone()).collect();
    let task = shown.start("releases", Unit::Items, names.len() as u64);
    let by_server = parallel::map(&names, site.workers(), |name| {
        let mut lost = Vec::new();
        if let Some(entry) = site.entry(&published, name)? {
            for listed in entry.releases().filter(|listed| listed.status != Status::Revoked) {
                let version = &listed.release.version;
                let under = |root| verify::statement(&listed.envelope, name, version, root, None);
                if let (Ok(_), Err(error)) = (under(old), under(new)) {
                    let (name, version) = (Some(name.clone()), Some(version.clone()));
                    lost.push(CutOff { name, version, why: error.to_string() });
                }
            }
        }
        task.add(1);
        Ok::<_, SiteError>(lost)
    })?;
    found.extend(by_server.into_iter().flatten());
    Ok(found)
}

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.name, &self.version) {
            (Some(name), Some(version)) => write!(f, "{name} {version}: {}", self.why),
            _ => write!(f, "the head: {}", self.why),
        }
    }
}
