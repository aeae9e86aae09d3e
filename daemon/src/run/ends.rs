//! What this process is told by whoever keeps it, and that it goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Place;
use crate::daemon::Daemon;
use crate::fs::Pulse;
use crate::supervisor::wire::Message;
use crate::worker::{Link, Wish};

/// How long a thread of the mount may take for one answer: none waits for a network.
const HELD_UP: Duration = Duration::from_secs(4);

/// Tells the supervisor every second that this process goes on: that its runtime turns, and that
/// no thread of the mount is held up.
///
/// Not by asking the mount itself: a process that waits for its own answer cannot be killed, and
/// nobody may take its place before it is dead.
pub(super) async fn beat(link: Arc<Link>, pulse: Arc<Pulse>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match pulse.longest() {
            held if held < HELD_UP => link.tell(&Message::Beat),
            held => tracing::error!(?held, "a thread of the mount is held up"),
        }
    }
}

/// What asks this process to end, or to read its configuration again.
pub(super) enum Ends {
    Signals(Signals),
    /// With the signals that are taken and not answered.
    Supervisor(
        mpsc::Receiver<Wish>,
        Arc<Link>,
        #[expect(dead_code, reason = "held: without a taker they would end this process")] Signals,
    ),
}

impl Ends {
    pub(super) fn new(place: &Place) -> std::io::Result<Self> {
        let signals = Signals::new()?;
        match place {
            Place::Own { .. } => Ok(Self::Signals(signals)),
            // A terminal's signals come to the worker too, and are for the supervisor to answer.
            Place::Handed { link, .. } => Ok(Self::Supervisor(link.wishes()?, Arc::clone(link), signals)),
        }
    }

    /// Returns when this process is asked to end.
    pub(super) async fn follow(&mut self, daemon: &Daemon) {
        while let Some(Wish::Reload) = self.next().await {
            // What was refused has been logged and recorded; the old stays in force. A reload
            // waits for a look at the site under way, and being asked to end must not.
            let mut again = false;
            tokio::select! {
                outcome = daemon.reload() => {
                    drop(outcome);
                    // Whoever reloads and then looks finds what now holds.
                    daemon.registry.shown().await;
                }
                wish = self.next() => match wish {
                    Some(Wish::Reload) => again = true,
                    _ => return,
                },
            }
            if again {
                drop(daemon.reload().await);
            }
            if let Self::Supervisor(_, link, _) = self {
                link.tell(&Message::Reloaded);
            }
        }
    }

    async fn next(&mut self) -> Option<Wish> {
        match self {
            Self::Supervisor(wishes, ..) => wishes.recv().await,
            Self::Signals(signals) => tokio::select! {
                _ = signals.end.recv() => Some(Wish::Stop),
                _ = signals.interrupt.recv() => Some(Wish::Stop),
                _ = signals.hangup.recv() => Some(Wish::Reload),
            },
        }
    }
}

pub(super) struct Signals {
    end: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            end: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}
