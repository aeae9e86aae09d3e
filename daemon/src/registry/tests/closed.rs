//! When in doubt, no: an audit that cannot be written, a clock that went back, configuration
//! that hides what is open, names that nobody knows.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mcpfs_trust::error::Code;
use mcpfs_trust::name::ServerName;

use super::selection::Case;
use super::{Live, fresh, selected, stale, version};
use crate::registry::clock::{Clock, Reading};
use crate::registry::{Registry, now};

const DAY: i64 = 86_400;

fn hello() -> ServerName {
    "hello".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_lookup_that_cannot_be_recorded_is_no_missing_name() {
    let live = Live::new();
    live.publish(&[], 0);
    let (registry, _audit) = live.host().await;
    registry.refresh_now().await.unwrap();
    assert!(registry.server(&hello()).await.unwrap().is_none());
    // The head is recorded, the decision about its server is not: a disk that fills up in between.
    let other = rusqlite::Connection::open(live.dir.path().join("audit.db")).unwrap();
    let kind = format!("{:?}", crate::audit::EventKind::Verify.as_str());
    let trigger = "CREATE TRIGGER no BEFORE INSERT ON event WHEN NEW.event = KIND BEGIN SELECT RAISE(ABORT, 'no'); END";
    other.execute_batch(&trigger.replace("KIND", &kind.replace('"', "'"))).unwrap();
    live.publish(&[Case::new().entry], 0);
    assert_eq!(registry.refresh_now().await.unwrap_err().code, Code::AuditUnavailable);
    let refusal = registry.server(&hello()).await.unwrap_err();
    assert_eq!(refusal.code, Code::AuditUnavailable);
    assert!(refusal.message.contains("audit"), "{refusal}");
    assert!(registry.server(&"nobody".parse().unwrap()).await.unwrap().is_none(), "that one is known to be missing");
    other.execute_batch("DROP TRIGGER no").unwrap();
    assert!(registry.server(&hello()).await.unwrap().unwrap().selected.is_ok());
}

/// A clock that is `wall` seconds ahead of the host's, and has run for `running` seconds.
fn set_by(set: &Arc<Mutex<(i64, u64)>>) -> Clock {
    let set = Arc::clone(set);
    Clock::reading(move || {
        let (wall, running) = *set.lock().unwrap();
        Reading { wall: now().plus(wall), running: Duration::from_secs(running) }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lag_is_counted_by_a_clock_that_nobody_sets() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let set = Arc::new(Mutex::new((0, 1000)));
    let (registry, _audit) = live.host_by(set_by(&set)).await;
    registry.refresh_now().await.unwrap();
    let older = std::fs::read(live.dir.path().join("site/head.json")).unwrap();
    live.publish(&[Case::new().entry], 0);
    registry.refresh_now().await.unwrap();
    live.write("site/head.json", &older);
    for (wall, running, stale) in [(0, 1000, false), (DAY, 1899, false), (-60, 1900, true)] {
        *set.lock().unwrap() = (wall, running);
        assert_eq!(registry.refresh_now().await.unwrap_err().code, Code::HeadRollback);
        assert_eq!(registry.snapshot().refreshed.stale, stale, "{running} s");
    }
}

async fn first_version(registry: &Registry) -> Result<(), Code> {
    let server = registry.server(&hello()).await.unwrap().unwrap();
    registry.version(&server, &version("1")).await.unwrap().map(drop).map_err(|refusal| refusal.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_far_back_keeps_nothing_alive() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let set = Arc::new(Mutex::new((0, 0)));
    let (registry, _audit) = live.host_by(set_by(&set)).await;
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, fresh("2"));

    // A year back: what runs is stale at once, no head is believed, and nothing new is admitted.
    *set.lock().unwrap() = (-365 * DAY, 3600);
    assert_eq!(selected(&registry).await, stale("2"));
    assert_eq!(first_version(&registry).await, Err(Code::ClockRollback));
    assert_eq!(registry.refresh_now().await.unwrap_err().code, Code::ClockRollback);
    // The time that it has run since counts: it ends where it would have ended.
    *set.lock().unwrap() = (-365 * DAY, 29 * DAY as u64);
    registry.refresh_now().await.unwrap_err();
    assert_eq!(selected(&registry).await, stale("2"));
    *set.lock().unwrap() = (-365 * DAY, 30 * DAY as u64 + 60);
    let running = registry.server(&hello()).await.unwrap().unwrap().selected.clone().unwrap();
    assert_eq!(registry.check_open(&running).unwrap_err().code, Code::HeadExpired, "also before the next look");
    registry.refresh_now().await.unwrap_err();
    assert_eq!(selected(&registry).await, Err(Code::HeadExpired));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_ended_by_the_running_time_admits_nothing_new() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 6 * DAY);
    let set = Arc::new(Mutex::new((0, 0)));
    let (registry, _audit) = live.host_by(set_by(&set)).await;
    registry.refresh_now().await.unwrap();
    // Set back by less than the age of the head: no signature contradicts the clock.
    *set.lock().unwrap() = (-5 * DAY, 7 * DAY as u64);
    assert_eq!(first_version(&registry).await, Err(Code::HeadExpired));
    assert_eq!(registry.refresh_now().await.unwrap_err().code, Code::HeadExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_leaves_nothing_behind() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let set = Arc::new(Mutex::new((0, 0)));
    let (registry, _audit) = live.host_by(set_by(&set)).await;
    registry.refresh_now().await.unwrap();
    live.take_away_the_site();
    *set.lock().unwrap() = (40 * DAY, 10);
    registry.refresh_now().await.unwrap_err();
    assert_eq!(selected(&registry).await, Err(Code::HeadExpired));
    *set.lock().unwrap() = (0, 20);
    registry.refresh_now().await.unwrap_err();
    assert_eq!(selected(&registry).await, stale("2"), "without the site, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wrong_clock_refused_is_decided_again() {
    for wrong in [8 * DAY, -DAY] {
        let live = Live::new();
        live.publish(&[Case::new().entry], 0);
        let set = Arc::new(Mutex::new((0, 0)));
        let (registry, _audit) = live.host_by(set_by(&set)).await;
        registry.refresh_now().await.unwrap();
        assert_eq!(selected(&registry).await, fresh("2"));
        *set.lock().unwrap() = (wrong, 10);
        live.reload(&registry, "[pins]\nhello = \"1\"\n").await;
        let code = if wrong > 0 { Code::HeadExpired } else { Code::ClockRollback };
        assert_eq!(selected(&registry).await, Err(code), "it was not admitted while the clock was right");
        // The clock is right again, and the head is the same as before.
        *set.lock().unwrap() = (0, 20);
        registry.refresh_now().await.unwrap();
        assert_eq!(selected(&registry).await, fresh("1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_configuration_no_longer_shows_is_not_opened_again() {
    for (more, why) in [
        ("[pins]\ndefault = \"none\"\n", "mcpfs pin hello"),
        ("[policy]\nhide = [\"hel*\"]\n", "policy.hide"),
        ("[policy]\nexpose = [\"other\"]\n", "policy.expose"),
    ] {
        let live = Live::new();
        live.publish(&[Case::new().entry], 0);
        let (registry, _audit) = live.host().await;
        registry.refresh_now().await.unwrap();
        let running = registry.server(&hello()).await.unwrap().unwrap().selected.clone().unwrap();
        registry.check_open(&running).unwrap();
        live.reload(&registry, more).await;
        // By name, and by whoever holds its directory open.
        assert_eq!(selected(&registry).await, Err(Code::PolicyRefused), "{more}");
        let refusal = registry.check_open(&running).unwrap_err();
        assert_eq!(refusal.code, Code::PolicyRefused, "{more}");
        assert!(refusal.message.contains(why), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_names_take_nothing_from_others() {
    let live = Live::new();
    live.write("site/head.json", b"<html>log in</html>");
    let (registry, _audit) = live.host().await;
    registry.refresh_now().await.unwrap_err();
    for index in 0..10_000 {
        let made_up = registry.server(&format!("made-up-{index}").parse().unwrap()).await.unwrap().unwrap();
        assert!(registry.by_slot(made_up.slot).is_some());
    }
    assert_eq!(selected(&registry).await, Err(Code::NotARegistry), "a name of another user");
    let server = registry.server(&hello()).await.unwrap().unwrap();
    assert!(registry.by_slot(server.slot).is_some());
    // Once there is a catalogue, they are what it says.
    live.publish(&[Case::new().entry], 0);
    registry.refresh_now().await.unwrap();
    assert_eq!(selected(&registry).await, fresh("2"));
    assert!(registry.server(&"made-up-9999".parse().unwrap()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_stop_is_known_before_it_comes() {
    let live = Live::new();
    live.publish(&[Case::new().entry], 0);
    let set = Arc::new(Mutex::new((0, 0)));
    let (registry, _audit) = live.host_by(set_by(&set)).await;
    assert_eq!(registry.next_stop(), None, "nothing starts");
    registry.refresh_now().await.unwrap();
    for (days, share) in [(0, 0), (14, 46), (15, 50), (29, 96)] {
        *set.lock().unwrap() = (days * DAY, days as u64 * DAY as u64);
        let stop = registry.next_stop().unwrap();
        assert_eq!((stop.name.as_str(), stop.share), ("hello", share), "after {days} days");
        assert_eq!(stop.at, stop.issued.plus(30 * DAY));
    }
    *set.lock().unwrap() = (30 * DAY, 30 * DAY as u64);
    registry.refresh_now().await.unwrap_err();
    assert_eq!(registry.next_stop(), None);
}
