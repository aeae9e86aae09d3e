//! What a site shows to people and IDEs: from a folder as the manual serves it, and from a bucket.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::registry::files_below;
use mcpfs_tests::s3::S3;
use mcpfs_tests::scratch::{need, repository};
use mcpfs_tests::servers;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::{Attack, Suite};
use serde_json::Value;

use crate::boundary::SIGNING_HOST;
use crate::docs::blocks;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("pages::ides_read_a_folder_as_the_manual_serves_it", ides_read_a_folder_as_the_manual_serves_it);
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "pages::people_read_valid_pages",
            "scripts in what a recipe or a withdrawal says, on the pages for people",
            &["nothing runs"],
        ),
        people_read_valid_pages,
    );
    suite.plain("pages::a_bucket_serves_them_by_itself", a_bucket_serves_them_by_itself);
    suite.plain("pages::who_carries_a_package", who_carries_a_package);
    suite.plain("pages::who_here_uses_a_package", who_here_uses_a_package);
}

const LOCK: &str = r#"{"name": "x", "lockfileVersion": 3, "packages": {
  "node_modules/lodash": {"version": "4.17.20", "license": "MIT"},
  "node_modules/@s/zod": {"version": "4.1.0", "license": "<b>\"MIT\"</b>"}}}"#;

/// Releases a server that can be started, and carries lodash or nothing.
fn release(quick: &Quick, site: &str, name: &str, version: &str, lodash: bool) -> Run {
    let tree = quick.path("artefacts").join(format!("{name}-{version}"));
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::write(tree.join("bin/server"), format!("#!/bin/sh\necho {version}\n")).unwrap();
    std::fs::set_permissions(tree.join("bin/server"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if lodash {
        for package in ["lodash", "@s/zod"] {
            let folder = tree.join("node_modules").join(package);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("package.json"), format!("{{\"name\": \"{package}\"}}")).unwrap();
        }
        std::fs::write(tree.join("node_modules/.package-lock.json"), LOCK).unwrap();
    }
    let recipe = Recipe::new(name, version, &fixture::tar(&tree)).with("launch: {command: bin/server}\n");
    // Markup that a careless page would take for its own.
    let text = recipe.yaml().replace("A server for tests.", "'</p><script src=\"//x\"></script><h1>\"hi\" & ''bye'''");
    let file = quick.path("servers").join(format!("{name}.yaml"));
    std::fs::write(&file, text).unwrap();
    quick.release(&file, site)
}

/// Two servers with three versions, one of them yanked.
fn published(quick: &Quick, site: &str) {
    for (name, version, lodash) in [("hello", "1.0.0+r2", false), ("hello", "1.1.0", true), ("quiet", "0.1.0", false)] {
        release(quick, site, name, version, lodash).ok();
    }
    let reason = "<i>superseded</i> \"by\" another & more";
    quick.publishing("yank", site).arg("--publish").args(["quiet@0.1.0", "--reason", reason]).ok();
}

fn curl(url: &str) -> Run {
    Run::new(need("curl", "curl")).args(["-sS", "-i", "--noproxy", "*", url])
}

/// Status line, headers in lower case, and body.
fn answer(ran: &Ran) -> (String, String, String) {
    let (head, body) = ran.stdout.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {ran}"));
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status.to_owned(), headers.to_lowercase(), body.to_owned())
}

