//! What systemd knows of a unit, for what has to be done when its service has failed.
//!
//! Whether systemd has given one up, and how often it has tried, only systemd tells. `systemctl` is asked, since it is
//! wherever units are; a library for its bus would be a large part for one question.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

/// journald's own socket, which takes what is said of another unit.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// `PRIORITY=` of syslog's LOG_ERR.
const ERROR: u8 = 3;

/// A unit of this host's systemd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit<'a>(pub(crate) &'a str);

/// Where a unit stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stands {
    /// It runs, or systemd starts it again by itself.
    #[default]
    Runs,
    /// Something was asked of systemd that has not happened yet, or it is being stopped.
    Moves,
    /// It was stopped, or ended well: nobody starts it but people.
    Ended,
    /// It was given up: systemd starts it no more by itself.
    Failed,
}

/// What systemd says of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    /// Where it stands.
    pub(crate) stands: Stands,
    /// The word of systemd.service(5) for how it went: `start-limit-hit`, `exit-code`, `signal` …
    pub(crate) result: String,
    /// The exit code of its main process; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// The same or the signal's number.
    pub(crate) status: i32,
    /// How often systemd has started it by itself since somebody did.
    pub(crate) restarts: u32,
}

impl Unit<'_> {
    /// How it ended.
    ///
    /// # Errors
    /// If systemd cannot be asked.
    pub(crate) fn fate(self) -> io::Result<Fate> {
        let properties = "--property=ActiveState,Job,Result,ExecMainCode,ExecMainStatus,NRestarts";
        Ok(fate(&ask(&["show", properties, "--", self.0])?))
    }

    /// Says something in the unit's own journal, where people look; on stderr if there is none.
    pub(crate) fn complain(self, text: &str) {
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

/// Lines of `Name=value`; what is missing or odd counts as nothing.
fn fate(properties: &str) -> Fate {
    let said: HashMap<&str, &str> = properties.lines().filter_map(|line| line.split_once('=')).collect();
    let word = |name: &str| said.get(name).copied().unwrap_or_default();
    let number = |name: &str| word(name).parse().unwrap_or_default();
    let stands = match word("ActiveState") {
        _ if number("Job") > 0 => Stands::Moves,
        "deactivating" => Stands::Moves,
        "failed" => Stands::Failed,
        "inactive" => Stands::Ended,
        _ => Stands::Runs,
    };
    let status = number("ExecMainStatus");
    Fate {
        stands,
        result: word("Result").to_owned(),
        code: (number("ExecMainCode") == libc::CLD_EXITED).then_some(status),
        status,
        restarts: word("NRestarts").parse().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_end_is_read() {
        let said = "Result=signal\nNRestarts=30\nExecMainCode=2\nExecMainStatus=9\nActiveState=failed\n";
        let fate_of_it = |stands| Fate { stands, result: "signal".to_owned(), code: None, status: 9, restarts: 30 };
        assert_eq!(fate(said), fate_of_it(Stands::Failed));
        // Somebody starts it at this moment.
        assert_eq!(fate(&format!("{said}Job=4711\n")), fate_of_it(Stands::Moves));
        assert_eq!(fate("ExecMainCode=1\nExecMainStatus=2\nActiveState=inactive\n").code, Some(2));
        assert_eq!(fate("ActiveState=inactive\nJob=0\n").stands, Stands::Ended);
        for runs in ["ActiveState=active\nNRestarts=0\n", "ActiveState=activating\n", "what is this\n"] {
            assert_eq!(fate(runs), Fate::default(), "{runs}");
        }
    }
}
