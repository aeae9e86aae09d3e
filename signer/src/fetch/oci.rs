//! `oci:` addresses: the few requests of the distribution protocol that one artefact takes.
//!
//! Everything is asked for by digest: the manifest that the recipe pins, and the blobs that it
//! names. The tag in an address is what people read; it is looked up too, but decides nothing: if
//! it points elsewhere now, that is told and not followed. Where the registry may be, which
//! addresses it may have and where it may redirect is decided by the same door as for every other
//! artefact ([`super::http`]); whether it is asked by https or http is the operator's list's word
//! and never the recipe's.
//!
//! A client crate was rejected: it resolves names, follows redirects and keeps tokens on its own,
//! past that door.

mod auth;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::bounded;
use mcpfs_trust::name::Platform;
use reqwest::Response;
use url::Url;

use self::auth::Session;
use super::{FetchError, FetchNote, FetchPolicy, Fetched, Sink, at, http, task};
use crate::image::{ACCEPT, DOCUMENT_BYTES, Document, Manifest, Part};
use crate::recipe::ArtefactSource;

pub(super) use auth::is_private as may_carry_secrets;
pub use auth::{BadLogins, Logins};

/// Longest name of a repository, bytes (the protocol's own bound).
const REPOSITORY_BYTES: usize = 255;

/// Brings the manifest and its parts into `folder`, each under its digest.
pub(super) fn fetch(source: &ArtefactSource, policy: &FetchPolicy, folder: &Path) -> Result<Fetched, FetchError> {
    let url = Url::parse(&source.url).map_err(|_| FetchError::Url(source.url.clone()))?;
    let reference = Reference::parse(&url)?;
    if reference.sha256.is_some_and(|own| own != source.sha256) {
        return Err(FetchError::Reference(url.to_string()));
    }
    let mut placed = Vec::new();
    let fetched = match &policy.by_digest {
        Some(named) => copy(source, named, policy, folder, &mut placed),
        None => http::within(policy, transfer(source, &reference, policy, folder, &mut placed)),
    };
    if fetched.is_err() {
        for sha256 in placed {
            // It lies in a folder that is thrown away or replaced as a whole.
            let _ = fs::remove_file(folder.join(sha256.to_string()));
        }
    }
    fetched
}

/// The manifest that an address leads to now, and the address that a recipe has beside its digest.
/// Of an index it is the one for `platform`.
pub(super) fn resolve(url: &str, platform: &Platform, policy: &FetchPolicy) -> Result<(String, Digest), FetchError> {
    let parsed = Url::parse(url).map_err(|_| FetchError::Url(url.to_owned()))?;
    let reference = Reference::parse(&parsed)?;
    let (found, bytes) = http::within(policy, async {
        let named = match (&reference.sha256, &reference.tag) {
            (Some(sha256), _) => format!("sha256:{sha256}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => return Err(FetchError::Reference(bounded(url))),
        };
        let mut registry = Registry::new(&reference, policy)?;
        registry.document(&named).await
    })?;
    if let Some(expected) = reference.sha256.filter(|expected| *expected != found) {
        return Err(FetchError::Digest { expected, found });
    }
    let sha256 = match Document::parse(&bytes).map_err(FetchError::Manifest)? {
        Document::Manifest(_) => found,
        Document::Index(listed) => match listed.iter().find(|one| one.platform == platform.to_string()) {
            Some(one) => one.sha256,
            None => return Err(FetchError::NoPlatform { platform: platform.to_string(), listed }),
        },
    };
    let base = format!("oci://{}/{}", reference.authority, reference.repository);
    let url = match &reference.tag {
        Some(tag) => format!("{base}:{tag}"),
        None => format!("{base}@sha256:{sha256}"),
    };
    Ok((url, sha256))
}

async fn transfer(
    source: &ArtefactSource,
    reference: &Reference,
    policy: &FetchPolicy,
    folder: &Path,
    placed: &mut Vec<Digest>,
) -> Result<Fetched, FetchError> {
    let mut registry = Registry::new(reference, policy)?;
    let mut bytes = Vec::new();
    let response = registry.get(&format!("manifests/sha256:{}", source.sha256), Some(ACCEPT)).await?;
    let mut sink = Sink::new(folder, task(policy, &source.url), Some(source.sha256), DOCUMENT_BYTES.min(policy.limit))?;
    http::receive(response, DOCUMENT_BYTES, &mut |piece| {
        bytes.extend_from_slice(piece);
        sink.write(piece)
    })
    .await?;
    let (_, mut fetched) = sink.finish()?;
    placed.push(source.sha256);
    let manifest = match Document::parse(&bytes).map_err(FetchError::Manifest)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(listed) => return Err(FetchError::Index(listed)),
    };
    fetched.parts = bounded_parts(&manifest, fetched.size, policy.limit)?;
    if registry.base.scheme() == "http" {
        fetched.notes.push(FetchNote::PlainHttp);
    }
    if let Some(tag) = &reference.tag {
        fetched.notes.extend(registry.moved(tag, source.sha256).await?.map(FetchNote::MovedTag));
    }
    for part in &fetched.parts {
        let label = format!("{} {}", source.url, part.sha256.short());
        registry.blob(part, &label, folder).await?;
        placed.push(part.sha256);
    }
    Ok(fetched)
}

