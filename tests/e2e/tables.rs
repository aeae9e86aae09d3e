//! The tables of docs/threat-model.md and docs/tuf-conformance.md are what the tests are registered with.
//!
//! `MCPFS_BLESS=1` writes them again, for a reviewer to read. Whether a test asserts what its row
//! says is seen when it runs (tests/src/proof.rs).

use std::collections::BTreeMap;
use std::path::PathBuf;

use mcpfs_tests::scratch;
use mcpfs_tests::suite::{Attack, Suite};

use crate::tuf::{Port, SUITE, test_of};

pub(crate) fn register(suite: &mut Suite) {
    let attacks = suite.attacks().to_vec();
    suite.prepared("tables::each_attack_has_its_row", move || each_attack_has_its_row(&attacks));
    let names = suite.names();
    let named = names.clone();
    suite.prepared("tables::what_the_pages_name_exists", move || what_the_pages_name_exists(&named));
    suite.prepared("tables::what_executes_a_section_exists", move || what_executes_a_section_exists(&names));
    suite.plain("tables::each_scenario_has_its_row", each_scenario_has_its_row);
}

const BEGIN: &str = "<!-- what the tests are registered with -->\n";
const END: &str = "<!-- end -->\n";

fn page(name: &str) -> PathBuf {
    scratch::repository().join("docs").join(name)
}

/// Puts what `table` gives for each heading between the marks below it; the page must already be so.
fn compare(name: &str, mut table: impl FnMut(&str) -> String) {
    let text = std::fs::read_to_string(page(name)).unwrap();
    let (mut wanted, mut rest) = (String::new(), text.as_str());
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (_, left) = after.split_once(END).expect("a table ends");
        wanted.push_str(before);
        let heading = wanted.rsplit("\n## ").next().and_then(|section| section.lines().next()).expect("a heading");
        let table = table(heading);
        wanted += &format!("{BEGIN}{table}{END}");
        rest = left;
    }
    wanted.push_str(rest);
    if std::env::var_os("MCPFS_BLESS").is_some() {
        std::fs::write(page(name), &wanted).unwrap();
        return;
    }
    let differing = text.lines().zip(wanted.lines()).find(|(is, should)| is != should);
    assert!(text == wanted, "docs/{name} is not what the tests say (MCPFS_BLESS=1 writes it): {differing:#?}");
}

fn codes(outcomes: &[&str]) -> String {
    outcomes.iter().map(|outcome| format!("`{outcome}`")).collect::<Vec<_>>().join(", ")
}

fn each_attack_has_its_row(attacks: &[Attack]) {
    let mut from: BTreeMap<&str, Vec<&Attack>> = BTreeMap::new();
    for attack in attacks {
        assert!(!attack.outcomes.is_empty(), "{} has no outcome", attack.test);
        from.entry(attack.from).or_default().push(attack);
    }
    // They have a page of their own.
    from.remove("tuf-conformance");
    compare("threat-model.md", |heading| {
        let rows = from.remove(heading).unwrap_or_default();
        assert!(!rows.is_empty(), "no attack is registered from {heading:?}");
        let row = |one: &&Attack| format!("| {} | {} | `{}` |\n", one.what, codes(one.outcomes), one.test);
        format!("| attack | outcome | test |\n|---|---|---|\n{}", rows.iter().map(row).collect::<String>())
    });
    assert!(from.is_empty(), "docs/threat-model.md has no section for {:?}", from.keys());
}

fn each_scenario_has_its_row() {
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for (file, scenarios) in SUITE {
        let rows = files.entry(file).or_default();
        for scenario in scenarios {
            let (test, outcome) = match scenario.port {
                Port::Plain(outcomes, _) | Port::Mounted(outcomes, _) => {
                    (format!(" `{}`", test_of(scenario)), codes(outcomes))
                }
                Port::None => (String::new(), "none".to_owned()),
            };
            *rows += &format!("| {} | {}{test} | {outcome} |\n", scenario.name, scenario.here);
        }
    }
    compare("tuf-conformance.md", |heading| {
        let rows = files.remove(heading).unwrap_or_else(|| panic!("no scenario is of {heading:?}"));
        format!("| scenario | here | outcome |\n|---|---|---|\n{rows}")
    });
    assert!(files.is_empty(), "docs/tuf-conformance.md has no section for {:?}", files.keys());
}

/// Whether there is a test of this name, or one that begins so where it ends with a star.
fn known(names: &[String], wanted: &str) -> bool {
    let exact = |known: &String| known == wanted || known.strip_prefix(wanted).is_some_and(|it| it.starts_with(" ["));
    let found = match wanted.strip_suffix('*') {
        Some(room) => names.iter().any(|known| known.starts_with(room)),
        None => names.iter().any(exact),
    };
    // Some are for root alone, and not registered for others.
    let written = || {
        let (room, _) = wanted.split_once("::").expect("a room");
        let text = std::fs::read_to_string(scratch::repository().join(format!("tests/e2e/{room}.rs")));
        text.is_ok_and(|text| text.contains(&format!("\"{}", wanted.trim_end_matches('*'))))
    };
    found || (!scratch::is_root() && written())
}

/// Tests are named as `room::test` in prose too.
fn what_the_pages_name_exists(names: &[String]) {
    for name in ["threat-model.md", "tuf-conformance.md"] {
        let text = std::fs::read_to_string(page(name)).unwrap();
        let spans = text.split('`').skip(1).step_by(2).filter(|span| span.contains("::") && *span != "room::test");
        for span in spans {
            assert!(known(names, span), "docs/{name}: no test {span}");
        }
    }
}

/// A section that tests execute says which, in a comment for its writers.
fn what_executes_a_section_exists(names: &[String]) {
    let mut sections = 0;
    for page in std::fs::read_dir(scratch::repository().join("docs")).unwrap() {
        let path = page.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for comment in text.split("<!-- Executed by ").skip(1) {
            let (comment, _) = comment.split_once("-->").expect("a comment ends");
            let mut tests = 0;
            let other = |letter: char| !(letter.is_ascii_alphanumeric() || "_:*".contains(letter));
            for name in comment.split(other).map(|word| word.trim_end_matches(':')).filter(|word| word.contains("::")) {
                // Unit tests are named by their whole path.
                if name.matches("::").count() == 1 {
                    assert!(known(names, name), "{}: no test {name}", path.display());
                    tests += 1;
                }
            }
            assert!(tests > 0, "{}: no test in {comment:?}", path.display());
            sections += 1;
        }
    }
    assert!(sections > 10, "{sections}");
}
