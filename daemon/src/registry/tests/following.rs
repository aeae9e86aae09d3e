//! A host that follows a real site.

use mcpfs_trust::entry::Status;
use mcpfs_trust::error::Code;

use super::selection::Case;
use super::{Live, fresh, key, listed, root, selected, stale, version};
use crate::registry::Slot;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_follows_goes_offline_and_comes_back() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let (registry, audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, fresh("2"));
    let hello = registry.server(&"hello".parse().unwrap()).await.unwrap().unwrap();
    assert!(registry.server(&"nobody".parse().unwrap()).await.unwrap().is_none());
    assert!(registry.version(&hello, &version("7")).await.is_none());
    let first = registry.version(&hello, &version("1")).await.unwrap().unwrap();
    assert!(matches!(registry.by_slot(first.slot), Some(Slot::Release(same)) if same.statement == first.statement));

    // Without the site everything admitted runs on, stale.
    live.take_away_the_site();
    assert!(registry.refresh_now().await.is_err());
    assert_eq!(selected(&registry).await, stale("2"));
    audit.close();
    drop(registry);

    // A restart without the site shows what was admitted, under the same slots, and nothing else.
    let (registry, _audit) = live.host().await;
    assert_eq!(selected(&registry).await, stale("2"), "nothing says yet that it is still the newest");
    let again = registry.server(&"hello".parse().unwrap()).await.unwrap().unwrap();
    let shown: Vec<_> = again.admitted().iter().map(|one| (one.version().to_string(), one.slot)).collect();
    let slot = hello.selected.as_ref().unwrap().slot;
    assert_eq!(shown, [("2".to_owned(), slot), ("1".to_owned(), first.slot)]);
    assert!(registry.refresh_now().await.is_err());
    assert_eq!(selected(&registry).await, stale("2"));
}

fn over(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
}

/// Whoever changed something waits for the kernel to forget; nobody waits for a mount that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_over_when_the_kernel_was_told() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let (registry, _audit) = live.host().await;
    let before = registry.snapshot().generation;
    registry.set_shown(Some(before));
    registry.refresh_now().await.unwrap();
    let after = registry.snapshot().generation;
    assert!(after > before);
    let mut waiting = std::pin::pin!(registry.shown());
    assert!(!over(waiting.as_mut()), "the kernel still has the old names");
    registry.set_shown(Some(after - 1));
    assert!(!over(waiting.as_mut()));
    registry.set_shown(Some(after));
    assert!(over(waiting.as_mut()));
    registry.set_shown(None);
    assert!(over(std::pin::pin!(registry.shown())), "there is no mount any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_never_go_back_and_revocations_are_final() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let (registry, _audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    let yesterday = std::fs::read(live.dir.path().join("site/head.json")).unwrap();
    let hello = registry.server(&"hello".parse().unwrap()).await.unwrap().unwrap();
    let running = hello.selected.clone().unwrap();

    let mut case = Case::new();
    case.status("2", Status::Revoked);
    live.publish(&[case.entry], 0);
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, Err(Code::Revoked));
    assert_eq!(registry.check_open(&running).unwrap_err().code, Code::Revoked);

    live.write("site/head.json", &yesterday);
    assert_eq!(registry.refresh_now().await.unwrap_err().code, Code::HeadRollback);
    assert_eq!(registry.snapshot().head.as_ref().unwrap().version, 2);
    assert!(!registry.snapshot().refreshed.stale, "a mirror that lags is no failure yet");

    // Active again under a newer head: a revocation seen stays.
    live.publish(&[Case::new().entry], 0);
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, Err(Code::Revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_missing_or_forged_under_a_newer_head() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let (registry, _audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    live.publish(&[], 0);
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, stale("2"));

    let mut case = Case::new();
    case.entry.selected = listed("hello", "3", "any", &key(3));
    case.entry.earlier.push(listed("hello", "2", "any", &key(2)));
    live.publish(&[case.entry], 0);
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, Err(Code::KeyNotAuthorised));
    let hello = registry.server(&"hello".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(hello.admitted().len(), 1, "the version admitted before stays usable by path");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_catalogue_every_name_says_why() {
    let live = Live::new();
    live.write("site/head.json", b"<html>log in</html>");
    let (registry, _audit) = live.host().await;
    assert_eq!(registry.refresh_now().await.unwrap_err().code, Code::NotARegistry);
    assert_eq!(selected(&registry).await, Err(Code::NotARegistry));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hard_stop_at_max_stale() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 3 * 86_400);
    let (registry, _audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, fresh("2"));
    live.reload(&registry, "max_stale = \"2d\"\n").await;
    assert_eq!(selected(&registry).await, Err(Code::HeadExpired));
}

