//! Every change of what was written is found.

use super::*;

#[test]
fn the_chain_goes_on_after_a_restart_of_the_daemon() {
    let dir = Dir::new();
    for round in 1..=3 {
        let audit = Audit::open(&dir.options()).unwrap();
        let facts = BootFacts { reads: Some("cached"), trust_version: Some(round), ..BootFacts::default() };
        audit.describe_blocking(facts.clone()).unwrap();
        audit.describe_blocking(facts).unwrap();
        assert_eq!(audit.record_blocking(launch()).unwrap(), round as i64);
        audit.close();
    }
    let conn = Connection::open(dir.db()).unwrap();
    let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    // One boot row at each start and one when the facts were known; one host, caller and release for all.
    assert_eq!(count("SELECT count(*) FROM boot"), 6);
    assert_eq!(count("SELECT count(*) FROM boot WHERE reads = 'cached' AND boot_uuid IS NOT NULL"), 3);
    assert_eq!(count("SELECT count(*) FROM host"), 1);
    assert_eq!((count("SELECT count(*) FROM caller"), count("SELECT count(*) FROM release")), (1, 1));
    assert_eq!(verify(&dir.db(), &[]).unwrap().rows, 3);
}

/// There is one writer, and whoever begins anew is one too.
#[test]
fn a_restart_names_the_old_seal() {
    let dir = Dir::new();
    let audit = Audit::open(&dir.options()).unwrap();
    audit.record_blocking(launch()).unwrap();
    let refused = std::thread::scope(|scope| {
        let other = scope.spawn(|| Audit::open(&dir.options()).map(drop));
        let anew = restart(&dir.db(), alice(), "damaged").map(drop);
        [other.join().unwrap(), anew]
    });
    assert!(refused.iter().all(|one| matches!(one, Err(AuditError::Locked { .. }))), "{refused:?}");
    audit.close();
    let old = Anchor { time: None, ..verify(&dir.db(), &[]).unwrap().last.unwrap() }.to_string();
    let done = restart(&dir.db(), alice(), "damaged by a disk fault").unwrap();
    assert_eq!(done.old_seal.as_deref(), Some(old.as_str()));
    assert!(verify(&done.moved_to, &[]).unwrap().intact());
    let all = rows(&dir.db());
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].text("event").as_deref(), Some("audit-restarted"));
    assert!(all[0].text("detail").unwrap().contains(&old));
    // Not even a database any more: still moved aside and not thrown away.
    fs::write(dir.db(), b"rubbish".repeat(200)).unwrap();
    assert!(matches!(Audit::open(&dir.options()), Err(AuditError::Damaged { .. })));
    let done = restart(&dir.db(), alice(), "rubbish").unwrap();
    assert_eq!((done.old_seal, fs::read(done.moved_to).unwrap().len()), (None, 1400));
    Audit::open(&dir.options()).unwrap().close();
}

/// A store with groups of several rows and of one; returns its last seal.
fn sealed(path: &Path) -> Anchor {
    let mut store = Store::open(path, schema::Lock::take(path).unwrap()).unwrap();
    store.describe(BootFacts { reads: Some("passthrough"), trust_version: Some(3), ..BootFacts::default() }).unwrap();
    let full = AuditEvent {
        launch: Some(1),
        head_version: Some(7),
        stale: Some(false),
        path: Some("tree/index.js".to_owned()),
        bytes: Some(10),
        duration_us: Some(20),
        detail: Some(serde_json::json!({"a": 1})),
        ..refusal()
    };
    let other = AuditEvent { caller: Caller::daemon(), ..launch() };
    store.append(&[&full, &other, &launch()]).unwrap();
    store.append(&[&full]).unwrap();
    store.append(&[&other, &full]).unwrap();
    store.close();
    verify(path, &[]).unwrap().last.unwrap()
}