fn fits(quick: &Quick, schema: &str, document: &Value) {
    let file = quick.path("document.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let schema = repository().join("tests/schemas").join(schema);
    assert_eq!(servers::schema_errors(&schema, &file), "", "{document}");
}

fn ides_read_a_folder_as_the_manual_serves_it() {
    let quick = Quick::named("demo/shop");
    published(&quick, &quick.site());
    let lines = blocks("publishing.md", "```nginx").remove(0);
    let site = Site::serve_by(&quick.path("site"), &lines);
    let json = |path: &str| -> Value {
        let (status, headers, body) = answer(&curl(&format!("{}{path}", site.url())).ok());
        assert!(status.contains("200"), "{path}: {status}");
        assert!(headers.contains("content-type: application/json"), "{path}: {headers}");
        assert!(headers.contains("access-control-allow-origin: *"), "{path}: {headers}");
        serde_json::from_str(&body).unwrap()
    };
    // As VS Code asks, encoded and all.
    let list = json("v0.1/servers?limit=50&version=latest");
    fits(&quick, "registry-list.json", &list);
    let names = |list: &Value| -> Vec<String> {
        let servers = list["servers"].as_array().unwrap().iter();
        servers.map(|one| format!("{} {}", one["server"]["name"], one["server"]["version"]).replace('"', "")).collect()
    };
    assert_eq!(names(&list), ["demo.shop/hello 1.1.0", "demo.shop/quiet 0.1.0"]);
    assert_eq!(list["metadata"], serde_json::json!({"count": 2}));
    let versions = json("v0.1/servers/demo.shop%2Fhello/versions");
    fits(&quick, "registry-list.json", &versions);
    assert_eq!(names(&versions), ["demo.shop/hello 1.1.0", "demo.shop/hello 1.0.0+r2"]);
    let latest = json("v0.1/servers/demo.shop%2Fhello/versions/latest");
    fits(&quick, "registry-server.json", &latest);
    assert_eq!(latest["server"]["packages"][0]["identifier"], "/mcp/hello/run");
    assert_eq!(json("v0.1/servers/demo.shop%2Fhello/versions/1.1.0"), latest);
    let older = json("v0.1/servers/demo.shop%2Fhello/versions/1.0.0%2Br2");
    fits(&quick, "registry-server.json", &older);
    assert_eq!(older["server"]["packages"][0]["identifier"], "/mcp/hello/1.0.0+r2/run");
    assert_eq!(older["_meta"]["io.modelcontextprotocol.registry/official"]["isLatest"], false);
    let (status, _, body) = answer(&curl(&format!("{}v0.1/servers/demo.shop%2Fnone/versions/latest", site.url())).ok());
    assert!(status.contains("404") && serde_json::from_str::<Value>(&body).unwrap()["error"].is_string(), "{status}");
    let (status, headers, _) = answer(&curl(&format!("{}v0.1/servers", site.url())).args(["-X", "OPTIONS"]).ok());
    assert!(status.contains("204") && headers.contains("access-control-allow-methods: get, options"), "{headers}");
    // Hosts still get what they read, and people pages of the right type.
    assert_eq!(quick.verify(&site.url()).code, 0);
    for path in ["", "index.html", "browse/hello/", "browse/hello/1.0.0%2Br2.html"] {
        let (status, headers, _) = answer(&curl(&format!("{}{path}", site.url())).ok());
        assert!(
            status.contains("200") && headers.contains("content-type: text/html; charset=utf-8"),
            "{path}: {status}"
        );
        assert!(headers.contains("x-content-type-options: nosniff"), "{path}: {headers}");
    }
    // A client that somebody else wrote.
    let script = "import sys, json\nfrom mcp_lookup.registry import RegistryClient\n\
                  client = RegistryClient(sys.argv[1])\n\
                  found = [one['server']['name'] for one in client.search('hello')]\n\
                  one = client.get('demo.shop/hello')\n\
                  print(json.dumps([found, one['server']['version'], client.get('demo.shop/hello', '1.0.0+r2')['server']['version']]))";
    let ran = servers::mcp_lookup().args(["-c", script]).arg(site.url()).ok();
    let expected = serde_json::json!([["demo.shop/hello", "demo.shop/quiet"], "1.1.0", "1.0.0+r2"]);
    assert_eq!(ran.json(), expected);
}

fn people_read_valid_pages() {
    let quick = Quick::named("demo/shop");
    published(&quick, &quick.site());
    release(&quick, &quick.site(), "bad", "1.0.0", true).ok();
    quick
        .publishing("revoke", &quick.site())
        .arg("--publish")
        .args(["bad@1.0.0", "--reason", "<script>alert(1)</script>"])
        .ok();
    let site = quick.path("site");
    let pages: Vec<PathBuf> =
        files_below(&site).into_iter().filter(|name| name.ends_with(".html")).map(|name| site.join(name)).collect();
    assert_eq!(pages.len(), 1 + 3 + 4);
    let rules = quick.path("rules.json");
    let text =
        r#"{"root": true, "extends": ["html-validate:standard", "html-validate:a11y", "html-validate:document"]}"#;
    std::fs::write(&rules, text).unwrap();
    servers::html_validate().arg("--config").arg(&rules).args(["--max-warnings", "0"]).args(&pages).ok();
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        assert!(!text.contains("<script") && !text.contains("<i>") && !text.contains("<b>"), "{}", page.display());
    }
    // Each link of a page leads to something, also where nobody serves it.
    for page in &pages {
        for target in links(page) {
            assert!(target.is_file(), "{} leads to {}", page.display(), target.display());
        }
    }
    let seen = std::fs::read_to_string(site.join("browse/hello/index.html")).unwrap();
    for said in
        ["/mcp/hello/run", "npm:lodash@4.17.20", "security@example.com", "internal", "contract", "mcpfs explain hello"]
    {
        assert!(seen.contains(said), "{said}");
    }
    mcpfs_tests::proof::note("nothing runs");
}

