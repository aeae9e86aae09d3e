//! Images built byte by byte: how layers cover each other, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::tests::listing;
use super::super::tests::tars::{directory, entry, file, gzip, link, tar};
use super::*;
use crate::pack;
use crate::unpack::{Remark, UnpackedKind};

/// An image in a folder of its own, one file for each part.
pub(crate) struct Image {
    folder: tempfile::TempDir,
    layers: Vec<(Vec<u8>, Vec<u8>)>,
    start: Value,
}

fn hard_link(name: &str, target: &str) -> Vec<u8> {
    entry(b'1', name.as_bytes(), target.as_bytes(), 0o644, b"")
}

fn program(name: &str) -> Vec<u8> {
    entry(b'0', name.as_bytes(), b"", 0o755, b"#!/bin/sh\n")
}

impl Image {
    fn new() -> Self {
        Self { folder: crate::scratch::in_memory(), layers: Vec::new(), start: json!({"Cmd": ["/bin/server"]}) }
    }

    fn of(layers: &[&[Vec<u8>]]) -> Self {
        layers.iter().fold(Self::new(), |image, layer| image.layer(layer))
    }

    fn layer(self, entries: &[Vec<u8>]) -> Self {
        let plain = tar(entries);
        self.stored(plain.clone(), plain)
    }

    fn stored(mut self, plain: Vec<u8>, stored: Vec<u8>) -> Self {
        self.layers.push((plain, stored));
        self
    }

    fn put(&self, bytes: &[u8]) -> Value {
        let sha256 = Digest::of(bytes);
        fs::write(self.folder.path().join(sha256.to_string()), bytes).unwrap();
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{sha256}"), "size": bytes.len()})
    }

    /// The manifest, changed by `edit`, and all parts.
    fn write(&self, edit: impl Fn(&mut Value)) -> std::path::PathBuf {
        let diff_ids: Vec<String> =
            self.layers.iter().map(|(plain, _)| format!("sha256:{}", Digest::of(plain))).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": self.start,
                            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let mut config = self.put(config.to_string().as_bytes());
        config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
        let layers: Vec<Value> = self.layers.iter().map(|(_, stored)| self.put(stored)).collect();
        let mut manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        edit(&mut manifest);
        let path = self.folder.path().join("manifest");
        fs::write(&path, manifest.to_string()).unwrap();
        path
    }

