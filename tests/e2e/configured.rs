//! `serve.toml`: what is refused in it, and that its keys reach what the check of a release does.

use std::path::Path;

use mcpfs_tests::advisories::{advisory, snapshot};
use mcpfs_tests::codehost::{Kind, Merge};
use mcpfs_tests::fixture;
use mcpfs_tests::signing::Signing;
use mcpfs_tests::suite::Suite;

use crate::bundles::{bundle, recipe_lines};
use crate::desk::{Desk, head_version, verify};

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("configured::mistakes_are_told", mistakes_are_told);
    suite.plain("configured::looks_that_a_policy_requires", looks_that_a_policy_requires);
    suite.plain("configured::packages_with_their_locks", packages_with_their_locks);
}

fn mistakes_are_told() {
    let desk = Desk::new(Kind::Github);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let signing = Signing::new(registry);
    let file = signing.configure(forge);
    let check = || registry.hsm().signer().args(["serve", "--check-config", "--config"]).arg(&file);
    check().ok().says("3 reviewers");
    let good = std::fs::read_to_string(&file).unwrap();
    let url = forge.git_url();
    for (from, to, says) in [
        ("[site]", "[site]\nrsign_after = \"1h\"", "rsign_after"),
        ("report = true", "report = true\npol = \"5m\"", "pol"),
        ("report = true", "report = true\npoll = \"soon\"", "5m"),
        ("[site]", "[site]\nresign_after = \"8d\"", "resign_after"),
        (&*url, "https://bot:token@git.example.com/x.git", "user or password"),
        (&*url, "http://git.example.com/x.git", "repository.url"),
        (&*url, "ssh://git@git.example.com/x.git", "repository.url"),
        ("acme/mcp-registry\"\nurl", "acme\"\nurl", "repository.name"),
        ("branch = \"main\"", "branch = \"-main\"", "repository.branch"),
        ("api = \"http://127.0.0.1", "api = \"http://192.0.2.1", "not an address of a forge's API"),
        ("pkcs11:", "pkcs12:", "not a key"),
        (
            "sec = \"security@example.com\"\nplat = \"platform@example.com\"\nrita = \"rita@example.com\"\n",
            "",
            "nobody could approve",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        check().exits(2).says(says);
    }
    std::fs::write(&file, &good).unwrap();
    let mode =
        |file: &Path, mode| std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(&file, 0o666);
    check().exits(2).says("can be written by others");
    mode(&file, 0o644);
    mode(&signing.path("token"), 0o644);
    check().exits(2).says("can be read or written by others");
}

/// What `check` and `release` take as options, a policy can demand of the server.
fn looks_that_a_policy_requires() {
    let desk = Desk::new(Kind::Github);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let mut signing = Signing::new(registry);
    let dora = forge.clone_as("dora");
    let file = snapshot(&signing.path("all.zip"), &[advisory("GHSA-aaaa-bbbb-cccc", "npm", "qs", "6.17.2", "HIGH")]);
    let pin = fixture::sha256_of(&file);
    let policy = format!("require: [trial, advisories]\nvulnerabilities: {{snapshots: [{pin}]}}\n");
    desk.change(&dora, "policy.yaml", &policy, &["sec"]);
    desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
    signing.once(forge).exits(1).says("the policy names this snapshot, and it was not read").says("trial");
    assert_eq!(head_version(&registry.site()), 0);
    signing.extra.artefacts = format!("osv = [{file:?}]\n");
    signing.extra.end = "[check]\nrun = true\npatience = \"2m\"\n".to_owned();
    let wake = |number: u32| {
        forge.push_past_review("README.md", &format!("{number}\n"), "root@example.com", "Wake up");
    };
    wake(1);
    signing.once(forge).ok().says("released hello 1.0.0 with head 1");
    verify(&registry.site(), &registry.trust());
    // The engine of the patterns is a program of its own; asked for and not there is a refusal.
    signing.extra.end.push_str("patterns = [\"builtin\"]\n");
    let alone = signing.path("alone");
    std::fs::create_dir(&alone).unwrap();
    desk.accept(&dora, "hello", "1.1.0", Merge::Squash);
    let signer = alone.join("mcpfs-signer");
    std::fs::copy(mcpfs_tests::binaries::bin("mcpfs-signer"), &signer).unwrap();
    signing.extra.program = Some(signer);
    let ran = signing.once(forge).run();
    let engine = ran.text().contains("mcpfs-yara is neither beside mcpfs-signer nor in PATH");
    assert!(engine && head_version(&registry.site()) == 1, "{ran}");
}

/// A package is built anew by the server, from the lock that was approved with the recipe.
fn packages_with_their_locks() {
    let desk = Desk::new(Kind::Gitea);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let mut signing = Signing::new(registry);
    let out = signing.path("six.tar");
    let ran = bundle(registry, "pypi:six==1.17.0", &out).ok();
    let lines = recipe_lines(&ran, &out);
    assert!(lines.contains("  lock: six.lock.txt\n"), "{lines}");
    let lock = std::fs::read_to_string(out.with_file_name("six.lock.txt")).unwrap();
    let dora = forge.clone_as("dora");
    let recipe = |name: &str, lines: &str| {
        let text = desk.recipe(name, "1.0.0");
        let (head, _) = text.split_once("artefact:").unwrap();
        format!("{head}{lines}launch: {{command: python3, args: [\"${{TREE}}/six.py\"]}}\n")
    };
    let propose = |name: &str, lock_name: &str, with_lock: bool| {
        dora.branch(name);
        if with_lock {
            dora.commit(&format!("servers/{lock_name}"), &lock, "The lock");
        }
        let text = recipe(name, &lines.replace("six.lock.txt", lock_name));
        dora.commit(&format!("servers/{name}.yaml"), &text, name);
        dora.push(name).ok();
        let number = forge.open("dora", name, name);
        ["sec", "plat"].iter().for_each(|reviewer| forge.approve(number, reviewer));
        forge.merge(number, "mona", Merge::Squash);
    };
    // With the recipe, in a folder of its own; without; and one that came past review.
    propose("six", "locks/six.lock.txt", true);
    propose("none", "none.lock.txt", false);
    propose("other", "other.lock.txt", false);
    forge.push_past_review("servers/other.lock.txt", &lock, "root@example.com", "The lock");
    signing.once(forge).exits(1).says("add --allow-registry pypi");
    signing.extra.artefacts = "allow_registries = [\"pypi\"]\n".to_owned();
    forge.push_past_review("README.md", "A registry.\n", "root@example.com", "Wake up");
    signing.once(forge).exits(1);
    let attempts = signing.journal()["attempts"].clone();
    for (name, reason) in [
        ("none", "servers/none.lock.txt, which the recipe names, is not on the branch"),
        ("other", "without a merged request that changes servers/other.lock.txt"),
    ] {
        let said = &attempts[format!("{name}.yaml")]["reason"];
        assert!(said.as_str().is_some_and(|said| said.contains(reason)), "{name}: {attempts}");
    }
    assert_eq!(attempts.as_object().unwrap().len(), 2, "{attempts}");
    assert!(registry.site().join("servers/six.json").exists());
    verify(&registry.site(), &registry.trust());
}
