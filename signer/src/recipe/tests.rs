#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

const SHA: &str = "3f9a000000000000000000000000000000000000000000000000000000000000";

/// The article's example, verbatim but for the digest.
const ARTICLE: &str = "\
# servers/internal-postgres.yaml
name: internal-postgres
version: 1.2.0
maintainer: data-platform@example.com
description: Read-only access to the finance data warehouse.
scope:
  - read:finance.*
data_classification: confidential
lawful_basis: contract
reviewed_at: 2026-04-15
reviewers:
  - security@example.com
  - data-platform@example.com
artefact:
  url: oci://registry.example.com/mcp/postgres:1.2.0
  sha256: 3f9a000000000000000000000000000000000000000000000000000000000000
signature: base64:...
";

fn minimal(more: &str) -> String {
    format!(
        "name: x\nversion: 1\nmaintainer: m\ndescription: d\ndata_classification: public\n\
         reviewed_at: 2026-04-15\nreviewers: [r]\nartefact: {{url: 'file:x.tar', sha256: '{SHA}'}}\n{more}"
    )
}

fn errors(text: &str) -> String {
    Recipe::parse(text, "servers/x.yaml").unwrap_err().to_string()
}

#[test]
fn the_articles_example_passes() {
    let recipe = Recipe::parse(ARTICLE, "servers/internal-postgres.yaml").unwrap();
    assert_eq!(recipe.name.as_str(), "internal-postgres");
    assert_eq!(recipe.version.as_str(), "1.2.0");
    assert_eq!(recipe.scope, ["read:finance.*"]);
    assert_eq!(recipe.reviewers.len(), 2);
    assert_eq!(recipe.lawful_basis.as_deref(), Some("contract"));
    assert_eq!(recipe.signature.as_deref(), Some("base64:..."));
    assert_eq!(recipe.artefact.len(), 1);
    assert!(recipe.artefact[0].platform.is_any());
    assert_eq!(recipe.place("data_classification"), Position { line: 8, column: 22 });
    assert_eq!(recipe.place("reviewers[1]"), Position { line: 13, column: 5 });
}

#[test]
fn the_full_form_passes() {
    let recipe = Recipe::parse(
        &minimal(
            "launch:\n  command: node\n  args: [dist/index.js]\n  env: {LOG_LEVEL: info, N: 3, \
             MEMORY_FILE_PATH: \"${STATE}/memory.jsonl\"}\n  accept_args: false\n  runtime: host\n  \
             platform: linux/amd64\ncredentials:\n  - {env: PGPASSWORD, ref: finance-dw/readonly, \
             scope: \"read:finance.*\"}\nsandbox: {network: host, read: [], write: []}\n",
        ),
        "x.yaml",
    )
    .unwrap();
    let launch = recipe.launch.unwrap();
    assert_eq!(launch.command, "node");
    assert_eq!(launch.env["MEMORY_FILE_PATH"], "${STATE}/memory.jsonl");
    assert_eq!(launch.env["N"], "3");
    assert_eq!(recipe.artefact[0].platform.as_str(), "linux/amd64");
    assert_eq!(recipe.credentials[0].reference, "finance-dw/readonly");
    assert_eq!(recipe.sandbox.unwrap().network, mcpfs_trust::release::Network::Host);
}

#[test]
fn plain_scalars_keep_their_spelling() {
    for version in ["1.20", "1e5", "0x10", "007", "1_0", "1.0.0+r2", "20260831", "1e999"] {
        let text = minimal("").replace("version: 1\n", &format!("version: {version}\n"));
        match Recipe::parse(&text, "x.yaml") {
            Ok(recipe) => assert_eq!(recipe.version.as_str(), version),
            Err(error) => assert!(version.contains('_'), "{error}"),
        }
    }
    // All digits: a YAML number of 64 places, and still a digest.
    let digits = "1".repeat(64);
    let text = minimal("").replace(&format!("'{SHA}'"), &digits);
    assert_eq!(Recipe::parse(&text, "x.yaml").unwrap().artefact[0].sha256.to_string(), digits);
}

