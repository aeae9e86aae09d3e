//! The log read back, from the newest segment to the first.
//!
//! A segment's name holds the digest of its head, and its first row names the head and the
//! segment before: so the way back needs no listing, and nothing that is not of this chain (a
//! publisher's that came too late) is ever met.

use mcpfs_trust::digest::Digest;
use mcpfs_trust::root::TrustRoot;
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
    let read = |version, head, digest| segment(site, "log/", version, head, digest);
    chain(published.head_digest().map(|head| (published.version(), head)), read)
}

/// What the newest row says of which `find` knows something.
///
/// # Errors
/// `Log` if a segment on the way back is missing or cannot be read.
pub fn newest<T>(site: &Site, published: &Published, find: impl Fn(&Row) -> Option<T>) -> Result<Option<T>, SiteError> {
    let mut next = published.head_digest().map(|head| (published.version(), head, None));
    while let Some((version, head, digest)) = next {
        let segment = segment(site, "log/", version, head, digest)?;
        if let Some(found) = segment.rows.iter().find_map(&find) {
            return Ok(Some(found));
        }
        let first = segment.rows.first();
        next = first
            .and_then(|row| before(version, row))
            .map(|(version, head)| (version, head, first.and_then(|row| row.previous)));
    }
    Ok(None)
}

/// The head before the one of this version, by the first row of its segment.
fn before(version: u64, row: &Row) -> Option<(u64, Digest)> {
    let before = row.previous_version.or(version.checked_sub(1))?;
    // Never forward: a way back that does not go back has no end.
    (before < version).then_some((before, row.previous_head?))
}

/// From the last segment back to the first.
fn chain(
    last: Option<(u64, Digest)>,
    read: impl Fn(u64, Digest, Option<Digest>) -> Result<Segment, SiteError>,
) -> Result<Vec<Segment>, SiteError> {
    let (mut found, mut digest) = (Vec::new(), None);
    let mut next = last;
    while let Some((version, head)) = next {
        let segment = read(version, head, digest)?;
        let first = segment.rows.first();
        next = first.and_then(|row| before(version, row));
        digest = first.and_then(|row| row.previous);
        found.push(segment);
    }
    found.reverse();
    Ok(found)
}

/// The segments of a copy: of a site, or of its folder `log/` alone. Without a head the last one is
/// that which no other names.
///
/// # Errors
/// `Log` as [`segments`], or if several could be the last.
pub fn copied(site: &Site, root: &TrustRoot) -> Result<Vec<Segment>, SiteError> {
    let published = site.published(root)?;
    if published.head.is_some() {
        return segments(site, &published);
    }
    let mut folder = "log/";
    let mut names = site.store().list(folder)?;
    if names.is_empty() {
        folder = "";
        names = site.store().list(folder)?;
    }
    let wrong = |problem: &str| SiteError::Log { path: site.place(), problem: problem.to_owned() };
    let parsed = names.iter().filter_map(|one| {
        let (version, head) = one.name.strip_prefix(folder)?.strip_suffix(".jsonl")?.split_once('-')?;
        Some((version.parse::<u64>().ok()?, head.parse::<Digest>().ok()?))
    });
    let mut heads: Vec<(u64, Digest)> = parsed.collect();
    heads.sort();
    let read = |version, head: Digest, digest| segment(site, folder, version, head, digest);
    let newest = heads.last().map(|(version, _)| *version).ok_or_else(|| wrong("it has no segments"))?;
    let mut last = heads.iter().filter(|(version, _)| *version == newest);
    let (Some((version, head)), None) = (last.next(), last.next()) else {
        return Err(wrong("two publishers met at its last head: remove the segment whose head was never published"));
    };
    chain(Some((*version, *head)), read)
}

fn segment(
    site: &Site,
    folder: &str,
    version: u64,
    head: Digest,
    digest: Option<Digest>,
) -> Result<Segment, SiteError> {
    let name = path::log(version, &head);
    let name = name.strip_prefix("log/").map_or(name.clone(), |file| format!("{folder}{file}"));
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
