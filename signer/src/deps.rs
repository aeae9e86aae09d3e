//! Which servers of a site carry a package: the first question after an advisory.
//!
//! Two answers. With a trust root, from what each entry names under the signed head: the list that the
//! signer made from the tree which it signed, or where there is none the published tree itself. Without
//! one, from `deps.json`, which is one request and is not signed: it is right as long as the
//! web server is, and good enough to know where to look.

use std::collections::BTreeSet;

use mcpfs_trust::entry::Entry;
use mcpfs_trust::entry::Listed;
use mcpfs_trust::name::{Platform, ServerName, Version};
use mcpfs_trust::package::PackageQuery;
use mcpfs_trust::release::Release;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::verify;
use serde::Serialize;

use crate::check::changes::published::PublishedFiles;
use crate::check::changes::published_tree;
use crate::pages;
use crate::progress::{Progress, Unit};
use crate::site::publish::status_word;
use crate::site::state::at;
use crate::site::{Site, SiteError, StoreError, parallel};

/// One place where it was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Carrier {
    /// The server.
    pub server: ServerName,
    /// Its version.
    pub version: Version,
    /// Whether that is the version that hosts start.
    pub selected: bool,
    /// `active`, `yanked` or `revoked`.
    pub status: &'static str,
    /// The platforms of it that carry the package.
    pub platforms: Vec<Platform>,
    /// The package, such as `npm:lodash@4.17.20`.
    pub package: String,
}

/// What an index says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indexed {
    /// Where it was found.
    pub found: Vec<Carrier>,
    /// Servers of which the index does not say everything.
    pub unlisted: Vec<ServerName>,
}

/// Every selected release that carries it, by the site's unsigned index.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn indexed(site: &Site, wanted: &PackageQuery) -> Result<Indexed, SiteError> {
    let bytes = site.read(pages::DEPS, pages::LIST_BYTES)?;
    let unread = |problem| StoreError::Failed { place: site.place(), name: pages::DEPS.to_owned(), problem };
    let deps = pages::Deps::parse(&bytes).map_err(unread)?;
    let (mut found, mut unlisted) = (Vec::new(), Vec::new());
    for row in deps.rows() {
        if row.packages.is_none() || row.unreadable > 0 {
            unlisted.push(row.name.clone());
        }
        let ids = row.packages.iter().flatten().filter(|id| wanted.is_id(id));
        found.extend(ids.map(|id| Carrier {
            server: row.name.clone(),
            version: row.version.clone(),
            selected: true,
            status: status_word(row.status),
            platforms: Vec::new(),
            package: id.clone(),
        }));
    }
    found.sort();
    Ok(Indexed { found, unlisted })
}

/// Every release that carries it: the selected ones, or with `all` also the others.
///
/// # Errors
/// If the site, or a release of it, cannot be read or does not verify: a part that nobody read is
/// no part without the package.
pub fn carriers(
    site: &Site,
    root: &TrustRoot,
    wanted: &PackageQuery,
    all: bool,
    shown: &Progress,
) -> Result<Vec<Carrier>, SiteError> {
    let state = site.published(root)?;
    if state.head.is_none() {
        return Err(SiteError::NothingPublished { place: site.place() });
    }
    let mut names: Vec<&ServerName> = state.servers().map(|server| &server.name).collect();
    names.sort();
    let task = shown.start("servers", Unit::Items, names.len() as u64);
    let found = parallel::map(&names, site.workers(), |name| {
        let found = match site.entry(&state, name)? {
            Some(entry) => of_entry(site, root, &entry, wanted, all)?,
            None => Vec::new(),
        };
        task.add(1);
        Ok::<_, SiteError>(found)
    })?;
    let mut found: Vec<Carrier> = found.into_iter().flatten().collect();
    found.sort();
    Ok(found)
}

fn of_entry(
    site: &Site,
    root: &TrustRoot,
    entry: &verify::Verified<Entry>,
    wanted: &PackageQuery,
    all: bool,
) -> Result<Vec<Carrier>, SiteError> {
    let mut found = Vec::new();
    for (index, listed) in entry.releases().enumerate().take(if all { usize::MAX } else { 1 }) {
        let Release { name, version, .. } = &listed.release;
        // A withdrawn one is refused by hosts, but it may still run on one.
        verify::release(entry, version, root, None).map_err(at(&format!("{name} {version}")))?;
        found.extend(of_release(site, listed, wanted, index == 0)?);
    }
    Ok(found)
}

fn of_release(site: &Site, listed: &Listed, wanted: &PackageQuery, selected: bool) -> Result<Vec<Carrier>, SiteError> {
    let mut packages: Vec<(String, Platform)> = Vec::new();
    let details = site.details(listed)?.filter(|details| !details.carried.is_empty());
    for carried in details.iter().flat_map(|details| &details.carried) {
        let here = carried.packages.iter().filter(|package| wanted.is_detailed(package));
        packages.extend(here.map(|package| (package.id(), carried.platform.clone())));
    }
    for stored in listed.layout.iter().filter(|_| details.is_none()) {
        let Some(tree) = published_tree(site, listed, &stored.platform)? else { continue };
        let inventory = PublishedFiles::open(site, &tree, stored)?.inventory()?;
        let here = inventory.packages.iter().filter(|one| wanted.is(one.ecosystem.as_str(), &one.name, &one.version));
        packages.extend(here.map(|package| (package.id(), stored.platform.clone())));
    }
    let ids: BTreeSet<&String> = packages.iter().map(|(id, _)| id).collect();
    let carrier = |id: &String| Carrier {
        server: listed.release.name.clone(),
        version: listed.release.version.clone(),
        selected,
        status: status_word(listed.status),
        platforms: packages.iter().filter(|(other, _)| other == id).map(|(_, platform)| platform.clone()).collect(),
        package: id.clone(),
    };
    Ok(ids.into_iter().map(carrier).collect())
}
