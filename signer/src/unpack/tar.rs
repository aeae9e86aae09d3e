//! tar: ustar, GNU long names and pax headers, read raw so that nothing is interpreted twice.
//!
//! The `tar` crate finds headers and checks their sums; names and sizes are combined here. A
//! size stands in the header only: a pax `size` that differs would make two readers step to
//! different places, and every later "header" would be the attacker's choice.

use std::io::Read;

use mcpfs_trust::limits;
use tar::{Archive, Entry, EntryType};

use super::budget::{Budget, Paying};
use super::entries::Receive;
use super::{UnpackError, Visit};

/// A long name or a pax header, bytes.
const EXTENSION_BYTES: u64 = 64 << 10;
/// Zero bytes after the end mark: tar pads to its blocking factor, at most a few MiB.
const PADDING_BYTES: u64 = 4 << 20;

/// What the headers before an entry say about it.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Ahead {
    fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.size.is_none()
    }
}

/// Whether a file that begins so is a tar: its first header's sum is right.
pub(super) fn looks_like_header(begin: &[u8]) -> bool {
    let Ok(block) = <&[u8; 512]>::try_from(begin) else { return false };
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    block.iter().any(|byte| *byte != 0) && header.cksum().is_ok_and(|stored| stored == sum)
}

/// Visits the regular files of a tar by name, size and content; others, and long names, are passed over.
pub(super) fn each_file(stream: impl Read, budget: &Budget, visit: &mut Visit<'_>) -> Result<(), UnpackError> {
    let mut archive = Archive::new(Paying::new(stream, budget));
    for (seen, entry) in archive.entries().map_err(|error| budget.explain(error))?.raw(true).enumerate() {
        let mut entry = entry.map_err(|error| budget.explain(error))?;
        if seen > limits::TREE_NODES {
            return Err(UnpackError::Bomb { what: "the number of headers", limit: limits::TREE_NODES as u64 });
        }
        if entry.header().entry_type() == EntryType::Regular {
            let (name, size) = (entry.path_bytes().into_owned(), entry.size());
            visit(&name, size, &mut entry).map_err(|error| budget.explain(error))?;
        }
    }
    Ok(())
}

/// Reads a decompressed tar stream to its very end.
pub(super) fn read<T: Receive>(stream: impl Read, mut entries: T, budget: &Budget) -> Result<T, UnpackError> {
    let mut archive = Archive::new(Paying::new(stream, budget));
    let mut ahead = Ahead::default();
    let mut seen = 0;
    for entry in archive.entries().map_err(|error| budget.explain(error))?.raw(true) {
        let mut entry = entry.map_err(|error| budget.explain(error))?;
        seen += 1;
        // Headers of long names count too, so an archive of them alone ends as well.
        if seen > 4 * limits::TREE_NODES {
            return Err(UnpackError::Bomb { what: "the number of headers", limit: 4 * limits::TREE_NODES as u64 });
        }
        one(&mut entry, &mut ahead, &mut entries)?;
    }
    if !ahead.is_empty() {
        return Err(UnpackError::archive("the archive ends with a name that belongs to no entry"));
    }
    only_padding(archive.into_inner(), budget)?;
    Ok(entries)
}

