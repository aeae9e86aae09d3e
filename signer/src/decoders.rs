//! The doors by which bytes of strangers come in, one function each: what fuzzing
//! (`signer/fuzz`) and the walk over its committed corpora go through.
//!
//! A decoder may refuse anything. It must not panic, and what it accepts must hold for the next
//! step: entries make a tree that has one encoding, a derived launch can be signed unless a problem
//! says why not, a lock that is written anew reads as the same one.
//!
//! Each says whether it accepted anything: a door that is closed for everything is no strong one.
//!
//! No part of the programs: it is there for tests and for `cargo fuzz` alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::sync::LazyLock;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::tree::Tree;
use serde_json::json;

use crate::bundle::{self, Target};
use crate::check::{self, Findings};
use crate::image::{Config, Document};
use crate::launch::{self, Derived};
use crate::pack;
use crate::policy::Gate;
use crate::recipe::Recipe;
use crate::scratch;
use crate::unpack::{self, Archive, Spool, Unpacked, UnpackedKind, mcpb, oci};

/// What takes the bytes, and says whether anything was accepted.
pub type Decoder = fn(&[u8]) -> bool;

/// All of them, by the names of their fuzz targets and corpora.
pub const ALL: [(&str, Decoder); 11] = [
    ("tar", tar),
    ("zip", zip),
    ("oci_layers", oci_layers),
    ("oci_manifest", oci_manifest),
    ("mcpb_manifest", mcpb_manifest),
    ("recipe", recipe),
    ("policy", policy),
    ("waivers", waivers),
    ("npm_lock", npm_lock),
    ("pypi_lock", pypi_lock),
    ("program", program),
];

/// Where spools and layers lie.
static SCRATCH: LazyLock<tempfile::TempDir> = LazyLock::new(scratch::in_memory);

/// Of a release that needs nothing more than an artefact.
static RECIPE: LazyLock<Recipe> = LazyLock::new(|| {
    let text = format!(
        "name: fuzz\nversion: 1.0.0\nmaintainer: m@example.com\ndescription: none\ndata_classification: public\n\
         reviewed_at: 2026-04-15\nreviewers: [r@example.com]\nartefact: {{url: 'file:x', sha256: {}}}\n",
        Digest::EMPTY
    );
    Recipe::parse(&text, "fuzz.yaml").expect("a good recipe")
});

/// A .tar, plain or packed: as it is, and with the right sum in every header.
pub fn tar(bytes: &[u8]) -> bool {
    archive(bytes) | archive(&with_sums(bytes))
}

/// A .zip; also as a snapshot of advisories is read, in place.
pub fn zip(bytes: &[u8]) -> bool {
    let file = file(bytes);
    let mut read =
        |_: &[u8], _, content: &mut dyn std::io::Read| std::io::copy(content, &mut std::io::sink()).map(drop);
    archive(bytes) | unpack::each_file(&file, &mut read).is_ok()
}

/// The layers of an image: each a length of two bytes, and a tar of that length whose sums are set right.
pub fn oci_layers(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir_in(SCRATCH.path()).expect("a folder");
    let (mut layers, mut rest) = (Vec::new(), bytes);
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (layer, behind) = behind.split_at(usize::from(u16::from_be_bytes(*length)).min(behind.len()));
        layers.push(with_sums(layer));
        rest = behind;
    }
    let put = |kind: &str, bytes: &[u8]| {
        let sha256 = Digest::of(bytes);
        fs::write(folder.path().join(sha256.to_string()), bytes).expect("own folder");
        json!({"mediaType": kind, "digest": format!("sha256:{sha256}"), "size": bytes.len()})
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", Digest::of(layer))).collect();
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/server"]},
                        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let layers: Vec<_> = layers.iter().map(|layer| put("application/vnd.oci.image.layer.v1.tar", layer)).collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
    let Ok(archive) = oci::unpack(file(manifest.as_bytes()), folder.path(), SCRATCH.path()) else { return false };
    let tree = unpacked(&archive);
    let start = archive.image.map(|config| config.start).unwrap_or_default();
    derived(&launch::derive_image(&start, &tree));
    true
}

/// A manifest, an index or an image's config.
pub fn oci_manifest(bytes: &[u8]) -> bool {
    let (document, config) = (Document::parse(bytes), Config::parse(bytes));
    if let Ok(Document::Manifest(manifest)) = &document {
        let parts = manifest.parts();
        assert!(parts.contains(&manifest.config) && manifest.layers.iter().all(|layer| parts.contains(layer)));
    }
    if let Ok(config) = &config {
        let _ = launch::unmet(&config.start);
        let tree = pack::tree(&[]).expect("a tree of nothing");
        derived(&launch::derive_image(&config.start, &tree));
    }
    document.is_ok() || config.is_ok()
}

/// The `manifest.json` of an .mcpb that has one other file.
pub fn mcpb_manifest(bytes: &[u8]) -> bool {
    let mut spool = Spool::new(SCRATCH.path()).expect("a spool");
    let mut entries = Vec::new();
    for (path, content) in [("manifest.json", bytes), ("server", b"#!/bin/sh\n")] {
        let (sha256, size) = spool.add(content).expect("a spool").expect("a slice");
        let kind = UnpackedKind::File { executable: false, size, sha256 };
        entries.push(Unpacked { path: path.to_owned(), kind });
    }
    let mut archive =
        Archive { entries, spool, remarks: Vec::new(), format: "zip", manifest: None, parts: Vec::new(), image: None };
    let Some(Ok(manifest)) = mcpb::read(&mut archive) else { return false };
    derived(&launch::derive(&manifest));
    true
}