#[test]
fn several_artefacts_by_platform() {
    let list = |second: &str| {
        minimal("").replace(
            &format!("{{url: 'file:x.tar', sha256: '{SHA}'}}"),
            &format!("\n  - {{url: 'file:a', sha256: '{SHA}', platform: linux/amd64}}\n  - {{url: 'file:b', sha256: '{SHA}'{second}}}"),
        )
    };
    assert_eq!(Recipe::parse(&list(", platform: linux/arm64"), "x.yaml").unwrap().artefact.len(), 2);
    assert_eq!(
        errors(&list("")),
        "servers/x.yaml:10:5: artefact[1]: each of several artefacts needs a platform of its own"
    );
    assert_eq!(
        errors(&list(", platform: linux/amd64")),
        "servers/x.yaml:10:5: artefact[1]: another artefact of this list has the same platform"
    );
}

#[test]
fn every_problem_is_told_with_its_line() {
    let text = "name: Xs\nversion: v1\nmaintainer: m\ndescription: d\nscope: all\n\
                data_classification: public\nlawfull_basis: contract\nreviewed_at: 2026-02-30\nreviewers:\n\
                artefact:\n  url: ftp://example.com/x\n  sha256: 3f9a...\nlaunch:\n  comand: node\n  runtime: vm\n";
    assert_eq!(
        errors(text),
        "\
servers/x.yaml:1:7: name: not a server name (1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit): \"Xs\"
servers/x.yaml:2:10: version: not a version (1 to 64 of 0-9 A-Z a-z . + -, beginning with a digit): \"v1\"
servers/x.yaml:5:8: scope: expected a list, found a text
servers/x.yaml:7:1: unknown field \"lawfull_basis\": did you mean lawful_basis?
servers/x.yaml:8:14: reviewed_at: not a date such as 2026-04-15
servers/x.yaml:9:1: reviewers: must not be empty
servers/x.yaml:11:8: artefact.url: scheme \"ftp\" is not one of: https, http, file, oci, git+https, git+file, npm, pypi
servers/x.yaml:12:11: artefact.sha256: not a SHA-256 digest (64 lowercase hexadecimal digits): \"3f9a...\"
servers/x.yaml:14:3: launch: unknown field \"comand\": did you mean command?
servers/x.yaml:14:3: launch.command: missing
servers/x.yaml:15:12: launch.runtime: \"vm\" is not one of: host, image"
    );
}

#[test]
fn rules_of_the_release_format_have_lines_too() {
    for (more, want) in [
        (
            "launch: {command: ../sh}\n",
            "9:19: launch.command: neither a path inside the tree nor the name of a runtime",
        ),
        (
            "launch:\n  command: a\n  env:\n    LD_PRELOAD: x\n",
            "12:5: launch.env: LD_PRELOAD would change what the loader loads",
        ),
        (
            "launch: {command: x, env: {A: b}}\ncredentials:\n  - {env: A, ref: a}\n",
            "11:5: credentials[0]: A is a variable of launch.env already",
        ),
        (
            "credentials:\n  - {env: A, ref: a}\n  - {file: A, ref: a}\n  - {env: A, ref: b}\n",
            "12:5: credentials[2]: A is another credential already",
        ),
        ("credentials:\n  - {ref: a}\n", "10:5: credentials[0]: needs either env (a variable) or file (a file name)"),
        ("scope: [\"a\\nb\"]\n", "9:8: scope: must be one line without control characters"),
    ] {
        let found = errors(&minimal(more));
        if more.contains("LD_") {
            assert!(found.contains("LD_PRELOAD would change what the loader loads"), "{found}");
        } else {
            assert_eq!(found, format!("servers/x.yaml:{want}"));
        }
    }
}

