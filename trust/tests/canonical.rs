//! Trees and layouts have one spelling each: the codec against the postcard crate, whose
//! wire format docs/format.md names, and every other spelling refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::layout::{Extent, Layout};
use mcpfs_trust::tree::{Kind, NodeId, Tree, TreeBuilder};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    name: String,
    kind: RecordKind,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum RecordKind {
    Directory { children: u32 },
    File { executable: bool, size: u64, sha256: [u8; 32] },
    Link { target: String },
}

type ChunkRecord = ([u8; 32], u32, [u8; 32], u32);

/// What postcard reads, if writing that gives the same bytes and nothing is left over.
fn tree_by_postcard(bytes: &[u8]) -> Option<Vec<Record>> {
    let (count, mut rest) = postcard::take_from_bytes::<u32>(bytes.strip_prefix(b"mcpftre\x01")?).ok()?;
    let mut again = [b"mcpftre\x01".as_slice(), &postcard::to_stdvec(&count).unwrap()].concat();
    let mut records = Vec::new();
    for _ in 0..count {
        let (record, after) = postcard::take_from_bytes::<Record>(rest).ok()?;
        again.extend(postcard::to_stdvec(&record).unwrap());
        records.push(record);
        rest = after;
    }
    (again == bytes).then_some(records)
}

fn layout_by_postcard(bytes: &[u8]) -> Option<Layout> {
    let body = bytes.strip_prefix(b"mcpflay\x01")?;
    let ((chunks, contents), mut rest) = postcard::take_from_bytes::<(u32, u32)>(body).ok()?;
    let mut again = [b"mcpflay\x01".as_slice(), &postcard::to_stdvec(&(chunks, contents)).unwrap()].concat();
    let mut layout = Layout { chunks: Vec::new(), contents: Vec::new() };
    for _ in 0..chunks {
        let (chunk, after) = postcard::take_from_bytes::<ChunkRecord>(rest).ok()?;
        again.extend(postcard::to_stdvec(&chunk).unwrap());
        let (sha256, size, plain_sha256, plain_size) = chunk;
        let digest = Digest::from_bytes;
        let chunk = Chunk { sha256: digest(sha256), size, plain_sha256: digest(plain_sha256), plain_size };
        layout.chunks.push(chunk);
        rest = after;
    }
    for _ in 0..contents {
        let ((chunk, offset), after) = postcard::take_from_bytes::<(u32, u32)>(rest).ok()?;
        again.extend(postcard::to_stdvec(&(chunk, offset)).unwrap());
        layout.contents.push(Extent { chunk, offset });
        rest = after;
    }
    (again == bytes).then_some(layout)
}

fn records(tree: &Tree) -> Vec<Record> {
    let record = |id| {
        let node = tree.node(id).unwrap();
        let kind = match node.kind {
            Kind::Directory => RecordKind::Directory { children: tree.children(id).len() as u32 },
            Kind::File { executable, size, sha256, .. } => {
                RecordKind::File { executable, size, sha256: *sha256.as_bytes() }
            }
            Kind::Link { target } => RecordKind::Link { target: target.to_owned() },
        };
        Record { name: node.name.to_owned(), kind }
    };
    (0..tree.len()).map(NodeId).map(record).collect()
}

/// An encoding taken apart: what has one spelling only, and numbers.
enum Piece {
    Raw(Vec<u8>),
    Number(u64),
}

fn tree_pieces(tree: &Tree) -> Vec<Piece> {
    let mut out = vec![Piece::Raw(b"mcpftre\x01".to_vec()), Piece::Number(u64::from(tree.len()))];
    let text = |text: String| [Piece::Number(text.len() as u64), Piece::Raw(text.into_bytes())];
    for record in records(tree) {
        out.extend(text(record.name));
        match record.kind {
            RecordKind::Directory { children } => {
                out.extend([Piece::Number(0), Piece::Number(u64::from(children))]);
            }
            RecordKind::File { executable, size, sha256 } => out.extend([
                Piece::Number(1),
                Piece::Raw(vec![u8::from(executable)]),
                Piece::Number(size),
                Piece::Raw(sha256.to_vec()),
            ]),
            RecordKind::Link { target } => {
                out.push(Piece::Number(2));
                out.extend(text(target));
            }
        }
    }
    out
}

fn layout_pieces(layout: &Layout) -> Vec<Piece> {
    let number = |value: u32| Piece::Number(u64::from(value));
    let digest = |digest: &Digest| Piece::Raw(digest.as_bytes().to_vec());
    let mut out = vec![Piece::Raw(b"mcpflay\x01".to_vec())];
    out.extend([number(layout.chunks.len() as u32), number(layout.contents.len() as u32)]);
    for chunk in &layout.chunks {
        out.extend([digest(&chunk.sha256), number(chunk.size), digest(&chunk.plain_sha256), number(chunk.plain_size)]);
    }
    out.extend(layout.contents.iter().flat_map(|extent| [number(extent.chunk), number(extent.offset)]));
    out
}

/// Puts the pieces together, the number at `wrong` by `write` and the others in their shortest form.
fn spell(pieces: &[Piece], wrong: usize, write: impl Fn(u64, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Raw(bytes) => out.extend(bytes),
            Piece::Number(value) if at == wrong => write(*value, &mut out),
            Piece::Number(value) => shortest(*value, &mut out),
        }
    }
    out
}

