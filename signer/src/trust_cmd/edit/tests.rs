#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::path::PathBuf;

use super::*;
use crate::pin::Pins;
use crate::trust_cmd::{NewRoot, init, read};

/// A root of demo keys: one head key, one release key.
struct Root {
    keyring: Keyring,
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Root {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trust.json");
        let mut keyring = Keyring::new(Pins::default());
        let new = NewRoot {
            registry: "demo/x".parse().unwrap(),
            version: 4,
            epoch: 1,
            minimum_head: 10,
            head: vec!["demo:head".to_owned()],
            head_threshold: NonZeroU32::MIN,
            release: vec!["demo:release".to_owned()],
            release_threshold: NonZeroU32::MIN,
        };
        init(&mut keyring, new, &path, false).unwrap();
        Self { keyring, _folder: folder, path }
    }

    fn edit(&mut self, wanted: &Edit) -> Result<Edited, TrustError> {
        edit(&mut self.keyring, &self.path, wanted)
    }

    /// The edit, written.
    fn done(&mut self, wanted: &Edit) -> Edited {
        let edited = self.edit(wanted).unwrap();
        edited.write(&self.path, &self.path).unwrap();
        assert_eq!(read(&self.path).unwrap(), edited.after);
        edited
    }

    /// The codes that stand against an edit.
    fn refused(&mut self, wanted: &Edit) -> Vec<&'static str> {
        let before = std::fs::read(&self.path).unwrap();
        let codes = match self.edit(wanted) {
            Err(TrustError::Unsafe { problems }) => problems.iter().map(|one| one.code).collect(),
            other => panic!("{wanted:?}: {other:?}"),
        };
        assert_eq!(std::fs::read(&self.path).unwrap(), before);
        codes
    }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

fn number(n: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(n)
}

#[test]
fn a_rotation_is_one_version_each() {
    let mut root = Root::new();
    let added = root.done(&Edit {
        add_head: names(&["demo:head2"]),
        add_release: names(&["demo:release2"]),
        comment: Some("HSM B".to_owned()),
        ..Edit::default()
    });
    assert_eq!((added.after.version, added.after.head.keys.len(), added.after.keys().count()), (5, 2, 4));
    assert_eq!(added.after.keys().filter(|(.., comment)| *comment == "HSM B").count(), 2);
    assert!(added.transition.changes.iter().any(|line| line.starts_with("~ version")), "{:?}", added.transition);
    let old = added.before.head.keys[0];
    // By eight digits of its id, or by its URI.
    let removed = root.done(&Edit { remove: vec![old.to_string()[..8].to_owned()], ..Edit::default() });
    assert_eq!((removed.after.version, removed.after.keys().count()), (6, 3));
    let removed = root.done(&Edit { remove: names(&["demo:release"]), ..Edit::default() });
    assert_eq!((removed.after.version, removed.after.keys().count()), (7, 2));
    assert!(removed.transition.notes.iter().any(|note| note.code == "release-key-removed"));
}

#[test]
fn what_changes_nothing_raises_nothing() {
    let mut root = Root::new();
    for wanted in [
        Edit::default(),
        Edit { add_head: names(&["demo:head"]), ..Edit::default() },
        Edit { head_threshold: number(1), minimum_head: Some(10), ..Edit::default() },
    ] {
        let edited = root.edit(&wanted).unwrap();
        assert!(!edited.changes() && edited.after.version == 4 && edited.transition.changes.is_empty(), "{edited:?}");
    }
    assert_eq!(root.edit(&Edit { version: Some(9), ..Edit::default() }).unwrap().after.version, 9);
}

