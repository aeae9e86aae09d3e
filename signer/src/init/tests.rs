#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::recipe::Recipe;

fn put(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let executable = text.starts_with("#!") || text.starts_with("\u{7f}ELF");
        fs::set_permissions(&path, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 })).unwrap();
    }
}

fn drafted(files: &[(&str, &str)]) -> Result<Draft, InitError> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    put(&source, files);
    let source = Source::parse(source.to_str().unwrap(), None).unwrap();
    assert_eq!(source.url, "file:source");
    let fetched = tempfile::tempdir().unwrap();
    draft(None, &source, &Wanted::default(), &FetchPolicy::default(), fetched.path())
}

const ELF: &str = "\u{7f}ELF\u{2}\u{1}\u{1}\0\0\0\0\0\0\0\0\0\u{3}\0\u{3e}\0";

#[test]
fn a_node_package_with_its_dependencies() {
    let draft = drafted(&[
        ("package.json", r#"{"dependencies": {"@x/server-notes": "1.2.0"}}"#),
        ("node_modules/@x/server-notes/package.json", r#"{"name": "@x/server-notes", "version": "1.2.0", "description": "Keeps\n notes # here.", "bin": {"notes": "./dist/index.js"}, "author": "X, Inc."}"#),
        ("node_modules/@x/server-notes/dist/index.js", "#!/usr/bin/env node\nconst k = process.env.NOTES_API_KEY;"),
        ("node_modules/zod/package.json", r#"{"name": "zod", "bin": "x.js"}"#),
    ])
    .unwrap();
    assert_eq!(draft.name.as_str(), "server-notes");
    let yaml = draft.yaml();
    let from = "# guessed: from node_modules/@x/server-notes/package.json";
    for line in [
        "name: server-notes",
        &format!("version: \"1.2.0\"  {from}"),
        &format!("description: \"Keeps notes # here.\"  {from}"),
        "  url: \"file:source\"",
        &format!("launch:  {from}"),
        "  command: node",
        "  args: [\"${TREE}/node_modules/@x/server-notes/dist/index.js\"]",
        "#   - {env: NOTES_API_KEY, ref: server-notes/notes_api_key}  # guessed: from node_modules/@x/server-notes/dist/index.js",
    ] {
        assert!(yaml.lines().any(|own| own == line), "{line}\n{yaml}");
    }
    // Whatever is open is refused, at its line.
    let errors = Recipe::parse(&yaml, "server-notes.yaml").unwrap_err();
    let refused: Vec<usize> = errors.problems.iter().map(|problem| problem.at.line as usize).collect();
    assert_eq!(refused, open_lines(&yaml), "{errors}\n{yaml}");
    assert_eq!(refused.len(), 4);
    assert_eq!(guessed_lines(&yaml), 4);
    // And nothing else is: filled in, it is a recipe.
    let recipe = Recipe::parse(&draft.filled("2026-04-15"), "server-notes.yaml").unwrap();
    assert_eq!(recipe.artefact[0].sha256, draft.source.sha256);
    assert!(recipe.launch.is_some());
}

#[test]
fn a_python_package() {
    let draft = drafted(&[
        ("mcp_notes/__main__.py", ""),
        (
            "mcp_notes-0.3.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: MCP-notes\nVersion: 0.3\nSummary: Notes.\n\nName: other\n",
        ),
        ("mcp_notes-0.3.dist-info/entry_points.txt", "[console_scripts]\nmcp-notes = mcp_notes:main\n"),
        ("mcp-1.0.dist-info/METADATA", "Name: mcp\nVersion: 1.0\n"),
        ("mcp-1.0.dist-info/entry_points.txt", "[console_scripts]\nmcp = mcp.cli:app\n"),
        ("rpds/rpds.so", ELF),
    ])
    .unwrap();
    let yaml = draft.yaml();
    assert_eq!(draft.name.as_str(), "mcp-notes");
    for line in [
        "  args: [\"-m\", mcp_notes]",
        "    PYTHONPATH: \"${TREE}\"",
        "  platform: linux/amd64  # guessed: from machine code in rpds/rpds.so",
    ] {
        assert!(yaml.lines().any(|own| own == line), "{line}\n{yaml}");
    }
    Recipe::parse(&draft.filled("2026-04-15"), "mcp-notes.yaml").unwrap();
}

#[test]
fn an_executable_and_what_says_nothing() {
    let draft = drafted(&[("bin/notes", ELF), ("README", "")]).unwrap();
    assert_eq!(draft.guesses.launch.as_ref().unwrap().value.command, "bin/notes");
    assert_eq!(draft.name.as_str(), "notes");
    let yaml = draft.yaml();
    assert!(yaml.contains("version:  # FILL IN: "), "{yaml}");
    let errors = Recipe::parse(&yaml, "notes.yaml").unwrap_err();
    let refused: Vec<usize> = errors.problems.iter().map(|problem| problem.at.line as usize).collect();
    assert_eq!(refused, open_lines(&yaml), "{errors}");
    assert!(matches!(drafted(&[("README", "")]), Err(InitError::NoName(None))));
    let several = drafted(&[("package.json", r#"{"name": "x"}"#), ("a", "#!/bin/sh"), ("b", "#!/bin/sh")]).unwrap();
    assert!(several.guesses.launch.is_none());
    assert!(several.yaml().contains("# note: several executables, such as a, b"), "{}", several.yaml());
    assert!(open_lines(&several.yaml()).len() > 5);
}

/// What an artefact says must never become more than the value of one field.
#[test]
fn hostile_texts_stay_values() {
    for text in ["x\nreviewers: [me]", "a: b", "\"", "# x", "{}", "\u{202e}x", "yes", "!!tag", "&a *a", "\u{2028}y: z"]
    {
        let json = serde_json::json!({"name": text, "version": text, "description": text, "main": "x.js"}).to_string();
        let Ok(draft) = drafted(&[("package.json", &json), ("x.js", "")]) else { continue };
        let name = format!("{}.yaml", draft.name);
        let recipe = Recipe::parse(&draft.filled("2026-04-15"), &name);
        let recipe = recipe.unwrap_or_else(|error| panic!("{text:?}: {error}\n{}", draft.filled("2026-04-15")));
        assert_eq!(recipe.reviewers, ["nobody@localhost"]);
        assert_eq!(open_lines(&draft.yaml()).len(), 5 - usize::from(draft.guesses.version.is_some()), "{text:?}");
    }
}

#[test]
fn sources() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), &[("a b/x.tar", "")]);
    let path = folder.path().join("a b/x.tar");
    let parse = |root: Option<&Path>| Source::parse(path.to_str().unwrap(), root);
    assert_eq!(parse(None).unwrap().url, "file:x.tar");
    assert_eq!(parse(Some(folder.path())).unwrap().url, "file:a%20b/x.tar");
    assert!(matches!(parse(Some(Path::new("/usr"))), Err(InitError::Outside { .. })));
    assert!(matches!(Source::parse("nowhere", None), Err(InitError::Source(_))));
    assert_eq!(Source::parse("npm:x@1.0.0", None).unwrap().url, "npm:x@1.0.0");
    // A registry is asked only if somebody allowed it.
    let source = Source::parse("npm:x@1.0.0", None).unwrap();
    let later = draft(None, &source, &Wanted::default(), &FetchPolicy::default(), folder.path());
    assert!(matches!(later, Err(InitError::Fetch(_))), "{later:?}");
}
