//! What spares a tree and its layout from eviction: as long as somebody reads a mount by them, they must be
//! had again after a crash, and perhaps the disk is full then and the site far away.

use std::sync::Arc;

use mcpfs_trust::digest::Digest;

use super::cas::Cas;

/// Spares these from eviction until it is dropped.
#[derive(Debug)]
pub struct Hold {
    cas: Arc<Cas>,
    contents: [Digest; 2],
}

impl Hold {
    pub(super) fn new(cas: Arc<Cas>, contents: [Digest; 2]) -> Self {
        contents.iter().for_each(|sha256| cas.hold(*sha256));
        Self { cas, contents }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.contents.iter().for_each(|sha256| self.cas.end_hold(*sha256));
    }
}
