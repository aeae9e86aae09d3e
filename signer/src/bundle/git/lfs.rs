//! Pointers of Git LFS, for those who ask for what they point to.
//!
//! A pointer is a small file of the commit that names its content by SHA-256 and size, so the tag's
//! own commit pins that too, wherever it comes from. git-lfs itself was rejected: it goes where a
//! `.lfsconfig` of the repository sends it, with whatever helpers it finds, and one POST and one GET
//! for each file is all that there is to it.

use mcpfs_trust::text::visible;

use super::tree::{self, Entry, Kind};
use super::{Git, GitError, Place};
use crate::bundle::SourceError;
use crate::bundle::workshop::{Workshop, at};
use crate::fetch::{self, FetchPolicy, Pointer};

/// What begins a pointer, and how long one is at most.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
pub(super) const POINTER_BYTES: u64 = 1024;

pub(super) fn is_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(POINTER)
}

/// Fetches what the pointers among `entries` name, and notes it there; gives a line about it.
pub(super) fn fetch(
    git: &Git,
    place: &Place,
    entries: &mut [Entry],
    policy: &FetchPolicy,
    workshop: &Workshop,
) -> Result<Option<String>, SourceError> {
    let small = |entry: &&Entry| entry.size < POINTER_BYTES && entry.kind != Kind::Link;
    let objects = git.objects(&mut entries.iter().filter(small), workshop)?;
    let mut found = Vec::new();
    tree::each(&mut entries.iter().filter(small), objects, &mut |entry, content| {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(at(std::path::Path::new(&entry.path)))?;
        if is_pointer(&bytes) {
            let bad =
                || GitError::Entry { path: visible(&entry.path), problem: "is a pointer of Git LFS that is none" };
            found.push((entry.path.clone(), pointer(&bytes).ok_or_else(bad)?));
        }
        Ok(())
    })?;
    if found.is_empty() {
        return Ok(None);
    }
    let mut wanted: Vec<Pointer> = found.iter().map(|(_, pointer)| *pointer).collect();
    wanted.sort();
    wanted.dedup();
    fetch::fetch_lfs(&place.address, &wanted, policy, &workshop.path("lfs"))
        .map_err(|error| SourceError::Fetch(Box::new(error)))?;
    let bytes: u64 = wanted.iter().map(|pointer| pointer.size).sum();
    let note =
        format!("{} files of Git LFS ({bytes} bytes) by the digests in {}", found.len(), visible(&place.address));
    let mut found = found.into_iter().peekable();
    for entry in entries {
        // Both are in one order.
        entry.content = found.next_if(|(path, _)| *path == entry.path).map(|(_, pointer)| pointer);
    }
    Ok(Some(note))
}

/// `oid sha256:…` and `size …`, in this order and alone: with extensions the digest is not that of
/// the file that people see.
fn pointer(bytes: &[u8]) -> Option<Pointer> {
    let text = std::str::from_utf8(bytes.strip_prefix(POINTER)?).ok()?;
    let (oid, rest) = text.split_once('\n')?;
    let size = rest.strip_suffix('\n')?.strip_prefix("size ")?;
    let plain = size.bytes().all(|byte| byte.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
    let size = size.parse().ok().filter(|_| plain)?;
    Some(Pointer { sha256: oid.strip_prefix("oid sha256:")?.parse().ok()?, size })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn pointers_have_one_form() {
        let begin = "version https://git-lfs.github.com/spec/v1\n";
        let oid = "a".repeat(64);
        let read = |rest: &str| pointer(format!("{begin}{rest}").as_bytes());
        assert_eq!(read(&format!("oid sha256:{oid}\nsize 12345\n")).unwrap().size, 12345);
        for bad in [
            String::new(),
            format!("oid sha256:{oid}\n"),
            format!("oid sha256:{oid}\nsize 1"),
            format!("oid sha256:{oid}\nsize +1\n"),
            format!("oid sha256:{oid}\nsize 01\n"),
            format!("oid sha256:{oid}\nsize 99999999999999999999\n"),
            format!("oid sha512:{oid}\nsize 1\n"),
            format!("oid sha256:{}\nsize 1\n", &oid[1..]),
            format!("ext-0-x sha256:{oid}\noid sha256:{oid}\nsize 1\n"),
            format!("oid sha256:{oid}\nsize 1\nx y\n"),
        ] {
            assert!(read(&bad).is_none(), "{bad:?}");
        }
        assert!(pointer(b"").is_none() && !is_pointer(b"version https://git-lfs"));
    }
}
