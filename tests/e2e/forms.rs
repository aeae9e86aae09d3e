//! Every form that an archive may have, and a tag of git, each with a real server in it, packed by
//! other programs than ours and started from the mount.

use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::Recipe;
use mcpfs_tests::git::GitHost;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::registry::Registry;
use mcpfs_tests::scratch::need;
use mcpfs_tests::servers;
use mcpfs_tests::suite::Suite;

use crate::bundles::{bundle, recipe_lines, write_recipe};
use crate::desk::statement;
use crate::servers::mounted;

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("forms::each_archive_runs_from_the_mount", each_archive_runs_from_the_mount);
    suite.mounted("forms::a_tag_of_a_real_server_runs_from_the_mount", a_tag_of_a_real_server_runs_from_the_mount);
}

fn launch() -> String {
    format!("launch:\n  command: node\n  args: [\"${{TREE}}/{}\", stdio]\n", servers::EVERYTHING_MAIN)
}

/// A real client lists and calls a tool of the server.
fn answers(host: &Host, name: &str) {
    let inspector = servers::inspector().arg(host.at(name).join("run"));
    let called = inspector.args(["--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=hi"]);
    assert_eq!(called.ok().json()["content"][0]["text"], "Echo: hi", "{name}");
}

fn each_archive_runs_from_the_mount(reads: Reads) {
    let registry = Registry::new();
    let (tree, folder) = (servers::everything(), registry.artefacts());
    let tar = |options: &[&str], file: &str| {
        let file = folder.join(file);
        Run::new(need("tar", "tar")).args(options).arg("-cf").arg(&file).arg("-C").arg(&tree).arg(".").ok();
        file
    };
    need("zstd", "zstd");
    let zip = folder.join("x.zip");
    Run::new(need("zip", "zip")).dir(&tree).args(["-q", "-r", "-y"]).arg(&zip).arg(".").ok();
    let mut trees = Vec::new();
    let forms = [
        ("plain", tar(&[], "x.tar")),
        ("gzip", tar(&["--gzip"], "x.tar.gz")),
        ("zstd", tar(&["--zstd"], "x.tar.zst")),
        ("pax", tar(&["--format=pax"], "pax.tar")),
        ("zip", zip),
    ];
    for (name, file) in &forms {
        registry.release(&Recipe::new(name, "2026.8.31", file).with(&launch()));
        trees.push(statement(&registry.site(), name)["subject"][1]["digest"].clone());
    }
    assert!(trees[0]["sha256"].is_string());
    trees.dedup();
    assert_eq!(trees.len(), 1, "one tree, however it was packed: {trees:?}");
    mounted(&registry, reads, |host, _| {
        for (name, _) in &forms {
            answers(host, name);
        }
    });
}

fn a_tag_of_a_real_server_runs_from_the_mount(reads: Reads) {
    let (registry, git) = (Registry::new(), GitHost::serve());
    let repository = git.repository("everything");
    let commit = repository.commit(&servers::everything());
    repository.tag("v2026.8.31", &commit);
    let out = registry.artefacts().join("git.tar");
    let asking = |run: Run| run.arg("--allow-host").arg(git.name()).arg("--ca-file").arg(git.authority());
    let ran = asking(bundle(&registry, &format!("git+{}#v2026.8.31", repository.url()), &out)).ok();
    write_recipe(&registry, "everything", "2026.8.31", &format!("{}{}", recipe_lines(&ran, &out), launch()));
    std::fs::remove_file(out).unwrap();
    asking(registry.release_command("everything")).ok();
    mounted(&registry, reads, |host, _| answers(host, "everything"));
}
