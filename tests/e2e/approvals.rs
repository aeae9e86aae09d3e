//! What the signing server takes for an approval, and of what it must have one.

use std::path::PathBuf;

use mcpfs_tests::codehost::{Kind, Merge, Verdict};
use mcpfs_tests::command::Run;
use mcpfs_tests::signing::Signing;
use mcpfs_tests::suite::{Attack, Suite};
use serde_json::json;

use crate::boundary::FORGE;
use crate::desk::{Desk, head_version, statement, verify};

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("approvals::a_policy_that_is_called_otherwise", a_policy_that_is_called_otherwise);
    suite.attack(
        Attack::new(
            FORGE,
            "approvals::policy_and_waivers_need_them_too",
            "a policy or a waiver that nobody approved",
            &["exit 1"],
        ),
        policy_and_waivers_need_them_too,
    );
    suite.plain("approvals::a_policy_may_need_more_of_them", a_policy_may_need_more_of_them);
    suite.attack(
        Attack::new(
            FORGE,
            "approvals::a_reviewed_history_begins_somewhere",
            "a policy from before anybody reviewed",
            &["without a merged request that changes policy.yaml"],
        ),
        a_reviewed_history_begins_somewhere,
    );
    suite.attack(
        Attack::new(
            FORGE,
            "approvals::nobody_approves_what_he_wrote",
            "approving one's own work by another address, or as a co-author",
            &["exit 1"],
        ),
        nobody_approves_what_he_wrote,
    );
    suite.attack(
        Attack::new(
            FORGE,
            "approvals::a_reviewer_who_objects_blocks",
            "a merge over a reviewer's no",
            &["rita requested changes and has not approved since"],
        ),
        a_reviewer_who_objects_blocks,
    );
    suite.attack(
        Attack::new(
            FORGE,
            "approvals::a_push_after_the_merge_changes_nothing",
            "a push to the branch of a request that was approved and merged",
            &["what was approved is signed"],
        ),
        a_push_after_the_merge_changes_nothing,
    );
    suite.plain("approvals::a_stale_one_is_the_forges_word", a_stale_one_is_the_forges_word);
    suite.plain("approvals::a_listed_signature_is_one", a_listed_signature_is_one);
}

/// Waivers that let nothing pass; each number is another file.
fn waivers(number: u32) -> String {
    format!("waivers: []\n# {number}\n")
}

/// Whoever changes by which rules a recipe is checked decides as much as who changes the recipe.
fn policy_and_waivers_need_them_too() {
    for kind in Kind::ALL {
        let desk = Desk::new(kind);
        let (registry, forge) = (&desk.registry, &desk.forge);
        let signing = Signing::new(registry);
        let dora = forge.clone_as("dora");
        let released = |version: &str, head: u64| {
            signing.once(forge).ok().says(&format!("released hello {version} with head {head}"));
            verify(&registry.site(), &registry.trust());
        };
        let waits = |head: u64, file: &str, why: &str| {
            let ran = signing.once(forge).exits(1).says(&format!("{file} decides what may be released")).says(why);
            assert_eq!(head_version(&registry.site()), head, "{kind:?}: {ran}");
            assert_eq!(signing.journal()["attempts"], json!({}), "{kind:?}: nothing is held against the recipe");
        };
        // Neither was ever there: nothing to prove.
        desk.accept(&dora, "hello", "1.0.0", Merge::Commit);
        released("1.0.0", 1);
        // Added past review, with an approved recipe.
        forge.push_past_review("waivers.yaml", &waivers(1), "root@example.com", "Let it pass");
        desk.accept(&dora, "hello", "1.1.0", Merge::Commit);
        waits(1, "waivers.yaml", "without a merged request that changes waivers.yaml");
        // By a request that nobody approved, or only who wrote it.
        desk.change(&dora, "waivers.yaml", &waivers(2), &[]);
        waits(1, "waivers.yaml", "needs approvals of 1 reviewers, but those that count are of nobody");
        let sec = forge.clone_as("sec");
        desk.change(&sec, "waivers.yaml", &waivers(3), &["sec"]);
        waits(1, "waivers.yaml", "sec (wrote or committed it)");
        desk.change(&sec, "waivers.yaml", &waivers(4), &["plat"]);
        released("1.1.0", 2);
        // A policy that is removed is a decision, too.
        desk.change(&dora, "policy.yaml", "reviewers: {minimum: 2}\n", &["rita"]);
        desk.accept(&dora, "hello", "1.2.0", Merge::Squash);
        released("1.2.0", 3);
        forge.remove_past_review("policy.yaml");
        desk.accept(&dora, "hello", "1.3.0", Merge::Squash);
        waits(3, "policy.yaml", "without a merged request that changes policy.yaml");
        // Meddled with while a request is merged.
        let request = desk.propose(&dora, "other", "1.0.0");
        ["sec", "plat"].iter().for_each(|reviewer| forge.approve(request, reviewer));
        forge.merge_with(request, "mona", Merge::Commit, |work| {
            std::fs::write(work.join("policy.yaml"), "reviewers: {minimum: 1}\n").unwrap();
        });
        waits(3, "policy.yaml", "without a merged request that changes policy.yaml");
        desk.change(&dora, "policy.yaml", "reviewers: {minimum: 2}\n# again\n", &["sec"]);
        signing.once(forge).ok();
        assert_eq!(head_version(&registry.site()), 5, "{kind:?}: both that waited");
        // Both may go, by a request.
        dora.branch("neither");
        dora.git(["rm", "--quiet", "policy.yaml", "waivers.yaml"]).ok();
        dora.git(["commit", "--quiet", "-m", "Neither"]).ok();
        dora.push("neither").ok();
        let request = forge.open("dora", "neither", "Neither");
        forge.approve(request, "plat");
        forge.merge(request, "mona", Merge::Rebase);
        desk.accept(&dora, "hello", "1.4.0", Merge::Rebase);
        released("1.4.0", 6);
    }
}

