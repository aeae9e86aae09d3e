//! `mcpfs stop` and `mcpfs resume`: this host's own brake for one server.
//!
//! A registry withdraws a release for everybody (`revoke`), which takes a key, a network and its time. The
//! administrator of one host may be the first who sees something, and the host may be cut off. So a stop is
//! configuration, `conf.d/91-stops.toml`: it is there before a daemon starts, survives its state, and shows in
//! every review of the host. What is open stays open; `--kill` ends what runs.

use mcpfs_trust::error::bounded;
use mcpfs_trust::name::ServerName;
use serde::Serialize;
use toml_edit::{DocumentMut, Item, Table, value};

use super::conf_d::{read, replace};
use super::ps::{self, Ended};
use super::{CommandError, Door};
use crate::audit::Act;
use crate::control::client::ClientError;
use crate::control::protocol::Request;

/// Options of `mcpfs stop`.
#[derive(Debug, Clone, clap::Args)]
pub struct StopArgs {
    /// The server.
    pub name: ServerName,
    /// Why, in one line; whoever starts it is told.
    #[arg(long, value_parser = one_line)]
    pub reason: String,
    /// End the processes that run it, and what they started.
    #[arg(long)]
    pub kill: bool,
}

/// Options of `mcpfs resume`.
#[derive(Debug, Clone, clap::Args)]
pub struct ResumeArgs {
    /// The server.
    pub name: ServerName,
}

#[derive(Debug, Serialize)]
struct Change {
    name: String,
    stopped: bool,
    /// Whether a daemon has taken it; without one it holds from its next start.
    in_force: bool,
    ended: Vec<Ended>,
}

/// Stops a server on this host.
///
/// # Errors
/// If the file cannot be written, the daemon does not take it, or a process cannot be ended.
pub fn stop(door: &Door, args: &StopArgs) -> Result<String, CommandError> {
    let name = &args.name;
    replace(
        &door.config,
        &file(door),
        |document| set(document, name, &args.reason),
        |config| match config.pins.stopped.contains_key(name) {
            true => Ok(()),
            false => Err(format!("another file of conf.d says something else of [stops] {name}")),
        },
    )?;
    let in_force = take(door)?;
    ps::record(door, &[Act::Stop { name: name.to_string(), reason: args.reason.clone() }])?;
    let ended = match args.kill {
        true => ps::end(door, |running| running.name == name.as_str())?,
        false => Vec::new(),
    };
    let change = Change { name: name.to_string(), stopped: true, in_force, ended };
    Ok(door.show(&change, text))
}

/// Takes a stop back.
///
/// # Errors
/// If there is none of this command's, or as [`stop`].
pub fn resume(door: &Door, args: &ResumeArgs) -> Result<String, CommandError> {
    let (name, file) = (&args.name, file(door));
    let stopped = read(&file)?.get("stops").and_then(|stops| stops.get(name.as_str())).is_some();
    if !stopped {
        let advice = "if it is refused all the same, mcpfs explain says why";
        return Err(CommandError::refused(format!("{} does not stop {name}", file.display()), advice));
    }
    let remove = |document: &mut DocumentMut| {
        let stops = document.get_mut("stops").and_then(Item::as_table_like_mut);
        drop(stops.and_then(|stops| stops.remove(name.as_str())));
    };
    replace(&door.config, &file, remove, |config| match config.pins.stopped.contains_key(name) {
        true => Err(format!("another file of conf.d stops {name}, too")),
        false => Ok(()),
    })?;
    let in_force = take(door)?;
    ps::record(door, &[Act::Resume { name: name.to_string() }])?;
    let change = Change { name: name.to_string(), stopped: false, in_force, ended: Vec::new() };
    Ok(door.show(&change, text))
}

/// Whether a running daemon took it.
fn take(door: &Door) -> Result<bool, CommandError> {
    match door.ask::<serde::de::IgnoredAny>(&Request::Reload {}) {
        Ok(_) => Ok(true),
        Err(ClientError::NoDaemon { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn text(change: &Change) -> String {
    let name = bounded(&change.name);
    let what = match (change.stopped, change.in_force) {
        (true, true) => {
            format!("{name} is stopped: nothing of it is opened or started; mcpfs resume {name} takes that back")
        }
        (false, true) => format!("{name} is not stopped any more"),
        (true, false) => format!("{name} is stopped from the next start of mcpfs on; no daemon runs now"),
        (false, false) => format!("{name} is not stopped any more; no daemon runs now"),
    };
    change.ended.iter().fold(what + "\n", |text, ended| text + &ended.to_string() + "\n")
}

fn file(door: &Door) -> std::path::PathBuf {
    door.config.with_file_name("conf.d").join("91-stops.toml")
}

fn set(document: &mut DocumentMut, name: &ServerName, reason: &str) {
    if document.is_empty() {
        document.decor_mut().set_prefix("# Written by `mcpfs stop` and `mcpfs resume`.\n");
    }
    let stops = document.entry("stops").or_insert_with(|| Item::Table(Table::new()));
    if let Some(stops) = stops.as_table_like_mut() {
        stops.insert(name.as_str(), value(reason));
    }
}

fn one_line(text: &str) -> Result<String, String> {
    match text.trim().is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
        true => Err("a reason is one line of 1 to 200 bytes".to_owned()),
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::config::Config;

    #[test]
    fn without_a_daemon_it_holds_from_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("mcpfs.toml");
        let state = format!("state = {:?}\n[registry]\nurl = \"https://mcp.example.com\"\n", dir.path());
        std::fs::write(&config, state).unwrap();
        let door = Door { rundir: dir.path().to_owned(), config: config.clone(), json: false };
        let args =
            |name: &str| StopArgs { name: name.parse().unwrap(), reason: "odd \"traffic\"".to_owned(), kill: false };
        assert!(stop(&door, &args("hello")).unwrap().contains("from the next start"));
        assert!(stop(&door, &args("other")).is_ok());
        let shows = |name: &str| Config::load(&config).unwrap().shows(&name.parse().unwrap());
        assert!(shows("hello").is_err_and(|why| why.contains("traffic") && why.contains("mcpfs resume hello")));
        assert!(shows("third").is_ok());
        let resumed = |name: &str| resume(&door, &ResumeArgs { name: name.parse().unwrap() });
        assert!(resumed("hello").unwrap().contains("not stopped any more"));
        assert_eq!(resumed("hello").unwrap_err().exit_code(), 1);
        assert!(shows("hello").is_ok() && shows("other").is_err());
    }

    #[test]
    fn reasons() {
        assert!(one_line("CVE-2026-1").is_ok());
        for bad in ["", " ", "a\nb", &"x".repeat(201)] {
            assert!(one_line(bad).is_err(), "{bad:?}");
        }
    }
}