/// The same from a folder that has them under their digests, and no registry.
fn copy(
    source: &ArtefactSource,
    named: &Path,
    policy: &FetchPolicy,
    folder: &Path,
    placed: &mut Vec<Digest>,
) -> Result<Fetched, FetchError> {
    let take = |sha256: Digest, limit: u64| {
        let path = named.join(sha256.to_string());
        let missing = |_| FetchError::Local(format!("no file with the digest {sha256} is there"));
        let file = crate::files::open_file(&path).map_err(missing)?;
        let mut sink = Sink::new(folder, task(policy, &source.url), Some(sha256), limit)?;
        sink.copy(file, &path)?;
        sink.finish()
    };
    let (_, mut fetched) = take(source.sha256, DOCUMENT_BYTES.min(policy.limit))?;
    placed.push(source.sha256);
    let bytes = fs::read(&fetched.path).map_err(at(&fetched.path))?;
    let manifest = Manifest::parse(&bytes).map_err(FetchError::Manifest)?;
    fetched.parts = bounded_parts(&manifest, fetched.size, policy.limit)?;
    for part in &fetched.parts {
        take(part.sha256, part.size)?;
        placed.push(part.sha256);
    }
    Ok(fetched)
}

/// The parts, if they may be fetched in sum.
fn bounded_parts(manifest: &Manifest, own: u64, limit: u64) -> Result<Vec<Part>, FetchError> {
    let parts = manifest.parts();
    let sum = parts.iter().try_fold(own, |sum, part| sum.checked_add(part.size));
    match sum {
        Some(sum) if sum <= limit => Ok(parts),
        _ => Err(FetchError::TooLarge(limit)),
    }
}

/// `oci://host[:port]/repository[:tag][@sha256:…]`
#[derive(Debug, PartialEq, Eq)]
struct Reference {
    /// Host, and port if it is named.
    authority: String,
    repository: String,
    tag: Option<String>,
    sha256: Option<Digest>,
}

impl Reference {
    fn parse(url: &Url) -> Result<Self, FetchError> {
        let bad = || FetchError::Reference(bounded(url.as_str()));
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad());
        }
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = url.path().strip_prefix('/').ok_or_else(bad)?;
        let (path, sha256) = match path.split_once("@sha256:") {
            Some((path, hex)) => (path, Some(hex.parse().map_err(|_| bad())?)),
            None => (path, None),
        };
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
            None => (path, None),
        };
        let name = |part: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
            part.bytes().all(inner) && part.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        };
        let tag_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let good_tag = |tag: &String| (1..=128).contains(&tag.len()) && tag.bytes().all(tag_byte);
        match repository.len() <= REPOSITORY_BYTES && repository.split('/').all(name) && tag.iter().all(good_tag) {
            true => Ok(Self { authority, repository: repository.to_owned(), tag, sha256 }),
            false => Err(bad()),
        }
    }
}

