//! Tampering, by the network, the layout and the disk.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use mcpfs_trust::layout::Extent;
use mcpfs_trust::site::object;

use super::fixture::{Room, files, read, text};
use super::*;
use crate::site::toxic::Toxic;

/// Overwrites one byte and restores size, mode and mtime, as a careful attacker would.
fn tamper(path: &Path) {
    let before = std::fs::metadata(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o444)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_tampered_with_while_stopped_is_quarantined_and_healed() {
    for boot in ["boot", "another boot"] {
        let room = Room::new(&files(3, 100), 64 << 10).await;
        room.open("f/01").await.unwrap();
        room.settled().await;
        let stopped = room.stopped().await;
        tamper(&stopped.file_of("f/01"));
        let mut room = stopped.started(boot);
        assert_eq!(room.open("f/01").await.unwrap().1, text(1, 100), "{boot}");
        let event = room.events.try_recv().unwrap();
        let ContentEvent::Quarantined { sha256, found: Some(found), kept: true } = event else { panic!("{event:?}") };
        assert_eq!(sha256, Digest::of(&text(1, 100)));
        let kept = std::fs::read(room.cache().join("quarantine").join(sha256.to_string())).unwrap();
        assert_eq!(Digest::of(&kept), found);
        assert_eq!(room.server.requests().len(), 2);
        assert_eq!(room.open("f/02").await.unwrap(), (0, text(2, 100)), "the neighbours stay");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_replaced_and_linked_files_are_healed() {
    type Harm = fn(&Path);
    let harms: [Harm; 4] = [
        |path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
            File::options().write(true).open(path).unwrap().set_len(0).unwrap();
        },
        |path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
        },
        |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, text(9, 100)).unwrap();
        },
        |path| std::fs::remove_file(path).unwrap(),
    ];
    for harm in harms {
        let room = Room::new(&files(3, 100), 64 << 10).await;
        room.open("f/01").await.unwrap();
        room.settled().await;
        let stopped = room.stopped().await;
        harm(&stopped.file_of("f/01"));
        let room = stopped.started("boot");
        assert_eq!(room.open("f/01").await.unwrap().1, text(1, 100));
    }
}

/// Within one boot nothing is hashed twice; in another boot everything is, and a change of
/// ctime alone is reason enough.
#[tokio::test(flavor = "multi_thread")]
async fn verified_means_this_boot_and_this_state() {
    let room = Room::new(&files(3, 100), 64 << 10).await;
    room.open("f/01").await.unwrap();
    room.settled().await;
    let sha256 = Digest::of(&text(1, 100));
    let stopped = room.stopped().await;
    let room = stopped.started("boot");
    assert!(room.content.ready(&sha256, 100).is_some(), "known from the run directory");
    let stopped = room.stopped().await;
    let room = stopped.started("another boot");
    assert!(room.content.ready(&sha256, 100).is_none(), "another boot knows nothing");
    assert_eq!(room.open("f/01").await.unwrap(), (0, text(1, 100)), "but its content is still right");
    assert!(room.content.ready(&sha256, 100).is_some());

    let stopped = room.stopped().await;
    let path = stopped.file_of("f/01");
    let before = std::fs::metadata(&path).unwrap();
    while std::fs::metadata(&path).unwrap().ctime_nsec() == before.ctime_nsec() {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
    }
    let mut room = stopped.started("another boot");
    assert!(room.content.ready(&sha256, 100).is_none(), "its ctime changed");
    assert_eq!(room.open("f/01").await.unwrap(), (0, text(1, 100)));
    assert!(room.content.ready(&sha256, 100).is_some());
    assert!(room.events.try_recv().is_err(), "nothing was wrong");
    assert_eq!(room.server.requests().len(), 1);
}

