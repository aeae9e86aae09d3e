//! The straight way: a reviewed recipe becomes a published release.
//!
//! `check` reads hostile input and leaves a staging folder; everything from [`publish`] on
//! trusts nothing in it: it is recomputed from the recipe and the artefact first.

use std::path::Path;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, Status};
use mcpfs_trust::name::{Platform, ServerName, Version};
use mcpfs_trust::release::Release;
use serde::Serialize;

use crate::check::{self, CheckError, CheckOptions, Findings, Published};
use crate::details;
use crate::key::{self, SigningKey};
use crate::log::{self, Row};
use crate::pack::KnownChunks;
use crate::recipe::RecipeErrors;
use crate::revoke;
use crate::sign;
use crate::site::publish::{Change, Outcome, Publisher};
use crate::site::{Site, SiteError};
use crate::source::Origin;
use crate::staging::{Rechecked, Staging, StagingError};

/// Why a recipe was not released.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum ReleaseError {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("{file} did not pass the {summary}", summary = findings.summary())]
    Findings { file: String, findings: Findings },
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error("the recipe does not make a release")]
    Recipe(#[from] RecipeErrors),
    #[error(transparent)]
    Site(#[from] SiteError),
}

/// A published release.
#[derive(Debug, Clone, Serialize)]
pub struct Released {
    /// The server.
    pub name: ServerName,
    /// The version, selected now.
    pub version: Version,
    /// The statement.
    pub statement: Digest,
    /// The keys that signed it.
    pub keys: Vec<Digest>,
    /// Each artefact's digest, by platform.
    pub artefacts: Vec<(Platform, Digest)>,
    /// The site.
    #[serde(flatten)]
    pub site: Outcome,
}

/// How many releases of a server are looked through for chunks that are published already.
const REMEMBERED: usize = 16;

/// Published chunks of the recipe's server, so that an update stores only what changed.
///
/// # Errors
/// If the site does not verify.
pub fn known_chunks(
    site: &Site,
    root: &mcpfs_trust::root::TrustRoot,
    name: &ServerName,
) -> Result<KnownChunks, SiteError> {
    let published = site.published(root)?;
    let Some(entry) = site.entry(&published, name)? else { return Ok(KnownChunks::none()) };
    let mut chunks = Vec::new();
    // The newest: what has not been there for so long is rather new again than worth reading all before it.
    for listed in entry.releases().take(REMEMBERED) {
        // A release that cannot be read any more is no reason not to publish the next one.
        match site.release_chunks(listed) {
            Ok(found) => chunks.extend(found),
            Err(error) => tracing::warn!(version = %listed.release.version, %error, "chunks are not reused"),
        }
    }
    Ok(chunks.into_iter().collect())
}

/// What a release is compared with; nothing before a registry's first head. That a site lost its
/// head is noticed when it is published to.
///
/// # Errors
/// If the site cannot be read.
pub fn compared(site: &Site, root: &mcpfs_trust::root::TrustRoot) -> Result<Option<Published>, SiteError> {
    let head = site.find(mcpfs_trust::site::HEAD, mcpfs_trust::limits::HEAD_BYTES)?;
    Ok(head.map(|_| Published { site: site.clone(), root: root.clone() }))
}

/// Checks the recipe into `folder`; its findings come back with the staging.
///
/// # Errors
/// `Findings` if there is an error among them.
pub fn ingest(recipe: &Path, folder: &Path, options: &CheckOptions) -> Result<Staging, ReleaseError> {
    let checked = check::ingest(recipe, folder, options)?;
    let file = recipe.display().to_string();
    checked.staging.ok_or(ReleaseError::Findings { file, findings: checked.findings })
}

/// Signs what is staged and publishes it as the server's selected release.
///
/// # Errors
/// If staging is not what recipe and artefact give, the version is published with another
/// content or withdrawn, a key fails, or the new site would not verify.
pub fn publish(
    publisher: &mut Publisher<'_>,
    staging: &Staging,
    origin: &Origin,
    keys: &[Box<dyn SigningKey>],
    request: &str,
) -> Result<Released, ReleaseError> {
    let row = Row { action: "release".to_owned(), request: request.to_owned(), ..Row::default() };
    publish_as(publisher, staging, origin, keys, row)
}

/// As [`publish`], with what the log's row says of the occasion.
///
/// # Errors
/// As [`publish`].
pub fn publish_as(
    publisher: &mut Publisher<'_>,
    staging: &Staging,
    origin: &Origin,
    keys: &[Box<dyn SigningKey>],
    occasion: Row,
) -> Result<Released, ReleaseError> {
    let Rechecked { recipe, dependencies } = staging.recheck(publisher.now)?;
    let seen = details::of(staging, &dependencies);
    let (site, now) = (publisher.site, publisher.now);
    let url =
        |platform: &Platform| recipe.artefact.iter().find(|own| own.platform == *platform).map(|own| own.url.as_str());
    let artefacts = staging.artefacts.iter().map(|one| one.artefact(url(&one.platform).unwrap_or_default())).collect();
    let registry = publisher.root.registry.clone();
    let issued = origin.committed.unwrap_or(now);
    let wanted = recipe.release(&registry, artefacts, origin.source.clone(), issued)?;
    let mut signed = None;
    let outcome = publisher.publish(|published| {
        let before = site.entry(published, &wanted.name)?;
        let listed = before.as_ref().and_then(|entry| entry.find(&wanted.version));
        if let Some(listed) = listed.filter(|listed| listed.status != Status::Active) {
            return Err(revoke::withdrawn(listed));
        }
        let (release, envelope) = sign::release(&wanted, listed, keys)?;
        signed = Some((release.clone(), envelope.clone()));
        // Like the statement, the details of a published version stay what they are.
        let (details, check) = match listed.map(|listed| Ok::<_, SiteError>((listed.details, site.details(listed)?))) {
            Some(Ok((Some(blob), Some(published)))) => (blob, published.check),
            Some(Err(error)) => return Err(error),
            _ => (site.put_details(&seen)?, seen.check.clone()),
        };
        let row = Row { check, ..row(&release, staging, keys, &envelope, &occasion) };
        let layout = staging.artefacts.iter().map(|one| one.listed.clone()).collect();
        let selected =
            Listed { release, envelope, status: Status::Active, reason: None, layout, details: Some(details) };
        let usable = Some(selected.release.version.clone());
        let entry = select(before.as_deref(), selected);
        Ok(Some(Change { entry, staged: Some(staging), usable, row }))
    })?;
    let (release, envelope) = signed.ok_or(SiteError::Sign(sign::SignError::NoKey))?;
    Ok(Released {
        name: release.name.clone(),
        version: release.version.clone(),
        statement: envelope.statement(),
        keys: envelope.signatures.iter().map(|one| one.keyid).collect(),
        artefacts: release.artefact.all().iter().map(|one| (one.platform.clone(), one.sha256)).collect(),
        site: outcome,
    })
}

/// The entry with `selected` at its top and the others behind it, newest first.
pub(crate) fn select(before: Option<&Entry>, selected: Listed) -> Entry {
    let others = before.into_iter().flat_map(Entry::releases);
    let mut earlier: Vec<Listed> =
        others.filter(|listed| listed.release.version != selected.release.version).cloned().collect();
    earlier.sort_by_key(|listed| std::cmp::Reverse(listed.release.issued));
    Entry { selected, earlier }
}

fn row(
    release: &Release,
    staging: &Staging,
    keys: &[Box<dyn SigningKey>],
    envelope: &mcpfs_trust::envelope::Envelope,
    occasion: &Row,
) -> Row {
    Row {
        name: Some(release.name.clone()),
        version: Some(release.version.clone()),
        commit: release.source.as_ref().map(|source| source.commit.clone()),
        approvals: release.source.as_ref().map(|source| source.approvals.clone()).unwrap_or_default(),
        keys: key::ids(keys),
        statement: Some(envelope.statement()),
        source: release.source.clone(),
        issued: Some(release.issued),
        signatures: log::signatures(envelope),
        recipe: Some(staging.recipe_sha256),
        findings: Some(staging.record.findings),
        artefacts: release.artefact.all().iter().map(|one| one.sha256).collect(),
        trees: release.artefact.all().iter().map(|one| one.tree.sha256).collect(),
        ..occasion.clone()
    }
}
