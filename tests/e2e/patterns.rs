//! Malicious patterns: what a check says without its engine, and (`make yara`) with it.

#[cfg(feature = "patterns")]
mod real;

use std::path::Path;

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch;
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("patterns::a_missing_engine_is_an_error", a_missing_engine_is_an_error);
    #[cfg(feature = "patterns")]
    real::register(suite);
}

/// A recipe of `server`, whose artefact is `folder` below the registry's artefacts.
fn recipe_of(registry: &Registry, folder: &Path, more: &str) {
    let out = scratch::dir();
    let bundle = registry.signer().arg("--json").arg("bundle").arg(folder).arg("--out").arg(out.path().join("x.tar"));
    let bundled = bundle.ok().json();
    let text = format!(
        "name: server\nversion: 1.0.0\nmaintainer: m@example.com\ndescription: has patterns\n\
         data_classification: public\nreviewed_at: 2026-04-15\nreviewers: [r@example.com]\n\
         artefact: {{url: 'file:{}', sha256: {}}}\nlaunch: {{command: node, args: ['${{TREE}}/main.js']}}\n{more}",
        folder.file_name().unwrap().to_str().unwrap(),
        bundled["sha256"].as_str().unwrap()
    );
    std::fs::write(registry.recipe("server"), text).unwrap();
}

fn a_missing_engine_is_an_error() {
    let registry = Registry::new();
    let folder = registry.artefacts().join("plain");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("main.js"), "console.log('hello')\n").unwrap();
    recipe_of(&registry, &folder, "");
    // Away from whatever lies beside the installed signer.
    let alone = scratch::dir();
    let signer = alone.path().join("mcpfs-signer");
    std::fs::copy(bin("mcpfs-signer"), &signer).unwrap();
    let check = |rules: &str| {
        let run = Run::new(&signer).env("PATH", alone.path()).arg("check").arg(registry.recipe("server"));
        run.arg("--file-root").arg(registry.artefacts()).args(["--patterns", rules])
    };
    let ran = check("builtin").exits(1);
    ran.says("mcpfs-yara is neither beside mcpfs-signer nor in PATH [pattern-engine]").says("`make yara` builds it");
    // Something that only has its name is no engine.
    std::os::unix::fs::symlink("/bin/true", alone.path().join("mcpfs-yara")).unwrap();
    check("builtin").exits(1).says("not everything was looked at for patterns: mcpfs-yara ended early");
    check("/nowhere").exits(1).says("/nowhere: cannot list the rules in it");
    check(alone.path().to_str().unwrap()).exits(1).says("no *.yar or *.yara in it");

    // A policy that demands the look is not met without it, at the check as at the release.
    let policy = registry.site().with_file_name("policy.yaml");
    std::fs::write(&policy, "require: [patterns]\n").unwrap();
    registry.release_command("server").exits(1).says("the policy requires a look for patterns");
    registry.release_command("server").args(["--patterns", "builtin"]).env("PATH", "/nonexistent").exits(1);
    assert!(!registry.site().join("head.json").exists());
}
