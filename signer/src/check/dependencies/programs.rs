//! What a program was built from, as compilers leave it behind in ELF files.
//!
//! Rust: the section `.dep-v0` of cargo-auditable, JSON packed by zlib. Go: the build info that
//! the linker always writes, in the section `.go.buildinfo` or at the start of the data segment:
//! inline strings since Go 1.18, pointers to them before. Both are claims of the program about
//! itself, and a program may have neither.
//!
//! Everything is a slice of the file's own bytes, found by checked offsets: what is read is never
//! larger than the file, but for the unpacked JSON, which has a bound.

use std::io::Read as _;

use object::Endianness;
use object::elf::{FileHeader32, FileHeader64, PF_W, PF_X, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader as _, SectionHeader as _};
use serde::Deserialize;

use super::Ecosystem;

/// Unpacked JSON of cargo-auditable, bytes; a thousand crates have some 200 kB.
const AUDITABLE_BYTES: u64 = 8 << 20;
/// How far into a data segment Go's build info may begin.
const SEARCHED: usize = 1 << 20;
/// Longest module list, bytes.
const MODULES_BYTES: u64 = 4 << 20;

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where inline strings begin, and where the header ends.
const HEADER: usize = 32;

/// One package that a program says it was built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) ecosystem: Ecosystem,
    pub(super) name: String,
    pub(super) version: String,
}

/// The packages in a file; none if it is no ELF file, or says nothing.
pub(super) fn parts(bytes: &[u8]) -> Result<Vec<Part>, String> {
    match bytes.get(4) {
        Some(1) => of::<FileHeader32<Endianness>>(bytes),
        Some(2) => of::<FileHeader64<Endianness>>(bytes),
        _ => Ok(Vec::new()),
    }
}

/// A file by its header, with the file's bytes.
struct Elf<'a, H: FileHeader<Endian = Endianness>> {
    bytes: &'a [u8],
    endian: Endianness,
    segments: &'a [H::ProgramHeader],
}

fn of<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<Vec<Part>, String> {
    // Without a header the kernel starts nothing, whatever the first bytes are.
    let Ok(header) = H::parse(bytes) else { return Ok(Vec::new()) };
    let broken = |error: object::Error| format!("is an ELF file that cannot be read: {error}");
    let endian = header.endian().map_err(broken)?;
    let segments = header.program_headers(endian, bytes).map_err(broken)?;
    let elf = Elf::<H> { bytes, endian, segments };
    let sections = header.section_headers(endian, bytes).map_err(broken)?;
    let names = match sections.is_empty() {
        true => &[][..],
        false => {
            let index = header.section_strings_index(endian, bytes).map_err(broken)?;
            let strings = sections.get(index.0).map(|section| section.data(endian, bytes));
            strings.transpose().map_err(broken)?.unwrap_or_default()
        }
    };
    // By comparing in place: looking for the end of each name would be quadratic in a hostile file.
    let find = |name: &[u8]| {
        sections.iter().find(|section| {
            let at = section.sh_name(endian) as usize;
            at.checked_add(name.len()).and_then(|end| names.get(at..end)) == Some(name)
        })
    };
    let mut parts = Vec::new();
    if let Some(section) = find(b".dep-v0\0") {
        let data = section.data(endian, bytes).map_err(broken)?;
        parts.extend(auditable(data).map_err(|reason| format!("has a list of crates (.dep-v0) that {reason}"))?);
    }
    let info = match find(b".go.buildinfo\0") {
        Some(section) => Some(section.data(endian, bytes).map_err(broken)?),
        None => elf.data_segment(),
    };
    if let Some(info) = info.and_then(blob) {
        parts.extend(elf.go(info).ok_or("has build info of Go that cannot be read")?);
    }
    Ok(parts)
}

/// The format of cargo-auditable; what is not needed is skipped.
#[derive(Deserialize)]
struct Auditable {
    packages: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    name: String,
    version: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    kind: String,
}

fn auditable(data: &[u8]) -> Result<Vec<Part>, String> {
    let mut json = Vec::new();
    let unpacked = flate2::read::ZlibDecoder::new(data).take(AUDITABLE_BYTES + 1).read_to_end(&mut json);
    unpacked.map_err(|error| format!("cannot be unpacked: {error}"))?;
    if json.len() as u64 > AUDITABLE_BYTES {
        return Err(format!("unpacks to more than {AUDITABLE_BYTES} bytes"));
    }
    let list: Auditable = serde_json::from_slice(&json).map_err(|error| format!("is not its JSON: {error}"))?;
    // What only the build ran is not in the program; what is local is the project itself.
    let carried = list.packages.into_iter().filter(|one| one.kind != "build" && one.source != "local");
    Ok(carried.map(|one| Part { ecosystem: Ecosystem::Cargo, name: one.name, version: one.version }).collect())
}

