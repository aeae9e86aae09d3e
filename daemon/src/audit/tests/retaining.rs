//! Retention: exactly what is old enough goes, the rest stays provable, and a lie about it is found.

use rusqlite::params;

use super::*;
use crate::audit::event::now_us;
use crate::audit::seal::{Row, Seal};

pub(super) const DAY_US: i64 = 86_400_000_000;

pub(super) fn store(path: &Path) -> Store {
    let mut store = Store::open(path, schema::Lock::take(path).unwrap()).unwrap();
    store.describe(BootFacts { reads: Some("cached"), ..BootFacts::default() }).unwrap();
    store
}

fn by(user: u32) -> AuditEvent {
    let name = Some(format!("user-{user}"));
    AuditEvent { caller: Caller { user_id: Some(user), user_name: name, pid: None, ..alice() }, ..launch() }
}

/// Whatever was written before now.
pub(super) fn all() -> Cutoff {
    Cutoff { policy: "1d".to_owned(), before_us: now_us() - DAY_US, at_us: 0 }
}

pub(super) fn column<T: rusqlite::types::FromSql>(path: &Path, sql: &str) -> Vec<T> {
    let conn = Connection::open(path).unwrap();
    let mut statement = conn.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

pub(super) fn seqs(path: &Path) -> Vec<i64> {
    column(path, "SELECT seq FROM event ORDER BY seq")
}

pub(super) fn whole(path: &Path) {
    let report = verify(path, &[]).unwrap();
    assert!(report.intact(), "{:?}", report.findings);
    let broken: Vec<String> = column(path, "SELECT \"table\" FROM pragma_foreign_key_check");
    assert!(broken.is_empty(), "{broken:?}");
    for table in ["caller", "release"] {
        let unused = format!(
            "SELECT {table} FROM {table} WHERE {table} NOT IN (SELECT {table} FROM event WHERE {table} IS NOT NULL)"
        );
        assert_eq!(column::<i64>(path, &unused), Vec::<i64>::new(), "{table}");
    }
}

/// Gives each seal and its rows the time that `time_of` says for its first row, and seals all anew: what a host's
/// clock would have had to do, and what whoever may write the file can do.
pub(super) fn redate(path: &Path, time_of: impl Fn(i64) -> i64) {
    let mut conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "foreign_keys", false).unwrap();
    let conn = conn.transaction().unwrap();
    let seals: Vec<(i64, i64)> = conn
        .prepare("SELECT first_seq, last_seq FROM seal ORDER BY last_seq")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let (_, mut hash) = retain::base(&conn).unwrap();
    for (first, last) in seals {
        let time = time_of(first);
        conn.execute("UPDATE event SET time_us = ?1 WHERE seq BETWEEN ?2 AND ?3", [time, first, last]).unwrap();
        let mut events = conn.prepare(&verify::events_of_a_seal()).unwrap();
        let columns = events.column_count();
        let leaf = |row: &rusqlite::Row<'_>| {
            let mut encoded = Row::of("event");
            (0..columns).for_each(|column| encoded.column(row.get_ref(column).unwrap()));
            Ok(encoded.leaf())
        };
        let leaves: Vec<Digest> = events.query_map([first, last], leaf).unwrap().map(Result::unwrap).collect();
        let seal = Seal::over(&hash, first, time, &leaves);
        let sql = "UPDATE seal SET time_us = ?1, leaves = ?2, root = ?3, hash = ?4 WHERE last_seq = ?5";
        conn.execute(sql, params![time, seal.leaves, seal.root.as_bytes(), seal.hash.as_bytes(), last]).unwrap();
        hash = seal.hash;
    }
    conn.commit().unwrap();
}

/// A store of `groups` rows, each by another user under its own seal, dated by their place.
pub(super) fn dated(path: &Path, groups: u32, time_of: impl Fn(i64) -> i64) {
    let mut store = store(path);
    for user in 0..groups {
        store.append(&[&by(user)]).unwrap();
    }
    store.close();
    redate(path, time_of);
    whole(path);
}

