//! The catalogue as HTML: an index, a page for each server, a page for each version.
//!
//! Everything shown was chosen by others, so all of it goes through one function, [`t`]: escaped by
//! the template, nothing invisible left in it, and isolated so that text of another direction moves
//! nothing beside it. The policy in each page lets nothing run or load but its own style.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use mcpfs_trust::details::{Carried, Checked};
use mcpfs_trust::entry::Status;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::release::{Artefact, Network, Release, Source};
use mcpfs_trust::text::visible;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::{DEPS, Server, Shown, Summary};

const STYLE: &str = include_str!("style.css");
/// Packages of one platform that a page shows; the details have all.
const PACKAGES: usize = 2_000;
/// Servers from which on the index has letters to jump to.
const MANY: usize = 30;

static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
});

/// Text of others.
fn t(text: &str) -> Markup {
    html! { bdi { (visible(text)) } }
}

fn code(text: &str) -> Markup {
    html! { code dir="ltr" { (visible(text)) } }
}

/// The list of servers.
pub(super) fn index(registry: &RegistryName, servers: &[Summary]) -> Vec<u8> {
    let mut groups: BTreeMap<String, Vec<&Summary>> = BTreeMap::new();
    for server in servers {
        let first = server.name.as_str().chars().next().map(|c| c.to_ascii_uppercase().to_string()).unwrap_or_default();
        groups.entry(if servers.len() > MANY { first } else { String::new() }).or_default().push(server);
    }
    let count = match servers.len() {
        1 => "1 server".to_owned(),
        count => format!("{count} servers"),
    };
    let main = html! {
        h1 { "MCP servers of " (t(registry.as_str())) }
        p { (count) ", reviewed and signed. Hosts that mount this registry start them from " code { "/mcp/NAME/run" } "." }
        (unsigned("mcpfs ls"))
        @if servers.len() > MANY {
            nav.letters aria-label="By first letter" { @for letter in groups.keys() { a href={ "#" (letter) } { (letter) } " " } }
        }
        @for (letter, servers) in &groups {
            @if letter.is_empty() { h2 { "Servers" } } @else { h2 id=(letter) { (letter) } }
            ul.servers { @for server in servers { li { (listed(server)) } } }
        }
        @if servers.is_empty() { p { "There is none yet." } }
    };
    page(&format!("MCP servers of {registry}"), "", &html! {}, &main)
}

fn listed(server: &Summary) -> Markup {
    html! {
        h3 { a href={ "browse/" (server.name) "/index.html" } { (server.name) } " " (server.version) }
        p { (t(&server.description)) }
        @if server.status != Status::Active { (withdrawn(server.status, server.reason.as_deref())) }
        p.facts {
            "Data: " (t(&server.data_classification))
            @if let Some(basis) = &server.lawful_basis { " (" (t(basis)) ")" }
            " · Maintainer: " (t(&server.maintainer))
            @if server.versions > 1 { " · " (server.versions) " versions" }
        }
    }
}

/// A server's page: how to use it, its versions, and everything about the selected one.
pub(super) fn server(server: &Server<'_>) -> Vec<u8> {
    let selected = server.selected();
    let release = &selected.listed.release;
    let name = &release.name;
    let main = html! {
        h1 { (name) " " (release.version) }
        p { (t(&release.description)) }
        @if selected.listed.status != Status::Active {
            (withdrawn(selected.listed.status, selected.listed.reason.as_deref()))
        }
        (unsigned(&format!("mcpfs explain {name}")))
        h2 { "How to use it" }
        @if selected.listed.status == Status::Revoked {
            p { "Not at all: hosts refuse to start it." }
        } @else if release.launch.is_none() {
            p { "It can be read at " (code(&format!("/mcp/{name}/{}/tree", release.version))) ", but has no launch, so hosts cannot start it." }
        } @else { (usage(name, &release.version)) }
        h2 { "Versions" }
        table {
            thead { tr { th scope="col" { "Version" } th scope="col" { "Status" } th scope="col" { "Reviewed" } th scope="col" { "Signed" } } }
            tbody { @for shown in server.shown() {
                tr {
                    th scope="row" { a href=(version_link(&shown.listed.release.version)) { (shown.listed.release.version) } }
                    td { (status(shown)) @if let Some(reason) = &shown.listed.reason { ": " (t(reason)) } }
                    td.date { (shown.listed.release.reviewed_at) }
                    td.date { (shown.listed.release.issued.date()) }
                }
            } }
        }
        (about(selected))
    };
    let crumbs = html! { li { a href="../../index.html" { "Servers" } } li aria-current="page" { (name) } };
    page(&format!("{name} in {}", server.registry), "../../", &crumbs, &main)
}