/// Where the numbers are.
fn numbers(pieces: &[Piece]) -> impl Iterator<Item = usize> {
    pieces.iter().enumerate().filter_map(|(at, piece)| matches!(piece, Piece::Number(_)).then_some(at))
}

fn shortest(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The number in `more` bytes more than it needs, the last of them saying nothing.
fn overlong(value: u64, more: usize, out: &mut Vec<u8>) {
    shortest(value, out);
    for _ in 0..more {
        *out.last_mut().unwrap() |= 0x80;
        out.push(0);
    }
}

fn a_layout() -> Layout {
    let digest = |byte| Digest::from_bytes([byte; 32]);
    let chunk = |plain_size| Chunk { sha256: digest(1), size: 700, plain_sha256: digest(2), plain_size };
    let contents = [(0, 0), (0, 127), (1, 128), (1, 70_000)].map(|(chunk, offset)| Extent { chunk, offset });
    Layout { chunks: vec![chunk(1), chunk(4 << 20)], contents: contents.to_vec() }
}

#[test]
fn every_overlong_number_is_refused() {
    let (tree, layout) = (tree_pieces(&support::tree()), layout_pieces(&a_layout()));
    assert_eq!(spell(&tree, usize::MAX, shortest), support::tree().encode());
    assert_eq!(spell(&layout, usize::MAX, shortest), a_layout().encode());
    for more in 1..=10 {
        for wrong in numbers(&tree) {
            let bytes = spell(&tree, wrong, |value, out| overlong(value, more, out));
            assert!(Tree::parse(&bytes).is_err(), "piece {wrong}, {more} bytes more");
        }
        for wrong in numbers(&layout) {
            let bytes = spell(&layout, wrong, |value, out| overlong(value, more, out));
            assert!(Layout::parse(&bytes).is_err(), "piece {wrong}, {more} bytes more");
        }
    }
}

#[test]
fn numbers_with_bits_beyond_their_type_are_refused() {
    let layout = layout_pieces(&a_layout());
    for wrong in numbers(&layout) {
        for bit in 32..64 {
            let bytes = spell(&layout, wrong, |value, out| shortest(value | 1 << bit, out));
            assert!(Layout::parse(&bytes).is_err(), "piece {wrong}, bit {bit}");
        }
    }
    // The largest size there is, and the same with a bit in the part of the tenth byte that no u64 has.
    let mut builder = TreeBuilder::new();
    builder.file("f", false, u64::MAX, Digest::of(b"x")).unwrap();
    let bytes = builder.build().unwrap().encode();
    assert!(Tree::parse(&bytes).is_ok());
    let tenth = bytes.len() - 33;
    assert_eq!(bytes[tenth], 1);
    for value in 2..=255 {
        let mut bytes = bytes.clone();
        bytes[tenth] = value;
        assert!(Tree::parse(&bytes).is_err(), "{value}");
    }
}

#[test]
fn flags_and_tags_have_no_other_values() {
    let mut builder = TreeBuilder::new();
    builder.file("f", false, 0, Digest::EMPTY).unwrap();
    let bytes = builder.build().unwrap().encode();
    // Magic, count, the root in three bytes, length and name, then tag and flag.
    let (tag, flag) = (14, 15);
    assert_eq!(bytes[tag..=flag], [1, 0]);
    for value in 0..=255 {
        let with = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            Tree::parse(&bytes)
        };
        assert_eq!(with(flag).is_ok(), value < 2, "flag {value}");
        assert_eq!(with(tag).is_ok(), value == 1, "tag {value}");
    }
}

/// Bytes that are nearly those of a valid encoding.
fn nearly(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    support::edited(bytes, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What is accepted is what postcard reads, and has postcard's one spelling.
    #[test]
    fn trees_are_postcard(bytes in nearly(support::tree().encode())) {
        if let Ok(tree) = Tree::parse(&bytes) {
            prop_assert_eq!(tree_by_postcard(&bytes), Some(records(&tree)));
            prop_assert_eq!(tree.encode(), bytes);
        }
    }

    #[test]
    fn any_size_and_any_name(size in 1..=u64::MAX, shift in 0_u32..64, name in "[^/\\p{Cc}]{1,60}", target in "[a-z]{1,300}") {
        prop_assume!(name != "." && name != ".." && name != "zz");
        let mut builder = TreeBuilder::new();
        builder.file(&name, true, (size >> shift).max(1), Digest::of(b"x")).unwrap();
        builder.link("zz", &target).unwrap();
        let tree = builder.build().unwrap();
        let bytes = tree.encode();
        prop_assert_eq!(&Tree::decode(&bytes, &tree.summary()).unwrap(), &tree);
        prop_assert_eq!(tree_by_postcard(&bytes), Some(records(&tree)));
    }

    /// A layout has few rules beside its form, so both directions are compared.
    #[test]
    fn layouts_are_postcard(bytes in nearly(a_layout().encode())) {
        let expected = layout_by_postcard(&bytes);
        let expected = expected.filter(|layout| layout.chunks.iter().all(|chunk| chunk.check().is_ok()));
        prop_assert_eq!(Layout::parse(&bytes).ok(), expected);
    }
}
