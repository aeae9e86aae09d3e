use super::*;

/// One entry of a zip, as its two headers tell it.
#[derive(Clone)]
struct Item {
    name: Vec<u8>,
    local_name: Option<Vec<u8>>,
    mode: u32,
    flags: u16,
    local_flags: Option<u16>,
    method: u16,
    data: Vec<u8>,
    crc: u32,
    size: u32,
    local_size: Option<u32>,
    extra: Vec<u8>,
    descriptor: Vec<u8>,
    gap: Vec<u8>,
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn item(name: &str, mode: u32, content: &[u8]) -> Item {
    Item {
        name: name.as_bytes().to_vec(),
        local_name: None,
        mode,
        flags: 0,
        local_flags: None,
        method: 0,
        data: content.to_vec(),
        crc: crc(content),
        size: content.len() as u32,
        local_size: None,
        extra: Vec::new(),
        descriptor: Vec::new(),
        gap: Vec::new(),
    }
}

fn file(name: &str, content: &[u8]) -> Item {
    item(name, 0o100_644, content)
}

fn deflated(name: &str, content: &[u8]) -> Item {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    Item { method: 8, data: encoder.finish().unwrap(), ..file(name, content) }
}

/// The entries, the directory, and the end record with `change` made to it.
fn zip_with(items: &[Item], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for item in items {
        bytes.extend(&item.gap);
        let offset = bytes.len() as u32;
        let name = item.local_name.as_ref().unwrap_or(&item.name);
        let size = item.local_size.unwrap_or(item.size);
        bytes.extend(0x0403_4b50_u32.to_le_bytes());
        bytes.extend(20_u16.to_le_bytes());
        bytes.extend(item.local_flags.unwrap_or(item.flags).to_le_bytes());
        bytes.extend(item.method.to_le_bytes());
        bytes.extend([0; 4]);
        let streamed = !item.descriptor.is_empty();
        for value in [item.crc, item.data.len() as u32, size] {
            bytes.extend(if streamed { [0; 4] } else { value.to_le_bytes() });
        }
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend((item.extra.len() as u16).to_le_bytes());
        bytes.extend(name);
        bytes.extend(&item.extra);
        bytes.extend(&item.data);
        bytes.extend(&item.descriptor);
        directory.extend(0x0201_4b50_u32.to_le_bytes());
        directory.extend([20, 3, 20, 0]);
        directory.extend(item.flags.to_le_bytes());
        directory.extend(item.method.to_le_bytes());
        directory.extend([0; 4]);
        for value in [item.crc, item.data.len() as u32, item.size] {
            directory.extend(value.to_le_bytes());
        }
        directory.extend((item.name.len() as u16).to_le_bytes());
        directory.extend((item.extra.len() as u16).to_le_bytes());
        directory.extend([0; 6]);
        directory.extend((item.mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(&item.name);
        directory.extend(&item.extra);
    }
    let mut end = 0x0605_4b50_u32.to_le_bytes().to_vec();
    end.extend([0; 4]);
    end.extend((items.len() as u16).to_le_bytes());
    end.extend((items.len() as u16).to_le_bytes());
    end.extend((directory.len() as u32).to_le_bytes());
    end.extend((bytes.len() as u32).to_le_bytes());
    end.extend([0; 2]);
    change(&mut end);
    [bytes, directory, end].concat()
}

fn zip(items: &[Item]) -> Vec<u8> {
    zip_with(items, |_| {})
}

fn good() -> Vec<Item> {
    vec![
        item("bin/", 0o040_755, b""),
        Item { mode: 0o100_755, ..deflated("bin/server", &b"#!/bin/sh\n".repeat(50)) },
        file("manifest.json", b"{}"),
        item("bin/link", 0o120_777, b"../manifest.json"),
        file("empty", b""),
    ]
}

fn shows_good(bytes: &[u8]) {
    let server = format!("f755:{}", "#!/bin/sh\n".repeat(50));
    let want = [
        ("bin", "d"),
        ("bin/server", server.as_str()),
        ("manifest.json", "f644:{}"),
        ("bin/link", "l:../manifest.json"),
        ("empty", "f644:"),
    ];
    let archive = open(bytes).unwrap();
    assert_eq!(archive.format, "zip");
    shows(&archive, &want);
}

fn mcpb_signature() -> Vec<u8> {
    let der = [0x30; 1500];
    [b"MCPB_SIG_V1".to_vec(), (der.len() as u32).to_le_bytes().to_vec(), der.to_vec(), b"MCPB_SIG_END".to_vec()]
        .concat()
}

#[test]
fn zips_and_signed_mcpb() {
    let bytes = zip(&good());
    shows_good(&bytes);
    shows_good(&[bytes.clone(), mcpb_signature()].concat());
    // Newer packers count the block as the comment.
    let mut commented = zip_with(&good(), |end| {
        let len = mcpb_signature().len() as u16;
        end[20..].copy_from_slice(&len.to_le_bytes());
    });
    commented.extend(mcpb_signature());
    shows_good(&commented);
    refused("junk after the end", &[bytes.clone(), b"junk".to_vec()].concat(), "no zip directory");
    let mut longer = mcpb_signature();
    longer.push(0);
    refused("after the signature", &[bytes, longer].concat(), "no zip directory");
}

#[test]
fn data_descriptors() {
    let content = b"streamed".repeat(9);
    for (signed, wide) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut one = Item { flags: 8, ..deflated("a", &content) };
        let mut tail = if signed { 0x0807_4b50_u32.to_le_bytes().to_vec() } else { Vec::new() };
        tail.extend(one.crc.to_le_bytes());
        for value in [one.data.len() as u64, u64::from(one.size)] {
            tail.extend(&value.to_le_bytes()[..if wide { 8 } else { 4 }]);
        }
        one.descriptor = tail.clone();
        let text = format!("f644:{}", "streamed".repeat(9));
        shows(&open(&zip(&[one.clone(), file("b", b"")])).unwrap(), &[("a", &text), ("b", "f644:")]);
        shows(&open(&zip(&[one.clone()])).unwrap(), &[("a", &text)]);
        tail[5] ^= 1;
        one.descriptor = tail;
        refused("descriptor", &zip(&[one, file("b", b"")]), "data descriptor");
    }
}

#[test]
fn zip64() {
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = ::zip::write::SimpleFileOptions::default().large_file(true).unix_permissions(0o755);
    writer.start_file("wide", options).unwrap();
    writer.write_all(&b"w".repeat(1000)).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    shows(&open(&bytes).unwrap(), &[("wide", &format!("f755:{}", "w".repeat(1000)))]);
    // More entries than 16 bits count: the end record becomes a zip64 one.
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for index in 0..66_000 {
        writer.start_file(format!("f{index}"), ::zip::write::SimpleFileOptions::default()).unwrap();
    }
    let bytes = writer.finish().unwrap().into_inner();
    assert_eq!(open(&bytes).unwrap().entries.len(), 66_000);
    let locator = bytes.len() - 22 - 20;
    let mut bad = bytes.clone();
    bad[locator + 8] ^= 1;
    refused("locator", &bad, "");
    let mut bad = bytes;
    bad[locator - 56 + 32] ^= 1;
    refused("zip64 count", &bad, "broken zip64 end record");
}

#[test]
fn headers_that_two_readers_read_differently() {
    let base = file("a", b"content");
    let unicode_path = |name: &[u8]| {
        let mut extra = vec![0x75, 0x70, (name.len() + 5) as u8, 0, 1, 0, 0, 0, 0];
        extra.extend(name);
        extra
    };
    for (name, item, reason) in [
        ("another local name", Item { local_name: Some(b"b".to_vec()), ..base.clone() }, "contradicts"),
        ("another local size", Item { local_size: Some(3), ..base.clone() }, "contradicts"),
        ("encrypted", Item { flags: 1, ..base.clone() }, "encrypted"),
        ("strongly encrypted", Item { flags: 1 << 6, ..base.clone() }, "encrypted"),
        ("hidden headers", Item { flags: 1 << 13, ..base.clone() }, "encrypted"),
        ("encrypted locally only", Item { local_flags: Some(1), ..base.clone() }, "contradicts"),
        ("lzma", Item { method: 14, ..base.clone() }, "method 14"),
        ("unicode name", Item { extra: unicode_path(b"other"), ..base.clone() }, "second, different name"),
        ("wrong sum", Item { crc: 1, ..base.clone() }, "checksum"),
        ("longer than said", Item { size: 3, ..deflated("a", b"content") }, "longer"),
        ("shorter than said", Item { size: 30, ..deflated("a", b"content") }, "announced"),
        ("something in front", Item { gap: b"xx".to_vec(), ..base.clone() }, "not a .tar"),
        ("a local header in front", Item { gap: b"PK\x03\x04".to_vec(), ..base.clone() }, "gap or overlap"),
        (
            "reaches too far",
            {
                let mut item = base.clone();
                item.data = b"content".to_vec();
                item.size = 0xffff_ff00;
                item.local_size = None;
                item
            },
            "",
        ),
        (
            "bytes behind deflate",
            {
                let mut item = deflated("a", b"content");
                item.data.extend(b"hidden");
                item
            },
            "bytes after",
        ),
        ("not deflate", Item { method: 8, ..base.clone() }, "damaged"),
    ] {
        refused(name, &zip(&[item]), reason);
    }
    shows(&open(&zip(&[Item { extra: unicode_path(b"a"), ..base.clone() }])).unwrap(), &[("a", "f644:content")]);
    // A local entry that the directory does not list lies in a gap.
    let inner = zip(&[file("hidden", b"x")]);
    let hidden = Item { gap: inner[..30 + 6 + 1].to_vec(), ..file("b", b"") };
    refused("unlisted entry", &zip(&[base.clone(), hidden]), "gap or overlap");
    // Two directory records for one local entry: the classic overlapping bomb.
    let mut bytes = zip(&[base.clone(), base.clone()]);
    let second = bytes.len() - 22 - 47 + 42;
    bytes[second..second + 4].copy_from_slice(&[0; 4]);
    refused("overlap", &bytes, "gap or overlap");
    for (name, at, value) in
        [("parts", 4, 1_u8), ("count here", 8, 9), ("count", 10, 9), ("size", 12, 9), ("offset", 16, 9)]
    {
        refused(name, &zip_with(std::slice::from_ref(&base), |end| end[at] = value), "");
    }
    let nested = [zip(std::slice::from_ref(&base)), zip(&[file("b", b"")])].concat();
    refused("two zips", &nested, "does not lie where");
    let bytes = zip(&[base]);
    for end in 1..bytes.len() {
        assert!(open(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn names_and_kinds() {
    for (name, item, reason) in [
        ("climbing", file("../x", b""), "climbs"),
        ("absolute", file("/x", b""), "absolute"),
        ("backslash", file("..\\x", b""), "backslash"),
        ("drive", file("c:\\x", b""), "backslash"),
        ("directory with content", item("d/", 0o040_755, b"x"), "not an empty directory"),
        ("file that ends with /", item("d/", 0o100_644, b""), "not an empty directory"),
        ("directory without /", item("d", 0o040_755, b""), "does not end with"),
        ("device", item("d", 0o020_644, b""), "device"),
        ("pipe", item("d", 0o010_644, b""), "named pipe"),
        ("socket", item("d", 0o140_644, b""), "socket"),
        ("long link", item("l", 0o120_777, &[b'x'; 5000]), "too long"),
        ("empty link", item("l", 0o120_777, b""), "link"),
        ("latin1", Item { name: b"a\xff".to_vec(), ..file("a", b"") }, "not UTF-8"),
        ("NUL", file("a\0b", b""), "not a file name"),
    ] {
        refused(name, &zip(&[item]), reason);
    }
    refused("twice", &zip(&[file("a", b"1"), file("a", b"2")]), "twice");
    refused("below a link", &zip(&[item("a", 0o120_777, b"/etc"), file("a/b", b"")]), "below a link");
    refused("empty", &zip(&[]), "empty");
    let archive = open(&zip(&[item("su", 0o104_755, b"x")])).unwrap();
    assert_eq!(archive.remarks, [Remark::SpecialBits { path: "su".to_owned(), mode: 0o4755 }]);
}

#[test]
fn bombs() {
    let zeros = vec![0; 80 << 20];
    refused("zeros", &zip(&[deflated("zeros", &zeros)]), "bomb");
}

#[test]
fn every_flipped_bit_is_refused_or_leaves_a_well_formed_archive() {
    let bytes = zip(&good());
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        if let Ok(archive) = open(&bad) {
            for (path, _) in listing(&archive) {
                assert!(path.split('/').all(|part| mcpfs_trust::name::check_file_name(part).is_ok()));
            }
        }
    }
}
