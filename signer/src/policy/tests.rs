#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use super::*;
use crate::check::tests::{Place, now};
use crate::check::{CheckOptions, Findings, Look, Observation, RULES, Severity, check, ingest};
use crate::staging::{Staging, StagingError};

fn policy(text: &str) -> Result<Policy, String> {
    parse(text, "policy.yaml", demands::read).map_err(|errors| errors.to_string())
}

/// What a check of the usual recipe says under a policy and waivers, without the fixes.
fn said(policy: &str, waivers: &str, change: impl Fn(String) -> String) -> String {
    let place = Place::new();
    place.write("hello/README", b"x", 0o644);
    place.write("hello/readme", b"y", 0o644);
    let path = place.recipe("");
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    for (name, text) in [("policy.yaml", policy), ("waivers.yaml", waivers)] {
        if !text.is_empty() {
            fs::write(place.path(name), text).unwrap();
        }
    }
    let options = CheckOptions { gate: Gate::load(Some(&path), None, None), ..place.options() };
    let folder = place.path("").display().to_string();
    let findings = check(&path, &options).unwrap().findings;
    let all = findings.all().iter().map(|one| {
        let waived = one.waiver.as_ref().map(|waiver| format!(" ({waiver})")).unwrap_or_default();
        format!("{} {one} [{}]{waived}", one.file.replace(&folder, ""), one.rule)
    });
    all.collect::<Vec<_>>().join("\n")
}

const CASE: &str =
    "servers/hello.yaml warning L9 readme: differs from \"README\" beside it only in case or Unicode form [name-case]";

#[test]
fn a_policy_is_read_strictly() {
    let text = "reviewers: {allowed: ['@example.com', a@b.org], minimum: 2, independent: true}\n\
                data_classification: [public]\nlawful_basis: [contract]\nreview_max_days: 90\n\
                hosts: [artefacts.example.com, 'file:', 'r.example.com:5000']\nseverity: {name-case: error}\n";
    let read = policy(text).unwrap();
    assert_eq!(read.review_max_days, Some(90));
    assert_eq!(read.severity["name-case"], Severity::Error);
    for (text, want) in [
        ("reviewer: x", "policy.yaml:1:1: unknown field \"reviewer\": did you mean reviewers?"),
        ("reviewers:\n  allowed: [example.com]", "policy.yaml:2:13: reviewers.allowed[0]: neither an address"),
        ("reviewers:\n  minimum: none", "policy.yaml:2:12: reviewers.minimum: must be a whole number from 1"),
        ("review_max_days: 0", "policy.yaml:1:18: review_max_days: must be a whole number"),
        ("hosts: []", "policy.yaml:1:8: hosts: must list at least one"),
        ("hosts: ['*.example.com']", "policy.yaml:1:9: hosts[0]: not a host"),
        ("hosts: ['https://example.com']", "policy.yaml:1:9: hosts[0]: not a host"),
        (
            "severity:\n  digest: warning",
            "policy.yaml:2:3: severity.digest: its weight is error, and a policy makes no",
        ),
        ("severity:\n  name-case: note", "policy.yaml:2:3: severity.name-case: its weight is warning"),
        ("require:\n  - scan", "policy.yaml:2:5: require[0]: \"scan\" is not one of: advisories, audit-npm, "),
        ("severity:\n  no-such: error", "policy.yaml:2:3: severity.no-such: no rule has this id"),
        ("a: &x 1", "anchors and aliases are not allowed in this file"),
        ("", "policy.yaml:1:1: expected a mapping, found nothing"),
    ] {
        let error = policy(text).unwrap_err();
        assert!(error.contains(want), "{text:?}: {error}");
    }
}

