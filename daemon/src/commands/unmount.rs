//! `mcpfs unmount`: takes the mount away, and with it ends the daemon.
//!
//! Units call it from `OnFailure=` and `OnSuccess=`, when a service has ended for whatever reason. Where systemd starts none
//! after it, nobody holds what was mounted any more, and a ruin that fails or hangs is worse than nothing: the service was given
//! up, or it was stopped in the moments in which a signal still ends the next process before that can do anything.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::unit::{Fate, Stands, Unit};
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
    /// Only once systemd starts this unit no more, and only what nobody serves (for its OnFailure= and OnSuccess=).
    #[arg(long, value_name = "UNIT", help_heading = "For units of systemd")]
    pub if_ended: Option<String>,
}

/// How long a unit may be on its way to somewhere: longer than it may take to start or to stop.
const ON_ITS_WAY: Duration = Duration::from_secs(150);
/// How often systemd is asked meanwhile.
const TURN: Duration = Duration::from_millis(200);

/// Unmounts, lazily if something of it is in use.
pub fn run(global: &Global, args: &Args) -> Exit {
    if let Some(unit) = &args.if_ended {
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

/// Takes away what a service has left that nobody starts again, and says in its journal what to do.
fn clear(global: &Global, args: &Args, unit: Unit<'_>) -> Exit {
    let fate = match settled(unit) {
        Ok(fate) => fate,
        Err(error) => {
            eprintln!("mcpfs: cannot ask systemd what became of {} ({error}); nothing is taken away", unit.0);
            return Exit::Refused;
        }
    };
    // What only hangs may be a mount that somebody makes at this moment, where the service was not given up.
    let silent = match fate.stands {
        Stands::Runs | Stands::Moves => return Exit::Ok,
        Stands::Ended => false,
        Stands::Failed => true,
    };
    let ruins = match place(global, args) {
        Ok(at) => ruins(&at, silent).map(|ruins| (ruins > 0).then_some(at)),
        // It is perhaps what the service failed at. What nobody serves is of use to nobody, wherever it is.
        Err(_) => anywhere(),
    };
    match ruins {
        Ok(None) if fate.stands == Stands::Ended => Exit::Ok,
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

/// How the unit ended, once nothing is under way that was asked of systemd.
fn settled(unit: Unit<'_>) -> io::Result<Fate> {
    let until = Instant::now() + ON_ITS_WAY;
    loop {
        let fate = unit.fate()?;
        if fate.stands != Stands::Moves || Instant::now() > until {
            return Ok(fate);
        }
        std::thread::sleep(TURN);
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
    if fate.stands == Stands::Ended {
        return format!("{unit} was stopped before it could take its mount away: {place}");
    }
    let advice = match fate.code {
        Some(2) => format!("`mcpfs --config {} config check` says what is wrong", config.display()),
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
        let fate = |code: Option<i32>| {
            let status = code.unwrap_or(libc::SIGINT);
            Fate { stands: Stands::Failed, result: "exit-code".to_owned(), code, status, ..Fate::default() }
        };
        let said = sentence("mcpfs@lab.service", &fate(Some(2)), Some(Path::new("/lab")), config);
        for part in
            ["/lab was a ruin", "mcpfs --config /etc/x.toml config check", "systemctl reset-failed mcpfs@lab.service"]
        {
            assert!(said.contains(part), "{said}");
        }
        // A signal's number is no exit code.
        assert!(sentence("mcpfs.service", &fate(None), None, config).contains("journalctl"));
        let said = sentence("mcpfs.service", &fate(Some(1)), None, config);
        assert!(said.contains("nothing of it is mounted") && said.contains("journalctl -u mcpfs.service"), "{said}");
    }
}
