#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

/// Bytes that look random and are the same everywhere.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bytes = vec![0; len.next_multiple_of(8)];
    for eight in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        eight.copy_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

type Files = BTreeMap<String, Vec<u8>>;

struct Made {
    tree: Tree,
    packed: Packed,
    /// Plain bytes of every chunk that was put, by digest.
    plain: HashMap<Digest, Vec<u8>>,
    put: usize,
}

/// Spools and packs `files` without compressing them.
fn make(files: &Files) -> Made {
    let mut spool = Spool::new(&std::env::temp_dir()).unwrap();
    let entries: Vec<Unpacked> = files
        .iter()
        .map(|(path, content)| {
            let (sha256, size) = spool.add(content.as_slice()).unwrap().unwrap();
            let kind = UnpackedKind::File { executable: path.starts_with("bin/"), size, sha256 };
            Unpacked { path: path.clone(), kind }
        })
        .collect();
    let tree = tree(&entries).unwrap();
    let (mut plain, mut count) = (HashMap::new(), 0);
    let mut put = |bytes: &[u8]| {
        count += 1;
        let sha256 = Digest::of(bytes);
        plain.insert(sha256, bytes.to_vec());
        let size = u32::try_from(bytes.len()).unwrap();
        Ok(Chunk { sha256, size, plain_sha256: sha256, plain_size: size })
    };
    let packed = pack(&Platform::any(), &tree, &spool, None, &mut put).unwrap();
    Made { tree, packed, plain, put: count }
}

/// Every file's bytes, put together again as a host does.
fn unmake(made: &Made) -> Files {
    let bytes = |chunks: &[Chunk]| -> Vec<u8> {
        chunks.iter().map(|chunk| made.plain[&chunk.plain_sha256].as_slice()).collect::<Vec<_>>().concat()
    };
    let listed = &made.packed.listed;
    let tree = Tree::decode(&bytes(&listed.tree), &made.tree.summary()).unwrap();
    let encoded = bytes(&listed.layout.chunks);
    assert_eq!((Digest::of(&encoded), encoded.len() as u64), (listed.layout.sha256, listed.layout.size));
    let layout = Layout::decode(&encoded, &tree).unwrap();
    let mut files = Files::new();
    for id in (0..tree.len()).map(NodeId) {
        let Some(Kind::File { size, sha256, content, .. }) = tree.node(id).map(|node| node.kind) else { continue };
        let content = match content {
            None => Vec::new(),
            Some(content) => {
                let extent = layout.contents[content as usize];
                let span = layout.span(extent, size).unwrap();
                let all = bytes(&layout.chunks[span]);
                all[extent.offset as usize..extent.offset as usize + size as usize].to_vec()
            }
        };
        assert_eq!(Digest::of(&content), sha256);
        files.insert(tree.path(id), content);
    }
    files
}

/// A release of many small files, some large ones, twins and an empty one.
fn sample() -> Files {
    let mut files = Files::new();
    for index in 0..400_u64 {
        files.insert(format!("lib/m{}/f{index}.js", index % 7), noise(index, 200 + (index as usize * 977) % 9_000));
    }
    files.insert("bin/server".to_owned(), noise(1000, 5 << 20));
    files.insert("lib/exactly".to_owned(), noise(1001, LARGE_BYTES as usize));
    files.insert("lib/large".to_owned(), noise(1002, LARGE_BYTES as usize + 1));
    files.insert("lib/twin".to_owned(), files["bin/server"].clone());
    files.insert("empty".to_owned(), Vec::new());
    files
}

#[test]
fn what_is_packed_comes_back() {
    let files = sample();
    let made = make(&files);
    assert_eq!(unmake(&made), files);
}

