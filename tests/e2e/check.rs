//! What a reviewer reads before anything is signed.

use mcpfs_tests::command::Run;
use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::suite::{Attack, Suite};
use serde_json::Value;

use crate::boundary::SIGNING_HOST;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("check::a_pull_request_is_told_what_changed", a_pull_request_is_told_what_changed);
    suite.plain("check::policy_and_waivers_bind_the_signer", policy_and_waivers_bind_the_signer);
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "check::what_signing_cannot_see_is_bound_by_the_record",
            "a record of a check that was never made, where the policy rests on what signing cannot compute again: its digest tells",
            &["exit 1", "edited on the way"],
        ),
        what_signing_cannot_see_is_bound_by_the_record,
    );
    suite.plain("check::dependencies_are_compared", dependencies_are_compared);
}

/// `check` of hello's recipe.
fn check(registry: &Registry) -> Run {
    registry.signer().arg("check").arg(registry.recipe("hello")).arg("--file-root").arg(registry.artefacts())
}

/// The same, compared with the site.
fn compared(registry: &Registry) -> Run {
    check(registry).arg("--site").arg(registry.site()).arg("--trust").arg(registry.trust())
}

fn a_pull_request_is_told_what_changed() {
    let registry = Registry::new();
    std::fs::create_dir_all(registry.site()).unwrap();
    std::fs::write(registry.recipe("hello"), registry.hello("1.0.0").yaml()).unwrap();
    compared(&registry).ok().says("changes: the server is new");
    registry.release(&registry.hello("1.0.0"));

    // The next version, with another file and another description.
    let yaml = registry.hello("1.1.0").yaml().replace("description: ", "description: Also ");
    std::fs::write(registry.recipe("hello"), yaml).unwrap();
    let comment = registry.site().with_file_name("comment.md");
    let ran = compared(&registry).args(["--format", "markdown", "--out"]).arg(&comment).ok();
    assert!(ran.stdout.starts_with("check: ") && ran.stdout.contains("changes since 1.0.0"), "{ran}");
    let comment = std::fs::read_to_string(comment).unwrap();
    assert!(comment.starts_with("## mcpfs check: passed\n"), "{comment}");
    assert!(comment.contains("### Changes since version `1.0.0`"), "{comment}");
    assert!(comment.contains("- `description`: `"), "{comment}");
    let changes = compared(&registry).arg("--json").ok().json();
    assert_eq!(changes["changes"]["previous"]["version"], "1.0.0");
    assert_eq!(changes["changes"]["published_already"], false);
    assert_eq!(changes["changes"]["platforms"][0]["platform"], "any");
    let differ = &changes["changes"]["platforms"][0];
    let count = |list: &str| differ[list]["count"].as_u64().unwrap();
    assert!(count("added") + count("removed") + count("changed") > 0, "{differ}");
    let log: Value = compared(&registry).args(["--format", "sarif"]).ok().json();
    assert_eq!(log["version"], "2.1.0");

    // The published version again, and one that pretends to be it.
    std::fs::write(registry.recipe("hello"), registry.hello("1.0.0").yaml()).unwrap();
    compared(&registry).ok().says("published already");

    // A site that cannot be read, or is somebody else's, is never "nothing changed".
    let elsewhere = registry.site().with_file_name("elsewhere");
    check(&registry).arg("--site").arg(&elsewhere).arg("--trust").arg(registry.trust()).exits(1).says("[published]");
    let head = registry.site().join("head.json");
    let signed = std::fs::read_to_string(&head).unwrap();
    std::fs::write(&head, signed.replacen("\"sig\": \"", "\"sig\": \"AAAA", 1)).unwrap();
    assert_ne!(std::fs::read_to_string(&head).unwrap(), signed);
    compared(&registry).exits(1).says("[published]");
    std::fs::write(&head, signed).unwrap();
    compared(&registry).args(["--registry", "mcp.example.com/other"]).exits(2);
    compared(&registry).args(["--json", "--format", "sarif"]).exits(2);
}