/// Files that a page refers to.
fn links(page: &Path) -> BTreeSet<PathBuf> {
    let text = std::fs::read_to_string(page).unwrap();
    let targets = text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let local = targets.filter(|target| !target.starts_with('#') && !target.starts_with("https://"));
    local.map(|target| page.parent().unwrap().join(target.replace("%2B", "+"))).collect()
}

fn a_bucket_serves_them_by_itself() {
    let (quick, s3) = (Quick::named("demo/shop"), S3::new());
    let place = s3.site("mcp/prod");
    let at = |run: Run| s3.keys(run).args(["--s3-endpoint", &s3.endpoint()]);
    for version in ["1.0.0+r2", "1.1.0"] {
        at(release(&quick, &place, "hello", version, true)).ok();
    }
    for name in ["quiet", "third"] {
        at(release(&quick, &place, name, "1.0.0", false)).ok();
    }
    for (path, content) in [
        ("v0.1/servers", "application/json"),
        ("v0.1/servers/demo.shop%2Fhello/versions", "application/json"),
        ("v0.1/servers/demo.shop%2Fhello/versions/latest", "application/json"),
        ("v0.1/servers/demo.shop%2Fhello/versions/1.0.0%2Br2", "application/json"),
        ("index.html", "text/html; charset=utf-8"),
        ("browse/hello/1.0.0%2Br2.html", "text/html; charset=utf-8"),
        ("deps.json", "application/json"),
    ] {
        let (status, headers, body) = answer(&s3.get(&format!("mcp/prod/{path}")).ok());
        assert!(status.contains("200") && headers.contains(&format!("content-type: {content}")), "{path}: {headers}");
        assert!(headers.contains("cache-control: public, max-age=30"), "{path}: {headers}");
        if path.starts_with("v0.1") {
            let value: Value = serde_json::from_str(&body).unwrap();
            fits(
                &quick,
                if value["servers"].is_array() { "registry-list.json" } else { "registry-server.json" },
                &value,
            );
        }
    }
    // One version more: its server's pages and the lists, and nothing of the other servers.
    let before = s3.requests().len();
    at(release(&quick, &place, "quiet", "1.1.0", false)).ok();
    let prefix = "mcp/prod/";
    let derived =
        |name: &str| ["browse/", "v0.1/", "index.html", "deps.json"].iter().any(|part| name.starts_with(part));
    let written: Vec<String> = s3.written_since(before).into_iter().map(|one| one.name.replace(prefix, "")).collect();
    let pages: Vec<&String> = written.iter().filter(|name| derived(name)).collect();
    assert_eq!(pages.len(), 10, "{pages:?}");
    assert!(!pages.iter().any(|name| name.contains("hello") || name.contains("third")), "{pages:?}");
    let of = |what: &str| written.iter().position(|name| name.starts_with(what)).unwrap();
    assert!(of("head.json") < of("browse/"), "pages follow the head: {written:?}");
    // A head that is signed again writes none.
    let before = s3.requests().len();
    at(quick.publishing("publish", &place).arg("--resign")).ok();
    let written = s3.written_since(before);
    assert!(!written.iter().any(|one| derived(&one.name.replace(prefix, ""))), "{written:?}");
    // Collected is nothing of it, and made again it is the same.
    let collected = at(quick.looking(&["gc", "--json", "--grace", "1h"], &place)).ok().json();
    assert_eq!(collected["removed"], serde_json::json!([]));
    let again = at(quick.looking(&["pages", "--json"], &place)).ok().json();
    assert_eq!(again, serde_json::json!({"servers": 3, "files": 0}));
}