/// A log cut anywhere costs at most hashing.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_log_is_cut_and_goes_on() {
    let room = Room::new(&files(5, 100), 64 << 10).await;
    room.open("f/01").await.unwrap();
    room.settled().await;
    let mut stopped = room.stopped().await;
    let whole = std::fs::read(stopped.verified_log()).unwrap();
    // One record a file, or two where an opener and the writer behind its chunk met at one name.
    let records = (whole.len() - 44) / 72;
    assert_eq!((whole.len() - 44) % 72, 0);
    assert!((5..=10).contains(&records), "{records} records");
    for cut in [0, 3, 44, 45, 44 + 71, 44 + 72, 44 + 3 * 72 + 5, whole.len() - 1] {
        std::fs::write(stopped.verified_log(), &whole[..cut]).unwrap();
        let room = stopped.started("boot");
        for index in 0..5 {
            assert_eq!(room.open(&format!("f/{index:02}")).await.unwrap(), (0, text(index, 100)));
        }
        stopped = room.stopped().await;
        let room = stopped.started("boot");
        for (sha256, size) in room.wanted() {
            assert!(room.content.ready(&sha256, size).is_some(), "cut at {cut}");
        }
        stopped = room.stopped().await;
    }
    assert_eq!(stopped.server.requests().len(), 1);
}

/// Every byte of a stored chunk flipped: refused or, from the next mirror, right; never other content.
#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_is_refused_and_healed_by_the_next_mirror() {
    let contents = files(2, 60);
    let bad = Toxic::start().await;
    let good = Toxic::start().await;
    let (_, layout, objects) = fixture::pack(&contents, 64 << 10);
    let path = object(&layout.chunks[0].sha256);
    let (_, stored) = &objects[0];
    good.put(&path, stored.clone());
    let mirrors = vec![bad.url.clone()];
    let mut room = Room::on(bad, mirrors, &contents, 64 << 10, |_| ());
    for byte in 0..stored.len() {
        let mut flipped = stored.clone();
        flipped[byte] ^= 0x10;
        room.server.put(&path, flipped);
        assert_eq!(room.open("f/00").await.unwrap_err().code, Code::DigestMismatch, "byte {byte}");
        let event = room.events.try_recv().unwrap();
        assert!(matches!(event, ContentEvent::ChunkRefused { .. }), "{event:?}");
        while room.events.try_recv().is_ok() {}
    }
    assert_eq!(room.content.usage().files, 0);
    let mirrors = vec![room.server.url.clone(), good.url.clone()];
    let room = Room::on(Toxic::start().await, mirrors, &contents, 64 << 10, |_| ());
    assert_eq!(room.open("f/00").await.unwrap().1, text(0, 60));
}

/// A layout is not signed: a wrong one may refuse, it cannot give other bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_layout_costs_availability_only() {
    let room = Room::new(&files(3, 100), 64 << 10).await;
    let mut layout = room.release.layout.clone();
    layout.contents[1] = Extent { chunk: 0, offset: 0 };
    let lying = Arc::new(ReleaseContent::new(room.release.tree.clone(), layout, None));
    let refused = read(&room.content, &lying, room.node("f/01")).await.unwrap_err();
    assert_eq!(refused.code, Code::DigestMismatch);
    assert!(refused.message.starts_with("f/01: file:"), "{refused}");
    room.settled().await;
    assert_eq!(read(&room.content, &lying, room.node("f/02")).await.unwrap(), (0, text(2, 100)));

    let mut layout = room.release.layout.clone();
    layout.contents[1] = Extent { chunk: 7, offset: 0 };
    let lying = Arc::new(ReleaseContent::new(room.release.tree.clone(), layout, None));
    assert_eq!(read(&room.content, &lying, room.node("f/01")).await.unwrap_err().code, Code::Malformed);
    assert_eq!(room.open("f/01").await.unwrap().1, text(1, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_an_eviction_is_waited_for() {
    let room = Room::new(&files(3, 100), 64 << 10).await;
    room.open("f/01").await.unwrap();
    room.settled().await;
    let stopped = room.stopped().await;
    let path = stopped.file_of("f/01");
    let room = stopped.started("another boot");
    let file = File::open(path).unwrap();
    assert!(lease::take(&file));
    // Eviction looks at a file, and then leaves it alone.
    let held = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(file);
    });
    assert_eq!(room.open("f/01").await.unwrap(), (0, text(1, 100)));
    held.join().unwrap();
}
