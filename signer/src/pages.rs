//! What a site shows to people and IDEs: HTML, the MCP registry API, an index of packages.
//!
//! All of it is derived from what the head leads to, after the head has moved, and none of it is
//! signed: hosts never read it. So a publisher that is killed leaves pages that are old, never a
//! site that is wrong, and the next run mends them. Nothing in a page depends on when or where it
//! was made, nor on the head's number: a head that is signed again, or a site that is made again,
//! gives the same bytes.
//!
//! A page belongs to one server, but for three lists. `browse/state.json` notes which entry each
//! server's pages were made from, so publishing one version reads and writes one server's pages
//! and the lists, whatever else the site has. It is written last. Whoever could alter it could
//! alter the pages as well; `mcpfs-signer pages` makes everything again without it.
//!
//! Rejected: a page generator beside the signer (it would need a second reader of the site), and
//! one page for everything (a thousand servers).

mod api;
mod html;
mod index;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use mcpfs_trust::catalogue::BinServer;
use mcpfs_trust::details::Details;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Listed, Status};
use mcpfs_trust::limits;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::site as path;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::progress::{Progress, Unit};
use crate::site::state::Published;
use crate::site::{Site, SiteError, parallel};

pub use index::{DEPS, Deps};

/// Raised whenever the same entry gives other pages than before: all are written anew then.
const REVISION: u32 = 1;
/// Which entry each server's pages were made from.
const STATE: &str = "browse/state.json";
/// The list of servers.
const INDEX: &str = "index.html";
/// Lists of all servers, bytes.
pub(crate) const LIST_BYTES: u64 = 256 << 20;
/// How often pages are made again because the head moved meanwhile.
const ATTEMPTS: u32 = 8;

/// What was written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Servers in the site.
    pub servers: usize,
    /// Files that are other ones now.
    pub files: usize,
}

/// `browse/state.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    revision: u32,
    servers: Vec<Summary>,
}

/// What the lists say of one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Summary {
    name: ServerName,
    /// The entry that its pages were made from.
    entry: Digest,
    version: Version,
    status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    description: String,
    maintainer: String,
    data_classification: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lawful_basis: Option<String>,
    versions: usize,
    /// What the registry API lists.
    response: Value,
}

/// One server, with the details of each release.
struct Server<'a> {
    registry: &'a RegistryName,
    entry: &'a Entry,
    /// In the entry's order.
    details: Vec<Option<Details>>,
}

/// One release of it.
#[derive(Clone, Copy)]
struct Shown<'a> {
    listed: &'a Listed,
    details: Option<&'a Details>,
    selected: bool,
}

/// A server's own files, and what the lists say of it.
struct Made {
    summary: Summary,
    deps: index::Row,
    files: BTreeMap<String, Vec<u8>>,
    /// Names that must not be there.
    absent: Vec<String>,
}

/// Brings a site's pages to what its head leads to; with `anew`, all of them.
///
/// # Errors
/// If the site does not verify, or a page cannot be written.
pub fn write(site: &Site, root: &TrustRoot, anew: bool, shown: &Progress) -> Result<Written, SiteError> {
    let mut written = Written::default();
    for _ in 0..ATTEMPTS {
        let published = site.published(root)?;
        let Some((head, _)) = &published.head else { return Ok(written) };
        written.servers = published.servers().count();
        written.files += derive(site, root, &published, anew, shown)?;
        // In a bucket another publisher may have been here; the last one to look sees the last head.
        if site.find(path::HEAD, limits::HEAD_BYTES)?.as_ref() == Some(&head.bytes) {
            break;
        }
    }
    Ok(written)
}

fn derive(
    site: &Site,
    root: &TrustRoot,
    published: &Published,
    anew: bool,
    shown: &Progress,
) -> Result<usize, SiteError> {
    let known = if anew { BTreeMap::new() } else { known(site)? };
    let mut servers: Vec<&BinServer> = published.servers().collect();
    servers.sort_by(|a, b| a.name.cmp(&b.name));
    let is_known = |one: &BinServer| known.get(&one.name).is_some_and(|(summary, _)| summary.entry == one.sha256);
    let changed: Vec<&BinServer> = servers.iter().copied().filter(|one| !is_known(one)).collect();
    let task = shown.start("pages", Unit::Items, changed.len() as u64);
    let made = parallel::map(&changed, site.workers(), |server| {
        let entry = site.entry(published, &server.name)?;
        let entry = entry.ok_or_else(|| SiteError::NoServer { name: server.name.clone() })?;
        let made = make(site, &root.registry, &entry, server.sha256)?;
        let mut count = 0;
        for (name, bytes) in &made.files {
            count += usize::from(put(site, name, bytes)?);
        }
        for name in &made.absent {
            if site.store().stat(name)?.is_some() {
                site.store().remove(name)?;
                count += 1;
            }
        }
        task.add(1);
        Ok::<_, SiteError>((made.summary, made.deps, count))
    })?;
    drop(task);
    let mut files = 0;
    let mut rows = known;
    for (summary, deps, count) in made {
        files += count;
        rows.insert(summary.name.clone(), (summary, deps));
    }
    let (mut summaries, mut deps) = (Vec::with_capacity(servers.len()), Vec::with_capacity(servers.len()));
    for server in servers {
        if let Some((summary, row)) = rows.remove(&server.name) {
            summaries.push(summary);
            deps.push(row);
        }
    }
    let flat = site.store().is_flat();
    files += usize::from(put(site, INDEX, &html::index(&root.registry, &summaries))?);
    files += usize::from(put(site, &api::list_name(flat), &api::list(&summaries))?);
    files += usize::from(put(site, DEPS, &Deps::new(&root.registry, deps).encode())?);
    let state = State { revision: REVISION, servers: summaries };
    files += usize::from(put(site, STATE, &mcpfs_trust::json::encode_compact(&state))?);
    Ok(files)
}