fn who_carries_a_package() {
    let quick = Quick::named("demo/shop");
    published(&quick, &quick.site());
    let site = Site::serve(&quick.path("site"));
    let found = |ran: &Ran| -> Vec<String> {
        let all = ran.json();
        all.as_array()
            .unwrap()
            .iter()
            .map(|one| format!("{} {}", one["server"], one["package"]).replace('"', ""))
            .collect()
    };
    let asked = |package: &str, place: &str| quick.signer().args(["deps", package, "--json", "--site", place]);
    let expected = ["hello npm:lodash@4.17.20"];
    for place in [quick.site(), site.url()] {
        let unsigned = asked("lodash", &place).ok().says("not signed");
        assert_eq!(found(&unsigned), expected, "{place}");
        let before = site.requests().len();
        let signed = asked("npm:lodash@4.17.20", &place).arg("--trust").arg(quick.trust()).ok();
        assert_eq!(found(&signed), expected, "{place}");
        let asked_for: Vec<String> = site.requests().into_iter().skip(before).map(|one| one.path).collect();
        assert!(!asked_for.iter().any(|path| path.contains("objects/")), "no tree is read: {asked_for:?}");
        assert!(found(&asked("left-pad", &place).ok()).is_empty());
        let earlier = asked("lodash", &place).arg("--trust").arg(quick.trust()).arg("--all").ok();
        assert_eq!(found(&earlier), expected, "{place}");
    }
    asked("lodash", &quick.site()).arg("--all").exits(2);
    // The index says what its web server likes; the list under the head cannot be changed.
    let index = quick.path("site/deps.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, text.replace("lodash@4.17.20", "lodash@9.9.9")).unwrap();
    assert!(found(&asked("npm:lodash@4.17.20", &site.url()).ok()).is_empty());
    assert_eq!(found(&asked("npm:lodash@4.17.20", &site.url()).arg("--trust").arg(quick.trust()).ok()), expected);
    let details = quick.path("site/details");
    for name in files_below(&details) {
        let file = details.join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("lodash", "l0dash")).unwrap();
    }
    asked("lodash", &site.url()).arg("--trust").arg(quick.trust()).exits(4);
    std::fs::write(&index, "{}").unwrap();
    asked("lodash", &site.url()).exits(1).says("deps.json");
}

