//! The rules that every entry obeys, whatever archive it comes from.

use std::collections::HashMap;
use std::io::Read;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::limits;
use mcpfs_trust::name::check_file_name;

use super::budget::Budget;
use super::{Archive, ENTRIES, Remark, SPECIAL_BITS, Spool, UnpackError, Unpacked, UnpackedKind};

/// Entries so far.
#[derive(Debug)]
pub(super) struct Entries {
    list: Vec<Unpacked>,
    /// What stands at each path, implied directories included.
    at: HashMap<String, Standing>,
    spool: Spool,
    budget: Budget,
    remarks: Vec<Remark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Directory,
    File { executable: bool, size: u64, sha256: Digest },
    Link,
}

impl Entries {
    pub(super) fn new(spool: Spool, budget: Budget) -> Self {
        Self { list: Vec::new(), at: HashMap::new(), spool, budget, remarks: Vec::new() }
    }

    pub(super) const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A directory; the root itself and one that is there already add nothing.
    pub(super) fn directory(&mut self, raw: &[u8], mode: u32) -> Result<(), UnpackError> {
        let Some(path) = path(raw)? else { return Ok(()) };
        self.special_bits(&path, mode);
        match self.at.get(&path) {
            Some(Standing::Directory) => Ok(()),
            Some(_) => Err(UnpackError::entry(raw, "stands there twice, once as a directory")),
            None => {
                self.insert(raw, &path, Standing::Directory)?;
                self.list.push(Unpacked { path, kind: UnpackedKind::Directory });
                Ok(())
            }
        }
    }

    /// A regular file with the bytes of `content`, which must be `size` many.
    pub(super) fn file(&mut self, raw: &[u8], mode: u32, size: u64, content: impl Read) -> Result<(), UnpackError> {
        let path = self.new_path(raw)?;
        let (sha256, read) =
            self.spool.add(content).map_err(UnpackError::Spool)?.map_err(|error| self.budget.explain(error))?;
        if read != size {
            return Err(UnpackError::entry(raw, format!("has {read} bytes where {size} were announced")));
        }
        self.special_bits(&path, mode);
        self.leaf(raw, path, mode & 0o100 != 0, size, sha256)
    }

    /// A hard link: another name of a file that came before.
    pub(super) fn hard_link(&mut self, raw: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let own = self.new_path(raw)?;
        match path(target)?.and_then(|target| self.at.get(&target)) {
            Some(Standing::File { executable, size, sha256 }) => {
                let (executable, size, sha256) = (*executable, *size, *sha256);
                self.leaf(raw, own, executable, size, sha256)
            }
            _ => {
                Err(UnpackError::entry(raw, "is a hard link to something that is not a file before it in the archive"))
            }
        }
    }

    /// A symbolic link. Whether it stays inside is decided when all entries are known.
    pub(super) fn link(&mut self, raw: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let path = self.new_path(raw)?;
        let Ok(text) = std::str::from_utf8(target) else {
            return Err(UnpackError::entry(raw, "is a link to a path that is not UTF-8"));
        };
        if text.is_empty() || text.len() > limits::PATH_BYTES || text.chars().any(char::is_control) {
            return Err(UnpackError::entry(raw, "is a link with an empty, too long or unprintable target"));
        }
        let target = match text.strip_prefix('/') {
            None => text.to_owned(),
            Some(below_root) => {
                self.remarks.push(Remark::Rewritten { path: path.clone(), target: text.to_owned() });
                let up = "../".repeat(path.matches('/').count());
                match below_root.trim_start_matches('/') {
                    "" if up.is_empty() => ".".to_owned(),
                    rest => format!("{up}{rest}"),
                }
            }
        };
        self.insert(raw, &path, Standing::Link)?;
        self.list.push(Unpacked { path, kind: UnpackedKind::Link { target } });
        Ok(())
    }

    pub(super) fn finish(self, format: &'static str) -> Result<Archive, UnpackError> {
        if self.list.is_empty() {
            return Err(UnpackError::archive("the archive is empty"));
        }
        Ok(Archive { entries: self.list, spool: self.spool, remarks: self.remarks, format, manifest: None })
    }

    fn leaf(
        &mut self,
        raw: &[u8],
        path: String,
        executable: bool,
        size: u64,
        sha256: Digest,
    ) -> Result<(), UnpackError> {
        self.insert(raw, &path, Standing::File { executable, size, sha256 })?;
        self.list.push(Unpacked { path, kind: UnpackedKind::File { executable, size, sha256 } });
        Ok(())
    }

    fn new_path(&self, raw: &[u8]) -> Result<String, UnpackError> {
        let path = path(raw)?.ok_or_else(|| UnpackError::entry(raw, "is the root, but not a directory"))?;
        if raw.ends_with(b"/") {
            return Err(UnpackError::entry(raw, "ends with '/', but is not a directory"));
        }
        match self.at.get(&path) {
            None => Ok(path),
            Some(Standing::Directory) => Err(UnpackError::entry(raw, "stands there twice, once as a directory")),
            Some(_) => Err(UnpackError::entry(raw, "stands there twice")),
        }
    }

    /// Notes what stands at `path`, and the directories above it.
    fn insert(&mut self, raw: &[u8], path: &str, standing: Standing) -> Result<(), UnpackError> {
        for (end, _) in path.match_indices('/') {
            match self.at.get(&path[..end]) {
                Some(Standing::Directory) => {}
                None => {
                    self.at.insert(path[..end].to_owned(), Standing::Directory);
                }
                Some(Standing::Link) => return Err(UnpackError::entry(raw, "lies below a link")),
                Some(Standing::File { .. }) => return Err(UnpackError::entry(raw, "lies below a file")),
            }
        }
        self.at.insert(path.to_owned(), standing);
        if self.at.len() > ENTRIES {
            return Err(UnpackError::Bomb { what: "the number of entries", limit: ENTRIES as u64 });
        }
        Ok(())
    }

    fn special_bits(&mut self, path: &str, mode: u32) {
        if mode & SPECIAL_BITS != 0 {
            self.remarks.push(Remark::SpecialBits { path: path.to_owned(), mode: mode & 0o7777 });
        }
    }
}

/// A path below the tree's root; `None` for the root itself (`.`, `./`).
///
/// Leading `./` and one trailing `/` are how tar writes names; anything else that has two
/// spellings is refused.
fn path(raw: &[u8]) -> Result<Option<String>, UnpackError> {
    let Ok(text) = std::str::from_utf8(raw) else {
        return Err(UnpackError::entry(raw, "has a name that is not UTF-8"));
    };
    if text.starts_with('/') {
        return Err(UnpackError::entry(raw, "is an absolute path"));
    }
    let mut text = text;
    while let Some(rest) = text.strip_prefix("./") {
        text = rest;
    }
    let text = text.strip_suffix('/').unwrap_or(text);
    if text == "." || (text.is_empty() && !raw.is_empty()) {
        return Ok(None);
    }
    if text.len() > limits::PATH_BYTES || text.matches('/').count() >= limits::TREE_DEPTH {
        return Err(UnpackError::entry(raw, "is too long or too deep"));
    }
    for part in text.split('/') {
        if part == ".." {
            return Err(UnpackError::entry(raw, "climbs with '..'"));
        }
        check_file_name(part).map_err(|error| UnpackError::entry(raw, error.to_string()))?;
    }
    Ok(Some(text.to_owned()))
}
