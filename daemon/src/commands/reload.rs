//! `mcpfs reload`: take over what stands in the configuration and the trust root now.
//!
//! The daemon judges what is on the disk and records its judgement, so it is asked also where the configuration cannot be
//! read here, or says by now that the socket is elsewhere. As ExecReload= of the units this knows from systemd
//! where it is.

use std::path::Path;

use serde_json::Value;

use super::{CommandError, Door};
use crate::control::client::ClientError;
use crate::control::protocol::Request;

/// Has the daemon read configuration and trust root, and waits until the mount shows what then holds.
///
/// # Errors
/// If no daemon answers, the caller is not an administrator, or what is on the disk cannot be used.
pub fn run(given: Option<&Path>, json: bool) -> Result<String, CommandError> {
    // systemd.exec(5), RuntimeDirectory=: the unit's own, before what an administrator adds.
    let told = std::env::var_os("RUNTIME_DIRECTORY")
        .and_then(|all| std::env::split_paths(&all).next())
        .filter(|path| path.is_absolute());
    let found = Door::find(given, json);
    let asked = found.map_err(CommandError::from).and_then(|door| Ok((reload(&door)?, door)));
    let (answer, door) = match (asked, told) {
        (Err(CommandError::Config(_) | CommandError::Daemon(ClientError::NoDaemon { .. })), Some(rundir)) => {
            let door = Door { rundir, config: given.unwrap_or(Path::new(super::SYSTEM_FILE)).to_owned(), json };
            (reload(&door)?, door)
        }
        (asked, _) => asked?,
    };
    Ok(door.show(&answer, |_| "what stands in the configuration and the trust root is in force\n".to_owned()))
}

fn reload(door: &Door) -> Result<Value, ClientError> {
    door.ask(&Request::Reload {})
}
