//! What somebody who writes the file says of retention, and what of it is found.

use super::retaining::{DAY_US, all, column, dated, redate, seqs, store, whole};
use super::*;
use crate::audit::event::now_us;
use crate::audit::seal::GENESIS;

/// Alters a copy of a store that has two cuts, and returns what verify says.
fn after(sql: &str, anchors: &[Anchor]) -> Vec<String> {
    let dir = Dir::new();
    twice_cut(&dir.db());
    Connection::open(dir.db()).unwrap().execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
    verify(&dir.db(), anchors).unwrap().findings
}

/// Rows 1 to 3 gone by one cut and 4 and 5 by the next, which rows 10 and 11 tell of.
fn twice_cut(path: &Path) {
    let now = now_us();
    dated(path, 9, |seq| now - (9 - seq) * DAY_US);
    let mut open = store(path);
    for days in [5, 3] {
        let policy = format!("{days}d");
        open.remove(&Cutoff { policy, before_us: now_us() - days * DAY_US - DAY_US / 2, at_us: 0 }).unwrap();
    }
    drop(open);
    assert_eq!(seqs(path), [6, 7, 8, 9, 10, 11]);
    assert_eq!(column::<i64>(path, "SELECT last_seq FROM cut"), [3, 5]);
    whole(path);
}

#[test]
fn every_lie_about_a_cut_that_the_file_can_show_is_found() {
    for (sql, says) in [
        ("DELETE FROM cut", "cut of row 3 missing, of which row 10 tells"),
        ("DELETE FROM cut WHERE last_seq = 5", "cut of row 5 missing, of which row 11 tells"),
        ("DELETE FROM cut WHERE last_seq = 3", "cut of row 5 altered: it says 2 rows and took 5"),
        ("UPDATE cut SET rows = rows - 1 WHERE last_seq = 5", "cut of row 5 altered"),
        ("UPDATE cut SET time_us = time_us - 1 WHERE last_seq = 5", "cut of row 5 altered: row 11 says something else"),
        ("UPDATE cut SET policy = '400d' WHERE last_seq = 3", "cut of row 3 altered: row 10 says something else"),
        ("UPDATE cut SET hash = zeroblob(32) WHERE last_seq = 5", "cut of row 5 altered"),
        ("UPDATE cut SET hash = zeroblob(31) WHERE last_seq = 5", "cut of row 5 altered"),
        ("UPDATE cut SET last_seq = 6, rows = 3 WHERE last_seq = 5", "cut of row 5 missing"),
        // Two more rows that somebody wants gone, as retention would do it but for its row.
        (
            "INSERT INTO cut SELECT 7, time_us, 2, (SELECT hash FROM seal WHERE last_seq = 7), policy FROM cut WHERE last_seq = 5;
             DELETE FROM event WHERE seq < 8; DELETE FROM seal WHERE last_seq < 8",
            "cut of row 7: no row tells of it, so retention did not make it",
        ),
        ("UPDATE event SET detail = json_set(detail, '$.rows', 9) WHERE seq = 11", "cut of row 5 altered"),
        ("UPDATE event SET detail = NULL WHERE seq = 11", "no row tells of it"),
        ("UPDATE event SET detail = '{\"last_seq\":' WHERE seq = 11", "no row tells of it"),
        ("DELETE FROM event WHERE seq = 6", "row 6 missing"),
        ("DELETE FROM event WHERE seq = 6; DELETE FROM seal WHERE last_seq = 6", "rows 6 to 6 and their seals are missing"),
        ("INSERT INTO event (seq, time_us, boot, event, outcome) VALUES (5, 0, 1, 'launch', 'ok')", "that no seal covers"),
        ("UPDATE event SET reason = 'x' WHERE seq = 6", "row 6 altered"),
    ] {
        let findings = after(sql, &[]);
        assert!(findings.iter().any(|finding| finding.contains(says)), "{sql}: {findings:?}");
    }
    assert_eq!(after("", &[]), Vec::<String>::new());
}

