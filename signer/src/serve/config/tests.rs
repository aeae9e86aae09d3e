#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;

const EXAMPLE: &str = include_str!("../../../systemd/serve.toml");

fn read(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serve.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    Config::read(&path)
}

#[test]
fn the_example_is_one_and_says_the_defaults() {
    let config = read(EXAMPLE).unwrap();
    assert_eq!((config.poll, config.listen), (default_poll(), default_listen()));
    assert_eq!((config.site.resign_after, config.site.expires_days), (default_resign(), default_expires()));
    assert_eq!(config.repository.user, "x-access-token");
    assert!(config.repository.require_protection);
    // What has a default may be left out.
    let short: Vec<&str> = EXAMPLE
        .lines()
        .filter(|line| {
            !["listen", "poll", "branch", "expires_days", "resign_after"].iter().any(|key| line.starts_with(key))
        })
        .collect();
    let same = read(&short.join("\n")).unwrap();
    assert_eq!(format!("{same:?}"), format!("{config:?}"));
}

#[test]
fn every_key_is_documented() {
    let docs = include_str!("../../../../docs/publishing.md");
    for key in [
        "state",
        "listen",
        "poll",
        "report",
        "repository.forge",
        "repository.api",
        "repository.name",
        "repository.url",
        "repository.branch",
        "repository.token_file",
        "repository.user",
        "repository.ca_file",
        "repository.require_protection",
        "reviewers",
        "approvals.allowed_signers",
        "approvals.policy",
        "approvals.start",
        "hooks.secret_file",
        "site.address",
        "site.endpoint",
        "site.region",
        "site.public",
        "site.trust",
        "site.expires_days",
        "site.resign_after",
        "keys.head",
        "keys.release",
        "artefacts.file_root",
        "artefacts.allow_hosts",
        "artefacts.allow_networks",
        "artefacts.ca_files",
        "artefacts.allow_registries",
        "artefacts.npmrc",
        "artefacts.pip_conf",
        "artefacts.tag_signers",
        "artefacts.registry_auth",
        "artefacts.osv",
        "artefacts.osv_sha256",
        "check.audit",
        "check.audit_osv_url",
        "check.audit_timeout",
        "check.run",
        "check.runtimes",
        "check.patience",
        "check.patterns",
    ] {
        assert!(docs.contains(&format!("| `{key}` |")), "docs/publishing.md does not explain {key}");
    }
}

#[test]
fn mistakes_are_told() {
    for (from, to, says) in [
        ("report = true", "reports = true", "reports"),
        ("poll = \"5m\"", "poll = \"0s\"", "0s"),
        ("poll = \"5m\"", "poll = 300", "poll"),
        ("forge = \"github\"", "forge = \"sourceforge\"", "sourceforge"),
        ("alice-at-github = \"alice@example.com\"", "alice-at-github = \"\"", "reviewers"),
        ("alice-at-github = \"alice@example.com\"", "alice-at-github = []", "reviewers"),
        ("alice-at-github = \"alice@example.com\"", "alice-at-github = [\"alice@example.com\", 5]", "a list of them"),
        ("policy = 1", "policy = 0", "policy"),
        ("policy = 1", "policy = 3", "more than there are reviewers"),
        ("policy = 1", "start = \"main\"", "not a full commit id"),
        (
            "# allow_registries = [\"npm\", \"pypi\"]",
            "allow_registries = [\"cargo\"]",
            "\"cargo\" is none of npm, pypi",
        ),
        ("# npmrc", "osv_sha256 = [\"abc\"] #", "artefacts.osv_sha256"),
        ("# npmrc", "registry_auth = \"/nonexistent/auth\" #", "/nonexistent/auth"),
        ("audit = []", "audit = [\"all\"]", "\"all\" is none of npm, pypi"),
        ("audit = []", "audit_osv_url = \"x\"", "check.audit_osv_url"),
        ("run = false", "run = \"yes\"", "run"),
        ("run = false", "patience = \"1h\"", "check.patience"),
        ("run = false", "runtimes = {node = \"node\"}", "check.runtimes"),
        ("patterns = []", "patterns = [\"/nonexistent\"]", "check.patterns"),
        ("head = [", "head = [] # [", "keys"),
        ("\"artefacts.example.com\"", "\"https://a/b\"", "artefacts"),
        ("resign_after = \"24h\"", "resign_after = \"168h\"", "resign_after"),
    ] {
        assert!(EXAMPLE.contains(from), "{from}");
        let error = read(&EXAMPLE.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
}
