//! A release of one registry, published in another: from staging to production, or from a
//! supplier's registry to one's own.
//!
//! The source is read as a host reads it, and believed no further: the artefact is unpacked, checked
//! and packed again here, under this registry's policy, and must give the very tree that the
//! source's statement names. What is signed says the same in every field but the registry, so
//! where it comes from stays visible; the log names the other registry's statement.

use std::fs::File;
use std::path::{Path, PathBuf};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::limits;
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::release::Release;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::site as path;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::{self, Pin, Seen, Verified};
use serde_json::{Map, Value, json};

use crate::check::{CheckOptions, Lookups};
use crate::fetch::FetchPolicy;
use crate::files::{self, FileError, Hashing};
use crate::key::SigningKey;
use crate::log::{PromotedFrom, Row};
use crate::policy::Gate;
use crate::release::{self, ReleaseError, Released};
use crate::site::publish::Publisher;
use crate::site::state::at;
use crate::site::{Site, SiteError, StoreError, reach};
use crate::source::Origin;

/// A release as its own registry has it, verified.
#[derive(Debug)]
pub struct Source<'a> {
    site: &'a Site,
    release: Verified<Release>,
    from: PromotedFrom,
}

impl<'a> Source<'a> {
    /// Finds and verifies a release at its origin, which must be fresh there and not withdrawn.
    ///
    /// # Errors
    /// Whatever a host would say.
    pub fn find(
        site: &'a Site,
        root: &TrustRoot,
        (name, version): (&ServerName, &Version),
        now: Timestamp,
    ) -> Result<Self, SiteError> {
        let bytes = site.read(path::HEAD, limits::HEAD_BYTES)?;
        let accepted = verify::head(&bytes, root, &Seen::default(), now).map_err(at(path::HEAD))?;
        let published = site.published(root)?;
        let entry = site.entry(&published, name)?.ok_or_else(|| SiteError::NoServer { name: name.clone() })?;
        let place = format!("{name} {version}");
        let pin = Pin { version: version.clone(), artefact: None };
        let listed = verify::select(&entry, Some(&pin)).map_err(at(&place))?;
        if listed.status != mcpfs_trust::entry::Status::Active {
            return Err(crate::revoke::withdrawn(listed));
        }
        let release = verify::release(&entry, version, root, None).map_err(at(&place))?;
        let from = PromotedFrom {
            registry: root.registry.clone(),
            head_version: accepted.head.version,
            statement: listed.envelope.statement(),
        };
        Ok(Self { site, release, from })
    }

    /// Checks the release by this registry's rules, signs and publishes it.
    ///
    /// # Errors
    /// As a release from a recipe.
    pub fn publish(
        &self,
        publisher: &mut Publisher<'_>,
        (gate, lookups): (Gate, Lookups),
        keys: &[Box<dyn SigningKey>],
    ) -> Result<Released, ReleaseError> {
        let folder =
            tempfile::tempdir().map_err(|error| SiteError::from(FileError::write(&std::env::temp_dir())(error)))?;
        let artefacts = folder.path().join("artefacts");
        self.fetch(&artefacts)?;
        let recipe = self.recipe(folder.path())?;
        let registry = publisher.root.registry.clone();
        let options = CheckOptions {
            registry: Some(registry),
            fetch: FetchPolicy { by_digest: Some(artefacts), ..FetchPolicy::default() },
            known: release::known_chunks(publisher.site, publisher.root, &self.release.name)?,
            level: crate::pack::ChunkStore::LEVEL,
            now: publisher.now,
            published: None,
            gate,
            lookups,
            trial: None,
            patterns: None,
        };
        let staging = release::ingest(&recipe, &folder.path().join("staging"), &options)?;
        for (staged, signed) in staging.artefacts.iter().zip(self.release.artefact.all()) {
            if staged.tree.summary() != signed.tree {
                let what = format!("{} {} ({})", self.release.name, self.release.version, signed.platform);
                return Err(SiteError::OtherTree { what }.into());
            }
        }
        let origin =
            Origin { source: self.release.source.clone(), committed: Some(self.release.issued), warning: None };
        let row = Row {
            action: "promote".to_owned(),
            request: format!("{}@{}", self.release.name, self.release.version),
            from: Some(self.from.clone()),
            recipe_text: Some(staging.recipe.clone()),
            ..Row::default()
        };
        release::publish_as(publisher, &staging, &origin, keys, row)
    }

    /// Its artefacts, as files named by their digest.
    fn fetch(&self, folder: &Path) -> Result<(), SiteError> {
        std::fs::create_dir_all(folder).map_err(FileError::write(folder))?;
        let mut wanted = Vec::new();
        for artefact in self.release.artefact.all() {
            wanted.push(artefact.sha256);
            wanted.extend(reach::parts(self.site, artefact)?.iter().map(|part| part.sha256));
        }
        for sha256 in wanted {
            let name = path::artefact(&sha256);
            let to = folder.join(sha256.to_string());
            let mut out = Hashing::new(File::create(&to).map_err(FileError::write(&to))?);
            if !self.site.store().copy_out(&name, &mut out)? {
                return Err(StoreError::Missing { place: self.site.place(), name }.into());
            }
            if out.finish().1 != sha256 {
                return Err(SiteError::Damaged { path: name });
            }
        }
        Ok(())
    }

    /// The recipe that says what the statement says. JSON is YAML too.
    fn recipe(&self, folder: &Path) -> Result<PathBuf, SiteError> {
        let mut fields = match serde_json::to_value(&*self.release) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        for unknown in ["registry", "source", "issued"] {
            fields.remove(unknown);
        }
        let pinned = |one: &mcpfs_trust::release::Artefact| json!({"url": one.url, "sha256": one.sha256, "platform": one.platform});
        fields.insert("artefact".to_owned(), self.release.artefact.all().iter().map(pinned).collect());
        let file = folder.join("servers").join(format!("{}.yaml", self.release.name));
        let text = serde_json::to_vec_pretty(&fields).unwrap_or_default();
        files::write_durably(&file, &text, true)?;
        Ok(file)
    }

    /// Where it comes from.
    pub fn statement(&self) -> Digest {
        self.from.statement
    }
}
