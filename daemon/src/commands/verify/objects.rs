//! The bytes themselves: trees, layouts, chunks, files, artefacts, and what nothing names.

use std::io::Read;
use std::path::Path;

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::{Digest, Hasher};
use mcpfs_trust::entry::PlatformLayout;
use mcpfs_trust::error::{Code, VerifyError, bounded};
use mcpfs_trust::layout::Layout;
use mcpfs_trust::release::Artefact;
use mcpfs_trust::site;
use mcpfs_trust::tree::Tree;
use tokio::task::JoinSet;

use super::walk::Walk;
use crate::refusal::Refusal;

/// Chunks fetched at once.
const PARALLEL: usize = 8;
/// Largest artefact that is checked over a network, where it has to fit into memory.
const ARTEFACT_BYTES: u64 = 512 << 20;

impl Walk {
    pub(super) async fn tree(&mut self, artefact: &Artefact, stored: &PlatformLayout) {
        let encoded = self.joined("tree", &stored.tree, artefact.tree.size).await;
        let layout = self.joined("layout", &stored.layout.chunks, stored.layout.size).await;
        self.check_chunks(stored.first.clone()).await;
        let Some(encoded) = encoded else { return };
        let named = format!("tree {}", artefact.tree.sha256);
        let tree = match Tree::decode(&encoded, &artefact.tree) {
            Ok(tree) => tree,
            Err(error) => return self.report.add(named, error),
        };
        self.report.counts.files += artefact.tree.files;
        let Some(layout) = layout else { return };
        let named = format!("layout {}", stored.layout.sha256);
        let decoded = mcpfs_trust::chunk::expect("layout", &stored.layout.sha256, &layout)
            .and_then(|()| Layout::decode(&layout, &tree));
        let layout = match decoded {
            Ok(layout) => layout,
            Err(error) => return self.report.add(named, error),
        };
        self.check_chunks(layout.chunks.clone()).await;
        if self.full {
            self.files(&tree, &layout).await;
        }
    }

    /// The plain bytes of a tree or layout, from its chunks.
    async fn joined(&mut self, what: &'static str, chunks: &[Chunk], size: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut whole = true;
        for chunk in chunks {
            match self.chunk(chunk).await {
                Some(plain) if bytes.len() as u64 + plain.len() as u64 <= size => bytes.extend_from_slice(&plain),
                Some(_) => {
                    self.report.add(site::object(&chunk.sha256), VerifyError::SizeExceeded { what, limit: size });
                    whole = false;
                }
                None => whole = false,
            }
        }
        whole.then_some(bytes)
    }

    /// One chunk, fetched and verified whether or not it was before.
    async fn chunk(&mut self, chunk: &Chunk) -> Option<Vec<u8>> {
        let path = site::object(&chunk.sha256);
        let found = self.get(&path, u64::from(chunk.size), "chunk", |bytes| chunk.decode(bytes)).await;
        if self.chunks.insert((chunk.sha256, chunk.plain_sha256)) {
            self.report.counts.chunks += 1;
        }
        found.map(|(plain, _)| plain)
    }

    /// Each chunk once, several at a time.
    async fn check_chunks(&mut self, chunks: Vec<Chunk>) {
        let mut fetches = JoinSet::new();
        let mut chunks = chunks.into_iter();
        loop {
            while fetches.len() < PARALLEL
                && let Some(chunk) = chunks.next()
            {
                if !self.chunks.insert((chunk.sha256, chunk.plain_sha256)) {
                    continue;
                }
                self.report.counts.chunks += 1;
                let site = self.site.clone();
                fetches.spawn(async move {
                    let path = site::object(&chunk.sha256);
                    let check = |bytes: Vec<u8>| chunk.decode(&bytes).map(|_| ());
                    let outcome = site.get_checked(&path, u64::from(chunk.size), "chunk", check).await;
                    (path, chunk.size, outcome)
                });
            }
            match fetches.join_next().await {
                Some(Ok((_, size, Ok(())))) => self.report.counts.bytes += u64::from(size),
                Some(Ok((path, _, Err(refusal)))) => self.report.add(path, refusal),
                Some(Err(_)) => self.report.add("objects/", Refusal::new(Code::Malformed, "a check was aborted")),
                None => return,
            }
        }
    }

