//! `mcpfs refresh`: look at the site now.

use mcpfs_trust::error::bounded;

use super::{CommandError, Door};
use crate::control::client::ClientError;
use crate::control::facts::Refreshed;
use crate::control::protocol::{Refused, Request};

/// Has the daemon look at its site, and says what it found.
///
/// # Errors
/// If no daemon answers, the caller is not an administrator, or the look failed.
pub fn run(door: &Door) -> Result<String, CommandError> {
    let refreshed: Refreshed = door.ask(&Request::Refresh {})?;
    match &refreshed.error {
        Some(reason) => Err(ClientError::Refused(Refused {
            code: reason.code.clone(),
            message: format!("the site gave nothing new: {}", bounded(&reason.message)),
            advice: "what was admitted stays; see mcpfs status".to_owned(),
        })
        .into()),
        None => Ok(door.show(&refreshed, text)),
    }
}

fn text(refreshed: &Refreshed) -> String {
    match refreshed.head_version {
        Some(version) if refreshed.before == Some(version) => format!("head {version}: nothing new\n"),
        Some(version) => match refreshed.before {
            Some(before) => format!("head {version}: new, it was {before}\n"),
            None => format!("head {version}: the first one\n"),
        },
        None => "no head accepted yet\n".to_owned(),
    }
}
