//! The template of a registry's repository, held against the program that it calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use clap::Parser as _;
use serde_json::Value;

use super::Cli;
use crate::check::Findings;
use crate::policy::Gate;
use crate::recipe::Recipe;

fn template() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/registry")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(template().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The words of a line of shell, with its variables replaced by what they may hold.
fn words(line: &str) -> Vec<String> {
    let values = [
        ("\"$recipe\"", "servers/hello.yaml"),
        ("\"${options[@]}\"", "--registry=mcp.example.com/prod --allow-host=artefacts.example.com"),
        ("\"$results/$name.md\"", "check-results/hello.md"),
        ("\"$results/$name.sarif\"", "check-results/hello.sarif"),
        ("\"$comment\"", "check-results/comment.md"),
        ("\"$MCPFS_FORGE\"", "gitlab"),
        ("\"$MCPFS_API\"", "https://git.example.com/api/v4"),
        ("\"$MCPFS_REPOSITORY\"", "acme/mcp-registry"),
        ("\"$MCPFS_REQUEST\"", "12"),
    ];
    let line = values.iter().fold(line.to_owned(), |line, (variable, value)| line.replace(variable, value));
    line.split_whitespace().take_while(|word| !matches!(*word, "||" | ">" | "|" | ";")).map(str::to_owned).collect()
}

#[test]
fn its_recipe_policy_and_waivers_are_valid() {
    let recipe = Recipe::parse(&read("servers/hello.yaml"), "hello.yaml").unwrap();
    recipe.draft(&"mcp.example.com/prod".parse().unwrap()).unwrap();
    let gate = Gate::load(Some(&template().join("servers/hello.yaml")), None, None);
    assert!(gate.broken().is_empty(), "{:?}", gate.broken());
    assert_eq!(gate.sources().len(), 2);
    let mut findings = Findings::new();
    gate.check(&recipe, recipe.reviewed_at.start(), &[], &mut findings);
    assert!(!findings.has_errors(), "{findings}");
}

#[test]
fn every_command_of_it_and_of_the_docs_parses() {
    let script = read("ci/check.sh");
    let docs = include_str!("../../../docs/publishing.md");
    let comment = docs.lines().filter(|line| line.starts_with("mcpfs-signer comment"));
    let lines: Vec<&str> =
        script.lines().map(str::trim).filter(|line| line.starts_with("mcpfs-signer ")).chain(comment).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for line in lines {
        Cli::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{line}\n{error}"));
    }
    for option in read("ci/options").lines().filter(|line| !line.starts_with('#')) {
        Cli::try_parse_from(["mcpfs-signer", "check", "x.yaml", option])
            .unwrap_or_else(|error| panic!("{option}\n{error}"));
    }
}

#[test]
fn its_workflows_run_the_script_with_all_that_it_needs() {
    let script = read("ci/check.sh");
    let variables = ["MCPFS_BASE", "MCPFS_FORGE", "MCPFS_API", "MCPFS_REPOSITORY", "MCPFS_REQUEST"];
    assert!(
        variables.iter().all(|name| script.contains(&format!("${name}")) || script.contains(&format!("${{{name}:-")))
    );
    for (file, forge) in [(".github/workflows/check.yml", "github"), (".forgejo/workflows/check.yml", "gitea")] {
        let workflow = yaml(file);
        let steps = workflow["jobs"]["check"]["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["run"] == "ci/check.sh").unwrap();
        for name in variables.iter().chain(&["MCPFS_FORGE_TOKEN"]) {
            assert!(step["env"][name].is_string(), "{file}: {name}");
        }
        assert_eq!(step["env"]["MCPFS_FORGE"], forge);
        // A pull request's own code never runs with more rights than it has.
        assert!(workflow["on"].get("pull_request_target").is_none(), "{file}");
        assert_eq!(steps[0]["with"]["persist-credentials"], false, "{file}");
    }
    assert_eq!(yaml(".github/workflows/check.yml")["permissions"]["contents"], "read");
    let job = yaml(".gitlab-ci.yml")["check"].clone();
    assert_eq!(job["script"], serde_json::json!(["ci/check.sh"]));
    // The image's own entrypoint is the signer; a job of GitLab's begins with a shell.
    assert_eq!(job["image"]["entrypoint"], serde_json::json!([""]));
    for name in variables {
        assert!(job["variables"][name].is_string(), "{name}");
    }
    assert_eq!(job["variables"]["MCPFS_FORGE"], "gitlab");
    // No secret stands in a file or an argument.
    assert!(!script.contains("--token") && job["variables"].get("MCPFS_FORGE_TOKEN").is_none());
}

#[test]
fn what_decides_has_an_owner() {
    let owners = read("CODEOWNERS");
    for path in [
        "/policy.yaml",
        "/waivers.yaml",
        "/ci/",
        "/.github/",
        "/.forgejo/",
        "/.gitlab-ci.yml",
        "/CODEOWNERS",
        "/servers/",
    ] {
        let line = owners.lines().find(|line| line.split_whitespace().next() == Some(path));
        assert!(line.is_some_and(|line| line.contains("@acme/security")), "{path}");
        let there = template().join(path.trim_start_matches('/').trim_end_matches('/'));
        assert!(there.exists(), "{path}");
    }
}
