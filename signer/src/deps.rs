//! Which servers of a site carry a package: the first question after an advisory.
//!
//! Two answers. With a trust root, from what each entry names under the signed head: the list that the
//! signer made from the tree which it signed, or where there is none the published tree itself. Without
//! one, from `deps.json`, which is one request and is not signed: it is right as long as the
//! web server is, and good enough to know where to look.

use std::collections::BTreeSet;

use mcpfs_trust::entry::Listed;
use mcpfs_trust::name::{Platform, ServerName, Version};
use mcpfs_trust::release::Release;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::verify;
use mcpfs_trust::{details, entry::Entry};
use serde::Serialize;

use crate::check::Ecosystem;
use crate::check::changes::published::PublishedFiles;
use crate::check::changes::published_tree;
use crate::pages;
use crate::progress::{Progress, Unit};
use crate::site::publish::status_word;
use crate::site::state::at;
use crate::site::{Site, SiteError, StoreError, parallel};

/// The package that is looked for: `lodash`, `npm:lodash`, `npm:lodash@4.17.20`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    ecosystem: Option<Ecosystem>,
    name: String,
    version: Option<String>,
}

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

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ecosystem, rest) = match text.split_once(':') {
            Some((word, rest)) => {
                let known = Ecosystem::ALL.into_iter().find(|one| one.as_str() == word);
                (Some(known.ok_or_else(|| format!("{word:?} is not one of: npm, pypi, cargo, go"))?), rest)
            }
            None => (None, text),
        };
        // A scope of npm begins with an @ of its own.
        let split = rest.char_indices().skip(1).find(|(_, c)| *c == '@').map(|(at, _)| at);
        let (name, version) = match split {
            Some(at) => (&rest[..at], Some(rest[at + 1..].to_owned())),
            None => (rest, None),
        };
        match name.is_empty() || version.as_deref() == Some("") {
            true => Err("write a package such as lodash, npm:lodash or npm:lodash@4.17.20".to_owned()),
            false => Ok(Self { ecosystem, name: name.to_owned(), version }),
        }
    }
}

impl Wanted {
    fn is(&self, ecosystem: Ecosystem, name: &str, version: &str) -> bool {
        self.ecosystem.is_none_or(|wanted| wanted == ecosystem)
            && ecosystem.canonical(&self.name) == ecosystem.canonical(name)
            && self.version.as_ref().is_none_or(|wanted| *wanted == version)
    }

    /// Whether it is the package that details name; of an ecosystem that is not known here nothing is said.
    fn is_detailed(&self, package: &details::Package) -> bool {
        let ecosystem = Ecosystem::ALL.into_iter().find(|one| one.as_str() == package.ecosystem);
        ecosystem.is_some_and(|ecosystem| self.is(ecosystem, &package.name, &package.version))
    }

    /// Whether it is the package of this id, such as `npm:lodash@4.17.20`.
    fn is_id(&self, id: &str) -> bool {
        let named = id.split_once(':').and_then(|(ecosystem, rest)| {
            let (name, version) = rest.rsplit_once('@')?;
            Some((Ecosystem::ALL.into_iter().find(|one| one.as_str() == ecosystem)?, name, version))
        });
        named.is_some_and(|(ecosystem, name, version)| self.is(ecosystem, name, version))
    }
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
pub fn indexed(site: &Site, wanted: &Wanted) -> Result<Indexed, SiteError> {
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
    wanted: &Wanted,
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
    wanted: &Wanted,
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

fn of_release(site: &Site, listed: &Listed, wanted: &Wanted, selected: bool) -> Result<Vec<Carrier>, SiteError> {
    let mut packages: Vec<(String, Platform)> = Vec::new();
    let details = site.details(listed)?.filter(|details| !details.carried.is_empty());
    for carried in details.iter().flat_map(|details| &details.carried) {
        let here = carried.packages.iter().filter(|package| wanted.is_detailed(package));
        packages.extend(here.map(|package| (package.id(), carried.platform.clone())));
    }
    for stored in listed.layout.iter().filter(|_| details.is_none()) {
        let Some(tree) = published_tree(site, listed, &stored.platform)? else { continue };
        let inventory = PublishedFiles::open(site, &tree, stored)?.inventory()?;
        let here = inventory.packages.iter().filter(|one| wanted.is(one.ecosystem, &one.name, &one.version));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_of_an_index_are_told_apart() {
        let is = |wanted: &str, id: &str| wanted.parse::<Wanted>().unwrap().is_id(id);
        assert!(is("lodash", "npm:lodash@4.17.20") && is("npm:@s/x@1.0.0", "npm:@s/x@1.0.0"));
        assert!(is("pypi:Zope_Interface", "pypi:zope.interface@5"));
        for (wanted, id) in [
            ("lodash", "npm:lodash.merge@1"),
            ("npm:lodash@4.17.2", "npm:lodash@4.17.20"),
            ("pypi:lodash", "npm:lodash@4.17.20"),
            ("lodash", "lodash"),
            ("lodash", "gem:lodash@1"),
        ] {
            assert!(!is(wanted, id), "{wanted} {id}");
        }
    }

    #[test]
    fn packages_are_named_as_reports_name_them() {
        let read = |text: &str| text.parse::<Wanted>().map(|one| (one.ecosystem, one.name, one.version));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("lodash"), Ok((None, "lodash".to_owned(), None)));
        assert_eq!(read("npm:@s/x@1.0.0"), Ok((Some(Ecosystem::Npm), "@s/x".to_owned(), some("1.0.0"))));
        assert_eq!(read("@s/x"), Ok((None, "@s/x".to_owned(), None)));
        assert_eq!(read("go:golang.org/x/net"), Ok((Some(Ecosystem::Go), "golang.org/x/net".to_owned(), None)));
        for bad in ["", "npm:", "lodash@", "gem:rails"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
