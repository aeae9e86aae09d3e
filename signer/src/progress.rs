//! How far long work is: bars on a terminal, else a line now and then, or nothing.
//!
//! Everything goes to stderr; with `--json` there is nothing, since programs read that. A terminal that cannot
//! move its cursor (`TERM=dumb`) gets lines. Bars are never wider than the terminal: one that wraps could not be
//! wiped.

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

    /// Bars if stderr is a terminal that can show them, else lines.
    pub fn on_stderr() -> Self {
        let plain = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Self(if stderr().is_terminal() && !plain { Kind::Bars(MultiProgress::new()) } else { Kind::Lines })
    }

    /// Whether what is written to stderr may have colours: <https://no-color.org>.
    pub fn may_colour() -> bool {
        let colourless = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        matches!(Self::on_stderr().0, Kind::Bars(_)) && !colourless
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
        self.begin(what, unit, total, (total > 0).then(|| styled(what, unit, total)))
    }

    /// Begins work of which nobody knows how much it is.
    pub fn count(&self, what: &str, unit: Unit) -> Task {
        self.begin(what, unit, 0, Some(counter(what, unit)))
    }

    fn begin(&self, what: &str, unit: Unit, total: u64, bar: Option<ProgressBar>) -> Task {
        let bar = match &self.0 {
            Kind::Bars(bars) => bar.map(|bar| bars.add(bar)),
            Kind::Lines | Kind::Silent => None,
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
            let amount = |number: u64| match self.unit {
                Unit::Bytes => format!("{} MiB", number >> 20),
                Unit::Items => number.to_string(),
            };
            match self.total {
                0 => tell!("{:<10} {}", self.what, amount(done)),
                total => tell!("{:<10} {} of {}", self.what, amount(done), amount(total)),
            }
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

/// Without an end: the name last, and no longer than there is room.
fn counter(what: &str, unit: Unit) -> ProgressBar {
    let counts = if unit == Unit::Bytes { "{bytes:>10}" } else { "{pos:>10}" };
    let bar = ProgressBar::no_length().with_message(what.to_owned());
    match ProgressStyle::with_template(&format!("{counts} {{wide_msg}}")) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
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
