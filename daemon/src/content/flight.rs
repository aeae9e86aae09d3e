//! Single flight: however many want the same thing, it is done once.
//!
//! The work runs in a task of its own, so a waiter that gives up stops nobody else's wait.
//! A flight stays joinable until its [`Landing`] is dropped, which may be later than its
//! result: who comes between the two gets the result without new work.
//!
//! What nobody waited for at its start belongs to whoever first waits: the audit names a
//! transfer's first waiter, and a transfer that began ahead of the need has none yet.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::gate::Class;

type Map<K, V> = Arc<Mutex<HashMap<K, Flight<V>>>>;

#[derive(Debug)]
pub(super) struct Flights<K, V>(Map<K, V>);

#[derive(Debug)]
struct Flight<V> {
    result: watch::Receiver<Option<V>>,
    hurry: Arc<Notify>,
    /// It began in the background and nobody has waited for it.
    unclaimed: bool,
}

/// A place in a flight.
#[derive(Debug)]
pub(super) struct Seat<V> {
    result: watch::Receiver<Option<V>>,
    /// The flight counts as this seat's: it started it, or was the first to wait for it.
    pub(super) first: bool,
}

/// The working side of a flight.
#[derive(Debug)]
pub(super) struct Landing<K: Hash + Eq, V> {
    key: K,
    map: Map<K, V>,
    result: watch::Sender<Option<V>>,
    hurry: Arc<Notify>,
    listed: bool,
}

impl<K: Hash + Eq + Clone, V: Clone> Flights<K, V> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Joins the flight for `key`, or starts it with `work` if that is `needed`. A foreground
    /// request hurries a flight that began in the background.
    ///
    /// `needed` is asked, quickly, while no flight can begin or end: whoever saw that
    /// something is missing just before a flight brought it would otherwise start another.
    pub(super) fn join<W>(
        &self,
        runtime: &Handle,
        key: K,
        class: Class,
        needed: impl FnOnce() -> bool,
        work: impl FnOnce(Landing<K, V>) -> W,
    ) -> Option<Seat<V>>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let mut map = lock(&self.0);
        if let Some(flight) = map.get_mut(&key) {
            let waits = class == Class::Foreground;
            if waits {
                flight.hurry.notify_one();
            }
            let first = waits && std::mem::take(&mut flight.unclaimed);
            return Some(Seat { result: flight.result.clone(), first });
        }
        if !needed() {
            return None;
        }
        let (sender, result) = watch::channel(None);
        let hurry = Arc::new(Notify::new());
        let unclaimed = class == Class::Background;
        map.insert(key.clone(), Flight { result: result.clone(), hurry: hurry.clone(), unclaimed });
        drop(map);
        runtime.spawn(work(Landing { key, map: self.0.clone(), result: sender, hurry, listed: true }));
        Some(Seat { result, first: true })
    }

    /// Whether the flight for `key` has its first waiter.
    #[cfg(test)]
    pub(super) fn is_claimed(&self, key: &K) -> bool {
        lock(&self.0).get(key).is_some_and(|flight| !flight.unclaimed)
    }

    /// Hurries the flight for `key`, if there is one.
    pub(super) fn hurry(&self, key: &K) {
        if let Some(flight) = lock(&self.0).get(key) {
            flight.hurry.notify_one();
        }
    }
}

impl<V: Clone> Seat<V> {
    /// The result; `None` if the work died.
    pub(super) async fn landed(mut self) -> Option<V> {
        self.result.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<K: Hash + Eq, V> Landing<K, V> {
    /// Resolves when somebody waits for what began in the background.
    pub(super) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Gives the result and keeps the flight joinable.
    pub(super) fn publish(&self, value: V) {
        self.result.send_replace(Some(value));
    }

    /// Ends the flight with its result; who comes later starts anew.
    pub(super) fn end(mut self, value: V) {
        self.unlist();
        self.publish(value);
    }

    fn unlist(&mut self) {
        if std::mem::take(&mut self.listed) {
            lock(&self.map).remove(&self.key);
        }
    }
}

impl<K: Hash + Eq, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.unlist();
    }
}

fn lock<K, V>(map: &Mutex<HashMap<K, Flight<V>>>) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}
