//! zip and MCPB: the central directory and every local header must tell one story.
//!
//! Some readers go by the directory at the end, others stream from the front. Both must see
//! the same entries here: the records fill the file from its first byte to the directory
//! without overlap or gap, and names, methods, sizes and sums agree in all places. After the
//! end record only MCPB's own signature block may follow (its packer appends one; what
//! counts here is our digest over the whole file).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use mcpfs_trust::limits;

use super::budget::Paying;
use super::entries::{Entries, Receive as _};
use super::{ENTRIES, UnpackError, Visit};

const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const END64_LOCATOR: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const ZIP64_EXTRA: u16 = 0x0001;
const UNICODE_PATH_EXTRA: u16 = 0x7075;

/// Longest MCPB signature block, bytes: a PKCS#7 with its certificates.
const MCPB_SIGNATURE_BYTES: usize = 256 << 10;
const MCPB_BEGIN: &[u8] = b"MCPB_SIG_V1";
const MCPB_END: &[u8] = b"MCPB_SIG_END";
/// The central directory, bytes: a million entries of 250.
const DIRECTORY_BYTES: u64 = 256 << 20;

/// Where the central directory lies.
struct Directory {
    offset: u64,
    size: u64,
    entries: u64,
}

/// One record of the central directory.
struct Record {
    name: Vec<u8>,
    flags: u16,
    method: u16,
    crc: u32,
    stored: u64,
    size: u64,
    offset: u64,
    /// Unix mode, 0 if made elsewhere.
    mode: u32,
}

/// Little-endian fields of a byte slice; every read is checked.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], UnpackError> {
        let cut = || UnpackError::archive("a zip record that is cut off");
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(cut)?;
        self.0 = rest;
        Ok(bytes)
    }
    fn u16(&mut self) -> Result<u16, UnpackError> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
    fn u32(&mut self) -> Result<u32, UnpackError> {
        Ok(u32::from(self.u16()?) | u32::from(self.u16()?) << 16)
    }
    fn u64(&mut self) -> Result<u64, UnpackError> {
        Ok(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }
}

/// Reads a zip file of `size` bytes.
pub(super) fn read(file: File, size: u64, mut entries: Entries) -> Result<Entries, UnpackError> {
    for record in &records(&file, size)? {
        take(&file, record, &mut entries)?;
    }
    Ok(entries)
}

/// Visits the regular files of a zip file of `size` bytes, by name, size and content.
pub(super) fn each_file(file: &File, size: u64, visit: &mut Visit<'_>) -> Result<(), UnpackError> {
    for record in &records(file, size)? {
        let regular = matches!(record.mode & 0o170_000, 0 | 0o100_000) && !record.name.ends_with(b"/");
        if regular {
            visit(&record.name, record.size, &mut content(file, record)?).map_err(UnpackError::Damaged)?;
        }
    }
    Ok(())
}

/// All records, once directory and local headers have told one story.
fn records(file: &File, size: u64) -> Result<Vec<Record>, UnpackError> {
    let directory = find_directory(file, size)?;
    let records = read_directory(file, &directory)?;
    // In the order of their bytes, so that gaps and overlaps show.
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|index| records[*index].offset);
    let mut next = 0;
    for index in &order {
        let record = &records[*index];
        if record.offset != next {
            return Err(UnpackError::entry(&record.name, "leaves a gap or overlaps with another entry"));
        }
        next = check_local(file, record, directory.offset)?;
    }
    if next != directory.offset {
        return Err(UnpackError::archive("bytes between the last entry and the directory"));
    }
    Ok(records)
}

fn at(file: &File, offset: u64, count: usize) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, offset).map_err(UnpackError::Damaged)?;
    Ok(bytes)
}

