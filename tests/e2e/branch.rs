//! The branch that a signing server watches only ever grows: what it remembers of it, and what it
//! does when the memory is gone.

use mcpfs_tests::codehost::{Kind, Merge};
use mcpfs_tests::fixture::Recipe;
use mcpfs_tests::signing::Signing;
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{fixture, forge};

use crate::boundary::{FORGE, SIGNING_HOST};
use crate::desk::{Desk, head_version, segment, statement, verify};

pub(crate) fn register(suite: &mut Suite) {
    suite.attack(
        Attack::new(
            FORGE,
            "branch::one_that_was_set_back_is_refused",
            "a branch that was set back or rewritten",
            &["was set back or rewritten"],
        ),
        one_that_was_set_back_is_refused,
    );
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "branch::a_lost_journal_is_made_good_from_the_site",
            "a branch set back after the signing server lost its memory: the site tells which tip was read",
            &["was set back or rewritten", "exit 4"],
        ),
        a_lost_journal_is_made_good_from_the_site,
    );
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "branch::a_site_that_tells_nothing_needs_a_word",
            "the same with a site that tells nothing",
            &["nothing tells which tip"],
        ),
        a_site_that_tells_nothing_needs_a_word,
    );
}

fn one_that_was_set_back_is_refused() {
    let desk = Desk::new(Kind::Gitea);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let signing = Signing::new(registry);
    let dora = forge.clone_as("dora");
    desk.accept(&dora, "hello", "1.0.0", Merge::Commit);
    signing.once(forge).ok();
    let old = forge.tip();
    desk.accept(&dora, "hello", "1.1.0", Merge::Commit);
    signing.once(forge).ok();
    forge.rewrite(&old);
    signing.once(forge).exits(1).says("was set back or rewritten");
    assert_eq!(statement(&registry.site(), "hello")["predicate"]["version"], "1.1.0");
    signing.command(forge).args(["--accept-tip", "main"]).exits(2);
    signing.command(forge).args(["--accept-tip", &"0".repeat(40)]).exits(1).says("was set back");
    signing.command(forge).args(["--accept-tip", &old]).ok();
    assert_eq!(statement(&registry.site(), "hello")["predicate"]["version"], "1.0.0");
}

/// All that the server keeps is gone: mirror, journal, the memory of its last head.
fn a_lost_journal_is_made_good_from_the_site() {
    let desk = Desk::new(Kind::Github);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let mut signing = Signing::new(registry);
    let site = registry.site();
    let dora = forge.clone_as("dora");
    let selected = || statement(&site, "hello")["predicate"]["version"].clone();
    let lose = || std::fs::remove_dir_all(signing_state(&signing)).unwrap();
    let set_back = |to: &str, said: &str| {
        let newest = forge.tip();
        forge.rewrite(to);
        for _ in 0..2 {
            signing.once(forge).exits(1).says("was set back or rewritten").says(said);
        }
        forge.rewrite(&newest);
    };
    desk.accept(&dora, "hello", "1.0.0", Merge::Commit);
    let first = forge.tip();
    signing.once(forge).ok();
    desk.accept(&dora, "hello", "1.1.0", Merge::Commit);
    let second = forge.tip();
    signing.once(forge).ok();
    let tip = |version: u64| {
        let row: serde_json::Value = serde_json::from_str(segment(&site, version).lines().next().unwrap()).unwrap();
        assert_eq!(row["tip"]["repository"], forge.git_url(), "{row}");
        row["tip"]["commit"].as_str().unwrap().to_owned()
    };
    assert_eq!(tip(2), second);
    // By the statement's commit.
    lose();
    set_back(&first, &second);
    assert_eq!((head_version(&site), selected()), (2, "1.1.0".into()));
    signing.once(forge).ok();
    assert_eq!(head_version(&site), 2, "nothing to do");

    // 1.0.0 again, whose statement names its own commit: only the log tells that the branch went on.
    dora.branch("revert");
    dora.git(["revert", "--no-edit", "-m", "1", "HEAD"]).ok();
    dora.push("revert").ok();
    let number = forge.open("dora", "revert", "Revert hello 1.1.0");
    forge.approve(number, "sec");
    forge.merge(number, "mona", Merge::Commit);
    let third = forge.tip();
    signing.once(forge).ok();
    assert_eq!((head_version(&site), selected(), tip(3)), (3, "1.0.0".into(), third.clone()));
    lose();
    // A log that does not lead back is no log that says nothing.
    let log = std::fs::read_dir(site.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let newest = log.max().unwrap();
    std::fs::rename(&newest, site.join("away")).unwrap();
    signing.once(forge).exits(4).says("the signing log is broken at log/3-");
    std::fs::rename(site.join("away"), &newest).unwrap();
    set_back(&second, &third);
    assert_eq!((head_version(&site), selected()), (3, "1.0.0".into()));

    // A renewed head tells the newest tip that was read, also where that brought no release.
    forge.push_past_review("README.md", "A registry.\n", "root@example.com", "Words");
    signing.extra.site = "resign_after = \"1s\"\n".to_owned();
    let fourth = forge.tip();
    mcpfs_tests::scratch::wait_for("the head to be signed again", || {
        signing.once(forge).ok();
        (head_version(&site) > 3).then_some(())
    });
    assert_eq!(tip(head_version(&site)), fourth);
    std::fs::remove_dir_all(signing_state(&signing)).unwrap();
    forge.rewrite(&third);
    signing.once(forge).exits(1).says("was set back or rewritten").says(&fourth);
    // The way out that the message names.
    signing.command(forge).args(["--accept-tip", &third]).ok();
    verify(&site, &registry.trust());
}

fn signing_state(signing: &Signing<'_>) -> std::path::PathBuf {
    signing.path("state")
}

/// Published by hand, from no repository: nothing says which tip is the right one.
fn a_site_that_tells_nothing_needs_a_word() {
    let desk = Desk::new(Kind::Gitea);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let signing = Signing::new(registry);
    registry.release(&Recipe::new("hello", "1.0.0", desk.artefact()).with(fixture::HELLO_LAUNCH));
    let dora = forge.clone_as("dora");
    desk.accept(&dora, "other", "1.0.0", Merge::Commit);
    let tip = forge.tip();
    signing.once(forge).exits(1).says("nothing tells which tip").says(&format!("serve --accept-tip {tip}"));
    assert_eq!(head_version(&registry.site()), 1);
    signing.command(forge).args(["--accept-tip", &tip]).ok().says("released other 1.0.0 with head 2");
    signing.once(forge).ok();
    let row = forge::payload(&forge::read(&registry.site().join("head.json")))["predicate"]["version"].clone();
    assert_eq!(row, 2);
}
