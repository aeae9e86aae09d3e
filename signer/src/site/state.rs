//! What a site says now, verified before a signer builds on it.

use mcpfs_trust::catalogue::{BinServer, bin_of};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed};
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::head::{HEAD_TYPE, Head};
use mcpfs_trust::layout::Layout;
use mcpfs_trust::limits;
use mcpfs_trust::name::ServerName;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::site as path;
use mcpfs_trust::statement::Statement;
use mcpfs_trust::tree::Tree;
use mcpfs_trust::verify::{self, AcceptedHead, Floor, Seen, Verified};

use super::{Site, SiteError, Stored, parallel};

/// A site's verified state.
#[derive(Debug)]
pub struct Published {
    /// `head.json` as it was read, and the head; `None` for an empty site.
    pub head: Option<(Stored, AcceptedHead)>,
    /// Every server, in the bins of the catalogue.
    pub bins: Vec<Verified<mcpfs_trust::catalogue::Bin>>,
    /// The last head of a site that is made again: it is known by its number and digest alone.
    pub after: Option<Floor>,
}

impl Site {
    /// Reads head, catalogue and bins. An expired head is accepted here: replacing it is the cure.
    ///
    /// # Errors
    /// `Verify` if a file is not what the trust root's head keys signed.
    pub fn published(&self, root: &TrustRoot) -> Result<Published, SiteError> {
        let Some(stored) = self.store().get(path::HEAD, limits::HEAD_BYTES)? else {
            // Asked only for its error: nothing in a bucket that is not there is no empty site.
            self.store().is_empty()?;
            return Ok(Published { head: None, bins: Vec::new(), after: None });
        };
        let accepted = restore(&stored.bytes, root).map_err(at(path::HEAD))?;
        self.under(stored, accepted)
    }

    /// Reads the head alone, as [`Site::published`] does.
    ///
    /// # Errors
    /// `Verify` if it is not what the trust root's head keys signed.
    pub fn head(&self, root: &TrustRoot) -> Result<Option<AcceptedHead>, SiteError> {
        let stored = self.store().get(path::HEAD, limits::HEAD_BYTES)?;
        stored.map(|stored| restore(&stored.bytes, root).map_err(at(path::HEAD))).transpose()
    }

    /// Reads what lies under an accepted head.
    ///
    /// # Errors
    /// `Verify` if a file is not what the head leads to.
    pub fn under(&self, stored: Stored, accepted: AcceptedHead) -> Result<Published, SiteError> {
        let name = path::catalogue(&accepted.catalogue);
        let catalogue = self.read(&name, limits::CATALOGUE_BYTES)?;
        let catalogue = verify::catalogue(&catalogue, &accepted).map_err(at(&name))?;
        let indexed: Vec<_> = catalogue.bins.iter().enumerate().collect();
        let bins = parallel::map(&indexed, self.workers(), |(index, blob)| {
            let name = path::bin(&blob.sha256);
            let bin = self.read(&name, limits::BIN_BYTES)?;
            verify::bin(&bin, &catalogue, *index).map_err(at(&name))
        })?;
        Ok(Published { head: Some((stored, accepted)), bins, after: None })
    }

    /// A server's verified entry; `None` if the registry does not have it.
    ///
    /// # Errors
    /// `Verify` if the entry is not the one that the catalogue names.
    pub fn entry(&self, published: &Published, name: &ServerName) -> Result<Option<Verified<Entry>>, SiteError> {
        let Some(bin) = published.bin(name) else { return Ok(None) };
        let Some(server) = bin.find(name) else { return Ok(None) };
        let path = path::entry(&server.sha256);
        let bytes = self.read(&path, limits::ENTRY_BYTES)?;
        Ok(Some(verify::entry(&bytes, bin, name).map_err(at(&path))?))
    }

    /// Every chunk of a listed release: of its trees, layouts and content, checked as a host does.
    ///
    /// # Errors
    /// If a tree or layout is missing or is not the one that the statement or entry names.
    pub fn release_chunks(&self, listed: &Listed) -> Result<Vec<Chunk>, SiteError> {
        let mut chunks = Vec::new();
        for (artefact, stored) in listed.release.artefact.all().iter().zip(&listed.layout) {
            let what = format!("{} {} ({})", listed.release.name, listed.release.version, stored.platform);
            let tree = Tree::decode(&self.chunks(&stored.tree)?, &artefact.tree).map_err(at(&what))?;
            let bytes = self.chunks(&stored.layout.chunks)?;
            mcpfs_trust::chunk::expect("layout", &stored.layout.sha256, &bytes).map_err(at(&what))?;
            let layout = Layout::decode(&bytes, &tree).map_err(at(&what))?;
            chunks.extend_from_slice(&stored.tree);
            chunks.extend_from_slice(&stored.layout.chunks);
            chunks.extend(layout.chunks);
        }
        Ok(chunks)
    }
}

impl Published {
    /// The head's version; 0 for an empty folder.
    pub fn version(&self) -> u64 {
        self.floor().map_or(0, |floor| floor.version)
    }

    /// The digest of the head's payload.
    pub fn head_digest(&self) -> Option<Digest> {
        self.floor().map(|floor| floor.sha256)
    }

    /// What a host remembers that has accepted this head.
    pub fn seen(&self) -> Seen {
        let signed_time = self.head.as_ref().and_then(|(_, accepted)| accepted.seen.signed_time);
        Seen { floor: self.floor(), signed_time }
    }

    fn floor(&self) -> Option<Floor> {
        self.head.as_ref().map_or(self.after, |(_, accepted)| accepted.seen.floor)
    }

    /// All servers, in no order.
    pub fn servers(&self) -> impl Iterator<Item = &BinServer> {
        self.bins.iter().flat_map(|bin| &bin.servers)
    }

    fn bin(&self, name: &ServerName) -> Option<&Verified<mcpfs_trust::catalogue::Bin>> {
        self.bins.get(bin_of(name, self.bins.len()))
    }
}

/// Verifies a head for its own sake: by its keys, registry and epoch, whatever the time.
pub(crate) fn restore(bytes: &[u8], root: &TrustRoot) -> Result<AcceptedHead, VerifyError> {
    let envelope = Envelope::parse(bytes, limits::HEAD_BYTES, "head")?;
    // Read before it is verified only to say which head we mean; `restored_head` verifies it.
    let claimed = Statement::<Head>::parse(&envelope.payload, HEAD_TYPE)?.predicate;
    let floor = Floor { epoch: claimed.epoch, version: claimed.version, sha256: envelope.statement() };
    verify::restored_head(bytes, root, &Seen { floor: Some(floor), signed_time: Some(claimed.issued) })
}

/// A verification error of a file of the site.
pub(crate) fn at(path: &str) -> impl Fn(VerifyError) -> SiteError {
    move |source| SiteError::Verify { path: path.to_owned(), source: Box::new(source) }
}