/// The end record is the last one in the file that ends where the file does.
fn find_directory(file: &File, size: u64) -> Result<Directory, UnpackError> {
    let tail = size.min((22 + 0xffff + MCPB_SIGNATURE_BYTES) as u64);
    let start = size - tail;
    let bytes = at(file, start, tail as usize)?;
    let ends: Vec<usize> = (0..bytes.len().saturating_sub(21)).filter(|at| is_end(&bytes[*at..])).collect();
    let end = match ends.as_slice() {
        [] => return Err(UnpackError::archive("no zip directory at the end of the file: cut off, or bytes after it")),
        [one] => *one,
        _ => return Err(UnpackError::archive("two zip directories in one file")),
    };
    let mut fields = Fields(&bytes[end + 4..]);
    let (disk, directory_disk) = (fields.u16()?, fields.u16()?);
    let (here, entries) = (fields.u16()?, fields.u16()?);
    let (size, offset) = (fields.u32()?, fields.u32()?);
    if disk != 0 || directory_disk != 0 || here != entries {
        return Err(UnpackError::archive("a zip file in several parts"));
    }
    let mut directory = Directory { offset: offset.into(), size: size.into(), entries: entries.into() };
    let end = start + end as u64;
    let mut directory_end = end;
    let is64 = end >= 20 && Fields(&at(file, end - 20, 4)?).u32()? == END64_LOCATOR;
    if is64 {
        directory_end = zip64_directory(file, end - 20, &mut directory)?;
    } else if entries == 0xffff || size == 0xffff_ffff || offset == 0xffff_ffff {
        return Err(UnpackError::archive("a zip64 directory without its locator"));
    }
    if directory.offset.checked_add(directory.size) != Some(directory_end) {
        return Err(UnpackError::archive("the zip directory does not lie where the end record says"));
    }
    if directory.entries > ENTRIES as u64 {
        return Err(UnpackError::Bomb { what: "the number of entries", limit: ENTRIES as u64 });
    }
    Ok(directory)
}

/// An end record whose comment, and at most an MCPB signature after it, fill the file.
fn is_end(bytes: &[u8]) -> bool {
    if bytes.len() < 22 || bytes[..4] != END.to_le_bytes() {
        return false;
    }
    let comment = usize::from(u16::from_le_bytes([bytes[20], bytes[21]]));
    match bytes.get(22 + comment..) {
        None => false,
        Some([]) => true,
        Some(rest) => is_mcpb_signature(rest),
    }
}

fn is_mcpb_signature(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(MCPB_BEGIN) else { return false };
    let Some((len, rest)) = rest.split_first_chunk::<4>() else { return false };
    rest.get(u32::from_le_bytes(*len) as usize..) == Some(MCPB_END)
}

/// The zip64 end record that `locator` names; returns where it begins.
fn zip64_directory(file: &File, locator: u64, directory: &mut Directory) -> Result<u64, UnpackError> {
    let bytes = at(file, locator, 20)?;
    let mut fields = Fields(&bytes[4..]);
    let (disk, offset, disks) = (fields.u32()?, fields.u64()?, fields.u32()?);
    // The fixed 56 bytes and nothing else between the record and its locator.
    if disk != 0 || disks > 1 || offset.checked_add(56) != Some(locator) {
        return Err(UnpackError::archive("a zip64 end record where its locator does not say"));
    }
    let bytes = at(file, offset, 56)?;
    let mut fields = Fields(&bytes);
    let (signature, len) = (fields.u32()?, fields.u64()?);
    let _made_and_needed = fields.u32()?;
    let (disk, directory_disk, here, entries) = (fields.u32()?, fields.u32()?, fields.u64()?, fields.u64()?);
    if signature != END64 || len != 44 || disk != 0 || directory_disk != 0 || here != entries {
        return Err(UnpackError::archive("a broken zip64 end record"));
    }
    let wide = Directory { entries, size: fields.u64()?, offset: fields.u64()? };
    let agrees = |short: u64, mask: u64, long: u64| short == mask || short == long;
    if !agrees(directory.entries, 0xffff, wide.entries)
        || !agrees(directory.size, 0xffff_ffff, wide.size)
        || !agrees(directory.offset, 0xffff_ffff, wide.offset)
    {
        return Err(UnpackError::archive("the zip and zip64 end records disagree"));
    }
    *directory = wide;
    Ok(offset)
}

fn read_directory(file: &File, directory: &Directory) -> Result<Vec<Record>, UnpackError> {
    if directory.size > DIRECTORY_BYTES {
        return Err(UnpackError::Bomb { what: "the zip directory", limit: DIRECTORY_BYTES });
    }
    let bytes = at(file, directory.offset, directory.size as usize)?;
    let mut fields = Fields(&bytes);
    let mut records = Vec::new();
    while !fields.0.is_empty() {
        records.push(central(&mut fields)?);
    }
    match records.len() as u64 == directory.entries {
        true => Ok(records),
        false => Err(UnpackError::archive("the zip directory has another number of entries than its end record says")),
    }
}

