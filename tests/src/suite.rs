//! The test binary's frame: names, read modes, and the line that says which modes ran.
//!
//! Everything about a mount must hold whether the kernel reads the cache's files itself or
//! asks the daemon, so a mounted test is registered once for each mode. As root both modes
//! run; an ordinary user has only cached reads. `MODES=cached` restricts a run on purpose;
//! without it a full run in which a mode is missing fails, so that a kernel or a container
//! without passthrough cannot quietly halve the suite.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::host::Reads;
use crate::registry::Registry;
use crate::scratch::is_root;

/// How long one test may take. The longest takes a minute or two on a busy machine of two cores,
/// and each wait within a test is shorter than this: only what hangs is ended by it.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// The tests of a run.
#[derive(Debug)]
pub struct Suite {
    trials: Vec<Trial>,
    modes: Vec<Reads>,
    restricted: bool,
    attacks: Vec<Attack>,
}

/// An attack that a test tries, as docs/threat-model.md tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attack {
    /// Where it comes from: a section of the page.
    pub from: &'static str,
    /// The test.
    pub test: &'static str,
    /// What is tried.
    pub what: &'static str,
    /// What it must come to; the test passes only if it asserted each of them.
    pub outcomes: &'static [&'static str],
}

impl Attack {
    /// An attack from a section of the page.
    pub const fn new(
        from: &'static str,
        test: &'static str,
        what: &'static str,
        outcomes: &'static [&'static str],
    ) -> Self {
        Self { from, test, what, outcomes }
    }
}

impl Suite {
    /// An empty suite with the modes of this user, or of `MODES`.
    ///
    /// # Panics
    /// If `MODES` names something else than modes.
    pub fn new() -> Self {
        let all = if is_root() { vec![Reads::Passthrough, Reads::Cached] } else { vec![Reads::Cached] };
        let Ok(named) = std::env::var("MODES") else {
            return Self { trials: Vec::new(), modes: all, restricted: false, attacks: Vec::new() };
        };
        let mode = |word: &str| {
            let known = [Reads::Passthrough, Reads::Cached];
            known
                .into_iter()
                .find(|mode| mode.word() == word)
                .unwrap_or_else(|| panic!("MODES: {word:?} is no read mode"))
        };
        let modes = named.split(',').map(mode).collect();
        Self { trials: Vec::new(), modes, restricted: true, attacks: Vec::new() }
    }

    /// A test that needs no mount, or always the same one.
    pub fn plain(&mut self, name: &str, test: fn()) {
        self.trials.push(Trial::test(name, move || within(LIMIT, test)));
    }

    /// A test of a mount, once for each mode.
    pub fn mounted(&mut self, name: &str, test: fn(Reads)) {
        for &mode in &self.modes {
            self.trials
                .push(Trial::test(format!("{name} [{}]", mode.word()), move || within(LIMIT, move || test(mode))));
        }
    }

    /// An attack that needs no mount, or always the same one.
    pub fn attack(&mut self, attack: Attack, test: fn()) {
        self.attacks.push(attack);
        let test = move || crate::proof::expect(attack.outcomes, test);
        self.trials.push(Trial::test(attack.test, move || within(LIMIT, test)));
    }

    /// An attack on a mount, once for each mode.
    pub fn mounted_attack(&mut self, attack: Attack, test: fn(Reads)) {
        self.attacks.push(attack);
        for &mode in &self.modes {
            let test = move || crate::proof::expect(attack.outcomes, || test(mode));
            self.trials.push(Trial::test(format!("{} [{}]", attack.test, mode.word()), move || within(LIMIT, test)));
        }
    }

    /// An attack that only root can try; it is told of also where it is not tried.
    pub fn root_attack(&mut self, attack: Attack, test: fn()) {
        if is_root() {
            self.attack(attack, test);
        } else {
            self.attacks.push(attack);
        }
    }

    /// The same on a mount, once for each mode.
    pub fn root_mounted_attack(&mut self, attack: Attack, test: fn(Reads)) {
        if is_root() {
            self.mounted_attack(attack, test);
        } else {
            self.attacks.push(attack);
        }
    }

    /// The attacks so far.
    pub fn attacks(&self) -> &[Attack] {
        &self.attacks
    }

    /// The names of the tests so far, those on mounts with their mode.
    pub fn names(&self) -> Vec<String> {
        self.trials.iter().map(|trial| trial.name().to_owned()).collect()
    }

    /// A test that was put together when it was registered.
    pub fn prepared(&mut self, name: &str, test: impl FnOnce() + Send + 'static) {
        self.trials.push(Trial::test(name, move || within(LIMIT, test)));
    }

    /// Runs what the command line selects, and says which modes ran.
    pub fn run(self) -> ExitCode {
        let arguments = Arguments::from_args();
        let mounted = self.trials.iter().any(|trial| trial.name().ends_with(']'));
        let whole =
            mounted && arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list && !arguments.ignored;
        let conclusion = libtest_mimic::run(&arguments, self.trials);
        Registry::drop_shared();
        let ran = RAN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let words: Vec<&str> = ran.iter().map(|mode| mode.word()).collect();
        println!("modes run: {}", if words.is_empty() { "none".to_owned() } else { words.join(", ") });
        if whole && !self.restricted && !self.modes.iter().all(|mode| ran.contains(mode)) {
            println!("a mode is missing; if that is wanted, say so with MODES={}", words.join(","));
            return ExitCode::FAILURE;
        }
        conclusion.exit_code()
    }
}

/// Runs a test in a thread of its own. One that hangs fails, and the others go on: its thread stays
/// behind, and the run's guard ends what it started.
///
/// # Errors
/// That it did not end within `limit`.
fn within(limit: Duration, test: impl FnOnce() + Send + 'static) -> Result<(), Failed> {
    let (sender, ended) = channel();
    let running = std::thread::Builder::new();
    let running = running.spawn(move || drop(sender.send(catch_unwind(AssertUnwindSafe(test)))))?;
    match ended.recv_timeout(limit) {
        Ok(outcome) => {
            running.join().expect("it has sent its last word");
            outcome.map_err(|panic| resume_unwind(panic))
        }
        Err(RecvTimeoutError::Timeout) => {
            Err(format!("it hangs: it did not end within {} minutes and was left behind", limit.as_secs() / 60).into())
        }
        Err(RecvTimeoutError::Disconnected) => Err("its thread ended without a word".into()),
    }
}

/// A test of `within` itself, for the suite of the harness's parts.
///
/// # Panics
/// If a test that hangs is not told, or one that panics or ends is.
pub fn a_hanging_test_is_told() {
    assert!(within(Duration::from_secs(120), || ()).is_ok());
    let failed = within(Duration::from_millis(50), || std::thread::sleep(Duration::from_secs(3)));
    let said = failed.expect_err("it hangs").message().unwrap_or_default().to_owned();
    assert!(said.starts_with("it hangs: "), "{said}");
    let panic = catch_unwind(|| within(Duration::from_secs(120), || panic!("its own words")));
    assert_eq!(panic.expect_err("it panics").downcast_ref::<&str>(), Some(&"its own words"));
}

impl Default for Suite {
    fn default() -> Self {
        Self::new()
    }
}

static RAN: Mutex<BTreeSet<Reads>> = Mutex::new(BTreeSet::new());

/// Notes that a mount was served in this mode.
pub(crate) fn ran(mode: Reads) {
    RAN.lock().unwrap_or_else(PoisonError::into_inner).insert(mode);
}
