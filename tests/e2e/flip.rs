//! Every byte: no change to the site is ever taken for something else.
//!
//! Head, catalogue, bins and entries go through the verification that the daemon uses,
//! byte by byte, five ways of damage each; objects likewise at every 97th byte. The damage
//! must have no effect (the same content verifies) or give an error. Whether the real
//! `mcpfs verify` says so too is asked at every 97th byte of everything a host reads. The
//! site has small objects of every kind, so that no byte has to be left out for time's sake.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::registry::{Registry, SiteCopy};
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use mcpfs_trust::name::ServerName;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::{self, Seen};

use crate::boundary::SITE;

pub(crate) fn register(suite: &mut Suite) {
    suite.attack(
        Attack::new(
            SITE,
            "flip::metadata_byte_by_byte",
            "each byte of head, catalogue, bin and entry changed, through the verifier",
            &["nothing else is believed"],
        ),
        metadata_byte_by_byte,
    );
    suite.attack(
        Attack::new(
            SITE,
            "flip::objects_every_97th_byte",
            "every 97th byte of each object changed, through the verifier, also under a name that fits",
            &["DigestMismatch"],
        ),
        objects_every_97th_byte,
    );
    suite.attack(
        Attack::new(SITE, "flip::verify_reports_every_object", "the same of each object", &["exit 4"]),
        verify_reports_every_object,
    );
    suite.attack(
        Attack::new(
            SITE,
            "flip::verify_reports_every_file",
            "every 97th byte of each signed file changed, or the file gone, and `mcpfs verify`",
            &["exit 4"],
        ),
        verify_reports_every_file,
    );
}

const STRIDE: usize = 97;

/// All damaged versions of `bytes` at `at`.
fn damaged(bytes: &[u8], at: usize) -> Vec<(&'static str, Vec<u8>)> {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1;
    let mut high = bytes.to_vec();
    high[at] ^= 0x80;
    let mut longer = bytes.to_vec();
    longer.insert(at, b' ');
    let mut swapped = bytes.to_vec();
    swapped.swap(at, (at + 1) % bytes.len());
    vec![
        ("flipped", flipped),
        ("flipped high", high),
        ("cut", bytes[..at].to_vec()),
        ("inserted", longer),
        ("swapped", swapped),
    ]
}

/// Everything a host would believe of this site, as text; an error if it believes nothing.
struct Metadata {
    root: mcpfs_trust::root::TrustRoot,
    now: Timestamp,
}

impl Metadata {
    fn of(registry: &Registry) -> Self {
        let (root, _) = verify::trust_root(&std::fs::read(registry.trust()).unwrap(), None).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self { root, now: Timestamp::from_unix(i64::try_from(now).unwrap()).unwrap() }
    }

    fn head(&self, bytes: &[u8]) -> Result<verify::AcceptedHead, String> {
        verify::head(bytes, &self.root, &Seen::default(), self.now).map_err(|error| error.to_string())
    }
}

fn metadata_byte_by_byte() {
    let registry = Registry::shared();
    let site = registry.site();
    let metadata = Metadata::of(&registry);
    let read = |path: String| std::fs::read(site.join(path)).unwrap();
    let mut count = 0_usize;

    let head_bytes = read(mcpfs_trust::site::HEAD.to_owned());
    let head = metadata.head(&head_bytes).unwrap();
    for at in 0..head_bytes.len() {
        for (how, bytes) in damaged(&head_bytes, at) {
            count += 1;
            if let Ok(other) = metadata.head(&bytes) {
                assert!(other.head == head.head && other.catalogue == head.catalogue, "head {how} at {at} is believed");
            }
        }
    }
    let catalogue_bytes = read(mcpfs_trust::site::catalogue(&head.catalogue));
    let catalogue = verify::catalogue(&catalogue_bytes, &head).unwrap();
    for at in 0..catalogue_bytes.len() {
        for (how, bytes) in damaged(&catalogue_bytes, at) {
            count += 1;
            let same = verify::catalogue(&bytes, &head).is_ok_and(|it| *it != *catalogue);
            assert!(!same, "catalogue {how} at {at} is believed");
        }
    }
    for (index, blob) in catalogue.bins.iter().enumerate() {
        let bin_bytes = read(mcpfs_trust::site::bin(&blob.sha256));
        let bin = verify::bin(&bin_bytes, &catalogue, index).unwrap();
        for at in 0..bin_bytes.len() {
            for (how, bytes) in damaged(&bin_bytes, at) {
                count += 1;
                let other = verify::bin(&bytes, &catalogue, index).is_ok_and(|it| *it != *bin);
                assert!(!other, "bin {how} at {at} is believed");
            }
        }
        for server in &bin.servers {
            count += entry_byte_by_byte(&read(mcpfs_trust::site::entry(&server.sha256)), &bin, &server.name, &metadata);
        }
    }
    println!("flip: {count} damaged heads, catalogues, bins and entries; none believed");
    assert!(count > 10_000);
    mcpfs_tests::proof::note("nothing else is believed");
}