#[test]
fn what_a_policy_demands() {
    let same = |text: String| text;
    assert_eq!(said("review_max_days: 400\nhosts: ['file:']", "", same), CASE);
    let one = |policy: &str| {
        let said = said(policy, "", same);
        said.lines().find(|line| line.contains("[policy-")).unwrap_or_else(|| panic!("{policy}: {said}")).to_owned()
    };
    for (policy, want) in [
        ("reviewers: {allowed: [x@example.com]}", "L7 reviewers[0]: \"r@example.com\" is not a reviewer that"),
        ("reviewers: {allowed: ['@ample.com']}", "[policy-reviewer]"),
        ("reviewers: {minimum: 2}", "L7 reviewers: 1 reviewed it; the policy asks for 2 [policy-reviewers]"),
        (
            "data_classification: [internal]",
            "L5 data_classification: \"public\" is not one that the policy allows: internal",
        ),
        ("review_max_days: 200", "L6 reviewed_at: the review of 2026-04-15 is 221 days old; the policy allows 200"),
        (
            "hosts: [example.com]",
            "L9 artefact.url: \"file:hello\" is not from a place that the policy allows: example.com",
        ),
    ] {
        let line = one(policy);
        assert!(line.contains(want) && line.contains("error"), "{policy}: {line}");
    }
    assert!(said("severity: {name-case: error}", "", same).contains("error L9 readme"), "raised");
    // People cannot be counted twice, or hide behind another address.
    let twice = |text: String| text.replace("[r@example.com]", "[r@example.com, R@EXAMPLE.COM]");
    assert!(said("reviewers: {minimum: 2}", "", twice).contains("1 reviewed it"));
    let alone = |text: String| text.replace("[r@example.com]", "[M@example.com]");
    assert!(said("reviewers: {independent: true}", "", alone).contains("nobody but the maintainer"));
    assert_eq!(said("reviewers: {independent: true}", "", same), CASE);
    for who in ["r@example.com <x@evil.org>", "x@evil.org@example.com", "evil.org", "x y@example.com"] {
        let hidden = |text: String| text.replace("[r@example.com]", &format!("['{who}']"));
        assert!(said("reviewers: {allowed: ['@example.com']}", "", hidden).contains("[policy-reviewer]"), "{who}");
    }
    let basis = |text: String| text.replace("description", "lawful_basis: whim\ndescription");
    assert!(said("lawful_basis: [contract]", "", basis).contains("lawful_basis: \"whim\" is not one"));
}

#[test]
fn hosts_are_compared_whole() {
    let at = |host: &str, url: &str| {
        let policy = policy(&format!("hosts: ['{host}']")).unwrap();
        let place = Place::new();
        let path = place.recipe("");
        let text = fs::read_to_string(&path).unwrap().replace("file:hello", url);
        let recipe = Recipe::parse(&text, "hello.yaml").unwrap();
        let mut findings = Findings::new();
        policy.check(&recipe, now(), &[], &mut findings);
        findings.all().is_empty()
    };
    assert!(at("a.example.com", "https://a.example.com/x.tar"));
    assert!(at("A.example.com", "oci://a.example.com/x"));
    assert!(at("a.example.com:5000", "https://a.example.com:5000/x"));
    assert!(at("npm:", "npm:left-pad@1.3.0\n  lock: x.lock.json"));
    let git = "'git+https://a.example.com/x.git#v1'\n  commit: 0123456789abcdef0123456789abcdef01234567";
    assert!(at("a.example.com", git));
    assert!(!at("b.example.com", git));
    assert!(!at("a.example.com", "https://a.example.com.evil.org/x"));
    assert!(!at("example.com", "https://a.example.com/x"));
    assert!(!at("a.example.com", "https://a.example.com:8443/x"));
    assert!(!at("a.example.com", "file:a.example.com"));
    assert!(!at("file:", "https://a.example.com/x"));
}

