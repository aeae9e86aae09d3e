//! The host, and the facts under which the daemon runs.
//!
//! A `boot` row is a stretch of the daemon's life under unchanged facts: a new one begins at
//! its start and whenever the trust root, the configuration or the way of reading changes.
//! Rows never change, so every event says for ever under which facts it happened, and the
//! newest row of a host says how it runs now.

use std::fs;

use mcpfs_trust::digest::{Digest, Hasher};

use super::event::now_us;

/// Facts about this run of the daemon that are known only after the store is open (the
/// store opens before trust.json is read), and that a reload may change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootFacts {
    /// `passthrough` or `cached`.
    pub reads: Option<&'static str>,
    /// The trust root's version.
    pub trust_version: Option<u64>,
    /// Digest of trust.json.
    pub trust_sha256: Option<Digest>,
    /// Digest of the configuration in force.
    pub config_sha256: Option<Digest>,
}

/// What is known about the host from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) machine_id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) boot_uuid: Option<String>,
    pub(super) kernel: Option<String>,
    pub(super) started_us: i64,
}

impl Host {
    /// This host, started now.
    pub(super) fn this() -> Self {
        let line = |path: &str| {
            fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let uname = rustix::system::uname();
        Self {
            machine_id: line("/etc/machine-id").map(|id| derived(&id)),
            name: uname.nodename().to_str().ok().map(str::to_owned).filter(|name| !name.is_empty()),
            boot_uuid: line("/proc/sys/kernel/random/boot_id"),
            kernel: uname.release().to_str().ok().map(str::to_owned),
            started_us: now_us(),
        }
    }
}

/// machine-id(5) asks not to spread the id itself; this is its own digest under our name.
fn derived(machine_id: &str) -> String {
    let mut hasher = Hasher::new();
    hasher.update(b"mcpfs audit host\0");
    hasher.update(machine_id.as_bytes());
    let mut text = hasher.finish().to_string();
    text.truncate(32);
    text
}
