//! The test binary's frame: names, read modes, and the line that says which modes ran.
//!
//! Everything about a mount must hold whether the kernel reads the cache's files itself or
//! asks the daemon, so a mounted test is registered once for each mode. As root both modes
//! run; an ordinary user has only cached reads. `MODES=cached` restricts a run on purpose;
//! without it a full run in which a mode is missing fails, so that a kernel or a container
//! without passthrough cannot quietly halve the suite.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};

use crate::host::Reads;
use crate::registry::Registry;
use crate::scratch::is_root;

/// The tests of a run.
#[derive(Debug)]
pub struct Suite {
    trials: Vec<Trial>,
    modes: Vec<Reads>,
    restricted: bool,
}

impl Suite {
    /// An empty suite with the modes of this user, or of `MODES`.
    ///
    /// # Panics
    /// If `MODES` names something else than modes.
    pub fn new() -> Self {
        let all = if is_root() { vec![Reads::Passthrough, Reads::Cached] } else { vec![Reads::Cached] };
        let Ok(named) = std::env::var("MODES") else {
            return Self { trials: Vec::new(), modes: all, restricted: false };
        };
        let mode = |word: &str| {
            let known = [Reads::Passthrough, Reads::Cached];
            known
                .into_iter()
                .find(|mode| mode.word() == word)
                .unwrap_or_else(|| panic!("MODES: {word:?} is no read mode"))
        };
        Self { trials: Vec::new(), modes: named.split(',').map(mode).collect(), restricted: true }
    }

    /// A test that needs no mount, or always the same one.
    pub fn plain(&mut self, name: &str, test: fn()) {
        self.trials.push(Trial::test(name, move || {
            test();
            Ok(())
        }));
    }

    /// A test of a mount, once for each mode.
    pub fn mounted(&mut self, name: &str, test: fn(Reads)) {
        for &mode in &self.modes {
            self.trials.push(Trial::test(format!("{name} [{}]", mode.word()), move || {
                test(mode);
                Ok(())
            }));
        }
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
