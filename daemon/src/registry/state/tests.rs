#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::os::unix::fs::PermissionsExt;

use super::*;

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn everything() -> Writes {
    Writes {
        published: vec![(name("a"), version("1"), Digest::EMPTY)],
        revoked: vec![(name("a"), version("0"), "bad".to_owned())],
        selected: vec![(name("a"), version("1"), Timestamp::from_unix(7).unwrap())],
        admitted: vec![AdmittedRow {
            name: name("a"),
            version: version("1"),
            entry: Digest::EMPTY,
            head_version: u64::MAX,
            head_issued: Timestamp::from_unix(5).unwrap(),
        }],
        documents: vec![("entries/x.json".to_owned(), b"x".to_vec())],
        slots: vec![(SlotKind::Server, "a".to_owned()), (SlotKind::Release, "a".to_owned())],
    }
}

/// Without room of its own, which these tests do not need.
fn open(directory: &Path) -> Result<(State, Opened), StateError> {
    State::open_with(directory, 0)
}

#[test]
fn what_was_stored_is_there_again() {
    let dir = crate::scratch::in_memory();
    let (state, opened) = open(dir.path()).unwrap();
    assert_eq!(opened, Opened::Created);
    assert_eq!(state.head().unwrap(), (Seen::default(), None));
    let slots = state.commit(&everything()).unwrap();
    let seen = Seen {
        floor: Some(Floor { epoch: 1, version: 9, sha256: Digest::EMPTY }),
        signed_time: Timestamp::from_unix(5),
    };
    state.accept_head(&seen, b"head", &[], &[]).unwrap();
    drop(state);

    let (state, opened) = open(dir.path()).unwrap();
    assert_eq!(opened, Opened::Kept);
    assert_eq!(state.head().unwrap(), (seen, Some(b"head".to_vec())));
    let known = state.known(&name("a")).unwrap();
    assert_eq!(known.published, HashMap::from([(version("1"), Digest::EMPTY)]));
    assert_eq!(known.revoked[&version("0")], "bad");
    assert_eq!(known.admitted, BTreeMap::from([(version("1"), Digest::EMPTY)]));
    assert_eq!(known.selected.unwrap().0, version("1"));
    assert_eq!(state.revoked().unwrap()[&(name("a"), version("0"))], "bad");
    assert_eq!(state.admitted().unwrap(), everything().admitted);
    assert_eq!(state.document("entries/x.json").unwrap().unwrap(), b"x");
    // The same batch again, as after a crash: nothing moves.
    assert_eq!(state.commit(&everything()).unwrap(), slots);
    assert_ne!(slots[0], slots[1]);
    assert!(slots.iter().all(|slot| *slot > 0), "slot 0 is the mount's root");
    let mode = std::fs::metadata(dir.path().join("state.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_published_statement_is_never_replaced() {
    let dir = crate::scratch::in_memory();
    let (state, _) = open(dir.path()).unwrap();
    state.commit(&everything()).unwrap();
    let other = Writes {
        published: vec![(name("a"), version("1"), Digest::of(b"other"))],
        revoked: vec![(name("a"), version("0"), "never mind".to_owned())],
        ..Writes::default()
    };
    state.commit(&other).unwrap();
    assert_eq!(state.known(&name("a")).unwrap().published[&version("1")], Digest::EMPTY);
    assert_eq!(state.revoked().unwrap()[&(name("a"), version("0"))], "bad");
}

#[test]
fn revocations_are_final_until_the_epoch_rises() {
    let dir = crate::scratch::in_memory();
    let (state, _) = open(dir.path()).unwrap();
    let set = |registry: &str, version, epoch| {
        let root = root(registry, version, epoch);
        let seen = SeenTrust { version, epoch, sha256: Digest::of(&root.encode()) };
        state.set_trust(&root, &seen).unwrap();
        assert_eq!(state.trust(&root.registry).unwrap(), Some(seen));
    };
    set("demo/a", 1, 1);
    state.commit(&everything()).unwrap();
    set("demo/a", 2, 1);
    assert_eq!(state.revoked().unwrap().len(), 1);
    set("demo/a", 3, 2);
    assert_eq!(state.revoked().unwrap().len(), 0);
    assert_eq!(state.admitted().unwrap().len(), 1);
    // Another registry has its own versions and heads.
    assert_eq!(state.trust(&"demo/b".parse().unwrap()).unwrap(), None);
    set("demo/b", 1, 1);
    assert_eq!(state.admitted().unwrap(), []);
    assert!(state.known(&name("a")).unwrap().published.is_empty());
}

/// A trust root with two keys of RFC 8032, section 7.1.
fn root(registry: &str, version: u64, epoch: u64) -> TrustRoot {
    let (head, release) = (crate::registry::tests::key(1), crate::registry::tests::key(2));
    crate::registry::tests::root(registry, (version, epoch, 1), &head, &release)
}

#[test]
fn documents_are_collected() {
    let dir = crate::scratch::in_memory();
    let (state, _) = open(dir.path()).unwrap();
    let documents = ["a", "b"].map(|path| (path.to_owned(), Vec::new())).to_vec();
    state.commit(&Writes { documents, ..Writes::default() }).unwrap();
    state.keep_documents(&HashSet::from(["b".to_owned()])).unwrap();
    assert_eq!(state.document("a").unwrap(), None);
    assert!(state.document("b").unwrap().is_some());
}

#[test]
fn a_lost_a_damaged_and_a_newer_file() {
    let dir = crate::scratch::in_memory();
    drop(open(dir.path()).unwrap());
    std::fs::remove_file(dir.path().join("state.db")).unwrap();
    assert_eq!(open(dir.path()).unwrap().1, Opened::Created);
    std::fs::write(dir.path().join("state.db"), vec![b'x'; 8192]).unwrap();
    let (state, opened) = open(dir.path()).unwrap();
    let Opened::Damaged(aside) = opened else { panic!("{opened:?}") };
    assert_eq!(std::fs::read(aside).unwrap().len(), 8192);
    state.connection().pragma_update(None, "user_version", 99).unwrap();
    drop(state);
    assert!(matches!(open(dir.path()), Err(StateError::Newer { found: 99, .. })));
}

#[test]
fn the_database_of_another_program_is_left_alone() {
    let dir = crate::scratch::in_memory();
    let path = dir.path().join("state.db");
    for sql in ["CREATE TABLE theirs (x)", "PRAGMA application_id = 77", "PRAGMA user_version = 1; CREATE TABLE t (x)"]
    {
        drop(std::fs::remove_file(&path));
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StateError::Foreign { .. }), "{sql}: {error:?}");
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{sql}: not a byte of it is changed");
    }
}

#[test]
fn a_table_of_slots_has_a_name_of_its_own() {
    let [dir, other] = [(); 2].map(|()| crate::scratch::in_memory());
    let slots = |dir: &tempfile::TempDir| open(dir.path()).unwrap().0.slots().unwrap();
    let name = slots(&dir);
    assert_eq!(slots(&dir), name, "it is kept");
    assert_ne!(slots(&other), name);
    std::fs::write(dir.path().join("state.db"), "damage".repeat(4096)).unwrap();
    assert_ne!(slots(&dir), name, "begun anew");
}
