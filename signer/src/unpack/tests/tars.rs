use super::*;

/// A header block with a right checksum, and the content in its blocks.
pub(in crate::unpack) fn entry(kind: u8, name: &[u8], link: &[u8], mode: u32, content: &[u8]) -> Vec<u8> {
    let mut block = sized(kind, name, link, mode, content.len() as u64);
    block.extend_from_slice(content);
    block.resize(block.len().div_ceil(512) * 512, 0);
    block
}

fn sized(kind: u8, name: &[u8], link: &[u8], mode: u32, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut block);
    block
}

fn sum(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(in crate::unpack) fn file(name: &str, content: &str) -> Vec<u8> {
    entry(b'0', name.as_bytes(), b"", 0o644, content.as_bytes())
}

pub(in crate::unpack) fn link(name: &str, target: &str) -> Vec<u8> {
    entry(b'2', name.as_bytes(), target.as_bytes(), 0o777, b"")
}

pub(in crate::unpack) fn directory(name: &str) -> Vec<u8> {
    entry(b'5', name.as_bytes(), b"", 0o755, b"")
}

fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while format!("{len}").len() + rest != len {
            len = format!("{len}").len() + rest;
        }
        body.push_str(&format!("{len} {key}={value}\n"));
    }
    entry(kind, b"pax", b"", 0o644, body.as_bytes())
}

pub(in crate::unpack) fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub(in crate::unpack) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn good() -> Vec<u8> {
    tar(&[
        directory("./"),
        directory("./bin/"),
        entry(b'0', b"./bin/server", b"", 0o755, b"#!/bin/sh\n"),
        file("./lib/deep/data.txt", "data"),
        link("bin/data", "../lib/deep/data.txt"),
        entry(b'1', b"bin/again", b"./bin/server", 0o755, b""),
        file("empty", ""),
        file("same", "data"),
    ])
}

const GOOD: [(&str, &str); 7] = [
    ("bin", "d"),
    ("bin/server", "f755:#!/bin/sh\n"),
    ("lib/deep/data.txt", "f644:data"),
    ("bin/data", "l:../lib/deep/data.txt"),
    ("bin/again", "f755:#!/bin/sh\n"),
    ("empty", "f644:"),
    ("same", "f644:data"),
];

#[test]
fn the_same_entries_in_every_wrapping() {
    let plain = good();
    shows(&open(&plain).unwrap(), &GOOD);
    shows(&open(&gzip(&plain)).unwrap(), &GOOD);
    shows(&open(&zstd::encode_all(plain.as_slice(), 3).unwrap()).unwrap(), &GOOD);
    // gzip in two members and zstd in two frames are one stream each.
    let (front, back) = plain.split_at(700);
    shows(&open(&[gzip(front), gzip(back)].concat()).unwrap(), &GOOD);
    let frame = |bytes| zstd::encode_all(bytes, 3).unwrap();
    shows(&open(&[frame(front), frame(back)].concat()).unwrap(), &GOOD);
    assert_eq!(open(&gzip(&plain)).unwrap().format, "tar.gz");
}

#[test]
fn names_that_are_not_one_path_below_the_root() {
    for (name, reason) in [
        ("../x", "climbs"),
        ("a/../../x", "climbs"),
        ("a/..", "climbs"),
        ("./../x", "climbs"),
        ("..", "climbs"),
        ("/etc/passwd", "absolute"),
        ("//x", "absolute"),
        ("a//b", "not a file name"),
        ("a/./b", "not a file name"),
        ("a\nb", "not a file name"),
        ("a\u{9b}b", "not a file name"),
        (".", "the root"),
        ("./", "the root"),
        ("", "not a file name"),
    ] {
        // A file cannot end with '/', which old tars use for directories.
        let reason = if name == "./" { "is a directory" } else { reason };
        let bytes = tar(&[file("ok", ""), entry(b'0', name.as_bytes(), b"", 0o644, b"x")]);
        refused(&format!("{name:?}"), &bytes, reason);
    }
    refused("not UTF-8", &tar(&[entry(b'0', b"a\xff", b"", 0o644, b"")]), "not UTF-8");
    refused("latin1 link", &tar(&[entry(b'2', b"l", b"a\xff", 0o777, b"")]), "not UTF-8");
    refused("empty link", &tar(&[entry(b'2', b"l", b"", 0o777, b"")]), "");
    let deep = vec!["d"; 70].join("/");
    refused("deep", &tar(&[pax(b'x', &[("path", &deep)]), file("x", "")]), "too deep");
    let long = "n".repeat(256);
    refused("long", &tar(&[pax(b'x', &[("path", &long)]), file("x", "")]), "not a file name");
}

