//! The log read back, from the newest segment to the first.
//!
//! A segment's name holds the digest of its head, and its first row names the head and the
//! segment before: so the way back needs no listing, and nothing that is not of this chain (a
//! publisher's that came too late) is ever met.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::site as path;

use super::{Row, SEGMENT_BYTES};
use crate::site::state::Published;
use crate::site::{Site, SiteError};

/// The rows of one head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The head.
    pub version: u64,
    /// The digest of its payload.
    pub head: Digest,
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// What they say: this head's own row first, then refusals.
    pub rows: Vec<Row>,
}

/// All segments, oldest first.
///
/// # Errors
/// `Log` if one is missing, cannot be read, or is not the one that the next one names.
pub fn segments(site: &Site, published: &Published) -> Result<Vec<Segment>, SiteError> {
    let mut found: Vec<Segment> = Vec::new();
    let (mut version, mut head, mut digest) = (published.version(), published.head_digest(), None);
    while let Some(sha256) = head {
        let segment = segment(site, version, sha256, digest)?;
        let first = segment.rows.first();
        (head, digest) = first.map_or((None, None), |row| (row.previous_head, row.previous));
        version = version.saturating_sub(1);
        found.push(segment);
    }
    found.reverse();
    Ok(found)
}

fn segment(site: &Site, version: u64, head: Digest, digest: Option<Digest>) -> Result<Segment, SiteError> {
    let name = path::log(version, &head);
    let wrong = |problem: &str| SiteError::Log { path: name.clone(), problem: problem.to_owned() };
    let bytes = site.find(&name, SEGMENT_BYTES)?.ok_or_else(|| wrong("it is missing"))?;
    if digest.is_some_and(|digest| digest != Digest::of(&bytes)) {
        return Err(wrong("it is not the one that the next segment names"));
    }
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let rows: Vec<Row> = lines
        .map(serde_json::from_slice)
        .collect::<Result<_, _>>()
        .map_err(|error: serde_json::Error| wrong(&error.to_string()))?;
    if rows.first().is_none_or(|row| row.head_version != Some(version)) {
        return Err(wrong("its first row is of another head"));
    }
    Ok(Segment { version, head, bytes, rows })
}
