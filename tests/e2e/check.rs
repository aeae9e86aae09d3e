//! What a reviewer reads before anything is signed.

use mcpfs_tests::command::Run;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::suite::Suite;
use serde_json::Value;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("check::a_pull_request_is_told_what_changed", a_pull_request_is_told_what_changed);
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