/// A version's page.
pub(super) fn version(registry: &RegistryName, shown: Shown<'_>) -> Vec<u8> {
    let Release { name, version, description, .. } = &shown.listed.release;
    let main = html! {
        h1 { (name) " " (version) }
        p { (t(description)) }
        @if shown.listed.status != Status::Active {
            (withdrawn(shown.listed.status, shown.listed.reason.as_deref()))
        }
        (unsigned(&format!("mcpfs explain {name}@{version}")))
        @if shown.listed.status != Status::Revoked && shown.listed.release.launch.is_some() {
            p { "Exactly this version, where a host has it: " (code(&format!("/mcp/{name}/{version}/run"))) }
        }
        (about(shown))
    };
    let crumbs = html! {
        li { a href="../../index.html" { "Servers" } }
        li { a href="index.html" { (name) } }
        li aria-current="page" { (version) }
    };
    page(&format!("{name} {version} in {registry}"), "../../", &crumbs, &main)
}

fn page(title: &str, top: &str, crumbs: &Markup, main: &Markup) -> Vec<u8> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(*POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                meta name="robots" content="noindex";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    nav aria-label="Where you are" {
                        @if crumbs.0.is_empty() { p { "MCP registry" } } @else { ol { (crumbs) } }
                    }
                }
                main id="main" tabindex="-1" { (main) }
                footer {
                    p {
                        "Made by mcpfs-signer from the signed objects of this site. For programs: "
                        a href={ (top) "head.json" } { "signed head" } ", "
                        a href={ (top) (DEPS) } { "index of packages" } " (not signed)."
                    }
                }
            }
        }
    };
    page.into_string().into_bytes()
}

/// What this page is worth.
fn unsigned(command: &str) -> Markup {
    html! {
        p.note {
            "This page is a convenience and is not signed. Hosts trust only the signed objects: on yours, "
            (code(command)) " says what holds."
        }
    }
}

fn withdrawn(status: Status, reason: Option<&str>) -> Markup {
    let (class, word, what) = match status {
        Status::Active => return html! {},
        Status::Yanked => ("yanked", "Yanked", "hosts use it only where it is pinned"),
        Status::Revoked => ("revoked", "Revoked", "hosts refuse it"),
    };
    html! {
        p.alarm { strong class=(class) { (word) } ": " (what) "." @if let Some(reason) = reason { " Reason: " (t(reason)) } }
    }
}

fn status(shown: Shown<'_>) -> Markup {
    match shown.listed.status {
        Status::Active if shown.selected => html! { span.current { "current" } },
        Status::Active => html! { "earlier" },
        Status::Yanked => html! { span.yanked { "yanked" } },
        Status::Revoked => html! { span.revoked { "revoked" } },
    }
}

/// What goes into the configuration of hosts.
fn usage(name: &ServerName, version: &Version) -> Markup {
    let run = format!("/mcp/{name}/run");
    let pretty = |value: serde_json::Value| serde_json::to_string_pretty(&value).unwrap_or_default();
    let entry = json!({name.as_str(): {"command": run}});
    let stdio = json!({name.as_str(): {"type": "stdio", "command": run}});
    html! {
        p { "The whole command of this server, without arguments, on a host that mounts this registry at " code { "/mcp" } ":" }
        pre { code { (run) } }
        h3 { "Claude Desktop, Cursor, Gemini CLI, Windsurf, or a project's " code { ".mcp.json" } }
        pre { code { (pretty(json!({"mcpServers": entry}))) } }
        h3 { "Claude Code" }
        pre { code { "claude mcp add " (name) " " (run) } }
        h3 { "VS Code: " code { ".vscode/mcp.json" } }
        pre { code { (pretty(json!({"servers": stdio}))) } }
        h3 { "Codex: " code { "~/.codex/config.toml" } }
        pre { code { "[mcp_servers.\"" (name) "\"]\ncommand = \"" (run) "\"" } }
        h3 { "Allowing it, in the managed settings of Claude Code and VS Code" }
        pre { code { (pretty(json!({"allowedMcpServers": [{"serverCommand": [run]}]}))) } }
        p { "A host that must stay at this version: " (code(&format!("mcpfs pin {name} {version}"))) }
    }
}

/// Everything about one release.
fn about(shown: Shown<'_>) -> Markup {
    let release = &shown.listed.release;
    html! {
        h2 { "Review" }
        dl {
            dt { "Maintainer" } dd { (t(&release.maintainer)) }
            dt { "Reviewed by" } dd { (lines(&release.reviewers)) }
            dt { "Reviewed on" } dd { (release.reviewed_at) }
            dt { "Data class" } dd { (t(&release.data_classification)) }
            dt { "Lawful basis" } dd { @if let Some(basis) = &release.lawful_basis { (t(basis)) } @else { "none stated" } }
            @if !release.scope.is_empty() { dt { "Scope" } dd { (lines(&release.scope)) } }
            @if let Some(source) = &release.source { (origin(source)) }
        }
        (running(release))
        @match shown.details.and_then(|details| details.check.as_ref()) {
            Some(check) => (checked(check)),
            None => { h2 { "Check" } p { "Nothing was noted of the check of this version." } },
        }
        h2 { "Packages in it" }
        @match shown.details {
            Some(details) if !details.carried.is_empty() => { @for carried in &details.carried { (packages(carried)) } },
            _ => p { "They are not listed." },
        }
        h2 { "Digests" }
        dl {
            dt { "Statement" } dd { (code(&shown.listed.envelope.statement().to_string())) }
            @for artefact in release.artefact.all() { (digests(artefact)) }
        }
        p {
            a href={ "../../servers/" (release.name) ".json" } { "Signed entry" }
            @if let Some(details) = shown.listed.details { ", " a href={ "../../details/" (details.sha256) ".json" } { "details of this version" } }
            " (JSON)"
        }
    }
}

