//! How far long work is: bars on a terminal, else a line now and then, or nothing.
//!
//! Everything goes to stderr; with `--json` there is nothing, since programs read that.

use std::io::{IsTerminal as _, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where there is no terminal, a line for each so many seconds.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Shows how far work is.
#[derive(Debug, Clone, Default)]
pub struct Progress(Kind);

#[derive(Debug, Clone, Default)]
enum Kind {
    Bars(MultiProgress),
    Lines,
    #[default]
    Silent,
}

/// One piece of work with a known end; gone from the screen when dropped.
#[derive(Debug)]
pub struct Task {
    bar: Option<ProgressBar>,
    lines: Option<Mutex<Instant>>,
    what: String,
    unit: Unit,
    total: u64,
    done: AtomicU64,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Anything else.
    Items,
}

impl Progress {
    /// Shows nothing.
    pub fn silent() -> Self {
        Self::default()
    }

    /// Bars if stderr is a terminal, else lines.
    pub fn on_stderr() -> Self {
        Self(if stderr().is_terminal() { Kind::Bars(MultiProgress::new()) } else { Kind::Lines })
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        match &self.0 {
            // A terminal that went away is no reason to stop.
            Kind::Bars(bars) => drop(bars.println(line)),
            Kind::Lines => tell!("{line}"),
            Kind::Silent => {}
        }
    }

    /// Begins work of `total` units.
    pub fn start(&self, what: &str, unit: Unit, total: u64) -> Task {
        let bar = match &self.0 {
            Kind::Bars(bars) if total > 0 => Some(bars.add(styled(what, unit, total))),
            _ => None,
        };
        let lines = matches!(self.0, Kind::Lines).then(|| Mutex::new(Instant::now()));
        Task { bar, lines, what: what.to_owned(), unit, total, done: AtomicU64::new(0) }
    }
}

impl Task {
    /// So much more is done.
    pub fn add(&self, amount: u64) {
        let done = self.done.fetch_add(amount, Ordering::Relaxed).saturating_add(amount);
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        if let Some(last) = &self.lines
            && let Ok(mut last) = last.try_lock()
            && last.elapsed() >= BETWEEN_LINES
        {
            *last = Instant::now();
            let (done, total) = match self.unit {
                Unit::Bytes => (format!("{} MiB", done >> 20), format!("{} MiB", self.total >> 20)),
                Unit::Items => (done.to_string(), self.total.to_string()),
            };
            tell!("{:<10} {done} of {total}", self.what);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn styled(what: &str, unit: Unit, total: u64) -> ProgressBar {
    let counts = match unit {
        Unit::Bytes => "{bytes}/{total_bytes} {bytes_per_sec}",
        Unit::Items => "{pos}/{len}",
    };
    let bar = ProgressBar::new(total).with_message(what.to_owned());
    match ProgressStyle::with_template(&format!("{{msg:10}} [{{bar:30}}] {counts} {{eta}}")) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