#[test]
fn licences_are_expressions() {
    let policy = policy("licences:\n  allowed: [MIT, Apache-2.0, 'MIT License']\n  denied: [AGPL-3.0]").unwrap();
    let licences = policy.licences.unwrap();
    for good in ["mit", "(MIT OR GPL-2.0)", "GPL-2.0 OR (MIT AND Apache-2.0)", "MIT License", "((MIT))"] {
        assert_eq!(licences.refuses(Some(good)), None, "{good}");
    }
    let deep = format!("{}MIT{}", "(".repeat(100_000), ")".repeat(100_000));
    for bad in ["GPL-2.0", "MIT AND GPL-2.0", "MIT WITH x", "(MIT", "MIT)", "MIT OR", "", "SEE LICENSE", deep.as_str()]
    {
        assert!(licences.refuses(Some(bad)).is_some(), "{bad}");
    }
    assert!(licences.refuses(None).is_some());
    let only_denied = Licences { allowed: None, denied: Some(vec!["AGPL-3.0".to_owned()]) };
    assert_eq!(only_denied.refuses(Some("ISC")), None);
    assert_eq!(only_denied.refuses(Some("ISC OR AGPL-3.0")), None);
    assert!(only_denied.refuses(Some("ISC AND agpl-3.0")).is_some());
}

fn waiver(rule: &str, subject: &str, expires: &str) -> String {
    format!(
        "  - rule: {rule}\n    server: hello\n    subject: '{subject}'\n    reason: upstream\n    by: r@example.com\n    \
         expires: {expires}\n"
    )
}

#[test]
fn a_waiver_lets_one_finding_pass() {
    let same = |text: String| text;
    let with = |policy: &str, waivers: String| said(policy, &format!("waivers:\n{waivers}"), same);
    let waived = format!("{CASE} (until 2026-11-22 by r@example.com: upstream)");
    for subject in ["readme", "read*", "*"] {
        assert_eq!(with("", waiver("name-case", subject, "2026-11-22")), waived, "{subject}");
    }
    let raised = with("severity: {name-case: error}", waiver("name-case", "readme", "2026-11-22"));
    assert_eq!(raised, waived.replace("warning", "error"));
    // A waived finding keeps nothing from passing, and is counted apart.
    let expired = with("", waiver("name-case", "readme", "2026-11-21"));
    assert!(expired.starts_with(CASE) && !expired.contains("(until"), "{expired}");
    assert!(expired.contains("waivers.yaml warning L2 name-case readme: held until 2026-11-21"), "{expired}");
    for (rule, subject, want) in [
        (
            "name-case",
            "eadme",
            "waivers.yaml warning L2 name-case eadme: covers nothing that was found [waiver-unused]",
        ),
        ("name-csae", "readme", "error L2 name-csae readme: no rule is called \"name-csae\" [waiver-refused]"),
        ("digest", "*", "error L2 digest *: what digest demands cannot be waived [waiver-refused]"),
        ("waiver-unused", "*", "what waiver-unused demands cannot be waived"),
    ] {
        let said = with("", waiver(rule, subject, "2027-01-01"));
        assert!(said.contains(want) && !said.contains("(until"), "{rule}: {said}");
    }
    // Only a reviewer of the policy may waive, and another server's waivers say nothing here.
    let by = with("reviewers: {allowed: [x@example.com]}", waiver("name-case", "readme", "2027-01-01"));
    assert!(by.contains("is not somebody whom the policy allows"), "{by}");
    let other = waiver("no-such", "x", "2020-01-01").replace("hello", "other");
    assert_eq!(with("", other), CASE);
    let age = with("review_max_days: 1", waiver("policy-review-age", "reviewed_at", "2027-01-01"));
    assert!(!age.contains("[policy-review-age]\n") && age.contains("[policy-review-age] (until"), "{age}");
}

