//! Files of Git LFS, by the batch API of their host or from a repository on this machine.
//!
//! A pointer names its content by SHA-256 and size, so wherever the bytes come from, they are those
//! that the commit means. The host says where they are to be had; that place must be listed, like every other.
//! `.lfsconfig` is not looked at: it would let a repository choose whom the signer asks.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::json;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::http::{self, Ask, Body};
use super::oci::may_carry_secrets;
use super::{FetchError, FetchPolicy, Sink, at, local, task};

/// Objects of one question; hosts have such bounds too.
const BATCH: usize = 100;
/// An answer, bytes.
const ANSWER_BYTES: u64 = 1 << 20;
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// What a pointer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pointer {
    pub(crate) sha256: Digest,
    pub(crate) size: u64,
}

#[derive(Deserialize)]
struct Answer {
    transfer: Option<String>,
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Actions {
    download: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
}

/// Brings what `wanted` names into `folder`, each under its digest. `address` is the repository's.
pub(crate) fn fetch(address: &str, wanted: &[Pointer], policy: &FetchPolicy, folder: &Path) -> Result<(), FetchError> {
    let sum = wanted.iter().try_fold(0_u64, |sum, pointer| sum.checked_add(pointer.size));
    if sum.is_none_or(|sum| sum > policy.limit) {
        return Err(FetchError::TooLarge(policy.limit));
    }
    if !address.starts_with("https:") {
        return wanted.iter().try_for_each(|pointer| copy(Path::new(address), *pointer, policy, folder));
    }
    let base = address.trim_end_matches('/');
    let base = if base.ends_with(".git") { base.to_owned() } else { format!("{base}.git") };
    let batch = format!("{base}/info/lfs/objects/batch");
    let batch = Url::parse(&batch).map_err(|_| FetchError::Url(bounded(&batch)))?;
    http::within(policy, async {
        for some in wanted.chunks(BATCH) {
            let answer = question(&batch, some, policy).await?;
            for pointer in some {
                object(&answer, *pointer, policy, folder).await?;
            }
        }
        Ok(())
    })
}

async fn question(batch: &Url, wanted: &[Pointer], policy: &FetchPolicy) -> Result<Answer, FetchError> {
    let objects: Vec<_> = wanted.iter().map(|one| json!({"oid": one.sha256.to_string(), "size": one.size})).collect();
    let body = json!({"operation": "download", "transfers": ["basic"], "hash_algo": "sha256", "objects": objects});
    let ask = Ask {
        url: batch.clone(),
        accept: Some(MEDIA_TYPE),
        authorization: policy.logins.basic(batch)?,
        body: Some(Body { media_type: MEDIA_TYPE, bytes: body.to_string() }),
    };
    let host = batch.host_str().unwrap_or_default();
    let response = http::ask(ask, policy).await?;
    match response.status().as_u16() {
        200 => {}
        401 | 403 => return Err(policy.logins.wanted(batch)),
        404 => return Err(FetchError::Transfer(format!("{host} has no Git LFS for this repository"))),
        other => return Err(FetchError::Status(other)),
    }
    let mut bytes = Vec::new();
    http::receive(response, ANSWER_BYTES, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .await?;
    let odd = |what: &str| FetchError::Transfer(format!("{host} answers something that is not Git LFS's: {what}"));
    let value = json::value(&bytes, ANSWER_BYTES, "answer").map_err(|error| odd(&error.to_string()))?;
    // serde's own words may repeat a value, and there are tokens among them.
    let answer: Answer = serde_json::from_value(value).map_err(|_| odd("other fields"))?;
    match answer.transfer.as_deref() {
        None | Some("basic") => Ok(answer),
        Some(other) => Err(odd(&format!("the transfer {:?}", bounded(other)))),
    }
}

async fn object(answer: &Answer, pointer: Pointer, policy: &FetchPolicy, folder: &Path) -> Result<(), FetchError> {
    let Pointer { sha256, size } = pointer;
    let wrong = |problem: String| FetchError::Part { sha256, problem };
    let oid = sha256.to_string();
    let found = answer.objects.iter().find(|one| one.oid == oid);
    let found = found.ok_or_else(|| wrong("is not in the answer of its Git LFS".to_owned()))?;
    if let Some(refusal) = &found.error {
        return Err(wrong(format!("is refused by its Git LFS: {}", bounded(&refusal.message))));
    }
    let download = found.actions.as_ref().and_then(|actions| actions.download.as_ref());
    let download = download.ok_or_else(|| wrong("is nowhere to be had, says its Git LFS".to_owned()))?;
    let url = Url::parse(&download.href).map_err(|_| FetchError::Url(bounded(&download.href)))?;
    let given = download.header.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let authorization = match given {
        Some((_, value)) if may_carry_secrets(&url) => {
            let mut value =
                HeaderValue::from_str(value).map_err(|_| wrong("comes with a header that is none".to_owned()))?;
            value.set_sensitive(true);
            Some(value)
        }
        Some(_) => return Err(FetchError::NotAllowed("its Git LFS wants a login to be sent without TLS".to_owned())),
        None => policy.logins.basic(&url)?,
    };
    let response = http::ask(Ask { url, accept: None, authorization, body: None }, policy).await?;
    if response.status().as_u16() != 200 {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    let mut sink = Sink::new(folder, task(policy, &format!("Git LFS {}", sha256.short())), Some(sha256), size)?;
    http::receive(response, size, &mut |piece| sink.write(piece)).await.and_then(|()| finish(sink, pointer))
}

/// From the repository's own store, where `git lfs fetch` puts it.
fn copy(repository: &Path, pointer: Pointer, policy: &FetchPolicy, folder: &Path) -> Result<(), FetchError> {
    let oid = pointer.sha256.to_string();
    let below = Path::new("lfs/objects").join(&oid[..2]).join(&oid[2..4]).join(&oid);
    let root = File::open(repository).map_err(at(repository))?;
    let places = [below.clone(), Path::new(".git").join(&below)];
    let found = places.iter().find_map(|place| local::open_beneath(&root, place).ok());
    let found = found.filter(|file| file.metadata().is_ok_and(|facts| facts.is_file()));
    let missing = "is not in the repository: git lfs fetch --all brings it there";
    let file = found.ok_or_else(|| FetchError::Part { sha256: pointer.sha256, problem: missing.to_owned() })?;
    let mut sink = Sink::new(folder, task(policy, &oid), Some(pointer.sha256), pointer.size)?;
    sink.copy(file, repository)?;
    finish(sink, pointer)
}

fn finish(sink: Sink<'_>, pointer: Pointer) -> Result<(), FetchError> {
    let wrong = |problem: String| FetchError::Part { sha256: pointer.sha256, problem };
    match sink.finish() {
        Ok((_, fetched)) if fetched.size == pointer.size => Ok(()),
        Ok((_, fetched)) => Err(wrong(format!("has {} bytes where {} are announced", fetched.size, pointer.size))),
        Err(FetchError::Digest { found, .. }) => Err(wrong(format!("came as other bytes ({found})"))),
        Err(other) => Err(other),
    }
}