/// Also past the digest that names it: an entry must not depend on the digest above it alone.
fn entry_byte_by_byte(
    bytes: &[u8],
    bin: &verify::Verified<mcpfs_trust::catalogue::Bin>,
    name: &ServerName,
    metadata: &Metadata,
) -> usize {
    let entry = verify::entry(bytes, bin, name).unwrap();
    let version = entry.selected.release.version.clone();
    let release = verify::release(&entry, &version, &metadata.root, None).unwrap();
    let mut count = 0;
    for at in 0..bytes.len() {
        for (how, bytes) in damaged(bytes, at) {
            count += 1;
            let other = verify::entry(&bytes, bin, name).is_ok_and(|it| *it != *entry);
            assert!(!other, "entry of {name} {how} at {at} is believed");
            // As if the catalogue named just these bytes: then the signatures must hold.
            let mut forged = (**bin).clone();
            for server in forged.servers.iter_mut().filter(|it| it.name == *name) {
                server.sha256 = Digest::of(&bytes);
                server.size = bytes.len() as u64;
            }
            if let Ok(listed) = mcpfs_trust::entry::Entry::parse(&bytes)
                && let Some(listed) = listed.find(&version)
                && let Ok(other) = verify::statement(&listed.envelope, name, &version, &metadata.root, None)
            {
                assert!(*other == *release, "statement of {name} {how} at {at} is believed");
            }
        }
    }
    count
}

/// Two servers whose objects are small: chunks of contents, trees and layouts.
pub(crate) fn small() -> Registry {
    let registry = Registry::new();
    for (name, versions) in [("words", &["1.0.0", "1.1.0"][..]), ("bytes", &["1.0.0"])] {
        for version in versions {
            let tree = registry.artefacts().join(format!("{name}-{version}"));
            std::fs::create_dir_all(tree.join("deep/er")).unwrap();
            std::fs::write(tree.join("script.sh"), format!("#!/bin/sh\necho {name} {version}\n")).unwrap();
            for size in [0_usize, 1, 97, 4096, 24_000] {
                let content = match name {
                    "words" => format!("{name} {version} {size}\n").repeat(size / 8 + 1).into_bytes(),
                    _ => fixture::bytes(size as u64, size),
                };
                std::fs::write(tree.join("deep/er").join(format!("{size}")), content).unwrap();
            }
            registry.release(&Recipe::new(name, version, &fixture::tar(&tree)));
        }
    }
    registry
}

/// Every object of the site with the record that names it.
fn objects(registry: &Registry, site: &SiteCopy) -> BTreeMap<String, (Chunk, Vec<u8>)> {
    let read = |chunk: &Chunk| std::fs::read(site.path().join(mcpfs_trust::site::object(&chunk.sha256))).unwrap();
    let mut named: Vec<Chunk> = Vec::new();
    for path in needed(registry).iter().filter(|path| path.starts_with("entries/")) {
        let entry = mcpfs_trust::entry::Entry::parse(&std::fs::read(site.path().join(path)).unwrap()).unwrap();
        for platform in entry.releases().flat_map(|listed| &listed.layout) {
            let layout = &platform.layout.chunks;
            let bytes: Vec<u8> = layout.iter().flat_map(|chunk| chunk.decode(&read(chunk)).unwrap()).collect();
            named.extend(mcpfs_trust::layout::Layout::parse(&bytes).unwrap().chunks);
            named.extend(layout.iter().chain(&platform.tree));
        }
    }
    let found: BTreeMap<_, _> =
        named.iter().map(|chunk| (mcpfs_trust::site::object(&chunk.sha256), (*chunk, read(chunk)))).collect();
    let there: Vec<String> = site.files().into_iter().filter(|file| file.starts_with("objects/")).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), there.iter().collect::<Vec<_>>());
    found
}

fn objects_every_97th_byte() {
    let registry = small();
    let objects = objects(&registry, &registry.site_copy());
    let (mut count, mut places) = (0_usize, 0_usize);
    for (file, (chunk, bytes)) in &objects {
        let content = chunk.decode(bytes).unwrap();
        for at in (0..bytes.len()).step_by(STRIDE) {
            places += 1;
            for (how, damaged) in damaged(bytes, at) {
                count += 1;
                if damaged != *bytes {
                    let said = chunk.decode(&damaged).expect_err("damage is found").code();
                    assert!(said == Code::DigestMismatch, "{file} {how} at {at}: {said}");
                }
                // As if a layout named just these bytes: then its digest of the content must hold.
                let forged = Chunk { sha256: Digest::of(&damaged), ..*chunk };
                if let Ok(other) = forged.decode(&damaged) {
                    assert!(other == content, "{file} {how} at {at} is other content");
                }
            }
        }
    }
    println!("flip: {count} damaged objects, at {places} places of {} objects; none is other content", objects.len());
    assert!(places > 200 && objects.len() > 6, "{places} of {}", objects.len());
    mcpfs_tests::proof::note("DigestMismatch");
}

