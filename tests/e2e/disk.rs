//! The disk below the cache: small, full, out of inodes, wiped; and the memory in front of it.

use std::fs::File;
use std::io::Read;

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::disk::Disk;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::once::Once;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::{is_root, wait_for};
use mcpfs_tests::site::{Fault, Site};
use mcpfs_tests::suite::Suite;
use serde_json::json;

use crate::world::{World, errno, flip};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("disk::a_wiped_cache_fills_again", a_wiped_cache_fills_again);
    suite.mounted("disk::an_altered_file_that_is_open", an_altered_file_that_is_open);
    suite.mounted("disk::many_large_files_at_once_stay_in_their_memory", many_large_files_at_once);
    if is_root() {
        // Only root can make a disk.
        suite.mounted("disk::a_small_disk_serves_more_than_it_holds", a_small_disk_serves_more_than_it_holds);
        suite.mounted("disk::others_fill_the_disk", others_fill_the_disk);
        suite.mounted("disk::the_disk_fills_up_during_a_fetch", the_disk_fills_up_during_a_fetch);
        suite.plain("disk::a_disk_without_inodes", a_disk_without_inodes);
    }
}

const FILES: usize = 64;
const SIZE: usize = 4 << 20;

/// A registry with `bulk`: 64 files of 4 MiB.
static BULK: Once<Registry> = Once::new();

pub(crate) fn drop_registry() {
    BULK.remove();
}

fn publish() -> Registry {
    let registry = Registry::new();
    let tree = registry.artefacts().join("bulk");
    std::fs::create_dir(&tree).unwrap();
    for index in 0..FILES {
        std::fs::write(tree.join(format!("{index:02}")), content(index)).unwrap();
    }
    registry.release(&Recipe::new("bulk", "1.0.0", &fixture::tar(&tree)).with("launch:\n  command: \"00\"\n"));
    registry
}

fn content(index: usize) -> Vec<u8> {
    fixture::bytes(index as u64 + 1, SIZE)
}

/// A host of that registry, its site, and the registry's lock.
fn with_bulk(reads: Reads, test: impl FnOnce(&Host, &Site)) {
    BULK.with(publish, |registry| {
        let site = Site::serve(&registry.site());
        test(&Host::new(&registry.trust(), &site.url(), reads), &site);
    });
}

fn read(host: &Host, index: usize) -> std::io::Result<Vec<u8>> {
    std::fs::read(host.at(&format!("bulk/1.0.0/tree/{index:02}")))
}

/// A number that `status` gives.
fn status(host: &Host, key: &str) -> u64 {
    let status = host.mcpfs(["--json", "status"]).ok().json();
    status[key].as_u64().unwrap_or_else(|| panic!("{key}: {status}"))
}

fn a_small_disk_serves_more_than_it_holds(reads: Reads) {
    with_bulk(reads, |host, _| {
        let disk = Disk::at(host.path("cache"), "16m");
        host.drop_in("50-cache", "[cache]\nkeep_free = \"4MiB\"\n");
        let _mount = Mount::start(host);
        let mut held = File::open(host.at("bulk/1.0.0/tree/00")).unwrap();
        for index in 1..FILES {
            assert!(read(host, index).unwrap() == content(index), "file {index}");
            assert!(disk.free() >= 4 << 20, "{} bytes are free after file {index}", disk.free());
        }
        assert!(status(host, "cache_bytes") <= 12 << 20);
        // What is open was not evicted, and reads to its end.
        let mut bytes = Vec::new();
        held.read_to_end(&mut bytes).unwrap();
        assert!(bytes == content(0));
        let kept = host.cached_files().into_iter().filter(|file| file.metadata().unwrap().len() == SIZE as u64);
        assert!(kept.map(|file| std::fs::read(file).unwrap()).any(|bytes| bytes == content(0)));
    });
}