#[test]
fn errors_of_the_format_are_never_waived() {
    let may = |id: &str| RULES.iter().find(|rule| rule.id == id).unwrap().may_be_waived();
    for id in ["recipe", "digest", "archive", "fetch", "statement-size", "policy-file", "published", "waiver-refused"] {
        assert!(!may(id), "{id}");
    }
    assert!(may("name-bidi") && may("launch-argument") && may("policy-host"));
    let place = Place::new();
    let path = place.recipe("");
    let text = fs::read_to_string(&path).unwrap().replace(&place.digest().to_string(), &"0".repeat(64));
    fs::write(&path, text).unwrap();
    let waivers = format!("waivers:\n{}", waiver("digest", "*", "2027-01-01"));
    let gate = Gate::from_texts(None, Some(waivers)).unwrap();
    let checked = check(&path, &CheckOptions { gate, ..place.options() }).unwrap();
    assert!(checked.findings.has_errors());
    assert!(checked.findings.all().iter().any(|one| one.rule == "digest" && one.waiver.is_none()));
}

#[test]
fn a_broken_file_is_a_finding_and_never_passed_over() {
    let same = |text: String| text;
    let broken = said("reviewers: {minimum: 0}\nhosts: [x y]", "waivers: {}", same);
    for want in [
        "policy.yaml error L1 reviewers.minimum: must be a whole number from 1 [policy-file]",
        "policy.yaml error L2 hosts[0]: not a host",
        "waivers.yaml error L1 waivers: expected a list, found a mapping [policy-file]",
    ] {
        assert!(broken.contains(want), "{broken}");
    }
    let missing = "waivers:\n  - rule: name-case\n    server: hello\n    subject: x\n    reason: ' '\n";
    let broken = said("", missing, same);
    assert!(
        broken.contains("L2 waivers[0].by: missing") && broken.contains("L5 waivers[0].reason: must be one line"),
        "{broken}"
    );
    // A link that leads nowhere, and a file that was named and is not there.
    let place = Place::new();
    let path = place.recipe("");
    std::os::unix::fs::symlink("nowhere", place.path("policy.yaml")).unwrap();
    for gate in [Gate::load(Some(&path), None, None), Gate::load(None, Some(&place.path("none.yaml")), None)] {
        let checked = check(&path, &CheckOptions { gate, ..place.options() }).unwrap();
        assert!(checked.findings.to_string().contains("cannot be read"), "{}", checked.findings);
        assert!(checked.findings.has_errors());
    }
    // Neither is one that would be overlooked.
    for name in ["policy.yml", "waivers.yml"] {
        let place = Place::new();
        let path = place.recipe("");
        fs::write(place.path(name), "reviewers: {minimum: 3}\n").unwrap();
        let gate = Gate::load(Some(&path), None, None);
        let found = check(&path, &CheckOptions { gate, ..place.options() }).unwrap().findings.to_string();
        assert!(found.contains("is not read; call it ") && found.contains("[policy-file]"), "{found}");
    }
    // Only beside a folder that is called servers.
    let elsewhere = place.path("policy.yaml").with_file_name("files").join("hello.yaml");
    assert!(Gate::load(Some(&elsewhere), None, None).is_empty());
}

