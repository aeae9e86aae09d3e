//! The rules that every entry obeys, whatever archive it comes from.

use std::collections::HashMap;
use std::io::Read;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::limits;
use mcpfs_trust::name::check_file_name;

use super::budget::Budget;
use super::{Archive, ENTRIES, Remark, SPECIAL_BITS, Spool, UnpackError, Unpacked, UnpackedKind};

/// What takes the entries of a tar: those of a whole archive, or of one layer of an image.
pub(super) trait Receive {
    /// What decoded bytes are taken from.
    fn budget(&self) -> &Budget;
    /// A directory; the root itself and one that is there already add nothing.
    fn directory(&mut self, raw: &[u8], mode: u32) -> Result<(), UnpackError>;
    /// A regular file with the bytes of `content`, which must be `size` many.
    fn file(&mut self, raw: &[u8], mode: u32, size: u64, content: impl Read) -> Result<(), UnpackError>;
    /// A hard link: another name of a file that came before.
    fn hard_link(&mut self, raw: &[u8], target: &[u8]) -> Result<(), UnpackError>;
    /// A symbolic link. Whether it stays inside is decided when all entries are known.
    fn link(&mut self, raw: &[u8], target: &[u8]) -> Result<(), UnpackError>;
    /// A device or a named pipe; `what` says which.
    fn device(&mut self, raw: &[u8], what: &str) -> Result<(), UnpackError>;
}

/// Entries so far.
#[derive(Debug)]
pub(super) struct Entries {
    list: Vec<Unpacked>,
    paths: Paths,
    spool: Spool,
    budget: Budget,
    remarks: Vec<Remark>,
}

/// What stands at each path of one archive, implied directories included.
#[derive(Debug, Default)]
pub(super) struct Paths(HashMap<String, Standing>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Directory,
    File { executable: bool, size: u64, sha256: Digest },
    Link,
}

impl Entries {
    pub(super) fn new(spool: Spool, budget: Budget) -> Self {
        Self { list: Vec::new(), paths: Paths::default(), spool, budget, remarks: Vec::new() }
    }

    pub(super) fn finish(self, format: &'static str) -> Result<Archive, UnpackError> {
        if self.list.is_empty() {
            return Err(UnpackError::archive("the archive is empty"));
        }
        Ok(Archive {
            entries: self.list,
            spool: self.spool,
            remarks: self.remarks,
            format,
            manifest: None,
            parts: Vec::new(),
            image: None,
        })
    }

    fn leaf(
        &mut self,
        raw: &[u8],
        path: String,
        executable: bool,
        size: u64,
        sha256: Digest,
    ) -> Result<(), UnpackError> {
        self.paths.insert(raw, &path, Standing::File { executable, size, sha256 })?;
        self.list.push(Unpacked { path, kind: UnpackedKind::File { executable, size, sha256 } });
        Ok(())
    }

    fn special_bits(&mut self, path: &str, mode: u32) {
        self.remarks.extend(special_bits(path, mode));
    }
}

impl Receive for Entries {
    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn directory(&mut self, raw: &[u8], mode: u32) -> Result<(), UnpackError> {
        let Some(path) = path(raw)? else { return Ok(()) };
        self.special_bits(&path, mode);
        if self.paths.directory(raw, &path)? {
            self.list.push(Unpacked { path, kind: UnpackedKind::Directory });
        }
        Ok(())
    }

    fn file(&mut self, raw: &[u8], mode: u32, size: u64, content: impl Read) -> Result<(), UnpackError> {
        let path = self.paths.new_path(raw)?;
        let sha256 = self.spool.take(raw, size, content, &self.budget)?;
        self.special_bits(&path, mode);
        self.leaf(raw, path, mode & 0o100 != 0, size, sha256)
    }

    fn hard_link(&mut self, raw: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let own = self.paths.new_path(raw)?;
        match path(target)?.and_then(|target| self.paths.get(&target)) {
            Some(Standing::File { executable, size, sha256 }) => self.leaf(raw, own, executable, size, sha256),
            _ => {
                Err(UnpackError::entry(raw, "is a hard link to something that is not a file before it in the archive"))
            }
        }
    }