#[test]
fn one_path_has_one_meaning() {
    for (name, entries, reason) in [
        ("file twice", vec![file("a", "1"), file("a", "2")], "twice"),
        ("same file twice", vec![file("a", "1"), file("./a", "1")], "twice"),
        ("file and link", vec![file("a", "1"), link("a", "b")], "twice"),
        ("link and directory", vec![link("a", "b"), directory("a")], "twice"),
        ("directory and file", vec![directory("a"), file("a", "1")], "twice"),
        ("implied directory and file", vec![file("a/b", "1"), file("a", "1")], "twice"),
        ("below a file", vec![file("a", "1"), file("a/b", "1")], "below a file"),
        ("below a link", vec![link("a", "/etc"), file("a/passwd", "1")], "below a link"),
        ("directory below a link", vec![link("a", "b"), directory("a/x/")], "below a link"),
    ] {
        refused(name, &tar(&entries), reason);
    }
    let twice = tar(&[directory("a/"), directory("a"), file("a/b", "1")]);
    shows(&open(&twice).unwrap(), &[("a", "d"), ("a/b", "f644:1")]);
}

#[test]
fn kinds_that_a_tree_does_not_have() {
    for (kind, reason) in
        [(b'3', "device"), (b'4', "device"), (b'6', "named pipe"), (b'S', "sparse"), (b'V', "unknown type")]
    {
        refused(reason, &tar(&[entry(kind, b"x", b"", 0o644, b"")]), reason);
    }
    refused("pax sparse", &tar(&[pax(b'x', &[("GNU.sparse.major", "1")]), file("x", "")]), "sparse");
    for kind in [b'1', b'2', b'5'] {
        refused("content", &tar(&[file("t", ""), entry(kind, b"x", b"t", 0o644, b"hidden")]), "content of its own");
    }
}

#[test]
fn hard_links_name_files_before_them() {
    let hard = |name: &str, target: &str| entry(b'1', name.as_bytes(), target.as_bytes(), 0o644, b"");
    for (name, entries) in [
        ("later", vec![hard("a", "b"), file("b", "")]),
        ("absent", vec![hard("a", "b")]),
        ("itself", vec![hard("a", "a")]),
        ("directory", vec![directory("d"), hard("a", "d")]),
        ("link", vec![link("l", "b"), hard("a", "l")]),
    ] {
        refused(name, &tar(&entries), "not a file before it");
    }
    refused("climbing", &tar(&[hard("a", "../b")]), "climbs");
    refused("absolute", &tar(&[hard("a", "/etc/shadow")]), "absolute");
}

#[test]
fn absolute_links_are_turned_to_the_root() {
    let archive = open(&tar(&[
        link("usr/bin/node", "/opt/node/bin/node"),
        link("top", "/etc//passwd"),
        link("root", "/"),
        link("a/b/root", "//"),
    ]))
    .unwrap();
    shows(
        &archive,
        &[
            ("usr/bin/node", "l:../../opt/node/bin/node"),
            ("top", "l:etc//passwd"),
            ("root", "l:."),
            ("a/b/root", "l:../../"),
        ],
    );
    assert_eq!(archive.remarks.len(), 4);
    assert!(matches!(&archive.remarks[0], Remark::Rewritten { target, .. } if target == "/opt/node/bin/node"));
}

