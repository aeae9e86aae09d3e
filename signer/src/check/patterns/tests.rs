#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::ruleset::{OWN, RuleSource};
use super::*;
use crate::check::tests::Place;
use crate::check::{CheckOptions, Checked, Severity, check};

/// A check with a program in the engine's place.
fn with_engine(place: &Place, script: &str, limit: Duration) -> Checked {
    place.write("engine", format!("#!/bin/sh\n{script}\n").as_bytes(), 0o755);
    let patterns = Patterns {
        rules: RuleSet::new(&[RuleSource::Builtin]).unwrap(),
        engine: Some(place.path("files/engine")),
        limit,
    };
    check(&place.recipe(""), &CheckOptions { patterns: Some(patterns), ..place.options() }).unwrap()
}

const HELLO: &str = r#"echo '{"protocol":1,"program":"mcpfs-yara 0","engine":"none"}'"#;

/// Whatever the engine does, a check in which not everything was looked at has an error, and is
/// no observation.
#[test]
fn an_engine_that_does_not_do_its_work_is_an_error() {
    let place = Place::on_disk();
    let long = Duration::from_secs(60);
    for (script, limit, want) in [
        ("exit 0", long, "ended early (it closed its output, exit status: 0 )"),
        ("echo it broke >&2; exit 3", long, "exit status: 3 it broke)"),
        ("kill -SEGV $$", long, "signal: 11"),
        ("echo hello", long, "said what its protocol does not have"),
        (r#"echo '{"protocol":2,"program":"x","engine":"y"}'"#, long, "x speaks protocol 2, and this program 1"),
        (r#"echo '{"protocol":1,"program":"x","engine":"y","more":1}'"#, long, "said what its protocol does not have"),
        (&format!("{HELLO}; exit 1"), long, "ended early"),
        (&format!("{HELLO}; echo '{{\"matches\":[]}}'; /bin/cat >/dev/null"), long, "said what its protocol does not"),
        (&format!("{HELLO}; /bin/cat /dev/zero"), long, "a line without end"),
        (&format!("{HELLO}; /bin/sleep 3600"), Duration::from_millis(100), "took more than 0 seconds and was ended"),
        ("/bin/sleep 3600", Duration::from_millis(100), "took more than 0 seconds and was ended"),
    ] {
        let checked = with_engine(&place, script, limit);
        let said = checked.findings.to_string();
        assert!(said.contains(want) && said.contains("[pattern-engine]"), "{script}: {said}");
        assert!(checked.findings.has_errors() && checked.observations.is_empty(), "{script}: {said}");
    }
    let patterns =
        Patterns { rules: RuleSet::new(&[]).unwrap(), engine: Some(place.path("files/nothing-here")), limit: long };
    let options = CheckOptions { patterns: Some(patterns), ..place.options() };
    let said = check(&place.recipe(""), &options).unwrap().findings.to_string();
    assert!(said.contains("cannot be started"), "{said}");
}

#[test]
fn the_rules_of_a_folder_are_bounded_and_named() {
    let place = Place::new();
    place.write("rules/a.yar", b"rule a { condition: false }", 0o644);
    place.write("rules/deep/b.yara", b"rule b { condition: false }", 0o644);
    place.write("rules/README", b"not a rule", 0o644);
    let folder = |name: &str| RuleSource::Folder(place.path("files").join(name));
    let set = RuleSet::new(&[RuleSource::Builtin, folder("rules")]).unwrap();
    let names: Vec<&str> = set.files().iter().skip(OWN.len()).map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["rules/a.yar", "rules/deep/b.yara"]);
    assert!(set.sources()[0].starts_with(&format!("mcpfs: {} files sha256:", OWN.len())));
    assert!(set.sources()[1].starts_with("rules: 2 files sha256:"), "{:?}", set.sources());
    place.write("rules/a.yar", b"rule a { condition: true }", 0o644);
    assert_ne!(RuleSet::new(&[folder("rules")]).unwrap().sources()[1], set.sources()[1]);

    let refused = |name: &str| RuleSet::new(&[folder(name)]).unwrap_err().to_string();
    assert!(refused("nowhere").contains("cannot list the rules in it; for our own rules alone"));
    place.write("empty/README", b"x", 0o644);
    assert!(refused("empty").contains("no *.yar or *.yara in it"));
    place.write("large/x.yar", &vec![b' '; 2 << 20], 0o644);
    assert!(refused("large").contains("cannot be read"));
    place.write(&format!("deep/{}x.yar", "d/".repeat(9)), b"", 0o644);
    assert!(refused("deep").contains("levels"));
    std::os::unix::fs::symlink(".", place.path("files/rules/loop")).unwrap();
    assert!(refused("rules").contains("levels"));
}

#[test]
fn a_rule_names_the_files_it_is_for() {
    for (path, patterns, want) in [
        ("a.js", "*.js", true),
        ("a/b/c.js", "*.py, *.js", true),
        ("a.jsx", "*.js", false),
        ("package.json", "package.json,*/package.json", true),
        ("x/package.json", "package.json,*/package.json", true),
        ("xpackage.json", "package.json,*/package.json", false),
        ("usr/bin/x", "*/bin/*", true),
        ("a", "*", true),
        ("ab", "a*b*b", false),
        ("abb", "a*b*b", true),
        ("", "", false),
    ] {
        assert_eq!(is_included(path, patterns), want, "{path} {patterns}");
    }
}

#[test]
fn a_match_weighs_what_its_rule_says() {
    let mut found = Found::default();
    let one = |severity: &str, include: &str| {
        let meta =
            [("severity", severity), ("path_include", include), ("description", "Bad\nthing"), ("fix", "mend it")];
        let meta = meta.into_iter().filter(|(_, text)| !text.is_empty());
        let meta: BTreeMap<String, String> = meta.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        Match { file: "set/x.yar".to_owned(), rule: "one".to_owned(), offset: Some(1), line: Some(7), meta }
    };
    for severity in ["error", "critical", "warning", "high", "medium", "", "nonsense", "low", "note"] {
        found.matched("a.js", &one(severity, ""));
    }
    found.matched("a.js", &one("error", "*.py"));
    assert_eq!((found.errors.len(), found.warnings.len(), found.notes.len()), (2, 5, 2));
    let first = &found.errors[0];
    assert_eq!((first.severity, first.rule.as_str(), first.subject.as_str()), (Severity::Error, "pattern", "one a.js"));
    assert_eq!(first.message, "Bad\\nthing (set/x.yar, line 7)");
    assert_eq!(first.fix.as_deref(), Some("mend it"));
}

/// The metadata of our own rules, without the engine: `name = "text"` lines of each rule.
fn own_rules() -> Vec<(&'static str, BTreeMap<&'static str, &'static str>)> {
    let mut rules: Vec<(&str, BTreeMap<&str, &str>)> = Vec::new();
    for line in OWN.iter().flat_map(|(_, text)| text.lines()) {
        if let Some(name) = line.strip_prefix("rule ") {
            rules.push((name, BTreeMap::new()));
        } else if let (Some((key, text)), Some((_, meta))) = (line.trim().split_once(" = \""), rules.last_mut())
            && !key.starts_with('$')
        {
            meta.insert(key, text.strip_suffix('"').unwrap());
        }
    }
    rules
}

#[test]
fn our_own_rules_are_whole_and_documented() {
    let document = include_str!("../../../../docs/patterns.md");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    let there: BTreeSet<String> =
        folder.read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, OWN.iter().map(|(name, _)| (*name).to_owned()).collect(), "all files are built in");
    let rules = own_rules();
    assert!(rules.len() > 20, "{}", rules.len());
    let mut names = BTreeSet::new();
    for (name, meta) in rules {
        assert!(name.starts_with("mcpfs_") && names.insert(name), "{name}");
        for key in ["description", "severity", "reference", "looks_like", "false_positives", "fix"] {
            assert!(meta.get(key).is_some_and(|text| !text.is_empty()), "{name} has no {key}");
        }
        assert!(["error", "warning", "note"].contains(&meta["severity"]), "{name}");
        let row =
            format!("| `{name}` | {} | {} | {} |", meta["severity"], meta["description"], meta["false_positives"]);
        assert!(document.contains(&row), "docs/patterns.md lacks: {row}");
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("yara/samples");
        let has =
            sample.read_dir().unwrap().any(|file| file.unwrap().path().file_stem().is_some_and(|stem| stem == name));
        assert!(has, "signer/yara/samples has no {name}.*");
    }
}