/// A successor knows what its predecessor may have given out: to read on, or with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_shown_once_keeps_its_slot() {
    let withdrawn = |status| {
        let mut case = Case::new();
        case.status("2", status);
        case.entry
    };
    let mut dropped = Case::new().entry;
    dropped.selected = listed("hello", "3", "any", &key(2));
    dropped.earlier.clear();
    for (entry, expected) in [
        (Some(withdrawn(Status::Revoked)), Err(Code::Revoked)),
        (Some(withdrawn(Status::Yanked)), Ok(())),
        (Some(dropped), Ok(())),
        (None, Ok(())),
    ] {
        let live = Live::new();
        live.publish(&[Case::new().entry], 0);
        let (registry, audit) = live.host().await;
        registry.refresh_now().await.unwrap();
        let held = registry.server(&"hello".parse().unwrap()).await.unwrap().unwrap().selected.clone().unwrap();
        live.publish(&entry.into_iter().collect::<Vec<_>>(), 0);
        registry.refresh_now().await.unwrap();
        let before = registry.check_open(&held).map(drop).map_err(|refusal| refusal.code);
        assert_eq!(before, expected);
        audit.close();
        drop(registry);
        let (registry, _audit) = live.host().await;
        let Some(Slot::Release(again)) = registry.by_slot(held.slot) else { panic!("{expected:?}") };
        assert_eq!((again.statement, &again.payload, &again.keys), (held.statement, &held.payload, &held.keys));
        assert_eq!(registry.check_open(&again).map(drop).map_err(|refusal| refusal.code), expected);
    }

    // Signed by a key that counts no more: nothing of it is believed, and the reason is known.
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let (registry, audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    let held = registry.server(&"hello".parse().unwrap()).await.unwrap().unwrap().selected.clone().unwrap();
    audit.close();
    drop(registry);
    live.write("trust.json", &root("demo/cases", (2, 1, 1), &key(1), &key(3)).encode());
    let (registry, _audit) = live.host().await;
    let Some(Slot::Refused(refusal)) = registry.by_slot(held.slot) else { panic!("a slot") };
    assert_eq!(refusal.code, Code::KeyNotAuthorised, "{refusal}");
    assert!(refusal.message.starts_with("hello 2: "), "{refusal}");
}

/// Who serves next says how the last look ended until it has looked itself, unless that is long ago.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_look_is_remembered() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let (registry, audit) = live.host().await;
    assert!(registry.snapshot().refreshed.stale && registry.snapshot().refreshed.outcome.is_err(), "a first start");
    registry.refresh_now().await.unwrap();
    audit.close();
    drop(registry);
    let (registry, audit) = live.host().await;
    assert_eq!(selected(&registry).await, fresh("2"));
    live.take_away_the_site();
    let refusal = registry.refresh_now().await.unwrap_err();
    audit.close();
    drop(registry);
    let (registry, audit) = live.host().await;
    assert_eq!(registry.snapshot().refreshed.outcome, Err(refusal));
    assert_eq!(selected(&registry).await, stale("2"));
    audit.close();
    drop(registry);
    for moved in [-3600, 60] {
        let state = rusqlite::Connection::open(live.dir.path().join("state/state.db")).unwrap();
        let sql = "UPDATE look SET at = ?1, code = NULL, stale = 0";
        state.execute(sql, [crate::registry::now().plus(moved).unix()]).unwrap();
        drop(state);
        let (registry, audit) = live.host().await;
        let refreshed = registry.snapshot().refreshed.clone();
        assert!(refreshed.stale && refreshed.outcome.is_err(), "moved by {moved}: {refreshed:?}");
        audit.close();
    }
}
