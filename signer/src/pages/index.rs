//! `deps.json`: which packages the selected releases carry, in one file (docs/format.md section 14).
//!
//! For questions, asked with any tool that reads JSON. It is not signed; what decides reads the
//! details that each entry names. Each package is written once and then only counted, so that a
//! thousand servers with three hundred packages each stay at a few MB.

use std::collections::{BTreeMap, BTreeSet};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Status;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use serde::{Deserialize, Serialize};

use super::Shown;

/// Its name in a site.
pub const DEPS: &str = "deps.json";
/// `schema` of it.
const SCHEMA: &str = "mcpfs.deps/v1";

/// `deps.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deps {
    schema: String,
    registry: RegistryName,
    /// Such as `npm:lodash@4.17.21`, in order, each once.
    packages: Vec<String>,
    servers: Vec<Line>,
}

/// One selected release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: ServerName,
    version: Version,
    status: Status,
    statement: Digest,
    entry: Digest,
    /// Positions in the list of packages; absent if they are not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packages: Option<Vec<usize>>,
    /// Files of it that should list packages and could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unreadable: Option<u64>,
}

/// One selected release with its packages spelled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The server.
    pub name: ServerName,
    /// The version that hosts start.
    pub version: Version,
    /// Whether they may.
    pub status: Status,
    /// The signed statement.
    pub statement: Digest,
    /// The entry it was taken from.
    pub entry: Digest,
    /// What it carries, on any platform; `None` if that is not listed.
    pub packages: Option<BTreeSet<String>>,
    /// Files of it that should list packages and could not be read.
    pub unreadable: u64,
}

impl Row {
    pub(super) fn of(entry: Digest, shown: Shown<'_>) -> Self {
        let release = &shown.listed.release;
        let carried = shown.details.map(|details| details.carried.as_slice()).filter(|carried| !carried.is_empty());
        Self {
            name: release.name.clone(),
            version: release.version.clone(),
            status: shown.listed.status,
            statement: shown.listed.envelope.statement(),
            entry,
            packages: carried.map(|all| all.iter().flat_map(|one| &one.packages).map(|one| one.id()).collect()),
            unreadable: carried.into_iter().flatten().map(|one| one.unreadable).sum(),
        }
    }
}

impl Deps {
    /// The file for these releases.
    pub fn new(registry: &RegistryName, rows: Vec<Row>) -> Self {
        let all: BTreeSet<&String> = rows.iter().filter_map(|row| row.packages.as_ref()).flatten().collect();
        let packages: Vec<String> = all.into_iter().cloned().collect();
        let places: BTreeMap<&str, usize> = packages.iter().enumerate().map(|(at, id)| (id.as_str(), at)).collect();
        let place = |id: &String| places.get(id.as_str()).copied();
        let line = |row: &Row| Line {
            name: row.name.clone(),
            version: row.version.clone(),
            status: row.status,
            statement: row.statement,
            entry: row.entry,
            packages: row.packages.as_ref().map(|ids| ids.iter().filter_map(place).collect()),
            unreadable: Some(row.unreadable).filter(|count| *count > 0),
        };
        let servers = rows.iter().map(line).collect();
        Self { schema: SCHEMA.to_owned(), registry: registry.clone(), packages, servers }
    }

    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        mcpfs_trust::json::encode_compact(self)
    }

    /// Reads what [`Deps::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let deps: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if deps.schema != SCHEMA {
            return Err(format!("its schema is not {SCHEMA}"));
        }
        let most = deps.packages.len();
        match deps.servers.iter().filter_map(|line| line.packages.as_ref()).flatten().any(|at| *at >= most) {
            true => Err("it names a package that it does not list".to_owned()),
            false => Ok(deps),
        }
    }

    /// The releases in it.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let named = |at: &usize| self.packages.get(*at).cloned();
        self.servers.iter().map(move |line| Row {
            name: line.name.clone(),
            version: line.version.clone(),
            status: line.status,
            statement: line.statement,
            entry: line.entry,
            packages: line.packages.as_ref().map(|places| places.iter().filter_map(named).collect()),
            unreadable: line.unreadable.unwrap_or(0),
        })
    }
}
