//! Admission of transfers: so many at once, and so many bytes in memory, foreground first.
//!
//! One gate holds both bounds because a transfer needs both before it starts. Within a class
//! the order is first come first served and the head of the queue is never overtaken, so a
//! large request is not starved by small ones. Background work is admitted only while no
//! foreground request waits and a quarter of everything stays free.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Who waits for a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// An open waits for it.
    Foreground,
    /// Nobody waits yet.
    Background,
}

#[derive(Debug)]
pub(super) struct Gate {
    slots: usize,
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free_slots: usize,
    free_bytes: u64,
    foreground: VecDeque<Waiter>,
    background: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    admit: oneshot::Sender<Grant>,
}

/// Leave to transfer. Dropping it gives everything back.
#[derive(Debug)]
pub(super) struct Grant {
    gate: Arc<Gate>,
    slots: usize,
    bytes: u64,
}

impl Gate {
    /// At most `slots` transfers and `bytes` bytes in flight.
    pub(super) fn new(slots: usize, bytes: u64) -> Arc<Self> {
        let slots = slots.max(1);
        let state =
            State { free_slots: slots, free_bytes: bytes, foreground: VecDeque::new(), background: VecDeque::new() };
        Arc::new(Self { slots, bytes, state: Mutex::new(state) })
    }

    /// Bytes granted now.
    pub(super) fn in_use(&self) -> u64 {
        self.bytes - self.lock().free_bytes
    }

    /// Waits for one slot and `bytes`. A request above the whole budget waits for all of it.
    pub(super) async fn admit(self: &Arc<Self>, class: Class, bytes: u64) -> Grant {
        let (admit, admitted) = oneshot::channel();
        {
            let mut state = self.lock();
            let waiter = Waiter { bytes: bytes.min(self.bytes), admit };
            match class {
                Class::Foreground => state.foreground.push_back(waiter),
                Class::Background => state.background.push_back(waiter),
            }
            self.pump(&mut state);
        }
        match admitted.await {
            Ok(grant) => grant,
            // A waiter leaves its queue only with a grant, so this cannot be reached while the gate lives.
            Err(_) => std::future::pending().await,
        }
    }

    fn pump(self: &Arc<Self>, state: &mut State) {
        while state.free_slots > 0 {
            let admitted = match state.foreground.front() {
                Some(first) if first.bytes <= state.free_bytes => state.foreground.pop_front(),
                Some(_) => None,
                None => match state.background.front() {
                    Some(first) if self.spares(state, first.bytes) => state.background.pop_front(),
                    _ => None,
                },
            };
            let Some(Waiter { bytes, admit }) = admitted else { return };
            let grant = Grant { gate: self.clone(), slots: 1, bytes };
            match admit.send(grant) {
                Ok(()) => {
                    state.free_slots -= 1;
                    state.free_bytes -= bytes;
                }
                // It stopped waiting: nothing was taken, and nothing may be given back.
                Err(mut grant) => (grant.slots, grant.bytes) = (0, 0),
            }
        }
    }

    fn spares(&self, state: &State, bytes: u64) -> bool {
        let idle = state.free_bytes == self.bytes;
        let slots = self.slots == 1 || state.free_slots > self.slots / 4;
        slots && bytes <= state.free_bytes && (idle || state.free_bytes - bytes >= self.bytes / 4)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(self: &Arc<Self>, slots: usize, bytes: u64) {
        if slots > 0 || bytes > 0 {
            let mut state = self.lock();
            state.free_slots += slots;
            state.free_bytes += bytes;
            self.pump(&mut state);
        }
    }
}

impl Grant {
    /// The transfer has ended; `bytes` of its result stay in memory.
    pub(super) fn landed(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        let slots = std::mem::take(&mut self.slots);
        self.gate.give_back(slots, surplus);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.gate.give_back(self.slots, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn foreground_overtakes_background_and_budgets_return() {
        let gate = Gate::new(1, 100);
        let held = gate.admit(Class::Foreground, 60).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (name, class) in [("b", Class::Background), ("f", Class::Foreground)] {
            let (gate, order) = (gate.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _grant = gate.admit(class, 50).await;
                order.lock().unwrap().push(name);
            }));
            yield_now().await;
        }
        assert!(order.lock().unwrap().is_empty());
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["f", "b"]);
        assert_eq!(gate.in_use(), 0);
    }

    #[tokio::test]
    async fn a_quarter_stays_free_of_background() {
        let gate = Gate::new(4, 100);
        let mut grants = vec![gate.admit(Class::Background, 30).await, gate.admit(Class::Background, 30).await];
        let (other, waiting) = (
            gate.clone(),
            tokio::spawn({
                let gate = gate.clone();
                async move { gate.admit(Class::Background, 30).await }
            }),
        );
        yield_now().await;
        assert!(!waiting.is_finished());
        grants.push(other.admit(Class::Foreground, 40).await);
        grants.clear();
        let mut last = waiting.await.unwrap();
        last.landed(10);
        assert_eq!(gate.in_use(), 10);
        drop(last);
        assert_eq!(gate.in_use(), 0);
    }

    #[tokio::test]
    async fn who_stops_waiting_takes_nothing() {
        let gate = Gate::new(1, 10);
        let held = gate.admit(Class::Foreground, 10).await;
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.admit(Class::Foreground, 10).await }
        });
        yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        drop(held);
        assert_eq!(gate.in_use(), 0);
        drop(gate.admit(Class::Background, 1000).await);
        assert_eq!(gate.in_use(), 0);
    }
}