#[test]
fn team_and_approver() {
    let mut root = Root::new();
    let spec: ScopeSpec = "pay-* = 1 of demo:team demo:team2 and 1 of demo:approver".parse().unwrap();
    let edited = root.done(&Edit { scopes: vec![spec], ..Edit::default() });
    let rule = edited.after.rule_for(&"pay-roll".parse().unwrap()).unwrap();
    assert_eq!((rule.require.len(), rule.require[0].keys.len(), rule.require[1].keys.len()), (2, 2, 1));
    // Which of the two groups must be said.
    let threshold = |within: Option<&str>| Edit {
        release_threshold: number(2),
        within: within.map(|within| within.parse().unwrap()),
        ..Edit::default()
    };
    assert!(matches!(root.edit(&threshold(Some("pay-*"))), Err(TrustError::WhichGroup { groups: 2, .. })));
    assert!(matches!(root.edit(&threshold(Some("pay-*:3"))), Err(TrustError::WhichGroup { groups: 2, .. })));
    assert!(matches!(root.edit(&threshold(Some("nobody"))), Err(TrustError::NoScope { .. })));
    assert_eq!(root.refused(&threshold(Some("pay-*:2"))), ["threshold-unmet"]);
    assert_eq!(
        root.done(&threshold(Some("pay-*:1"))).after.rule_for(&"pay-1".parse().unwrap()).unwrap().require[0]
            .threshold
            .get(),
        2
    );
    let both: ScopeSpec = "x=1 of demo:one and 1 of demo:one".parse().unwrap();
    assert_eq!(root.refused(&Edit { scopes: vec![both], ..Edit::default() }), ["one-for-two-groups"]);
    let gone = root.done(&Edit { remove_scopes: vec!["pay-*".parse().unwrap()], ..Edit::default() });
    assert_eq!(gone.after.keys().count(), 2, "keys of no role went with it");
}

#[test]
fn unsafe_edits() {
    let mut root = Root::new();
    let refused: [(Edit, &[&str]); 10] = [
        (Edit { remove: names(&["demo:head"]), ..Edit::default() }, &["no-key"]),
        (Edit { remove: names(&["demo:head", "demo:release"]), ..Edit::default() }, &["no-key", "no-key"]),
        (Edit { head_threshold: number(2), ..Edit::default() }, &["threshold-unmet"]),
        (Edit { release_threshold: number(2), ..Edit::default() }, &["threshold-unmet"]),
        (Edit { add_release: names(&["demo:head"]), ..Edit::default() }, &["both-roles"]),
        (Edit { remove_scopes: vec!["*".parse().unwrap()], ..Edit::default() }, &["no-scope"]),
        (Edit { version: Some(4), minimum_head: Some(11), ..Edit::default() }, &["version-not-raised"]),
        (Edit { version: Some(3), ..Edit::default() }, &["version-not-raised"]),
        (Edit { minimum_head: Some(9), ..Edit::default() }, &["minimum-head-lowered"]),
        // Two faults are told at once.
        (
            Edit { head_threshold: number(3), add_release: names(&["demo:head"]), ..Edit::default() },
            &["threshold-unmet", "both-roles"],
        ),
    ];
    for (wanted, codes) in &refused {
        assert_eq!(root.refused(wanted), *codes, "{wanted:?}");
    }
    let lowered = Edit { minimum_head: Some(9), raise_epoch: true, ..Edit::default() };
    assert_eq!(root.edit(&lowered).unwrap().after.epoch, 2);
    let key = |add: &str| Edit { add_head: names(&[add]), ..Edit::default() };
    for bad in ["nobody", "abcdef0123", &"A".repeat(43), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
        assert!(matches!(root.edit(&key(bad)), Err(TrustError::NotAKey(_))), "{bad}");
    }
    let gone = |name: &str| Edit { remove: names(&[name]), ..Edit::default() };
    for other in ["demo:nobody", "abcdef0123"] {
        assert!(matches!(root.edit(&gone(other)), Err(TrustError::NoSuchKey(_))), "{other}");
    }
}

