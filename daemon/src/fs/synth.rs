//! What the daemon writes itself: `run`, `release.json` and extended attributes, all computed
//! from the verified statement and the host's configuration.

use std::path::Path;
use std::sync::Arc;

use mcpfs_trust::digest::Digest;

use crate::launch;
use crate::registry::{Admitted, Server, Slot};

/// Every extended attribute begins so.
const PREFIX: &str = "user.mcpfs.";

/// The text of a release's `run`.
pub(super) fn run(rundir: &Path, admitted: &Admitted) -> Arc<[u8]> {
    launch::identity_line(rundir, admitted).into_bytes().into()
}

/// The text of a refused name's `run`: it exists to say why.
pub(super) fn refused_run(rundir: &Path, server: &Server) -> Arc<[u8]> {
    launch::refused_line(rundir, &server.name).into_bytes().into()
}

/// The extended attributes of something in this slot, names and values. `content` is the
/// digest of a tree's file; everything else shows the artefact's.
pub(super) fn attributes(slot: &Slot, content: Option<Digest>) -> Vec<(String, String)> {
    let admitted = match slot {
        Slot::Release(admitted) => admitted,
        Slot::Server(server) => match &server.selected {
            Ok(admitted) => admitted,
            Err(_) => return vec![attribute("name", server.name.to_string())],
        },
        Slot::Refused(_) => return vec![],
    };
    let keys: Vec<String> = admitted.keys.iter().map(Digest::to_string).collect();
    vec![
        attribute("name", admitted.name().to_string()),
        attribute("version", admitted.version().to_string()),
        attribute("sha256", content.unwrap_or(admitted.artefact.sha256).to_string()),
        attribute("statement", admitted.statement.to_string()),
        attribute("keys", keys.join(",")),
        attribute("head", admitted.head_version.to_string()),
    ]
}

/// Whether an attribute of this name could exist at all.
pub(super) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

fn attribute(name: &str, value: String) -> (String, String) {
    (format!("{PREFIX}{name}"), value)
}

/// Names as listxattr(2) wants them: each ends in a NUL.
pub(super) fn name_list(attributes: &[(String, String)]) -> Vec<u8> {
    attributes.iter().flat_map(|(name, _)| name.bytes().chain([0])).collect()
}
