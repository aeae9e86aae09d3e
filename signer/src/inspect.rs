//! A site for people: what it says now, verified on the way.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mcpfs_trust::entry::{Entry, Listed};
use mcpfs_trust::error::{bounded, visible};
use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::tree::{Kind, NodeId, Tree};
use mcpfs_trust::verify::{self, Verified};
use serde::Serialize;
use serde_json::{Value, json};

use crate::log;
use crate::sign;
use crate::site::publish::status_word;
use crate::site::state::at;
use crate::site::{Site, SiteError};

/// A view: for programs and for people.
#[derive(Debug)]
pub struct View {
    /// The same facts as the text.
    pub value: Value,
    /// One fact a line.
    pub text: String,
}

/// The head and the servers under it.
///
/// # Errors
/// If the site does not verify.
pub fn head(site: &Site, root: &TrustRoot) -> Result<View, SiteError> {
    let published = site.published(root)?;
    let Some((_, accepted)) = &published.head else {
        return Ok(View { value: Value::Null, text: "an empty folder: nothing is published\n".to_owned() });
    };
    let head = &accepted.head;
    let mut names: Vec<_> = published.servers().map(|server| server.name.to_string()).collect();
    names.sort();
    let keys: Vec<_> = head.keys().iter().map(|id| id.short()).collect();
    let text = format!(
        "registry   {}\nhead       {} (epoch {})\nissued     {}\nexpires    {}\nsigned by  {}\ncatalogue  {}\nservers    {}\n{}",
        head.registry,
        head.version,
        head.epoch,
        head.issued,
        head.expires,
        keys.join(", "),
        accepted.catalogue,
        names.len(),
        names.iter().map(|name| format!("  {name}\n")).collect::<String>()
    );
    let value = json!({
        "registry": head.registry, "version": head.version, "epoch": head.epoch, "issued": head.issued,
        "expires": head.expires, "keys": head.keys(), "catalogue": accepted.catalogue, "servers": names,
    });
    Ok(View { value, text })
}

/// The signing log, from the first head to this one.
///
/// # Errors
/// If the site does not verify, or the log's chain is broken.
pub fn log(site: &Site, root: &TrustRoot) -> Result<View, SiteError> {
    let segments = log::segments(site, &site.published(root)?)?;
    let rows: Vec<_> = segments.iter().flat_map(|segment| &segment.rows).collect();
    let mut text = String::new();
    for row in &rows {
        let head = row.head_version.map(|version| version.to_string()).unwrap_or_default();
        let time = row.time.map(|time| time.to_string()).unwrap_or_default();
        let what = match (&row.name, &row.version) {
            (Some(name), Some(version)) => format!("{name} {version}"),
            _ => bounded(&row.request),
        };
        let refused = if row.refused { " REFUSED" } else { "" };
        let reason = row.reason.as_deref().map(|reason| format!(" ({})", bounded(reason))).unwrap_or_default();
        let _ = writeln!(text, "{head:>6} {time:<20} {:<8}{refused} {what}{reason}", visible(&row.action));
    }
    Ok(View { value: json!({"segments": segments.len(), "rows": rows}), text })
}

/// A server's releases, or one of them in full.
///
/// # Errors
/// If it is not there or does not verify.
pub fn server(site: &Site, root: &TrustRoot, name: &ServerName, version: Option<&Version>) -> Result<View, SiteError> {
    let entry = entry(site, root, name)?;
    match version {
        Some(version) => {
            let listed = listed(&entry, name, version)?;
            one(&entry, root, listed, version)
        }
        None => {
            let mut text = String::new();
            let mut rows = Vec::new();
            for (index, listed) in entry.releases().enumerate() {
                let release = &listed.release;
                let verified = match verify::release(&entry, &release.version, root, None) {
                    Ok(verified) => format!("signed by {}", short(verified.keys())),
                    Err(error) => format!("DOES NOT VERIFY: {error}"),
                };
                let mark = if index == 0 { "*" } else { " " };
                let reason =
                    listed.reason.as_deref().map(|reason| format!(" ({})", bounded(reason))).unwrap_or_default();
                let status = status_word(listed.status);
                let _ = writeln!(
                    text,
                    "{mark} {:<16} {:<8} issued {}  {verified}{reason}",
                    release.version, status, release.issued
                );
                rows.push(json!({
                    "version": release.version, "selected": index == 0, "status": status, "reason": listed.reason,
                    "issued": release.issued, "statement": listed.envelope.statement(), "verification": verified,
                }));
            }
            Ok(View { value: json!({"name": name, "releases": rows}), text })
        }
    }
}