fn central(fields: &mut Fields<'_>) -> Result<Record, UnpackError> {
    if fields.u32()? != CENTRAL {
        return Err(UnpackError::archive("a broken record in the zip directory"));
    }
    let made_by = fields.u16()? >> 8;
    let _needed = fields.u16()?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    let _time = fields.u32()?;
    let crc = fields.u32()?;
    let (stored, size) = (fields.u32()?, fields.u32()?);
    let (name_len, extra_len, comment_len) = (fields.u16()?, fields.u16()?, fields.u16()?);
    let disk = fields.u16()?;
    let _internal = fields.u16()?;
    let (external, offset) = (fields.u32()?, fields.u32()?);
    let name = fields.bytes(name_len.into())?.to_vec();
    let extra = fields.bytes(extra_len.into())?;
    fields.bytes(comment_len.into())?;
    let mut wide = [(u64::from(size), size), (stored.into(), stored), (offset.into(), offset)];
    zip64_extra(&name, extra, &mut wide)?;
    if disk != 0 {
        return Err(UnpackError::entry(&name, "lies on another disk"));
    }
    // 3 is Unix, 19 is macOS: only they keep a mode there.
    let mode = if made_by == 3 || made_by == 19 { external >> 16 } else { 0 };
    Ok(Record { flags, method, crc, stored: wide[1].0, size: wide[0].0, offset: wide[2].0, mode, name })
}

/// Puts the zip64 values in place of those that are all ones, in the order of the format.
fn zip64_extra(name: &[u8], extra: &[u8], wide: &mut [(u64, u32)]) -> Result<(), UnpackError> {
    let mut fields = Fields(extra);
    let mut found = false;
    // A few padding bytes, too short for a record, are what some aligners leave.
    while fields.0.len() >= 4 {
        let (id, len) = (fields.u16()?, fields.u16()?);
        let mut value = Fields(fields.bytes(len.into())?);
        match id {
            ZIP64_EXTRA if found => return Err(UnpackError::entry(name, "has two zip64 fields")),
            ZIP64_EXTRA => {
                found = true;
                for (long, _) in wide.iter_mut().filter(|(_, short)| *short == u32::MAX) {
                    *long = value.u64()?;
                }
            }
            UNICODE_PATH_EXTRA if value.0.get(5..) != Some(name) => {
                return Err(UnpackError::entry(name, "has a second, different name"));
            }
            _ => {}
        }
    }
    match !found && wide.iter().any(|(_, short)| *short == u32::MAX) {
        true => Err(UnpackError::entry(name, "has no zip64 field for its size")),
        false => Ok(()),
    }
}

/// Checks the local header and the data descriptor; returns where the entry ends.
fn check_local(file: &File, record: &Record, limit: u64) -> Result<u64, UnpackError> {
    let bad = |problem: &str| UnpackError::entry(&record.name, problem);
    if record.flags & 1 != 0 || record.flags & 1 << 6 != 0 || record.flags & 1 << 13 != 0 {
        return Err(bad("is encrypted"));
    }
    if !matches!(record.method, 0 | 8) {
        return Err(bad(&format!("is packed by method {}; only stored and deflated are read", record.method)));
    }
    let fixed = at(file, record.offset, 30)?;
    let mut fields = Fields(&fixed);
    let signature = fields.u32()?;
    let _needed = fields.u16()?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    let _time = fields.u32()?;
    let (crc, stored, size) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (name_len, extra_len) = (fields.u16()?, fields.u16()?);
    let rest = at(file, record.offset + 30, usize::from(name_len) + usize::from(extra_len))?;
    let (name, extra) = rest.split_at(name_len.into());
    // Bits 1 and 2 tell how hard the packer tried; 11 that the name is UTF-8, which it must be anyway.
    let meaning = |flags: u16| flags & !(0b110 | 1 << 11);
    if signature != LOCAL || name != record.name || method != record.method || meaning(flags) != meaning(record.flags) {
        return Err(bad("has a local header that contradicts the directory"));
    }
    let mut wide = [(u64::from(size), size), (stored.into(), stored)];
    zip64_extra(name, extra, &mut wide)?;
    let streamed = flags & 1 << 3 != 0;
    let same = |local: u64, central: u64| local == central || (streamed && local == 0);
    if !same(crc.into(), record.crc.into()) || !same(wide[1].0, record.stored) || !same(wide[0].0, record.size) {
        return Err(bad("has a local header that contradicts the directory"));
    }
    let data = record.offset + 30 + rest.len() as u64;
    let end = data.checked_add(record.stored).filter(|end| *end <= limit);
    let end = end.ok_or_else(|| bad("reaches into the directory"))?;
    if !streamed {
        return Ok(end);
    }
    descriptor(file, record, end, limit).ok_or_else(|| bad("has a data descriptor that contradicts the directory"))
}

