//! The signing server at three kinds of forge: what it signs, and what it never signs.

use std::collections::BTreeMap;

use mcpfs_tests::codehost::{Kind, Merge, Verdict};
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture;
use mcpfs_tests::forge;
use mcpfs_tests::signing::Signing;
use mcpfs_tests::suite::{Attack, Suite};
use serde_json::{Value, json};

use crate::boundary::FORGE;
use crate::desk::{Desk, head_version, segment, statement, verify};

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("serve::approved_requests_are_released", approved_requests_are_released);
    suite.attack(
        Attack::new(
            FORGE,
            "serve::nothing_unproven_is_signed",
            "a release that nobody approved, that others approved, or that was edited after it",
            &["exit 1"],
        ),
        nothing_unproven_is_signed,
    );
    suite.plain("serve::a_reverted_commit_selects_the_older_release", a_reverted_commit_selects_the_older_release);
    suite.plain("serve::a_forge_that_cannot_be_asked_is_waited_for", a_forge_that_cannot_be_asked_is_waited_for);
    suite.plain("serve::an_old_head_is_signed_again", an_old_head_is_signed_again);
}

fn approved_requests_are_released() {
    for kind in Kind::ALL {
        let desk = Desk::new(kind);
        let (registry, forge) = (&desk.registry, &desk.forge);
        // One item a page: every list has to be read to its end.
        forge.set_page_limit(1);
        let signing = Signing::new(registry);
        signing.once(forge).ok();
        assert_eq!(head_version(&registry.site()), 0, "there is nothing to sign");
        let dora = forge.clone_as("dora");
        for (number, (how, version)) in Merge::ALL.into_iter().zip(["1.0.0", "1.1.0", "1.2.0"]).enumerate() {
            let request = desk.propose(&dora, "hello", version);
            if how == Merge::Rebase {
                // Two commits: the one that changed the recipe is not the last.
                dora.commit("docs/hello.md", "Says hello.\n", "Explain hello");
                dora.push(&format!("hello-{version}")).ok();
            }
            signing.once(forge).ok();
            assert_eq!(
                head_version(&registry.site()),
                number as u64,
                "{kind:?} {how:?}: an open request is nothing yet"
            );
            for reviewer in ["sec", "plat"] {
                forge.review(request, "rita", Verdict::Comment);
                forge.approve(request, reviewer);
            }
            forge.merge(request, "mona", how);
            signing.once(forge).ok().says(&format!("released hello {version} with head {}", number + 1));
            verify(&registry.site(), &registry.trust());
            let predicate = &statement(&registry.site(), "hello")["predicate"];
            assert_eq!(predicate["version"], version);
            let source = &predicate["source"];
            assert_eq!(source["repository"], forge.git_url(), "{kind:?} {how:?}");
            assert_eq!(source["approvals"], json!(["platform@example.com", "security@example.com"]));
            assert!(source["pull_request"].as_str().unwrap().ends_with(&format!("/{request}")), "{source}");
            let commit = source["commit"].as_str().unwrap();
            let show =
                Run::new("git").arg("-C").arg(forge.repository()).args(["show", "-s", "--format=%ct", commit]).ok();
            let issued: mcpfs_trust::time::Timestamp = predicate["issued"].as_str().unwrap().parse().unwrap();
            assert_eq!(show.stdout.trim(), issued.unix().to_string(), "issued is the commit's time");
            // Again: nothing to do, and nothing done.
            let head = std::fs::read(registry.site().join("head.json")).unwrap();
            signing.once(forge).ok();
            assert_eq!(std::fs::read(registry.site().join("head.json")).unwrap(), head);
        }
        let statuses = forge.statuses();
        assert_eq!(statuses.len(), 3, "{statuses:?}");
        assert!(
            statuses.iter().all(|one| one.state == "success" && one.context == "mcpfs-signer/hello"),
            "{statuses:?}"
        );
        // Neither the token nor the secret is anywhere but in its own file.
        let found = Run::new("grep")
            .args(["-rlE", "bot-token-7f3a|hook-secret-1c9e"])
            .arg(signing.path(""))
            .arg(registry.site())
            .run();
        let mut files: Vec<&str> = found.stdout.lines().map(|line| line.rsplit('/').next().unwrap()).collect();
        files.sort_unstable();
        assert_eq!(files, ["secret", "token"]);
    }
}