/// From the magic on, which lies at a multiple of 16.
fn blob(data: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    while let Some(block) = data.get(at..at + HEADER).filter(|_| at < SEARCHED) {
        if block.starts_with(MAGIC) {
            return data.get(at..);
        }
        at += 16;
    }
    None
}

impl<'a, H: FileHeader<Endian = Endianness>> Elf<'a, H> {
    /// The first segment that is written to and not executed.
    fn data_segment(&self) -> Option<&'a [u8]> {
        let data = self.segments.iter().find(|segment| {
            segment.p_type(self.endian) == PT_LOAD && segment.p_flags(self.endian) & (PF_X | PF_W) == PF_W
        });
        data?.data(self.endian, self.bytes).ok()
    }

    /// The bytes at an address of the running program.
    fn at(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        self.segments
            .iter()
            .filter(|segment| segment.p_type(self.endian) == PT_LOAD)
            .find_map(|segment| segment.data_range(self.endian, self.bytes, address, size).ok().flatten())
    }

    fn go(&self, info: &[u8]) -> Option<Vec<Part>> {
        let (size, flags) = (usize::from(*info.get(14)?), *info.get(15)?);
        let (version, modules) = if flags & 2 != 0 {
            let (version, rest) = inline(info.get(HEADER..)?)?;
            (version, inline(rest)?.0)
        } else {
            let pointer = |at: usize| number(info.get(at..at.checked_add(size)?)?, flags & 1 != 0);
            (self.string(pointer(16)?, size, flags)?, self.string(pointer(16 + size)?, size, flags)?)
        };
        let mut parts = vec![Part {
            ecosystem: Ecosystem::Go,
            name: "stdlib".to_owned(),
            version: go_version(std::str::from_utf8(version).ok()?),
        }];
        // Two marks of 16 bytes stand around the list, so that it can be found in a running program.
        if let Some(list) = modules.get(16..modules.len().saturating_sub(16)).filter(|_| modules.len() >= 33) {
            parts.extend(self::modules(std::str::from_utf8(list).ok()?));
        }
        Some(parts)
    }

    /// A Go string at an address: a pointer and a length.
    fn string(&self, address: u64, size: usize, flags: u8) -> Option<&'a [u8]> {
        let header = self.at(address, 2 * size as u64)?;
        let (pointer, len) = header.split_at_checked(size)?;
        let (pointer, len) = (number(pointer, flags & 1 != 0)?, number(len, flags & 1 != 0)?);
        if len == 0 {
            return Some(&[]);
        }
        self.at(pointer, Some(len).filter(|len| *len <= MODULES_BYTES)?)
    }
}

/// A string behind its length as a varint, and what follows it.
fn inline(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut len, mut shift) = (0_u64, 0);
    let mut at = 0;
    loop {
        let byte = *bytes.get(at)?;
        len |= u64::from(byte & 0x7f).checked_shl(shift)?;
        (at, shift) = (at + 1, shift + 7);
        if byte & 0x80 == 0 {
            break;
        }
        if shift > 28 {
            return None;
        }
    }
    let len = usize::try_from(Some(len).filter(|len| *len <= MODULES_BYTES)?).ok()?;
    bytes.get(at..)?.split_at_checked(len)
}

