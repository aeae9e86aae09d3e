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

/// What systemd says of a unit that runs no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    /// Whether it was given up: systemd starts it no more by itself.
    pub(crate) failed: bool,
    /// The word of systemd.service(5) for how it went: `start-limit-hit`, `exit-code`, `signal` …
    pub(crate) result: String,
    /// The exit code or the signal's number of its main process.
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
        let properties = "--property=ActiveState,Result,ExecMainStatus,NRestarts";
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
    Fate {
        failed: word("ActiveState") == "failed",
        result: word("Result").to_owned(),
        status: word("ExecMainStatus").parse().unwrap_or_default(),
        restarts: word("NRestarts").parse().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_end_is_read() {
        let said = "Result=signal\nNRestarts=30\nExecMainStatus=9\nActiveState=failed\n";
        assert_eq!(fate(said), Fate { failed: true, result: "signal".to_owned(), status: 9, restarts: 30 });
        // It runs, and so has not ended yet.
        assert_eq!(fate("ActiveState=active\nNRestarts=0\n"), Fate::default());
        assert_eq!(fate("what is this\n"), Fate::default());
    }
}
