//! The paths inside a staging folder.

use std::path::{Path, PathBuf};
use std::{fs, io};

use mcpfs_trust::digest::Digest;

use super::StagingError;
use super::folder::{at, put};

/// The file that says a folder is a staging one, so that its content may be replaced.
const MARKER: &str = ".mcpfs-staging";

/// The paths inside a staging folder.
#[derive(Debug, Clone)]
pub(crate) struct Places(PathBuf);

impl Places {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }
    /// Makes the folder and those in it; an older staging in it is replaced. A folder that holds
    /// something else (a site has `artefacts` too) is left alone.
    pub(crate) fn make(&self) -> Result<(), StagingError> {
        let marker = self.marker();
        fs::create_dir_all(&self.0).map_err(at(&self.0))?;
        let empty = fs::read_dir(&self.0).map_err(at(&self.0))?.next().is_none();
        if !empty && !self.is_staging() {
            return Err(StagingError::NotStaging(self.0.clone()));
        }
        put(&marker, b"The signer's staging folder; it may be deleted at any time.\n")?;
        for folder in ["artefacts", "trees", "layouts", "chunks", "snapshots"] {
            let path = self.0.join(folder);
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
                _ => fs::create_dir(&path).map_err(at(&path))?,
            }
        }
        for file in [self.index(), self.policy(), self.waivers(), self.advisories()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&file)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a check began here.
    pub(super) fn is_staging(&self) -> bool {
        self.marker().is_file()
    }

    fn marker(&self) -> PathBuf {
        self.0.join(MARKER)
    }

    pub(super) fn policy(&self) -> PathBuf {
        self.0.join("policy.yaml")
    }

    pub(super) fn waivers(&self) -> PathBuf {
        self.0.join("waivers.yaml")
    }

    pub(super) fn advisories(&self) -> PathBuf {
        self.0.join("advisories.json")
    }

    /// Snapshots of advisories, by digest.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.0.join("staging.json")
    }

    pub(super) fn recipe(&self) -> PathBuf {
        self.0.join("recipe.yaml")
    }

    pub(super) fn record(&self) -> PathBuf {
        self.0.join("check.json")
    }

    pub(super) fn findings(&self) -> PathBuf {
        self.0.join("findings.json")
    }

    pub(crate) fn artefacts(&self) -> PathBuf {
        self.0.join("artefacts")
    }

    pub(crate) fn artefact(&self, sha256: &Digest) -> PathBuf {
        self.artefacts().join(sha256.to_string())
    }

    pub(super) fn tree(&self, sha256: &Digest) -> PathBuf {
        self.0.join("trees").join(sha256.to_string())
    }

    pub(super) fn layout(&self, sha256: &Digest) -> PathBuf {
        self.0.join("layouts").join(sha256.to_string())
    }

    pub(crate) fn chunks(&self) -> PathBuf {
        self.0.join("chunks")
    }
}