/// One repository of a registry, and who asks it.
struct Registry<'a> {
    /// `https://host/v2/<repository>/`
    base: Url,
    session: Session<'a>,
    policy: &'a FetchPolicy,
}

impl<'a> Registry<'a> {
    fn new(reference: &Reference, policy: &'a FetchPolicy) -> Result<Self, FetchError> {
        let base = |scheme: &str| {
            let text = format!("{scheme}://{}/v2/{}/", reference.authority, reference.repository);
            Url::parse(&text).map_err(|_| FetchError::Reference(text))
        };
        let (https, http) = (base("https")?, base("http")?);
        let listed = |url: &Url| policy.hosts.iter().any(|host| host.covers(url));
        // If neither is listed, the refusal names https.
        let base = if !listed(&https) && listed(&http) { http } else { https };
        let session = Session::new(&reference.repository, policy);
        Ok(Self { base, session, policy })
    }

    /// What lies at `path` below the repository.
    async fn get(&mut self, path: &str, accept: Option<&'static str>) -> Result<Response, FetchError> {
        let url = self.base.join(path).map_err(|_| FetchError::Reference(path.to_owned()))?;
        let response = self.session.ask(&url, accept).await?;
        match response.status().as_u16() {
            200 => Ok(response),
            other => Err(FetchError::Status(other)),
        }
    }

    /// The manifest or index of a tag or digest, and its digest.
    async fn document(&mut self, named: &str) -> Result<(Digest, Vec<u8>), FetchError> {
        let response = self.get(&format!("manifests/{named}"), Some(ACCEPT)).await?;
        let mut bytes = Vec::new();
        http::receive(response, DOCUMENT_BYTES.min(self.policy.limit), &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        Ok((Digest::of(&bytes), bytes))
    }

    async fn blob(&mut self, part: &Part, label: &str, folder: &Path) -> Result<(), FetchError> {
        let wrong = |problem: String| FetchError::Part { sha256: part.sha256, problem };
        let response = self.get(&format!("blobs/sha256:{}", part.sha256), None).await?;
        let mut sink = Sink::new(folder, task(self.policy, label), Some(part.sha256), part.size)?;
        let received = http::receive(response, part.size, &mut |piece| sink.write(piece)).await;
        match received.and_then(|()| sink.finish()) {
            Ok((_, fetched)) if fetched.size == part.size => Ok(()),
            Ok((_, fetched)) => Err(wrong(format!("has {} bytes where {} are announced", fetched.size, part.size))),
            Err(FetchError::Digest { found, .. }) => Err(wrong(format!("came as other bytes ({found})"))),
            Err(FetchError::TooLarge(limit)) => Err(wrong(format!("came with more than its {limit} bytes"))),
            Err(other) => Err(other),
        }
    }

    /// What is to be said of `tag` if it does not lead to `pinned`; a tag that cannot be looked up
    /// is told too, since nobody knows then.
    async fn moved(&mut self, tag: &str, pinned: Digest) -> Result<Option<String>, FetchError> {
        let (found, bytes) = match self.document(tag).await {
            Ok(document) => document,
            Err(error @ (FetchError::Status(_) | FetchError::Login(_))) => {
                return Ok(Some(format!("the tag {tag} cannot be looked up: {error}")));
            }
            Err(error) => return Err(error),
        };
        if found == pinned {
            return Ok(None);
        }
        let there = match Document::parse(&bytes) {
            Ok(Document::Index(listed)) if listed.iter().any(|one| one.sha256 == pinned) => return Ok(None),
            Ok(Document::Index(_)) => "an index without it",
            Ok(Document::Manifest(_)) => "another manifest",
            Err(_) => "something that is no manifest",
        };
        Ok(Some(format!("the tag {tag} is at {there} now (sha256:{found})")))
    }
}
