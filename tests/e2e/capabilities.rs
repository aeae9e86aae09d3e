//! What code can do, told of a release and compared with the published one.

use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::servers;
use mcpfs_tests::suite::Suite;
use serde_json::json;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("capabilities::what_came_with_a_version_is_shown", what_came_with_a_version_is_shown);
    suite.plain("capabilities::of_a_real_server", of_a_real_server);
}

/// Writes a recipe of `padded`: its own script, and one package whose code is `pad`.
fn padded(registry: &Registry, version: &str, pad: &str, more: &str) {
    let folder = registry.artefacts().join("padded");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("node_modules/left-pad")).unwrap();
    std::fs::write(folder.join("main.js"), "// fetch(nothing)\nrequire('left-pad')\n").unwrap();
    std::fs::write(folder.join("node_modules/left-pad/index.js"), pad).unwrap();
    let lock = r#"{"packages": {"node_modules/left-pad": {"version": "1.0.0", "license": "MIT"}}}"#;
    std::fs::write(folder.join("node_modules/.package-lock.json"), lock).unwrap();
    let out = registry.site().with_file_name("padded.tar");
    let bundled = registry.signer().arg("--json").arg("bundle").arg(&folder).arg("--out").arg(out).ok().json();
    let text = format!(
        "name: padded\nversion: {version}\nmaintainer: m@example.com\ndescription: pads\n\
         data_classification: public\nreviewed_at: 2026-04-15\nreviewers: [r@example.com]\n\
         artefact: {{url: 'file:padded', sha256: {}}}\nlaunch: {{command: node, args: ['${{TREE}}/main.js']}}\n{more}",
        bundled["sha256"].as_str().unwrap()
    );
    std::fs::write(registry.recipe("padded"), text).unwrap();
}

fn what_came_with_a_version_is_shown() {
    let registry = Registry::new();
    std::fs::create_dir_all(registry.site()).unwrap();
    let check = || {
        let run = registry.signer().arg("check").arg(registry.recipe("padded"));
        let run = run.arg("--file-root").arg(registry.artefacts());
        run.arg("--site").arg(registry.site()).arg("--trust").arg(registry.trust())
    };
    let plain = "module.exports = s => ' ' + s\nif (process.env.PAD) module.exports = 0\n";
    padded(&registry, "1.0.0", plain, "");
    check().ok().says("its code uses environment (npm:left-pad) [capability-first]");
    registry.release_command("padded").ok();

    // The same capabilities in another file and line are nothing new.
    padded(&registry, "1.0.1", &format!("\n\n{plain}"), "");
    let same = check().arg("--json").ok().json();
    assert_eq!(same["changes"]["platforms"][0]["capabilities_added"]["count"], 0, "{same}");
    assert_eq!(same["findings"], json!([]));

    // A padding that starts programs.
    let evil = format!("{plain}require('child_process').exec('id')\n");
    padded(&registry, "1.1.0", &evil, "sandbox: {network: none}\n");
    let evidence = "node_modules/left-pad/index.js:3 child_process";
    let told = format!("npm:left-pad exec: came with this version: {evidence} [capability-new]");
    check().ok().says(&told);
    let found = check().arg("--json").ok().json();
    let added = &found["changes"]["platforms"][0]["capabilities_added"];
    assert_eq!(
        *added,
        json!({"count": 1, "first": [{
            "package": "npm:left-pad",
            "capability": "exec",
            "evidence": {"file": "node_modules/left-pad/index.js", "line": 3, "marker": "child_process"},
        }]})
    );
    assert_eq!(found["capabilities"][0]["platform"], "any");
    assert_eq!(found["capabilities"][0]["packages"]["npm:left-pad"]["exec"]["line"], 3);
    let comment = check().args(["--format", "markdown"]).ok();
    comment.says(&format!("New capabilities: `npm:left-pad exec ({evidence})`"));

    // A waiver of what only the comparison shows travels with the staging, to a host without the site.
    let beside = |name: &str| registry.site().with_file_name(name);
    let waiver = "waivers:\n  - rule: capability-new\n    server: padded\n    subject: npm:left-pad exec\n    \
                  reason: it asks who runs it\n    by: security@example.com\n    expires: 2199-12-31\n";
    std::fs::write(beside("waivers.yaml"), waiver).unwrap();
    std::fs::write(beside("policy.yaml"), "severity: {capability-new: error}\n").unwrap();
    let staged = check().args(["--format", "json"]).arg("--staging").arg(beside("staging")).ok().json();
    assert!(staged.to_string().contains("until 2199-12-31"), "{staged}");
    let publish = || {
        let run = registry.publishing("publish").arg("--staging").arg(beside("staging"));
        let run = run.args(["--record", staged["record"].as_str().unwrap()]);
        let run = run.arg("--policy").arg(beside("policy.yaml")).arg("--waivers").arg(beside("waivers.yaml"));
        run.arg("--key").arg(registry.hsm().uri(RELEASE_KEY))
    };
    let findings = beside("staging").join("findings.json");
    let whole = std::fs::read_to_string(&findings).unwrap();
    std::fs::write(&findings, whole.replace("npm:left-pad", "npm:right-pad")).unwrap();
    publish().exits(1).says("staging does not fit");
    std::fs::write(&findings, whole).unwrap();
    publish().ok();

    // What is declared closed is asked about the network.
    padded(&registry, "1.2.0", "fetch('https://example.com')", "sandbox: {network: none}\n");
    std::fs::remove_file(beside("policy.yaml")).unwrap();
    std::fs::remove_file(beside("waivers.yaml")).unwrap();
    check().ok().says("npm:left-pad (node_modules/left-pad/index.js:1 fetch) [capability-undeclared]");
    check().ok().says("capability gone: npm:left-pad exec");
}

fn of_a_real_server() {
    let registry = Registry::new();
    let recipe = servers::everything_recipe(&registry);
    std::fs::write(registry.recipe("everything"), recipe.yaml()).unwrap();
    let run = registry.signer().arg("check").arg(registry.recipe("everything"));
    let found = run.arg("--file-root").arg(registry.artefacts()).arg("--json").ok().json();
    let packages = &found["capabilities"][0]["packages"];
    assert_eq!(found["capabilities"][0]["unread"], serde_json::Value::Null);
    for (package, capability) in [
        ("npm:express", "network"),
        ("npm:cross-spawn", "exec"),
        ("npm:@modelcontextprotocol/server-everything", "network"),
        ("npm:@modelcontextprotocol/server-everything", "environment"),
        ("npm:ajv", "eval"),
    ] {
        let evidence = &packages[package][capability];
        assert!(evidence["line"].as_u64().is_some_and(|line| line > 0), "{package} {capability}: {packages:#}");
    }
    assert_eq!(packages["npm:ms"], serde_json::Value::Null, "{packages:#}");
}
