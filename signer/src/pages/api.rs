//! The MCP registry API v0.1 as files: what IDEs ask for a list of servers.
//!
//! | address | file in a folder | name in a bucket |
//! |---|---|---|
//! | `/v0.1/servers` | `v0.1/servers/index.json` | `v0.1/servers` |
//! | `…/servers/NAME/versions` | `…/versions/index.json` | `…/versions` |
//! | `…/versions/latest` and `…/versions/VERSION` | `…/index.json` below it | as asked |
//!
//! The API's addresses are documents and have others below them, which a folder cannot have.
//! Query parameters are ignored, as a file must: the list is one page with the latest version of
//! each server. Its names need a namespace: the registry's host turned round, `mcp.example.com/prod`
//! is `com.example.mcp.prod`.
//!
//! The API has no kind of package that is a program on this machine. Its type is free text, and VS
//! Code starts what it does not know by that text, so type, identifier and hint all are the path of `run`
//! (docs/decisions/0015). "Deleted" is what is revoked: it is in no list.

use std::collections::BTreeMap;

use mcpfs_trust::entry::Status;
use mcpfs_trust::name::{RegistryName, ServerName};
use mcpfs_trust::text::visible;
use serde_json::{Value, json};

use super::{Server, Shown, Summary};

const SCHEMA: &str = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json";
const OFFICIAL: &str = "io.modelcontextprotocol.registry/official";
/// Longest description of the API, characters.
const DESCRIPTION: usize = 100;

/// The list of all servers.
pub(super) fn list_name(flat: bool) -> String {
    place("v0.1/servers", flat)
}

/// `GET /v0.1/servers`.
pub(super) fn list(summaries: &[Summary]) -> Vec<u8> {
    let offered = summaries.iter().filter(|one| one.status != Status::Revoked);
    page(offered.map(|one| one.response.clone()).collect())
}

/// Everything below `/v0.1/servers/NAME`.
pub(super) fn server(server: &Server<'_>, flat: bool, files: &mut BTreeMap<String, Vec<u8>>, absent: &mut Vec<String>) {
    let name = name(server.registry, &server.entry.selected.release.name);
    let versions = format!("v0.1/servers/{name}/versions");
    let mut newest: Vec<Shown<'_>> = server.shown().collect();
    newest.sort_by_key(|shown| std::cmp::Reverse(shown.listed.release.issued));
    let offered = newest.iter().filter(|shown| shown.listed.status != Status::Revoked);
    let list = offered.map(|shown| response(server.registry, *shown)).collect();
    files.insert(place(&versions, flat), page(list));
    for shown in newest {
        let response = document(&response(server.registry, shown));
        let latest = place(&format!("{versions}/latest"), flat);
        match (shown.selected, shown.listed.status) {
            (true, Status::Revoked) => absent.push(latest),
            (true, _) => drop(files.insert(latest, response.clone())),
            (false, _) => {}
        }
        files.insert(place(&format!("{versions}/{}", shown.listed.release.version), flat), response);
    }
}

/// What the API says of one release.
pub(super) fn response(registry: &RegistryName, shown: Shown<'_>) -> Value {
    let release = &shown.listed.release;
    let mut detail = json!({
        "$schema": SCHEMA,
        "name": name(registry, &release.name),
        "title": release.name,
        "description": description(&release.description),
        "version": release.version,
    });
    if release.launch.is_some() {
        let run = match shown.selected {
            true => format!("/mcp/{}/run", release.name),
            false => format!("/mcp/{}/{}/run", release.name, release.version),
        };
        let package = json!({
            "registryType": run,
            "identifier": run,
            "runtimeHint": run,
            "version": release.version,
            "transport": {"type": "stdio"},
        });
        detail["packages"] = json!([package]);
    }
    let status = match shown.listed.status {
        Status::Active => "active",
        Status::Yanked => "deprecated",
        Status::Revoked => "deleted",
    };
    let artefacts = release.artefact.all().iter();
    let mut own = json!({
        "registry": registry,
        "name": release.name,
        "maintainer": release.maintainer,
        "description": release.description,
        "data_classification": release.data_classification,
        "reviewed_at": release.reviewed_at,
        "reviewers": release.reviewers,
        "statement": shown.listed.envelope.statement(),
        "artefacts": artefacts.map(|one| json!({"platform": one.platform, "sha256": one.sha256})).collect::<Vec<_>>(),
    });
    if let Some(basis) = &release.lawful_basis {
        own["lawful_basis"] = json!(basis);
    }
    if !release.scope.is_empty() {
        own["scope"] = json!(release.scope);
    }
    if let Some(reason) = &shown.listed.reason {
        own["reason"] = json!(reason);
    }
    json!({
        "server": detail,
        "_meta": {
            OFFICIAL: {
                "status": status,
                "publishedAt": release.issued,
                "updatedAt": release.issued,
                "isLatest": shown.selected,
            },
            format!("{}/mcpfs", namespace(registry)): own,
        },
    })
}

/// `com.example.mcp.prod/internal-postgres`
fn name(registry: &RegistryName, server: &ServerName) -> String {
    format!("{}/{server}", namespace(registry))
}

/// The registry's host turned round, and then its path.
pub(super) fn namespace(registry: &RegistryName) -> String {
    let (host, path) = registry.as_str().split_once('/').unwrap_or((registry.as_str(), ""));
    let labels = host.split('.').rev().chain(path.split(['/', '.']));
    let labels: Vec<String> = labels.filter(|label| !label.is_empty()).map(|label| label.replace('_', "-")).collect();
    match labels.join(".") {
        // The one name that a file of ours has there.
        clash if clash == "index.json" => "index-json".to_owned(),
        namespace => namespace,
    }
}

/// At most a hundred characters, the last one an ellipsis if there were more.
fn description(text: &str) -> String {
    let text = visible(text);
    match text.chars().count() > DESCRIPTION {
        true => text.chars().take(DESCRIPTION - 1).chain(['…']).collect(),
        false => text,
    }
}

fn page(servers: Vec<Value>) -> Vec<u8> {
    let count = servers.len();
    document(&json!({"servers": servers, "metadata": {"count": count}}))
}

fn document(value: &Value) -> Vec<u8> {
    mcpfs_trust::json::encode_compact(value)
}

fn place(address: &str, flat: bool) -> String {
    if flat { address.to_owned() } else { format!("{address}/index.json") }
}
