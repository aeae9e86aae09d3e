//! `file:` URLs, below one folder that the operator named.
//!
//! The kernel keeps the walk below that folder (`openat2` with `RESOLVE_BENEATH`): links inside
//! may be followed, one that leaves is refused, and there is no moment between check and use.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use url::Url;

use super::bundle::{Failed, bundle_into};
use super::{FetchError, FetchPolicy, Sink, at};

/// Copies the file, or bundles the folder, that `url` names.
pub(super) fn fetch(url: &str, policy: &FetchPolicy, sink: &mut Sink<'_>) -> Result<(), FetchError> {
    let (file, path) = open(url, policy)?;
    let metadata = file.metadata().map_err(at(&path))?;
    if metadata.is_dir() {
        // Through the descriptor: the folder that was checked is the one that is read.
        let through = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        return bundle_into(&through, |bytes| sink.write(bytes)).map_err(|error| match error {
            Failed::Sink(error) => error,
            Failed::Folder(error) => FetchError::Bundle(error),
        });
    }
    if !metadata.is_file() {
        return Err(FetchError::Local(format!("{} is neither a file nor a folder", path.display())));
    }
    sink.copy(file, &path)
}

/// The folder below the operator's root that a `file:` URL names, as its real path.
pub(crate) fn folder_beneath(url: &str, policy: &FetchPolicy) -> Result<PathBuf, FetchError> {
    let (file, path) = open(url, policy)?;
    match file.metadata().map_err(at(&path))?.is_dir() {
        true => Ok(path.canonicalize().map_err(at(&path))?),
        false => Err(FetchError::Local(format!("{} is not a folder", path.display()))),
    }
}

/// A small text beside a recipe, below the recipe's own folder.
pub(crate) fn read_beneath(root: &Path, name: &str, limit: u64) -> Result<String, FetchError> {
    let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    let path = root.join(name);
    let folder = File::open(root).map_err(at(root))?;
    let file = open_beneath(&folder, Path::new(name)).map_err(at(&path))?;
    if !file.metadata().map_err(at(&path))?.is_file() {
        return Err(FetchError::Local(format!("{} is not a file", path.display())));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut bytes).map_err(at(&path))?;
    if bytes.len() as u64 > limit {
        return Err(FetchError::TooLarge(limit));
    }
    String::from_utf8(bytes).map_err(|_| FetchError::Local(format!("{} is not UTF-8", path.display())))
}

/// Opens what a `file:` URL names, below the operator's root.
fn open(url: &str, policy: &FetchPolicy) -> Result<(File, PathBuf), FetchError> {
    let Some(root) = &policy.file_root else {
        return Err(FetchError::Local(
            "file: artefacts need a folder that they may come from: add --file-root FOLDER".to_owned(),
        ));
    };
    let root = root.canonicalize().map_err(at(root))?;
    let below = below(url, &root)?;
    let folder = File::open(&root).map_err(at(&root))?;
    let path = root.join(&below);
    let file = open_beneath(&folder, &below).map_err(|error| match error.kind() {
        io::ErrorKind::CrossesDevices => outside(&path, &root),
        _ => at(&path)(error),
    })?;
    Ok((file, path))
}

/// Opens a file or folder by a path that must not lead out of `root`.
pub(super) fn open_beneath(root: &File, below: &Path) -> io::Result<File> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    // Non-blocking, so that a named pipe cannot hold the signer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, below, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "openat2 is not to be had: the kernel is older than 5.6, or a filter forbids it, such as that of \
             RestrictSUIDSGID=yes in a unit",
        )),
        opened => Ok(File::from(opened?)),
    }
}

/// The path below `root`: `file:a/b` is relative to it, `file:///…` must begin with it.
fn below(url: &str, root: &Path) -> Result<PathBuf, FetchError> {
    let text = url.get(5..).unwrap_or_default();
    let relative = !text.starts_with('/');
    let full = if relative { format!("file:///{text}") } else { url.to_owned() };
    let parsed = Url::parse(&full).map_err(|_| FetchError::Url(url.to_owned()))?;
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(FetchError::Local("a file: URL has no query or fragment; write # and ? as %23 and %3F".to_owned()));
    }
    let path = parsed.to_file_path().map_err(|()| FetchError::Url(url.to_owned()))?;
    // URL parsers resolve `..` silently, so it is looked for in what was written.
    let lower = text.to_ascii_lowercase().replace("%2e", ".");
    if lower.split(['/', '\\']).any(|part| part == "..") {
        return Err(FetchError::Local("a file: URL must not climb with '..'".to_owned()));
    }
    let start = if relative { Path::new("/") } else { root };
    match path.strip_prefix(start) {
        Ok(below) if below.components().all(|part| matches!(part, Component::Normal(_))) => Ok(below.to_owned()),
        _ => Err(outside(&path, root)),
    }
}

fn outside(path: &Path, root: &Path) -> FetchError {
    FetchError::Local(format!("{} lies outside the --file-root {}", path.display(), root.display()))
}
