//! Known vulnerabilities: by pinned snapshots without a network, and by the programs of the
//! ecosystems, which ask a service.

use std::path::{Path, PathBuf};

use mcpfs_tests::advisories::{AdvisoryService, Answer, advisory, snapshot};
use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::suite::Suite;
use mcpfs_tests::{scratch, servers};
use serde_json::{Value, json};

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("advisories::a_vulnerable_server_is_not_released", a_vulnerable_server_is_not_released);
    suite.plain("advisories::a_snapshot_must_be_relied_on", a_snapshot_must_be_relied_on);
    suite.plain("advisories::npm_audit_is_asked", npm_audit_is_asked);
    suite.plain("advisories::pip_audit_is_asked", pip_audit_is_asked);
    suite.plain("advisories::reports_fit_their_schemas", reports_fit_their_schemas);
    suite.plain("advisories::servers_with_a_package_are_found", servers_with_a_package_are_found);
    suite.plain("advisories::programs_say_what_they_are_built_from", programs_say_what_they_are_built_from);
}

fn beside(registry: &Registry, name: &str) -> PathBuf {
    registry.site().with_file_name(name)
}

fn check(registry: &Registry, name: &str) -> Run {
    registry.signer().arg("check").arg(registry.recipe(name)).arg("--file-root").arg(registry.artefacts())
}

fn policy(registry: &Registry, text: &str) {
    std::fs::write(beside(registry, "policy.yaml"), text).unwrap();
}

fn waive(registry: &Registry, server: &str, subject: &str, expires: &str) {
    let text = format!(
        "waivers:\n  - rule: vulnerability\n    server: {server}\n    subject: \"{subject}\"\n    \
         reason: the server never parses what strangers send\n    by: security@example.com\n    expires: {expires}\n"
    );
    std::fs::write(beside(registry, "waivers.yaml"), text).unwrap();
}

