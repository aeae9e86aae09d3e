//! Pages of hostile text, and how little a change writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mcpfs_trust::details::{Carried, Checked, DETAILS_SCHEMA, Package, Tool};
use mcpfs_trust::name::Platform;
use mcpfs_trust::release::{Artefact, Artefacts, Launch, Source};

use super::*;
use crate::site::publish::Step;
use crate::site::publish::tests::Signer;

const HOSTILE: &str = "</bdi></title></style><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & \u{202e}gnirts\u{2066}\u{200b}\u{feff}\u{1b}[2J";

fn publish(signer: &Signer, name: &str, version: &str, second: i64, stop: Option<Step>) {
    let recipe = signer.recipe(name, version, &format!("{name} {version}"), "Says hi.");
    signer.release_with(&recipe, second, ("head", &["release"]), stop).unwrap();
}

/// Everything of a site that is derived.
fn derived(site: &Site) -> BTreeMap<String, Vec<u8>> {
    let listing = site.store().list("").unwrap();
    let ours = |name: &str| name == INDEX || name == DEPS || name.starts_with("browse/") || name.starts_with("v0.1/");
    let names = listing.into_iter().map(|one| one.name).filter(|name| ours(name));
    names.map(|name| (name.clone(), site.read(&name, LIST_BYTES).unwrap())).collect()
}

/// Names whose content is another one, or that came or went.
fn differing(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

fn anew(signer: &Signer) -> Written {
    write(&signer.site, &signer.root, true, &Progress::silent()).unwrap()
}

fn entry(signer: &Signer, name: &str) -> Entry {
    let published = signer.site.published(&signer.root).unwrap();
    (*signer.site.entry(&published, &name.parse().unwrap()).unwrap().unwrap()).clone()
}

/// A release of which others chose every word.
fn hostile() -> (Entry, Details) {
    let signer = Signer::new();
    publish(&signer, "hello", "1.0.0", 0, None);
    let mut entry = entry(&signer, "hello");
    let text = HOSTILE.to_owned();
    // Nothing of this machine or moment, so that the pages can be frozen.
    entry.selected.envelope.payload = b"a statement".to_vec();
    entry.selected.details = None;
    let release = &mut entry.selected.release;
    let artefact = Artefact { url: text.clone(), ..release.artefact.all()[0].clone() };
    release.artefact = Artefacts::new(vec![artefact]).unwrap();
    release.issued = "2026-04-20T08:00:00Z".parse().unwrap();
    release.description.clone_from(&text);
    release.maintainer.clone_from(&text);
    release.data_classification.clone_from(&text);
    release.lawful_basis = Some(text.clone());
    release.scope = vec![text.clone()];
    release.reviewers = vec![text.clone()];
    let launch = json_launch(&text);
    release.launch = Some(launch);
    release.source = Some(Source {
        repository: "javascript:alert(1)".to_owned(),
        commit: text.clone(),
        pull_request: Some(format!("https://forge.example.com/{text}")),
        approvals: vec![text.clone()],
    });
    entry.selected.reason = Some(text.clone());
    let package =
        Package { ecosystem: "npm".to_owned(), name: text.clone(), version: text.clone(), licence: Some(text.clone()) };
    let details = Details {
        schema: DETAILS_SCHEMA.to_owned(),
        check: Some(Checked {
            at: "2026-04-15T09:30:00Z".parse().unwrap(),
            by: text.clone(),
            warnings: 1,
            notes: 0,
            waivers: vec![text.clone()],
            looks: vec![text.clone()],
            tools: vec![Tool { name: text.clone(), description: text }],
        }),
        carried: vec![Carried { platform: Platform::any(), packages: vec![package], unreadable: 2 }],
    };
    (entry, details)
}

fn json_launch(text: &str) -> Launch {
    serde_json::from_value(serde_json::json!({"command": "node", "args": [text]})).unwrap()
}

fn made(registry: &RegistryName, entry: &Entry, details: &Details) -> Made {
    Server { registry, entry, details: vec![Some(details.clone())] }.make(Digest::EMPTY, false)
}

#[test]
fn a_page_shows_text_and_nothing_else() {
    let registry: RegistryName = "mcp.example.com/prod".parse().unwrap();
    for status in [Status::Active, Status::Yanked, Status::Revoked] {
        let (mut entry, details) = hostile();
        entry.selected.status = status;
        let made = made(&registry, &entry, &details);
        let mut pages: Vec<(String, Vec<u8>)> =
            made.files.into_iter().filter(|(name, _)| name.ends_with(".html")).collect();
        assert_eq!(pages.len(), 2);
        pages.push((INDEX.to_owned(), html::index(&registry, &[made.summary])));
        for (name, page) in pages {
            let page = String::from_utf8(page).unwrap();
            let hidden = page.chars().find(|c| *c != '\n' && (c.is_control() || mcpfs_trust::text::is_invisible(*c)));
            assert_eq!(hidden, None, "{name}");
            for bad in ["<script", "<img", "href=\"javascript", " style="] {
                assert!(!page.contains(bad), "{name} has {bad}");
            }
            assert_eq!((page.matches("<style>").count(), page.matches("</style>").count()), (1, 1), "{name}");
            let style = page.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
            let hash = <sha2::Sha256 as sha2::Digest>::digest(style);
            let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash);
            assert!(page.contains(&format!("style-src 'sha256-{hash}'")), "{name}");
            assert!(page.contains("default-src 'none'") && page.contains("not signed"), "{name}");
            assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{name}: the text itself is there");
        }
    }
}