#[test]
fn the_rule_of_cutting_holds() {
    let made = make(&sample());
    let layout = &made.packed.layout;
    let mut ends = Vec::new();
    for (index, extent) in layout.contents.iter().enumerate() {
        let (size, sha256) = made.tree.content(index as u32).unwrap();
        let span = layout.span(*extent, size).unwrap();
        if size > LARGE_BYTES {
            assert_eq!(extent.offset, 0);
            for chunk in &layout.chunks[span.start..span.end - 1] {
                assert!((LARGE_CUT.0..=LARGE_CUT.2).contains(&(chunk.plain_size as usize)));
            }
        } else {
            assert_eq!(span.len(), 1, "a small content is split");
            let end = extent.offset as usize + size as usize;
            let last = end == layout.chunks[span.start].plain_size as usize;
            let next_large = made.tree.content(index as u32 + 1).is_none_or(|(size, _)| size > LARGE_BYTES);
            // A group ends where the rule says, and nowhere else.
            if end >= GROUP_LEAST && ends_group(&sha256) {
                assert!(last);
                ends.push(end);
            } else if last {
                let next = made.tree.content(index as u32 + 1).map_or(0, |(size, _)| size);
                assert!(next_large || end as u64 + next > GROUP_MOST as u64);
            }
        }
    }
    assert!(!ends.is_empty(), "the sample never meets the content-defined rule");
    assert!(layout.chunks.iter().all(|chunk| chunk.plain_size as usize <= GROUP_MOST));
}

/// The digests that every build on every machine must give. A change here is a change of format.
#[test]
fn frozen() {
    let made = make(&sample());
    let mut plain = String::new();
    for chunk in &made.packed.layout.chunks {
        plain.push_str(&format!("{} {}\n", chunk.plain_sha256, chunk.plain_size));
    }
    let found = format!(
        "tree {}\nchunks {} {}\n",
        made.tree.summary().sha256,
        made.packed.layout.chunks.len(),
        Digest::of(plain.as_bytes())
    );
    assert_eq!(found, include_str!("../../testdata/pack.frozen"), "{found}");
}

#[test]
fn a_change_moves_only_what_is_near_it() {
    let before = make(&sample());
    let mut files = sample();
    files.insert("a-new-file-in-front.js".to_owned(), noise(5000, 3000));
    let large = files.get_mut("bin/server").unwrap();
    large.splice(1000..1000, noise(5001, 100));
    files.remove("lib/twin");
    let after = make(&files);
    let known: std::collections::HashSet<Digest> =
        before.packed.layout.chunks.iter().map(|chunk| chunk.plain_sha256).collect();
    let new: u64 = after
        .packed
        .layout
        .chunks
        .iter()
        .filter(|chunk| !known.contains(&chunk.plain_sha256))
        .map(|chunk| u64::from(chunk.plain_size))
        .sum();
    let all = after.tree.summary().bytes;
    assert!(new * 2 < all, "{new} of {all} bytes are new");
}

#[test]
fn a_launch_wants_its_command_first() {
    let mut files = Files::new();
    for index in 0..=limits::FIRST_CHUNKS as u64 {
        files.insert(format!("data/{index:03}"), noise(index, LARGE_BYTES as usize + 1 + index as usize));
    }
    files.insert("zz/server".to_owned(), noise(999, 3 << 20));
    let made = make(&files);
    assert!(made.packed.layout.chunks.len() > limits::FIRST_CHUNKS);
    let launch: Launch = serde_json::from_str(r#"{"command":"zz/server"}"#).unwrap();
    let wanted = first(&made.tree, &made.packed.layout, Some(&launch));
    assert_eq!(wanted.len(), limits::FIRST_CHUNKS);
    let id = made.tree.resolve("zz/server").unwrap();
    let span = chunks_of(&made.tree, &made.packed.layout, id).unwrap();
    assert_eq!(wanted[..span.len()], made.packed.layout.chunks[span]);
    // Small releases are wanted whole, each chunk once.
    let made = make(&sample());
    let mut distinct: Vec<Digest> = made.packed.layout.chunks.iter().map(|chunk| chunk.sha256).collect();
    distinct.dedup();
    assert_eq!(made.packed.listed.first.len(), distinct.len());
}

#[test]
fn stored_chunks_decode_and_published_ones_are_reused() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = ChunkStore::new(folder.path(), ChunkStore::LEVEL, KnownChunks::none());
    let plain = b"let x = 1;\n".repeat(1000);
    let chunk = store.put(&plain).unwrap();
    assert_eq!(store.put(&plain).unwrap(), chunk);
    let stored = std::fs::read(folder.path().join(chunk.sha256.to_string())).unwrap();
    assert_eq!(stored.len(), chunk.size as usize);
    assert_eq!(chunk.decode(&stored).unwrap(), plain);
    // Frame header descriptor: single segment or content size present, no checksum, no dictionary.
    assert_eq!(stored[4] & 0b0000_0111, 0, "a checksum or a dictionary");
    assert!(stored[4] >> 5 != 0, "no content size");
    let largest = noise(7, GROUP_MOST);
    let chunk = store.put(&largest).unwrap();
    chunk.check().unwrap();
    // Published under other stored bytes: taken as they are, nothing is written.
    let published = Chunk { sha256: Digest::of(b"other"), size: 9, ..chunk };
    let empty = tempfile::tempdir().unwrap();
    let mut store = ChunkStore::new(empty.path(), 1, [published].into_iter().collect());
    assert_eq!(store.put(&largest).unwrap(), published);
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}

