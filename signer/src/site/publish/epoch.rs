//! The first head of a new epoch.
//!
//! A stolen head key can make heads that nobody else made: of a number so high that no other follows, with
//! releases hidden or withdrawals taken back. Hosts with a trust root of the next epoch forget them all. What
//! the new epoch begins with must then not be what the thief left in `head.json`, but the last head that this
//! signer made itself, whose catalogue still lies in the site, since nothing there is ever overwritten.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::limits;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::site as path;

use super::super::state::{Published, at, restore};
use super::super::{SiteError, StoreError, Stored};
use super::{Outcome, Publisher, Put};
use crate::log::Row;

impl Publisher<'_> {
    /// Publishes the catalogue of a head of the old epoch again, as the first head of the trust root's epoch.
    /// Without `good` it is the last head that this signer published.
    ///
    /// # Errors
    /// If the epoch has begun already, the good head is not known or not there, or as [`Publisher::publish`].
    pub fn begin_epoch(&mut self, old: &TrustRoot, good: Option<Digest>, row: Row) -> Result<Outcome, SiteError> {
        let (found, wanted) = (old.epoch, self.root.epoch);
        if old.registry != self.root.registry || found >= wanted {
            return Err(SiteError::Epoch {
                problem: format!("the old trust root has epoch {found}, the new one {wanted}"),
            });
        }
        self.in_turn(|publisher| {
            let Some(present) = publisher.site.store().get(path::HEAD, limits::HEAD_BYTES)? else {
                return Err(SiteError::NothingPublished { place: publisher.site.place() });
            };
            if restore(&present.bytes, publisher.root).is_ok() {
                return Err(SiteError::Epoch {
                    problem: format!("epoch {wanted} has begun: sign with publish --resign"),
                });
            }
            // A second first head would have the number of the first one, and hosts would have two.
            if let Some(own) = publisher.state.floor(&publisher.root.registry, wanted)? {
                let problem = format!(
                    "this signer began epoch {wanted} and published its head {}: put it back as the site's head.json, from {}",
                    own.version,
                    publisher.state.last_head_file().display()
                );
                return Err(SiteError::Epoch { problem });
            }
            let good = match good {
                Some(good) => good,
                None => publisher.last_own(old)?,
            };
            let published = publisher.good_head(old, &good, present)?;
            let servers = published.servers().cloned().collect();
            publisher.advance(&published, servers, None, row.clone().into(), Put::default())
        })
    }

    fn last_own(&self, old: &TrustRoot) -> Result<Digest, SiteError> {
        // What was published over a thief's head has what he did in it.
        if let Some(own) = self.state.before_others(old.epoch)? {
            let problem = format!(
                "this signer has published over heads that it did not make. The last one before them was {}: begin with that \
                 by --good-head {}, or, if another publisher made them, name the last good head of heads/",
                own.version, own.sha256
            );
            return Err(SiteError::Epoch { problem });
        }
        let known = self.state.floor(&old.registry, old.epoch)?;
        known.map(|floor| floor.sha256).ok_or_else(|| SiteError::Epoch {
            problem: "this signer does not know the last good head: look for it in heads/ and in the signing log, and \
                      name its digest by --good-head"
                .to_owned(),
        })
    }

    /// The site under its good head, to be published in the place of what `head.json` holds now.
    fn good_head(&self, old: &TrustRoot, good: &Digest, present: Stored) -> Result<Published, SiteError> {
        let is_good = |bytes: &[u8]| {
            let envelope = Envelope::parse(bytes, limits::HEAD_BYTES, "head");
            envelope.is_ok_and(|envelope| envelope.statement() == *good)
        };
        let (name, bytes) = match is_good(&present.bytes) {
            true => (path::HEAD.to_owned(), present.bytes.clone()),
            // It was replaced: by the thief, so that only this signer has it, or by a later one of this signer's.
            false => match self.own_head(old, is_good)? {
                Some(bytes) => (path::HEAD.to_owned(), bytes),
                None => self.kept_head(good, is_good)?,
            },
        };
        let accepted = restore(&bytes, old).map_err(at(&name))?;
        if accepted.head.version == u64::MAX {
            return Err(at(&name)(VerifyError::malformed("head", "no version follows its own")));
        }
        let published = self.site.under(Stored { bytes, tag: None }, accepted)?;
        // Compared and swapped is what lies there.
        let head = published.head.map(|(_, accepted)| (present, accepted));
        Ok(Published { head, ..published })
    }

    /// A head that this signer kept for itself.
    fn own_head(&self, old: &TrustRoot, is_good: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>, SiteError> {
        let before = self.state.before_others(old.epoch)?.map(|own| own.bytes);
        Ok(self.state.last_head()?.into_iter().chain(before).find(|bytes| is_good(bytes)))
    }

    /// A head that the site keeps beside the present one.
    fn kept_head(&self, good: &Digest, is_good: impl Fn(&[u8]) -> bool) -> Result<(String, Vec<u8>), SiteError> {
        let suffix = format!("-{good}.json");
        let kept = self.site.store().list("heads/")?;
        let name = kept.into_iter().map(|one| one.name).find(|name| name.ends_with(&suffix));
        let name = name.ok_or_else(|| SiteError::Epoch {
            problem: format!("the site does not keep the head {good} in heads/; restore it from a copy"),
        })?;
        let missing = || StoreError::Missing { place: self.site.place(), name: name.clone() };
        let bytes = self.site.find(&name, limits::HEAD_BYTES)?.ok_or_else(missing)?;
        match is_good(&bytes) {
            true => Ok((name, bytes)),
            false => Err(SiteError::Damaged { path: name }),
        }
    }
}