    fn link(&mut self, raw: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let path = self.paths.new_path(raw)?;
        let text = link_target(raw, target)?;
        if text.starts_with('/') {
            self.remarks.push(Remark::Rewritten { path: path.clone(), target: text.to_owned() });
        }
        let target = relative(&path, text);
        self.paths.insert(raw, &path, Standing::Link)?;
        self.list.push(Unpacked { path, kind: UnpackedKind::Link { target } });
        Ok(())
    }

    fn device(&mut self, raw: &[u8], what: &str) -> Result<(), UnpackError> {
        Err(UnpackError::entry(raw, format!("is {what}")))
    }
}

impl Paths {
    pub(super) fn get(&self, path: &str) -> Option<Standing> {
        self.0.get(path).copied()
    }

    /// Notes a directory; whether it was not there yet.
    pub(super) fn directory(&mut self, raw: &[u8], path: &str) -> Result<bool, UnpackError> {
        match self.0.get(path) {
            Some(Standing::Directory) => Ok(false),
            Some(_) => Err(UnpackError::entry(raw, "stands there twice, once as a directory")),
            None => self.insert(raw, path, Standing::Directory).map(|()| true),
        }
    }

    /// The path of something that is no directory and not there yet.
    pub(super) fn new_path(&self, raw: &[u8]) -> Result<String, UnpackError> {
        let path = path(raw)?.ok_or_else(|| UnpackError::entry(raw, "is the root, but not a directory"))?;
        if raw.ends_with(b"/") {
            return Err(UnpackError::entry(raw, "ends with '/', but is not a directory"));
        }
        match self.0.get(&path) {
            None => Ok(path),
            Some(Standing::Directory) => Err(UnpackError::entry(raw, "stands there twice, once as a directory")),
            Some(_) => Err(UnpackError::entry(raw, "stands there twice")),
        }
    }

    /// Notes what stands at `path`, and the directories above it.
    pub(super) fn insert(&mut self, raw: &[u8], path: &str, standing: Standing) -> Result<(), UnpackError> {
        for (end, _) in path.match_indices('/') {
            match self.0.get(&path[..end]) {
                Some(Standing::Directory) => {}
                None => {
                    self.0.insert(path[..end].to_owned(), Standing::Directory);
                }
                Some(Standing::Link) => return Err(UnpackError::entry(raw, "lies below a link")),
                Some(Standing::File { .. }) => return Err(UnpackError::entry(raw, "lies below a file")),
            }
        }
        self.0.insert(path.to_owned(), standing);
        if self.0.len() > ENTRIES {
            return Err(UnpackError::Bomb { what: "the number of entries", limit: ENTRIES as u64 });
        }
        Ok(())
    }
}

/// Set-user, set-group and sticky bits are told: a tree has none.
pub(super) fn special_bits(path: &str, mode: u32) -> Option<Remark> {
    (mode & SPECIAL_BITS != 0).then(|| Remark::SpecialBits { path: path.to_owned(), mode: mode & 0o7777 })
}

/// The target of a symbolic link, as the archive has it.
pub(super) fn link_target<'a>(raw: &[u8], target: &'a [u8]) -> Result<&'a str, UnpackError> {
    let Ok(text) = std::str::from_utf8(target) else {
        return Err(UnpackError::entry(raw, "is a link to a path that is not UTF-8"));
    };
    if text.is_empty() || text.len() > limits::PATH_BYTES || text.chars().any(char::is_control) {
        return Err(UnpackError::entry(raw, "is a link with an empty, too long or unprintable target"));
    }
    Ok(text)
}

/// The target of the link at `path`, relative to its directory; an absolute one is below the root.
pub(super) fn relative(path: &str, target: &str) -> String {
    let Some(below_root) = target.strip_prefix('/') else { return target.to_owned() };
    let up = "../".repeat(path.matches('/').count());
    match below_root.trim_start_matches('/') {
        "" if up.is_empty() => ".".to_owned(),
        rest => format!("{up}{rest}"),
    }
}

/// A path below the tree's root; `None` for the root itself (`.`, `./`).
///
/// Leading `./` and one trailing `/` are how tar writes names; anything else that has two
/// spellings is refused.
pub(super) fn path(raw: &[u8]) -> Result<Option<String>, UnpackError> {
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
