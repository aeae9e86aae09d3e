//! The site must be usable without any of our programs: the examples in signer/examples, run for real.

use std::path::PathBuf;

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::scratch::{self, need};
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

use crate::world::flip;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("simple_client::the_examples_accept_what_was_signed", the_examples_accept_what_was_signed);
    suite.plain("simple_client::the_examples_refuse_what_was_not", the_examples_refuse_what_was_not);
}

/// The examples: a shell script with openssl, and a script for node.
fn examples() -> Vec<(PathBuf, PathBuf)> {
    let dir = scratch::repository().join("signer/examples");
    vec![
        (need("bash", "bash"), dir.join("verify-release.sh")),
        (need("node", "nodejs"), dir.join("verify-release.mjs")),
    ]
}

/// `CLIENT SITE_URL NAME PUBLIC_KEY.pem`
fn client(program: &(PathBuf, PathBuf), site: &Site, key: &str) -> Ran {
    let dir = scratch::dir();
    let pem = dir.path().join("release.pem");
    std::fs::write(&pem, Registry::shared().hsm().public_pem(key)).unwrap();
    Run::new(&program.0)
        .arg(&program.1)
        .arg(site.url().trim_end_matches('/'))
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
        let ran = client(&program, &site, RELEASE_KEY);
        assert!(ran.code == 0 && ran.text().contains("1.1.0"), "{ran}");
    }
}

fn the_examples_refuse_what_was_not() {
    let registry = Registry::shared();
    let copy = registry.site_copy();
    let site = Site::serve(&copy.path());
    for program in examples() {
        let ran = client(&program, &site, "head");
        assert!(ran.code != 0, "another key: {ran}");
    }
    for file in copy.files().iter().filter(|file| file.starts_with("artefacts/")) {
        flip(&copy.path().join(file), 1000);
    }
    for program in examples() {
        let ran = client(&program, &site, RELEASE_KEY);
        assert!(ran.code != 0, "an altered artefact: {ran}");
    }
}