#[test]
fn an_anchor_with_its_time_shows_a_cut_that_took_too_much() {
    let dir = Dir::new();
    let path = dir.db();
    let now = now_us();
    dated(&path, 9, |seq| now - (9 - seq) * DAY_US);
    let seals: Vec<(i64, [u8; 32], i64)> = {
        let conn = Connection::open(&path).unwrap();
        let mut statement = conn.prepare("SELECT last_seq, hash, time_us FROM seal ORDER BY last_seq").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let anchor = |seq: usize, timed: bool| {
        let (seq, hash, time_us) = seals[seq - 1];
        let time = mcpfs_trust::time::Timestamp::from_unix(time_us / 1_000_000).filter(|_| timed);
        Anchor { hash: Digest::from_bytes(hash), seq, time }
    };
    let (old, young) = (anchor(2, true), anchor(7, true));
    assert_eq!(young.to_string().parse::<Anchor>(), Ok(young));
    let mut open = store(&path);
    open.remove(&Cutoff { policy: "5d".to_owned(), before_us: now_us() - 5 * DAY_US - DAY_US / 2, at_us: 0 }).unwrap();
    drop(open);
    let honest = verify(&path, &[old, young, anchor(3, false)]).unwrap();
    assert_eq!(honest.findings, Vec::<String>::new());
    assert!(honest.notes[0].contains("its rows are gone, as the policy (5d) says"), "{honest:?}");
    // Noted without its time it says nothing any more, and verify says what is lacking.
    let bare = verify(&path, &[anchor(2, false)]).unwrap().findings;
    assert!(bare.len() == 1 && bare[0].contains("cannot be compared") && bare[0].contains("HASH@SEQ@TIME"), "{bare:?}");
    // One who may write the file removes younger rows, and tells of a cut by the rules.
    let mut forged = store(&path);
    forged.remove(&Cutoff { policy: "5d".to_owned(), before_us: now_us() - DAY_US / 2, at_us: 0 }).unwrap();
    drop(forged);
    let seen = verify(&path, &[]).unwrap().findings;
    assert!(seen.len() == 1 && seen[0].contains("that its policy does not allow"), "{seen:?}");
    // A more careful one lies about that as well: now nothing but the anchor tells.
    let conn = Connection::open(&path).unwrap();
    let lie = "UPDATE event SET detail = json_set(detail, '$.before_us', ?1, '$.newest_us', ?1 - 1) WHERE seq = 11";
    conn.execute(lie, [now - 6 * DAY_US]).unwrap();
    let times: Vec<i64> = column(&path, "SELECT time_us FROM event ORDER BY seq");
    let first = seqs(&path)[0];
    redate(&path, |seq| times[(seq - first) as usize]);
    assert_eq!(verify(&path, &[old]).unwrap().findings, Vec::<String>::new());
    let told = verify(&path, &[young]).unwrap().findings;
    assert!(told.len() == 1 && told[0].contains("were not removed by retention"), "{told:?}");
    assert_ne!(GENESIS, young.hash);
}

/// The rows of a store with two cuts, one value after the other: each is noticed.
#[test]
fn every_single_altered_value_beside_a_cut_is_found() {
    let dir = Dir::new();
    let path = dir.db();
    twice_cut(&path);
    let copy = dir.0.path().join("copy.db");
    let mut tried = 0;
    for table in ["cut", "event", "seal"] {
        let columns: Vec<String> = column(&path, &format!("SELECT name FROM pragma_table_info('{table}')"));
        for row in column::<i64>(&path, &format!("SELECT rowid FROM {table}")) {
            for name in &columns {
                fs::copy(&path, &copy).unwrap();
                let conn = Connection::open(&copy).unwrap();
                conn.pragma_update(None, "foreign_keys", false).unwrap();
                let sql = format!(
                    "UPDATE {table} SET {name} = CASE typeof({name}) WHEN 'integer' THEN {name} + 1000
                     WHEN 'text' THEN {name} || 'x' ELSE randomblob(length({name})) END
                     WHERE rowid = {row} AND {name} IS NOT NULL"
                );
                let changed = conn.execute(&sql, []).unwrap();
                drop(conn);
                if changed > 0 {
                    tried += 1;
                    assert!(!verify(&copy, &[]).unwrap().intact(), "{table}.{name} of {row} was altered unseen");
                }
            }
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn numbers_that_nobody_writes_are_no_fault_of_ours() {
    for last in [i64::MAX, i64::MAX - 1, -1, i64::MIN] {
        let dir = Dir::new();
        let path = dir.db();
        twice_cut(&path);
        let conn = Connection::open(&path).unwrap();
        conn.execute("INSERT INTO cut VALUES (?1, 0, 0, zeroblob(32), '1d')", [last]).unwrap();
        conn.execute("UPDATE seal SET first_seq = ?1 WHERE last_seq = 8", [last]).unwrap();
        assert!(!verify(&path, &[]).unwrap().intact());
        let plan = retain::plan(&conn, &all()).unwrap();
        assert!(plan.removal.is_none() || last < 0, "{plan:?}");
        drop(conn);
        let opened = Store::open(&path, schema::Lock::take(&path).unwrap());
        assert_eq!(matches!(opened, Err(AuditError::Damaged { .. })), last > 0, "{opened:?}");
    }
}

/// A row's seal vouches for the commitments of whom and what it names; what stands beside those may be forged.
#[test]
fn rows_that_name_what_was_altered_stay() {
    for (lie, says, stays) in [
        ("UPDATE caller SET user_name = 'mallory' WHERE user_name = 'user-2'", "caller 3 altered", 3),
        ("UPDATE caller SET user_name = NULL WHERE user_name = 'user-2'", "caller 3 altered", 3),
        ("UPDATE caller SET salt = NULL WHERE user_name = 'user-0'", "caller 1 altered", 1),
        ("UPDATE release SET server_name = 'harmless'", "release 1 altered", 1),
        ("UPDATE release SET statement_sha256 = NULL", "release 1 altered", 1),
        ("UPDATE boot SET daemon = '9.9.9'", "boot 1 altered", 1),
        ("UPDATE host SET name = 'elsewhere'", "boot 1 altered", 1),
        // With a commitment that suits the lie, or without the row, the seal does not fit.
        ("UPDATE caller SET user_name = 'mallory', commitment = randomblob(32) WHERE caller = 2", "row 2 altered", 2),
        ("DELETE FROM caller WHERE caller = 2", "row 2 altered", 2),
    ] {
        let dir = Dir::new();
        let path = dir.db();
        let old = now_us() - 9 * DAY_US;
        dated(&path, 4, |_| old);
        Connection::open(&path).unwrap().execute_batch(&format!("PRAGMA foreign_keys = OFF; {lie}")).unwrap();
        let before = verify(&path, &[]).unwrap().findings;
        let mut open = store(&path);
        for round in 0..2 {
            let removed = open.remove(&all()).unwrap();
            let gone = if round == 0 { stays - 1 } else { 0 };
            assert_eq!((removed.rows, removed.more), (gone as u64, false), "{lie}");
            let unfit = removed.unfit.unwrap();
            assert!(unfit.starts_with(says) && unfit.contains("it is evidence"), "{lie}: {unfit}");
        }
        drop(open);
        let told = if stays > 1 { vec![5] } else { vec![] };
        assert_eq!(seqs(&path), [(stays..=4).collect(), told].concat(), "{lie}");
        // All that it found before, it finds now.
        let after = verify(&path, &[]).unwrap().findings;
        assert!(before.iter().all(|finding| after.contains(finding)), "{lie}: {before:?}, then {after:?}");
    }
}

#[test]
fn what_still_runs_is_not_told_in_a_forged_name() {
    let dir = Dir::new();
    let path = dir.db();
    let own = Caller { user_name: Some("alice".to_owned()), ..Caller::of(std::process::id(), 71001, 100) };
    let mut open = store(&path);
    for caller in [alice(), own] {
        open.append(&[&AuditEvent { caller, ..launch() }]).unwrap();
    }
    drop(open);
    let old = now_us() - 9 * DAY_US;
    redate(&path, |_| old);
    Connection::open(&path).unwrap().execute_batch("UPDATE caller SET user_name = 'mallory' WHERE caller = 2").unwrap();
    let mut open = store(&path);
    assert_eq!(open.remove(&all()).unwrap().rows, 1);
    drop(open);
    let told = "SELECT count(*) FROM event WHERE event = 'cut' AND launch IS NOT NULL";
    assert_eq!((column::<i64>(&path, told), seqs(&path)), (vec![0], vec![2, 3]));
}

/// The daemon starts, and nothing happens: a boot without rows, which goes when those before it go.
#[test]
fn a_boot_without_rows_stays_too_if_it_was_altered() {
    for (lie, left) in [("", vec![3]), ("UPDATE boot SET daemon = '9.9.9' WHERE boot = 2", vec![2, 3])] {
        let dir = Dir::new();
        let path = dir.db();
        let old = now_us() - 9 * DAY_US;
        dated(&path, 2, |_| old);
        drop(store(&path));
        Connection::open(&path).unwrap().execute_batch(lie).unwrap();
        let mut open = store(&path);
        assert_eq!(open.remove(&all()).unwrap().rows, 2);
        drop(open);
        assert_eq!(column::<i64>(&path, "SELECT boot FROM boot ORDER BY boot"), left);
        assert_eq!(verify(&path, &[]).unwrap().intact(), lie.is_empty());
    }
}