#[test]
fn every_single_altered_value_is_found() {
    let dir = Dir::new();
    let anchor = sealed(&dir.db());
    assert_eq!((anchor.seq, verify(&dir.db(), &[anchor]).unwrap().intact()), (6, true));
    let copy = dir.0.path().join("copy.db");
    let mut tried = 0;
    for table in ["host", "boot", "release", "caller", "event", "seal"] {
        let conn = Connection::open(dir.db()).unwrap();
        let columns: Vec<String> = conn
            .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let rows: Vec<i64> = conn
            .prepare(&format!("SELECT rowid FROM {table}"))
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        drop(conn);
        for column in &columns {
            for row in &rows {
                fs::copy(dir.db(), &copy).unwrap();
                let conn = Connection::open(&copy).unwrap();
                conn.pragma_update(None, "foreign_keys", false).unwrap();
                let sql = format!(
                    "UPDATE {table} SET {column} = CASE typeof({column}) WHEN 'integer' THEN
                       CASE WHEN '{column}' = 'stale' THEN 1 - {column} ELSE {column} + 1000 END
                     WHEN 'text' THEN {column} || 'x' WHEN 'blob' THEN randomblob(length({column})) END
                     WHERE rowid = {row} AND {column} IS NOT NULL"
                );
                let changed = conn.execute(&sql, []).unwrap();
                drop(conn);
                if changed > 0 {
                    tried += 1;
                    let report = verify(&copy, &[]).unwrap();
                    assert!(!report.intact(), "{table}.{column} of {row} was altered unseen");
                }
            }
        }
    }
    assert!(tried > 150, "{tried}");
}

/// Alters a copy of a sealed store by `sql` and returns what verify says.
fn after(sql: &str, anchors: &[Anchor]) -> Vec<String> {
    let dir = Dir::new();
    sealed(&dir.db());
    Connection::open(dir.db()).unwrap().execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
    verify(&dir.db(), anchors).unwrap().findings
}

#[test]
fn findings_name_the_row() {
    assert_eq!(after("", &[]), Vec::<String>::new());
    assert_eq!(after("UPDATE event SET reason = 'fine' WHERE seq = 2", &[]), ["row 2 altered"]);
    assert_eq!(after("UPDATE event SET reason = NULL WHERE seq = 4", &[]), ["row 4 altered"]);
    assert_eq!(after("DELETE FROM event WHERE seq = 5", &[])[0], "row 5 missing");
    assert_eq!(
        after("DELETE FROM event WHERE seq = 4; DELETE FROM seal WHERE last_seq = 4", &[])[0],
        "rows 4 to 4 and their seals are missing"
    );
    let inserted =
        after("INSERT INTO event (seq, time_us, boot, event, outcome) VALUES (7, 0, 1, 'launch', 'ok')", &[]);
    assert_eq!(inserted, ["1 row(s) that no seal covers, from row 7"]);
    assert_eq!(after("UPDATE event SET caller = caller + 1 WHERE seq = 3", &[]), ["row 3 altered"]);
    assert!(after("UPDATE release SET version = '9' WHERE version = '1.2.0'", &[])[0].starts_with("release "));
    assert_eq!(after("DROP VIEW refusals", &[]), ["view refusals missing"]);
    let trigger = "CREATE TRIGGER hide AFTER INSERT ON event BEGIN DELETE FROM event WHERE seq = new.seq; END";
    assert_eq!(after(trigger, &[]), ["trigger hide is not part of the schema"]);
    assert_eq!(after("CREATE INDEX mine ON event (pid); CREATE VIEW own AS SELECT 1", &[]), Vec::<String>::new());
}

#[test]
fn an_anchor_shows_a_cut_tail_and_a_rewrite() {
    let dir = Dir::new();
    let anchor = sealed(&dir.db());
    let cut = "DELETE FROM event WHERE seq > 4; DELETE FROM seal WHERE last_seq > 4";
    // By itself a shorter chain is a good chain. That is what anchors are for.
    assert_eq!(after(cut, &[]), Vec::<String>::new());
    assert_eq!(after(cut, &[anchor]), ["anchor of row 6: the audit ends at row 4, its end was cut off"]);
    // Another store of the same shape: intact, and not the one that was anchored (its salts differ).
    assert_eq!(after("", &[anchor]), ["seal of row 6 is not the anchor's: rows up to 6 were rewritten"]);
    assert_eq!(anchor.to_string().parse::<Anchor>(), Ok(anchor));
    for bad in ["", "@", "@1", "abc@1", &format!("{}@0", anchor.hash), &format!("{}@-1", anchor.hash)] {
        assert!(bad.parse::<Anchor>().is_err(), "{bad}");
    }
}

#[test]
fn erasing_a_person_keeps_the_chain() {
    let erase = "UPDATE caller SET salt = NULL, user_id = NULL, user_name = NULL, login_uid = NULL, request_uid = NULL,
                 group_id = NULL, process = NULL, host_app = NULL, unit = NULL WHERE user_name = 'alice'";
    assert_eq!(after(erase, &[]), Vec::<String>::new());
    // But half an erasure is an alteration.
    assert!(!after("UPDATE caller SET salt = NULL WHERE user_name = 'alice'", &[]).is_empty());
}