fn digests(artefact: &Artefact) -> Markup {
    html! {
        dt { "Artefact (" (artefact.platform) ")" }
        dd {
            (code(&artefact.url)) br;
            a href={ "../../artefacts/" (artefact.sha256) } { (code(&artefact.sha256.to_string())) } br;
            (artefact.size) " bytes"
        }
        dt { "Tree (" (artefact.platform) ")" }
        dd { (code(&artefact.tree.sha256.to_string())) br; (artefact.tree.files) " files, " (artefact.tree.bytes) " bytes" }
    }
}

fn origin(source: &Source) -> Markup {
    html! {
        dt { "Repository" } dd { (link(&source.repository)) }
        dt { "Commit" } dd { (code(&source.commit)) }
        @if let Some(request) = &source.pull_request { dt { "Request" } dd { (link(request)) } }
        @if !source.approvals.is_empty() { dt { "Approved by" } dd { (lines(&source.approvals)) } }
    }
}

/// How it runs, and what it gets.
fn running(release: &Release) -> Markup {
    let Some(launch) = &release.launch else { return html! {} };
    let sandbox = release.sandbox.as_ref();
    let network = sandbox.is_some_and(|sandbox| sandbox.network == Network::Host);
    html! {
        h2 { "What it gets" }
        dl {
            dt { "Command" } dd { (code(&std::iter::once(&launch.command).chain(&launch.args).cloned().collect::<Vec<_>>().join(" "))) }
            dt { "Network" } dd { @if network { "that of the host" } @else { "none" } }
            @if let Some(sandbox) = sandbox {
                @if !sandbox.read.is_empty() { dt { "Reads of the host" } dd { (lines(&sandbox.read)) } }
                @if !sandbox.write.is_empty() { dt { "Writes to the host" } dd { (lines(&sandbox.write)) } }
            }
            @for credential in &release.credentials {
                dt { "Credential" }
                dd { (t(&credential.reference)) @if let Some(scope) = &credential.scope { " (" (t(scope)) ")" } }
            }
        }
    }
}

fn checked(check: &Checked) -> Markup {
    html! {
        h2 { "Check" }
        p { "Passed on " (check.at.date()) ", by " (t(&check.by)) ", with " (count(check.warnings, "warning")) " and " (count(check.notes, "note")) "." }
        @if !check.looks.is_empty() { h3 { "Looked for besides" } (lines(&check.looks)) }
        h3 { "Waivers" }
        @if check.waivers.is_empty() { p { "None was needed." } } @else { (lines(&check.waivers)) }
        h3 { "Tools" }
        @if check.tools.is_empty() { p { "None were recorded: the server was not tried out." } } @else {
            p { "As the server described them in a trial before it was signed." }
            dl { @for tool in &check.tools { dt { (code(&tool.name)) } dd { (t(&tool.description)) } } }
        }
    }
}

fn packages(carried: &Carried) -> Markup {
    let mut licences: BTreeMap<&str, usize> = BTreeMap::new();
    for package in &carried.packages {
        *licences.entry(package.licence.as_deref().unwrap_or("not stated")).or_default() += 1;
    }
    let mut licences: Vec<_> = licences.into_iter().collect();
    licences.sort_by_key(|(licence, count)| (std::cmp::Reverse(*count), *licence));
    let shown = licences.iter().take(40);
    html! {
        h3 { (count(carried.packages.len() as u64, "package")) " (" (carried.platform) ")" }
        @if carried.unreadable > 0 {
            p { strong { "The list may lack some: " } (count(carried.unreadable, "file or folder")) " of it could not be told." }
        }
        @if !carried.packages.is_empty() {
            p { "Licences: " @for (at, (licence, count)) in shown.enumerate() { @if at > 0 { ", " } (t(licence)) " (" (count) ")" } }
            details {
                summary { "The packages" }
                ul.plain { @for package in carried.packages.iter().take(PACKAGES) {
                    li { (code(&package.id())) @if let Some(licence) = &package.licence { " " (t(licence)) } }
                } }
                @if carried.packages.len() > PACKAGES { p { "And " (carried.packages.len() - PACKAGES) " more, in the details." } }
            }
        }
    }
}

fn lines(lines: &[String]) -> Markup {
    html! { ul.plain { @for line in lines { li { (t(line)) } } } }
}

fn count(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A link only if it is one that people expect: https, and no name before the host.
fn link(text: &str) -> Markup {
    let url = Url::parse(text)
        .ok()
        .filter(|url| url.scheme() == "https" && url.username().is_empty() && url.password().is_none());
    match url {
        Some(url) => html! { a href=(url.as_str()) rel="noreferrer nofollow" { (t(text)) } },
        None => t(text),
    }
}

fn version_link(version: &Version) -> String {
    // Some stores read a bare plus as a space.
    format!("{}.html", version.as_str().replace('+', "%2B"))
}