fn a_policy_may_need_more_of_them() {
    let desk = Desk::new(Kind::Gitea);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let mut signing = Signing::new(registry);
    signing.extra.end = "[approvals]\npolicy = 2\n".to_owned();
    let dora = forge.clone_as("dora");
    desk.change(&dora, "policy.yaml", "reviewers: {minimum: 2}\n", &["sec", "eve"]);
    desk.accept(&dora, "hello", "1.0.0", Merge::Commit);
    let why = "needs approvals of 2 reviewers, but those that count are of security@example.com; not counted: eve";
    signing.once(forge).exits(1).says(why);
    desk.change(&dora, "policy.yaml", "reviewers: {minimum: 2}\n#\n", &["sec", "rita"]);
    signing.once(forge).ok().says("released hello 1.0.0 with head 1");
}

fn a_reviewed_history_begins_somewhere() {
    let desk = Desk::new(Kind::Gitlab);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let mut signing = Signing::new(registry);
    let first = "reviewers: {minimum: 2}\n";
    forge.push_past_review("policy.yaml", first, "root@example.com", "Start from the template");
    let start = forge.tip();
    let dora = forge.clone_as("dora");
    desk.accept(&dora, "hello", "1.0.0", Merge::Commit);
    signing.once(forge).exits(1).says("without a merged request that changes policy.yaml");
    signing.extra.end = format!("[approvals]\nstart = \"{}\"\n", "1".repeat(40));
    signing.once(forge).exits(1).says("without a merged request that changes policy.yaml");
    signing.extra.end = format!("[approvals]\nstart = \"{start}\"\n");
    signing.once(forge).ok().says("released hello 1.0.0 with head 1");
    // It is a beginning, and no way back to it.
    desk.change(&dora, "policy.yaml", "reviewers: {minimum: 2, independent: true}\n", &["sec"]);
    desk.accept(&dora, "hello", "1.1.0", Merge::Commit);
    signing.once(forge).ok().says("released hello 1.1.0 with head 2");
    forge.push_past_review("policy.yaml", first, "root@example.com", "As it was");
    desk.accept(&dora, "hello", "1.2.0", Merge::Commit);
    signing.once(forge).exits(1).says("without a merged request that changes policy.yaml");
    assert_eq!(head_version(&registry.site()), 2);
}

