//! Properties of the formats: what is written is read back, one spelling only, and no input
//! makes a decoder panic or a changed byte pass for the original.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use mcpfs_trust::catalogue::{Bin, Catalogue};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Entry;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::layout::{Extent, Layout};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::tree::{Kind, NodeId, Tree, TreeBuilder};
use mcpfs_trust::verify::{self, Seen};
use proptest::prelude::*;

/// Entries of a tree: few names, so that directories fill and paths clash.
fn entries() -> impl Strategy<Value = Vec<(Vec<String>, u8, u16)>> {
    let part = prop::sample::select(vec!["a", "b", "é", "node_modules", ".bin", "x y", "README.md", "😀"]);
    let path = prop::collection::vec(part.prop_map(str::to_owned), 1..6);
    prop::collection::vec((path, 0_u8..4, any::<u16>()), 0..40)
}

/// Builds a tree of those entries that fit together, in the given order.
fn build<'a>(entries: impl Iterator<Item = &'a (Vec<String>, u8, u16)>) -> Option<Tree> {
    let mut builder = TreeBuilder::new();
    for (path, kind, size) in entries {
        // Few contents, so that many files are copies; their digests begin alike.
        let (path, size) = (path.join("/"), u64::from(*size % 8));
        let mut digest = [0; 32];
        digest[31] = 8 - size as u8;
        match kind {
            0 => builder.directory(&path).ok()?,
            1 if size > 0 => builder.file(&path, true, size, Digest::from_bytes(digest)).ok()?,
            2 => builder.link(&path, "a/../b").ok()?,
            _ => builder.file(&path, false, 0, Digest::EMPTY).ok()?,
        }
    }
    builder.build().ok()
}

proptest! {
    #[test]
    fn trees_round_trip_and_ignore_the_order_of_entries(entries in entries()) {
        if let Some(tree) = build(entries.iter()) {
            let bytes = tree.encode();
            prop_assert_eq!(&Tree::decode(&bytes, &tree.summary()).unwrap(), &tree);
            prop_assert_eq!(build(entries.iter().rev()).map(|tree| tree.encode()), Some(bytes));
            let mut contents: Vec<(u64, Digest)> = Vec::new();
            for id in (0..tree.len()).map(NodeId) {
                let node = tree.node(id).unwrap();
                if id != NodeId::ROOT {
                    prop_assert_eq!(tree.child(node.parent, node.name.as_bytes()), Some(id));
                }
                if let Kind::File { size, sha256, content, .. } = node.kind {
                    if size > 0 && !contents.contains(&(size, sha256)) {
                        prop_assert_eq!(tree.contents().get(contents.len()), Some(&id), "its first node");
                        contents.push((size, sha256));
                    }
                    let index = contents.iter().position(|one| *one == (size, sha256));
                    prop_assert_eq!(content.map(|index| index as usize), index);
                    prop_assert_eq!(content.and_then(|index| tree.content(index)), index.map(|_| (size, sha256)));
                }
            }
            prop_assert_eq!(tree.contents().len(), contents.len());
        }
    }

    #[test]
    fn layouts_round_trip(chunks in prop::collection::vec((1_u32..4096, any::<[u8; 32]>()), 0..20), extents in prop::collection::vec((any::<u32>(), any::<u32>()), 0..20)) {
        let chunks = chunks.into_iter().map(|(size, digest)| Chunk {
            sha256: Digest::from_bytes(digest), size, plain_sha256: Digest::of(&digest), plain_size: size,
        }).collect();
        let contents = extents.into_iter().map(|(chunk, offset)| Extent { chunk, offset }).collect();
        let layout = Layout { chunks, contents };
        prop_assert_eq!(Layout::parse(&layout.encode()).unwrap(), layout);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Tree::parse(&bytes);
        let _ = Tree::parse(&[b"mcpftre\x01", bytes.as_slice()].concat());
        let _ = Layout::parse(&[b"mcpflay\x01", bytes.as_slice()].concat());
        let _ = Envelope::parse(&bytes, 10_000, "fuzz");
        let _ = Entry::parse(&bytes);
        let _ = Catalogue::parse(&bytes);
        let _ = Bin::parse(&bytes, 0, 1);
        let _ = TrustRoot::parse(&bytes);
    }

    #[test]
    fn altered_trees_are_refused_or_spelt_that_way(at in any::<prop::sample::Index>(), flip in 1_u8..=255) {
        let mut bytes = support::tree().encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // Another tree may come out (it has another digest), but never with a second spelling.
        if let Ok(tree) = Tree::parse(&bytes) {
            prop_assert_eq!(tree.encode(), bytes);
        }
    }
}

/// Every bit of every byte of a head: an error, or a head that says the same.
#[test]
fn no_altered_head_says_anything_else() {
    let site = support::site("postgres", support::entry("postgres").encode());
    let (root, now) = (support::root(), support::time(support::NOW));
    let good = verify::head(&site.head, &root, &Seen::default(), now).unwrap();
    let mut accepted = 0;
    for at in 0..site.head.len() {
        for bit in 0..8 {
            let mut bytes = site.head.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(head) = verify::head(&bytes, &root, &Seen::default(), now) {
                assert_eq!(head, good, "byte {at}, bit {bit}");
                accepted += 1;
            }
        }
    }
    // White space, the key hint and ignored names may change; what is signed may not.
    println!("{} alterations, {accepted} without effect", site.head.len() * 8);
}

/// A large tree is read fast and in little memory; figures come from `make bench`.
#[test]
fn a_hundred_thousand_files() {
    let mut builder = TreeBuilder::new();
    for at in 0..100_000_u64 {
        builder.file(&format!("d{}/f{at}", at / 100), false, at + 1, Digest::of(&at.to_le_bytes())).unwrap();
    }
    let tree = builder.build().unwrap();
    let again = Tree::decode(&tree.encode(), &tree.summary()).unwrap();
    assert_eq!(again.resolve("d999/f99999").map(|id| again.path(id)), Some("d999/f99999".to_owned()));
    assert_eq!(again.summary().files, 100_000);
}
