//! `mcpfs unmount`: takes the mount away, and with it ends the daemon.
//!
//! As `ExecStopPost=` of the unit it has a second task. systemd runs that after a stop, a restart
//! and a crash alike, and only a stop is to take the mount away: after the others another process
//! serves it again, and whoever uses it waits meanwhile. What is meant only systemd's job tells.

use std::path::PathBuf;
use std::process::Command;

use crate::cli::Global;
use crate::config::Config;
use crate::mount::Mountpoint;
use crate::refusal::{Exit, with_cause};

/// Options of `mcpfs unmount`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The mount point, instead of the one that the configuration says.
    #[arg(long, value_name = "DIR")]
    pub at: Option<PathBuf>,
    /// Only if systemd is stopping this unit for good (for its ExecStopPost=).
    #[arg(long, value_name = "UNIT")]
    pub if_stopped: Option<String>,
}

/// Unmounts, lazily if something of it is in use.
pub fn run(global: &Global, args: &Args) -> Exit {
    if let Some(unit) = &args.if_stopped
        && !is_stopping(unit)
    {
        return Exit::Ok;
    }
    let at = match &args.at {
        Some(at) => at.clone(),
        None => match Config::load(&global.file()) {
            Ok(config) => config.mount.at,
            Err(error) => {
                eprintln!("mcpfs: {}; or name the mount point: mcpfs unmount --at DIR", with_cause(&error));
                return Exit::Usage;
            }
        },
    };
    let unmounted = Mountpoint::mounted(&at).map_err(|error| with_cause(&error)).and_then(|point| match point {
        Some(point) => point.unmount().map(|()| true).map_err(|error| error.to_string()),
        None => Ok(false),
    });
    match unmounted {
        Ok(true) => Exit::Ok,
        Ok(false) if args.if_stopped.is_some() => Exit::Ok,
        Ok(false) => {
            eprintln!("mcpfs: nothing of mcpfs is mounted at {}", at.display());
            Exit::Refused
        }
        Err(problem) => {
            eprintln!("mcpfs: cannot unmount {}: {problem}", at.display());
            Exit::Refused
        }
    }
}

/// Whether systemd's job for the unit is a stop. After a crash there is none, and in a restart it is
/// one of another kind.
fn is_stopping(unit: &str) -> bool {
    let asked = Command::new("systemctl").args(["list-jobs", "--no-legend", "--plain", "--", unit]).output();
    match asked {
        Ok(answer) => stops(&String::from_utf8_lossy(&answer.stdout), unit),
        Err(error) => {
            eprintln!("mcpfs: cannot ask systemd whether {unit} is being stopped ({error}); the mount stays");
            false
        }
    }
}

/// Lines of number, unit, kind of job, state.
fn stops(jobs: &str, unit: &str) -> bool {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    jobs.lines()
        .map(words)
        .any(|job| job.get(1).is_some_and(|of| of == unit) && job.get(2).is_some_and(|kind| kind == "stop"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_is_one() {
        assert!(stops("412 mcpfs.service stop running\n", "mcpfs.service"));
        assert!(!stops("412 mcpfs.service restart running\n", "mcpfs.service"));
        assert!(!stops("412 other.service stop running\n413 mcpfs.service start waiting\n", "mcpfs.service"));
        assert!(!stops("No jobs running.\n", "mcpfs.service"));
        assert!(!stops("", "mcpfs.service"));
    }
}
