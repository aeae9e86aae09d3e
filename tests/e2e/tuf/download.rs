//! tuf_conformance/test_file_download.py: content, and what lies in its place.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mcpfs_tests::audit;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::{Registry, files_below};
use mcpfs_tests::scratch;
use mcpfs_tests::site::Site;
use serde_json::{Value, json};

use super::{Port, Scenario, Settled};
use crate::world::{World, errno};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "test_client_downloads_expected_file",
        here: "A look fetches no content; an open gives what was published.",
        port: Port::Mounted(&["ok"], downloads_expected_file),
    },
    Scenario {
        name: "test_client_downloads_expected_file_in_sub_dir",
        here: "The same below a directory.",
        port: Port::Mounted(&["ok"], downloads_expected_file_in_sub_dir),
    },
    Scenario {
        name: "test_repository_substitutes_target_file",
        here: "All content on the site becomes something else: what was opened before stays as it was, what was not \
               cannot be opened.",
        port: Port::Mounted(&["DigestMismatch", "EIO"], substituted_file),
    },
    Scenario {
        name: "test_multiple_changes_to_target",
        here: "Eleven versions, of which the host sees every fifth, and after each the site's content is something \
               else.",
        port: Port::Mounted(&["DigestMismatch", "EIO"], multiple_changes),
    },
    Scenario {
        name: "test_download_with_hash_algorithms[sha256, sha512, sha256 and sha512]",
        here: "There is SHA-256 alone. A bin that names an entry by SHA-512, or by both, is in no form that is read.",
        port: Port::Plain(&["ok", "Malformed"], hash_algorithms),
    },
    Scenario {
        name: "test_download_with_unknown_hash_algorithm",
        here: "A bin that names an entry by a digest of an unknown kind.",
        port: Port::Plain(&["Malformed"], unknown_hash_algorithm),
    },
];

/// What was asked of the objects below which content lies.
fn objects_asked(site: &Site) -> usize {
    site.requests().iter().filter(|request| request.path.starts_with("/objects/")).count()
}

fn downloads_expected_file(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    world.host.refresh();
    assert_eq!(objects_asked(&world.site), 0, "nothing was opened");
    let shown = std::fs::read(world.host.at("files/1.0.0/tree/size-4097")).unwrap();
    assert!(shown == std::fs::read(world.source("files/size-4097")).unwrap());
    assert!(objects_asked(&world.site) > 0);
    audit::expect(&world.host, "ok", Some("files"));
}

fn downloads_expected_file_in_sub_dir(reads: Reads) {
    let world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let shown = std::fs::read(world.host.at("files/1.0.0/tree/many/007.txt")).unwrap();
    assert!(shown == std::fs::read(world.source("files/many/007.txt")).unwrap());
    audit::expect(&world.host, "ok", Some("files"));
}

/// Every object below `site` becomes a frame of the same length in which nothing is as it was.
fn substitute(site: &Path) {
    let objects = site.join("objects");
    let all = files_below(&objects);
    assert!(!all.is_empty());
    for object in all {
        let file = objects.join(object);
        let length = file.metadata().unwrap().len() as usize;
        let mut bytes = b"malicious data - should not be shown ".repeat(length / 37 + 1);
        bytes.truncate(length);
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
    }
}

fn substituted_file(reads: Reads) {
    let world = World::new(reads);
    let settled = Settled::on(&world);
    let tree = world.host.at("files/1.0.0/tree");
    assert_eq!(std::fs::read_dir(tree.join("many")).unwrap().count(), 300);
    substitute(&world.copy.path());
    settled.is_unchanged();
    assert_eq!(errno(std::fs::read(tree.join("large"))), libc::EIO);
    assert_eq!(errno(std::fs::read(tree.join("many/007.txt"))), libc::EIO);
    audit::expect(&world.host, "DigestMismatch", Some("files"));
    settled.is_unchanged();
}

/// Publishes a server with one file beside its script.
fn publish(registry: &Registry, name: &str, version: &str, content: &str) {
    let tree = registry.artefacts().join(format!("{name}-{version}"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("script.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(tree.join("script.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(tree.join("file"), content).unwrap();
    let recipe = Recipe::new(name, version, &fixture::tar(&tree)).with("launch:\n  command: script.sh\n");
    registry.release(&recipe);
}

fn multiple_changes(reads: Reads) {
    let registry = Registry::new();
    let served = scratch::dir();
    let place = served.path().join("site");
    std::fs::create_dir(&place).unwrap();
    let site = Site::serve(&place);
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let mut mount = None;
    for round in 0..11 {
        let (version, legitimate) = (format!("1.{round}.0"), format!("modified file contents {round}\n"));
        publish(&registry, "notes", &version, &legitimate);
        if round % 5 != 0 {
            continue;
        }
        let new = format!("new-target-{round}");
        publish(&registry, &new, "1.0.0", &format!("new file contents {round}\n"));
        for file in std::fs::read_dir(&place).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
        scratch::copy_dir(&registry.site().join("."), &place);
        mount.get_or_insert_with(|| Mount::start(&host));
        host.refresh();
        let file = host.at(&format!("notes/{version}/tree/file"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), legitimate);
        substitute(&place);
        host.refresh();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), legitimate);
        assert_eq!(errno(std::fs::read(host.at(&format!("{new}/1.0.0/tree/file")))), libc::EIO);
        audit::expect(&host, "DigestMismatch", Some(&new));
    }
}

/// What a host makes of a bin after a change of hello's line.
fn with_line(change: impl Fn(&mut Value), sound: bool) {
    let world = World::new(Reads::Cached);
    let mut settled = Settled::on(&world);
    forge::replace_bins(&world.copy.path(), &world.registry, |servers| {
        servers.iter_mut().filter(|server| server["name"] == "hello").for_each(&change);
    });
    if sound {
        settled.follows(1);
    } else {
        settled.resists("Malformed");
    }
}

fn hash_algorithms() {
    let sha512 = |line: &mut Value| line["sha512"] = json!("46".repeat(64));
    with_line(|_| (), true);
    with_line(sha512, false);
    with_line(
        |line| {
            sha512(line);
            line.as_object_mut().unwrap().remove("sha256");
        },
        false,
    );
}

fn unknown_hash_algorithm() {
    with_line(
        |line| {
            line["unknown-hash"] = line["sha256"].take();
            line.as_object_mut().unwrap().remove("sha256");
        },
        false,
    );
}
