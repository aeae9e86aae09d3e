//! A branch only ever grows: one that was set back would bring old releases back without a review.
//!
//! The tip that was read last stands in the journal. A journal that was lost is made good from
//! what the site says: the log names the tip of each head that this server signed, and every
//! statement names the commit that it came from. All of them must lie on the branch. Where nothing
//! is said there is nothing to compare with, and the operator must say that the tip is the right one.

use std::collections::BTreeSet;

use super::trouble::Wait;
use crate::log;
use crate::mirror::Mirror;
use crate::site::state::Published;
use crate::site::{Site, SiteError};

/// What is known of a branch.
pub(super) struct Guard<'a> {
    pub(super) mirror: &'a Mirror,
    pub(super) branch: &'a str,
    /// The address that statements name.
    pub(super) repository: &'a str,
    /// The last tip, of the journal.
    pub(super) known: Option<&'a str>,
}

impl Guard<'_> {
    /// Whether `tip` follows everything that is known.
    ///
    /// # Errors
    /// `Rewritten` if it does not, `NothingKnown` if a site has a head and nothing tells of which tip.
    pub(super) fn follows(&self, tip: &str, site: &Site, published: &Published) -> Result<(), Wait> {
        let remembered = match self.known {
            Some(known) => BTreeSet::from([known.to_owned()]),
            None if published.head.is_none() => return Ok(()),
            None => remembered(site, published, self.repository)?,
        };
        if remembered.is_empty() {
            return Err(Wait::NothingKnown { branch: self.branch.to_owned(), tip: tip.to_owned() });
        }
        for known in remembered {
            if known != tip && !(self.mirror.holds(&known) && self.mirror.is_ancestor(&known, tip)?) {
                return Err(Wait::Rewritten { branch: self.branch.to_owned(), tip: tip.to_owned(), known });
            }
        }
        Ok(())
    }
}

/// The commits that a site tells of: the last tip in its log, and those of its statements.
fn remembered(site: &Site, published: &Published, repository: &str) -> Result<BTreeSet<String>, SiteError> {
    let mut found = BTreeSet::new();
    found.extend(log::newest(site, published, |row| {
        row.tip.clone().filter(|tip| tip.repository == repository).map(|tip| tip.commit)
    })?);
    for server in published.servers() {
        let Some(entry) = site.entry(published, &server.name)? else { continue };
        for listed in entry.releases() {
            let source = listed.release.source.as_ref().filter(|source| source.repository == repository);
            found.extend(source.map(|source| source.commit.clone()));
        }
    }
    Ok(found)
}