#[test]
fn what_a_reviewer_cannot_see_is_refused() {
    for (text, want) in [
        (minimal("scope: &a [x]\n"), "9:11: anchors and aliases are not allowed"),
        (minimal("scope: *a\n"), "9:8: anchors and aliases are not allowed"),
        (minimal("<<: {scope: [x]}\n"), "9:1: merge keys (<<) are not allowed"),
        (minimal("name: y\n"), "9:1: the field name stands here a second time, first on line 1"),
        (minimal("launch: {command: a, command: b}\n"), "9:22: the field command stands here a second time"),
        (minimal("scope: !include /etc/passwd\n"), "9:17: tags such as !x or !!x are not allowed"),
        (minimal("---\nname: y\n"), "9:1: a recipe is one document"),
        (minimal(&format!("scope: {}\n", "[".repeat(40) + &"]".repeat(40))), "nested too deeply"),
        ("x".repeat(Recipe::BYTES + 1), "at most 65536"),
        ("- a\n".to_owned(), "expected a mapping, found a list"),
        (String::new(), "expected a mapping, found nothing"),
        ("\u{0}".to_owned(), "1:1: the invisible character U+0000"),
    ] {
        let found = errors(&text);
        assert!(found.contains(want), "{text:.300}\n{found}");
        assert!(found.starts_with("servers/x.yaml:"), "{found}");
    }
    let secret = minimal("").replace("file:x.tar", "https://u:p@example.com/x");
    assert!(errors(&secret).contains("must not contain a user or password"));
}

/// Each as file, line, column, what is wrong, and what would be right.
#[test]
fn text_that_is_not_yaml_is_told_in_words() {
    for (wrong, want, right) in [
        ("scope:\n\t- x\n", "10:2: a tab, where YAML takes only spaces", "scope:\n  - x\n"),
        (
            "launch:\n  command: a\n   args: [b]\n",
            "11:8: indented more deeply than the line above",
            "launch:\n  command: a\n  args: [b]\n",
        ),
        (
            "launch:\n  command: a\n args: [b]\n",
            "11:2: indented unlike the lines around it",
            "launch:\n  command: a\n  args: [b]\n",
        ),
        (" scope: [x]\n", "9:2: indented unlike the lines around it", "scope: [x]\n"),
        (
            "scope: [\"abc]\nlaunch: {command: a}\n",
            "9:9: the quote that begins here is never closed",
            "scope: [\"abc\"]\nlaunch: {command: a}\n",
        ),
        ("scope: ['abc]\n", "9:9: the quote that begins here is never closed", "scope: ['abc']\n"),
        (
            "scope: [a, b\nlaunch:\n  command: a\n",
            "10:7: a ':' inside [ ] or { }",
            "scope: [a, b]\nlaunch:\n  command: a\n",
        ),
        ("launch: {command: a\n", "9:9: the bracket that begins here is never closed", "launch: {command: a}\n"),
        ("scope: [a]]\n", "9:11: a closing bracket without an opening one", "scope: [a]\n"),
        ("maintainer: y\n", "9:1: the field maintainer stands here a second time, first on line 3", ""),
        ("lawful_basis: a: b\n", "9:16: a second \": \" on this line", "lawful_basis: \"a: b\"\n"),
        ("lawful_basis: @x\n", "9:15: a text cannot begin with @: put it in quotes", "lawful_basis: \"@x\"\n"),
        ("scope: - a\n", "9:8: a list does not begin with -", "scope:\n- a\n"),
        ("lawful_basis:contract\n", "9:1: no field: write \"name: value\"", "lawful_basis: contract\n"),
        ("lawful_basis: 'it's'\n", "9:19: text behind the closing quote", "lawful_basis: 'it''s'\n"),
        ("lawful_basis: [a], b\n", "9:18: text behind the end of the value", "lawful_basis: \"[a], b\"\n"),
        (
            "lawful_basis: \"C:\\dir\"\n",
            "9:15: between two \" a backslash begins an escape",
            "lawful_basis: 'C:\\dir'\n",
        ),
        (
            "launch: {command: node, args: [${TREE}/x]}\n",
            "9:33: items in [ ] and fields in { } are separated by commas",
            "launch: {command: node, args: [\"${TREE}/x\"]}\n",
        ),
        ("scope: [a,,b]\n", "9:11: an item is missing beside a comma", "scope: [a, b]\n"),
        ("[a]: x\n", "9:1: the name of a field is a word", ""),
        ("scope: [\u{7}]\n", "9:9: the invisible character U+0007", "scope: []\n"),
        ("scope: !!binary x\n", "9:17: tags such as !x or !!x are not allowed", "scope: [x]\n"),
        (
            "scope: &a [x]\n",
            "9:11: anchors and aliases are not allowed in a recipe: write the value itself",
            "scope: [x]\n",
        ),
    ] {
        let found = errors(&minimal(wrong));
        assert!(found.starts_with(&format!("servers/x.yaml:{want}")), "{wrong}\n{found}");
        assert!(!found.contains("not YAML"), "the parser's own words: {found}");
        Recipe::parse(&minimal(right), "servers/x.yaml").unwrap_or_else(|error| panic!("{right}\n{error}"));
    }
}