/// A recipe, and what would be signed of it.
pub fn recipe(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(recipe) = Recipe::parse(text, "fuzz.yaml") else { return false };
    let _ = recipe.draft(&"demo/fuzz".parse().expect("a name"));
    assert!((0..recipe.artefact.len()).all(|index| recipe.place(&recipe.artefact_field(index)).line > 0));
    true
}

/// `policy.yaml`, applied.
pub fn policy(bytes: &[u8]) -> bool {
    gate(bytes, |text| Gate::from_texts(Some(text), None))
}

/// `waivers.yaml`, applied.
pub fn waivers(bytes: &[u8]) -> bool {
    gate(bytes, |text| Gate::from_texts(None, Some(text)))
}

/// A `package-lock.json`, as a bundle is made by and as one that an artefact carries.
pub fn npm_lock(bytes: &[u8]) -> bool {
    let found = carried(&[("a/node_modules/.package-lock.json", bytes), ("package-lock.json", bytes)]);
    let Ok(text) = std::str::from_utf8(bytes) else { return found };
    let mut taken = found;
    for platform in ["any", "linux/arm64"] {
        let target = Target::of(&platform.parse().expect("a platform")).expect("a target");
        if let Ok(anew) = bundle::npm::lock_anew(text, "a@1.0.0", &target) {
            assert_eq!(bundle::npm::lock_anew(&anew, "a@1.0.0", &target).as_ref(), Ok(&anew));
            taken = true;
        }
    }
    taken
}

/// A `requirements.txt` with hashes, and the other lists of Python and Rust that an artefact carries.
pub fn pypi_lock(bytes: &[u8]) -> bool {
    let found = carried(&[("a.dist-info/METADATA", bytes), ("uv.lock", bytes), ("Cargo.lock", bytes)]);
    let Ok(text) = std::str::from_utf8(bytes) else { return found };
    let Ok(anew) = bundle::pypi::lock_anew(text, "a==1.0.0") else { return found };
    assert_eq!(bundle::pypi::lock_anew(&anew, "a==1.0.0").as_ref(), Ok(&anew));
    true
}

/// A program: what it says it was built from (Rust, Go), and what it can do.
pub fn program(bytes: &[u8]) -> bool {
    carried(&[("server", bytes)])
}

fn archive(bytes: &[u8]) -> bool {
    let Ok(archive) = unpack::unpack(file(bytes), SCRATCH.path()) else { return false };
    unpacked(&archive);
    true
}

/// Entries that were accepted are a tree's or are refused as one, and a tree has one encoding.
fn unpacked(archive: &Archive) -> Tree {
    let Ok(tree) = pack::tree(&archive.entries) else { return pack::tree(&[]).expect("a tree of nothing") };
    let bytes = tree.encode();
    assert_eq!(Tree::decode(&bytes, &tree.summary()).as_ref(), Ok(&tree));
    check::carried(&RECIPE, "artefact", (&tree, &archive.spool), None, &mut Findings::new());
    tree
}

/// The rules about what an artefact with these files carries; whether packages were found.
fn carried(files: &[(&str, &[u8])]) -> bool {
    let mut spool = Spool::new(SCRATCH.path()).expect("a spool");
    let mut entries = Vec::new();
    for (path, content) in files {
        let (sha256, size) = spool.add(*content).expect("a spool").expect("a slice");
        let kind = UnpackedKind::File { executable: true, size, sha256 };
        entries.push(Unpacked { path: (*path).to_owned(), kind });
    }
    let tree = pack::tree(&entries).expect("good names");
    let carried = check::carried(&RECIPE, "artefact", (&tree, &spool), None, &mut Findings::new());
    for package in &carried.inventory.packages {
        assert!(package.id().len() < 4096, "{}", package.id());
    }
    !carried.inventory.packages.is_empty()
}

fn derived(derived: &Derived) {
    if let Some(launch) = derived.launch.as_ref().filter(|_| derived.problems.is_empty()) {
        assert_eq!(launch.validate(), Ok(()));
    }
}

fn gate(bytes: &[u8], read: impl Fn(String) -> Result<Gate, crate::recipe::RecipeErrors>) -> bool {
    let Ok(text) = String::from_utf8(bytes.to_vec()) else { return false };
    match read(text) {
        Ok(gate) => {
            let now = RECIPE.reviewed_at.start();
            let mut findings = Findings::new();
            gate.check(&RECIPE, now, &[], &mut findings);
            gate.settle(&RECIPE, now, &mut findings);
            true
        }
        Err(errors) => {
            assert!(errors.problems.iter().all(|problem| problem.at.line > 0));
            false
        }
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile_in(SCRATCH.path()).expect("own folder");
    file.write_all(bytes).and_then(|()| file.rewind()).expect("own file");
    file
}

/// A mutation hardly ever hits the sum of a header, so what looks like one gets its sum.
fn with_sums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}
