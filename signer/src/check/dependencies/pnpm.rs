//! `pnpm-lock.yaml` of the formats 5, 6 and 9, and the copy of it that pnpm leaves in `node_modules`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::UNKNOWN;
use super::lockfile::lock_yaml;
use super::yarn::{Locked, descriptor};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    lockfile_version: Option<String>,
    #[serde(default)]
    packages: BTreeMap<String, Package>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    name: Option<String>,
    version: Option<String>,
    resolution: Option<Resolution>,
    #[serde(default)]
    requires_build: bool,
}

#[derive(Deserialize)]
struct Resolution {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// The packages of a lockfile. Newer pnpms put a document about pnpm itself before the project's.
pub(super) fn read(text: &str) -> Result<Vec<Locked>, String> {
    let documents: Vec<Document> = lock_yaml(text)?;
    if documents.is_empty() {
        return Err("holds nothing".to_owned());
    }
    let mut all = Vec::new();
    for document in documents {
        let format = document.lockfile_version.as_deref().unwrap_or("of no version");
        let major = format.split('.').next().unwrap_or_default();
        if !["5", "6", "9"].contains(&major) {
            return Err(format!("is a lockfile of pnpm {format:?}; 5, 6 and 9 are read"));
        }
        for (key, package) in document.packages {
            all.push(locked(&key, package, major == "5").ok_or_else(|| format!("names no package in {key:?}"))?);
        }
    }
    Ok(all)
}

/// `lodash@4.17.21`, `/lodash@4.17.21(peer@1.0.0)` or `/lodash/4.17.21_peer@1.0.0`.
fn locked(key: &str, package: Package, slashes: bool) -> Option<Locked> {
    let plain = key.strip_prefix('/').unwrap_or(key);
    let plain = plain.split_once('(').map_or(plain, |(plain, _)| plain);
    let split = match slashes && !plain.starts_with("file:") {
        true => plain.rsplit_once('/').map(|(name, version)| (name, version.split('_').next().unwrap_or(version))),
        false => descriptor(plain),
    };
    let local = package.resolution.and_then(|own| own.kind).is_some_and(|kind| kind == "directory");
    // What is no registry's has its name and version beside it; its key is an address.
    let name = package.name.as_deref().or(split.map(|(name, _)| name)).or(local.then_some(plain))?;
    let version = package.version.as_deref().or(split.map(|(_, version)| version)).unwrap_or(UNKNOWN);
    Some(Locked { name: name.to_owned(), version: version.to_owned(), local, builds: package.requires_build })
}
