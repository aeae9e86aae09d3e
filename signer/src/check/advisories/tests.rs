#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};

use super::*;
use crate::check::report::{Format, report};
use crate::check::tests::{Place, now};
use crate::check::{CheckOptions, Checked, check, ingest};
use crate::policy::Gate;
use crate::staging::Staging;

/// An advisory in the shape of the GitHub database.
fn advisory(id: &str, ecosystem: &str, name: &str, events: Value, severity: &str) -> Value {
    json!({
        "schema_version": "1.7.3",
        "id": id,
        "modified": "2026-11-20T08:21:35.601357Z",
        "published": "2021-05-06T16:05:51Z",
        "aliases": ["CVE-2021-23337"],
        "summary": "Command Injection in lodash",
        "details": "Versions before 4.17.21 are vulnerable.\n\nMore.",
        "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:H/UI:N/S:U/C:H/I:H/A:H"}],
        "affected": [{
            "package": {"ecosystem": ecosystem, "name": name, "purl": format!("pkg:npm/{name}")},
            "ranges": [{"type": "SEMVER", "events": events}],
            "database_specific": {"source": "https://github.com/github/advisory-database"},
        }],
        "references": [{"type": "ADVISORY", "url": "https://nvd.nist.gov/vuln/detail/CVE-2021-23337"}],
        "database_specific": {"cwe_ids": ["CWE-77"], "severity": severity, "github_reviewed": true},
    })
}

fn lodash() -> Value {
    advisory("GHSA-35jh-r3h4-6jhm", "npm", "lodash", json!([{"introduced": "0"}, {"fixed": "4.17.21"}]), "HIGH")
}

/// A place whose artefact carries these packages of npm.
fn place(packages: &[(&str, &str)]) -> Place {
    let place = Place::new();
    let listed = packages.iter().map(|(name, version)| (format!("node_modules/{name}"), json!({"version": version})));
    let lock = json!({"packages": listed.collect::<serde_json::Map<String, Value>>()});
    place.write("hello/node_modules/.package-lock.json", lock.to_string().as_bytes(), 0o644);
    place
}