#[test]
fn signing_applies_policy_and_waivers_again() {
    let place = Place::new();
    place.write("hello/readme", b"y", 0o644);
    let path = place.recipe("");
    let text = "severity: {name-case: error}\nreview_max_days: 230\n";
    let waivers = format!("waivers:\n{}", waiver("name-case", "readme", "2026-11-24"));
    let gate = Gate::from_texts(Some(text.to_owned()), Some(waivers.clone())).unwrap();
    let options = CheckOptions { gate: gate.clone(), ..place.options() };
    let folder = place.path("staging");
    let stage = || ingest(&path, &folder, &options).unwrap().staging.expect("waived");
    let staged = stage();
    assert_eq!(staged.record.waivers, ["name-case readme until 2026-11-24 by r@example.com: upstream"]);
    assert_eq!(staged.record.sources.len(), 2);
    assert_ne!(staged.record.policy, policy_digest());
    let read = || Staging::read(&folder).unwrap();
    read().recheck(now()).unwrap();

    // What holds at the check need not hold when it is signed.
    let day = 86_400;
    read().recheck(now().plus(2 * day)).unwrap();
    let error = read().recheck(now().plus(3 * day)).unwrap_err().to_string();
    assert!(error.contains("readme"), "the waiver has ended: {error}");
    let unwaived = place.recipe("");
    let checked = ingest(
        &unwaived,
        &folder,
        &CheckOptions {
            gate: Gate::from_texts(Some("review_max_days: 230\n".to_owned()), None).unwrap(),
            ..place.options()
        },
    );
    checked.unwrap().staging.unwrap().recheck(now()).unwrap();
    let error = read().recheck(now().plus(10 * day)).unwrap_err().to_string();
    assert!(error.contains("231 days old"), "{error}");

    // Nobody changes the files between check and signing.
    for (name, from, to) in [
        ("policy.yaml", "name-case: error", "name-form: error"),
        ("policy.yaml", "230", "999"),
        ("waivers.yaml", "2026-11-24", "2027-11-24"),
        ("waivers.yaml", "upstream", "upstraem"),
        ("check.json", "upstream", "upstraem"),
    ] {
        stage();
        let file = folder.join(name);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{name} {from}");
        fs::write(&file, text.replace(from, to)).unwrap();
        assert!(read().recheck(now()).is_err(), "{name}: {from} -> {to}");
    }
    for name in ["policy.yaml", "waivers.yaml"] {
        stage();
        fs::remove_file(folder.join(name)).unwrap();
        assert!(read().recheck(now()).is_err(), "{name} removed");
    }

    // A signer that names a policy accepts no staging that was made by another, or by none.
    stage();
    read().demand(&gate, None).unwrap();
    assert!(matches!(read().demand(&Gate::default(), None), Err(StagingError::OtherPolicy("policy"))));
    let other = Gate::from_texts(Some("review_max_days: 230\n".to_owned()), Some(waivers)).unwrap();
    assert!(matches!(read().demand(&other, None), Err(StagingError::OtherPolicy("policy"))));
    let without = Gate::from_texts(Some(text.to_owned()), None).unwrap();
    assert!(matches!(read().demand(&without, None), Err(StagingError::OtherPolicy("waivers file"))));
    // A check without them leaves none of the last one's files behind.
    let clean = Place::new();
    ingest(&clean.recipe(""), &folder, &clean.options()).unwrap().staging.unwrap();
    assert!(!folder.join("policy.yaml").exists() && !folder.join("waivers.yaml").exists());
    assert!(matches!(read().demand(&gate, None), Err(StagingError::OtherPolicy("policy"))));
}

