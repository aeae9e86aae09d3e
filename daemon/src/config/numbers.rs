//! The numbers of groups, by the host's database.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mcpfs_trust::error::bounded;

use super::ConfigError;
use super::place::place;
use super::texts::Text;

/// How long the host's group database may take for all groups together: directory services can hang.
const WAIT: Duration = Duration::from_secs(5);
/// What the kernel shows instead of a group that it cannot name to whoever asks.
const OVERFLOW: u32 = 65_534;

/// Why a group has no number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoNumber {
    /// There is no such group, or none that can be used.
    Wrong(String),
    /// The database did not say.
    Unanswered(String),
}

/// The numbers of groups, in the host's database (files, LDAP, SSSD, …).
///
/// In a thread of its own, since a directory service that hangs cannot be interrupted.
pub(crate) fn look_up<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, Result<u32, NoNumber>> {
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let (answer, answers) = mpsc::channel();
    let asked = names.clone();
    let ask = move || {
        for name in asked {
            let found = number(&name);
            // Whoever asked may have given up.
            if answer.send((name, found)).is_err() {
                return;
            }
        }
    };
    let silent =
        || NoNumber::Unanswered(format!("the host's group database does not answer within {} s", WAIT.as_secs()));
    let mut found: BTreeMap<_, _> = names.into_iter().map(|name| (name, Err(silent()))).collect();
    if found.is_empty() {
        return found;
    }
    let end = Instant::now() + WAIT;
    if std::thread::Builder::new().name("groups".to_owned()).spawn(ask).is_ok() {
        while let Ok((name, number)) = answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
            found.insert(name, number);
        }
    }
    found
}

fn number(name: &str) -> Result<u32, NoNumber> {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => usable(group.gid.as_raw()).map(|()| group.gid.as_raw()).map_err(NoNumber::Wrong),
        Ok(None) => Err(NoNumber::Wrong(format!(
            "this host has no group {}: correct the name, or make it: groupadd {0}",
            bounded(name)
        ))),
        // With a great many members its entry is larger than anybody should have to hold.
        Err(nix::errno::Errno::ERANGE) => Err(NoNumber::Wrong(format!(
            "the entry of the group {} is too large to be read: write its number (getent group {0})",
            bounded(name)
        ))),
        Err(error) => Err(NoNumber::Unanswered(format!(
            "the host's group database does not say what the group {} is: {error}",
            bounded(name)
        ))),
    }
}

/// The error of a group that has no number, with the place of the setting that names it.
pub(super) fn unknown(setting: &str, why: NoNumber, files: &[Text]) -> ConfigError {
    let (path, line) = place(setting, files).unwrap_or_default();
    match why {
        NoNumber::Wrong(problem) => ConfigError::Invalid { path, line, problem },
        NoNumber::Unanswered(problem) => ConfigError::Unanswered { path, line, problem },
    }
}

/// Whether membership of a group means anything.
pub(super) fn usable(gid: u32) -> Result<(), String> {
    match gid {
        u32::MAX => Err(format!("{gid} is no group's number")),
        OVERFLOW => {
            Err(format!("group {gid} is what the kernel shows of groups that it cannot name: take another one"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn groups_of_this_host() {
        let found = look_up(["root", "mcpfs-no-such-group", "nogroup\0"]);
        assert_eq!(found["root"], Ok(0));
        assert!(matches!(&found["mcpfs-no-such-group"], Err(NoNumber::Wrong(why)) if why.contains("groupadd")));
        assert!(found["nogroup\0"].is_err());
        assert!(look_up([]).is_empty());
    }
}
