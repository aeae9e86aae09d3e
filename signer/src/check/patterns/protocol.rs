//! What mcpfs-signer and mcpfs-yara say to each other, in both programs from this file.
//!
//! The engine says [`Hello`] once. Then each line of the signer is one [`Ask`], followed by as
//! many raw bytes as it names, and is answered by one line, an [`Answer`]. Rules come first,
//! then `ready`, then files. All lines are JSON, bounded by [`LINE_BYTES`]. No path is ever
//! opened by the engine: whatever it looks at comes through its standard input, so it needs no
//! right to anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of this protocol. A program of another version is refused.
pub(crate) const PROTOCOL: u32 = 1;
/// Longest line, bytes.
pub(crate) const LINE_BYTES: u64 = 1 << 20;
/// Largest rule file, bytes.
pub(crate) const RULE_BYTES: u64 = 1 << 20;
/// Largest file that is scanned, bytes.
pub(crate) const FILE_BYTES: u64 = 128 << 20;
/// Most matches of one file; the engine says so if there are more.
pub(crate) const MATCHES: usize = 256;

/// The first line of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hello {
    /// [`PROTOCOL`].
    pub(crate) protocol: u32,
    /// Program and version.
    pub(crate) program: String,
    /// The engine in it and its version.
    pub(crate) engine: String,
}

/// One line of the signer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Ask {
    /// A rule file of so many bytes.
    Rules {
        /// Its name, which matches are reported under.
        name: String,
        /// How many bytes follow.
        size: u64,
    },
    /// No more rules.
    Ready,
    /// A file of so many bytes.
    Scan {
        /// How many bytes follow.
        size: u64,
    },
}

/// One line of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Answer {
    /// Of a rule file: what in it does not compile. Its other rules count.
    Rules {
        /// The first problem.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    },
    /// How many rules there are.
    Ready {
        /// All that compiled.
        rules: u64,
    },
    /// Of a file: the rules that match.
    Matches(Vec<Match>),
    /// Of a file: why it could not be scanned.
    Failed(String),
}

/// One rule that matches a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Match {
    /// The rule file.
    pub(crate) file: String,
    /// The rule.
    pub(crate) rule: String,
    /// Where the first of its strings stands; none if its condition needs no string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
    /// The line of that, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u32>,
    /// The texts among its metadata.
    pub(crate) meta: BTreeMap<String, String>,
}
