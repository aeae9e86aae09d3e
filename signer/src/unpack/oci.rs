//! OCI artefacts become one list of entries: an image's layers laid over each other, or the archive
//! that is the one layer of an artifact.
//!
//! The artefact is the manifest. Everything it names is hashed here, through the descriptor that is
//! then read, whether it has just been fetched or lay in staging: nobody has to be believed. Each
//! layer is a tar, read as strictly as any other (what is ambiguous in it is refused), and its
//! uncompressed bytes must have the digest that the config says. How layers cover each other is
//! `overlay`'s matter.

mod layer;
mod overlay;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;

use mcpfs_trust::digest::{Digest, Hasher};

use super::{Archive, Budget, Spool, UnpackError, tar, tar_stream};
use crate::image::{Config, DOCUMENT_BYTES, Manifest, Part};

use layer::Layer;
use overlay::Overlay;

/// Reads the artefact whose manifest is in `file`; its parts lie in `folder` under their digests.
///
/// # Errors
/// The first reason to refuse it; nothing of a refused artefact is kept.
pub fn unpack(file: File, folder: &Path, scratch: &Path) -> Result<Archive, UnpackError> {
    let manifest = Manifest::parse(&document(file)?).map_err(|error| UnpackError::Image("manifest", error))?;
    let config = open(folder, &manifest.config)?;
    let layers = manifest.layers.iter().map(|part| open(folder, part)).collect::<Result<Vec<_>, _>>()?;
    if !manifest.is_image {
        return match layers.into_iter().next() {
            Some(layer) => Ok(Archive { parts: manifest.parts(), ..super::unpack(layer, scratch)? }),
            None => Err(UnpackError::archive("the artifact has no layer")),
        };
    }
    let config = Config::parse(&document(config)?).map_err(|error| UnpackError::Image("config", error))?;
    if config.diff_ids.len() != layers.len() {
        let (said, found) = (config.diff_ids.len(), layers.len());
        return Err(UnpackError::archive(format!("its config speaks of {said} layers, its manifest of {found}")));
    }
    let stored = manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
    let budget = Budget::for_artefact(stored);
    let mut overlay = Overlay::new(Spool::new(scratch).map_err(UnpackError::Spool)?);
    let all = layers.len();
    for (index, (file, diff_id)) in layers.into_iter().zip(&config.diff_ids).enumerate() {
        lay(&mut overlay, file, diff_id, &budget).map_err(|source| UnpackError::Layer {
            number: index + 1,
            all,
            source: Box::new(source),
        })?;
    }
    overlay.finish(config, manifest.parts())
}

/// Lays one layer over those before it.
fn lay(overlay: &mut Overlay, file: File, diff_id: &Digest, budget: &Budget) -> Result<(), UnpackError> {
    let (stream, _) = tar_stream(file, true)?;
    let mut hashing = Hashing { inner: stream, hasher: Hasher::new() };
    let layer = tar::read(&mut hashing, Layer::new(overlay.spool(), budget.clone()), budget)?.finish();
    // `tar::read` has read to the very end.
    let found = hashing.hasher.finish();
    if found != *diff_id {
        return Err(UnpackError::archive(format!("its bytes have the digest {found}, the config says {diff_id}")));
    }
    overlay.apply(layer)
}

/// A whole file, from its first byte.
fn document(mut file: File) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    file.rewind().map_err(UnpackError::Damaged)?;
    file.take(DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(UnpackError::Damaged)?;
    match bytes.len() as u64 > DOCUMENT_BYTES {
        true => Err(UnpackError::Bomb { what: "the size of a document", limit: DOCUMENT_BYTES }),
        false => Ok(bytes),
    }
}

/// A part, hashed, at its start.
fn open(folder: &Path, part: &Part) -> Result<File, UnpackError> {
    let missing = |error: io::Error| UnpackError::Part { sha256: part.sha256, problem: error.to_string() };
    let mut file = crate::files::open_file(&folder.join(part.sha256.to_string())).map_err(missing)?;
    let mut hasher = Hasher::new();
    let size = io::copy(&mut file, &mut hasher).map_err(missing)?;
    file.rewind().map_err(missing)?;
    match hasher.finish() == part.sha256 && size == part.size {
        true => Ok(file),
        false => Err(UnpackError::Part { sha256: part.sha256, problem: "other bytes lie there".to_owned() }),
    }
}

/// A stream whose digest is wanted too.
struct Hashing {
    inner: Box<dyn Read>,
    hasher: Hasher,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