/// One place in each object at a time: `mcpfs verify` names every one of them.
fn verify_reports_every_object() {
    let registry = small();
    let copy = registry.site_copy();
    let site = copy.path();
    let objects = objects(&registry, &copy);
    let longest = objects.values().map(|(_, bytes)| bytes.len()).max().unwrap();
    let mut count = 0_usize;
    for (turn, at) in (0..longest).step_by(STRIDE).enumerate() {
        let mut changed = Vec::new();
        for (file, (_, bytes)) in objects.iter().filter(|(_, (_, bytes))| at < bytes.len()) {
            // Each way in its turn; where it changes nothing, the next.
            let ways = damaged(bytes, at);
            let ways = ways.iter().cycle().skip(turn % ways.len()).take(ways.len());
            let (_, damaged) = ways.into_iter().find(|(_, damaged)| damaged != bytes).unwrap();
            std::fs::write(site.join(file), damaged).unwrap();
            changed.push(file);
        }
        let ran = verify_site(&site, &registry);
        assert!(ran.code == 4 && !ran.text().contains("panicked"), "{ran}");
        for file in changed {
            count += 1;
            assert!(ran.stdout.contains(&format!("{file}: ")), "{file} damaged at {at} is not reported: {ran}");
            std::fs::write(site.join(file), &objects[file].1).unwrap();
        }
    }
    let sound = verify_site(&site, &registry);
    assert!(sound.code == 0, "{sound}");
    println!("flip: mcpfs verify reported {count} damaged objects");
    assert!(count > 200, "{count}");
    mcpfs_tests::proof::note("exit 4");
}

/// `mcpfs verify` of a whole site.
fn verify_site(site: &Path, registry: &Registry) -> mcpfs_tests::command::Ran {
    Run::new(mcpfs_tests::binaries::bin("mcpfs")).arg("verify").arg(site).arg("--trust").arg(registry.trust()).run()
}

/// The metadata that the newest head needs; earlier ones stay in a site, but nobody asks for them.
pub(crate) fn needed(registry: &Registry) -> Vec<String> {
    use mcpfs_trust::site as at;
    let read = |path: &str| std::fs::read(registry.site().join(path)).unwrap();
    let head = Metadata::of(registry).head(&read(at::HEAD)).unwrap();
    let mut needed = vec![at::HEAD.to_owned(), at::catalogue(&head.catalogue)];
    let catalogue = verify::catalogue(&read(&needed[1]), &head).unwrap();
    for (index, blob) in catalogue.bins.iter().enumerate() {
        needed.push(at::bin(&blob.sha256));
        let bin = verify::bin(&read(&at::bin(&blob.sha256)), &catalogue, index).unwrap();
        needed.extend(bin.servers.iter().map(|server| at::entry(&server.sha256)));
        for server in &bin.servers {
            let entry = mcpfs_trust::entry::Entry::parse(&read(&at::entry(&server.sha256))).unwrap();
            let details = entry.releases().filter_map(|listed| listed.details);
            needed.extend(details.map(|blob| at::details(&blob.sha256)));
        }
    }
    needed
}

fn verify_reports_every_file() {
    let registry = small();
    let copy = registry.site_copy();
    let site = copy.path();
    let sound = verify_site(&site, &registry);
    assert!(sound.code == 0, "{sound}");
    let needed = needed(&registry);
    let mut count = 0;
    for file in copy.files() {
        let what = file.split('/').next().unwrap();
        // The log is the signer's, an original artefact is not what a host reads, and objects have
        // a test of their own.
        if !["head.json", "catalogue", "entries", "details"].contains(&what) {
            continue;
        }
        let path = site.join(&file);
        let bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(STRIDE) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let ran = verify_site(&site, &registry);
            count += 1;
            assert!(ran.code == 4 && !ran.text().contains("panicked"), "{file} flipped at {at}: {ran}");
        }
        std::fs::write(&path, &bytes).unwrap();
        if needed.contains(&file) {
            std::fs::remove_file(&path).unwrap();
            let ran = verify_site(&site, &registry);
            assert!(ran.code != 0, "{file} is missing: {ran}");
            std::fs::write(&path, &bytes).unwrap();
        }
    }
    let sound = verify_site(&site, &registry);
    assert!(sound.code == 0, "{sound}");
    println!("flip: mcpfs verify reported {count} damaged files, and each missing one");
    mcpfs_tests::proof::note("exit 4");
}
