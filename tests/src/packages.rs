//! The packages of this repository, made as `make package` makes them.

use std::path::{Path, PathBuf};

use crate::binaries::bin;
use crate::command::Run;
use crate::scratch::{need, repository};

/// Builds the package `name` of the programs that are tested here; the file of each kind.
///
/// # Panics
/// If what that takes is not installed.
pub fn build(name: &str, out: &Path, release: &str, kinds: &[&str]) -> Vec<PathBuf> {
    need("rpmbuild", "rpm");
    // Both programs lie in one folder.
    assert_eq!(bin("mcpfs").parent(), bin("mcpfs-pages").parent());
    let ran = Run::new(repository().join("packaging/build"))
        .arg(bin("mcpfs").parent().expect("a folder"))
        .arg(out)
        .args(kinds)
        .env("PACKAGES", name)
        .env("MCPFS_YARA_DIR", out.join("engine"))
        .env("RELEASE", release)
        .env("COMPRESSION", "gzip")
        .ok();
    let files: Vec<PathBuf> = ran.stdout.lines().map(PathBuf::from).filter(|file| file.is_file()).collect();
    assert_eq!(files.len(), kinds.len(), "{ran}");
    files
}
