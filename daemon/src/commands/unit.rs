//! What systemd knows of a unit, for the commands that its unit file calls.
//!
//! What is meant by the end of a service only systemd's job tells, and whether it has given one up
//! only systemd's state. `systemctl` is asked, since it is wherever units are; a library for its bus
//! would be a large part for three questions.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

/// journald's own socket, which takes what is said of another unit.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// `PRIORITY=` of syslog's LOG_ERR.
const ERROR: u8 = 3;

/// A unit of this host's systemd.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit<'a>(pub(super) &'a str);

/// What systemd says of a unit that runs no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// Whether it was given up: systemd starts it no more by itself.
    pub(super) failed: bool,
    /// The word of systemd.service(5) for how it went: `start-limit-hit`, `exit-code`, `signal` …
    pub(super) result: String,
    /// The exit code or the signal's number of its main process.
    pub(super) status: i32,
    /// How long its main process ran.
    pub(super) ran: Duration,
    /// How often systemd has started it by itself since somebody did.
    pub(super) restarts: u32,
}

impl Unit<'_> {
    /// The kind of systemd's job for it, such as `stop`; none if there is none.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub(super) fn job(self) -> io::Result<Option<String>> {
        let said = ask(&["list-jobs", "--no-legend", "--plain", "--", self.0])?;
        Ok(job(&said, self.0))
    }

    /// How it ended.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub(super) fn fate(self) -> io::Result<Fate> {
        let properties = "--property=ActiveState,Result,ExecMainStatus,NRestarts,ExecMainStartTimestampMonotonic,\
                          ExecMainExitTimestampMonotonic";
        Ok(fate(&ask(&["show", properties, "--", self.0])?))
    }

    /// Says something in the unit's own journal, where people look; on stderr if there is none.
    pub(super) fn complain(self, text: &str) {
        let text = text.replace('\n', " ");
        let entry = format!(
            "PRIORITY={ERROR}\nSYSLOG_IDENTIFIER=mcpfs\nOBJECT_SYSTEMD_UNIT={}\nMESSAGE={text}\n",
            self.0.replace('\n', " ")
        );
        let said = UnixDatagram::unbound().and_then(|socket| socket.send_to(entry.as_bytes(), JOURNAL));
        if said.is_err() {
            eprintln!("mcpfs: {text}");
        }
    }
}

fn ask(args: &[&str]) -> io::Result<String> {
    let answer = Command::new("systemctl").args(args).output()?;
    match answer.status.success() {
        true => Ok(String::from_utf8_lossy(&answer.stdout).into_owned()),
        false => Err(io::Error::other(String::from_utf8_lossy(&answer.stderr).trim().to_owned())),
    }
}

/// Lines of number, unit, kind of job, state.
fn job(jobs: &str, unit: &str) -> Option<String> {
    jobs.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|job| job.get(1) == Some(&unit))
        .and_then(|job| job.get(2).map(|kind| (*kind).to_owned()))
}

/// Lines of `Name=value`; what is missing or odd counts as nothing.
fn fate(properties: &str) -> Fate {
    let said: HashMap<&str, &str> = properties.lines().filter_map(|line| line.split_once('=')).collect();
    let word = |name: &str| said.get(name).copied().unwrap_or_default();
    let number = |name: &str| word(name).parse::<u64>().unwrap_or_default();
    let ran = number("ExecMainExitTimestampMonotonic").saturating_sub(number("ExecMainStartTimestampMonotonic"));
    Fate {
        failed: word("ActiveState") == "failed",
        result: word("Result").to_owned(),
        status: word("ExecMainStatus").parse().unwrap_or_default(),
        ran: Duration::from_micros(ran),
        restarts: number("NRestarts").try_into().unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_found_by_their_unit() {
        let kind = |jobs: &str| job(jobs, "mcpfs.service");
        assert_eq!(kind("412 mcpfs.service stop running\n").as_deref(), Some("stop"));
        assert_eq!(kind("412 mcpfs.service restart running\n").as_deref(), Some("restart"));
        assert_eq!(kind("412 other.service stop running\n413 mcpfs.service start waiting\n").as_deref(), Some("start"));
        assert_eq!(kind("412 mcpfs@lab.service stop running\n"), None);
        assert_eq!(kind("No jobs running.\n"), None);
        assert_eq!(kind(""), None);
    }

    #[test]
    fn a_units_end_is_read() {
        let said = "Result=signal\nNRestarts=30\nExecMainStartTimestampMonotonic=1000000\n\
                    ExecMainExitTimestampMonotonic=3500000\nExecMainStatus=9\nActiveState=failed\n";
        let (result, ran) = ("signal".to_owned(), Duration::from_millis(2_500));
        assert_eq!(fate(said), Fate { failed: true, result, status: 9, ran, restarts: 30 });
        // It runs, and so has not ended yet.
        let runs = "ActiveState=active\nExecMainStartTimestampMonotonic=5\nExecMainExitTimestampMonotonic=0\n";
        assert_eq!(fate(runs), Fate::default());
        assert_eq!(fate("what is this\n"), Fate::default());
    }
}
