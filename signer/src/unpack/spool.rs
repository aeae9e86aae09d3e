//! One anonymous file that holds the distinct contents of an artefact.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mcpfs_trust::digest::{Digest, Hasher};

use super::{Budget, UnpackError};

/// Contents by digest. The file has no name (or loses it at once), mode 0600, and vanishes
/// with this value.
#[derive(Debug)]
pub struct Spool {
    file: File,
    end: u64,
    contents: HashMap<Digest, (u64, u64)>,
    /// What [`Self::add`] reads into: most contents are much smaller.
    buffer: Vec<u8>,
}

/// Reads one content of a spool.
#[derive(Debug)]
pub struct SpoolReader<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Spool {
    /// An empty spool in the folder `scratch`.
    ///
    /// # Errors
    /// If no file can be made there.
    pub fn new(scratch: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(scratch)?;
        Ok(Self { file, end: 0, contents: HashMap::new(), buffer: vec![0; 128 << 10] })
    }

    /// Takes everything that `reader` yields; a content that is there already takes no room.
    ///
    /// # Errors
    /// Those of `reader` as the inner result, those of the spool as the outer one.
    pub(crate) fn add(&mut self, mut reader: impl Read) -> io::Result<io::Result<(Digest, u64)>> {
        let mut hasher = Hasher::new();
        let mut at = self.end;
        loop {
            let read = match reader.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(error)),
            };
            hasher.write_all(&self.buffer[..read])?;
            self.file.write_all_at(&self.buffer[..read], at)?;
            at += read as u64;
        }
        let (digest, size) = (hasher.finish(), at - self.end);
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.contents.entry(digest) {
            vacant.insert((self.end, size));
            self.end = at;
        }
        Ok(Ok((digest, size)))
    }

    /// Takes the `size` bytes of the entry `raw`.
    ///
    /// # Errors
    /// Another size, a used up budget, or errors of either side.
    pub(super) fn take(
        &mut self,
        raw: &[u8],
        size: u64,
        content: impl Read,
        budget: &Budget,
    ) -> Result<Digest, UnpackError> {
        let (sha256, read) = self.add(content).map_err(UnpackError::Spool)?.map_err(|error| budget.explain(error))?;
        match read == size {
            true => Ok(sha256),
            false => Err(UnpackError::entry(raw, format!("has {read} bytes where {size} were announced"))),
        }
    }

    /// The content with this digest.
    pub fn reader(&self, sha256: &Digest) -> Option<SpoolReader<'_>> {
        let (at, left) = *self.contents.get(sha256)?;
        Some(SpoolReader { file: &self.file, at, left })
    }
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..want], self.at)?;
        if read == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