/// docs/operating.md, "A full disk", is what happens here.
fn others_fill_the_disk(reads: Reads) {
    with_bulk(reads, |host, _| {
        let disk = Disk::at(host.path("cache"), "16m");
        host.drop_in("50-cache", "[cache]\nkeep_free = \"4MiB\"\n");
        let _mount = Mount::start(host);
        for index in 0..5 {
            read(host, index).unwrap();
        }
        let held = File::open(host.at("bulk/1.0.0/tree/00")).unwrap();
        let before = status(host, "cache_bytes");
        // Nothing is fetched now: what nobody uses goes by itself.
        disk.fill("others");
        wait_for("idle files to be evicted", || (disk.free() >= 4 << 20).then_some(()));
        assert!(status(host, "cache_bytes") < before);
        // Others take that too, until nothing is left to give.
        let full = (0..20).any(|_| {
            disk.fill("others");
            read(host, 50).is_err()
        });
        assert!(full, "16 MiB are never full");
        disk.fill("others");
        assert_eq!(errno(read(host, 51)), libc::ENOSPC);
        audit::expect(host, "CacheFull", Some("bulk"));
        let said = host.mcpfs(["status"]).ok().says("cache: its file system has").says("cache.keep_free");
        assert!(said.stdout.contains("nothing more is cached"), "{said}");
        // What is open goes on.
        let mut bytes = Vec::new();
        (&held).read_to_end(&mut bytes).unwrap();
        assert!(bytes == content(0));
        std::fs::remove_file(disk.path().join("others")).unwrap();
        for index in 51..60 {
            assert!(read(host, index).unwrap() == content(index), "file {index}");
        }
        assert!(!host.mcpfs(["status"]).ok().stdout.contains("nothing more is cached"));
    });
}

fn a_disk_without_inodes() {
    let world = World::new(Reads::Cached);
    // 261 go to directories, a twentieth stays free: room for 70 files or so of more than 300.
    let disk = Disk::with(world.host.path("cache"), "size=64m,nr_inodes=350");
    let mount = Mount::start(&world.host);
    let tree = world.host.at("files/1.0.0/tree");
    for index in 0..300 {
        let text = std::fs::read_to_string(tree.join(format!("many/{index:03}.txt")));
        assert_eq!(text.unwrap(), format!("file {index}\n"));
    }
    assert!(world.host.cached_files().len() < 89);
    // Others take the rest: the cache gives what it has, and then says what is missing.
    let full = (0..10).any(|turn| {
        let taken = (0..).take_while(|n| File::create(disk.path().join(format!("{turn}-{n}"))).is_ok()).count();
        assert!(taken < 400);
        (0..300).any(|index| std::fs::read(tree.join(format!("many/{index:03}.txt"))).is_err())
    });
    assert!(full, "350 inodes are never used up");
    audit::expect(&world.host, "CacheFull", Some("files"));
    let rows = audit::rows(&world.host);
    let told = rows.iter().any(|row| row.reason.as_ref().is_some_and(|why| why.contains("inodes")));
    assert!(told, "{}", audit::listing(&rows));
    for entry in std::fs::read_dir(disk.path()).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(std::fs::read(tree.join("size-4097")).unwrap().len(), 4097);
    mount.stop();
}

fn a_wiped_cache_fills_again(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let mut running = McpClient::start(&world.run("hello"));
    running.initialize();
    let tree = world.host.at("files/1.0.0/tree");
    let source = |file: &str| std::fs::read(world.source("files").join(file)).unwrap();
    let held = File::open(tree.join("size-65536")).unwrap();
    assert_eq!(std::fs::read(tree.join("size-4096")).unwrap().len(), 4096);
    for _ in 0..2 {
        // What is fetched ahead may come into a directory while it goes.
        wait_for("the cache to be wiped", || {
            let wiped = Run::new("sh").args(["-c", "rm -rf \"$1\"/*", "sh"]).arg(world.host.path("cache")).run();
            (wiped.code == 0).then_some(())
        });
        for file in ["large", "size-4096", "size-131073", "many/299.txt"] {
            assert!(std::fs::read(tree.join(file)).unwrap() == source(file), "{file}");
        }
    }
    assert!(mount.log().contains("were gone; made again"), "{}", mount.log());
    assert!(!world.host.cached_files().is_empty());
    // What was open or running did not notice.
    let mut bytes = Vec::new();
    (&held).read_to_end(&mut bytes).unwrap();
    assert!(bytes == source("size-65536"));
    assert_eq!(running.call("add", &json!({"a": 1, "b": 1})), "2");
    // And it opens anew at once, although the kernel reads an inode from one file only.
    let opens_anew = || {
        for _ in 0..2 {
            let again = std::fs::read(tree.join("size-65536"));
            let again = again.unwrap_or_else(|error| panic!("{error}\n{}", mount.log()));
            assert!(again == source("size-65536"));
            assert_eq!(McpClient::start(&world.run("hello")).initialize()["serverInfo"]["version"], "1.1.0");
        }
    };
    opens_anew();
    if is_root() {
        mount.kill_worker();
        opens_anew();
    }
    drop((held, running));
    opens_anew();
}