    fn unpack(&self) -> Result<Archive, UnpackError> {
        let mut manifest = File::open(self.write(|_| ())).unwrap();
        // Whoever hands it over has read it, to hash it.
        io::copy(&mut manifest, &mut io::sink()).unwrap();
        unpack(manifest, self.folder.path(), self.folder.path())
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

/// Layers, and all that they make together but for directories.
fn makes(layers: &[&[Vec<u8>]], want: &[(&str, &str)]) {
    let archive = Image::of(layers).unpack().unwrap_or_else(|error| panic!("{}", chain(&error)));
    let found: Vec<(String, String)> = listing(&archive).into_iter().filter(|(_, kind)| kind != "d").collect();
    let want: Vec<(String, String)> = want.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(found, want);
    pack::tree(&archive.entries).unwrap();
}

fn refused(layers: &[&[Vec<u8>]], words: &str) {
    match Image::of(layers).unpack() {
        Ok(archive) => panic!("taken: {:?}", listing(&archive)),
        Err(error) => assert!(chain(&error).contains(words), "{} says nothing of {words}", chain(&error)),
    }
}

#[test]
fn later_layers_cover_earlier_ones() {
    makes(
        &[&[file("a", "1"), file("d/b", "1")], &[file("d/b", "2"), file("c", "2")]],
        &[("a", "f644:1"), ("c", "f644:2"), ("d/b", "f644:2")],
    );
    // A file for a directory with all in it, a directory for a file, a link for either.
    makes(
        &[&[file("d/x", "1"), file("f", "1")], &[file("d", "2"), directory("f/"), file("f/y", "2")]],
        &[("d", "f644:2"), ("f/y", "f644:2")],
    );
    makes(&[&[file("d/x", "1"), file("t", "t")], &[link("d", "t")]], &[("d", "l:t"), ("t", "f644:t")]);
    makes(
        &[&[link("d", "e"), file("e/x", "1")], &[directory("d/"), file("d/y", "2")]],
        &[("d/y", "f644:2"), ("e/x", "f644:1")],
    );
    // A directory is merged.
    makes(&[&[file("d/x", "1")], &[directory("d/"), file("d/y", "2")]], &[("d/x", "f644:1"), ("d/y", "f644:2")]);
    // A layer with nothing in it.
    makes(&[&[file("a", "1")], &[]], &[("a", "f644:1")]);
}

#[test]
fn whiteouts_hide_what_is_below() {
    makes(
        &[&[file("a", "1"), file("d/b", "1"), file("d/c", "1")], &[file(".wh.a", ""), file("d/.wh.b", "")]],
        &[("d/c", "f644:1")],
    );
    makes(&[&[file("d/b", "1"), file("k", "1")], &[file(".wh.d", "")]], &[("k", "f644:1")]);
    // Wherever it stands, it is about lower layers only.
    makes(&[&[file("a", "1")], &[file("a", "2"), file(".wh.a", "")]], &[("a", "f644:2")]);
    makes(&[&[file("d/x", "1")], &[file("d/y", "2"), file("d/.wh..wh..opq", "")]], &[("d/y", "f644:2")]);
    makes(
        &[&[file("d/e/x", "1"), file("z", "1")], &[file("d/.wh..wh..opq", ""), file("d/e/y", "2")]],
        &[("d/e/y", "f644:2"), ("z", "f644:1")],
    );
    makes(&[&[file("x", "1")], &[file(".wh..wh..opq", ""), file("y", "2")]], &[("y", "f644:2")]);
    // What is not there can be hidden; what was hidden can come again.
    makes(
        &[&[file("a", "1")], &[file(".wh.b", ""), file("n/o/.wh.p", ""), file("n/.wh..wh..opq", "")]],
        &[("a", "f644:1")],
    );
    makes(
        &[&[file("a", "1"), file("k", "")], &[file(".wh.a", "")], &[file("a", "3")]],
        &[("a", "f644:3"), ("k", "f644:")],
    );
    for (name, words) in [
        (".wh.", "has no name"),
        (".wh..", "has no name"),
        (".wh...", "has no name"),
        ("d/.wh..wh.plnk", "has no name"),
        (".wh.d/x", "only a whiteout"),
        (".wh.a/.wh.b", "only a whiteout"),
    ] {
        refused(&[&[file("a", "1")], &[file(name, "")]], words);
    }
    refused(&[&[file("a", "1")], &[file(".wh.a", "content")]], "whiteout with content");
    refused(&[&[file("a", "1")], &[directory(".wh.a/")]], "only a whiteout");
    refused(&[&[file("a", "1")], &[link(".wh.a", "a")]], "only a whiteout");
    refused(&[&[file("a", "1")], &[hard_link(".wh.a", "a")]], "only a whiteout");
    // Below what the layer itself replaces, as umoci writes it, and below what is no directory.
    makes(&[&[file("b/x/y", "1")], &[file("b", "2"), file("b/.wh.x", "")]], &[("b", "f644:2")]);
    makes(
        &[&[file("b", "1"), link("l", "no")], &[file("b/.wh.x", ""), file("l/.wh.x", "")]],
        &[("b", "f644:1"), ("l", "l:no")],
    );
    refused(&[&[file("a", "1")], &[file(".wh.a", "")]], "empty");
}

#[test]
fn hard_links_reach_into_lower_layers() {
    makes(&[&[program("a")], &[hard_link("d/b", "a")]], &[("a", "f755:#!/bin/sh\n"), ("d/b", "f755:#!/bin/sh\n")]);
    makes(&[&[file("a", "1")], &[file("a", "2"), hard_link("b", "a")]], &[("a", "f644:2"), ("b", "f644:2")]);
    makes(
        &[&[file("a", "1"), hard_link("b", "a"), hard_link("c", "b")]],
        &[("a", "f644:1"), ("b", "f644:1"), ("c", "f644:1")],
    );
    // The name that is left keeps the content.
    makes(&[&[file("a", "1"), hard_link("b", "a")], &[file(".wh.a", "")]], &[("b", "f644:1")]);
    // Of a link, and through one.
    makes(&[&[link("l", "t"), file("t", "1")], &[hard_link("m", "l")]], &[("l", "l:t"), ("m", "l:t"), ("t", "f644:1")]);
    makes(
        &[&[link("bin", "usr/bin"), file("usr/bin/x", "1")], &[hard_link("y", "bin/x")]],
        &[("bin", "l:usr/bin"), ("usr/bin/x", "f644:1"), ("y", "f644:1")],
    );
    refused(&[&[file("a", "1")], &[hard_link("b", "c")]], "not there");
    refused(&[&[file("a", "1")], &[file(".wh.a", ""), hard_link("b", "a")]], "not there");
    refused(&[&[file("d/a", "1")], &[hard_link("b", "d")]], "to a directory");
    refused(&[&[file("a", "1")], &[hard_link("b", "../a")]], "climbs");
    refused(&[&[file("a", "1")], &[hard_link("b", "/a")]], "absolute");
    refused(&[&[file("a", "1")], &[hard_link("b", ".")]], "to the root");
    refused(&[&[file("a", "1")], &[hard_link("b", "a"), file("a", "2")]], "stands behind it");
}

#[test]
fn lower_links_are_followed_inside_the_image() {
    let base: &[Vec<u8>] =
        &[link("bin", "usr/bin"), link("abs", "/usr/bin"), link("up", "../../usr/bin"), file("usr/bin/a", "1")];
    let links = [("abs", "l:usr/bin"), ("bin", "l:usr/bin"), ("up", "l:usr/bin")];
    for name in ["bin/b", "abs/b", "up/b"] {
        makes(
            &[base, &[file(name, "2")]],
            &[links.as_slice(), &[("usr/bin/a", "f644:1"), ("usr/bin/b", "f644:2")]].concat(),
        );
    }
    makes(
        &[base, &[file("bin/.wh.a", ""), file("bin/b", "2")]],
        &[links.as_slice(), &[("usr/bin/b", "f644:2")]].concat(),
    );
    makes(
        &[base, &[file("abs/.wh..wh..opq", ""), file("bin/b", "2")]],
        &[links.as_slice(), &[("usr/bin/b", "f644:2")]].concat(),
    );
    // The layer's own directory takes the link's place, and nothing behind the link is touched.
    makes(
        &[base, &[directory("bin/"), file("bin/.wh.a", ""), file("bin/.wh..wh..opq", "")]],
        &[("abs", "l:usr/bin"), ("up", "l:usr/bin"), ("usr/bin/a", "f644:1")],
    );
    refused(&[base, &[file("bin/a", "2"), file("usr/bin/a", "3")]], "meets another entry");
    refused(&[base, &[file("bin/x", "2"), file("usr/bin", "3")]], "meets another entry");
    refused(&[base, &[file("abs/x", "2"), link("usr", "other")]], "meets another entry");
    refused(&[&[link("l", "nowhere"), file("a", "")], &[file("l/x", "1")]], "leads nowhere");
    refused(&[&[link("l", "a"), file("a", "")], &[file("l/x", "1")]], "below a file");
    refused(&[&[link("l", "m"), link("m", "l"), file("a", "")], &[file("l/x", "1")]], "loop of links");
    refused(&[&[file("a", "")], &[file("a/x", "1")]], "below a file");
    refused(
        &[&[link("l", "d"), file("d/x", "1")], &[link("d", "e"), file("l/y", "2")]],
        "below a link of its own layer",
    );
}

#[test]
fn one_layer_is_as_strict_as_a_tar() {
    refused(&[&[file("a", "1"), file("a", "2")]], "twice");
    refused(&[&[link("l", "d"), file("l/x", "1")]], "below a link");
    refused(&[&[file("../x", "1")]], "climbs");
    refused(&[&[file("/x", "1")]], "absolute");
    refused(&[&[file("d/x", "1"), file("d", "2")]], "twice");
    refused(&[&[entry(b'S', b"x", b"", 0o644, b"")]], "sparse");
}

#[test]
fn links_never_leave() {
    makes(
        &[&[
            link("etc/localtime", "/usr/zone"),
            link("a/b/c", "../../../../x"),
            link("r", ".."),
            link("a/root", "/"),
            file("x", "1"),
        ]],
        &[
            ("a/b/c", "l:../../x"),
            ("a/root", "l:../"),
            ("etc/localtime", "l:../usr/zone"),
            ("r", "l:."),
            ("x", "f644:1"),
        ],
    );
    // What only climbs behind a name is not counted, and so refused by the tree.
    let archive = Image::of(&[&[link("l", "d/../../x"), file("d/x", "1")]]).unpack().unwrap();
    assert!(pack::tree(&archive.entries).is_err());
}

#[test]
fn devices_are_left_out_and_told() {
    let null = entry(b'3', b"dev/null", b"", 0o666, b"");
    let archive =
        Image::of(&[&[null.clone(), entry(b'6', b"pipe", b"", 0o644, b""), file("a", "1")]]).unpack().unwrap();
    assert_eq!(
        archive.remarks,
        [Remark::Device { path: "dev/null".to_owned() }, Remark::Device { path: "pipe".to_owned() }]
    );
    // As a device would, it hides what is below it.
    makes(&[&[file("dev/null", "1"), file("a", "")], &[null]], &[("a", "f644:")]);
}

#[test]
fn what_a_later_layer_replaces_is_not_told() {
    let su = |mode| entry(b'0', b"bin/su", b"", mode, b"x");
    let archive = Image::of(&[&[su(0o4755), file("a", "")], &[file("bin/.wh.su", "")]]).unpack().unwrap();
    assert_eq!(archive.remarks, []);
    assert_eq!(Image::of(&[&[su(0o4755)]]).unpack().unwrap().remarks.len(), 1);
}

#[test]
fn parts_must_be_what_the_manifest_says() {
    let layers: &[Vec<u8>] = &[file("a", "1")];
    let plain = tar(layers);
    let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
    let image = Image::new()
        .stored(plain.clone(), gzip(&plain))
        .stored(plain.clone(), zstd)
        .stored(plain.clone(), plain.clone());
    let archive = image.unpack().unwrap();
    assert_eq!((archive.format, archive.parts.len()), ("image", 4));
    assert_eq!(archive.image.unwrap().platform, "linux/amd64");

    type Edit = fn(&mut Value);
    let edits: [(Edit, &str); 4] = [
        (|v| v["layers"][0]["size"] = json!(1), "other bytes lie there"),
        (|v| v["layers"][0]["digest"] = json!(format!("sha256:{}", "ab".repeat(32))), "No such file"),
        (|v| drop(v["layers"].as_array_mut().unwrap().pop()), "speaks of 3 layers"),
        (|v| v["schemaVersion"] = json!(1), "its manifest is refused"),
    ];
    for (edit, words) in edits {
        let manifest = image.write(edit);
        let error = unpack(File::open(manifest).unwrap(), image.folder.path(), image.folder.path()).unwrap_err();
        assert!(chain(&error).contains(words), "{} says nothing of {words}", chain(&error));
    }
    // A layer that is another one uncompressed.
    let other = Image::new().stored(tar(&[file("b", "2")]), gzip(&plain));
    assert!(chain(&other.unpack().unwrap_err()).contains("the config says"));
    // Flipped in the folder, as by somebody who can write to staging.
    let manifest = image.write(|_| ());
    let layer = image.folder.path().join(Digest::of(&plain).to_string());
    let mut bytes = fs::read(&layer).unwrap();
    bytes[600] ^= 1;
    fs::write(&layer, bytes).unwrap();
    assert!(unpack(File::open(manifest).unwrap(), image.folder.path(), image.folder.path()).is_err());
}

#[test]
fn bombs_end() {
    let zeros = tar(&[entry(b'0', b"zeros", b"", 0o644, &vec![0; 40 << 20])]);
    let on_disk = Image { folder: tempfile::tempdir().unwrap(), ..Image::new() };
    // Each layer alone would be allowed; the budget is one for all.
    let image = (0..3).fold(on_disk, |image, _| image.stored(zeros.clone(), gzip(&zeros)));
    assert!(chain(&image.unpack().unwrap_err()).contains("decompression bomb"));
    // Deep only behind a link.
    let long = "d/".repeat(40);
    refused(&[&[file(&format!("{long}x"), ""), link("l", &long)], &[file(&format!("l/{long}y"), "")]], "too deep");
}

#[test]
fn an_artifact_is_the_archive_in_it() {
    let image = Image::of(&[&[file("a", "1")]]);
    let manifest = image.write(|manifest| manifest["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json"));
    let archive = unpack(File::open(manifest).unwrap(), image.folder.path(), image.folder.path()).unwrap();
    assert_eq!((archive.format, archive.entries.len(), archive.parts.len()), ("tar", 1, 2));
    assert!(archive.image.is_none());
}

/// The tree of one image, for ever: layers of each kind, whiteouts, links and replaced entries.
#[test]
fn the_tree_of_an_image_is_frozen() {
    let base = [
        directory("usr/"),
        directory("usr/bin/"),
        program("usr/bin/server"),
        link("bin", "usr/bin"),
        file("etc/old", "old"),
        file("etc/conf", "1"),
        file("var/cache/x", "x"),
        entry(b'0', b"usr/bin/su", b"", 0o4755, b"su"),
    ];
    let middle = [
        file("etc/.wh.old", ""),
        file("var/cache/.wh..wh..opq", ""),
        file("var/cache/y", "y"),
        hard_link("usr/bin/s2", "usr/bin/server"),
    ];
    let top = [
        file("bin/tool", "tool"),
        file("etc/conf", "2"),
        link("etc/mtab", "/proc/mounts"),
        entry(b'3', b"dev/null", b"", 0o666, b""),
    ];
    let middle_tar = tar(&middle);
    let image = Image::new().layer(&base).stored(middle_tar.clone(), gzip(&middle_tar)).layer(&top);
    let archive = image.unpack().unwrap();
    let links: Vec<&UnpackedKind> = archive
        .entries
        .iter()
        .map(|entry| &entry.kind)
        .filter(|kind| matches!(kind, UnpackedKind::Link { .. }))
        .collect();
    assert_eq!(links.len(), 2);
    let tree = pack::tree(&archive.entries).unwrap();
    assert_eq!(tree.summary().sha256.to_string(), "e4cfdbe48dc22333d09baed96ff15062d680633208fc28f112cdba17f544dfe8");
}

fn any_entry() -> impl Strategy<Value = Vec<u8>> {
    let name = || prop::sample::select(vec!["a", "b", "l", ".wh.a", ".wh.l", ".wh..wh..opq", "..", "."]);
    let path = prop::collection::vec(name(), 1..4).prop_map(|parts| parts.join("/"));
    let target = prop::sample::select(vec!["a", "b", "l", "..", "../a", "/", "/a/b", "../../l", "a/../..", "l/l"]);
    (path, target, 0..6_u8).prop_map(|(path, target, kind)| match kind {
        0 => directory(&format!("{path}/")),
        1 => link(&path, target),
        2 => hard_link(&path, target),
        3 => entry(b'3', path.as_bytes(), b"", 0o666, b""),
        _ => file(&path, if path.contains(".wh.") { "" } else { target }),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    /// Whatever layers say: no panic, and a tree that is taken has names of its own in it only.
    #[test]
    fn no_layer_escapes(layers in prop::collection::vec(prop::collection::vec(any_entry(), 0..8), 1..5)) {
        let borrowed: Vec<&[Vec<u8>]> = layers.iter().map(Vec::as_slice).collect();
        if let Ok(archive) = Image::of(&borrowed).unpack() {
            let mut seen = std::collections::HashSet::new();
            for entry in &archive.entries {
                prop_assert!(entry.path.split('/').all(|part| !part.is_empty() && part != ".." && part != "." && !part.starts_with(".wh.")));
                prop_assert!(seen.insert(entry.path.clone()), "{} twice", entry.path);
            }
            // It may have links that loop; then there is no tree, but no panic either.
            if let Ok(tree) = pack::tree(&archive.entries) {
                prop_assert_eq!(tree.len() as usize, archive.entries.len() + 1);
            }
        }
    }
}
