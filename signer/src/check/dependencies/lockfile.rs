//! Lockfiles as texts: how much of one is read, and what TOML and YAML may hold.

use mcpfs_trust::error::bounded;
use serde::Deserialize;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};

/// Largest lockfile, bytes.
pub(super) const LOCKFILE_BYTES: u64 = 16 << 20;
/// Values in a lockfile of YAML.
const LOCKFILE_NODES: usize = 4 << 20;

/// `Cargo.lock`, `uv.lock` and `poetry.lock`.
#[derive(Deserialize)]
pub(super) struct TomlLock {
    #[serde(default)]
    pub(super) package: Vec<TomlLocked>,
}

#[derive(Deserialize)]
pub(super) struct TomlLocked {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) source: Option<toml::Value>,
}

/// A lockfile's text.
pub(super) fn lock_text(content: Result<Vec<u8>, String>) -> Result<String, String> {
    let bytes = content?;
    if bytes.len() as u64 > LOCKFILE_BYTES {
        return Err(format!("has more than {LOCKFILE_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

/// The documents of a lockfile in YAML. No package manager writes anchors or tags.
pub(super) fn lock_yaml<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(text.len()),
            max_depth: 16,
            flow_nesting_limit: 16,
            max_nodes: LOCKFILE_NODES,
            max_events: LOCKFILE_NODES * 2,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
            max_documents: 2,
            max_total_scalar_bytes: text.len(),
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| bounded(&format!("is not a lockfile: {}", error.without_snippet())))
}