/// After streamed data: an optional signature, the sum, and two sizes of 4 or 8 bytes.
fn descriptor(file: &File, record: &Record, end: u64, limit: u64) -> Option<u64> {
    let bytes = at(file, end, usize::try_from(limit - end).ok()?.min(24)).ok()?;
    for signed in [true, false] {
        for is_wide in [false, true] {
            let mut expected = Vec::new();
            if signed {
                expected.extend(DESCRIPTOR.to_le_bytes());
            }
            expected.extend(record.crc.to_le_bytes());
            if is_wide {
                expected.extend(record.stored.to_le_bytes());
                expected.extend(record.size.to_le_bytes());
            } else {
                expected.extend(u32::try_from(record.stored).ok()?.to_le_bytes());
                expected.extend(u32::try_from(record.size).ok()?.to_le_bytes());
            }
            // The next record, or the directory, tells which of the forms it is.
            let after = end + expected.len() as u64;
            if bytes.starts_with(&expected) && (after == limit || next_is_record(file, after)) {
                return Some(after);
            }
        }
    }
    None
}

fn next_is_record(file: &File, offset: u64) -> bool {
    at(file, offset, 4).is_ok_and(|bytes| bytes == LOCAL.to_le_bytes())
}

/// Hands one checked record to the entries.
fn take(file: &File, record: &Record, entries: &mut Entries) -> Result<(), UnpackError> {
    let bad = |problem: &str| Err(UnpackError::entry(&record.name, problem));
    // Windows tools take '\' for '/', so one name would be two paths.
    if record.name.contains(&b'\\') {
        return bad("has a backslash in its name");
    }
    let kind = record.mode & 0o170_000;
    if record.name.ends_with(b"/") {
        return match (kind, record.size) {
            (0 | 0o040_000, 0) => entries.directory(&record.name, record.mode),
            _ => bad("ends with '/', but is not an empty directory"),
        };
    }
    match kind {
        0 | 0o100_000 => {
            let mode = record.mode;
            let budget = entries.budget().clone();
            let content = Paying::new(content(file, record)?, &budget);
            entries.file(&record.name, mode, record.size, content)
        }
        0o120_000 => {
            if record.size > limits::PATH_BYTES as u64 {
                return bad("is a link with a too long target");
            }
            let mut target = Vec::new();
            content(file, record)?.read_to_end(&mut target).map_err(UnpackError::Damaged)?;
            entries.link(&record.name, &target)
        }
        0o040_000 => bad("is a directory whose name does not end with '/'"),
        0o020_000 | 0o060_000 => bad("is a device"),
        0o010_000 => bad("is a named pipe"),
        0o140_000 => bad("is a socket"),
        _ => bad("is of an unknown type"),
    }
}

/// The decoded bytes of a record, checked against its size and sum at their end.
fn content<'a>(file: &'a File, record: &'a Record) -> Result<Content<'a>, UnpackError> {
    let fixed = at(file, record.offset + 26, 4)?;
    let mut fields = Fields(&fixed);
    let data = record.offset + 30 + u64::from(fields.u16()?) + u64::from(fields.u16()?);
    let stored = Section { file, at: data, left: record.stored };
    let source = match record.method {
        8 => Source::Deflated(flate2::bufread::DeflateDecoder::new(BufReader::new(stored))),
        _ => Source::Stored(stored),
    };
    Ok(Content { source, record, crc: flate2::Crc::new(), done: 0 })
}

/// A run of bytes in a file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

enum Source<'a> {
    Stored(Section<'a>),
    Deflated(flate2::bufread::DeflateDecoder<BufReader<Section<'a>>>),
}

struct Content<'a> {
    source: Source<'a>,
    record: &'a Record,
    crc: flate2::Crc,
    done: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let broken = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
        let read = match &mut self.source {
            Source::Stored(section) => section.read(buffer)?,
            Source::Deflated(decoder) => decoder.read(buffer)?,
        };
        self.done += read as u64;
        self.crc.update(&buffer[..read]);
        if self.done > self.record.size {
            return broken("an entry is longer than announced");
        }
        if read == 0 && !buffer.is_empty() {
            let consumed = match &self.source {
                Source::Stored(_) => self.done,
                Source::Deflated(decoder) => decoder.total_in(),
            };
            if consumed != self.record.stored {
                return broken("an entry has bytes after its compressed data");
            }
            if self.done == self.record.size && self.crc.sum() != self.record.crc {
                return broken("an entry does not have its checksum");
            }
        }
        Ok(read)
    }
}
