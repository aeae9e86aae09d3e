//! What eviction never takes: the pinned releases, and the trees by which a mount is read on.

use std::fs::File;
use std::os::unix::fs::FileExt;

use mcpfs_tests::disk::Disk;
use mcpfs_tests::fixture;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

use crate::world::errno;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("spared::what_is_pinned_stays", what_is_pinned_stays);
    suite.mounted("spared::pins_that_fill_the_cache_say_so", pins_that_fill_the_cache_say_so);
    if is_root() {
        suite.mounted("spared::trees_in_use_outlive_a_full_disk_and_a_crash", trees_in_use);
    }
}

const SIZE: usize = 2 << 20;
/// Room for five files, and for trees and layouts.
const QUOTA: &str = "[cache]\nquota = \"11MiB\"\nkeep_free = \"0MiB\"\n";

fn content(seed: u64) -> Vec<u8> {
    fixture::bytes(seed, SIZE)
}

/// A site with two servers: `kept` with two files, `bulk` with ten.
fn site() -> (Quick, Site) {
    let quick = Quick::new();
    for (name, first, count) in [("kept", 100, 2), ("bulk", 1, 10)] {
        let files: Vec<_> = (0..count).map(|index| (index.to_string(), content(first + index))).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        quick.release(&quick.recipe(name, "1.0.0", &files), &quick.site()).ok();
    }
    let site = Site::serve(&quick.path("site"));
    (quick, site)
}

fn host(quick: &Quick, site: &Site, reads: Reads) -> Host {
    let host = Host::new(&quick.trust(), &site.url(), reads);
    host.drop_in("50-cache", QUOTA);
    host
}

fn at(host: &Host, name: &str, index: u64) -> std::path::PathBuf {
    host.at(&format!("{name}/1.0.0/tree/{index}"))
}

/// All of `bulk`, twice, which takes all the room that eviction gives.
fn read_bulk(host: &Host) {
    for index in (0..10).chain(0..10) {
        assert!(std::fs::read(at(host, "bulk", index)).unwrap() == content(1 + index), "file {index}");
    }
}

fn pin(host: &Host, name: &str) {
    host.mcpfs(["pin", name, "1.0.0"]).ok();
}

fn what_is_pinned_stays(reads: Reads) {
    let (quick, mut site) = site();
    let host = host(&quick, &site, reads);
    let mount = Mount::start(&host);
    // Pinned before its tree is here, and after.
    pin(&host, "kept");
    for index in 0..2 {
        assert!(std::fs::read(at(&host, "kept", index)).unwrap() == content(100 + index));
    }
    read_bulk(&host);
    // A successor spares it too, from its first eviction on.
    if is_root() && reads == Reads::Passthrough {
        mount.kill_worker();
        read_bulk(&host);
    }
    site.stop();
    for index in 0..2 {
        assert!(std::fs::read(at(&host, "kept", index)).unwrap() == content(100 + index), "kept/{index} was evicted");
    }
    site.restart(&[]);
    // Without the pin it is as good as any other.
    host.mcpfs(["unpin", "kept"]).ok();
    read_bulk(&host);
    site.stop();
    assert_eq!(errno(std::fs::read(at(&host, "kept", 0))), libc::EHOSTUNREACH);
    // And pinned again, now that its tree is here: what comes back stays.
    site.restart(&[]);
    pin(&host, "kept");
    std::fs::read(at(&host, "kept", 0)).unwrap();
    mount.stop();
    // After a restart, too.
    let _mount = Mount::start(&host);
    read_bulk(&host);
    site.stop();
    assert!(std::fs::read(at(&host, "kept", 0)).unwrap() == content(100), "kept/0 was evicted after a restart");
}

fn pins_that_fill_the_cache_say_so(reads: Reads) {
    let (quick, site) = site();
    let host = host(&quick, &site, reads);
    let mount = Mount::start(&host);
    pin(&host, "bulk");
    let read: Vec<_> = (0..10).map(|index| std::fs::read(at(&host, "bulk", index))).collect();
    let got = read.iter().filter(|read| read.is_ok()).count();
    assert!((4..=5).contains(&got), "{got} of ten files are in a cache for five\n{}", mount.log());
    assert!(read.into_iter().filter(Result::is_err).all(|read| errno(read) == libc::ENOSPC));
    assert_eq!(errno(std::fs::read(at(&host, "kept", 0))), libc::ENOSPC);
    let said = host.mcpfs(["explain", "kept"]).ok();
    let said = format!("{}{}", said.stdout, mount.log());
    assert!(said.contains("pinned"), "{said}");
    host.mcpfs(["unpin", "bulk"]).ok();
    assert!(std::fs::read(at(&host, "kept", 0)).unwrap() == content(100));
}

fn trees_in_use(reads: Reads) {
    let (quick, mut site) = site();
    let host = Host::new(&quick.trust(), &site.url(), reads);
    let disk = Disk::at(host.path("cache"), "32m");
    host.drop_in("50-cache", "[cache]\nkeep_free = \"8MiB\"\n");
    let mount = Mount::start(&host);
    let held = File::open(at(&host, "kept", 0)).unwrap();
    for index in 0..4 {
        std::fs::read(at(&host, "bulk", index)).unwrap();
    }
    // By the tree in memory, and then by the one on the disk.
    for turn in 0..3 {
        // Others take all of the disk, and again whatever is evicted, until no more of it may go.
        let is_full = |index| {
            std::fs::read(at(&host, "bulk", index)).is_err_and(|error| error.raw_os_error() == Some(libc::ENOSPC))
        };
        wait_for("the disk to be full", || {
            disk.fill("others");
            (0..10).any(is_full).then_some(())
        });
        site.stop();
        let names = std::fs::read_dir(host.at("bulk/1.0.0/tree")).map(Iterator::count);
        assert_eq!(names.unwrap_or_else(|error| panic!("turn {turn}: {error}\n{}", mount.log())), 10);
        // What is open stays; for whoever has it open, and for others.
        let read = std::fs::read(at(&host, "kept", 0));
        assert!(read.unwrap_or_else(|error| panic!("turn {turn}: {error}\n{}", mount.log())) == content(100));
        let mut again = vec![0; SIZE];
        held.read_exact_at(&mut again, 0).unwrap_or_else(|error| panic!("turn {turn}: {error}\n{}", mount.log()));
        assert!(again == content(100));
        site.restart(&[]);
        mount.kill_worker();
    }
    // Nobody has it open any more, and it goes.
    drop(held);
    wait_for("what nobody has open to go", || {
        for index in 0..10 {
            drop(std::fs::read(at(&host, "bulk", index)));
        }
        disk.fill("others");
        site.stop();
        let read = std::fs::read(at(&host, "kept", 0));
        site.restart(&[]);
        read.is_err().then_some(())
    });
}
