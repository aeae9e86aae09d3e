//! The files of a commit, from `ls-tree` and `cat-file`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;

use mcpfs_trust::limits;
use mcpfs_trust::name::check_file_name;
use mcpfs_trust::text::visible;

use super::{CommitId, GitError, lfs, odd};
use crate::bundle::SourceError;
use crate::bundle::workshop::at;
use crate::fetch::Pointer;

/// One file or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) object: String,
    pub(super) size: u64,
    /// What stands in its place, if it is a pointer of Git LFS whose content was asked for.
    pub(super) content: Option<Pointer>,
}

/// A submodule: a commit of another repository, at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) path: String,
    pub(super) commit: CommitId,
    /// The path of the submodule that it lies in; empty for the repository's own.
    pub(super) above: String,
}

/// All that a commit's tree holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    pub(super) links: Vec<Link>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Program,
    Link,
}

/// Reads `<mode> <type> <object> <size>\t<path>\0`…; everything that could be put down in two
/// ways, or outside of the folder, is refused before anything is written.
pub(super) fn entries(listed: &[u8], limit: u64) -> Result<Listing, GitError> {
    let mut entries: BTreeMap<String, Option<Entry>> = BTreeMap::new();
    let mut links = Vec::new();
    let mut total = 0_u64;
    for line in listed.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let Ok(line) = std::str::from_utf8(line) else {
            let path =
                String::from_utf8_lossy(line.split(|byte| *byte == b'\t').nth(1).unwrap_or_default()).into_owned();
            return Err(GitError::Entry { path, problem: "has a name that is not UTF-8" });
        };
        let (facts, path) = line.split_once('\t').ok_or_else(|| odd(line))?;
        let refuse = |problem| GitError::Entry { path: visible(path), problem };
        let [mode, kind, object, size] = facts.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(odd(line));
        };
        let kind = match (mode, kind) {
            ("100644" | "100664", "blob") => Some(Kind::File),
            ("100755", "blob") => Some(Kind::Program),
            ("120000", "blob") => Some(Kind::Link),
            ("160000", "commit") => None,
            _ => return Err(refuse("is of a kind that git does not make")),
        };
        let parts: Vec<&str> = path.split('/').collect();
        if parts.iter().any(|part| check_file_name(part).is_err()) || path.len() > limits::PATH_BYTES {
            return Err(refuse("has a name that a tree cannot have"));
        }
        if parts.iter().any(|part| part.eq_ignore_ascii_case(".git")) {
            return Err(refuse("is called like git's own folder"));
        }
        if parts.len() > limits::TREE_DEPTH {
            return Err(refuse("is too deep"));
        }
        let Some(kind) = kind else {
            links.push(Link { path: path.to_owned(), commit: object.parse()?, above: String::new() });
            if entries.insert(path.to_owned(), None).is_some() {
                return Err(refuse("is there twice"));
            }
            continue;
        };
        let size: u64 = size.parse().map_err(|_| odd(line))?;
        total = total.saturating_add(size);
        if total > limit || entries.len() >= limits::TREE_NODES {
            return Err(refuse("makes the commit larger than an artefact may be"));
        }
        let entry = Entry { path: path.to_owned(), kind, object: object.to_owned(), size, content: None };
        if entries.insert(path.to_owned(), Some(entry)).is_some() {
            return Err(refuse("is there twice"));
        }
    }
    for path in entries.keys() {
        let mut above = path.as_str();
        while let Some((folder, _)) = above.rsplit_once('/') {
            if entries.contains_key(folder) {
                return Err(GitError::Entry { path: visible(path), problem: "lies below a file or a link" });
            }
            above = folder;
        }
    }
    Ok(Listing { entries: entries.into_values().flatten().collect(), links })
}

/// Puts the entries down, from the output of `cat-file --batch` in their order; content of Git LFS
/// lies in `store`.
pub(super) fn write(entries: &[Entry], objects: File, folder: &Path, store: &Path) -> Result<(), SourceError> {
    each(&mut entries.iter(), objects, &mut |entry, content| {
        let path = folder.join(&entry.path);
        if let Some(above) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(above).map_err(at(&path))?;
        }
        match entry.kind {
            Kind::Link => link(entry, content, &path),
            Kind::File | Kind::Program => file(entry, content, &path, store),
        }
    })
}

/// Calls `take` with each entry and the bytes of its object.
pub(super) fn each<'a>(
    entries: &mut dyn Iterator<Item = &'a Entry>,
    objects: File,
    take: &mut dyn FnMut(&'a Entry, &mut dyn io::Read) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    let mut objects = BufReader::with_capacity(128 << 10, objects);
    for entry in entries {
        let unread = at(Path::new(&entry.path));
        let mut header = String::new();
        objects.by_ref().take(200).read_line(&mut header).map_err(&unread)?;
        if header.trim_end() != format!("{} blob {}", entry.object, entry.size) {
            return Err(odd(&header).into());
        }
        let mut content = objects.by_ref().take(entry.size);
        take(entry, &mut content)?;
        // What was not of interest.
        io::copy(&mut content, &mut io::sink()).map_err(&unread)?;
        let mut end = [0];
        objects.read_exact(&mut end).map_err(&unread)?;
        if end != *b"\n" {
            return Err(odd("an object that is longer than it says").into());
        }
    }
    Ok(())
}

fn file(entry: &Entry, content: &mut dyn io::Read, path: &Path, store: &Path) -> Result<(), SourceError> {
    let mode = if entry.kind == Kind::Program { 0o755 } else { 0o644 };
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path).map_err(at(path))?;
    let mut written = 0;
    if let Some(pointer) = &entry.content {
        let from = store.join(pointer.sha256.to_string());
        let mut stored = File::open(&from).map_err(at(&from))?;
        // Its digest was that of the pointer when it came; the bundle's own says the rest.
        io::copy(&mut stored, &mut file).map_err(at(path))?;
        written = entry.size;
    } else if entry.size < lfs::POINTER_BYTES {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(at(path))?;
        if lfs::is_pointer(&bytes) {
            return Err(GitError::Lfs { path: visible(&entry.path) }.into());
        }
        file.write_all(&bytes).map_err(at(path))?;
        written += bytes.len() as u64;
    }
    if entry.content.is_none() {
        written += io::copy(content, &mut file).map_err(at(path))?;
    }
    // Whatever the umask.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, permissions).map_err(at(path))?;
    if written == entry.size { Ok(()) } else { Err(odd("an object that is shorter than it says").into()) }
}

fn link(entry: &Entry, content: &mut dyn io::Read, path: &Path) -> Result<(), SourceError> {
    let mut target = Vec::new();
    content.take(limits::PATH_BYTES as u64 + 1).read_to_end(&mut target).map_err(at(path))?;
    let target = String::from_utf8(target).ok().filter(|target| target.len() as u64 == entry.size);
    let fine = target.filter(|target| !target.is_empty() && !target.contains('\0'));
    let refused = || GitError::Entry { path: visible(&entry.path), problem: "links to what no path can be" };
    symlink(fine.ok_or_else(refused)?, path).map_err(at(path))?;
    Ok(())
}
