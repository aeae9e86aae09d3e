//! `mcpfs audit who-uses`: who on this host ran something that carries a package.
//!
//! The audit knows who ran which statement; what that release carries stands in its details, which
//! its entry names under the signed head. So both are asked: the audit here, the site there, and
//! the site is believed exactly as far as a refresh believes it (head, catalogue, bin, entry and
//! details, each by signature or digest). The site's `deps.json` is not signed and not read, and no lockfile
//! of an artefact is parsed on a host.
//!
//! An answer, never a decision: nothing is admitted or refused for it. What cannot be told is said,
//! release by release, since "nobody" must not look like "nobody knows".

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use mcpfs_trust::catalogue::bin_of;
use mcpfs_trust::details::{Details, Package};
use mcpfs_trust::entry::{Entry, Listed, Status};
use mcpfs_trust::error::VerifyError;
use mcpfs_trust::name::ServerName;
use mcpfs_trust::package::PackageQuery;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::verify::{self, Seen, Verified};
use mcpfs_trust::{limits, site};
use serde::Serialize;

use crate::audit::query::{Moment, Reader, Used};
use crate::audit::{AuditError, clean};
use crate::config::Config;
use crate::refusal::{Exit, Refusal};
use crate::registry::now;
use crate::site::{Secrets, Site};

/// Options of `mcpfs audit who-uses`.
#[derive(Debug, Clone, Args)]
pub struct WhoUses {
    /// The package: lodash, npm:lodash or npm:lodash@4.17.20 (npm, pypi, cargo or go)
    package: PackageQuery,
    /// Only what was used since: 2026-04-15T09:30:00Z, 2026-04-15, or how long ago (24h, 30d)
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Also look at servers that this registry offers and nobody here has used
    #[arg(long)]
    offered: bool,
    /// Another audit than this host's, such as a copy
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
}

/// One use, or one offer that nobody used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Found {
    server: String,
    version: String,
    package: String,
    /// `active`, `yanked` or `revoked`, in the registry now.
    status: &'static str,
    /// Whether hosts start it now.
    selected: bool,
    /// Absent if nobody used it.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    launches: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
}

/// A release of which it is not known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Unknown {
    server: String,
    version: String,
    why: String,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    head: u64,
    found: Vec<Found>,
    unknown: Vec<Unknown>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened.
pub enum WhoUsesError {
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("{0}; the audit alone does not know what releases carry")]
    Site(Refusal),
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
}

impl WhoUsesError {
    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Site(refusal) => Exit::of(refusal.code),
            Self::Audit(_) | Self::Start(_) => Exit::Refused,
        }
    }
}

/// Asks the audit at `db` (unless another is named) and the site of `config`, and prints.
///
/// # Errors
/// If one of them cannot be asked. A reader of `out` that goes away ends the command well.
pub fn run(options: &WhoUses, db: &Path, config: &Config, json: bool, out: &mut dyn Write) -> Result<(), WhoUsesError> {
    let reader = Reader::open(options.db.as_deref().unwrap_or(db))?;
    let mut used: BTreeMap<String, Vec<Used>> = BTreeMap::new();
    for one in reader.used(options.since)? {
        used.entry(one.server.clone()).or_default().push(one);
    }
    let (root, _) = crate::daemon::trust(&config.trust, |_| Ok(None)).map_err(WhoUsesError::Site)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(WhoUsesError::Start)?;
    let site = crate::daemon::site(config, runtime.handle(), &Secrets::Own).map_err(WhoUsesError::Site)?;
    let answer = runtime.block_on(ask(&site, &root, options, used)).map_err(WhoUsesError::Site)?;
    // A pager that was closed is no fault.
    drop(show(&answer, json, out));
    Ok(())
}

async fn ask(
    site: &Site,
    root: &TrustRoot,
    options: &WhoUses,
    mut used: BTreeMap<String, Vec<Used>>,
) -> Result<Answer, Refusal> {
    let head = site.get(site::HEAD, limits::HEAD_BYTES, "head").await?;
    let accepted = match verify::head(&head, root, &Seen::default(), now()) {
        // What it lists was so then; an old answer is better than none, and nothing rests on it.
        Err(VerifyError::HeadExpired { expires }) => verify::head(&head, root, &Seen::default(), expires.plus(-1)),
        other => other,
    }?;
    let mut answer = Answer { head: accepted.head.version, ..Answer::default() };
    let path = site::catalogue(&accepted.catalogue);
    let check = |bytes: Vec<u8>| verify::catalogue(&bytes, &accepted);
    let catalogue = site.get_checked(&path, accepted.head.catalogue.size, "catalogue", check).await?;
    for (index, blob) in catalogue.bins.iter().enumerate() {
        let here =
            |name: &str| name.parse::<ServerName>().is_ok_and(|name| bin_of(&name, catalogue.bins.len()) == index);
        if !options.offered && !used.keys().any(|name| here(name)) {
            continue;
        }
        let check = |bytes: Vec<u8>| verify::bin(&bytes, &catalogue, index);
        let bin = site.get_checked(&site::bin(&blob.sha256), blob.size, "bin", check).await?;
        for server in &bin.servers {
            let uses = used.remove(server.name.as_str()).unwrap_or_default();
            if uses.is_empty() && !options.offered {
                continue;
            }
            let check = |bytes: Vec<u8>| verify::entry(&bytes, &bin, &server.name);
            match site.get_checked(&site::entry(&server.sha256), server.size, "entry", check).await {
                Ok(entry) => answer.server(site, options, &entry, uses).await,
                Err(refusal) => answer.unknown(uses, server.name.as_str(), &refusal.to_string()),
            }
        }
    }
    for (name, uses) in used {
        answer.unknown(uses, &name, "the registry does not have this server any more");
    }
    answer.found.sort();
    answer.unknown.sort();
    answer.unknown.dedup();
    Ok(answer)
}