/// Neither by another address, which the forge or the configuration knows, nor as one of several authors.
fn nobody_approves_what_he_wrote() {
    for kind in Kind::ALL {
        let desk = Desk::new(kind);
        let (registry, forge) = (&desk.registry, &desk.forge);
        let mut signing = Signing::new(registry);
        signing.extra.reviewers =
            "uma = [\"uma@example.com\", \"Uma@Home.example\"]\numa-too = \"uma@example.com\"\n".to_owned();
        forge.has_address("sec", "sec@elsewhere.example");
        let recipe = |name: &str| {
            let both = "  - security@example.com\n  - platform@example.com\n";
            let text = desk.recipe(name, "1.0.0");
            assert!(text.contains(both), "{text}");
            text.replace(both, "  - uma@example.com\n  - platform@example.com\n")
        };
        let mut gus = forge.clone_as("gus");
        let mut propose = |name: &str, text: &str, address: &str, message: &str, approved_by: [&str; 2]| {
            gus.writes_as(address);
            gus.branch(name);
            gus.commit(&format!("servers/{name}.yaml"), text, message);
            gus.push(name).ok();
            let number = forge.open("gus", name, name);
            approved_by.iter().for_each(|reviewer| forge.approve(number, reviewer));
            forge.merge(number, "mona", Merge::Squash);
        };
        let with = "New\n\nCo-authored-by: Plat <Platform@Example.com>\nSigned-off-by: Gus <gus@example.com>";
        propose("together", &desk.recipe("together", "1.0.0"), "gus@example.com", with, ["sec", "plat"]);
        propose("at-home", &recipe("at-home"), "uma@home.example", "New", ["uma", "plat"]);
        propose("twice", &recipe("twice"), "uma@home.example", "New", ["uma-too", "plat"]);
        propose("elsewhere", &desk.recipe("elsewhere", "1.0.0"), "sec@elsewhere.example", "New", ["sec", "plat"]);
        propose("fine", &recipe("fine"), "gus@example.com", "New", ["uma-too", "plat"]);
        signing.once(forge).exits(1);
        let attempts = signing.journal()["attempts"].clone();
        let mut refused = vec![
            ("together", "plat (wrote or committed it)"),
            ("at-home", "uma (wrote or committed it)"),
            ("twice", "uma-too (wrote or committed it)"),
        ];
        // GitLab does not tell whose an address is; there it must be configured.
        let told = kind != Kind::Gitlab;
        refused.extend(told.then_some(("elsewhere", "sec (wrote or committed it)")));
        for (name, reason) in &refused {
            let said = &attempts[format!("{name}.yaml")]["reason"];
            assert!(said.as_str().is_some_and(|said| said.contains(reason)), "{kind:?} {name}: {said}");
        }
        assert_eq!(attempts.as_object().unwrap().len(), refused.len(), "{kind:?}: {attempts}");
        assert_eq!(statement(&registry.site(), "fine")["predicate"]["version"], "1.0.0");
    }
}

fn a_reviewer_who_objects_blocks() {
    for kind in Kind::ALL {
        let desk = Desk::new(kind);
        let (registry, forge) = (&desk.registry, &desk.forge);
        let signing = Signing::new(registry);
        let dora = forge.clone_as("dora");
        let number = desk.propose(&dora, "hello", "1.0.0");
        ["sec", "plat"].iter().for_each(|reviewer| forge.approve(number, reviewer));
        // Nobody's no from the street counts.
        forge.review(number, "eve", Verdict::Reject);
        forge.review(number, "rita", Verdict::Reject);
        forge.merge(number, "mona", Merge::Commit);
        signing.once(forge).exits(1).says("rita requested changes and has not approved since");
        assert_eq!(head_version(&registry.site()), 0, "{kind:?}");
        // Those who approve afterwards say yes.
        let number = desk.propose(&dora, "other", "1.0.0");
        forge.review(number, "sec", Verdict::Reject);
        ["sec", "plat"].iter().for_each(|reviewer| forge.approve(number, reviewer));
        forge.merge(number, "mona", Merge::Commit);
        signing.once(forge).exits(1).says("released other 1.0.0 with head 1");
    }
}

/// Whoever may push to the branch of a request can do so when it was merged already.
fn a_push_after_the_merge_changes_nothing() {
    for kind in Kind::ALL {
        let desk = Desk::new(kind);
        let (registry, forge) = (&desk.registry, &desk.forge);
        let signing = Signing::new(registry);
        let dora = forge.clone_as("dora");
        desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
        dora.commit("servers/hello.yaml", &desk.recipe("hello", "6.6.6"), "Later");
        dora.push("hello-1.0.0").ok();
        signing.once(forge).ok().says("released hello 1.0.0 with head 1");
        assert_eq!(statement(&registry.site(), "hello")["predicate"]["version"], "1.0.0", "{kind:?}");
    }
    mcpfs_tests::proof::note("what was approved is signed");
}