#[test]
fn links_out_of_the_tree_do_not_make_one() {
    for (name, entries) in [
        ("direct", vec![link("a", "../x")]),
        ("deep", vec![link("d/a", "../../x")]),
        ("by a chain", vec![link("d/up", ".."), link("out", "d/up/../x")]),
        ("by a chain of links", vec![link("d/e/up", "../.."), link("out", "d/e/up/../x")]),
        ("through nothing", vec![link("a", "nothing/../../x")]),
        ("loop", vec![link("a", "b"), link("b", "a")]),
        ("itself", vec![link("a", "a")]),
        ("through absolute", vec![link("d/a", "/../x")]),
    ] {
        let archive = open(&tar(&entries)).unwrap();
        let error = crate::pack::tree(&archive.entries).expect_err(name);
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(source.contains("link"), "{name}: {error}: {source}");
    }
    let archive = open(&tar(&[link("d/up", ".."), link("fine", "d/up/d"), link("dangling", "nothing")])).unwrap();
    assert!(crate::pack::tree(&archive.entries).is_ok());
}

#[test]
fn special_bits_are_dropped_and_told() {
    let archive = open(&tar(&[
        entry(b'0', b"su", b"", 0o4755, b"x"),
        entry(b'5', b"tmp/", b"", 0o1777, b""),
        entry(b'0', b"group-only", b"", 0o070, b"y"),
    ]))
    .unwrap();
    shows(&archive, &[("su", "f755:x"), ("tmp", "d"), ("group-only", "f644:y")]);
    assert_eq!(
        archive.remarks,
        [
            Remark::SpecialBits { path: "su".to_owned(), mode: 0o4755 },
            Remark::SpecialBits { path: "tmp".to_owned(), mode: 0o1777 }
        ]
    );
}

#[test]
fn long_names_in_both_forms() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let gnu = tar(&[
        entry(b'L', b"././@LongLink", b"", 0o644, format!("{long}\0").as_bytes()),
        file("cut", "1"),
        entry(b'K', b"././@LongLink", b"", 0o644, format!("{long}\0").as_bytes()),
        link("l", "cut"),
    ]);
    let pax = tar(&[
        pax(b'g', &[("comment", "0123")]),
        pax(b'x', &[("path", &long), ("mtime", "1.5"), ("size", "1")]),
        file("cut", "1"),
        pax(b'x', &[("linkpath", &long)]),
        link("l", "cut"),
    ]);
    let want = [(long.as_str(), "f644:1"), ("l", &format!("l:{long}"))];
    shows(&open(&gnu).unwrap(), &want);
    shows(&open(&pax).unwrap(), &want);
}

