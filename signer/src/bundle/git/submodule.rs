//! Submodules, for those who ask for them: each is a commit of another repository, pinned by the
//! tree that names it, so the tag's own commit pins all of them. Only the addresses in
//! `.gitmodules` are not, which is why each is held against the listed hosts.

use std::collections::BTreeMap;

use mcpfs_trust::text::visible;
use url::Url;

use super::tree::{Entry, Link, Listing};
use super::{CommitId, Git, GitError, Place};
use crate::bundle::SourceError;
use crate::bundle::workshop::Workshop;
use crate::fetch::FetchPolicy;

/// Most submodules, and submodules within each other.
const SUBMODULES: usize = 64;
const DEPTH: usize = 8;

/// A submodule that is still to be fetched.
struct Open {
    link: Link,
    /// Where the repository that names it came from, and the commit that does.
    address: String,
    commit: CommitId,
    depth: usize,
}

/// Fetches what `links` of `commit` name, and all that those name in turn; gives their files below
/// the paths of their links, and one line about each.
pub(super) fn fetch(
    git: &Git,
    (place, commit): (&Place, &CommitId),
    links: Vec<Link>,
    lfs: bool,
    policy: &FetchPolicy,
    workshop: &Workshop,
) -> Result<(Vec<Entry>, Vec<String>), SourceError> {
    let (mut entries, mut notes, mut count) = (Vec::new(), Vec::new(), 0);
    let open = |links: Vec<Link>, address: &str, commit: &CommitId, depth| -> Vec<Open> {
        let open = |link| Open { link, address: address.to_owned(), commit: commit.clone(), depth };
        links.into_iter().map(open).collect()
    };
    let mut waiting = open(links, &place.address, commit, 1);
    while let Some(next) = waiting.pop() {
        let shown = visible(&next.link.path);
        let refuse = |problem| GitError::Entry { path: shown.clone(), problem };
        if count >= SUBMODULES || next.depth > DEPTH {
            return Err(refuse("is one submodule too many").into());
        }
        count += 1;
        let address =
            address(git, &next, workshop)?.ok_or_else(|| refuse("is a submodule without a https: address"))?;
        let url = Url::parse(&address).map_err(|_| refuse("is a submodule without a https: address"))?;
        let place = Place::remote(&url, policy).map_err(|error| SourceError::Fetch(Box::new(error)))?;
        git.set(&place)?;
        let fetched =
            ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"];
        let fetched = git.job(&fetched).arguments(["--", &place.address, next.link.commit.as_str()]);
        workshop.run(fetched.network(true)).map_err(|error| place.explain(error.into(), policy))?;
        let mut listed = super::list(git, &next.link.commit, policy, workshop)?.below(&next.link.path);
        notes.push(format!("{shown} is the submodule {} of {}", next.link.commit, visible(&place.address)));
        if lfs {
            notes.extend(super::lfs::fetch(git, &place, &mut listed.entries, policy, workshop)?);
        }
        entries.extend(listed.entries);
        // Their links lie below the path already; .gitmodules names them without it.
        let links = listed.links.into_iter().map(|link| Link { above: next.link.path.clone(), ..link }).collect();
        waiting.extend(open(links, &place.address, &next.link.commit, next.depth + 1));
    }
    Ok((entries, notes))
}

/// The address that `.gitmodules` gives for the link; relative ones are beside the repository's own.
fn address(git: &Git, open: &Open, workshop: &Workshop) -> Result<Option<String>, SourceError> {
    let blob = format!("{}:.gitmodules", open.commit);
    let Ok(listed) = workshop.read(git.job(&["config", "-z", "--blob", &blob, "--list"]), 1 << 20) else {
        return Ok(None);
    };
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let mut modules: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for (key, value) in listed.split('\0').filter_map(|line| line.split_once('\n')) {
        let Some((name, field)) = key.strip_prefix("submodule.").and_then(|key| key.rsplit_once('.')) else { continue };
        let module = modules.entry(name).or_default();
        match field {
            "path" => module.0 = Some(value),
            "url" => module.1 = Some(value),
            _ => {}
        }
    }
    let own = open.link.path.strip_prefix(open.link.above.as_str()).unwrap_or(&open.link.path).trim_start_matches('/');
    let found = modules.values().find(|(path, _)| *path == Some(own)).and_then(|(_, url)| *url);
    Ok(found.and_then(|url| resolved(&open.address, url)))
}

/// An https: address, also of one relative to `base`.
pub(super) fn resolved(base: &str, url: &str) -> Option<String> {
    let full = match url.starts_with("./") || url.starts_with("../") {
        true => Url::parse(&format!("{}/", base.trim_end_matches('/'))).ok()?.join(url).ok()?,
        false => Url::parse(url).ok()?,
    };
    let plain = full.username().is_empty() && full.password().is_none() && full.query().is_none();
    (plain && full.scheme() == "https" && full.fragment().is_none()).then(|| full.to_string())
}

impl Listing {
    /// The same below a folder.
    fn below(mut self, folder: &str) -> Self {
        for path in
            self.entries.iter_mut().map(|entry| &mut entry.path).chain(self.links.iter_mut().map(|link| &mut link.path))
        {
            *path = format!("{folder}/{path}");
        }
        self
    }
}
