//! The heads that a signer keeps for itself, byte for byte: a thief of its key may replace them in the site.

use std::path::PathBuf;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::head::{HEAD_TYPE, Head};
use mcpfs_trust::limits;
use mcpfs_trust::statement::Statement;

use super::SignerState;
use crate::files;
use crate::site::SiteError;

/// What was about to be published, if the signer ended there.
const NEXT: &str = "head-next.json";
/// The last one before this signer published over somebody else's head.
const BEFORE_OTHERS: &str = "head-before-others.json";

/// A head that this signer made, as it says of itself.
#[derive(Debug, Clone)]
pub(crate) struct OwnHead {
    /// The envelope.
    pub(crate) bytes: Vec<u8>,
    /// Digest of its payload.
    pub(crate) sha256: Digest,
    /// Its epoch.
    pub(crate) epoch: u64,
    /// Its number.
    pub(crate) version: u64,
}

impl SignerState {
    /// The last head that this signer published.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn last_head(&self) -> Result<Option<Vec<u8>>, SiteError> {
        Ok(self.own_head("head.json")?.map(|head| head.bytes))
    }

    /// Where that is.
    pub(crate) fn last_head_file(&self) -> PathBuf {
        self.folder.join("head.json")
    }

    pub(crate) fn set_last_head(&self, bytes: &[u8]) -> Result<(), SiteError> {
        Ok(files::write_durably(&self.last_head_file(), bytes, true)?)
    }

    /// The head that was about to be published when this signer ended, or was published since.
    pub(crate) fn next_head(&self) -> Result<Option<Digest>, SiteError> {
        Ok(self.own_head(NEXT)?.map(|head| head.sha256))
    }

    pub(crate) fn set_next_head(&self, bytes: &[u8]) -> Result<(), SiteError> {
        Ok(files::write_durably(&self.folder.join(NEXT), bytes, true)?)
    }

    /// The last head in `epoch` before this signer published over one that it did not make.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn before_others(&self, epoch: u64) -> Result<Option<OwnHead>, SiteError> {
        Ok(self.own_head(BEFORE_OTHERS)?.filter(|head| head.epoch == epoch))
    }

    /// Keeps the last head as the one before others, unless there is one of `epoch` already.
    pub(crate) fn keep_before_others(&self, epoch: u64) -> Result<(), SiteError> {
        if self.before_others(epoch)?.is_some() {
            return Ok(());
        }
        match self.own_head("head.json")?.filter(|head| head.epoch == epoch) {
            Some(head) => Ok(files::write_durably(&self.folder.join(BEFORE_OTHERS), &head.bytes, true)?),
            None => Ok(()),
        }
    }

    /// A head of these files; one that is none is not there.
    fn own_head(&self, name: &str) -> Result<Option<OwnHead>, SiteError> {
        let bytes = match files::read_bounded(&self.folder.join(name), limits::HEAD_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Ok(envelope) = Envelope::parse(&bytes, limits::HEAD_BYTES, "head") else { return Ok(None) };
        let Ok(Statement { predicate, .. }) = Statement::<Head>::parse(&envelope.payload, HEAD_TYPE) else {
            return Ok(None);
        };
        let (sha256, epoch, version) = (envelope.statement(), predicate.epoch, predicate.version);
        Ok(Some(OwnHead { bytes, sha256, epoch, version }))
    }
}