#[test]
fn whole_seals_go_from_the_front_and_all_of_them_is_told() {
    let dir = Dir::new();
    let path = dir.db();
    let now = now_us();
    // Ten days, one row a day, the youngest of today.
    dated(&path, 10, |seq| now - (10 - seq) * DAY_US);
    let anchor = verify(&path, &[]).unwrap().last.unwrap();
    let mut open = store(&path);
    let cutoff = Cutoff { policy: "4d".to_owned(), before_us: now_us() - 4 * DAY_US, at_us: 0 };
    let removed = open.remove(&cutoff).unwrap();
    assert_eq!(removed, Removed { rows: 6, more: false, unfit: None });
    assert_eq!(open.remove(&cutoff).unwrap(), Removed::default());
    open.close();
    whole(&path);
    assert_eq!(seqs(&path), [7, 8, 9, 10, 11]);
    let report = verify(&path, &[anchor]).unwrap();
    assert!(report.intact() && report.rows == 5, "{report:?}");
    let cut = report.cut.unwrap();
    assert_eq!((cut.last_seq, cut.rows, cut.policy.as_str(), cut.before_us), (6, 6, "4d", Some(cutoff.before_us)));
    let row = rows(&path).pop().unwrap();
    assert_eq!((row.text("event").as_deref(), row.text("user_name").as_deref()), (Some("cut"), Some("mcpfs")));
    let names: Vec<String> = column(&path, "SELECT user_name FROM caller ORDER BY user_name");
    assert_eq!(names, ["mcpfs", "user-6", "user-7", "user-8", "user-9"]);
}

#[test]
fn when_all_is_gone_the_numbers_go_on() {
    let dir = Dir::new();
    let path = dir.db();
    let now = now_us();
    dated(&path, 3, |_| now - 3 * DAY_US);
    for round in 1..=3 {
        let mut open = store(&path);
        let removed = open.remove(&all()).unwrap();
        assert_eq!(removed.rows, if round == 1 { 3 } else { 1 });
        drop(open);
        whole(&path);
        assert_eq!(seqs(&path), [3 + round]);
        // The row that tells of it is old too by the next time.
        redate(&path, |_| now_us());
        let again = store(&path);
        drop(again);
        let report = verify(&path, &[]).unwrap();
        assert_eq!(report.cut.as_ref().map(|cut| cut.last_seq), Some(2 + round));
        age(&path);
    }
    let mut open = store(&path);
    assert_eq!(open.append(&[&launch()]).unwrap(), [7]);
    assert_eq!(column::<i64>(&path, "SELECT count(*) FROM host"), [1]);
}

/// Makes a store three days older, its cuts and what tells of them too.
fn age(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "foreign_keys", false).unwrap();
    conn.execute("UPDATE cut SET time_us = time_us - ?1", [3 * DAY_US]).unwrap();
    let told = "UPDATE event SET detail = json_set(detail, '$.before_us', json_extract(detail, '$.before_us') - ?1,
                '$.newest_us', json_extract(detail, '$.newest_us') - ?1) WHERE event = 'cut'";
    conn.execute(told, [3 * DAY_US]).unwrap();
    let cut: i64 = conn.query_row("SELECT max(time_us) FROM cut", [], |row| row.get(0)).unwrap();
    redate(path, |_| cut);
}

#[test]
fn a_clock_that_was_wrong_takes_nothing_with_it() {
    let now = now_us();
    let years = |years: i64| now + years * 365 * DAY_US;
    for (what, times, left) in [
        // It was ahead for a while: what follows says how old that is.
        ("ahead", vec![now - 9 * DAY_US, years(14), years(14), now - 8 * DAY_US, now], vec![5, 6]),
        ("ahead to the end", vec![now - 9 * DAY_US, years(14), years(14)], vec![2, 3, 4]),
        ("ahead, and since then young", vec![now - 9 * DAY_US, years(14), now, now], vec![2, 3, 4, 5]),
        // It was behind: those before it tell.
        ("behind", vec![now, now - 9 * DAY_US, 0, now], vec![1, 2, 3, 4]),
        ("before there was mcpfs", vec![0, 0, now], vec![1, 2, 3]),
        ("before there was mcpfs, long ago", vec![0, 0, now - 9 * DAY_US, now], vec![4, 5]),
        ("never right", vec![0, years(1), i64::MAX, i64::MIN], vec![1, 2, 3, 4]),
    ] {
        let dir = Dir::new();
        let path = dir.db();
        dated(&path, times.len() as u32, |seq| times[seq as usize - 1]);
        let mut open = store(&path);
        open.remove(&all()).unwrap();
        drop(open);
        whole(&path);
        assert_eq!(seqs(&path), left, "{what}");
    }
}

