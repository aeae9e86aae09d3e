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

/// Each key arrives where the option of `check` of the same meaning does.
#[test]
fn keys_are_what_options_are() {
    let folder = tempfile::tempdir().unwrap();
    let logins = folder.path().join("auth.json");
    std::fs::write(&logins, r#"{"auths": {"registry.example.com": {"username": "bot", "password": "p-31"}}}"#).unwrap();
    std::fs::set_permissions(&logins, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let artefacts = format!(
        "allow_registries = [\"npm\", \"pypi\"]\nnpmrc = \"/etc/npmrc\"\npip_conf = \"/etc/pip.conf\"\n\
         tag_signers = \"/etc/signers\"\nregistry_auth = {logins:?}\nosv = [\"/a.zip\", \"/b\"]\nosv_sha256 = [\"{}\"]\n",
        "0".repeat(64)
    );
    let check = "audit = [\"npm\", \"pypi\"]\naudit_osv_url = \"https://osv.example.com/v1/query\"\naudit_timeout = \"5m\"\n\
                 run = true\npatience = \"90s\"\nruntimes = {node = \"/opt/node/bin/node\"}\npatterns = [\"builtin\"]\n";
    let text = EXAMPLE.replace("# allow_registries = [\"npm\", \"pypi\"]\n", &artefacts);
    let text = format!("{}[check]\n{check}", text.split("[check]").next().unwrap());
    let config = read(&text).unwrap();
    let policy = config.artefacts.fetch_policy().unwrap();
    assert_eq!(format!("{:?}", policy.registries), "[Npm, Pypi]");
    let tools = [&policy.tools.npmrc, &policy.tools.pip_conf, &policy.tools.allowed_signers];
    let expected = ["/etc/npmrc", "/etc/pip.conf", "/etc/signers"].map(|path| Some(PathBuf::from(path)));
    assert_eq!(tools.map(Clone::clone), expected);
    assert!(policy.tools.sandbox, "there is no key that takes it away");
    let shown = format!("{:?} {config:?}", policy.logins);
    assert!(shown.contains("registry.example.com") && !shown.contains("p-31"), "{shown}");
    let lookups = config.artefacts.lookups(&config.check).unwrap();
    assert_eq!(lookups.snapshots, [PathBuf::from("/a.zip"), PathBuf::from("/b")]);
    assert_eq!((lookups.pins.len(), format!("{:?}", lookups.audit)), (1, "[Npm, Pypi]".to_owned()));
    assert_eq!(lookups.asking.osv_url.unwrap().as_str(), "https://osv.example.com/v1/query");
    assert_eq!(lookups.asking.limit.as_secs(), 300);
    let trial = config.check.trial().unwrap();
    assert_eq!((trial.patience.as_secs(), &trial.runtimes["node"]), (90, &PathBuf::from("/opt/node/bin/node")));
    assert!(config.check.patterns().unwrap().is_some());
    // Nothing is looked at unless it is asked for, as with the options.
    let plain = read(EXAMPLE).unwrap();
    assert!(plain.check.trial().is_none() && plain.check.patterns().unwrap().is_none());
    assert!(plain.artefacts.lookups(&plain.check).unwrap().audit.is_empty());
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