/// What an earlier run noted, of servers that both lists know.
fn known(site: &Site) -> Result<BTreeMap<ServerName, (Summary, index::Row)>, SiteError> {
    let Some(bytes) = site.find(STATE, LIST_BYTES)? else { return Ok(BTreeMap::new()) };
    let deps = site.find(DEPS, LIST_BYTES)?.and_then(|bytes| Deps::parse(&bytes).ok());
    let state = serde_json::from_slice::<State>(&bytes).ok().filter(|state| state.revision == REVISION);
    // One that cannot be read is as good as none: everything is made again.
    let (Some(state), Some(deps)) = (state, deps) else { return Ok(BTreeMap::new()) };
    let mut rows: BTreeMap<ServerName, index::Row> = deps.rows().map(|row| (row.name.clone(), row)).collect();
    let paired = state.servers.into_iter().filter_map(|summary| {
        let row = rows.remove(&summary.name).filter(|row| row.entry == summary.entry)?;
        Some((summary.name.clone(), (summary, row)))
    });
    Ok(paired.collect())
}

fn make(site: &Site, registry: &RegistryName, entry: &Entry, sha256: Digest) -> Result<Made, SiteError> {
    let details = entry.releases().map(|listed| site.details(listed)).collect::<Result<Vec<_>, _>>()?;
    let server = Server { registry, entry, details };
    Ok(server.make(sha256, site.store().is_flat()))
}

impl Server<'_> {
    fn make(&self, entry: Digest, flat: bool) -> Made {
        let selected = self.selected();
        let release = &selected.listed.release;
        let mut files = BTreeMap::from([(server_page(&release.name), html::server(self))]);
        for shown in self.shown() {
            let name = version_page(&release.name, &shown.listed.release.version);
            files.insert(name, html::version(self.registry, shown));
        }
        let mut absent = Vec::new();
        api::server(self, flat, &mut files, &mut absent);
        let summary = Summary {
            name: release.name.clone(),
            entry,
            version: release.version.clone(),
            status: selected.listed.status,
            reason: selected.listed.reason.clone(),
            description: release.description.clone(),
            maintainer: release.maintainer.clone(),
            data_classification: release.data_classification.clone(),
            lawful_basis: release.lawful_basis.clone(),
            versions: self.details.len(),
            response: api::response(self.registry, selected),
        };
        Made { summary, deps: index::Row::of(entry, selected), files, absent }
    }

    /// All releases, the selected one first.
    fn shown(&self) -> impl Iterator<Item = Shown<'_>> {
        let all = self.entry.releases().zip(&self.details).enumerate();
        all.map(|(index, (listed, details))| Shown { listed, details: details.as_ref(), selected: index == 0 })
    }

    fn selected(&self) -> Shown<'_> {
        let details = self.details.first().and_then(Option::as_ref);
        Shown { listed: &self.entry.selected, details, selected: true }
    }
}

/// The page of a server.
fn server_page(name: &ServerName) -> String {
    format!("browse/{name}/index.html")
}

/// The page of one of its versions; versions begin with a digit, so none is called `index`.
fn version_page(name: &ServerName, version: &Version) -> String {
    format!("browse/{name}/{version}.html")
}

/// Puts a file that may change, if it is another one; whether it was.
fn put(site: &Site, name: &str, bytes: &[u8]) -> Result<bool, SiteError> {
    use crate::site::StoreError;
    match site.find(name, bytes.len() as u64) {
        Ok(Some(found)) if found == bytes => return Ok(false),
        Ok(_) | Err(SiteError::Store(StoreError::TooLarge { .. })) => {}
        Err(error) => return Err(error),
    }
    site.replace(name, bytes)?;
    Ok(true)
}