fn policy_and_waivers_bind_the_signer() {
    let registry = Registry::new();
    std::fs::write(registry.recipe("hello"), registry.hello("1.0.0").yaml()).unwrap();
    let beside = |name: &str| registry.site().with_file_name(name);
    let (policy, waivers) = (beside("policy.yaml"), beside("waivers.yaml"));
    assert_eq!(registry.recipe("hello").parent().unwrap().parent(), policy.parent());

    // A broken policy, and one that is not met: nothing is signed.
    std::fs::write(&policy, "reviewers:\n  minimun: 2\n").unwrap();
    registry.release_command("hello").exits(1).says("did you mean minimum?");
    std::fs::write(&policy, "reviewers: {minimum: 9}\n").unwrap();
    registry.release_command("hello").exits(1).says("[policy-reviewers]");
    let log: Value = check(&registry).args(["--format", "sarif"]).exits(1).json();
    assert_eq!(log["runs"][0]["results"][0]["ruleId"], "policy-reviewers");
    assert!(!registry.site().join("head.json").exists());

    // Waived, it is staged; the comment shows it, and the host with the key demands the same files.
    let text = "waivers:\n  - rule: policy-reviewers\n    server: hello\n    subject: reviewers\n    \
                reason: nobody else is here\n    by: security@example.com\n    expires: 2199-12-31\n";
    std::fs::write(&waivers, text).unwrap();
    let staging = beside("staging");
    let ran = check(&registry).arg("--staging").arg(&staging).args(["--format", "markdown"]).ok();
    assert!(ran.stdout.contains("#### Waived") && ran.stdout.contains("nobody else is here"), "{ran}");
    let publish = || {
        registry.publishing("publish").arg("--staging").arg(&staging).arg("--key").arg(registry.hsm().uri(RELEASE_KEY))
    };
    // Whoever can write to the folder does not choose the policy.
    publish().exits(2).says("no policy is named");
    publish().arg("--no-policy").exits(1).says("another policy");
    publish().arg("--policy").arg(&policy).exits(1).says("another waivers file");
    std::fs::write(beside("other.yaml"), "reviewers: {minimum: 8}\n").unwrap();
    let other = publish().arg("--policy").arg(beside("other.yaml")).arg("--waivers").arg(&waivers);
    other.exits(1).says("another policy");
    assert!(!registry.site().join("head.json").exists());
    publish().arg("--policy").arg(&policy).arg("--waivers").arg(&waivers).ok();
    assert!(registry.site().join("head.json").exists());
    for of in ["recipe", "policy", "waivers"] {
        assert_eq!(registry.signer().args(["schema", of]).ok().json()["title"], format!("mcpfs {of}"));
    }
}

/// A policy that requires a look signs no folder of which nobody says that it is the checked one.
fn what_signing_cannot_see_is_bound_by_the_record() {
    let registry = Registry::new();
    std::fs::write(registry.recipe("hello"), registry.hello("1.0.0").yaml()).unwrap();
    let beside = |name: &str| registry.site().with_file_name(name);
    let (policy, staging) = (beside("policy.yaml"), beside("staging"));
    let publish = || {
        let run = registry.publishing("publish").arg("--staging").arg(&staging);
        run.arg("--key").arg(registry.hsm().uri(RELEASE_KEY))
    };
    let demanding = || publish().arg("--policy").arg(&policy);
    let stage = |more: &[&str]| check(&registry).args(more).arg("--staging").arg(&staging);

    // A check that does not pass leaves nothing, and publish says so.
    std::fs::write(&policy, "require: [trial]\n").unwrap();
    stage(&[]).exits(1).says("[policy-look]");
    demanding().exits(1).says("holds no release: its check did not pass");
    let absent = registry.publishing("publish").arg("--staging").arg(beside("absent")).arg("--policy").arg(&policy);
    absent.exits(1).says("is not a folder that check --staging left");

    // By hand: a trial that nobody made. The folder agrees with itself.
    std::fs::write(&policy, "review_max_days: 36500\n").unwrap();
    let ran = stage(&["--json"]).ok().json();
    std::fs::write(&policy, "require: [trial]\n").unwrap();
    std::fs::copy(&policy, staging.join("policy.yaml")).unwrap();
    let mut record: Value = serde_json::from_slice(&std::fs::read(staging.join("check.json")).unwrap()).unwrap();
    let made = check(&registry).arg("--run").arg("--staging").arg(beside("tried")).run();
    assert_eq!(made.code, 0, "{made}");
    let genuine: Value = serde_json::from_slice(&std::fs::read(beside("tried").join("check.json")).unwrap()).unwrap();
    for field in ["policy", "sources", "observations"] {
        record[field] = genuine[field].clone();
    }
    record["observations"][0]["result"] = Value::from("0".repeat(64));
    std::fs::write(staging.join("check.json"), record.to_string()).unwrap();
    demanding().exits(1).says("by --record");
    demanding().args(["--record", ran["record"].as_str().unwrap()]).exits(1).says("edited on the way");
    assert!(!registry.site().join("head.json").exists());

    // What was checked is signed, by its own digest alone.
    let ran = check(&registry).args(["--run", "--json"]).arg("--staging").arg(&staging).ok().json();
    demanding().exits(1).says("the policy's require rests on what signing does not look at again");
    assert!(!registry.site().join("head.json").exists());
    demanding().args(["--record", ran["record"].as_str().unwrap()]).ok();
    assert!(registry.site().join("head.json").exists());
}