#[test]
fn one_version_more_writes_its_servers_pages_and_the_lists() {
    let signer = Signer::new();
    for (second, name) in ["alpha", "beta", "gamma"].into_iter().enumerate() {
        publish(&signer, name, "1.0.0", second as i64, None);
    }
    let before = derived(&signer.site);
    publish(&signer, "beta", "1.1.0", 10, None);
    let after = derived(&signer.site);
    let expected = [
        "browse/beta/1.1.0.html",
        "browse/beta/index.html",
        "browse/state.json",
        "deps.json",
        "index.html",
        "v0.1/servers/index.json",
        "v0.1/servers/demo.test/beta/versions/1.0.0/index.json",
        "v0.1/servers/demo.test/beta/versions/1.1.0/index.json",
        "v0.1/servers/demo.test/beta/versions/index.json",
        "v0.1/servers/demo.test/beta/versions/latest/index.json",
    ];
    let expected: BTreeSet<String> = expected.into_iter().map(str::to_owned).collect();
    assert_eq!(differing(&before, &after), expected);
    // A page is what its entry says: made again from nothing it is the same.
    assert_eq!(anew(&signer), Written { servers: 3, files: 0 });
    for name in after.keys() {
        signer.site.store().remove(name).unwrap();
    }
    anew(&signer);
    assert_eq!(derived(&signer.site), after);
}

#[test]
fn a_head_that_is_signed_again_changes_no_page() {
    let signer = Signer::new();
    publish(&signer, "hello", "1.0.0", 0, None);
    let before = derived(&signer.site);
    let row = crate::log::Row { action: "resign".to_owned(), ..Default::default() };
    let outcome = signer.publisher(90_000, "head", None, |publisher| publisher.resign(row).unwrap());
    assert_eq!((outcome.head_version, derived(&signer.site)), (2, before));
}

#[test]
fn what_a_killed_publisher_left_is_mended() {
    let signer = Signer::new();
    publish(&signer, "hello", "1.0.0", 0, None);
    let old = derived(&signer.site);
    let recipe = signer.recipe("hello", "1.1.0", "second", "Says hi.");
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(signer.release_with(&recipe, 10, ("head", &["release"]), Some(Step::ReadBack)));
    }));
    assert!(killed.is_err());
    assert_eq!(derived(&signer.site), old, "old, and whole");
    // The head has moved; the same command again has nothing to do but this.
    let released = signer.release_with(&recipe, 20, ("head", &["release"]), None).unwrap();
    assert!(!released.site.changed);
    assert!(derived(&signer.site).contains_key("browse/hello/1.1.0.html"));
    // A state that cannot be read is as good as none.
    signer.site.replace(STATE, b"{").unwrap();
    signer.site.replace("browse/hello/index.html", b"defaced").unwrap();
    let row = crate::log::Row { action: "resign".to_owned(), ..Default::default() };
    signer.publisher(30, "head", None, |publisher| publisher.resign(row).unwrap());
    assert_eq!(anew(&signer).files, 0);
}