#[test]
fn the_file_is_named_after_the_server() {
    let error = Recipe::parse(&minimal(""), "servers/y.yaml").unwrap_err().to_string();
    assert_eq!(error, "servers/y.yaml:1:7: name: is x, so the file must be called x.yaml, not y.yaml");
}

#[test]
fn reader_and_schema_know_the_same_fields() {
    let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
    let keys = |value: &serde_json::Value| {
        let mut keys: Vec<String> = value["properties"].as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    let sorted = |names: &[&str]| {
        let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(keys(&schema), sorted(read::RECIPE));
    for (name, fields) in [
        ("Artefact", read::ARTEFACT),
        ("Launch", read::LAUNCH),
        ("Credential", read::CREDENTIAL),
        ("Sandbox", read::SANDBOX),
    ] {
        assert_eq!(keys(&schema["$defs"][name]), sorted(fields), "{name}");
    }
}

/// `UPDATE_SCHEMA=1 cargo test -p mcpfs-signer schema` writes the file after a change on purpose.
#[test]
fn the_schema_is_frozen() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/recipe.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/schema")).unwrap();
        std::fs::write(path, json_schema()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), json_schema(), "the schema changed: see UPDATE_SCHEMA above");
}

#[test]
fn sources_have_what_pins_them() {
    let artefact = |fields: &str| {
        let text = minimal("");
        let (before, after) = text.split_once("artefact: {url: 'file:x.tar'").unwrap();
        format!("{before}artefact: {{{fields}{after}")
    };
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for good in [
        "url: 'npm:@s/x@1.0.0', lock: x.lock.json",
        "url: npm:x@1.0.0, lock: locks/x.json, platform: linux/arm64",
        "url: pypi:x==1.0, lock: x.lock.txt, python: 3.11",
        &format!("url: 'git+https://git.example.com/x.git#v1', commit: {commit}"),
        &format!("url: 'git+file:x.git#v1', commit: '{commit}'"),
    ] {
        assert!(Recipe::parse(&artefact(good), "x.yaml").is_ok(), "{good}");
    }
    let recipe = Recipe::parse(&artefact("url: pypi:x==1.0, lock: a/b.txt, python: 3.11"), "x.yaml").unwrap();
    let inputs = &recipe.artefact[0].inputs;
    assert_eq!(inputs.lock.as_deref(), Some("a/b.txt"));
    assert_eq!(inputs.python.unwrap().to_string(), "3.11");
    for (bad, says) in [
        ("url: npm:x@1.0.0", "artefact.lock: missing: the lockfile"),
        ("url: npm:x@^1, lock: x", "artefact.url: \"npm:x@^1\" is not a source"),
        ("url: npm:x@1.0.0, lock: ../x", "artefact.lock: not a path below the recipe's folder"),
        ("url: npm:x@1.0.0, lock: /x", "artefact.lock: not a path below"),
        ("url: npm:x@1.0.0, lock: x, python: 3.11", "artefact: python does not belong to"),
        ("url: pypi:x==1.0, lock: x", "artefact.python: missing: the version of Python"),
        ("url: pypi:x==1.0, lock: x, python: 3", "artefact.python: \"3\" is not a version"),
        ("url: 'git+https://git.example.com/x'", "is not a source"),
        ("url: 'git+https://git.example.com/x#v1'", "artefact.commit: missing: the full id"),
        ("url: 'git+https://git.example.com/x#v1', commit: abc", "is not the full id of a commit"),
        ("url: 'file:x.tar', commit: 0123456789abcdef0123456789abcdef01234567", "artefact: commit does not belong"),
        ("url: 'https://example.com/x.tar', lock: x", "artefact: lock does not belong"),
    ] {
        let said = errors(&artefact(bad));
        assert!(said.contains(says), "{bad}: {said}");
    }
}
