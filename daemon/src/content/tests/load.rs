//! Many at once, and little room.

use tokio::task::JoinSet;

use super::fixture::{PATIENCE, Room, files, read};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_openers_share_transfers_and_return_all_memory() {
    let mut contents = files(99, 700);
    contents.push(("big".to_owned(), (0..100_000_u32).flat_map(|n| n.to_le_bytes()).collect()));
    // Memory for about three chunks at a time.
    let room = Room::with(&contents, 8 << 10, |settings| settings.memory = 40 << 10).await;
    room.content.prefetch(&room.release);
    let mut openers = JoinSet::new();
    for turn in 0..600 {
        let (path, bytes) = contents[turn * 37 % contents.len()].clone();
        let (content, release, node) = (room.content.clone(), room.release.clone(), room.node(&path));
        openers.spawn(async move { assert_eq!(read(&content, &release, node).await.unwrap().1, bytes, "{path}") });
    }
    while let Some(ended) = openers.join_next().await {
        ended.unwrap();
    }
    room.all_ready().await;
    assert_eq!(room.content.usage().in_flight, 0);
    assert_eq!(room.server.requests().len(), room.release.layout.chunks.len(), "each chunk once");
}

/// Failing transfers and leaving waiters return their memory too.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn troubles_return_all_memory() {
    use crate::site::toxic::Trouble;
    let hasty = |settings: &mut ContentSettings| settings.open_deadline = Duration::from_millis(80);
    let room = Room::hasty(&files(60, 700), 4 << 10, hasty).await;
    for (trouble, healed) in [(Trouble::Reset, false), (Trouble::Silence, false), (Trouble::Status(404), true)] {
        room.server.always("*", trouble);
        let mut openers = JoinSet::new();
        for index in 0..60 {
            let (content, release) = (room.content.clone(), room.release.clone());
            let node = room.node(&format!("f/{index:02}"));
            openers.spawn(async move { read(&content, &release, node).await.unwrap_err() });
        }
        assert_eq!(openers.join_all().await.len(), 60);
        room.settled().await;
        if healed {
            room.server.heal();
        }
    }
    timeout(PATIENCE, async { while room.open("f/30").await.is_err() {} }).await.unwrap();
}

/// The quota is never passed; what is open or kept stays; when nothing can go, it is said.
#[tokio::test(flavor = "multi_thread")]
async fn the_quota_holds_and_open_files_stay() {
    let contents = files(60, 4000);
    let quota = 40 * 4096;
    let room = Room::with(&contents, 4096, |settings| settings.quota = quota).await;
    let open = room.content.file(&room.release, room.node("f/00")).await.unwrap();
    let kept = room.release.wanted(room.node("f/01")).unwrap();
    room.content.keep(HashSet::from([kept.sha256]));
    for (path, bytes) in &contents {
        assert_eq!(&room.open(path).await.unwrap().1, bytes);
        room.settled().await;
        assert!(room.content.usage().cached <= quota);
        let on_disk: u64 = std::fs::read_dir(room.cache().join("files"))
            .unwrap()
            .flat_map(|part| std::fs::read_dir(part.unwrap().path()).unwrap())
            .map(|_| 4096)
            .sum();
        assert!(on_disk <= quota);
    }
    let ready = |path: &str| {
        let wanted = room.release.wanted(room.node(path)).unwrap();
        room.content.ready(&wanted.sha256, wanted.size).is_some()
    };
    assert!(ready("f/00") && ready("f/01") && ready("f/59"));
    assert!(!ready("f/02"), "the least recently used went");
    drop(open);

    let mut held = Vec::new();
    let refused = loop {
        match room.content.file(&room.release, room.node(&format!("f/{:02}", held.len()))).await {
            Ok(opened) => held.push(opened),
            Err(refusal) => break refusal,
        }
        // A transfer's own follow-up may hold a block for a moment.
        room.settled().await;
    };
    assert_eq!(refused.code, Code::CacheFull);
    // All the quota has room for, but for a block that a follow-up may just hold.
    assert!((36..=40).contains(&held.len()), "{} files", held.len());
    held.clear();
    room.open("f/59").await.unwrap();
}

/// A file larger than the quota is refused without emptying the cache for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_fit_is_refused() {
    let mut contents = files(3, 4000);
    contents.push(("big".to_owned(), vec![7; 100_000]));
    let room = Room::with(&contents, 8 << 10, |settings| settings.quota = 5 * 4096).await;
    room.open("f/00").await.unwrap();
    assert_eq!(room.open("big").await.unwrap_err().code, Code::CacheFull);
    assert_eq!(room.open("f/00").await.unwrap().0, 0);
    let room = Room::with(&contents, 8 << 10, |settings| settings.keep_free = Some(u64::MAX)).await;
    assert_eq!(room.open("f/00").await.unwrap_err().code, Code::CacheFull, "the file system's floor");
}

/// A disk that fails is not a full one, and what was read before goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_is_not_a_full_one() {
    let room = Room::new(&files(3, 4000), 1024).await;
    room.open("f/00").await.unwrap();
    // Nothing can be given a name any more, nor a draft be made, by root either.
    let (files, tmp) = (room.cache().join("files"), room.cache().join("tmp"));
    for path in [&files, &tmp] {
        std::fs::rename(path, path.with_extension("away")).unwrap();
        std::fs::write(path, "no directory").unwrap();
        let refused = room.open("f/01").await.unwrap_err();
        assert_eq!(refused.code, Code::CacheFault, "{refused}");
        assert!(refused.message.contains("check its directories"), "{refused}");
        std::fs::remove_file(path).unwrap();
        std::fs::rename(path.with_extension("away"), path).unwrap();
    }
    room.open("f/01").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_dies_is_a_fault() {
    let room = Room::new(&files(1, 10), 1024).await;
    let refused = room.content.0.blocking::<()>(|| panic!("on purpose")).await.unwrap_err();
    assert_eq!(refused.code, Code::CacheFault);
}

/// Somebody cleans up below a running daemon: that costs transfers and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_wiped_fills_again() {
    let contents = files(20, 4000);
    let room = Room::new(&contents, 4096).await;
    for named_drafts in [false, true] {
        room.content.0.cas.name_drafts(named_drafts);
        for (path, bytes) in &contents {
            assert_eq!(&room.open(path).await.unwrap().1, bytes);
        }
        room.settled().await;
        for entry in std::fs::read_dir(room.cache()).unwrap() {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        let (path, bytes) = &contents[7];
        assert_eq!(&room.open(path).await.unwrap().1, bytes);
        room.settled().await;
        let usage = room.content.usage();
        assert!(usage.files <= 2 && usage.cached <= 2 * 4096, "what went is not counted: {usage:?}");
    }
    assert!(room.cache().join("quarantine").is_dir());
}