#[test]
fn the_api_offers_what_may_be_used() {
    let signer = Signer::new();
    publish(&signer, "hello", "1.0.0+r2", 0, None);
    publish(&signer, "hello", "1.1.0", 10, None);
    let json = |name: &str| -> Option<Value> {
        let bytes = signer.site.find(&format!("v0.1/servers{name}/index.json"), LIST_BYTES).unwrap()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    };
    let versions = |list: Option<Value>| -> Vec<(String, String)> {
        let list = list.unwrap();
        let servers = list["servers"].as_array().unwrap();
        assert_eq!(list["metadata"]["count"], servers.len());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let official = "io.modelcontextprotocol.registry/official";
        servers.iter().map(|one| (text(&one["server"]["version"]), text(&one["_meta"][official]["status"]))).collect()
    };
    let pair = |version: &str, status: &str| (version.to_owned(), status.to_owned());
    let below = |rest: &str| format!("/demo.test/hello/versions{rest}");
    assert_eq!(versions(json("")), [pair("1.1.0", "active")]);
    assert_eq!(versions(json(&below(""))), [pair("1.1.0", "active"), pair("1.0.0+r2", "active")]);
    assert_eq!(json(&below("/latest")), json(&below("/1.1.0")));
    assert_eq!(json(&below("/1.0.0+r2")).unwrap()["server"]["version"], "1.0.0+r2");
    signer.withdraw("1.1.0", Status::Yanked, 20).unwrap();
    assert_eq!(versions(json("")), [pair("1.1.0", "deprecated")]);
    signer.withdraw("1.1.0", Status::Revoked, 30).unwrap();
    assert_eq!((versions(json("")), json(&below("/latest"))), (vec![], None));
    assert_eq!(versions(json(&below(""))), [pair("1.0.0+r2", "active")]);
    let official = &json(&below("/1.1.0")).unwrap()["_meta"]["io.modelcontextprotocol.registry/official"];
    assert_eq!(official["status"], "deleted");
    assert_eq!(anew(&signer).files, 0);
}

#[test]
fn names_of_the_api_have_a_namespace() {
    let namespace = |registry: &str| api::namespace(&registry.parse().unwrap());
    assert_eq!(namespace("mcp.example.com/prod"), "com.example.mcp.prod");
    assert_eq!(namespace("mcp.example.com"), "com.example.mcp");
    assert_eq!(namespace("demo/try"), "demo.try");
    assert_eq!(namespace("a_b.example//x/"), "example.a-b.x");
    assert_eq!(namespace("json.index"), "index-json");
}

#[test]
fn the_index_names_each_package_once() {
    let row = |name: &str, packages: Option<&[&str]>| index::Row {
        name: name.parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        status: Status::Active,
        statement: Digest::EMPTY,
        entry: Digest::of(name.as_bytes()),
        packages: packages.map(|all| all.iter().map(|one| (*one).to_owned()).collect()),
        unreadable: 0,
    };
    let rows = vec![row("a", Some(&["npm:x@1", "npm:y@1"])), row("b", Some(&["npm:y@1"])), row("c", None)];
    let deps = Deps::new(&"demo/test".parse().unwrap(), rows.clone());
    let bytes = deps.encode();
    assert_eq!(String::from_utf8_lossy(&bytes).matches("npm:y@1").count(), 1);
    let read = Deps::parse(&bytes).unwrap();
    assert_eq!(read.rows().collect::<Vec<_>>(), rows);
    for bad in ["{}", "[]", r#"{"schema":"mcpfs.deps/v2","registry":"r","packages":[],"servers":[]}"#] {
        assert!(Deps::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let beyond = String::from_utf8(bytes).unwrap().replace("\"packages\":[0,1]", "\"packages\":[0,7]");
    assert!(Deps::parse(beyond.as_bytes()).unwrap_err().contains("does not list"));
}

/// Whoever changes what a page says raises [`REVISION`], or sites keep the old pages of all servers
/// that do not change.
#[test]
fn pages_of_this_revision_are_frozen() {
    let (entry, details) = hostile();
    let made = made(&"mcp.example.com/prod".parse().unwrap(), &entry, &details);
    let mut hasher = mcpfs_trust::digest::Hasher::new();
    for (name, bytes) in &made.files {
        hasher.update(name.as_bytes());
        hasher.update(bytes);
    }
    let frozen = include_str!("revision.txt");
    let now = format!("{REVISION} {}\n", hasher.finish());
    if std::env::var_os("MCPFS_BLESS").is_some() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pages/revision.txt");
        let same = frozen.split(' ').next() == now.split(' ').next();
        assert!(frozen.is_empty() || frozen == now || !same, "raise REVISION first");
        std::fs::write(file, now).unwrap();
        return;
    }
    assert_eq!(now, frozen, "pages differ: raise REVISION and bless this with MCPFS_BLESS=1");
}