#[test]
fn reader_and_schema_know_the_same_fields() {
    let keys = |value: &serde_json::Value| {
        value["properties"].as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<String>>()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<std::collections::BTreeSet<_>>();
    let policy: serde_json::Value = serde_json::from_str(&json_schema::<Policy>()).unwrap();
    let waivers: serde_json::Value = serde_json::from_str(&json_schema::<Waivers>()).unwrap();
    assert_eq!(keys(&policy), set(demands::POLICY));
    assert_eq!(keys(&policy["$defs"]["Reviewers"]), set(demands::REVIEWERS));
    assert_eq!(keys(&policy["$defs"]["Licences"]), set(licences::LICENCES));
    assert_eq!(keys(&waivers), set(waivers::WAIVERS));
    assert_eq!(keys(&waivers["$defs"]["Waiver"]), set(waivers::WAIVER));
}

/// `UPDATE_SCHEMA=1 cargo test -p mcpfs-signer schema` writes the files after a change on purpose.
#[test]
fn the_schemas_are_frozen() {
    let report = json_schema::<crate::check::report::Report<'_>>();
    for (name, schema) in
        [("policy", json_schema::<Policy>()), ("waivers", json_schema::<Waivers>()), ("report", report)]
    {
        let path = format!("{}/schema/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            fs::write(&path, &schema).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), schema, "the schema changed: see UPDATE_SCHEMA above");
    }
}

#[test]
fn what_a_policy_requires_to_be_looked_for_is_looked_for() {
    let place = Place::new();
    let path = place.recipe("");
    fs::write(place.path("policy.yaml"), "require: [trial]\n").unwrap();
    let gate = Gate::load(Some(&path), None, None);
    let options = CheckOptions { gate: gate.clone(), ..place.options() };
    let checked = check(&path, &options).unwrap();
    let said: Vec<&str> = checked.findings.all().iter().map(|one| one.message.as_str()).collect();
    let want = |word: &str| format!("the policy requires a look for {word}, and this check had none");
    assert_eq!(said, [want("trial")]);
    let recipe = checked.recipe.unwrap();
    let look = |kind| Observation { kind, tool: "a test".to_owned(), result: Digest::EMPTY };
    let mut findings = Findings::new();
    gate.check(&recipe, now(), &[look(Look::Trial)], &mut findings);
    assert_eq!(findings.all(), []);
    // Signing asks again: a record without them is refused.
    let staging = place.ingest(&path, "staging");
    let staging = Staging { gate, ..staging };
    let staging = Staging { record: staging.expected_record(), ..staging };
    let error = staging.recheck(now()).unwrap_err().to_string();
    assert!(error.contains("the policy requires a look for trial"), "{error}");
    let mut record = staging.record.clone();
    record.observations = vec![look(Look::Trial)];
    Staging { record, ..staging }.recheck(now()).unwrap();
}

#[test]
fn a_record_can_be_pinned_and_some_policies_insist() {
    let place = Place::new();
    let path = place.recipe("");
    let staged = |text: Option<&str>| {
        let gate = Gate::from_texts(text.map(str::to_owned), None).unwrap();
        let staging = Staging { gate: gate.clone(), ..place.ingest(&path, "staging") };
        (staging, gate)
    };
    let (staging, gate) = staged(None);
    let digest = staging.record.digest();
    staging.demand(&gate, None).unwrap();
    staging.demand(&gate, Some(digest)).unwrap();
    // Consistent in itself, and still not what was checked.
    let observed = |kind| Observation { kind, tool: "a test".to_owned(), result: Digest::EMPTY };
    let mut record = staging.record.clone();
    record.observations.push(observed(Look::Trial));
    let edited = Staging { record, ..staging };
    edited.recheck(now()).unwrap();
    let error = edited.demand(&gate, Some(digest)).unwrap_err();
    assert!(matches!(error, StagingError::OtherRecord { pinned, .. } if pinned == digest), "{error}");

    // By each demand that an edited folder could meet by itself.
    for (text, audited, demand) in [
        ("require: [trial]\n", false, Some("require")),
        ("require: [advisories]\n", false, Some("require")),
        ("severity: {run-stdout: error}\n", false, Some("severity of run-stdout")),
        ("severity: {name-case: error}\n", false, None),
        ("vulnerabilities: {max_age_days: 1}\n", true, Some("vulnerabilities")),
        ("vulnerabilities: {max_age_days: 1}\n", false, None),
    ] {
        let (mut staging, gate) = staged(Some(text));
        staging.record.observations.extend(audited.then(|| observed(Look::AuditNpm)));
        staging.demand(&gate, Some(staging.record.digest())).unwrap();
        match (staging.demand(&gate, None), demand) {
            (Ok(()), None) => {}
            (Err(StagingError::Unbound(found)), Some(demand)) => assert_eq!(found, demand),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
}

#[test]
fn a_failed_check_leaves_nothing_to_publish() {
    let place = Place::new();
    let folder = place.path("staging");
    let said = || Staging::read(&folder).unwrap_err().to_string();
    assert!(said().contains("is not a folder that check --staging left"), "{}", said());
    fs::create_dir(&folder).unwrap();
    assert!(said().contains("is not a folder that check --staging left"), "{}", said());
    let broken = place.recipe("nonsense: 1\n");
    ingest(&broken, &folder, &place.options()).unwrap();
    assert!(said().contains("holds no release: its check did not pass"), "{}", said());
    place.ingest(&place.recipe(""), "staging");
    Staging::read(&folder).unwrap();
}