/// The coarse cut is for what the fine one cannot list, and for nothing else.
#[test]
fn metadata_of_any_allowed_size_is_listed() {
    let chunk = |plain: &[u8]| {
        let digest = Digest::of(&(plain.len() as u64).to_le_bytes());
        Ok(Chunk { sha256: digest, size: 1, plain_sha256: digest, plain_size: plain.len() as u32 })
    };
    let cut = |bytes: &[u8]| metadata("the tree", bytes, &mut |plain| chunk(plain)).unwrap();
    let bytes = noise(3, 72 << 20);
    let average =
        |chunks: &[Chunk]| chunks.iter().map(|one| u64::from(one.plain_size)).sum::<u64>() / chunks.len() as u64;
    let (fine, coarse) = (cut(&bytes[..20 << 20]), cut(&bytes));
    assert!(average(&fine) < 128 << 10, "{}", average(&fine));
    assert!(average(&coarse) > 512 << 10, "{}", average(&coarse));
    assert_eq!(coarse.iter().map(|one| one.plain_size as usize).sum::<usize>(), bytes.len());
    assert!(coarse.iter().all(|one| u64::from(one.plain_size) <= limits::CHUNK_PLAIN_BYTES));
    // The largest tree there may be, at this average.
    assert!(limits::TREE_BYTES / average(&coarse) < limits::LISTED_CHUNKS as u64);
}

/// The cut of docs/format.md section 11, frozen: a second implementation must find these pieces,
/// and another version of the library that cuts may not move them.
#[test]
fn pieces_are_frozen() {
    let pieces = |bytes: &[u8], (min, avg, max)| {
        FastCDC::new(bytes, min, avg, max).map(|piece| piece.length).collect::<Vec<_>>()
    };
    let bytes = noise(3, (6 << 20) + 1);
    assert_eq!(pieces(&bytes, LARGE_CUT), [873_388, 1_173_834, 292_907, 1_996_209, 1_955_119]);
    assert_eq!(
        pieces(&bytes[..600_001], METADATA_CUT),
        [132_528, 82_574, 38_643, 22_191, 104_049, 111_913, 107_381, 722]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn any_files_come_back(
        sizes in prop::collection::vec((0_u64..12, 0_usize..300_000, 0_u8..12), 1..40),
        large in prop::collection::vec(0_usize..3_000_000, 0..2),
    ) {
        let mut files = Files::new();
        for (index, (seed, size, folder)) in sizes.iter().enumerate() {
            files.insert(format!("d{folder}/f{index}"), noise(*seed, *size));
        }
        for (index, size) in large.iter().enumerate() {
            files.insert(format!("large{index}"), noise(77, *size));
        }
        let made = make(&files);
        prop_assert_eq!(unmake(&made), files);
        prop_assert!(made.put >= made.plain.len());
    }
}
