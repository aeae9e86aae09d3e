#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::path::Path;
use std::process::Command;

use super::*;

/// git with a fixed person and time, whatever the machine's configuration is.
fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "dora")))
        .envs([("GIT_AUTHOR_EMAIL", "Dora@Example.com"), ("GIT_COMMITTER_EMAIL", "forge@example.com")])
        .envs(["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"].map(|name| (name, "1700000000 +0200")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn commit(folder: &Path, file: &str, text: &str) -> String {
    std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
    std::fs::write(folder.join(file), text).unwrap();
    git(folder, &["add", "--all"]);
    git(folder, &["commit", "--quiet", "-m", file]);
    git(folder, &["rev-parse", "HEAD"])
}

#[test]
fn what_a_branch_holds_and_how_it_came_there() {
    let dir = crate::scratch::in_memory();
    let (work, bare) = (dir.path().join("work"), dir.path().join("mirror"));
    std::fs::create_dir(&work).unwrap();
    git(&work, &["init", "--quiet", "-b", "main"]);
    let start = commit(&work, "README", "start\n");
    git(&work, &["checkout", "--quiet", "-b", "topic"]);
    let topic = commit(&work, "servers/hello.yaml", "name: hello\n");
    std::os::unix::fs::symlink("hello.yaml", work.join("servers/link.yaml")).unwrap();
    commit(&work, "policy.yaml", "{}\n");
    git(&work, &["checkout", "--quiet", "main"]);
    let between = commit(&work, "docs/x", "x\n");
    git(&work, &["merge", "--quiet", "--no-ff", "-m", "merge", "topic"]);
    let merge = git(&work, &["rev-parse", "HEAD"]);
    let tip = commit(&work, "docs/y", "y\n");

    let url = format!("file://{}", work.display());
    let mirror = Mirror::open(&bare, &url, None, None).unwrap();
    assert_eq!(mirror.remote_tip("refs/heads/main").unwrap(), tip);
    assert!(!mirror.holds(&tip), "asked only");
    assert!(mirror.remote_tip("refs/heads/none").is_err());
    assert_eq!(mirror.fetch("refs/heads/main").unwrap(), tip);
    assert!(matches!(mirror.fetch("refs/heads/none"), Err(GitError::Failed { .. })));
    let files = mirror.files(&tip, "servers", &["policy.yaml", "waivers.yaml"]).unwrap();
    let found: Vec<(&str, bool)> = files.iter().map(|blob| (blob.path.as_str(), blob.ordinary)).collect();
    assert_eq!(found, [("policy.yaml", true), ("servers/hello.yaml", true), ("servers/link.yaml", false)]);
    let hello = &files[1].id;
    assert_eq!(mirror.read(hello, 12).unwrap(), b"name: hello\n");
    assert!(matches!(mirror.read(hello, 11), Err(GitError::TooMuch { .. })));
    assert_eq!(mirror.blob_at(&topic, "servers/hello.yaml").unwrap().as_ref(), Some(hello));
    assert_eq!(mirror.blob_at(&start, "servers/hello.yaml").unwrap(), None);
    assert_eq!(mirror.blob_at(&tip, "servers/link.yaml").unwrap(), None, "a link is no recipe");
    // By the branch's own history the merge brought it, not the commit in the merged branch.
    let last = mirror.last_change(&tip, "servers/hello.yaml").unwrap().unwrap();
    assert_eq!((&last.id, last.committed.unix()), (&merge, 1_700_000_000));
    assert_eq!(last.parent.as_ref(), Some(&between));
    assert!(last.merged.is_some());
    assert_eq!(mirror.last_change(&tip, "servers/none.yaml").unwrap(), None);
    assert_eq!(mirror.following(&between, &tip, 9).unwrap(), [merge.clone(), tip.clone()]);
    assert!(mirror.is_ancestor(&start, &tip).unwrap() && !mirror.is_ancestor(&tip, &start).unwrap());
    assert!(mirror.holds(&tip) && !mirror.holds(&"0".repeat(40)) && !mirror.holds("main"));
    assert_eq!(mirror.people(&topic, Some(&between), Who::Authors).unwrap(), ["dora@example.com"]);
    let both = mirror.people(&topic, None, Who::AuthorsAndCommitters).unwrap();
    assert_eq!(both, ["dora@example.com", "forge@example.com"]);
    let message = ["commit", "--quiet", "--allow-empty", "-m", "with", "-m", "Co-authored-by: Rita <Rita@Example.com>"];
    git(&work, &message);
    let with = mirror.fetch("refs/heads/main").unwrap();
    assert_eq!(mirror.people(&with, Some(&tip), Who::Authors).unwrap(), ["dora@example.com", "rita@example.com"]);
    assert_eq!(mirror.people_at(&topic, "no/such/path", Who::Authors).unwrap(), Vec::<String>::new());
    assert!(mirror.signed_by(&tip, Path::new("/nonexistent")).is_err());
}

#[test]
fn whoever_wrote_a_commit_with_others() {
    for (commit, who, wanted) in [
        ("<A@x>\n<b@x>\nsubject\n", Who::AuthorsAndCommitters, vec!["a@x", "b@x"]),
        ("\n<a@x>\n<b@x>\nsubject\n\nCo-authored-by: C <C@X>\n", Who::Authors, vec!["a@x", "c@x"]),
        // In any case, with space before it, in the middle, and without a name.
        (
            "<a@x>\n<b@x>\n  CO-AUTHORED-BY: <c@x> \n\nmore\nco-authored-by: d <d@x\n",
            Who::Authors,
            vec!["a@x", "c@x", "d@x"],
        ),
        // Nobody: an empty address is no line less.
        ("<>\n<b@x>\nCo-authored-by: nobody\nCo-authored-by: \u{e9}\n", Who::AuthorsAndCommitters, vec!["b@x"]),
        ("<a@x>\n<b@x>\nThanks to Co-authored-by: C <c@x>\n", Who::Authors, vec!["a@x"]),
    ] {
        assert_eq!(addresses(commit, who), wanted, "{commit:?}");
    }
}

#[test]
fn a_hostile_remote_runs_nothing() {
    let dir = crate::scratch::in_memory();
    let planted = dir.path().join("planted");
    for url in [
        format!("ext::sh -c 'touch {}'", planted.display()),
        "git://127.0.0.1:9/x".to_owned(),
        "--upload-pack=x".to_owned(),
    ] {
        let mirror = Mirror::open(&dir.path().join("mirror"), &url, Some(("bot", "tok")), None).unwrap();
        let said = mirror.fetch("refs/heads/main").unwrap_err().to_string();
        assert!(!said.contains("tok") && !said.contains("Ym90OnRvaw"), "{said}");
    }
    assert!(!planted.exists());
}

#[test]
fn commit_ids() {
    assert!(is_commit_id(&"a".repeat(40)) && is_commit_id(&"0".repeat(64)));
    assert!(!is_commit_id(&"A".repeat(40)) && !is_commit_id(&"a".repeat(39)) && !is_commit_id(""));
}