/// Writes a snapshot as a .zip; its path and digest.
fn zipped(place: &Place, advisories: &[Value]) -> (PathBuf, Digest) {
    let path = place.path("all.zip");
    let mut zip = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    for (index, advisory) in advisories.iter().enumerate() {
        zip.start_file(format!("{index}.json"), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(advisory.to_string().as_bytes()).unwrap();
    }
    zip.finish().unwrap();
    let digest = Digest::of(&fs::read(&path).unwrap());
    (path, digest)
}

fn options(place: &Place, snapshot: &Path, pin: Option<Digest>, policy: &str, waivers: &str) -> CheckOptions {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let gate = Gate::from_texts(text(policy), text(waivers)).unwrap_or_else(|errors| panic!("{errors}"));
    let lookups =
        Lookups { snapshots: vec![snapshot.to_owned()], pins: pin.into_iter().collect(), ..Lookups::default() };
    CheckOptions { gate, lookups, ..place.options() }
}

fn said(checked: &Checked) -> Vec<String> {
    let waived = |one: &Finding| if one.waiver.is_some() { "waived " } else { "" };
    let all = checked.findings.all().iter();
    all.map(|one| format!("{}{} {}: {} [{}]", waived(one), one.severity, one.subject, one.message, one.rule)).collect()
}

/// What a check of these packages says against these advisories.
fn against(packages: &[(&str, &str)], advisories: &[Value], policy: &str, waivers: &str) -> Vec<String> {
    let place = place(packages);
    let (path, digest) = zipped(&place, advisories);
    said(&check(&place.recipe(""), &options(&place, &path, Some(digest), policy, waivers)).unwrap())
}

const LODASH: &str = "error GHSA-35jh-r3h4-6jhm npm:lodash@4.17.20: high, fixed in 4.17.21: Command Injection in lodash \
                      (also CVE-2021-23337) [vulnerability]";

#[test]
fn a_vulnerable_package_is_refused() {
    let others = [("other", "1.0.0"), ("lodash", "4.17.20")];
    assert_eq!(against(&others, &[lodash()], "", ""), [LODASH]);
    assert!(against(&[("lodash", "4.17.21")], &[lodash()], "", "").is_empty());
    let mut withdrawn = lodash();
    withdrawn["withdrawn"] = json!("2026-01-01T00:00:00Z");
    // The other one keeps the snapshot from being empty.
    let other = advisory("GHSA-aaaa-aaaa-aaaa", "npm", "zod", json!([{"introduced": "0"}]), "LOW");
    assert!(against(&others, &[withdrawn, other.clone()], "", "").is_empty());
    assert!(
        against(
            &[("lodash", "4.17.20")],
            &[advisory("X-1", "PyPI", "lodash", json!([{"introduced": "0"}]), "HIGH"), other],
            "",
            ""
        )
        .is_empty()
    );
}

/// "None known" is not said of what nobody could ask about.
#[test]
fn an_artefact_that_lists_nothing_is_told() {
    let nothing = "warning any: lists no package, so nothing was asked; what is inside its files is not known \
                   [advisories-nothing]";
    let place = Place::new();
    let (path, digest) = zipped(&place, &[lodash()]);
    let checked = check(&place.recipe(""), &options(&place, &path, Some(digest), "", "")).unwrap();
    assert_eq!(said(&checked), [nothing]);
    // Where nobody asked, no rule demands it, and the report says that there is no list.
    let checked = check(&place.recipe(""), &place.options()).unwrap();
    assert!(said(&checked).is_empty());
    for (format, line) in [
        (Format::Text, "dependencies (any): the artefact lists none"),
        (Format::Markdown, "- **Dependencies:** `any` the artefact lists none"),
    ] {
        let text = report(format, "hello.yaml", &checked);
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn severities_are_the_policys_to_weigh() {
    let packages = [("lodash", "4.17.20")];
    let level = |word: &str| {
        let mut advisory = lodash();
        advisory["database_specific"]["severity"] = json!(word);
        advisory["severity"] = json!([]);
        advisory
    };
    let weight = |advisory: Value, policy: &str| {
        let said = against(&packages, &[advisory], policy, "");
        assert_eq!(said.len(), 1, "{said:?}");
        let mut words = said[0].split([' ', ':', ',']);
        (words.next().unwrap().to_owned(), said[0].split(": ").nth(1).unwrap().split(',').next().unwrap().to_owned())
    };
    let is = |weight: (String, String), a: &str, b: &str| assert_eq!((weight.0.as_str(), weight.1.as_str()), (a, b));
    is(weight(level("MODERATE"), ""), "warning", "moderate");
    is(weight(level("LOW"), "vulnerabilities: {deny: [low]}"), "error", "low");
    is(weight(level("HIGH"), "vulnerabilities: {deny: [critical]}"), "warning", "high");
    is(weight(level("NOBODY KNOWS"), ""), "error", "unrated");
    is(
        weight(level(""), "severity: {vulnerability-lesser: error}\nvulnerabilities: {deny: [low]}"),
        "error",
        "unrated",
    );
    // A vector alone, of version 3 and of version 4; of two ratings the worse one counts.
    let mut vector = level("");
    vector["severity"] = json!([{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]);
    is(weight(vector.clone(), ""), "error", "critical");
    vector["severity"] =
        json!([{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:N/VI:L/VA:N/SC:N/SI:N/SA:N"}]);
    is(weight(vector.clone(), ""), "warning", "moderate");
    vector["database_specific"]["severity"] = json!("CRITICAL");
    is(weight(vector, ""), "error", "critical");
    let mut malicious = level("LOW");
    malicious["id"] = json!("MAL-2026-1");
    is(weight(malicious, "vulnerabilities: {deny: [critical]}"), "error", "malicious");
}

#[test]
fn ranges_are_those_of_the_osv_schema() {
    let concerned = |version: &str, affected: Value| {
        let mut advisory = lodash();
        advisory["affected"][0].as_object_mut().unwrap().remove("ranges");
        advisory["affected"][0].as_object_mut().unwrap().extend(affected.as_object().unwrap().clone());
        let said = against(&[("lodash", version)], &[advisory], "", "");
        match said.first() {
            None => "no".to_owned(),
            Some(one) if one.contains("[vulnerability-unclear]") => "unclear".to_owned(),
            Some(one) => one.split(": ").nth(1).unwrap().split(", ").nth(1).unwrap().to_owned(),
        }
    };
    let semver = |events: Value| json!({"ranges": [{"type": "SEMVER", "events": events}]});
    let two = || {
        semver(
            json!([{"introduced": "1.0.0"}, {"fixed": "1.4.2"}, {"introduced": "2.0.0-rc.1"}, {"last_affected": "2.3.0"}]),
        )
    };
    for (version, want) in [
        ("0.9.9", "no"),
        ("1.0.0", "fixed in 1.4.2"),
        ("1.4.2-beta", "fixed in 1.4.2"),
        ("1.4.2", "no"),
        ("2.0.0-rc.1", "no fixed version is known"),
        ("2.3.0", "no fixed version is known"),
        ("2.3.1", "no"),
        ("unknown", "unclear"),
    ] {
        assert_eq!(concerned(version, two()), want, "{version}");
    }
    // Events in any order, and a limit.
    assert_eq!(concerned("1.5.0", semver(json!([{"fixed": "1.6.0"}, {"introduced": "1.0.0"}]))), "fixed in 1.6.0");
    assert_eq!(concerned("1.5.0", semver(json!([{"introduced": "0"}, {"limit": "1.5.0"}]))), "no");
    assert_eq!(
        concerned("1.4.9", semver(json!([{"introduced": "0"}, {"limit": "1.5.0"}]))),
        "no fixed version is known"
    );
    // A list of versions, alone and beside a range.
    assert_eq!(concerned("1.0.0", json!({"versions": ["1.0.0"]})), "no fixed version is known");
    assert_eq!(concerned("1.0.1", json!({"versions": ["1.0.0"]})), "no");
    let both = json!({"versions": ["0.0.1", "weird"], "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "1.0.0"}, {"fixed": "1.1.0"}]}]});
    assert_eq!(concerned("0.0.1", both.clone()), "fixed in 1.1.0");
    assert_eq!(concerned("weird", both.clone()), "no fixed version is known");
    assert_eq!(concerned("also weird", both), "unclear");
    // Nothing that could be compared is not "not affected".
    assert_eq!(concerned("1.0.0", json!({})), "unclear");
    assert_eq!(
        concerned("1.0.0", json!({"ranges": [{"type": "GIT", "repo": "x", "events": [{"introduced": "0"}]}]})),
        "unclear"
    );
    assert_eq!(concerned("1.0.0", semver(json!([{"introduced": "one"}]))), "unclear");
}

#[test]
fn copies_of_one_advisory_are_one() {
    let mut copy = lodash();
    copy["id"] = json!("PYSEC-2021-1");
    copy["aliases"] = json!(["GHSA-35jh-r3h4-6jhm", "CVE-2021-23337"]);
    let other = advisory(
        "GHSA-p6mc-m468-83gw",
        "npm",
        "lodash",
        json!([{"introduced": "3.7.0"}, {"fixed": "4.17.19"}]),
        "HIGH",
    );
    let said = against(&[("lodash", "4.17.20")], &[copy, lodash(), other], "", "");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("error GHSA-35jh") && said[0].contains("(also CVE-2021-23337, PYSEC-2021-1)"),
        "{said:?}"
    );
}

#[test]
fn a_waiver_is_for_one_advisory() {
    let packages = [("lodash", "4.17.20")];
    let mut second = lodash();
    second["id"] = json!("GHSA-29mw-wpgm-hmr9");
    second["aliases"] = json!(["CVE-2020-28500"]);
    let waiver = |subject: &str, expires: &str| {
        format!(
            "waivers:\n  - rule: vulnerability\n    server: hello\n    subject: '{subject}'\n    reason: template is never \
             called\n    by: r@example.com\n    expires: {expires}\n"
        )
    };
    let both = [lodash(), second];
    for subject in
        ["GHSA-35jh-r3h4-6jhm npm:lodash@4.17.20", "GHSA-35jh-r3h4-6jhm npm:lodash@*", "GHSA-35jh-r3h4-6jhm *"]
    {
        let said = against(&packages, &both, "", &waiver(subject, "2027-01-01"));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("error GHSA-29mw-wpgm-hmr9 "), "{said:?}");
        assert!(said[1].starts_with("waived error GHSA-35jh-r3h4-6jhm "), "{said:?}");
    }
    // Not by its beginning, not for another version, not after its day.
    let said = against(&packages, &both[..1], "", &waiver("GHSA-35jh*", "2027-01-01"));
    assert!(
        said[0].contains("must name one advisory whole") || said[1].contains("must name one advisory whole"),
        "{said:?}"
    );
    let said = against(&packages, &both[..1], "", &waiver("GHSA-35jh-r3h4-6jhm npm:lodash@4.17.19", "2027-01-01"));
    assert!(said[0].starts_with("error GHSA-35jh") && said[1].contains("[waiver-unused]"), "{said:?}");
    let said = against(&packages, &both[..1], "", &waiver("GHSA-35jh-r3h4-6jhm *", "2026-11-21"));
    assert!(said[0].starts_with("error GHSA-35jh") && said[1].contains("[waiver-expired]"), "{said:?}");
    // What the checks of the snapshot itself say cannot be waived.
    let text = waiver("*", "2027-01-01").replace("rule: vulnerability", "rule: advisories-snapshot");
    let said = against(&packages, &[], "", &text);
    assert!(said.iter().any(|one| one.contains("cannot be waived")), "{said:?}");
}

#[test]
fn a_snapshot_that_cannot_be_relied_on_is_an_error() {
    let place = place(&[("lodash", "4.17.20")]);
    let (path, digest) = zipped(&place, &[lodash()]);
    let recipe = place.recipe("");
    let check =
        |path: &Path, pin, policy: &str| said(&check(&recipe, &options(&place, path, pin, policy, "")).unwrap());
    let one = |said: Vec<String>, want: &str| {
        assert!(said.iter().any(|one| one.starts_with("error") && one.contains(want)), "{want}: {said:?}");
    };
    one(check(&path, None, ""), &format!("all.zip: has SHA-256 {digest}, which nothing pins [advisories-snapshot]"));
    one(check(&path, Some(Digest::of(b"other")), ""), "which nothing pins");
    one(check(&place.path("none.zip"), Some(digest), ""), "none.zip: cannot be read");
    let policy = format!("vulnerabilities: {{snapshots: [{digest}], max_age_days: 1}}");
    let old = check(&path, None, &policy);
    assert_eq!(
        old[0],
        "error npm: what was asked is of 2026-11-20, 2 days ago; the policy allows 1 [advisories-snapshot]"
    );
    assert_eq!(old[1], LODASH);
    assert_eq!(check(&path, None, &policy.replace("days: 1", "days: 2")), [LODASH]);
    let named = format!("vulnerabilities: {{snapshots: [{digest}, {}]}}", Digest::of(b"other"));
    one(check(&path, None, &named), "the policy names this snapshot, and it was not read");
    // A policy that speaks of vulnerabilities wants them looked up.
    let silent = CheckOptions {
        lookups: Lookups::default(),
        ..options(&place, &path, None, "vulnerabilities: {deny: [low]}", "")
    };
    one(said(&crate::check::check(&recipe, &silent).unwrap()), "npm: 1 packages, and nothing that was asked knows");

    let with = |advisories: &[Value]| {
        let (path, digest) = zipped(&place, advisories);
        said(&crate::check::check(&recipe, &options(&place, &path, Some(digest), "", "")).unwrap())
    };
    one(with(&[]), "holds no advisory of npm, PyPI, crates.io or Go");
    one(with(&[]), "[advisories-uncovered]");
    one(with(&[advisory("PYSEC-1", "PyPI", "x", json!([]), "LOW")]), "npm: 1 packages, and nothing that was asked");
    one(with(&[lodash(), json!({"id": "X"})]), "1.json is not an advisory in OSV format: missing field `modified`");
    one(with(&[json!("text")]), "0.json is not an advisory in OSV format");
    let mut timeless = lodash();
    timeless["modified"] = json!("yesterday");
    one(with(&[timeless]), "modified is not a time");
    let mut large = lodash();
    large["details"] = json!("x".repeat(9 << 20));
    one(with(&[large]), "0.json is more than is read of a snapshot");
    // Neither archive nor text, and one that is cut off.
    fs::write(place.path("text.zip"), "no archive").unwrap();
    one(check(&place.path("text.zip"), Some(Digest::of(b"no archive")), ""), "neither a .zip nor a .tar archive");
    let whole = fs::read(zipped(&place, &[lodash()]).0).unwrap();
    let half = &whole[..whole.len() / 2];
    fs::write(place.path("half.zip"), half).unwrap();
    one(check(&place.path("half.zip"), Some(Digest::of(half)), ""), "no zip directory at the end of the file");
}

#[test]
fn a_folder_has_a_digest_too() {
    let place = place(&[("lodash", "4.17.20")]);
    let folder = place.path("osv/npm");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("GHSA-35jh-r3h4-6jhm.json"), lodash().to_string()).unwrap();
    fs::write(place.path("osv/README.md"), "not an advisory").unwrap();
    let mut tar = Vec::new();
    crate::fetch::bundle(&place.path("osv"), &mut tar).unwrap();
    let options = options(&place, &place.path("osv"), Some(Digest::of(&tar)), "", "");
    assert_eq!(said(&check(&place.recipe(""), &options).unwrap()), [LODASH]);
    // The bundle of the folder is the same snapshot.
    fs::write(place.path("osv.tar"), &tar).unwrap();
    let options = CheckOptions {
        lookups: Lookups { snapshots: vec![place.path("osv.tar")], ..options.lookups.clone() },
        ..options
    };
    assert_eq!(said(&check(&place.recipe(""), &options).unwrap()), [LODASH]);
}

#[test]
fn signing_asks_the_snapshot_again() {
    let place = place(&[("lodash", "4.17.20")]);
    let (path, digest) = zipped(&place, &[lodash()]);
    let waiver = "waivers:\n  - {rule: vulnerability, server: hello, subject: 'GHSA-35jh-r3h4-6jhm *', reason: ours, \
                  by: r@example.com, expires: 2026-11-30}\n";
    let policy = format!("vulnerabilities: {{snapshots: [{digest}], max_age_days: 30}}\n");
    let folder = place.path("staging");
    let stage = || {
        let options = options(&place, &path, None, &policy, waiver);
        ingest(&place.recipe(""), &folder, &options).unwrap().staging.expect("waived")
    };
    let staging = stage();
    staging.recheck(now()).unwrap();
    assert!(
        staging.record.sources.iter().any(|one| one == &format!("advisories sha256:{digest} (1 npm up to 2026-11-20)"))
    );
    // The waiver's last day, and the policy's age, count at the signing.
    let refused = |staging: &Staging, now: &str| staging.recheck(now.parse().unwrap()).unwrap_err().to_string();
    assert!(refused(&staging, "2026-12-01T12:00:00Z").contains("GHSA-35jh-r3h4-6jhm"));
    assert!(refused(&staging, "2026-12-24T12:00:00Z").contains("what was asked is of 2026-11-20"));

    // Whoever can write to staging, and forges the record too, gains nothing.
    let forge = |change: &dyn Fn()| {
        stage();
        change();
        let mut read = Staging::read(&folder).unwrap();
        read.record.observations = read.answers.observations();
        read.record = read.expected_record();
        refused(&read, "2026-11-22T12:00:00Z")
    };
    let kept = folder.join("snapshots").join(digest.to_string());
    let gone = forge(&|| fs::remove_file(folder.join("advisories.json")).unwrap());
    assert!(gone.contains("the policy names this snapshot"), "{gone}");
    // With the look-up still in the record, that alone is told.
    stage();
    fs::remove_file(folder.join("advisories.json")).unwrap();
    let read = Staging::read(&folder).unwrap();
    assert!(refused(&read, "2026-11-22T12:00:00Z").contains("other look-ups of advisories than staging holds"));
    let emptied = forge(&|| {
        let text = fs::read_to_string(folder.join("advisories.json")).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["snapshots"][0]["hits"] = json!([]);
        fs::write(folder.join("advisories.json"), mcpfs_trust::json::encode(&value)).unwrap();
    });
    assert!(emptied.contains("says something else of these packages"), "{emptied}");
    let other = forge(&|| {
        fs::remove_file(&kept).unwrap();
        let (path, _) = zipped(&place, &[advisory("GHSA-x", "npm", "other", json!([]), "LOW")]);
        fs::copy(path, &kept).unwrap();
    });
    assert!(other.contains("has another content"), "{other}");
}
