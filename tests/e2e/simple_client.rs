//! The site must be usable without any of our programs: the examples in signer/examples, run for real.

use std::path::PathBuf;

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::forge;
use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::scratch::{self, need};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

use crate::world::flip;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("simple_client::the_examples_accept_what_was_signed", the_examples_accept_what_was_signed);
    suite.plain("simple_client::the_examples_refuse_what_was_not", the_examples_refuse_what_was_not);
    suite.plain(
        "simple_client::the_examples_refuse_another_registrys_release",
        the_examples_refuse_another_registrys_release,
    );
}

/// The examples: a shell script with openssl, and a script for node.
fn examples() -> Vec<(PathBuf, PathBuf)> {
    let dir = scratch::repository().join("signer/examples");
    vec![
        (need("bash", "bash"), dir.join("verify-release.sh")),
        (need("node", "nodejs"), dir.join("verify-release.mjs")),
    ]
}

/// `CLIENT SITE_URL REGISTRY NAME PUBLIC_KEY.pem`
fn client(program: &(PathBuf, PathBuf), site: &Site, registry: &str, key: &str) -> Ran {
    let dir = scratch::dir();
    let pem = dir.path().join("release.pem");
    std::fs::write(&pem, Registry::shared().hsm().public_pem(key)).unwrap();
    Run::new(&program.0)
        .arg(&program.1)
        .arg(site.url().trim_end_matches('/'))
        .arg(registry)
        .arg("hello")
        .arg(&pem)
        .dir(dir.path())
        .run()
}

fn the_examples_accept_what_was_signed() {
    let registry = Registry::shared();
    let site = Site::serve(&registry.site());
    for program in examples() {
        let lines = std::fs::read_to_string(&program.1).unwrap().lines().count();
        assert!(lines <= 50, "{} is no longer simple: {lines} lines", program.1.display());
        let ran = client(&program, &site, registry.name(), RELEASE_KEY);
        assert!(ran.code == 0 && ran.text().contains("1.1.0"), "{ran}");
    }
}

fn the_examples_refuse_what_was_not() {
    let registry = Registry::shared();
    let copy = registry.site_copy();
    let site = Site::serve(&copy.path());
    for program in examples() {
        let ran = client(&program, &site, registry.name(), "head");
        assert!(ran.code != 0, "another key: {ran}");
    }
    for file in copy.files().iter().filter(|file| file.starts_with("artefacts/")) {
        flip(&copy.path().join(file), 1000);
    }
    for program in examples() {
        let ran = client(&program, &site, registry.name(), RELEASE_KEY);
        assert!(ran.code != 0, "an altered artefact: {ran}");
    }
}

/// One team may hold one key for two registries: what is right in one was not reviewed for the other.
fn the_examples_refuse_another_registrys_release() {
    let registry = Registry::shared();
    let copy = registry.site_copy();
    forge::replace_entry(&copy.path(), &registry, "hello", |entry| {
        let keyid = registry.hsm().key_id(RELEASE_KEY);
        let mut statement = forge::payload(&entry["signature"]);
        statement["predicate"]["registry"] = "mcp.example.com/staging".into();
        let bytes = serde_json::to_vec(&statement).unwrap();
        entry["signature"] = forge::envelope(registry.hsm(), RELEASE_KEY, &keyid, &bytes);
        entry["registry"] = "mcp.example.com/staging".into();
    });
    let site = Site::serve(&copy.path());
    for program in examples() {
        let ran = client(&program, &site, registry.name(), RELEASE_KEY);
        assert!(ran.code != 0 && ran.text().contains("signed for the registry"), "{ran}");
        assert!(!ran.text().contains("ok hello"), "{ran}");
        // Nothing else is wrong with it: the registry that it was signed for takes it.
        let ran = client(&program, &site, "mcp.example.com/staging", RELEASE_KEY);
        assert!(ran.code == 0 && ran.text().contains("ok hello 1.1.0"), "{ran}");
    }
}