impl Answer {
    async fn server(&mut self, site: &Site, options: &WhoUses, entry: &Verified<Entry>, mut uses: Vec<Used>) {
        for (index, listed) in entry.releases().enumerate() {
            let statement = listed.envelope.statement().to_string();
            let (of_it, others) = uses.into_iter().partition(|one| one.statement == statement);
            uses = others;
            let selected = index == 0;
            if of_it.is_empty() && !(options.offered && selected) {
                continue;
            }
            match packages(site, listed).await {
                Ok((packages, whole)) => {
                    let found: Vec<&Package> =
                        packages.iter().filter(|package| options.package.is_detailed(package)).collect();
                    for package in &found {
                        self.found.extend(rows(listed, selected, package, &of_it));
                    }
                    if !whole && found.is_empty() {
                        self.release_unknown(listed, "its list of packages is not complete".to_owned());
                    }
                }
                Err(why) => self.release_unknown(listed, why),
            }
        }
        // Nothing of the present entry: a version that was there once.
        let name = entry.selected.release.name.as_str();
        self.unknown(uses, name, "the registry does not list this version any more");
    }

    fn release_unknown(&mut self, listed: &Listed, why: String) {
        let (server, version) = (listed.release.name.to_string(), listed.release.version.to_string());
        self.unknown.push(Unknown { server, version, why });
    }

    fn unknown(&mut self, uses: Vec<Used>, server: &str, why: &str) {
        let one = |used: Used| Unknown { server: server.to_owned(), version: used.version, why: why.to_owned() };
        self.unknown.extend(uses.into_iter().map(one));
    }
}

/// Everything a release carries on any platform, and whether the list is whole.
async fn packages(site: &Site, listed: &Listed) -> Result<(Vec<Package>, bool), String> {
    let Some(blob) = listed.details else { return Err("it was published without a list of packages".to_owned()) };
    let check = |bytes: Vec<u8>| Details::read(&bytes, &blob.sha256);
    let details = site.get_checked(&site::details(&blob.sha256), blob.size, "details", check).await;
    let details = details.map_err(|refusal| refusal.to_string())?;
    if details.carried.is_empty() {
        return Err("its packages are not listed".to_owned());
    }
    let whole = details.carried.iter().all(|carried| carried.unreadable == 0);
    let mut packages: Vec<Package> = details.carried.into_iter().flat_map(|carried| carried.packages).collect();
    packages.sort();
    packages.dedup_by_key(|package| package.id());
    Ok((packages, whole))
}

fn rows(listed: &Listed, selected: bool, package: &Package, uses: &[Used]) -> Vec<Found> {
    let offer = Found {
        server: listed.release.name.to_string(),
        version: listed.release.version.to_string(),
        package: clean(&package.id(), 256),
        status: match listed.status {
            Status::Active => "active",
            Status::Yanked => "yanked",
            Status::Revoked => "revoked",
        },
        selected,
        user: None,
        launches: None,
        first: None,
        last: None,
    };
    if uses.is_empty() {
        return vec![offer];
    }
    let used = |one: &Used| Found {
        user: Some(one.user.clone().unwrap_or_else(|| "(unknown)".to_owned())),
        launches: Some(one.launches),
        first: Some(one.first.clone()),
        last: Some(one.last.clone()),
        ..offer.clone()
    };
    uses.iter().map(used).collect()
}

fn show(answer: &Answer, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return writeln!(out, "{}", serde_json::to_string(answer).unwrap_or_default());
    }
    for one in &answer.found {
        let mark = if one.selected { "*" } else { " " };
        write!(out, "{mark} {} {}  {}  {}", one.server, one.version, one.status, one.package)?;
        match (&one.user, one.launches, &one.last) {
            (Some(user), Some(launches), Some(last)) => {
                let times = if launches == 1 { "launch" } else { "launches" };
                writeln!(out, "  {}  {launches} {times}, last {last}", clean(user, 64))?;
            }
            _ => writeln!(out, "  (offered; used by nobody here)")?,
        }
    }
    if answer.found.is_empty() {
        writeln!(out, "nobody here, as far as is known (head {})", answer.head)?;
    }
    for one in &answer.unknown {
        writeln!(out, "not known: {} {}: {}", clean(&one.server, 64), clean(&one.version, 64), clean(&one.why, 300))?;
    }
    Ok(())
}