fn a_vulnerable_server_is_not_released() {
    let registry = Registry::new();
    let recipe = servers::everything_recipe(&registry);
    std::fs::write(registry.recipe("everything"), recipe.yaml()).unwrap();
    let known = [
        advisory("GHSA-aaaa-bbbb-cccc", "npm", "qs", "6.17.2", "HIGH"),
        advisory("GHSA-dddd-eeee-ffff", "npm", "qs", "6.17.1", "CRITICAL"),
        advisory("GHSA-gggg-hhhh-jjjj", "npm", "zod", "9.0.0", "LOW"),
    ];
    let file = snapshot(&beside(&registry, "all.zip"), &known);
    let pin = fixture::sha256_of(&file);
    policy(&registry, &format!("vulnerabilities: {{snapshots: [{pin}], deny: [critical, high]}}\n"));
    let release = || registry.release_command("everything").arg("--osv").arg(&file);

    // Refused with package, version, id and what mends it; nothing is signed.
    let subject = "GHSA-aaaa-bbbb-cccc npm:qs@6.17.1";
    let ran = release().exits(1).says(&format!("{subject}: high, fixed in 6.17.2: Something in qs goes wrong"));
    assert!(ran.text().contains("fix: use 6.17.2 or later, or ask for a waiver of"), "{ran}");
    assert!(!ran.text().contains("GHSA-dddd"), "6.17.1 has what mends it: {ran}");
    assert!(ran.text().contains("warning L14 GHSA-gggg-hhhh-jjjj npm:zod@4.6.7: low, fixed in 9.0.0"), "{ran}");
    assert!(!registry.site().join("head.json").exists());
    // Without the snapshot that the policy names, too.
    registry.release_command("everything").exits(1).says("the policy names this snapshot, and it was not read");

    // In each form of the report.
    let report = check(&registry, "everything").arg("--osv").arg(&file).arg("--json").exits(1).json();
    assert_eq!(report["vulnerabilities"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(
        report["vulnerabilities"][0],
        json!({"level": "high", "package": "npm:qs@6.17.1", "advisory": "GHSA-aaaa-bbbb-cccc",
            "aliases": ["CVE-2026-23337"], "fixed": "6.17.2", "summary": "Something in qs goes wrong"})
    );
    assert!(report["sources"].to_string().contains(&format!("advisories sha256:{pin} (3 npm up to 2026-11-20)")));
    let comment = check(&registry, "everything").arg("--osv").arg(&file).args(["--format", "markdown"]).exits(1);
    assert!(comment.stdout.contains("- **Known vulnerabilities:** 2 (1 high, 1 low)\n"), "{comment}");
    assert!(
        comment.stdout.contains("- `GHSA-aaaa-bbbb-cccc npm:qs@6.17.1` (line 14, rule `vulnerability`): `high, "),
        "{comment}"
    );

    // A waiver of another advisory helps nothing; one of this helps until its day.
    waive(&registry, "everything", "GHSA-dddd-eeee-ffff *", "2199-12-31");
    release().exits(1).says(subject).says("[waiver-unused]");
    waive(&registry, "everything", subject, "2020-01-01");
    release().exits(1).says(subject).says("[waiver-expired]");
    waive(&registry, "everything", subject, "2199-12-31");
    let staging = beside(&registry, "staging");
    check(&registry, "everything").arg("--osv").arg(&file).arg("--staging").arg(&staging).ok().says("1 waived");
    // The host with the key has no network and no snapshot but the one in staging.
    std::fs::remove_file(&file).unwrap();
    let publish = || {
        let publish = registry.publishing("publish").arg("--staging").arg(&staging);
        let publish = publish.arg("--key").arg(registry.hsm().uri(RELEASE_KEY));
        publish
            .arg("--policy")
            .arg(beside(&registry, "policy.yaml"))
            .arg("--waivers")
            .arg(beside(&registry, "waivers.yaml"))
    };
    let kept = staging.join("snapshots").join(&pin);
    let bytes = std::fs::read(&kept).unwrap();
    std::fs::write(&kept, &bytes[1..]).unwrap();
    publish().exits(1).says("has another content");
    assert!(!registry.site().join("head.json").exists());
    std::fs::write(&kept, &bytes).unwrap();
    publish().ok();
    assert!(registry.site().join("head.json").exists());
}

/// A recipe of `deps`, whose artefact carries these packages.
fn carrying(registry: &Registry, npm: &[(&str, &str)], pypi: &[(&str, &str)]) {
    let folder = registry.artefacts().join("deps");
    let _none = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    if !npm.is_empty() {
        let modules = folder.join("node_modules");
        for (name, _) in npm {
            std::fs::create_dir_all(modules.join(name)).unwrap();
            std::fs::write(modules.join(name).join("package.json"), "{}").unwrap();
        }
        let listed = npm.iter().map(|(name, version)| (format!("node_modules/{name}"), json!({"version": version})));
        let lock = json!({"lockfileVersion": 3, "packages": listed.collect::<serde_json::Map<String, Value>>()});
        std::fs::write(modules.join(".package-lock.json"), lock.to_string()).unwrap();
    }
    for (name, version) in pypi {
        let info = folder.join(format!("{name}-{version}.dist-info"));
        std::fs::create_dir_all(&info).unwrap();
        std::fs::write(info.join("METADATA"), format!("Name: {name}\nVersion: {version}\n")).unwrap();
    }
    std::fs::write(folder.join("server"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(folder.join("server"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    save(registry, &folder, "");
}

fn save(registry: &Registry, folder: &Path, more: &str) {
    let recipe = Recipe::new("deps", "1.0.0", &fixture::tar(folder)).with("launch: {command: server}\n").with(more);
    std::fs::write(registry.recipe("deps"), recipe.yaml()).unwrap();
}

fn a_snapshot_must_be_relied_on() {
    let registry = Registry::new();
    carrying(&registry, &[("lodash", "4.17.20")], &[]);
    let file = beside(&registry, "all.zip");
    let lodash = advisory("GHSA-35jh-r3h4-6jhm", "npm", "lodash", "4.17.21", "HIGH");
    let with = |pin: &str| check(&registry, "deps").arg("--osv").arg(&file).args(["--osv-sha256", pin]);
    let pinned = |advisories: &[Value]| with(&fixture::sha256_of(&snapshot(&file, advisories)));
    pinned(std::slice::from_ref(&lodash))
        .exits(1)
        .says("GHSA-35jh-r3h4-6jhm npm:lodash@4.17.20: high, fixed in 4.17.21");
    // Unpinned, and another one.
    let sha256 = fixture::sha256_of(&file);
    check(&registry, "deps")
        .arg("--osv")
        .arg(&file)
        .exits(1)
        .says(&format!("has SHA-256 {sha256}, which nothing pins"));
    with(&"0".repeat(64)).exits(1).says("which nothing pins").says("[advisories-snapshot]");
    // Empty, of another ecosystem, old, garbled, cut off.
    pinned(&[]).exits(1).says("holds no advisory").says("[advisories-uncovered]");
    pinned(&[advisory("PYSEC-2026-1", "PyPI", "x", "1.0", "LOW")]).exits(1).says("[advisories-uncovered]");
    policy(&registry, "vulnerabilities: {max_age_days: 30, deny: [critical]}\n");
    let mut old = lodash.clone();
    old["modified"] = json!("2020-01-01T00:00:00Z");
    pinned(&[old]).exits(1).says("npm: what was asked is of 2020-01-01").says("the policy allows 30");
    let mut garbled = lodash;
    garbled["affected"][0]["ranges"] = json!("none");
    pinned(&[garbled]).exits(1).says("GHSA-35jh-r3h4-6jhm.json is not an advisory in OSV format");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 30]).unwrap();
    with(&fixture::sha256_of(&file)).exits(1).says("[advisories-snapshot]");
    // A policy that asks for look-ups is not met by silence.
    check(&registry, "deps").exits(1).says("npm: 1 packages, and nothing that was asked knows their advisories");
}

/// A home whose npmrc names the service.
fn home(registry: &Registry, service: &AdvisoryService) -> PathBuf {
    let home = beside(registry, "home");
    std::fs::create_dir_all(&home).unwrap();
    // Without retries, which would wait for half a minute each.
    std::fs::write(home.join(".npmrc"), format!("registry={}\nfetch-retries=0\n", service.url())).unwrap();
    home
}

fn npm_audit_is_asked() {
    scratch::need("npm", "npm");
    let registry = Registry::new();
    carrying(&registry, &[("lodash", "4.17.20"), ("@scope/other", "1.0.0")], &[]);
    let lodash = advisory("GHSA-35jh-r3h4-6jhm", "npm", "lodash", "4.17.21", "HIGH");
    let ask = |answer, known: &[Value]| -> Ran {
        let service = AdvisoryService::of(known, answer);
        let asking = check(&registry, "deps").args(["--audit", "npm", "--audit-timeout", "60"]);
        asking.env("HOME", home(&registry, &service)).env("NODE_OPTIONS", "--no-such-option").run()
    };
    let hit = ask(Answer::Honest, std::slice::from_ref(&lodash));
    assert_eq!(hit.code, 1, "{hit}");
    let hit =
        hit.says("GHSA-35jh-r3h4-6jhm npm:lodash@4.17.20: high, fixed in 4.17.21: Something in lodash goes wrong");
    assert!(hit.stdout.contains("known vulnerabilities: 1 (1 high)"), "{hit}");
    let clean = ask(Answer::Honest, &[]);
    assert!(clean.code == 0 && clean.stdout.contains("known vulnerabilities: none"), "{clean}");
    for answer in [Answer::Failed, Answer::Portal] {
        let ran = ask(answer, &[]).says("npm audit: npm audit ").says("[advisories-unknown]");
        assert!(ran.code == 1 && ran.stdout.contains("known vulnerabilities: not all could be looked up"), "{ran}");
    }
    // The service takes the request and never answers.
    let service = AdvisoryService::of(&[], Answer::Silence);
    let asking = || check(&registry, "deps").env("HOME", home(&registry, &service)).args(["--audit", "npm"]);
    asking()
        .args(["--audit-timeout", "3"])
        .exits(1)
        .says("npm did not end within 3 seconds")
        .says("[advisories-unknown]");
    // Nobody listens there any more.
    let gone = home(&registry, &AdvisoryService::of(&[], Answer::Honest));
    let ran = check(&registry, "deps").args(["--audit", "npm"]).env("HOME", gone).exits(1);
    assert!(ran.stdout.contains("npm audit could not look it up"), "{ran}");
    // No npm: the package to install.
    let ran = check(&registry, "deps").args(["--audit", "npm"]).env("PATH", "/nonexistent").exits(1);
    assert!(ran.stdout.contains("npm cannot be started") && ran.stdout.contains("install npm"), "{ran}");

    // The policy may demand it; what was answered is carried to the signer, who asks nobody.
    policy(&registry, "require: [audit-npm]\nvulnerabilities: {max_age_days: 1}\n");
    let staging = beside(&registry, "staging");
    let service = AdvisoryService::of(&[], Answer::Honest);
    let stage = check(&registry, "deps").arg("--staging").arg(&staging).env("HOME", home(&registry, &service));
    let staged = stage.arg("--json").ok().json();
    let record = staged["record"].as_str().unwrap();
    assert!(staged["sources"].to_string().contains("npm audit of "), "{staged}");
    drop(service);
    let publish = || {
        let publish = registry.publishing("publish").arg("--staging").arg(&staging);
        let publish = publish.arg("--policy").arg(beside(&registry, "policy.yaml")).args(["--record", record]);
        publish.arg("--key").arg(registry.hsm().uri(RELEASE_KEY)).env("PATH", "/nonexistent")
    };
    let answers = staging.join("advisories.json");
    let text = std::fs::read_to_string(&answers).unwrap();
    std::fs::remove_file(&answers).unwrap();
    publish().exits(1).says("names other look-ups of advisories than staging holds");
    std::fs::write(
        &answers,
        text.replace("\"packages\": 2", "\"packages\": 1").replace("\"packages\":2", "\"packages\":1"),
    )
    .unwrap();
    publish().exits(1).says("npm audit was asked about other packages");
    std::fs::write(&answers, text).unwrap();
    publish().ok();
}

fn pip_audit_is_asked() {
    let registry = Registry::new();
    let bin = servers::pip_audit(&beside(&registry, "tools"));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    carrying(&registry, &[], &[("Jinja2", "3.1.2"), ("idna", "3.7")]);
    let jinja = advisory("GHSA-h5c8-rqwp-cp95", "PyPI", "jinja2", "3.1.3", "MODERATE");
    let asking = |url: &str| {
        let asking = check(&registry, "deps").args(["--audit", "pypi", "--audit-osv-url", url]);
        asking.env("PATH", &path).env("HOME", beside(&registry, "home"))
    };
    let ask = |answer, known: &[Value]| -> Ran {
        let service = AdvisoryService::of(known, answer);
        asking(&service.osv_url()).run()
    };
    // It does not tell severities: what nobody has rated is refused.
    let hit = ask(Answer::Honest, std::slice::from_ref(&jinja));
    assert_eq!(hit.code, 1, "{hit}");
    let hit =
        hit.says(" pypi:Jinja2@3.1.2: unrated, fixed in 3.1.3").says("GHSA-h5c8-rqwp-cp95").says("CVE-2026-23337");
    assert!(hit.stdout.contains("known vulnerabilities: 1 (1 unrated)"), "{hit}");
    let clean = ask(Answer::Honest, &[]);
    assert!(clean.code == 0 && clean.stdout.contains("known vulnerabilities: none"), "{clean}");
    for answer in [Answer::Failed, Answer::Portal] {
        let ran = ask(answer, &[]).says("pip-audit could not look it up").says("[advisories-unknown]");
        assert_eq!(ran.code, 1, "{ran}");
    }
    let silent = AdvisoryService::of(&[], Answer::Silence);
    let ran = asking(&silent.osv_url()).args(["--audit-timeout", "5"]).exits(1);
    assert!(ran.stdout.contains("pip-audit did not end within 5 seconds"), "{ran}");
    // The API of PyPI itself, which is not there: no answer is no clean answer.
    let closed = format!("http://127.0.0.1:{}", scratch::Port::reserve().number());
    let pypi = check(&registry, "deps").args(["--audit", "pypi"]).env("PATH", &path).env("HTTPS_PROXY", closed);
    pypi.env("HOME", beside(&registry, "home")).exits(1).says("[advisories-unknown]");
    let without = check(&registry, "deps").args(["--audit", "pypi"]).env("PATH", "/nonexistent").exits(1);
    assert!(without.stdout.contains("install pip-audit from PyPI"), "{without}");
}

fn programs_say_what_they_are_built_from() {
    let registry = Registry::new();
    let (go, rust) = servers::built();
    let folder = registry.artefacts().join("deps");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(go, folder.join("server")).unwrap();
    std::fs::copy(rust, folder.join("helper.bin")).unwrap();
    save(&registry, &folder, "");
    let file = snapshot(
        &beside(&registry, "all.zip"),
        &[
            advisory("GO-2026-0001", "Go", "golang.org/x/sys", "0.90.0", "HIGH"),
            advisory("GO-2026-0002", "Go", "stdlib", "1.99.0", "HIGH"),
            advisory("RUSTSEC-2026-0001", "crates.io", "tokio", "9.0.0", "HIGH"),
        ],
    );
    let pin = fixture::sha256_of(&file);
    let ran = check(&registry, "deps").arg("--osv").arg(&file).args(["--osv-sha256", &pin]).arg("--json").exits(1);
    let report = ran.json();
    let packages = report["dependencies"][0]["packages"].as_array().unwrap();
    let of = |ecosystem: &str| packages.iter().filter(|one| one["ecosystem"] == ecosystem).count();
    assert_eq!(of("go"), 2, "esbuild needs golang.org/x/sys and Go itself: {report}");
    assert!(of("cargo") > 100, "uv has hundreds of crates: {report}");
    let found: Vec<&str> =
        report["vulnerabilities"].as_array().unwrap().iter().map(|one| one["advisory"].as_str().unwrap()).collect();
    assert_eq!(found, ["RUSTSEC-2026-0001", "GO-2026-0001", "GO-2026-0002"], "{}", report["vulnerabilities"]);
}

fn reports_fit_their_schemas() {
    let registry = Registry::new();
    carrying(&registry, &[("lodash", "4.17.20"), ("zod", "4.0.0")], &[("Jinja2", "3.1.2")]);
    registry.release_command("deps").ok();
    // With an error, a warning, one that is waived, changes, and names that need escaping.
    carrying(&registry, &[("lodash", "4.17.20"), ("zod", "4.1.0")], &[("Jinja2", "3.1.2")]);
    std::fs::write(registry.artefacts().join("deps/100% [a](b) \"c\"\u{202e}.txt"), "").unwrap();
    save(&registry, &registry.artefacts().join("deps"), "");
    let known = [
        advisory("GHSA-35jh-r3h4-6jhm", "npm", "lodash", "4.17.21", "HIGH"),
        advisory("GHSA-gggg-hhhh-jjjj", "npm", "zod", "9.0.0", "LOW"),
        advisory("GHSA-h5c8-rqwp-cp95", "PyPI", "jinja2", "3.1.3", "CRITICAL"),
    ];
    let file = snapshot(&beside(&registry, "all.zip"), &known);
    waive(&registry, "deps", "GHSA-35jh-r3h4-6jhm npm:lodash@*", "2199-12-31");
    let report = |format: &str, out: &str| {
        let out = beside(&registry, out);
        let check = check(&registry, "deps").arg("--site").arg(registry.site()).arg("--trust").arg(registry.trust());
        let check = check.arg("--osv").arg(&file).args(["--osv-sha256", &fixture::sha256_of(&file)]);
        check.args(["--format", format, "--out"]).arg(&out).exits(1);
        out
    };
    let sarif = report("sarif", "check.sarif");
    assert_eq!(servers::schema_errors(&servers::sarif_schema(), &sarif), "");
    let log: Value = serde_json::from_slice(&std::fs::read(&sarif).unwrap()).unwrap();
    let schema: Value = serde_json::from_slice(&std::fs::read(servers::sarif_schema()).unwrap()).unwrap();
    assert_eq!(log["$schema"], schema["id"], "it names the schema that it fits");
    let results = log["runs"][0]["results"].as_array().unwrap();
    let rules: Vec<&str> = results.iter().map(|one| one["ruleId"].as_str().unwrap()).collect();
    for rule in ["vulnerability", "vulnerability-lesser", "name-bidi"] {
        assert!(rules.contains(&rule), "{rules:?}");
    }
    assert!(results.iter().any(|one| one["suppressions"][0]["status"] == "accepted"), "{log}");
    // The validator would have said so.
    let broken = beside(&registry, "broken.sarif");
    std::fs::write(&broken, log.to_string().replace("\"startLine\":", "\"startline\":")).unwrap();
    assert!(servers::schema_errors(&servers::sarif_schema(), &broken).contains("startline"));

    let json = report("json", "check.json");
    let schema = beside(&registry, "report.schema.json");
    std::fs::write(&schema, registry.signer().args(["schema", "report"]).ok().stdout).unwrap();
    assert_eq!(servers::schema_errors(&schema, &json), "");
    let value: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    for field in ["findings", "passed", "sources", "dependencies", "vulnerabilities", "changes"] {
        assert!(value.get(field).is_some(), "{field} is not in this report: {value}");
    }
    let broken = beside(&registry, "broken.json");
    std::fs::write(&broken, value.to_string().replace("\"level\":\"high\"", "\"level\":\"bad\"")).unwrap();
    assert!(servers::schema_errors(&schema, &broken).contains("bad"));
}

fn servers_with_a_package_are_found() {
    let registry = Registry::new();
    carrying(&registry, &[("lodash", "4.17.20")], &[("Jinja2", "3.1.2")]);
    registry.release_command("deps").ok();
    registry.release(&registry.hello("1.0.0"));
    let deps = |package: &str| {
        let deps = registry.signer().args(["deps", package]).arg("--site").arg(registry.site());
        deps.arg("--trust").arg(registry.trust())
    };
    assert_eq!(deps("lodash").ok().stdout, "* deps 1.0.0  active  npm:lodash@4.17.20  (any)\n");
    assert_eq!(deps("pypi:jinja2@3.1.2").arg("--json").ok().json()[0]["package"], "pypi:Jinja2@3.1.2");
    for none in ["lodash@4.17.21", "pypi:lodash", "nothing"] {
        deps(none).ok().says("no selected release of this site carries it");
    }
    // Another version is selected now: the older one is found when all are asked for.
    let folder = registry.artefacts().join("deps");
    std::fs::remove_dir_all(folder.join("node_modules")).unwrap();
    let recipe = Recipe::new("deps", "1.1.0", &fixture::tar(&folder)).with("launch: {command: server}\n");
    registry.release(&recipe);
    deps("lodash").ok().says("no selected release");
    registry.publishing("yank").arg("--publish").args(["deps@1.0.0", "--reason", "CVE-2021-23337"]).ok();
    assert_eq!(deps("lodash").arg("--all").ok().stdout, "  deps 1.0.0  yanked  npm:lodash@4.17.20  (any)\n");
    deps("gem:rails").exits(2).says("is not one of: npm, pypi, cargo, go");
    // A site that cannot be read carries nothing that anybody knows of.
    let details = registry.site().join("details");
    std::fs::rename(&details, registry.site().join("elsewhere")).unwrap();
    assert_ne!(deps("lodash").run().code, 0);
}
