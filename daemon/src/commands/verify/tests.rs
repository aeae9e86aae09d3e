#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, PlatformLayout, StoredLayout};
use mcpfs_trust::layout::{Extent, Layout};
use mcpfs_trust::site;
use mcpfs_trust::tree::TreeBuilder;

use super::*;
use crate::registry::tests::{Live, key, listed_as};

/// A site of one server with one file, as the signer would write it.
fn published() -> Live {
    let live = Live::new();
    let store = |plain: &[u8]| {
        let stored = zstd::bulk::compress(plain, 3).unwrap();
        let sha256 = Digest::of(&stored);
        live.write(&format!("site/{}", site::object(&sha256)), &stored);
        let (size, plain_size) = (stored.len().try_into().unwrap(), plain.len().try_into().unwrap());
        Chunk { sha256, size, plain_sha256: Digest::of(plain), plain_size }
    };
    let content = b"#!/bin/sh\necho hello\n";
    let mut builder = TreeBuilder::new();
    builder.file("bin/hello", true, content.len() as u64, Digest::of(content)).unwrap();
    let tree = builder.build().unwrap();
    let layout = Layout { chunks: vec![store(content)], contents: vec![Extent { chunk: 0, offset: 0 }] }.encode();
    let stored = PlatformLayout {
        platform: "any".parse().unwrap(),
        tree: vec![store(&tree.encode())],
        layout: StoredLayout { sha256: Digest::of(&layout), size: layout.len() as u64, chunks: vec![store(&layout)] },
        first: vec![],
    };
    let selected = listed_as("hello", "2", tree.summary(), stored, &key(2));
    live.write(&format!("site/{}", site::artefact(&Digest::of(b"2"))), b"2");
    live.publish(&[Entry { selected, earlier: vec![] }], 0);
    live
}

fn check(live: &Live) -> Report {
    let site = live.dir.path().join("site").to_str().unwrap().to_owned();
    verify(&Args { site, trust: Some(live.dir.path().join("trust.json")), full: true }).unwrap()
}

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn a_good_site_is_good() {
    let report = check(&published());
    assert_eq!(report.problems, []);
    assert_eq!((report.exit(), report.head), (Exit::Ok, Some(1)));
    let counts = report.counts;
    assert_eq!((counts.servers, counts.trees, counts.files, counts.chunks, counts.artefacts), (1, 1, 1, 3, 1));
}

#[test]
fn every_altered_file_is_named() {
    let live = published();
    let site = live.dir.path().join("site");
    let mut paths = Vec::new();
    files(&site, &mut paths);
    assert_eq!(paths.len(), 9);
    for path in paths {
        let shown = path.strip_prefix(&site).unwrap().to_str().unwrap().to_owned();
        let good = std::fs::read(&path).unwrap();
        let mut bad = vec![good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat(), Vec::new()];
        for at in (0..good.len()).step_by(97) {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            bad.push(flipped);
        }
        for bytes in bad {
            std::fs::write(&path, bytes).unwrap();
            let report = check(&live);
            assert_eq!(report.exit(), Exit::Integrity, "{shown}: {:?}", report.problems);
            assert!(report.problems.iter().any(|problem| problem.path == shown), "{shown}: {:?}", report.problems);
        }
        std::fs::write(&path, good).unwrap();
    }
    assert_eq!(check(&live).problems, []);
}

#[test]
fn nothing_there() {
    let live = Live::new();
    std::fs::create_dir(live.dir.path().join("site")).unwrap();
    assert_eq!(check(&live).exit(), Exit::Unreachable);
}
