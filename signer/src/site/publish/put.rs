//! Putting what a change needs beside what is there.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use mcpfs_trust::catalogue::{Bin, BinServer, Blob, Catalogue, bin_of};
use mcpfs_trust::digest::Digest;
use mcpfs_trust::limits;
use mcpfs_trust::site as path;

use super::super::state::Published;
use super::super::{SiteError, parallel};
use super::{Publisher, Put, Step};
use crate::progress::Unit;
use crate::staging::{StagedArtefact, Staging};

impl Publisher<'_> {
    /// Chunks and artefacts, each only if it is not there yet.
    pub(super) fn put_staged(&mut self, staged: Option<&Staging>) -> Result<Put, SiteError> {
        let Some(staging) = staged else { return Ok(Put::default()) };
        let mut put = Put::default();
        let mut chunks: Vec<_> = staging.artefacts.iter().flat_map(|artefact| artefact.all_chunks()).collect();
        chunks.retain(|chunk| put.present.insert(chunk.sha256));
        let (objects, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let task = self.shown.start("objects", Unit::Bytes, chunks.iter().map(|chunk| u64::from(chunk.size)).sum());
        parallel::map(&chunks, self.site.workers(), |chunk| {
            let size = u64::from(chunk.size);
            match staging.chunk(chunk)? {
                Some(stored) if self.site.put(&path::object(&chunk.sha256), &stored)? => {
                    objects.fetch_add(1, Ordering::Relaxed);
                    bytes.fetch_add(size, Ordering::Relaxed);
                }
                Some(_) => {}
                // Said to be published: then it must be there.
                None => self.site.has_chunk(chunk)?,
            }
            task.add(size);
            Ok::<_, SiteError>(())
        })?;
        drop(task);
        (put.objects, put.bytes) = (objects.into_inner(), bytes.into_inner());
        self.done(Step::Objects);
        let files: Vec<_> = staging.artefacts.iter().flat_map(StagedArtefact::originals).collect();
        let task = self.shown.start("artefact", Unit::Bytes, files.iter().map(|(_, part)| part.size).sum());
        for (file, part) in &files {
            if self.site.put_artefact(file, &part.sha256)? {
                put.objects += 1;
                put.bytes += part.size;
            }
            task.add(part.size);
        }
        drop(task);
        self.done(Step::Artefacts);
        Ok(put)
    }

    /// All bins of a list of servers, and their catalogue.
    pub(super) fn put_bins(&mut self, published: &Published, servers: Vec<BinServer>) -> Result<Catalogue, SiteError> {
        let present: HashSet<Digest> = published.bins.iter().map(|bin| Digest::of(&bin.encode())).collect();
        let bins = if servers.len() <= limits::ONE_BIN_SERVERS { 1 } else { 256 };
        let mut shares: Vec<Vec<BinServer>> = vec![Vec::new(); bins];
        for server in servers {
            if let Some(share) = shares.get_mut(bin_of(&server.name, bins)) {
                share.push(server);
            }
        }
        let encoded: Vec<Vec<u8>> = shares.into_iter().map(|share| Bin::new(share).encode()).collect();
        let site = self.site;
        let blobs = parallel::map(&encoded, site.workers(), |bytes| {
            let blob = Blob { sha256: Digest::of(bytes), size: bytes.len() as u64 };
            // Just read and verified.
            if !present.contains(&blob.sha256) {
                site.put(&path::bin(&blob.sha256), bytes)?;
            }
            Ok::<_, SiteError>(blob)
        })?;
        self.done(Step::Bins);
        Ok(Catalogue::new(self.root.registry.clone(), blobs))
    }
}
