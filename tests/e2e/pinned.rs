//! What is open takes room for as long as it is open, and no longer: of the cache, also after the death of the worker that
//! opened it, and of the descriptors that the daemon may have.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::{Mount, is_mounted, unmount};
use mcpfs_tests::quick::Quick;
use mcpfs_tests::scratch::{Until, is_root, wait_for};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

use crate::world::errno;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("pinned::whoever_opens_much_leaves_the_daemon_its_own", whoever_opens_much_leaves_the_daemon_its_own);
    if is_root() {
        suite.mounted("pinned::what_is_closed_takes_no_room", what_is_closed_takes_no_room);
        suite.mounted("pinned::what_is_open_keeps_its_room", what_is_open_keeps_its_room);
    }
}

const FILES: u64 = 10;
const SIZE: usize = 4 << 20;
/// Room for two of the files, and for trees and layouts.
const QUOTA: &str = "[cache]\nquota = \"10MiB\"\nkeep_free = \"0MiB\"\n";
const KILLS: usize = 8;

fn content(index: u64) -> Vec<u8> {
    fixture::bytes(index + 1, SIZE)
}

/// A host of a release with ten files, two of which its cache can hold.
fn with_bulk(reads: Reads, test: impl FnOnce(&Host)) {
    let quick = Quick::new();
    let files: Vec<(String, Vec<u8>)> = (0..FILES).map(|index| (index.to_string(), content(index))).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    quick.release(&quick.recipe("bulk", "1.0.0", &files), &quick.site()).ok();
    let site = Site::serve(&quick.path("site"));
    let host = Host::new(&quick.trust(), &site.url(), reads);
    host.drop_in("50-cache", QUOTA);
    test(&host);
}

fn open(host: &Host, index: u64) -> std::io::Result<File> {
    File::open(host.at(&format!("bulk/1.0.0/tree/{index}")))
}

/// Every file can be read again, which takes all the room that there is, several times.
fn all_is_readable(host: &Host, mount: &Mount<'_>) {
    for index in (0..FILES).chain(0..FILES) {
        let read = std::fs::read(host.at(&format!("bulk/1.0.0/tree/{index}")));
        let read = read.unwrap_or_else(|error| panic!("file {index}: {error}\n{}", mount.log()));
        assert!(read == content(index), "file {index} has other bytes");
    }
}

fn open_handles(host: &Host) -> u64 {
    let status = host.mcpfs(["--json", "status"]).ok().json();
    status["open_handles"].as_u64().unwrap_or_else(|| panic!("open_handles: {status}"))
}

fn what_is_closed_takes_no_room(reads: Reads) {
    with_bulk(reads, |host| {
        let mount = Mount::start(host);
        let over = AtomicBool::new(false);
        // Workers die while files are being opened and closed, so that many a death comes just
        // before or after an answer.
        std::thread::scope(|scope| {
            let until = Until(&over);
            for index in [0, 1, 0, 1] {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        drop(open(host, index).unwrap_or_else(|error| panic!("file {index}: {error}")));
                    }
                });
            }
            for _ in 0..KILLS {
                mount.kill_worker();
            }
            drop(until);
        });
        wait_for("every close to be heard of", || (open_handles(host) == 0).then_some(()));
        all_is_readable(host, &mount);
    });
}

fn what_is_open_keeps_its_room(reads: Reads) {
    with_bulk(reads, |host| {
        let mount = Mount::start(host);
        let held: Vec<File> = (0..2).map(|index| open(host, index).unwrap()).collect();
        for _ in 0..2 {
            mount.kill_worker();
            assert_eq!(open_handles(host), 2);
            assert_eq!(errno(open(host, 9)), libc::ENOSPC, "two files are open, and there is room for two");
            // One that is open is opened again, and closed; it stays open.
            drop(open(host, 0).unwrap());
        }
        drop(held);
        wait_for("every close to be heard of", || (open_handles(host) == 0).then_some(()));
        all_is_readable(host, &mount);
    });
}

/// A daemon with few descriptors, which ends with this value.
struct Small<'h>(&'h Host);

impl<'h> Small<'h> {
    fn start(host: &'h Host) -> Self {
        let limited = Run::new("sh").args(["-euc", "ulimit -n 400; exec \"$@\"", "sh"]).arg(bin("mcpfs"));
        limited.arg("--config").arg(host.config()).arg("mount").ok();
        Self(host)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let ended = self.0.mcpfs(["unmount"]).run();
        if is_mounted(&self.0.mcp()) {
            unmount(&self.0.mcp());
        }
        if !std::thread::panicking() {
            assert_eq!(ended.code, 0, "{ended}");
        }
    }
}

/// One user's files, of which there may be more than the daemon may have open.
fn whoever_opens_much_leaves_the_daemon_its_own(reads: Reads) {
    let quick = Quick::new();
    let files: Vec<(String, Vec<u8>)> = (0..300_u64).map(|at| (at.to_string(), fixture::bytes(at + 1, 100))).collect();
    let named: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    quick.release(&quick.recipe("small", "1.0.0", &named), &quick.site()).ok();
    let site = Site::serve(&quick.path("site"));
    let host = Host::new(&quick.trust(), &site.url(), reads);
    let _daemon = Small::start(&host);
    let at = |index: usize| -> PathBuf { host.at(&format!("small/1.0.0/tree/{}", files[index].0)) };
    let all_else_goes_on = |open: u64| {
        assert_eq!(open_handles(&host), open);
        host.refresh();
    };
    // One file, oftener than that.
    let often: Vec<File> = (0..600).map(|_| File::open(at(0)).unwrap()).collect();
    all_else_goes_on(600);
    assert!(std::fs::read(at(1)).unwrap() == files[1].1);
    drop(often);
    wait_for("every close to be heard of", || (open_handles(&host) == 0).then_some(()));
    // More files than that.
    let many: Vec<File> = (0..300).map_while(|index| File::open(at(index)).ok()).collect();
    match reads {
        Reads::Passthrough => assert_eq!(many.len(), 300),
        Reads::Cached => {
            // Half of what it may have open is for others; of a mount for all nobody has more than is left for them.
            assert_eq!(many.len(), if is_root() { 100 } else { 200 });
            assert_eq!(errno(File::open(at(250))), libc::EMFILE);
            if is_root() {
                let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "cat"];
                Run::new("setpriv").args(nobody).arg(at(250)).ok();
            }
        }
    }
    all_else_goes_on(many.len() as u64);
    // What is open is opened again, and read.
    for (index, (_, bytes)) in files.iter().enumerate().take(many.len().min(200)) {
        assert!(std::fs::read(at(index)).unwrap() == *bytes);
    }
    drop(many);
    wait_for("every close to be heard of", || (open_handles(&host) == 0).then_some(()));
    assert!(std::fs::read(at(250)).unwrap() == files[250].1);
}
