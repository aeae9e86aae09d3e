//! Where a process that mounts or serves has its configuration from.
//!
//! Whoever is started by a person reads the host's files. A worker reads none of them: it is handed what its
//! supervisor read ([`crate::supervisor::charge`]).

use super::{Failure, MountArgs, by_hand};
use crate::cli::Global;
use crate::config::{Config, ConfigError, Texts};
use crate::refusal::{Exit, with_cause};
use crate::supervisor::Left;
use crate::supervisor::charge::{self, Handed};
use crate::worker::Link;

/// What was read, and by whom.
pub(super) enum Source {
    /// With what was in force under the supervisor before this one.
    Files(Texts, Option<Handed>),
    /// The supervisor before this one died, or what is on the disk cannot be used, and systemd keeps a mount that was
    /// served without it.
    Kept(Handed),
    Supervisor(Handed),
}

impl Source {
    /// `left` is what the supervisor before this one has left with systemd, if it left a session.
    pub(super) fn read(global: &Global, args: &MountArgs, left: Option<&Left>) -> Result<Self, Failure> {
        if !args.worker {
            let file = global.file();
            let kept = args.keep_mount.then(charge::kept).flatten();
            // Another version of this program may not understand it, and another file is another configuration.
            let goes_on = |kept: &Handed| left.is_some_and(Left::died) && kept.is_of(&file) && kept.config().is_ok();
            let kept = match kept {
                Some(kept) if goes_on(&kept) => return Ok(Self::Kept(kept)),
                kept => kept,
            };
            let read = Texts::read(&file).and_then(Texts::with_groups);
            return match (read, kept) {
                (Ok(texts), kept) => Ok(Self::Files(texts, kept)),
                (Err(error), Some(kept)) => Ok(Self::Kept(kept.because(with_cause(&error)))),
                // A directory service that does not answer yet may do so at the next try.
                (Err(error @ ConfigError::Unanswered { .. }), None) => Err(Failure::new(Exit::Refused, &error)),
                (Err(error), None) => Err(Failure::new(Exit::Usage, &error)),
            };
        }
        let handed = Link::is_expected().and_then(|()| Link::charge());
        handed.map(Self::Supervisor).map_err(|error| by_hand(&error))
    }

    pub(super) fn config(&self, args: &MountArgs) -> Result<Config, Failure> {
        let usage = |error: &dyn std::error::Error| Failure::new(Exit::Usage, error);
        let config = match self {
            Self::Files(texts, _) => texts.config(),
            Self::Kept(handed) | Self::Supervisor(handed) => handed.config(),
        };
        let mut config = config.map_err(|error| usage(&error))?;
        if let Some(at) = &args.at {
            config.mount.at = std::path::absolute(at).map_err(|error| usage(&error))?;
        }
        if let Some(format) = args.log_format {
            config.log.format = format;
        }
        Ok(config)
    }
}