/// Each flaw is a server of its own, all in one pass with a good one.
fn nothing_unproven_is_signed() {
    let desk = Desk::new(Kind::Github);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let signing = Signing::new(registry);
    let dora = forge.clone_as("dora");
    let both = |number| ["sec", "plat"].iter().for_each(|reviewer| forge.approve(number, reviewer));
    let mut expected: BTreeMap<&str, &str> = BTreeMap::new();
    let mut case = |name: &'static str, reason: &'static str, review: &dyn Fn(u64)| {
        let number = desk.propose(&dora, name, "1.0.0");
        review(number);
        forge.merge(number, "mona", Merge::Commit);
        expected.insert(name, reason);
    };
    case("unapproved", "are of nobody", &|_| {});
    case("half", "are of security@example.com", &|number| forge.approve(number, "sec"));
    case("stranger", "eve (is not a configured reviewer)", &|number| {
        forge.approve(number, "sec");
        forge.approve(number, "eve");
    });
    case("more", "are of platform@example.com, rita@example.com, security@example.com", &|number| {
        both(number);
        forge.approve(number, "rita");
    });
    case("dismissed", "plat (the review was dismissed)", &|number| {
        both(number);
        forge.dismiss(number, "plat");
    });
    case("rejected", "rita requested changes", &|number| {
        both(number);
        forge.review(number, "rita", Verdict::Reject);
    });
    case("stale", "sec (approved an earlier push)", &|number| {
        both(number);
        dora.commit("docs/stale.md", "Now with something else.\n", "One more thing");
        dora.push("stale-1.0.0").ok();
        forge.approve(number, "plat");
    });
    // Who opened it, and who wrote or committed it.
    let sec = forge.clone_as("sec");
    let own = desk.propose(&sec, "own", "1.0.0");
    both(own);
    forge.merge(own, "mona", Merge::Squash);
    expected.insert("own", "sec (wrote or committed it)");
    let mut ghost = forge.clone_as("gus");
    ghost.writes_as("Platform@Example.com");
    let written = desk.propose(&ghost, "written", "1.0.0");
    both(written);
    forge.merge(written, "mona", Merge::Rebase);
    expected.insert("written", "plat (wrote or committed it)");
    ghost.writes_as("42+sec@users.noreply.github.com");
    let hidden = desk.propose(&ghost, "hidden", "1.0.0");
    both(hidden);
    forge.merge(hidden, "mona", Merge::Squash);
    expected.insert("hidden", "sec (wrote or committed it)");
    // Two wrote it, the last of them opened it, and the branch has both commits as they are.
    let mut two = forge.clone_as("gus");
    two.writes_as("security@example.com");
    two.branch("forward-1.0.0");
    let forward = desk.recipe("forward", "1.0.0");
    two.commit("servers/forward.yaml", &forward, "What sec wrote");
    two.writes_as("gus@example.com");
    two.commit("servers/forward.yaml", &format!("{forward}# \n"), "A comment");
    two.push("forward-1.0.0").ok();
    let number = forge.open("gus", "forward-1.0.0", "forward");
    both(number);
    forge.merge(number, "mona", Merge::FastForward);
    expected.insert("forward", "sec (wrote or committed it)");
    // Changed by whoever merged, in each way.
    for (how, name) in Merge::ALL.into_iter().zip(["meddled", "meddled-too", "meddled-also"]) {
        let number = desk.propose(&dora, name, "1.0.0");
        both(number);
        forge.merge_with(number, "mona", how, |work| {
            let file = work.join(format!("servers/{name}.yaml"));
            let text = std::fs::read_to_string(&file).unwrap().replace("A server for tests.", "Something else.");
            std::fs::write(file, text).unwrap();
        });
        expected.insert(name, "it was changed while or after");
    }
    // Without a request, new and on top of an approved one.
    forge.push_past_review("servers/direct.yaml", &desk.recipe("direct", "1.0.0"), "dora@example.com", "Trust me");
    expected.insert("direct", "without a merged request");
    desk.accept(&dora, "touched", "1.0.0", Merge::Commit);
    let touched = desk.recipe("touched", "1.0.0").replace("A server for tests.", "Something else.");
    forge.push_past_review("servers/touched.yaml", &touched, "dora@example.com", "A typo");
    expected.insert("touched", "without a merged request");
    // What does not pass the check, and what is no recipe.
    let broken = desk.recipe("broken", "1.0.0").replace("version:", "versoin:");
    dora.branch("broken");
    dora.commit("servers/broken.yaml", &broken, "broken");
    dora.push("broken").ok();
    let number = forge.open("dora", "broken", "broken");
    both(number);
    forge.merge(number, "mona", Merge::Commit);
    expected.insert("broken", "versoin");
    let other = desk.recipe("unlike", "1.0.0");
    let sha256 = fixture::sha256_of(desk.artefact());
    dora.branch("unlike");
    dora.commit("servers/unlike.yaml", &other.replace(&sha256, &"0".repeat(64)), "unlike");
    dora.push("unlike").ok();
    let number = forge.open("dora", "unlike", "unlike");
    both(number);
    forge.merge(number, "mona", Merge::Commit);
    expected.insert("unlike", "[digest]");
    // A recipe whose name nobody looks for.
    dora.branch("ending");
    dora.commit("servers/ending.yml", &desk.recipe("ending", "1.0.0"), "ending");
    dora.push("ending").ok();
    let number = forge.open("dora", "ending", "ending");
    both(number);
    forge.merge(number, "mona", Merge::Commit);
    desk.accept(&dora, "zebra", "1.0.0", Merge::Squash);

    let ran = signing.once(forge).exits(1);
    assert_eq!(head_version(&registry.site()), 1, "only one thing was signed: {ran}");
    assert_eq!(statement(&registry.site(), "zebra")["predicate"]["version"], "1.0.0");
    assert_eq!(std::fs::read_dir(registry.site().join("servers")).unwrap().count(), 1);
    verify(&registry.site(), &registry.trust());
    let attempts = signing.journal()["attempts"].clone();
    expected.insert("ending", "must be called ending.yaml, not ending.yml");
    for (name, reason) in &expected {
        let attempt = &attempts[format!("{name}.{}", if *name == "ending" { "yml" } else { "yaml" })];
        assert!(
            attempt["reason"].as_str().is_some_and(|said| said.contains(reason)),
            "{name}: expected {reason:?}: {attempt}"
        );
        assert_eq!(attempt["failures"], 1, "{name}");
    }
    assert_eq!(attempts.as_object().unwrap().len(), expected.len(), "{attempts}");
    // Each refusal is in the log of the head that came after it, or waits for the next one.
    let waiting = signing.path("state").join(registry.name().replace('/', "%2F")).join("refused.jsonl");
    let rows = [segment(&registry.site(), 1), std::fs::read_to_string(waiting).unwrap_or_default()];
    let rows: Vec<Value> =
        rows.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let refused = rows.iter().filter(|row| row["refused"] == true).count();
    assert_eq!(refused, expected.len(), "{rows:?}");
    let failed: Vec<_> = forge.statuses().into_iter().filter(|one| one.state == "failure").collect();
    assert_eq!(failed.len(), expected.len(), "{failed:?}");

    // Later: no second row for the same reason, and what is mended is released.
    both(1);
    signing.once(forge).exits(1);
    assert_eq!(head_version(&registry.site()), 1, "it is not its time yet");
    forge.push_past_review("README.md", "A registry.\n", "root@example.com", "Wake up");
    signing.once(forge).exits(1).says("released unapproved 1.0.0 with head 2");
    let attempts = signing.journal()["attempts"].clone();
    assert_eq!((attempts.get("unapproved.yaml"), &attempts["half.yaml"]["failures"]), (None, &json!(2)));
    let rows = segment(&registry.site(), 2);
    assert!(rows.lines().count() <= 1 + expected.len(), "{rows}");
}

