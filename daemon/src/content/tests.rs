#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;
mod hostile;
mod load;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use fixture::{PATIENCE, Room, files, text};
use mcpfs_trust::error::Code;

use super::*;
use crate::site::toxic::Trouble;

#[tokio::test(flavor = "multi_thread")]
async fn one_request_brings_a_chunk_and_its_neighbours() {
    let room = Room::new(&files(50, 100), 64 << 10).await;
    let first = room.open("f/07").await.unwrap();
    assert_eq!(first.1, text(7, 100));
    assert_eq!(first.0, u64::from(room.release.layout.chunks[0].size));
    room.settled().await;
    for index in 0..50 {
        let (fetched, bytes) = room.open(&format!("f/{index:02}")).await.unwrap();
        assert_eq!((fetched, bytes), (0, text(index, 100)));
    }
    assert_eq!(room.server.requests().len(), 1, "one chunk, one request");
    let node = room.node("f/33");
    let wanted = room.release.wanted(node).unwrap();
    let ready = room.content.ready(&wanted.sha256, wanted.size).unwrap();
    let metadata = ready.metadata().unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.nlink()), (0o444, 1));
    assert!(room.content.ready(&wanted.sha256, wanted.size + 1).is_none(), "the size is part of what was asked");
    let directory = std::fs::metadata(room.cache().join("files")).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_large_files() {
    let large: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let contents = [("big".to_owned(), large.clone()), ("empty".to_owned(), vec![]), ("small".to_owned(), text(1, 9))];
    let room = Room::new(&contents, 64 << 10).await;
    assert_eq!(room.open("empty").await.unwrap(), (0, vec![]));
    assert_eq!(room.server.requests().len(), 0, "an empty file has no chunk");
    let (fetched, bytes) = room.open("big").await.unwrap();
    assert_eq!(bytes, large);
    let wanted = room.release.wanted(room.node("big")).unwrap();
    let pieces = room.release.pieces(&wanted).unwrap();
    assert!(pieces.len() > 10);
    assert_eq!(fetched, pieces.iter().map(|piece| u64::from(piece.chunk.size)).sum::<u64>());
    assert_eq!(room.server.requests().len(), pieces.len());
    let blocks = room.content.ready(&wanted.sha256, wanted.size).unwrap().metadata().unwrap().blocks();
    assert!(blocks == 0 || blocks * 512 >= wanted.size, "not sparse");
    assert_eq!(room.open("small").await.unwrap().1, text(1, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_verified_as_a_whole_and_cached() {
    let room = Room::new(&files(3, 100), 1 << 10).await;
    let blob = text(5, 10_000);
    let chunks = room.store(&blob, 3000);
    let sha256 = Digest::of(&blob);
    let read =
        async |sha256: Digest, size, chunks: &[Chunk]| room.content.metadata("tree", &sha256, size, chunks).await;
    assert_eq!(read(sha256, 10_000, &chunks).await.unwrap(), blob);
    assert_eq!(read(sha256, 10_000, &chunks).await.unwrap(), blob);
    assert_eq!(room.server.requests().len(), 4);

    let swapped: Vec<_> = [1, 0, 2, 3].map(|index| chunks[index]).to_vec();
    let other = Digest::of(b"what these chunks are not");
    let refused = read(other, 10_000, &swapped).await.unwrap_err();
    assert_eq!(refused.code, Code::DigestMismatch);
    assert!(refused.message.contains("tree"), "{refused}");
    assert_eq!(read(sha256, 9_999, &chunks).await.unwrap_err().code, Code::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_brings_the_rest_once() {
    let mut contents = files(40, 1000);
    contents.push(("big".to_owned(), (0..50_000_u32).flat_map(|n| n.to_le_bytes()).collect()));
    let room = Room::new(&contents, 8 << 10).await;
    room.open("f/00").await.unwrap();
    room.content.prefetch(&room.release);
    room.content.prefetch(&room.release);
    room.all_ready().await;
    let chunks = room.release.layout.chunks.len();
    assert_eq!(room.server.requests().len(), chunks, "each chunk once");
    for (path, bytes) in &contents {
        assert_eq!(room.open(path).await.unwrap(), (0, bytes.clone()));
    }
    assert_eq!(room.server.requests().len(), chunks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_release_is_not_prefetched() {
    let room = Room::with(&files(40, 1000), 8 << 10, |settings| settings.prefetch_limit = 100).await;
    room.content.prefetch(&room.release);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(room.server.requests().len(), 0);
}

/// The waiter is told in time; the transfer goes on and serves the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_wait_and_not_the_work() {
    let late = |settings: &mut ContentSettings| settings.open_deadline = Duration::from_millis(100);
    let room = Room::with(&files(5, 100), 64 << 10, late).await;
    room.server.always("*", Trouble::Held);
    let refused = room.open("f/01").await.unwrap_err();
    assert_eq!(refused.code, Code::TooSlow);
    assert!(refused.message.starts_with("f/01: "), "{refused}");
    room.server.heal();
    room.settled().await;
    let opened = async {
        loop {
            match room.open("f/01").await {
                // However fast that is here: it was fetched, and an open has its own short deadline.
                Err(again) if again.code == Code::TooSlow => {}
                done => break done,
            }
        }
    };
    assert_eq!(timeout(PATIENCE, opened).await.unwrap().unwrap(), (0, text(1, 100)));
    assert_eq!(room.server.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_and_foreign_directories_are_refused() {
    let room = Room::new(&files(1, 10), 64 << 10).await;
    assert!(matches!(room.again("boot"), Err(ContentError::InUse { .. })));
    let room = room.stopped().await;
    std::fs::set_permissions(room.cache(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(room.again("boot"), Err(ContentError::Unsafe { .. })));
    std::fs::set_permissions(room.cache(), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::set_permissions(room.verified_log(), std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(room.again("boot"), Err(ContentError::Unsafe { .. })));
}

/// Chunks asked for ahead of the layout are asked for once, and counted for the first who waits.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_ahead_of_the_layout() {
    let contents = files(40, 1000);
    let room = Room::new(&contents, 8 << 10).await;
    let chunks = room.release.layout.chunks.clone();
    room.server.always("*", Trouble::Held);
    let ahead = room.content.ahead(&chunks);
    ahead.belongs_to(&room.release);
    let waited_for = async {
        while !room.content.0.somebody_waits_for(&chunks[0]) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        room.server.heal();
    };
    let (opened, waited) = tokio::join!(room.open("f/00"), timeout(PATIENCE, waited_for));
    waited.unwrap();
    let (fetched, bytes) = opened.unwrap();
    assert_eq!((fetched, bytes), (u64::from(chunks[0].size), text(0, 1000)));
    room.all_ready().await;
    assert_eq!(room.open("f/39").await.unwrap().0, 0);
    assert_eq!(room.server.requests().len(), chunks.len(), "each chunk once");
    room.settled().await;
}

/// Without a layout they are let go, with the memory they held, and within the same bound
/// as a prefetch.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_ahead_of_nothing_are_dropped() {
    let room = Room::with(&files(40, 1000), 8 << 10, |settings| settings.prefetch_limit = 300).await;
    let chunks = room.release.layout.chunks.clone();
    let mut sum = 0;
    let asked: Vec<_> = chunks.iter().take_while(|chunk| (sum += chunk.size, sum <= 300).1).collect();
    assert!(!asked.is_empty() && asked.len() < chunks.len());
    let ahead = room.content.ahead(&chunks);
    let held: u64 = asked.iter().map(|chunk| u64::from(chunk.plain_size)).sum();
    let landed = async {
        while room.server.requests().len() < asked.len() || room.content.usage().in_flight != held {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, landed).await.unwrap();
    assert_eq!(room.server.requests().len(), asked.len());
    drop(ahead);
    room.settled().await;
    assert_eq!(room.content.usage().files, 0);
}