/// The one inode that is open has other bytes than the cache has now: nobody gets those.
fn an_altered_file_that_is_open(reads: Reads) {
    let world = World::new(reads);
    let mount = Mount::start(&world.host);
    let path = world.host.at("files/1.0.0/tree/size-65536");
    let source = std::fs::read(world.source("files").join("size-65536")).unwrap();
    let held = File::open(&path).unwrap();
    let cached = world.host.cached_files().into_iter().find(|file| std::fs::read(file).unwrap() == source);
    flip(&cached.unwrap(), 60_000);
    let again = std::fs::read(&path);
    match reads {
        Reads::Passthrough => assert_eq!(errno(again), libc::EIO, "{}", mount.log()),
        Reads::Cached => assert!(again.unwrap() == source),
    }
    drop(held);
    let again = wait_for("the held file to be closed", || std::fs::read(&path).ok());
    assert!(again == source);
}

/// What a file system says of its free space is true until others take it.
fn the_disk_fills_up_during_a_fetch(reads: Reads) {
    with_bulk(reads, |host, site| {
        let disk = Disk::at(host.path("cache"), "16m");
        host.drop_in("50-cache", "[cache]\nkeep_free = \"0MiB\"\n[network]\nobject = \"100s\"\n");
        let mount = Mount::start(host);
        for index in 0..2 {
            assert!(read(host, index).unwrap() == content(index));
        }
        mount.stop();
        // Each chunk takes some seconds from here.
        let slow = Site::serve_with(site.root(), &[Fault::Rate("^/objects/", 400_000)]);
        host.configure(&slow.url());
        let mount = Mount::start(host);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read(host, 2));
            // Its room was there when it began.
            wait_for("the fetch", || (status(host, "in_flight") > 0).then_some(()));
            disk.fill("others");
            let read = reader.join().unwrap();
            assert!(read.unwrap_or_else(|error| panic!("{error}\n{}", mount.log())) == content(2));
        });
        assert!(mount.log().contains("evicted: the cache's file system is full"), "{}", mount.log());
    });
}

/// What a server may have resident at its peak: the 64 MiB that its transfers may take together, and what it is itself
/// (program, libraries, databases, threads), half of which is code that is not optimised here. All files together are
/// larger, and so was what the allocator kept.
const MOST: u64 = (64 + 48) << 20;
/// And when nothing is in flight any more.
const LEFT: u64 = 64 << 20;

fn many_large_files_at_once(reads: Reads) {
    with_bulk(reads, |host, site| {
        let mount = Mount::start(host);
        std::thread::scope(|scope| {
            for index in 0..FILES {
                scope.spawn(move || assert!(read(host, index).unwrap() == content(index), "file {index}"));
            }
        });
        wait_for("every reservation to return", || (status(host, "in_flight") == 0).then_some(()));
        let [peak, left] = ["VmHWM:", "VmRSS:"].map(|field| memory(mount.server(), field));
        let said = format!("{} MiB at most, {} MiB at the end", peak >> 20, left >> 20);
        println!("{} MiB of files opened at once; the server had {said}", (FILES * SIZE) >> 20);
        assert!(peak < MOST && left < LEFT, "the server had {said}");
        let mut objects: Vec<_> = site.requests().into_iter().map(|request| request.path).collect();
        objects.retain(|path| path.starts_with("/objects/"));
        let asked = objects.len();
        objects.sort();
        objects.dedup();
        assert_eq!(asked, objects.len(), "each chunk was asked for once");
    });
}

/// What a process says of its memory.
fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a process with memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