fn dependencies_are_compared() {
    let registry = Registry::new();
    let folder = registry.artefacts().join("deps");
    let modules = folder.join("node_modules");
    let recipe = |version: &str, packages: &[(&str, &str)]| {
        let _ = std::fs::remove_dir_all(&folder);
        for (name, _) in packages {
            std::fs::create_dir_all(modules.join(name)).unwrap();
            std::fs::write(modules.join(name).join("package.json"), "{}").unwrap();
        }
        let listed = packages.iter().map(|(name, version)| {
            format!("\"node_modules/{name}\": {{\"version\": \"{version}\", \"license\": \"MIT\"}}")
        });
        let lock = format!("{{\"packages\": {{{}}}}}", listed.collect::<Vec<_>>().join(","));
        std::fs::write(modules.join(".package-lock.json"), lock).unwrap();
        let out = registry.site().with_file_name("deps.tar");
        let sha256 = registry.signer().arg("--json").arg("bundle").arg(&folder).arg("--out").arg(out).ok().json();
        let text = format!(
            "name: deps\nversion: {version}\nmaintainer: m@example.com\ndescription: has dependencies\n\
             data_classification: public\nreviewed_at: 2026-04-15\nreviewers: [r@example.com]\n\
             artefact: {{url: 'file:deps', sha256: {}}}\nlaunch: {{command: node, args: ['${{TREE}}/x.js']}}\n",
            sha256["sha256"].as_str().unwrap()
        );
        std::fs::write(registry.recipe("deps"), text).unwrap();
    };
    recipe("1.0.0", &[("zod", "4.0.0"), ("gone", "1.0.0"), ("same", "2.0.0")]);
    registry.release_command("deps").ok();
    recipe("1.1.0", &[("zod", "4.1.0"), ("new", "0.0.1"), ("same", "2.0.0")]);
    let check = || {
        let run =
            registry.signer().arg("check").arg(registry.recipe("deps")).arg("--file-root").arg(registry.artefacts());
        run.arg("--site").arg(registry.site()).arg("--trust").arg(registry.trust())
    };
    let found = check().arg("--json").ok().json();
    assert_eq!(found["dependencies"][0]["packages"].as_array().unwrap().len(), 3);
    let platform = &found["changes"]["platforms"][0];
    for (list, want) in [
        ("packages_added", "npm:new@0.0.1"),
        ("packages_removed", "npm:gone@1.0.0"),
        ("packages_changed", "npm:zod 4.0.0 -> 4.1.0"),
    ] {
        assert_eq!(platform[list]["paths"], serde_json::json!([want]), "{platform}");
    }
    check().ok().says("package changed: npm:zod 4.0.0 -> 4.1.0");
    check().args(["--format", "markdown"]).ok().says("Changed packages: `npm:zod 4.0.0 -> 4.1.0`");
}