    /// Every distinct file content, put together as the layout says.
    async fn files(&mut self, tree: &Tree, layout: &Layout) {
        // Contents lie in chunk order, so the last chunk is nearly always wanted again.
        let mut last: Option<(usize, Vec<u8>)> = None;
        for (index, (node, extent)) in tree.contents().iter().zip(&layout.contents).enumerate() {
            let Some((size, sha256)) = u32::try_from(index).ok().and_then(|index| tree.content(index)) else {
                continue;
            };
            let path = format!("file {}", bounded(&tree.path(*node)));
            let Some(span) = layout.span(*extent, size) else {
                self.report.add(path, VerifyError::malformed("layout", "an extent outside of its chunks"));
                continue;
            };
            let (mut hasher, mut left, mut skip) = (Hasher::new(), size, extent.offset as usize);
            for at in span {
                if last.as_ref().is_none_or(|(held, _)| *held != at) {
                    let Some(chunk) = layout.chunks.get(at).cloned() else { break };
                    last = self.chunk(&chunk).await.map(|plain| (at, plain));
                }
                let Some((_, plain)) = &last else { break };
                let piece = plain.get(skip..).unwrap_or_default();
                let take = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                hasher.update(&piece[..take]);
                left -= take as u64;
                skip = 0;
            }
            let found = hasher.finish();
            // A chunk that could not be had has been reported under its own name.
            if left == 0 && found != sha256 {
                self.report.add(path, VerifyError::DigestMismatch { what: "file", expected: sha256, found });
            }
        }
    }

    /// The copy of an artefact for simple clients.
    pub(super) async fn artefact(&mut self, sha256: &Digest, size: u64) {
        let path = site::artefact(sha256);
        self.report.counts.artefacts += 1;
        if let Some(directory) = &self.directory {
            let checked =
                hash_file(&directory.join(&path)).map(|(found, read)| (found == *sha256 && read == size, found, read));
            match checked {
                Ok((true, _, read)) => self.report.counts.bytes += read,
                Ok((false, found, _)) => {
                    self.report.add(path, VerifyError::DigestMismatch { what: "artefact", expected: *sha256, found });
                }
                Err(error) => self.report.add(path, Refusal::new(Code::Unreachable, error.to_string())),
            }
        } else if size > ARTEFACT_BYTES {
            self.report.skipped.push(format!("{path}: {size} bytes are too many to check over a network"));
        } else {
            let same = |bytes: &[u8]| mcpfs_trust::chunk::expect("artefact", sha256, bytes);
            self.get(&path, size, "artefact", same).await;
        }
    }

    /// Of a directory: everything that is named by its digest, whether anything names it or not.
    pub(super) fn strays(&mut self, directory: &Path) {
        for part in ["catalogue", "entries", "details", "objects", "artefacts"] {
            let mut waiting = vec![directory.join(part)];
            while let Some(path) = waiting.pop() {
                let Ok(entries) = std::fs::read_dir(&path) else { continue };
                for entry in entries.flatten() {
                    let path = entry.path();
                    match entry.file_type() {
                        Ok(kind) if kind.is_dir() => waiting.push(path),
                        Ok(kind) if kind.is_file() => self.stray(directory, &path),
                        _ => {}
                    }
                }
            }
        }
    }

    fn stray(&mut self, directory: &Path, path: &Path) {
        let shown = path.strip_prefix(directory).unwrap_or(path).to_string_lossy().into_owned();
        let stem = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = stem.strip_suffix(".json").unwrap_or(&stem);
        // A name that is no digest is none of ours.
        let Ok(expected) = stem.parse::<Digest>() else { return };
        let known = self.report.problems.iter().any(|problem| problem.path == shown);
        self.report.counts.other_files += 1;
        match hash_file(path) {
            Ok((found, _)) if found == expected || known => {}
            Ok((found, _)) => self.report.add(shown, VerifyError::DigestMismatch { what: "file", expected, found }),
            Err(error) => self.report.add(shown, Refusal::new(Code::Unreachable, error.to_string())),
        }
    }
}

fn hash_file(path: &Path) -> std::io::Result<(Digest, u64)> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer, mut total) = (Hasher::new(), vec![0; 1 << 16], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher.finish(), total)),
            read => {
                hasher.update(&buffer[..read]);
                total += read as u64;
            }
        }
    }
}
