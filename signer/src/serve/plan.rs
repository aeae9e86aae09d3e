//! What is to be done: the tip of the branch compared with the published site.
//!
//! A pure function of the two. A recipe is settled if the site's selected release says, in every
//! field that a recipe gives, what the recipe says, and verifies under the trust root of now.

use std::path::{Path, PathBuf};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Listed, Status};
use mcpfs_trust::limits;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::verify;

use crate::bundle::LOCK_BYTES;
use crate::files::{self, FileError};
use crate::mirror::{Blob, GitError, Mirror};
use crate::policy::other_name;
use crate::recipe::Recipe;
use crate::site::state::Published;
use crate::site::{Site, SiteError};

/// The folder of recipes in a registry's repository.
const SERVERS: &str = "servers";
/// The files beside it that a check applies.
pub(super) const BESIDE: [&str; 2] = ["policy.yaml", "waivers.yaml"];

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum PlanError {
    #[error("the mirror cannot be read")]
    Git(#[from] GitError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the site cannot be read")]
    Site(#[from] SiteError),
    #[error("{path} of the branch is a link, no file, or too large; it must be a file, or absent")]
    NotAFile { path: String },
    #[error("{found} of the branch is not read; call it {wanted}, or remove it")]
    Misnamed { found: String, wanted: &'static str },
}

/// The tip's own files, in a folder that only this pass uses.
#[derive(Debug)]
pub(super) struct Tip {
    /// The commit.
    pub(super) commit: String,
    folder: tempfile::TempDir,
    recipes: Vec<Blob>,
    beside: Vec<Blob>,
}

/// A recipe whose release is not the selected one.
#[derive(Debug)]
pub(super) struct Pending {
    /// Its file's name, such as `hello.yaml`.
    pub(super) file: String,
    /// Its path in the repository.
    pub(super) path: String,
    /// Its object id.
    pub(super) blob: String,
    /// Digest of its bytes.
    pub(super) digest: Digest,
    /// What it says, or why that is nothing.
    pub(super) recipe: Result<Box<Recipe>, String>,
    /// Whether its version is published already with the same content.
    pub(super) again: bool,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of their names.
    pub(super) pending: Vec<Pending>,
    /// Servers on the site that have no recipe at the tip: they stay as they are.
    pub(super) unlisted: Vec<ServerName>,
    /// Recipes at the tip.
    pub(super) recipes: usize,
}

impl Tip {
    /// Writes recipes, policy and waivers of `commit` below `work`.
    pub(super) fn read(mirror: &Mirror, commit: &str, work: &Path) -> Result<Self, PlanError> {
        let temporary = tempfile::Builder::new().prefix("tip-").tempdir_in(work);
        let folder = temporary.map_err(FileError::write(work))?;
        let servers = folder.path().join(SERVERS);
        std::fs::create_dir(&servers).map_err(FileError::write(&servers))?;
        let (mut recipes, mut beside, inside) = (Vec::new(), Vec::new(), format!("{SERVERS}/"));
        let misnamed = BESIDE.map(other_name);
        let named: Vec<&str> = BESIDE.into_iter().chain(misnamed.iter().map(String::as_str)).collect();
        for blob in mirror.files(commit, SERVERS, &named)? {
            if let Some(index) = misnamed.iter().position(|name| *name == blob.path) {
                return Err(PlanError::Misnamed { found: blob.path, wanted: BESIDE[index] });
            }
            // One that ends in .yml is refused by its name, not overlooked.
            let recipe = blob.path.starts_with(&inside) && [".yaml", ".yml"].iter().any(|end| blob.path.ends_with(end));
            if !recipe && !BESIDE.contains(&blob.path.as_str()) {
                continue;
            }
            // More than the parsers take, so that they say so.
            match mirror.read(&blob.id, 1 << 20) {
                Ok(bytes) if blob.ordinary => {
                    let to = folder.path().join(&blob.path);
                    std::fs::write(&to, bytes).map_err(FileError::write(&to))?;
                }
                // A policy that cannot be read must not be an absent one.
                _ if BESIDE.contains(&blob.path.as_str()) => return Err(PlanError::NotAFile { path: blob.path }),
                // A link, a folder, or too large: of a recipe this is said when it is read.
                Ok(_) | Err(GitError::TooMuch { .. } | GitError::Failed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let list = if recipe { &mut recipes } else { &mut beside };
            list.push(blob);
        }
        Ok(Self { commit: commit.to_owned(), folder, recipes, beside })
    }

    /// The object id of one of the files beside the recipes; `None` if it is not there.
    pub(super) fn beside(&self, path: &str) -> Option<&str> {
        self.beside.iter().find(|blob| blob.path == path).map(|blob| blob.id.as_str())
    }

    /// Writes a lockfile that a recipe names, below the recipes' folder, to where its check looks for
    /// it; gives its path in the repository and its object id, if it is there.
    pub(super) fn bring(&self, mirror: &Mirror, lock: &str) -> Result<(String, Option<String>), PlanError> {
        let path = format!("{SERVERS}/{lock}");
        let blob = mirror.blob_at(&self.commit, &path)?;
        if let Some(blob) = &blob {
            let to = self.folder.path().join(&path);
            let folder = to.parent().unwrap_or(&to);
            std::fs::create_dir_all(folder).map_err(FileError::write(folder))?;
            std::fs::write(&to, mirror.read(blob, LOCK_BYTES)?).map_err(FileError::write(&to))?;
        }
        Ok((path, blob))
    }

    /// Where a recipe of it lies.
    pub(super) fn recipe(&self, file: &str) -> PathBuf {
        self.folder.path().join(SERVERS).join(file)
    }

    /// Compares it with the site.
    pub(super) fn plan(&self, site: &Site, published: &Published, root: &TrustRoot) -> Result<Plan, PlanError> {
        let (mut pending, mut named) = (Vec::new(), Vec::new());
        for blob in &self.recipes {
            let file = blob.path.rsplit('/').next().unwrap_or_default().to_owned();
            if let Ok(name) = file.trim_end_matches(".yaml").parse::<ServerName>() {
                named.push(name);
            }
            pending.extend(self.compare(blob, file, site, published, root)?);
        }
        let unlisted = published.servers().map(|one| &one.name).filter(|name| !named.contains(name)).cloned().collect();
        Ok(Plan { pending, unlisted, recipes: self.recipes.len() })
    }

    fn compare(
        &self,
        blob: &Blob,
        file: String,
        site: &Site,
        published: &Published,
        root: &TrustRoot,
    ) -> Result<Option<Pending>, PlanError> {
        let path = self.recipe(&file);
        let (bytes, text) = match blob.ordinary && path.is_file() {
            true => {
                let bytes = files::read_bounded(&path, 1 << 20)?;
                let text = String::from_utf8(bytes.clone()).map_err(|_| "is not UTF-8".to_owned());
                (bytes, text)
            }
            false => (Vec::new(), Err("is a link, no file, or larger than a recipe may be".to_owned())),
        };
        // By its own name alone: where it lies for this pass is nobody's business.
        let recipe = text.and_then(|text| Recipe::parse(&text, &file).map_err(|errors| errors.to_string()));
        let mut again = false;
        if let Ok(recipe) = &recipe
            && let Some(entry) = site.entry(published, &recipe.name)?
        {
            let listed = entry.find(&recipe.version);
            again = listed.is_some_and(|listed| is_same(recipe, listed, &root.registry));
            let selected = entry.selected.release.version == recipe.version;
            let verifies = |version: &Version| verify::release(&entry, version, root, None).is_ok();
            let withdrawn = entry.selected.status != Status::Active;
            if again
                && selected
                && (withdrawn || (verifies(&recipe.version) && is_mirrored(site, published, &recipe.name)?))
            {
                return Ok(None);
            }
        }
        let digest = Digest::of(&bytes);
        let recipe = recipe.map(Box::new);
        Ok(Some(Pending { file, path: blob.path.clone(), blob: blob.id.clone(), digest, recipe, again }))
    }
}

/// Whether `servers/<name>.json` is the entry: it is written after the head, and a run that was cut
/// short may have left the one before.
fn is_mirrored(site: &Site, published: &Published, name: &ServerName) -> Result<bool, SiteError> {
    let wanted = published.servers().find(|one| one.name == *name).map(|one| one.sha256);
    let found = site.find(&mcpfs_trust::site::server(name), limits::ENTRY_BYTES)?;
    Ok(found.map(|bytes| Digest::of(&bytes)) == wanted)
}

/// Whether a published release says what the recipe says; a launch that the recipe leaves out is
/// the artefact's, which is the same.
fn is_same(recipe: &Recipe, listed: &Listed, registry: &RegistryName) -> bool {
    let published = &listed.release;
    let launch = recipe.launch.as_ref().or(published.launch.as_ref());
    let artefacts = published.artefact.all().to_vec();
    let same = recipe.started_by(launch).release(registry, artefacts, published.source.clone(), published.issued);
    same.is_ok_and(|same| same == *published)
}