fn one<R: Read>(entry: &mut Entry<'_, R>, ahead: &mut Ahead, entries: &mut impl Receive) -> Result<(), UnpackError> {
    let kind = entry.header().entry_type();
    let own = entry.header().path_bytes().into_owned();
    let name = ahead.path.clone().unwrap_or(own);
    let explain = |error| UnpackError::Damaged(error);
    let size = entry.header().entry_size().map_err(explain)?;
    let twice = || UnpackError::entry(&name, "has two long names");
    match kind {
        EntryType::GNULongName => return set(&mut ahead.path, long_name(entry, size, entries)?, twice),
        EntryType::GNULongLink => return set(&mut ahead.link, long_name(entry, size, entries)?, twice),
        EntryType::XHeader => return pax(entry, size, ahead, entries),
        // git writes its commit there. Anything that changes later entries is refused.
        EntryType::XGlobalHeader => {
            let mut global = Ahead::default();
            pax(entry, size, &mut global, entries)?;
            return match global.is_empty() {
                true => Ok(()),
                false => Err(UnpackError::archive("a global header that renames or resizes entries")),
            };
        }
        _ => {}
    }
    let ahead = std::mem::take(ahead);
    if ahead.size.is_some_and(|announced| announced != size) {
        return Err(UnpackError::entry(&name, "has two different sizes in its headers"));
    }
    let link = || {
        let own = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        ahead.link.clone().or(own).ok_or_else(|| UnpackError::entry(&name, "is a link without target"))
    };
    let no_data = |what: &str| match size {
        0 => Ok(()),
        _ => Err(UnpackError::entry(&name, format!("is {what} with content of its own"))),
    };
    let mode = entry.header().mode().map_err(explain)?;
    match kind {
        // Before ustar a directory was a file whose name ends with '/'.
        EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => {
            no_data("a directory")?;
            entries.directory(&name, mode)
        }
        EntryType::Regular | EntryType::Continuous => entries.file(&name, mode, size, entry),
        EntryType::Directory => {
            no_data("a directory")?;
            entries.directory(&name, mode)
        }
        EntryType::Symlink => {
            no_data("a link")?;
            entries.link(&name, &link()?)
        }
        EntryType::Link => {
            no_data("a hard link")?;
            entries.hard_link(&name, &link()?)
        }
        EntryType::Block | EntryType::Char => {
            no_data("a device")?;
            entries.device(&name, "a device")
        }
        EntryType::Fifo => {
            no_data("a named pipe")?;
            entries.device(&name, "a named pipe")
        }
        EntryType::GNUSparse => Err(UnpackError::entry(&name, "is a sparse file: pack it without --sparse")),
        other => Err(UnpackError::entry(&name, format!("is of the unknown type {:#04x}", other.as_byte()))),
    }
}

fn set(slot: &mut Option<Vec<u8>>, value: Vec<u8>, twice: impl Fn() -> UnpackError) -> Result<(), UnpackError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice()),
    }
}

fn extension<R: Read>(entry: &mut Entry<'_, R>, size: u64, entries: &impl Receive) -> Result<Vec<u8>, UnpackError> {
    if size > EXTENSION_BYTES {
        return Err(UnpackError::Bomb { what: "the size of a header", limit: EXTENSION_BYTES });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|error| entries.budget().explain(error))?;
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(UnpackError::Damaged(std::io::ErrorKind::UnexpectedEof.into())),
    }
}

fn long_name<R: Read>(entry: &mut Entry<'_, R>, size: u64, entries: &impl Receive) -> Result<Vec<u8>, UnpackError> {
    let mut name = extension(entry, size, entries)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// pax records: `<length> <key>=<value>\n`.
fn pax<R: Read>(
    entry: &mut Entry<'_, R>,
    size: u64,
    ahead: &mut Ahead,
    entries: &impl Receive,
) -> Result<(), UnpackError> {
    let bytes = extension(entry, size, entries)?;
    let broken = || UnpackError::archive("a pax header that is not in its format");
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
        let digits = &rest[..space];
        if digits.is_empty() || digits.len() > 6 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(broken());
        }
        let len = digits.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
        let record = rest.get(space + 1..len).ok_or_else(broken)?;
        rest = &rest[len..];
        let record = record.strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let twice = || UnpackError::archive("a pax header that says one thing twice");
        match key {
            b"path" => set(&mut ahead.path, value.to_vec(), twice)?,
            b"linkpath" => set(&mut ahead.link, value.to_vec(), twice)?,
            b"size" => {
                let text = std::str::from_utf8(value).map_err(|_| broken())?;
                let number = text.parse().map_err(|_| broken())?;
                if ahead.size.replace(number).is_some() {
                    return Err(twice());
                }
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(UnpackError::archive("a sparse file in pax form: pack it without --sparse"));
            }
            // Times, owners, attributes: a tree has none of them.
            _ => {}
        }
    }
    Ok(())
}

/// After the end mark there may be zeros only: a second archive there would be invisible here
/// and visible to others.
fn only_padding(mut stream: impl Read, budget: &Budget) -> Result<(), UnpackError> {
    let mut buffer = [0; 16 << 10];
    let mut padding = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                padding += read as u64;
                if buffer[..read].iter().any(|byte| *byte != 0) {
                    return Err(UnpackError::archive("bytes after the end of the archive"));
                }
                if padding > PADDING_BYTES {
                    return Err(UnpackError::Bomb { what: "the padding after the archive", limit: PADDING_BYTES });
                }
            }
            Err(error) => return Err(budget.explain(error)),
        }
    }
}
