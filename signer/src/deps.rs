//! Which servers of a site carry a package: the first question after an advisory.
//!
//! Answered from the published trees themselves, verified as a host does, and not from what a
//! check once wrote down: the answer is about what hosts run now. An index on the site was left
//! out: it would be one more thing that has to agree with the trees.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};

use mcpfs_trust::entry::Listed;
use mcpfs_trust::name::{Platform, ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::verify;
use serde::Serialize;

use crate::check::Ecosystem;
use crate::check::changes::published::PublishedFiles;
use crate::check::changes::published_tree;
use crate::check::dependencies::Package;
use crate::site::publish::status_word;
use crate::site::state::at;
use crate::site::{Site, SiteError};

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
    fn is(&self, package: &Package) -> bool {
        let canonical = |name: &str| package.ecosystem.canonical(name);
        self.ecosystem.is_none_or(|ecosystem| ecosystem == package.ecosystem)
            && canonical(&self.name) == canonical(&package.name)
            && self.version.as_ref().is_none_or(|version| *version == package.version)
    }
}

/// Every release that carries it: the selected ones, or with `all` also the others.
///
/// # Errors
/// If the site, or a release of it, cannot be read or does not verify: a part that nobody read is
/// no part without the package.
pub fn carriers(site: &Site, root: &TrustRoot, wanted: &Wanted, all: bool) -> Result<Vec<Carrier>, SiteError> {
    let state = site.published(root)?;
    if state.head.is_none() {
        return Err(SiteError::NothingPublished { place: site.place() });
    }
    let mut names: Vec<&ServerName> = state.servers().map(|server| &server.name).collect();
    names.sort();
    let shown = io::stderr().is_terminal();
    let mut found = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if shown {
            // A terminal that went away is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[K{} of {}: {name}", index + 1, names.len());
        }
        let Some(entry) = site.entry(&state, name)? else { continue };
        for (index, listed) in entry.releases().enumerate().take(if all { usize::MAX } else { 1 }) {
            let version = &listed.release.version;
            // A withdrawn one is refused by hosts, but it may still run on one.
            verify::release(&entry, version, root, None).map_err(at(&format!("{name} {version}")))?;
            found.extend(of_release(site, listed, wanted, index == 0)?);
        }
    }
    if shown {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    found.sort();
    Ok(found)
}

fn of_release(site: &Site, listed: &Listed, wanted: &Wanted, selected: bool) -> Result<Vec<Carrier>, SiteError> {
    let mut packages: Vec<(String, Platform)> = Vec::new();
    for stored in &listed.layout {
        let Some(tree) = published_tree(site, listed, &stored.platform)? else { continue };
        let inventory = PublishedFiles::open(site, &tree, stored)?.inventory()?;
        let here = inventory.packages.iter().filter(|package| wanted.is(package));
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
