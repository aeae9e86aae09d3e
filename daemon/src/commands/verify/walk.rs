//! From the head down to each release, as a host follows it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use mcpfs_trust::catalogue::{Bin, BinServer};
use mcpfs_trust::details::Details;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, Status};
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::name::Version;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::{self, AcceptedHead, Seen, Verified};
use mcpfs_trust::{limits, site};

use super::Report;
use crate::refusal::Refusal;
use crate::site::Site;

/// One look at a whole site.
pub(super) struct Walk {
    pub(super) site: Site,
    /// The site's files themselves, if they are here.
    pub(super) directory: Option<PathBuf>,
    root: TrustRoot,
    pub(super) full: bool,
    pub(super) report: Report,
    /// Chunk records that were checked, good or bad.
    pub(super) chunks: HashSet<(Digest, Digest)>,
    /// Artefacts to check, with their size.
    artefacts: HashMap<Digest, u64>,
    /// Tree and layout pairs that were checked.
    trees: HashSet<(Digest, Digest)>,
    /// Details that were checked.
    details: HashSet<Digest>,
}

impl Walk {
    /// A walk that has not begun; `directory` is the site's, if its files are here.
    pub(super) fn new(site: Site, directory: Option<PathBuf>, root: TrustRoot, full: bool) -> Self {
        Self {
            site,
            directory,
            root,
            full,
            report: Report::default(),
            chunks: HashSet::new(),
            artefacts: HashMap::new(),
            trees: HashSet::new(),
            details: HashSet::new(),
        }
    }

    /// Looks at everything, as of `at`.
    pub(super) async fn run(mut self, at: Timestamp) -> Report {
        if let Some(accepted) = self.head(at).await {
            self.report.head = Some(accepted.head.version);
            for listed in self.servers(&accepted).await {
                self.server(listed.0, &listed.1).await;
            }
            let artefacts: BTreeMap<Digest, u64> = self.artefacts.drain().collect();
            for (sha256, size) in artefacts {
                self.artefact(&sha256, size).await;
            }
        }
        if let Some(directory) = self.directory.clone() {
            self.strays(&directory);
        }
        self.report.problems.sort();
        self.report
    }

    pub(super) async fn get<T>(
        &mut self,
        path: &str,
        limit: u64,
        what: &'static str,
        check: impl Fn(&[u8]) -> Result<T, VerifyError>,
    ) -> Option<(T, Vec<u8>)> {
        let checked = |bytes: Vec<u8>| check(&bytes).map(|value| (value, bytes));
        match self.site.get_checked(path, limit, what, checked).await {
            Ok((value, bytes)) => {
                self.report.counts.bytes += bytes.len() as u64;
                Some((value, bytes))
            }
            Err(refusal) => {
                self.report.add(path, refusal);
                None
            }
        }
    }

    async fn head(&mut self, at: Timestamp) -> Option<AcceptedHead> {
        let bytes = self.get(site::HEAD, limits::HEAD_BYTES, "head", |_| Ok(())).await?.1;
        self.head_form(&bytes);
        let mut outcome = verify::head(&bytes, &self.root, &Seen::default(), at);
        if let Err(error @ VerifyError::HeadExpired { expires }) = &outcome {
            // Worth a complaint, but no reason not to look at the rest.
            let (error, last) = (error.clone(), expires.plus(-1));
            self.report.add(site::HEAD, error);
            outcome = verify::head(&bytes, &self.root, &Seen::default(), last);
        }
        outcome.map_err(|error| self.report.add(site::HEAD, error)).ok()
    }

    /// What a host overlooks in a head: another spelling of it, and signatures beside those
    /// that are enough. Nothing covers these bytes by a digest.
    fn head_form(&mut self, bytes: &[u8]) {
        let Ok(envelope) = Envelope::parse(bytes, limits::HEAD_BYTES, "head") else { return };
        if envelope.encode() != bytes {
            self.report.add(site::HEAD, VerifyError::malformed("head", "not in the form in which it was written"));
        }
        let signed = envelope.signed_bytes();
        for signature in &envelope.signatures {
            let key = signature.keyid;
            let genuine = match self.root.key(&key) {
                Some(public) => public.verify(&signed, &signature.sig),
                // A key of a later trust root is fine, a wrong name for one of this root is not.
                None => !self.root.keys().any(|(_, public, _)| public.verify(&signed, &signature.sig)),
            };
            if !genuine {
                self.report.add(site::HEAD, VerifyError::SignatureInvalid { key });
            }
        }
    }

    /// All servers that a head lists, each with its bin.
    async fn servers(&mut self, accepted: &AcceptedHead) -> Vec<(BinServer, Arc<Verified<Bin>>)> {
        let mut servers = Vec::new();
        let path = site::catalogue(&accepted.catalogue);
        let size = accepted.head.catalogue.size;
        let found = self.get(&path, size, "catalogue", |bytes| verify::catalogue(bytes, accepted)).await;
        let Some((catalogue, _)) = found else { return servers };
        for (index, blob) in catalogue.bins.iter().enumerate() {
            let path = site::bin(&blob.sha256);
            let found = self.get(&path, blob.size, "bin", |bytes| verify::bin(bytes, &catalogue, index)).await;
            if let Some((bin, _)) = found {
                let bin = Arc::new(bin);
                servers.extend(bin.servers.iter().map(|server| (server.clone(), Arc::clone(&bin))));
            }
        }
        servers
    }

    async fn server(&mut self, listed: BinServer, bin: &Verified<Bin>) {
        self.report.counts.servers += 1;
        let copy = site::server(&listed.name);
        let same = |bytes: &[u8]| mcpfs_trust::chunk::expect("entry", &listed.sha256, bytes);
        self.get(&copy, listed.size, "copy of the entry", same).await;
        let path = site::entry(&listed.sha256);
        let found = self.get(&path, listed.size, "entry", |bytes| verify::entry(bytes, bin, &listed.name)).await;
        let Some((entry, _)) = found else { return };
        for one in entry.releases() {
            self.report.counts.releases += 1;
            let version = &one.release.version;
            if let Err(error) = verify::release(&entry, version, &self.root, None) {
                let refusal = Refusal::from(error).of(format!("{} {version}", listed.name));
                self.report.add(path.as_str(), refusal);
                continue;
            }
            self.details(one).await;
            // A withdrawn release may be cleared away; nobody gets to see it.
            if one.status == Status::Revoked {
                continue;
            }
            self.platforms(&entry, version).await;
        }
    }

    /// Also of a revoked release: who ran it is asked just then.
    async fn details(&mut self, listed: &Listed) {
        let Some(blob) = listed.details else { return };
        if self.details.insert(blob.sha256) {
            let check = |bytes: &[u8]| Details::read(bytes, &blob.sha256);
            self.get(&site::details(&blob.sha256), blob.size, "details", check).await;
        }
    }

    async fn platforms(&mut self, entry: &Entry, version: &Version) {
        let Some(one) = entry.find(version) else { return };
        for (artefact, stored) in one.release.artefact.all().iter().zip(&one.layout) {
            self.artefacts.insert(artefact.sha256, artefact.size);
            if self.trees.insert((artefact.tree.sha256, stored.layout.sha256)) {
                self.report.counts.trees += 1;
                self.tree(artefact, stored).await;
            }
        }
    }
}