fn number(bytes: &[u8], big: bool) -> Option<u64> {
    match (bytes.len(), big) {
        (4, true) => Some(u32::from_be_bytes(bytes.try_into().ok()?).into()),
        (4, false) => Some(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        (8, true) => Some(u64::from_be_bytes(bytes.try_into().ok()?)),
        (8, false) => Some(u64::from_le_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

/// `go1.22.3 X:boringcrypto` is 1.22.3, `go1.21rc2` is 1.21.0-rc.2.
fn go_version(text: &str) -> String {
    let word = text.split_whitespace().next().unwrap_or_default();
    let Some(version) = word.strip_prefix("go") else { return super::UNKNOWN.to_owned() };
    let pre = version.find("rc").or_else(|| version.find("beta"));
    let (numbers, pre) = version.split_at(pre.unwrap_or(version.len()));
    let zero = if numbers.split('.').count() == 2 { ".0" } else { "" };
    let end = pre.find(|c: char| c.is_ascii_digit()).unwrap_or(pre.len());
    let (word, count) = pre.split_at(end);
    let pre = if word.is_empty() { String::new() } else { format!("-{word}.{count}") };
    format!("{numbers}{zero}{pre}")
}

/// `dep <path> <version> <sum>`, and below it `=> <path> <version> <sum>` for what replaces it.
fn modules(list: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for line in list.lines() {
        let mut fields = line.split('\t');
        let kind = fields.next().unwrap_or_default();
        let Some(name) = fields.next().filter(|name| !name.is_empty()) else { continue };
        let version = fields.next().unwrap_or_default();
        let part = Part { ecosystem: Ecosystem::Go, name: name.to_owned(), version: version.to_owned() };
        match kind {
            // A main module that is built from a checkout has no version, and is no dependency.
            "mod" if version == "(devel)" || version.is_empty() => {}
            "mod" | "dep" => parts.push(part),
            "=>" => {
                if let Some(last) = parts.last_mut() {
                    // By a folder: what is in it, nobody knows.
                    *last = match version.is_empty() {
                        true => Part { version: super::UNKNOWN.to_owned(), ..last.clone() },
                        false => part,
                    };
                }
            }
            _ => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Write as _;

    use super::*;

    /// An ELF file of 64 bits with these sections, each also a data segment at 0x10000 + its offset.
    fn elf(sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let (mut names, mut at) = (vec![0], Vec::new());
        for name in sections.iter().map(|(name, _)| *name).chain([".shstrtab"]) {
            at.push(u32::try_from(names.len()).unwrap());
            names.extend(name.bytes().chain([0]));
        }
        let mut contents: Vec<Vec<u8>> = sections.iter().map(|(_, content)| content.clone()).collect();
        contents.push(names);
        let count = u16::try_from(contents.len()).unwrap();
        let mut bytes = vec![0; 64 + 56 * sections.len()];
        let mut placed = Vec::new();
        for content in &contents {
            bytes.resize(bytes.len().next_multiple_of(16), 0);
            placed.push((bytes.len() as u64, content.len() as u64));
            bytes.extend(content);
        }
        let table = bytes.len() as u64;
        bytes.extend([0; 64]);
        for (name, (offset, size)) in at.iter().zip(&placed) {
            let mut header = Vec::new();
            header.extend(name.to_le_bytes());
            header.extend(1_u32.to_le_bytes());
            for value in [0, 0x10000 + offset, *offset, *size, 0, 0, 0_u64] {
                header.extend(value.to_le_bytes());
            }
            header.resize(64, 0);
            bytes.extend(header);
        }
        for (index, (offset, size)) in placed.iter().take(sections.len()).enumerate() {
            let mut header = Vec::new();
            header.extend(PT_LOAD.0.to_le_bytes());
            header.extend(PF_W.0.to_le_bytes());
            for value in [*offset, 0x10000 + offset, 0, *size, *size, 16] {
                header.extend(value.to_le_bytes());
            }
            bytes[64 + 56 * index..][..56].copy_from_slice(&header);
        }
        let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        header.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
        for value in [0, 64, table] {
            header.extend(u64::to_le_bytes(value));
        }
        header.extend([0; 4]);
        for value in [64, 56, u16::try_from(sections.len()).unwrap(), 64, count + 1, count] {
            header.extend(u16::to_le_bytes(value));
        }
        bytes[..64].copy_from_slice(&header);
        bytes
    }

    fn packed(json: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(json).unwrap();
        encoder.finish().unwrap()
    }

    fn shown(bytes: &[u8]) -> Vec<String> {
        parts(bytes).unwrap().iter().map(|one| format!("{}:{}@{}", one.ecosystem, one.name, one.version)).collect()
    }

    const MODULES: &str = "path\texample.com/cmd/x\nmod\texample.com/x\t(devel)\t\n\
        dep\tgolang.org/x/net\tv0.17.0\th1:a=\ndep\tgithub.com/old/y\tv1.0.0\n=>\tgithub.com/new/y\tv1.2.0\th1:b=\n\
        dep\tgithub.com/z/z\tv1.0.0\n=>\t../z\t\nbuild\t-compiler=gc\n";
    const PARTS: [&str; 4] =
        ["go:stdlib@1.20.5", "go:golang.org/x/net@v0.17.0", "go:github.com/new/y@v1.2.0", "go:github.com/z/z@unknown"];

    fn marked() -> Vec<u8> {
        [&[b'<'; 16][..], MODULES.as_bytes(), &[b'>'; 16]].concat()
    }

    fn inline_info() -> Vec<u8> {
        let mut info = [MAGIC, &[8, 2]].concat();
        info.resize(HEADER, 0);
        info.push(8);
        info.extend(b"go1.20.5");
        let list = marked();
        info.extend([u8::try_from(list.len() & 0x7f).unwrap() | 0x80, u8::try_from(list.len() >> 7).unwrap()]);
        info.extend(list);
        info
    }

    #[test]
    fn crates_of_an_auditable_program() {
        let json = br#"{"packages":[{"name":"app","version":"0.1.0","source":"local","dependencies":[1],"root":true},
            {"name":"serde","version":"1.0.200","source":"crates.io"},
            {"name":"cc","version":"1.0.0","source":"crates.io","kind":"build"},
            {"name":"fork","version":"2.0.0","source":"git"}]}"#;
        assert_eq!(shown(&elf(&[(".dep-v0", packed(json))])), ["cargo:serde@1.0.200", "cargo:fork@2.0.0"]);
        for (section, want) in [
            (b"no zlib".to_vec(), "cannot be unpacked"),
            (packed(b"{}"), "is not its JSON"),
            (packed(&vec![b' '; 9 << 20]), "unpacks to more than 8388608 bytes"),
        ] {
            let reason = parts(&elf(&[(".dep-v0", section)])).unwrap_err();
            assert!(reason.contains(want), "{reason}");
        }
    }

    #[test]
    fn modules_of_a_go_program() {
        assert_eq!(shown(&elf(&[(".text", vec![0; 99]), (".go.buildinfo", inline_info())])), PARTS);
        // Without its section: at the start of the data segment, at a multiple of 16.
        assert_eq!(shown(&elf(&[(".data", [vec![7; 48], inline_info()].concat())])), PARTS);
        // Before Go 1.18: pointers to strings.
        let list = marked();
        let mut info = [MAGIC, &[8, 0]].concat();
        let base = 0x10000 + (64 + 56_u64).next_multiple_of(16);
        for value in [base + 32, base + 48, base + 64, 8, base + 72, list.len() as u64] {
            info.extend(value.to_le_bytes());
        }
        info.extend(b"go1.20.5");
        info.extend(list);
        assert_eq!(shown(&elf(&[(".go.buildinfo", info)])), PARTS);
        let mut cut = inline_info();
        cut.truncate(60);
        assert_eq!(parts(&elf(&[(".go.buildinfo", cut)])).unwrap_err(), "has build info of Go that cannot be read");
    }

    #[test]
    fn versions_of_go() {
        for (text, version) in [
            ("go1.22.3", "1.22.3"),
            ("go1.22", "1.22.0"),
            ("go1.21rc2", "1.21.0-rc.2"),
            ("go1.22.3 X:boringcrypto", "1.22.3"),
            ("devel go1.23-abc", "unknown"),
        ] {
            assert_eq!(go_version(text), version);
        }
    }

    #[test]
    fn other_files_say_nothing() {
        for bytes in [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01", b"\x7fELF\x09\x01\x01\0\0\0\0\0\0\0\0\0"] {
            assert_eq!(parts(bytes), Ok(Vec::new()));
        }
        assert_eq!(shown(&elf(&[(".text", b"code".to_vec())])), [""; 0]);
    }

    proptest::proptest! {
        /// A real file with some bytes changed or cut off: an answer or a reason, never a panic.
        #[test]
        fn hostile_files_are_read_or_refused(
            changes in proptest::collection::vec((0_usize..2_000, proptest::prelude::any::<u8>()), 0..12),
            end in 0_usize..2_000,
        ) {
            let json = br#"{"packages":[{"name":"serde","version":"1.0.200","source":"crates.io"}]}"#;
            let mut bytes = elf(&[(".dep-v0", packed(json)), (".go.buildinfo", inline_info())]);
            for (at, byte) in changes {
                let len = bytes.len();
                bytes[at % len] = byte;
            }
            let _read = parts(&bytes);
            bytes.truncate(end);
            let _read = parts(&bytes);
        }
    }
}