fn one(entry: &Verified<Entry>, root: &TrustRoot, listed: &Listed, version: &Version) -> Result<View, SiteError> {
    let verified =
        verify::release(entry, version, root, None).map_err(at(&format!("{} {version}", listed.release.name)))?;
    let mut value = serde_json::to_value(&*verified).unwrap_or_default();
    let mut text = String::new();
    if let Value::Object(map) = &mut value {
        for (field, value) in map.iter() {
            let shown = match value {
                Value::String(text) => visible(text),
                other => visible(&other.to_string()),
            };
            let _ = writeln!(text, "{field:<20} {shown}");
        }
        map.insert("status".to_owned(), json!(listed.status));
        map.insert("statement".to_owned(), json!(listed.envelope.statement()));
        map.insert("keys".to_owned(), json!(verified.keys()));
    }
    let _ = writeln!(text, "{:<20} {}", "status", status_word(listed.status));
    let _ = writeln!(text, "{:<20} {}", "statement", listed.envelope.statement());
    let _ = writeln!(text, "{:<20} {}", "signed by", short(verified.keys()));
    Ok(View { value, text })
}

/// What changed from one release to another: fields, and files of each platform.
///
/// # Errors
/// If one is not there or does not verify.
pub fn diff(
    site: &Site,
    root: &TrustRoot,
    name: &ServerName,
    (from, to): (&Version, &Version),
) -> Result<View, SiteError> {
    let entry = entry(site, root, name)?;
    let place = |version: &Version| format!("{name} {version}");
    let a = verify::release(&entry, from, root, None).map_err(at(&place(from)))?;
    let b = verify::release(&entry, to, root, None).map_err(at(&place(to)))?;
    let (left, right) = (listed(&entry, name, from)?, listed(&entry, name, to)?);
    let fields: Vec<String> = sign::differing(&a, &b);
    let mut changes = Vec::new();
    for artefact in b.artefact.all() {
        let new = files(site, right, &artefact.platform)?;
        let old = files(site, left, &artefact.platform)?;
        for path in new.keys().chain(old.keys()).collect::<std::collections::BTreeSet<_>>() {
            let change = match (old.get(path), new.get(path)) {
                (None, Some(_)) => "+",
                (Some(_), None) => "-",
                (Some(old), Some(new)) if old != new => "~",
                _ => continue,
            };
            changes.push(FileChange { platform: artefact.platform.to_string(), change, path: path.clone() });
        }
    }
    let mut text = format!("fields that differ: {}\n", fields.join(", "));
    for change in &changes {
        let _ = writeln!(text, "{} {}  ({})", change.change, bounded(&change.path), change.platform);
    }
    Ok(View { value: json!({"name": name, "from": from, "to": to, "fields": fields, "files": changes}), text })
}

#[derive(Serialize)]
struct FileChange {
    platform: String,
    change: &'static str,
    path: String,
}

fn files(
    site: &Site,
    listed: &Listed,
    platform: &mcpfs_trust::name::Platform,
) -> Result<BTreeMap<String, String>, SiteError> {
    let (Some(artefact), Some(stored)) = (listed.release.artefact.for_platform(platform), listed.layout_for(platform))
    else {
        return Ok(BTreeMap::new());
    };
    let tree = Tree::decode(&site.chunks(&stored.tree)?, &artefact.tree).map_err(at("tree"))?;
    let node = |index| {
        let node = tree.node(NodeId(index))?;
        let what = match node.kind {
            Kind::Directory => return None,
            Kind::File { executable, sha256, .. } => format!("{executable} {sha256}"),
            Kind::Link { target } => format!("-> {target}"),
        };
        Some((tree.path(NodeId(index)), what))
    };
    Ok((0..tree.len()).filter_map(node).collect())
}

fn entry(site: &Site, root: &TrustRoot, name: &ServerName) -> Result<Verified<Entry>, SiteError> {
    let published = site.published(root)?;
    if published.head.is_none() {
        return Err(SiteError::NothingPublished { place: site.place() });
    }
    site.entry(&published, name)?.ok_or_else(|| SiteError::NoServer { name: name.clone() })
}

fn listed<'e>(entry: &'e Entry, name: &ServerName, version: &Version) -> Result<&'e Listed, SiteError> {
    entry.find(version).ok_or_else(|| SiteError::NoVersion {
        name: name.clone(),
        version: version.clone(),
        present: entry.releases().map(|listed| listed.release.version.to_string()).collect::<Vec<_>>().join(", "),
    })
}

fn short(keys: &[mcpfs_trust::digest::Digest]) -> String {
    keys.iter().map(|id| id.short()).collect::<Vec<_>>().join(", ")
}
