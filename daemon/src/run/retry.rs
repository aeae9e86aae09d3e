//! A pause before systemd tries again what has failed.
//!
//! systemd starts a service that has failed at once (`RestartSec=0`), and gives it up after 30 starts within a minute. That
//! is right for a process that dies: everybody waits for the next one. What this process itself fails at is likely to be there
//! still a moment later, a disk that cannot be written, and may go after an hour. So from the second time on it rests before it
//! ends, and never reaches that limit.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::commands::unit::Unit;
use crate::supervisor::{self, End, Left};

/// What fails sooner than this has failed at something that is likely to be there still.
const SHORT: Duration = Duration::from_secs(60);
/// How long the rest is.
const PAUSE: Duration = Duration::from_secs(5);

/// Rests before a service ends that `ran` for so long, unless it is the first time, or somebody asks it to end meanwhile.
/// Then the next process reads the disk, whatever this one was to go on with; and for a restart this one does not fail, since what
/// was `left` to it is for that process.
pub(super) fn pause(ran: Duration, left: Option<&Left>) {
    if ran >= SHORT || std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Where nobody tells how often it was tried, it may have been often.
    let first = unit(&groups).is_some_and(|unit| Unit(unit).fate().is_ok_and(|fate| fate.restarts == 0));
    if first {
        return;
    }
    let status = format!("it failed; trying again in {} s", PAUSE.as_secs());
    // systemd may not listen; the rest counts.
    drop(sd_notify::notify(&[NotifyState::Status(&status)]));
    let asked = supervisor::rest(PAUSE);
    if let (Some(left), Some(_)) = (left, asked) {
        left.note_end();
    }
    if asked == Some(End::Relieved) {
        supervisor::end_relieved();
    }
}

/// The unit that this process belongs to: the last part of its control group.
fn unit(groups: &str) -> Option<&str> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    own.rsplit('/').next().filter(|name| name.ends_with(".service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_known_by_its_group() {
        assert_eq!(unit("0::/system.slice/mcpfs.service\n"), Some("mcpfs.service"));
        let template = "1:name=systemd:/\n0::/system.slice/system-mcpfs.slice/mcpfs@lab.service\n";
        assert_eq!(unit(template), Some("mcpfs@lab.service"));
        assert_eq!(unit("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(unit(""), None);
    }
}