fn a_reverted_commit_selects_the_older_release() {
    let desk = Desk::new(Kind::Gitlab);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let signing = Signing::new(registry);
    let dora = forge.clone_as("dora");
    desk.accept(&dora, "hello", "1.0.0", Merge::Commit);
    signing.once(forge).ok();
    let first = forge::read(&registry.site().join("servers/hello.json"))["signature"].clone();
    desk.accept(&dora, "hello", "1.1.0", Merge::Commit);
    signing.once(forge).ok();
    assert_eq!(statement(&registry.site(), "hello")["predicate"]["version"], "1.1.0");

    dora.branch("revert");
    dora.git(["revert", "--no-edit", "-m", "1", "HEAD"]).ok();
    dora.push("revert").ok();
    let number = forge.open("dora", "revert", "Revert hello 1.1.0");
    forge.merge(number, "mona", Merge::Commit);
    signing.once(forge).exits(1).says("needs the approval of one reviewer");
    assert_eq!(statement(&registry.site(), "hello")["predicate"]["version"], "1.1.0");
    // One is enough, and it need not be one of those who reviewed it then.
    forge.approve(number, "rita");
    forge.push_past_review("README.md", "A registry.\n", "root@example.com", "Wake up");
    signing.once(forge).ok();
    assert_eq!(head_version(&registry.site()), 3);
    let selected = forge::read(&registry.site().join("servers/hello.json"))["signature"].clone();
    assert_eq!(selected, first, "the statement is the one of then, byte for byte");
    verify(&registry.site(), &registry.trust());
}