/// A push after the approval; what counts then differs between forges.
fn a_stale_one_is_the_forges_word() {
    for (kind, reset, keeps, says_when, counts) in [
        (Kind::Github, false, false, true, false),
        (Kind::Gitea, false, false, true, false),
        (Kind::Gitlab, false, false, true, false),
        // Taken away by the forge.
        (Kind::Gitlab, true, false, true, false),
        // The setting promises that, and it did not happen: the time alone counts.
        (Kind::Gitlab, true, true, true, false),
        // Given after the push, and the forge does not say when: only its setting proves that.
        (Kind::Gitlab, true, false, false, true),
        (Kind::Gitlab, false, false, false, false),
    ] {
        let desk = Desk::new(kind);
        let (registry, forge) = (&desk.registry, &desk.forge);
        forge.set_approvals(reset, says_when);
        if keeps {
            forge.keep_approvals();
        }
        let signing = Signing::new(registry);
        let dora = forge.clone_as("dora");
        let number = desk.propose(&dora, "hello", "1.0.0");
        let approve = || ["sec", "plat"].iter().for_each(|reviewer| forge.approve(number, reviewer));
        if says_when {
            approve();
        }
        dora.commit("docs/hello.md", "Something else.\n", "One more thing");
        dora.push("hello-1.0.0").ok();
        if !says_when {
            approve();
        }
        forge.merge(number, "mona", Merge::Squash);
        let ran = signing.once(forge).exits(i32::from(!counts));
        assert_eq!(head_version(&registry.site()), u64::from(counts), "{kind:?} {reset} {says_when}: {ran}");
    }
}

fn a_listed_signature_is_one() {
    let desk = Desk::new(Kind::Gitea);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let mut signing = Signing::new(registry);
    let key = |name: &str| {
        let file = signing.path(name);
        Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&file).ok();
        (file.clone(), std::fs::read_to_string(file.with_extension("pub")).unwrap())
    };
    let ((good, public), (bad, _)) = (key("good"), key("bad"));
    let allowed = signing.path("allowed_signers");
    std::fs::write(&allowed, format!("security@example.com {public}")).unwrap();
    signing.extra.end = format!("[approvals]\nallowed_signers = {allowed:?}\n");
    let reviewed_by = |name: &str| desk.recipe(name, "1.0.0").replace("  - platform@example.com\n", "");
    let push = |name: &str, email: &str, key: Option<&PathBuf>| {
        let signing_key = format!("user.signingkey={}", key.unwrap_or(&good).display());
        let sign = format!("commit.gpgsign={}", key.is_some());
        let options = ["-c", "gpg.format=ssh", "-c", &signing_key, "-c", &sign];
        forge.push_past_review_with(&format!("servers/{name}.yaml"), &reviewed_by(name), email, name, &options);
    };
    push("unsigned", "dora@example.com", None);
    push("unlisted", "dora@example.com", Some(&bad));
    push("own", "security@example.com", Some(&good));
    push("signed", "dora@example.com", Some(&good));
    signing.once(forge).exits(1);
    let attempts = signing.journal()["attempts"].clone();
    for (name, reason) in
        [("unsigned", "not signed by a listed key"), ("unlisted", "not signed by a listed key"), ("own", "(wrote it)")]
    {
        let said = attempts[format!("{name}.yaml")]["reason"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(reason), "{name}: {said}");
    }
    assert_eq!(attempts.as_object().unwrap().len(), 3, "{attempts}");
    let source = &statement(&registry.site(), "signed")["predicate"]["source"];
    assert_eq!((source.get("pull_request"), &source["approvals"]), (None, &json!(["security@example.com"])));
}

/// Nothing reads a `policy.yml`, which whoever wrote it does not know.
fn a_policy_that_is_called_otherwise() {
    let desk = Desk::new(Kind::Github);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let signing = Signing::new(registry);
    let dora = forge.clone_as("dora");
    desk.change(&dora, "policy.yml", "reviewers: {minimum: 3}\n", &["sec"]);
    desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
    signing.once(forge).exits(1).says("policy.yml of the branch is not read; call it policy.yaml");
    assert_eq!(head_version(&registry.site()), 0);
}
