//! Which blow a wait belongs to.
//!
//! Blows fall beside each other: a worker is killed while the network is at fault, or just after another one was
//! stopped. A wait that lasts through several of them belongs to the one that it lasted through longest. A fault
//! of the network or a full disk is a reason only for what had to be fetched then.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What was done to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// A worker was killed.
    Killed,
    /// One was stopped.
    Stopped,
    /// The supervisor was killed.
    SupervisorKilled,
    /// It and its worker were killed at once.
    BothKilled,
    /// systemd restarted the service.
    Restarted,
    /// Another version was installed.
    Upgraded,
    /// The network was at fault.
    Network,
    /// Others had filled the disk.
    Disk,
    /// None of these.
    Nothing,
}

impl Blow {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Killed => "a killed worker",
            Self::Stopped => "a stopped worker",
            Self::SupervisorKilled => "a killed supervisor",
            Self::BothKilled => "a killed supervisor and its killed worker",
            Self::Restarted => "a restart",
            Self::Upgraded => "an upgrade",
            Self::Network => "the network's fault",
            Self::Disk => "a full disk",
            Self::Nothing => "nothing of these",
        }
    }

    fn hits(self, wait: &Wait) -> bool {
        match self {
            Self::Network | Self::Disk => wait.fetched,
            Self::Nothing => false,
            Self::Killed
            | Self::Stopped
            | Self::SupervisorKilled
            | Self::BothKilled
            | Self::Restarted
            | Self::Upgraded => true,
        }
    }
}

/// A blow, from when it fell until it was over.
#[derive(Debug, Clone, Copy)]
pub struct Struck {
    /// Of which kind.
    pub blow: Blow,
    /// When it fell.
    pub began: Instant,
    /// When it was over.
    pub over: Instant,
}

/// An operation that somebody had to wait for.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// In words.
    pub what: &'static str,
    /// When it began.
    pub started: Instant,
    /// How long it took.
    pub took: Duration,
    /// Something of it was not here.
    pub fetched: bool,
}

impl Wait {
    fn beside(&self, struck: &Struck) -> Option<Duration> {
        let end = (self.started + self.took).min(struck.over);
        end.checked_duration_since(self.started.max(struck.began))
    }

    /// The place of the blow that it belongs to.
    fn belongs_to(&self, all: &[Struck]) -> Option<usize> {
        let beside = all.iter().enumerate().filter(|(_, struck)| struck.blow.hits(self));
        let beside = beside.filter_map(|(at, struck)| Some((self.beside(struck)?, at)));
        // The first of those that it lasted through equally long.
        beside.max_by_key(|(time, at)| (*time, std::cmp::Reverse(*at))).map(|(_, at)| at)
    }
}

/// The longest waits, by what they belong to.
#[derive(Debug, Default)]
pub struct Stalls {
    /// The longest wait at each blow, sorted.
    pub each: BTreeMap<Blow, Vec<Duration>>,
    /// How many blows of a kind there were, and the longest wait that belongs to one.
    pub longest: BTreeMap<Blow, (usize, Option<Wait>)>,
}

impl Stalls {
    /// Gives each wait to the blow that it belongs to.
    pub fn of(blows: &[Struck], waits: &[Wait]) -> Self {
        let mut at: Vec<Option<Wait>> = vec![None; blows.len()];
        let mut other = None;
        let longer = |known: &mut Option<Wait>, wait: Wait| {
            if known.is_none_or(|known| known.took < wait.took) {
                *known = Some(wait);
            }
        };
        for wait in waits {
            longer(wait.belongs_to(blows).map_or(&mut other, |place| &mut at[place]), *wait);
        }
        let mut stalls = Self::default();
        stalls.longest.insert(Blow::Nothing, (0, other));
        for (struck, wait) in blows.iter().zip(at) {
            let (count, longest) = stalls.longest.entry(struck.blow).or_default();
            *count += 1;
            wait.into_iter().for_each(|wait| longer(longest, wait));
            stalls.each.entry(struck.blow).or_default().push(wait.map_or(Duration::ZERO, |wait| wait.took));
        }
        stalls.each.values_mut().for_each(|waits| waits.sort());
        stalls
    }
}