#[test]
fn headers_that_two_readers_read_differently() {
    let hidden = file("hidden", "x");
    for (name, bytes, reason) in [
        // The header says one block, pax says none: the block is content here and an entry there.
        (
            "pax size lies low",
            tar(&[pax(b'x', &[("size", "0")]), entry(b'0', b"a", b"", 0o644, &hidden)]),
            "two different sizes",
        ),
        (
            "pax size lies high",
            tar(&[pax(b'x', &[("size", "1024")]), file("a", ""), hidden.clone()]),
            "two different sizes",
        ),
        (
            "pax size on a link",
            tar(&[pax(b'x', &[("size", "512")]), link("a", "b"), hidden.clone()]),
            "two different sizes",
        ),
        ("global path", tar(&[pax(b'g', &[("path", "x")]), file("a", "")]), "global header"),
        ("global size", tar(&[pax(b'g', &[("size", "9")]), file("a", "")]), "global header"),
        ("two pax paths", tar(&[pax(b'x', &[("path", "a"), ("path", "b")]), file("c", "")]), "twice"),
        ("two pax headers", tar(&[pax(b'x', &[("path", "a")]), pax(b'x', &[("path", "b")]), file("c", "")]), "twice"),
        (
            "pax and GNU name",
            tar(&[pax(b'x', &[("path", "a")]), entry(b'L', b"l", b"", 0o644, b"b\0"), file("c", "")]),
            "two long names",
        ),
        ("a name for nothing", tar(&[file("a", ""), pax(b'x', &[("path", "b")])]), "belongs to no entry"),
        ("record too long", tar(&[entry(b'x', b"p", b"", 0o644, b"99 path=a\n"), file("a", "")]), "not in its format"),
        ("record without =", tar(&[entry(b'x', b"p", b"", 0o644, b"8 pathx\n"), file("a", "")]), "not in its format"),
        ("record length 0", tar(&[entry(b'x', b"p", b"", 0o644, b"0 path=a\n"), file("a", "")]), "not in its format"),
        ("negative size", tar(&[pax(b'x', &[("size", "-1")]), file("a", "")]), "not in its format"),
        ("second archive", [tar(&[file("a", "")]), tar(&[file("b", "")])].concat(), "after the end"),
        (
            "one zero block inside",
            [file("a", ""), vec![0; 512], file("b", ""), vec![0; 1024]].concat(),
            "after the end",
        ),
        (
            "bad checksum",
            {
                let mut bytes = tar(&[file("a", ""), file("b", "")]);
                bytes[512 + 5] = b'z';
                bytes
            },
            "damaged",
        ),
        ("cut in content", tar(&[file("a", &"x".repeat(2000))])[..1024].to_vec(), "announced"),
        ("cut in a header", [file("a", ""), vec![1; 100]].concat(), "damaged"),
        (
            "cut gzip",
            {
                let whole = gzip(&good());
                whole[..whole.len() - 12].to_vec()
            },
            "damaged",
        ),
        ("after gzip", [gzip(&good()), b"junk".to_vec()].concat(), "damaged"),
        (
            "gzip with a wrong sum",
            {
                let mut bytes = gzip(&good());
                let at = bytes.len() - 6;
                bytes[at] ^= 1;
                bytes
            },
            "damaged",
        ),
    ] {
        refused(name, &bytes, reason);
    }
}

#[test]
fn bombs() {
    // 80 MiB of zeros in a few kilobytes.
    let mut zeros = sized(b'0', b"zeros", b"", 0o644, 80 << 20);
    zeros.resize(zeros.len() + (80 << 20), 0);
    refused("zeros in gzip", &gzip(&zeros), "bomb");
    refused("zeros in zstd", &zstd::encode_all(zeros.as_slice(), 1).unwrap(), "bomb");
    // A size that only the header has.
    refused("8 GiB announced", &tar(&[sized(b'0', b"a", b"", 0o644, 0o7_777_777_777)]), "announced");
    refused("a 1 GiB name", &tar(&[sized(b'L', b"a", b"", 0o644, 1 << 30)]), "bomb");
    refused("a 1 GiB pax header", &tar(&[sized(b'x', b"a", b"", 0o644, 1 << 30)]), "bomb");
    let mut padding = tar(&[file("a", "")]);
    padding.resize(16 << 20, 0);
    refused("padding", &gzip(&padding), "bomb");
}

#[test]
fn a_budget_is_shared_and_exact() {
    let budget = Budget::new(10);
    let mut sink = Vec::new();
    budget::Paying::new(&[0; 6][..], &budget).read_to_end(&mut sink).unwrap();
    let error = budget::Paying::new(&[0; 6][..], &budget).read_to_end(&mut sink).unwrap_err();
    assert!(matches!(budget.explain(error), UnpackError::Bomb { limit: 10, .. }));
    assert_eq!(Budget::for_artefact(0).limit(), 64 << 20);
    assert_eq!(Budget::for_artefact(1 << 20).limit(), 256 << 20);
    assert_eq!(Budget::for_artefact(u64::MAX).limit(), 4 << 30);
}

#[test]
fn every_flipped_bit_is_refused_or_leaves_a_well_formed_archive() {
    let bytes = good();
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