fn a_forge_that_cannot_be_asked_is_waited_for() {
    let desk = Desk::new(Kind::Github);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let signing = Signing::new(registry);
    let dora = forge.clone_as("dora");
    desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
    for (fault, code, says) in [
        ((500, ""), 1, "answered 500"),
        ((500, ""), 1, "it says: as the test wants it"),
        ((401, ""), 1, "the token is missing, wrong or has expired"),
        ((403, "Retry-After: 77"), 3, "no more questions for 77 seconds"),
        ((429, ""), 3, "no more questions for 60 seconds"),
        ((302, "Location: http://127.0.0.1:9/"), 1, "answered 302"),
        ((200, ""), 1, "cannot be used"),
    ] {
        forge.set_fault(Some(fault));
        signing.once(forge).exits(code).says(says);
    }
    forge.set_fault(None);
    forge.set_protected(false);
    signing.once(forge).exits(1).says("nothing is signed until it is protected");
    assert_eq!(head_version(&registry.site()), 0);
    assert!(
        !signing.path("state/work").exists() || std::fs::read_dir(signing.path("state/work")).unwrap().count() == 0
    );
    forge.set_protected(true);
    // A token that git does not take is told without showing it.
    let token = std::fs::read(signing.path("token")).unwrap();
    std::fs::write(signing.path("token"), "wrong-token-55\n").unwrap();
    let ran = signing.once(forge).run();
    assert!(ran.code != 0 && !ran.text().contains("wrong-token-55"), "{ran}");
    std::fs::write(signing.path("token"), token).unwrap();
    signing.once(forge).ok().says("released hello 1.0.0");
}

fn an_old_head_is_signed_again() {
    let desk = Desk::new(Kind::Github);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let mut signing = Signing::new(registry);
    let dora = forge.clone_as("dora");
    desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
    signing.once(forge).ok();
    assert_eq!(head_version(&registry.site()), 1);
    let entry = std::fs::read(registry.site().join("servers/hello.json")).unwrap();
    // Also while the forge is away.
    forge.set_fault(Some((500, "")));
    signing.once(forge).exits(1);
    assert_eq!(head_version(&registry.site()), 1, "a day has not passed");
    signing.extra.site = "resign_after = \"1s\"\n".to_owned();
    mcpfs_tests::scratch::wait_for("the head to be signed again", || {
        signing.once(forge).exits(1);
        (head_version(&registry.site()) > 1).then_some(())
    });
    assert_eq!(std::fs::read(registry.site().join("servers/hello.json")).unwrap(), entry);
    let row = segment(&registry.site(), 2);
    assert!(row.contains("\"action\":\"resign\""), "{row}");
    verify(&registry.site(), &registry.trust());
}