/// The audit of a host, joined with what the head vouches for.
fn who_here_uses_a_package() {
    let quick = Quick::named("demo/shop");
    // hello 1.0.0 carries lodash, 1.1.0 does not any more; offered carries it and is started by nobody.
    for (version, lodash) in [("1.0.0", true), ("1.1.0", false)] {
        let tree = fixture::hello_tree(&quick.path("artefacts"), version);
        if lodash {
            std::fs::create_dir(tree.join("node_modules")).unwrap();
            std::fs::write(tree.join("node_modules/.package-lock.json"), LOCK).unwrap();
        }
        let recipe = Recipe::new("hello", version, &fixture::tar(&tree)).with(fixture::HELLO_LAUNCH);
        // The second one was tried out: its page tells the tools that were met.
        let trial: &[&str] = if version == "1.1.0" { &["--run"] } else { &[] };
        quick.release(&quick.recipe_of(&recipe), &quick.site()).args(trial).ok();
        let page = std::fs::read_to_string(quick.path(&format!("site/browse/hello/{version}.html"))).unwrap();
        assert_eq!(page.contains("Gives the message back"), version == "1.1.0");
        if version == "1.0.0" {
            release(&quick, &quick.site(), "offered", "1.0.0", true).ok();
        }
    }
    let mut site = Site::serve(&quick.path("site"));
    let host = Host::new(&quick.trust(), &site.url(), Reads::Cached);
    let mount = Mount::start(&host);
    let asked = |more: &[&str]| host.mcpfs(["audit", "who-uses", "--json"]).args(more);
    let found = |ran: &Ran| -> Vec<(String, String, Value)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let answer = ran.json();
        let all = answer["found"].as_array().unwrap().iter();
        all.map(|one| (text(&one["server"]), text(&one["version"]), one["launches"].clone())).collect()
    };
    assert!(found(&asked(&["lodash"]).ok()).is_empty(), "nobody has started anything");
    McpClient::start(&host.at("hello/run")).initialize();
    assert!(found(&asked(&["lodash"]).ok()).is_empty(), "1.1.0 does not carry it");
    for _ in 0..2 {
        McpClient::start(&host.at("hello/1.0.0/run")).initialize();
    }
    let hello = ("hello".to_owned(), "1.0.0".to_owned(), Value::from(2));
    assert_eq!(found(&asked(&["npm:lodash@4.17.20"]).ok()), std::slice::from_ref(&hello));
    assert!(found(&asked(&["npm:lodash@4.17.21"]).ok()).is_empty());
    let offered = ("offered".to_owned(), "1.0.0".to_owned(), Value::Null);
    assert_eq!(found(&asked(&["lodash", "--offered"]).ok()), [hello, offered]);
    host.mcpfs(["audit", "who-uses", "lodash"]).ok().says("hello 1.0.0  active  npm:lodash@4.17.20").says("2 launches");
    // Revoked in the meantime: who ran it is the question then.
    quick.publishing("revoke", &quick.site()).arg("--publish").args(["hello@1.0.0", "--reason", "GHSA-35jh"]).ok();
    assert_eq!(asked(&["lodash"]).ok().json()["found"][0]["status"], "revoked");
    // The unsigned index says something else: nobody here reads it.
    let index = quick.path("site/deps.json");
    std::fs::write(&index, std::fs::read_to_string(&index).unwrap().replace("lodash", "l0dash")).unwrap();
    assert_eq!(found(&asked(&["lodash"]).ok()).len(), 1);
    // Details that are not what the entry names are no answer, and are said to be none.
    let details = quick.path("site/details");
    for name in files_below(&details) {
        let file = details.join(name);
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("lodash", "l0dash")).unwrap();
    }
    let ran = asked(&["lodash"]).ok();
    assert!(found(&ran).is_empty(), "{ran}");
    let unknown = ran.json()["unknown"].clone();
    assert_eq!((unknown.as_array().unwrap().len(), &unknown[0]["server"]), (1, &Value::from("hello")), "{unknown}");
    assert!(unknown[0]["why"].as_str().unwrap().contains("DigestMismatch"), "{unknown}");
    host.mcpfs(["audit", "who-uses", "gem:rails"]).exits(2).says("npm, pypi, cargo, go");
    // Without the site there is no answer at all, and that is what is said.
    site.stop();
    asked(&["lodash"]).exits(3).says("does not know what releases carry");
    mount.stop();
}
