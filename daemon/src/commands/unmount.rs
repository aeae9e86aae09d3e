//! `mcpfs unmount`: takes the mount away, and with it ends the daemon.
//!
//! Units call it from `OnFailure=`, when systemd has given the service up: then nobody holds what was mounted any more, and
//! a ruin that fails or hangs is worse than nothing.

use std::path::{Path, PathBuf};

use super::unit::{Fate, Unit};
use crate::cli::Global;
use crate::config::Config;
use crate::mount::{self, FS_TYPE, MountError, Mountpoint};
use crate::refusal::{Exit, with_cause};

/// Options of `mcpfs unmount`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The mount point, instead of the one that the configuration says.
    #[arg(long, value_name = "DIR")]
    pub at: Option<PathBuf>,
    /// Only if systemd has given this unit up, and only what nobody serves (for its OnFailure=).
    #[arg(long, value_name = "UNIT", help_heading = "For units of systemd")]
    pub if_failed: Option<String>,
}

/// Unmounts, lazily if something of it is in use.
pub fn run(global: &Global, args: &Args) -> Exit {
    if let Some(unit) = &args.if_failed {
        return clear(global, args, Unit(unit));
    }
    let at = match place(global, args) {
        Ok(at) => at,
        Err(problem) => {
            eprintln!("mcpfs: {problem}; or name the mount point: mcpfs unmount --at DIR");
            return Exit::Usage;
        }
    };
    let unmounted = Mountpoint::mounted(&at).map_err(|error| with_cause(&error)).and_then(|point| match point {
        Some(point) => point.unmount().map(|()| true).map_err(|error| error.to_string()),
        None => Ok(false),
    });
    match unmounted {
        Ok(true) => Exit::Ok,
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

fn place(global: &Global, args: &Args) -> Result<PathBuf, String> {
    match &args.at {
        Some(at) => Ok(at.clone()),
        None => Config::load(&global.file()).map(|config| config.mount.at).map_err(|error| with_cause(&error)),
    }
}

/// Takes away what a service that was given up has left, and says in its journal what to do.
fn clear(global: &Global, args: &Args, unit: Unit<'_>) -> Exit {
    let fate = match unit.fate() {
        Ok(fate) if fate.failed => fate,
        Ok(_) => {
            eprintln!("mcpfs: systemd has not given {} up; nothing is taken away", unit.0);
            return Exit::Ok;
        }
        Err(error) => {
            eprintln!("mcpfs: cannot ask systemd what became of {} ({error}); nothing is taken away", unit.0);
            return Exit::Refused;
        }
    };
    let ruins = match place(global, args) {
        Ok(at) => ruins(&at, true).map(|ruins| (ruins > 0).then_some(at)),
        // It is perhaps what the service failed at. What nobody serves is of use to nobody, wherever it is.
        Err(_) => anywhere(),
    };
    match ruins {
        Ok(at) => {
            unit.complain(&sentence(unit.0, &fate, at.as_deref(), &global.file()));
            Exit::Ok
        }
        Err(error) => {
            unit.complain(&format!("what {} left could not be taken away: {}", unit.0, with_cause(&error)));
            Exit::Refused
        }
    }
}

/// Clears what nobody serves at one place; how many. What another process serves there is left alone.
fn ruins(at: &Path, silent: bool) -> Result<usize, MountError> {
    match Mountpoint::clear(at, silent) {
        Err(MountError::AlreadyServed(_) | MountError::Silent(_)) => Ok(0),
        cleared => cleared,
    }
}

/// Clears what nobody serves; the last of these places.
fn anywhere() -> Result<Option<PathBuf>, MountError> {
    let all =
        mount::mounted().map_err(|error| MountError::io("reading mountinfo failed", "/proc/self/mountinfo", error))?;
    let mut cleared = None;
    for entry in all.into_iter().filter(|entry| entry.kind == FS_TYPE) {
        // One that is silent may be another registry's that is just being restarted.
        if ruins(&entry.at, false)? > 0 {
            cleared = Some(entry.at);
        }
    }
    Ok(cleared)
}

/// What happened, to what, and what to do.
fn sentence(unit: &str, fate: &Fate, at: Option<&Path>, config: &Path) -> String {
    let place = at.map_or_else(
        || "nothing of it is mounted any more".to_owned(),
        |at| format!("{} was a ruin and is not mounted any more; whoever waited for it got an error", at.display()),
    );
    let advice = match fate.status {
        2 => format!("`mcpfs --config {} config check` says what is wrong", config.display()),
        _ => format!("`journalctl -u {unit}` says why"),
    };
    format!(
        "systemd has given {unit} up (result {}, status {}, {} restarts): {place}. {advice}; then: systemctl reset-failed {unit} \
         && systemctl start {unit}",
        fate.result, fate.status, fate.restarts
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_the_journal_is_told_what_to_do() {
        let config = Path::new("/etc/x.toml");
        let fate = |status| Fate { failed: true, result: "exit-code".to_owned(), status, ..Fate::default() };
        let said = sentence("mcpfs@lab.service", &fate(2), Some(Path::new("/lab")), config);
        for part in
            ["/lab was a ruin", "mcpfs --config /etc/x.toml config check", "systemctl reset-failed mcpfs@lab.service"]
        {
            assert!(said.contains(part), "{said}");
        }
        let said = sentence("mcpfs.service", &fate(1), None, config);
        assert!(said.contains("nothing of it is mounted") && said.contains("journalctl -u mcpfs.service"), "{said}");
    }
}