#[test]
fn steps_between_two_files() {
    let mut root = Root::new();
    let old = read(&root.path).unwrap();
    let new = root.edit(&Edit { add_head: names(&["demo:h2"]), raise_epoch: true, ..Edit::default() }).unwrap().after;
    let codes = |remarks: &[Remark]| remarks.iter().map(|one| one.code).collect::<Vec<_>>();
    let there = transition::between(&old, &new);
    assert_eq!((codes(&there.problems), codes(&there.notes)), (vec![], vec!["new-epoch", "minimum-head"]));
    let back = transition::between(&new, &old);
    assert_eq!(codes(&back.problems), ["version-not-raised", "epoch-lowered"]);
    assert!(back.changes.iter().any(|line| line.starts_with("- key")), "{back:?}");
    assert_eq!(transition::between(&old, &old), Transition { notes: there_is_no_spare(), ..Transition::default() });
}

fn there_is_no_spare() -> Vec<Remark> {
    let root = Root::new();
    let root = read(&root.path).unwrap();
    let notes = transition::between(&root, &root).notes;
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].code, "no-spare-head-key");
    notes
}

#[test]
fn somebody_elses_edit_is_not_lost() {
    let mut root = Root::new();
    let mine = root.edit(&Edit { add_head: names(&["demo:mine"]), ..Edit::default() }).unwrap();
    let theirs = root.done(&Edit { add_head: names(&["demo:theirs"]), ..Edit::default() });
    assert!(matches!(mine.write(&root.path, &root.path), Err(TrustError::Meanwhile { .. })));
    assert_eq!(read(&root.path).unwrap(), theirs.after);
    let other = root.path.with_file_name("other.json");
    mine.write(&root.path, &other).unwrap();
    assert_eq!(read(&other).unwrap(), mine.after);
}

#[test]
fn specs() {
    let good: ScopeSpec = " * = 2 of a b c and 1 of d ".parse().unwrap();
    assert_eq!(good.groups.len(), 2);
    assert_eq!(good.groups[0].1, names(&["a", "b", "c"]));
    // A URI has its own signs of equality.
    assert!("x=1 of pkcs11:token=a;object=b?module-path=/m.so".parse::<ScopeSpec>().is_ok());
    for bad in [
        "",
        "*",
        "*=",
        "*=1",
        "*=1 of",
        "*=0 of a",
        "*=-1 of a",
        "*=1 of a and",
        "*=and 1 of a",
        "a b=1 of c",
        "A=1 of c",
    ] {
        assert!(bad.parse::<ScopeSpec>().is_err(), "{bad}");
    }
    for bad in ["", "*:0", "*:x", "*:", "A", "*:-1", ":1x"] {
        assert!(bad.parse::<GroupName>().is_err() || bad.is_empty(), "{bad}");
    }
}

#[test]
fn nothing_could_follow() {
    let mut root = Root::new();
    for wanted in [
        Edit { version: Some(u64::MAX), minimum_head: Some(11), ..Edit::default() },
        Edit { minimum_head: Some(u64::MAX), ..Edit::default() },
    ] {
        assert_eq!(root.refused(&wanted), ["nothing-follows"]);
    }
    let scopes = ["a* = 1 of demo:release", "a* = 1 of demo:other"].map(|spec| spec.parse().unwrap()).to_vec();
    assert_eq!(root.refused(&Edit { scopes, ..Edit::default() }), ["scope-twice"]);
}

#[test]
fn a_new_scope_may_be_weaker_than_what_decided_before() {
    let mut root = Root::new();
    let both = vec!["* = 2 of demo:release demo:second".parse().unwrap()];
    root.done(&Edit { scopes: both, ..Edit::default() });
    let weaker = |edited: &Edited| edited.transition.notes.iter().any(|note| note.code == "weaker");
    for (spec, noted) in [("pay* = 1 of demo:third", true), ("pay* = 2 of demo:third demo:fourth", false)] {
        let edited = root.edit(&Edit { scopes: vec![spec.parse().unwrap()], ..Edit::default() }).unwrap();
        assert_eq!(weaker(&edited), noted, "{spec}: {:?}", edited.transition.notes);
    }
}