#[test]
fn what_does_not_fit_its_seal_stays() {
    let dir = Dir::new();
    let path = dir.db();
    let now = now_us();
    dated(&path, 6, |_| now - 9 * DAY_US);
    let conn = Connection::open(&path).unwrap();
    conn.execute("UPDATE event SET reason = 'harmless' WHERE seq = 4", []).unwrap();
    let mut open = store(&path);
    let removed = open.remove(&all()).unwrap();
    assert!(removed.rows == 3 && removed.unfit.as_ref().unwrap().contains("row 4 altered"), "{removed:?}");
    let again = open.remove(&all()).unwrap();
    assert!(again.rows == 0 && again.unfit.is_some(), "{again:?}");
    drop(open);
    assert_eq!(seqs(&path), [4, 5, 6, 7]);
    assert_eq!(verify(&path, &[]).unwrap().findings, ["row 4 altered"]);
}

#[test]
fn what_still_runs_is_still_known() {
    let dir = Dir::new();
    let path = dir.db();
    let own = Caller::of(std::process::id(), 71001, 100);
    let mut open = store(&path);
    open.append(&[&AuditEvent { caller: own.clone(), ..launch() }, &launch(), &by(1)]).unwrap();
    drop(open);
    for launched in [1, 1] {
        let old = now_us() - 9 * DAY_US;
        redate(&path, |_| old);
        let mut open = store(&path);
        open.remove(&all()).unwrap();
        drop(open);
        let all = rows(&path);
        let told: Vec<_> = all.iter().filter(|row| row.number("pid_start_us").is_some()).collect();
        assert_eq!(told.len(), 1, "the others are no process of this host");
        let row = told[0];
        assert_eq!((row.text("event").as_deref(), row.number("launch")), (Some("cut"), Some(launched)));
        assert_eq!(row.number("pid"), Some(i64::from(std::process::id())));
        assert_eq!(
            (row.text("server_name").as_deref(), row.number("user_id")),
            (Some("internal-postgres"), own.user_id.map(i64::from))
        );
    }
    let broken: Vec<String> = column(&path, "SELECT \"table\" FROM pragma_foreign_key_check");
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn no_word_of_a_removed_person_is_left_in_the_files() {
    let dir = Dir::new();
    let path = dir.db();
    let now = now_us();
    let secret = |number: u32| AuditEvent {
        caller: Caller { user_name: Some(format!("zelda-{number}-quixotic")), ..alice() },
        reason: Some("xylophonic-reason".repeat(20)),
        ..launch()
    };
    let mut open = store(&path);
    for number in 0..40 {
        open.append(&(0..100).map(|_| secret(number)).collect::<Vec<_>>().iter().collect::<Vec<_>>()).unwrap();
    }
    open.close();
    redate(&path, |_| now - 9 * DAY_US);
    Connection::open(&path).unwrap().execute_batch("ANALYZE").unwrap();
    let sampled = "SELECT count(*) FROM sqlite_stat4 WHERE sample LIKE '%quixotic%'";
    assert!(column::<i64>(&path, sampled)[0] > 0);
    let size = || fs::metadata(&path).unwrap().len();
    let before = size();
    let mut open = store(&path);
    open.append(&[&by(7)]).unwrap();
    let mut steps = 0;
    while open.remove(&all()).unwrap().more {
        steps += 1;
    }
    while open.shrink().unwrap() {}
    assert!(steps >= 3, "{steps}");
    for suffix in ["", "-wal", "-shm"] {
        let bytes = fs::read(schema::beside(&path, suffix)).unwrap();
        for word in ["quixotic", "xylophonic"] {
            let found = bytes.windows(word.len()).filter(|window| *window == word.as_bytes()).count();
            assert_eq!(found, 0, "{word} is {found} times in audit.db{suffix}");
        }
    }
    drop(open);
    // A MiB is kept for the next rows.
    assert!(size() < before && size() < (1 << 20) + (1 << 18), "{before} bytes, then {}", size());
    whole(&path);
    assert_eq!(verify(&path, &[]).unwrap().cut.unwrap().rows, 4000);
}

/// With `--nocapture` it says how long senders waited while old rows went.
#[test]
fn senders_go_on_while_rows_go() {
    const ROWS: i64 = 5_000;
    let dir = Dir::on_disk();
    let path = dir.db();
    let mut open = store(&path);
    open.append(&[&launch()]).unwrap();
    drop(open);
    let copies = format!(
        "BEGIN;
         INSERT INTO event SELECT value, time_us, boot, event, outcome, release, caller, launch, pid, pid_start_us,
           head_version, stale, path, bytes, duration_us, count, reason, detail FROM event, generate_series(2, {ROWS});
         INSERT INTO seal SELECT value, value, 0, encoding, leaves, root, hash FROM seal, generate_series(2, {ROWS});
         COMMIT;"
    );
    let series = "(WITH RECURSIVE n (value) AS (SELECT 2 UNION ALL SELECT value + 1 FROM n WHERE value < ROWS) SELECT value FROM n)"
        .replace("ROWS", &ROWS.to_string());
    let copies = copies.replace(&format!("generate_series(2, {ROWS})"), &series);
    Connection::open(&path).unwrap().execute_batch(&copies).unwrap();
    redate(&path, |_| now_us() - 9 * DAY_US);
    let mut options = dir.options();
    options.folding.decisions.burst = 1_000_000;
    let audit = Audit::open(&options).unwrap();
    let before = fs::metadata(&path).unwrap().len();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (sent, waits, removed, took) = runtime.block_on(async {
        let cutoff = all();
        let pass = tokio::spawn({
            let audit = audit.clone();
            async move {
                let (started, mut removed) = (Instant::now(), 0);
                loop {
                    let begun = Instant::now();
                    let step = audit.remove(cutoff.clone()).await.unwrap();
                    removed += step.rows;
                    if !step.more {
                        break;
                    }
                    tokio::time::sleep(begun.elapsed()).await;
                }
                while audit.tidy(cutoff.clone()).await.unwrap() {}
                (removed, started.elapsed())
            }
        });
        let (mut sent, mut waits) = (0_i64, Vec::new());
        while !pass.is_finished() {
            let begun = Instant::now();
            sent += i64::from(audit.record(launch()).await.unwrap() > 0);
            waits.push(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (removed, took) = pass.await.unwrap();
        (sent, waits, removed, took)
    });
    audit.close();
    let (mut waits, after) = (waits, fs::metadata(&path).unwrap().len());
    waits.sort_unstable();
    let part = |share: usize| waits[(waits.len() * share / 1000).min(waits.len() - 1)];
    println!(
        "{removed} rows in {took:?}, {before} bytes to {after}; {sent} rows sent meanwhile, which waited {:?} (median), {:?} (99 %), {:?} (longest)",
        part(500),
        part(990),
        part(1000)
    );
    assert_eq!(removed, ROWS.unsigned_abs());
    let report = verify(&path, &[]).unwrap();
    assert!(report.intact(), "{:?}", report.findings);
    assert_eq!(column::<i64>(&path, "SELECT count(*) FROM event WHERE event = 'launch'"), [sent]);
}

#[test]
fn a_clock_set_back_and_a_long_log_make_it_wait() {
    let dir = Dir::new();
    let path = dir.db();
    let now = now_us();
    dated(&path, 3, |_| now - 9 * DAY_US);
    let audit = Audit::open(&dir.options()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let remove = |cutoff: Cutoff| runtime.block_on(audit.remove(cutoff));
    let waits = remove(Cutoff { at_us: now + DAY_US, ..all() }).unwrap_err().to_string();
    assert!(waits.contains("clock was set back"), "{waits}");
    // What a reader who never ends would do to it.
    let log = fs::File::options().write(true).open(schema::beside(&path, "-wal")).unwrap();
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event;").unwrap();
    audit.record_blocking(launch()).unwrap();
    log.set_len(65 << 20).unwrap();
    let waits = remove(all()).unwrap_err().to_string();
    assert!(waits.contains("its log has 65.0 MiB"), "{waits}");
    audit.record_blocking(launch()).unwrap();
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(remove(all()).unwrap().rows, 3);
    audit.close();
    whole(&path);
}

#[test]
fn an_erased_person_goes_like_any_other() {
    let dir = Dir::new();
    let path = dir.db();
    let now = now_us();
    dated(&path, 4, |seq| now - (10 - 3 * seq) * DAY_US);
    let erase = "UPDATE caller SET salt = NULL, user_id = NULL, user_name = NULL, login_uid = NULL, request_uid = NULL,
                 group_id = NULL, process = NULL, host_app = NULL, unit = NULL WHERE user_name IN ('user-0', 'user-3')";
    Connection::open(&path).unwrap().execute(erase, []).unwrap();
    let mut open = store(&path);
    assert_eq!(open.remove(&all()).unwrap(), Removed { rows: 3, more: false, unfit: None });
    drop(open);
    whole(&path);
    assert_eq!(verify(&path, &[]).unwrap().erased, 1);
}

/// Only root may have a disk of limited size.
#[test]
fn on_a_full_disk_rows_stay_and_the_reserve_too() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = Dir::new();
    let at = dir.0.path().join("disk");
    let disk = writing::SmallDisk::mount(&at, "16m").expect("root mounts a tmpfs");
    let path = at.join("audit.db");
    let now = now_us();
    dated(&path, 300, |_| now - 9 * DAY_US);
    let options = AuditOptions { reserve_bytes: 2 << 20, ..AuditOptions::at(&path) };
    let audit = Audit::open(&options).unwrap();
    let filler = fs::File::create(at.join("filler")).unwrap();
    let zeros = vec![0_u8; 4096];
    while io::Write::write_all(&mut &filler, &zeros).is_ok() {}
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(audit.remove(all()));
    assert!(matches!(refused, Err(AuditError::Unwritable { .. })), "{refused:?}");
    assert!(audit.health().reserve);
    assert_eq!(seqs(&path).len(), 300);
    drop(filler);
    fs::remove_file(at.join("filler")).unwrap();
    assert_eq!(runtime.block_on(audit.remove(all())).unwrap().rows, 300);
    audit.close();
    whole(&path);
    drop(disk);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<u8>),
    Cut(prop::sample::Index),
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(0_u8..6, 1..5).prop_map(Step::Append),
        2 => any::<prop::sample::Index>().prop_map(Step::Cut),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_what_is_left_is_what_was_young(steps in prop::collection::vec(step(), 1..25)) {
        let dir = Dir::new();
        let path = dir.db();
        let mut open = store(&path);
        // The rows of each seal that is there, oldest first.
        let mut model: Vec<Vec<i64>> = Vec::new();
        let mut gone = 0;
        for step in steps {
            match step {
                Step::Append(users) => {
                    let events: Vec<_> = users.iter().map(|user| by(u32::from(*user))).collect();
                    model.push(open.append(&events.iter().collect::<Vec<_>>()).unwrap());
                }
                Step::Kill => {
                    drop(open);
                    open = store(&path);
                }
                Step::Cut(at) => {
                    let seals: Vec<i64> = column(&path, "SELECT time_us FROM seal ORDER BY last_seq");
                    let keep = at.index(seals.len() + 1);
                    // Just after the last seal that goes.
                    let before_us = keep.checked_sub(1).map_or(0, |last| seals[last] + 1);
                    // A clock that moved on by less than a microsecond gives two seals one time.
                    let keep = seals.iter().position(|time| *time >= before_us).unwrap_or(seals.len());
                    let removed = open.remove(&Cutoff { policy: "1d".to_owned(), before_us, at_us: 0 }).unwrap();
                    let expected: usize = model[..keep].iter().map(Vec::len).sum();
                    prop_assert_eq!(removed.rows, expected as u64);
                    model.drain(..keep);
                    if expected > 0 {
                        gone += expected as i64;
                        let last = seqs(&path).pop().unwrap();
                        model.push(vec![last]);
                    }
                }
            }
            prop_assert_eq!(seqs(&path), model.concat());
            let report = verify(&path, &[]).unwrap();
            // The test lies about the policy: nothing else may be wrong.
            prop_assert!(report.findings.iter().all(|one| one.contains("its policy does not allow")), "{:?}", report.findings);
            prop_assert_eq!(report.cut.map_or(0, |cut| cut.rows), gone);
            let broken: Vec<String> = column(&path, "SELECT \"table\" FROM pragma_foreign_key_check");
            prop_assert!(broken.is_empty());
        }
    }
}
