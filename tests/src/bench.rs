//! What the benchmarks share: interleaved pairs, medians, and a process's own figures.

use std::fmt;
use std::time::Duration;

/// Medians of two things measured in turn.
#[derive(Debug, Clone)]
pub struct Pair {
    ours: Vec<Duration>,
    theirs: Vec<Duration>,
}

/// Measures `ours` and `theirs` in turn, `rounds` times each.
pub fn interleave(rounds: usize, mut ours: impl FnMut() -> Duration, mut theirs: impl FnMut() -> Duration) -> Pair {
    let mut pair = Pair { ours: Vec::new(), theirs: Vec::new() };
    for _ in 0..rounds {
        pair.ours.push(ours());
        pair.theirs.push(theirs());
    }
    pair.ours.sort();
    pair.theirs.sort();
    pair
}

impl Pair {
    /// One row: both medians, and ours in units of theirs (time, so less is better).
    pub fn figure(&self, what: &str, peer: &str, show: impl Fn(Duration) -> String, goal: &str) -> Figure {
        let (ours, theirs) = (self.ours[self.ours.len() / 2], self.theirs[self.theirs.len() / 2]);
        Figure {
            what: what.to_owned(),
            ours: show(ours),
            peer: format!("{} ({peer})", show(theirs)),
            figure: format!("{:.2}", ours.as_secs_f64() / theirs.as_secs_f64()),
            goal: goal.to_owned(),
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Figure {
    what: String,
    ours: String,
    peer: String,
    figure: String,
    goal: String,
}

impl Figure {
    /// A row without a peer.
    pub fn plain(what: &str, ours: String, goal: &str) -> Self {
        Self { what: what.to_owned(), ours, peer: "-".to_owned(), figure: "-".to_owned(), goal: goal.to_owned() }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | {} | {} | {} |", self.what, self.ours, self.peer, self.figure, self.goal)
    }
}

/// A process's user and system time so far, seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // After the name, which may hold anything, come state and numbers; 11 and 12 of them are ticks.
    let rest = stat.rsplit(')').next().expect("a name");
    let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// A process's resident memory, MiB.
pub fn resident_mib(pid: u32) -> f64 {
    mib(pid, "VmRSS:").expect("it runs")
}

/// The most resident memory that a process ever had, MiB; none if it has ended.
pub fn peak_mib(pid: u32) -> Option<f64> {
    mib(pid, "VmHWM:")
}

fn mib(pid: u32, field: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim_end_matches("kB").trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
}
