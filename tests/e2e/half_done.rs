//! What is in the middle of something when the worker dies goes on with the next one. Root only.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use mcpfs_tests::fixture;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::scratch::is_root;
use mcpfs_tests::site::{Fault, Site};
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    if is_root() {
        suite.mounted("half_done::a_listing_of_a_thousand", a_listing_of_a_thousand);
        suite.mounted("half_done::what_is_not_selected_or_not_allowed_any_more", what_is_not_selected_or_not_allowed);
        suite.mounted("half_done::a_fetch_from_a_slow_site", a_fetch_from_a_slow_site);
    }
}

fn drop_caches() {
    // What the kernel remembers must not answer for the daemon.
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

fn release(quick: &Quick, version: &str, files: &[(&str, &[u8])]) {
    let recipe = quick.recipe("half", version, files);
    quick.release(&recipe, &quick.site()).ok();
}

fn a_listing_of_a_thousand(reads: Reads) {
    let quick = Quick::new();
    let names: Vec<String> = (0..1_000).map(|at| format!("many/{at:04}-with-a-name-of-some-length.txt")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    release(&quick, "1.0.0", &files);
    let site = Site::serve(&quick.path("site"));
    let host = Host::new(&quick.trust(), &site.url(), reads);
    let mount = Mount::start(&host);
    let mut listing = std::fs::read_dir(host.at("half/1.0.0/tree/many")).unwrap();
    let mut found: Vec<String> = vec![];
    for _ in 0..3 {
        found.extend(listing.by_ref().take(300).map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        mount.kill_worker();
        drop_caches();
    }
    found.extend(listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
    assert_eq!(found.len(), 1_000, "none twice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>().len(), 1_000, "none missing");
}

fn what_is_not_selected_or_not_allowed(reads: Reads) {
    let quick = Quick::new();
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        let large = fixture::bytes(3, 3 << 20);
        release(&quick, version, &[("dir/version", version.as_bytes()), ("dir/large", &large)]);
    }
    let site = Site::serve(&quick.path("site"));
    let host = Host::new(&quick.trust(), &site.url(), reads);
    let mount = Mount::start(&host);
    // Two versions that nobody selected, known to the daemon only since somebody asked.
    let old = |version: &str| host.at(&format!("half/{version}/tree/dir"));
    let directories = ["1.0.0", "1.1.0"].map(|version| File::open(old(version)).unwrap());
    let open = File::open(old("1.0.0").join("large")).unwrap();
    let below = |directory: &File| std::fs::read(format!("/proc/self/fd/{}/version", directory.as_raw_fd()));
    let read = |file: &File| {
        let mut bytes = vec![0; 3 << 20];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
    };
    for _ in 0..2 {
        mount.kill_worker();
        drop_caches();
        assert_eq!(below(&directories[0]).unwrap(), b"1.0.0");
        assert_eq!(below(&directories[1]).unwrap(), b"1.1.0");
        assert!(read(&open).unwrap() == fixture::bytes(3, 3 << 20));
    }
    quick.publishing("revoke", &quick.site()).arg("--publish").args(["half@1.0.0", "--reason", "a test"]).ok();
    host.refresh();
    for successor in [false, true] {
        if successor {
            mount.kill_worker();
            drop_caches();
        }
        // Nobody opens it anew, and the other version is untouched.
        assert!(below(&directories[0]).is_err());
        assert_eq!(below(&directories[1]).unwrap(), b"1.1.0");
        // What was open goes on: with the kernel, or as long as the worker lives that knew the release.
        if reads == Reads::Passthrough || !successor {
            assert!(read(&open).unwrap() == fixture::bytes(3, 3 << 20));
        }
    }
}

fn a_fetch_from_a_slow_site(reads: Reads) {
    let quick = Quick::new();
    let large = fixture::bytes(5, 12 << 20);
    release(&quick, "1.0.0", &[("large", &large)]);
    let site = Site::serve_with(&quick.path("site"), &[Fault::Rate("^/objects/", 2_000_000)]);
    let host = Host::new(&quick.trust(), &site.url(), reads);
    let mount = Mount::start(&host);
    let path = host.at("half/1.0.0/tree/large");
    let reader = std::thread::spawn(move || std::fs::read(path));
    for _ in 0..20 {
        mount.kill_worker();
    }
    assert!(reader.join().unwrap().unwrap() == large);
}
