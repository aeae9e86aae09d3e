//! The audit as a whole: commit before answer, folding, budgets, full disks, seals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use proptest::prelude::*;
use rusqlite::Connection;

use super::query::{AccessRow, Filter, Reader};
use super::verify::{Anchor, verify};
use super::*;
use crate::caller::Caller;

pub(super) struct Dir(tempfile::TempDir);

impl Dir {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self(dir)
    }

    pub(super) fn db(&self) -> PathBuf {
        self.0.path().join("audit.db")
    }

    fn options(&self) -> AuditOptions {
        AuditOptions { reserve_bytes: 0, ..AuditOptions::at(self.db()) }
    }
}

fn alice() -> Caller {
    Caller {
        user_id: Some(1001),
        user_name: Some("alice".to_owned()),
        login_uid: Some(1001),
        request_uid: Some(1001),
        group_id: Some(100),
        process: Some("/usr/bin/node".to_owned()),
        host_app: Some("claude".to_owned()),
        unit: Some("session-3.scope".to_owned()),
        pid: Some(4242),
        pid_start_us: Some(99_000_000),
    }
}

fn release(version: &str) -> Arc<ReleaseRef> {
    Arc::new(ReleaseRef {
        artefact: Some(Digest::of(version.as_bytes())),
        tree: Some(Digest::of(b"tree")),
        statement: Some(Digest::of(b"statement")),
        key_ids: vec![Digest::of(b"key")],
        maintainer: Some("data-platform@example.com".to_owned()),
        data_classification: Some("confidential".to_owned()),
        lawful_basis: Some("contract".to_owned()),
        scope: vec!["read:finance.*".to_owned()],
        reviewers: vec!["security@example.com".to_owned()],
        pull_request: Some("https://git.example.com/mcp/pulls/7".to_owned()),
        status: Some("active".to_owned()),
        ..ReleaseRef::unverified(Some("mcp.example.com/prod"), "internal-postgres", Some(version))
    })
}

fn launch() -> AuditEvent {
    AuditEvent::new(EventKind::Launch, alice()).release(release("1.2.0"))
}

fn refusal() -> AuditEvent {
    AuditEvent::new(EventKind::Refusal, alice()).release(release("1.1.0")).refused(Code::Revoked, "CVE-2026-1234")
}

fn rows(path: &Path) -> Vec<AccessRow> {
    Reader::open(path).unwrap().rows(&Filter::default()).unwrap()
}

#[test]
fn a_row_is_there_when_its_sender_is_answered() {
    let dir = Dir::new();
    let audit = Audit::open(&dir.options()).unwrap();
    let seq = audit.record_blocking(launch()).unwrap();
    let found = rows(&dir.db());
    assert_eq!((seq, found.len()), (1, 1));
    let text = |column| found[0].text(column).unwrap();
    assert_eq!(text("user_id"), "1001");
    assert_eq!(text("server_name"), "internal-postgres");
    assert_eq!(text("version"), "1.2.0");
    assert_eq!(text("verification_outcome"), "ok");
    assert_eq!((text("event"), text("pid"), text("host_app")), ("launch".into(), "4242".into(), "claude".into()));
    // ISO 8601 with the microseconds of time_us.
    let micros = format!(".{:06}Z", found[0].number("time_us").unwrap() % 1_000_000);
    assert!(text("time").ends_with(&micros) && text("time").len() == 27, "{}", text("time"));
    assert!(audit.health().hash.is_some());
    audit.close();
    assert!(matches!(audit.record_blocking(launch()), Err(AuditError::Closed)));
}

#[test]
fn many_senders_are_answered_after_their_commit_and_in_order() {
    let dir = Dir::new();
    let audit = Audit::open(&dir.options()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let path = dir.db();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..40_u32 {
            let (audit, path) = (audit.clone(), path.clone());
            tasks.spawn(async move {
                let mut last = 0;
                for round in 0..25_u32 {
                    let mut event = launch();
                    event.path = Some(format!("{task}/{round}"));
                    let seq = audit.record(event).await.unwrap();
                    assert!(seq > last);
                    last = seq;
                    if round == 24 {
                        // A connection of its own sees the row: it was committed before the answer.
                        let conn = Connection::open(&path).unwrap();
                        let found: String =
                            conn.query_row("SELECT path FROM event WHERE seq = ?1", [seq], |row| row.get(0)).unwrap();
                        assert_eq!(found, format!("{task}/{round}"));
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    audit.close();
    let report = verify(&path, &[]).unwrap();
    assert!(report.intact(), "{report:?}");
    assert_eq!(report.rows, 1000);
    assert!(report.seals < 1000, "commits are grouped: {} seals", report.seals);
    let seqs: Vec<_> = rows(&path).iter().map(|row| row.number("seq").unwrap()).collect();
    assert_eq!(seqs, (1..=1000).collect::<Vec<_>>());
}

#[test]
fn repeats_become_one_counted_row_and_nothing_is_lost_on_close() {
    let dir = Dir::new();
    let audit = Audit::open(&dir.options()).unwrap();
    let first = audit.record_blocking(refusal()).unwrap();
    for number in 0..500_u32 {
        let mut repeat = refusal();
        repeat.caller.pid = Some(number);
        repeat.bytes = Some(2);
        assert_eq!(audit.record_blocking(repeat).unwrap(), first);
    }
    let other = audit.record_blocking(AuditEvent { reason: Some("another".to_owned()), ..refusal() }).unwrap();
    assert!(other > first);
    // Launches and first accesses stay rows of their own.
    for _ in 0..3 {
        audit.record_blocking(launch()).unwrap();
        audit.record_blocking(AuditEvent::new(EventKind::Access, alice()).release(release("1.2.0"))).unwrap();
    }
    assert_eq!(rows(&dir.db()).len(), 8);
    audit.close();
    let all = rows(&dir.db());
    assert_eq!(all.len(), 9);
    let counted = all.last().unwrap();
    assert_eq!((counted.number("count"), counted.number("bytes"), counted.text("pid")), (Some(500), Some(1000), None));
    assert_eq!(counted.text("reason").as_deref(), Some("CVE-2026-1234"));
    assert!(counted.text("detail").unwrap().contains("\"first_seq\":1"));
    assert!(verify(&dir.db(), &[]).unwrap().intact());
}

#[test]
fn a_window_closes_by_itself() {
    let dir = Dir::new();
    let mut options = dir.options();
    options.folding.window = Duration::from_secs(1);
    let audit = Audit::open(&options).unwrap();
    for _ in 0..3 {
        audit.record_blocking(refusal()).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while rows(&dir.db()).len() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let found = rows(&dir.db());
    assert_eq!(found.iter().map(|row| row.number("count").unwrap()).collect::<Vec<_>>(), [1, 2]);
    // After it the next one is a first one again.
    assert_eq!(audit.record_blocking(refusal()).unwrap(), 3);
    audit.close();
}

#[test]
fn one_user_cannot_flood() {
    let dir = Dir::new();
    let mut options = dir.options();
    options.folding.repeats = Budget { burst: 10, per_second: 0.0 };
    options.folding.decisions = Budget { burst: 5, per_second: 0.0 };
    let audit = Audit::open(&options).unwrap();
    for number in 0..300 {
        let mut event = refusal();
        // A process can call itself anything, so these are no identical repeats.
        event.caller.process = Some(format!("evil-{number}"));
        audit.record_blocking(event).unwrap();
    }
    let refused = (0..50).filter(|_| matches!(audit.record_blocking(launch()), Err(AuditError::Budget))).count();
    assert_eq!(refused, 45);
    // Somebody else is not held back, nor is the administrator's act, by whomever.
    let bob = Caller { user_id: Some(1002), login_uid: Some(1002), user_name: Some("bob".to_owned()), ..alice() };
    audit.record_blocking(AuditEvent { caller: bob, ..launch() }).unwrap();
    audit.record_blocking(AuditEvent::new(EventKind::Config, alice())).unwrap();
    // Nor the daemon's own work, which meets every release of a registry at once.
    for number in 0..300 {
        let row = AuditEvent::new(EventKind::Verify, Caller::daemon()).release(release(&number.to_string()));
        audit.record_blocking(row).unwrap();
    }
    audit.close();
    let (own, all): (Vec<_>, Vec<_>) =
        rows(&dir.db()).into_iter().partition(|row| row.text("event").as_deref() == Some("verify"));
    assert_eq!(own.len(), 300);
    assert!(all.len() < 30, "{} rows", all.len());
    let sum = |event: &str, outcome: &str| -> i64 {
        let of = |row: &&AccessRow| {
            row.text("event").as_deref() == Some(event) && row.text("verification_outcome").as_deref() == Some(outcome)
        };
        all.iter().filter(of).map(|row| row.number("count").unwrap()).sum()
    };
    // None is forgotten, though few have rows.
    assert_eq!(sum("refusal", "Revoked"), 300);
    assert_eq!((sum("launch", "ok"), sum("launch", "AuditUnavailable")), (6, 45));
    assert!(verify(&dir.db(), &[]).unwrap().intact());
}

#[test]
fn a_store_that_cannot_be_written_is_an_error_and_heals() {
    let dir = Dir::new();
    let audit = Audit::open(&dir.options()).unwrap();
    audit.record_blocking(launch()).unwrap();
    // A trigger stands for a disk that refuses.
    let other = Connection::open(dir.db()).unwrap();
    other.execute_batch("CREATE TRIGGER no BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'no'); END").unwrap();
    let error = audit.record_blocking(launch()).unwrap_err();
    assert!(matches!(error, AuditError::Unwritable { .. }), "{error:?}");
    assert_eq!(error.code(), Code::AuditUnavailable);
    assert!(audit.health().failing.is_some());
    // A first refusal that could not be written opened no window: the next is not just counted.
    assert!(audit.record_blocking(refusal()).is_err());
    assert!(audit.record_blocking(refusal()).is_err());
    other.execute_batch("DROP TRIGGER no").unwrap();
    assert_eq!(audit.record_blocking(refusal()).unwrap(), 2);
    assert_eq!(audit.health().failing, None);
    audit.close();
    assert!(verify(&dir.db(), &[]).unwrap().intact());
}

/// A file system of its own that can be filled; only root may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, bytes: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={bytes},mode=0700");
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "audit-test"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_survived_on_the_reserve() {
    if !rustix::process::geteuid().is_root() {
        // A disk of limited size needs root; the unit test of the reserve runs everywhere.
        return;
    }
    let dir = Dir::new();
    let at = dir.0.path().join("disk");
    let disk = SmallDisk::mount(&at, "8m").expect("root mounts a tmpfs");
    let options = AuditOptions { reserve_bytes: 2 << 20, ..AuditOptions::at(at.join("audit.db")) };
    let audit = Audit::open(&options).unwrap();
    assert!(audit.health().reserve);
    audit.record_blocking(launch()).unwrap();
    let filler = fs::File::create(at.join("filler")).unwrap();
    let zeros = vec![0_u8; 4096];
    while io::Write::write_all(&mut &filler, &zeros).is_ok() {}
    // The log's blocks are reused for a while; then the reserve goes, says so, and rows go on.
    let mut written = 0;
    while audit.health().reserve {
        audit.record_blocking(AuditEvent { reason: Some("x".repeat(1000)), ..launch() }).expect("the reserve pays");
        written += 1;
        assert!(written < 20_000);
    }
    let notes =
        |path: &Path| rows(path).iter().filter(|row| row.text("event").as_deref() == Some("audit-reserve")).count();
    assert_eq!(notes(&options.path), 1);
    audit.record_blocking(launch()).unwrap();
    // When that is used up too, opens fail; and go on when there is room.
    let mut failed = false;
    for _ in 0..20_000 {
        failed = audit.record_blocking(AuditEvent { reason: Some("y".repeat(1000)), ..launch() }).is_err();
        if failed {
            break;
        }
    }
    assert!(failed);
    fs::remove_file(at.join("filler")).unwrap();
    drop(filler);
    audit.record_blocking(launch()).unwrap();
    audit.close();
    assert!(verify(&options.path, &[]).unwrap().intact());
    drop(disk);
}

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

#[test]
fn a_restart_names_the_old_seal() {
    let dir = Dir::new();
    let audit = Audit::open(&dir.options()).unwrap();
    audit.record_blocking(launch()).unwrap();
    assert!(matches!(restart(&dir.db(), alice(), "damaged"), Err(AuditError::Locked { .. })));
    audit.close();
    let old = verify(&dir.db(), &[]).unwrap().last.unwrap().to_string();
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

#[test]
fn hostile_text_does_not_reach_the_store() {
    let dir = Dir::new();
    let audit = Audit::open(&dir.options()).unwrap();
    let mut event = launch();
    event.caller.process = Some("a\u{1b}]0;owned\u{7}\n".to_owned());
    event.reason = Some("r".repeat(100_000));
    event.path = Some("\u{202e}".repeat(5000));
    event.detail = Some(serde_json::json!({"x": "y".repeat(100_000)}));
    event.release = Some(Arc::new(ReleaseRef {
        reviewers: vec!["z".repeat(10_000); 1000],
        ..ReleaseRef::unverified(None, "../../etc\n", None)
    }));
    audit.record_blocking(event).unwrap();
    audit.close();
    let row = &rows(&dir.db())[0];
    assert_eq!(row.text("process").as_deref(), Some("a\\u{1b}]0;owned\\u{7}\\u{a}"));
    assert!(row.text("reason").unwrap().len() <= 1024 && row.text("path").unwrap().len() <= 4096);
    assert_eq!(row.text("detail").as_deref(), Some(r#"{"too_long":true}"#));
    assert!(fs::metadata(dir.db()).unwrap().len() < 200_000);
    assert!(verify(&dir.db(), &[]).unwrap().intact());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn random_rows_verify_and_any_flipped_one_is_named(
        groups in prop::collection::vec(prop::collection::vec((".{0,20}", any::<i64>(), any::<Option<u32>>()), 1..9), 1..5),
        pick in any::<prop::sample::Index>(),
    ) {
        let dir = Dir::new();
        let path = dir.db();
        let mut store = Store::open(&path, schema::Lock::take(&path).unwrap()).unwrap();
        for group in &groups {
            let events: Vec<_> = group.iter().map(|(text, launch, uid)| AuditEvent {
                launch: Some(*launch),
                reason: Some(text.clone()),
                caller: Caller { user_id: *uid, ..Caller::default() },
                ..refusal()
            }).collect();
            store.append(&events.iter().collect::<Vec<_>>()).unwrap();
        }
        store.close();
        let report = verify(&path, &[]).unwrap();
        let total: usize = groups.iter().map(Vec::len).sum();
        prop_assert!(report.intact());
        prop_assert_eq!(report.rows, total as u64);
        let seq = pick.index(total) as i64 + 1;
        Connection::open(&path).unwrap().execute("UPDATE event SET time_us = time_us + 1 WHERE seq = ?1", [seq]).unwrap();
        prop_assert_eq!(verify(&path, &[]).unwrap().findings, vec![format!("row {seq} altered")]);
    }
}

/// A store with something to answer each question of docs/audit.md.
fn filled(path: &Path) {
    let at = |text: &str| text.parse::<mcpfs_trust::time::Timestamp>().unwrap().unix() * 1_000_000;
    let mut store = Store::open(path, schema::Lock::take(path).unwrap()).unwrap();
    store.describe(BootFacts { reads: Some("passthrough"), trust_version: Some(3), ..BootFacts::default() }).unwrap();
    let mut events = vec![launch(), refusal(), AuditEvent::new(EventKind::Refresh, Caller::daemon())];
    events.extend([EventKind::Trust, EventKind::Config, EventKind::Stop].map(|kind| AuditEvent::new(kind, alice())));
    let unused = ReleaseRef { statement: Some(Digest::of(b"other")), ..(*release("0.9.0")).clone() };
    events.push(AuditEvent::new(EventKind::Verify, Caller::daemon()).release(Arc::new(unused)));
    for event in &mut events {
        event.time_us = at("2026-04-15T09:30:00Z");
        event.head_version = Some(9);
    }
    store.append(&events.iter().collect::<Vec<_>>()).unwrap();
    store.close();
    let more = "INSERT INTO component SELECT 'npm', 'lodash', '4.17.20', release FROM release WHERE version = '1.2.0';
        INSERT INTO host (host, name) VALUES (2, 'behind');
        INSERT INTO boot (boot, commitment, host, started_us, daemon) VALUES (99, x'00', 2, 0, '0');
        INSERT INTO event (seq, time_us, boot, event, outcome, head_version) VALUES (99, 5, 99, 'refresh', 'ok', 8);";
    Connection::open(path).unwrap().execute_batch(more).unwrap();
}

#[test]
fn every_query_of_the_documentation_answers() {
    let page = include_str!("../../../docs/audit.md");
    let dir = Dir::new();
    filled(&dir.db());
    let reader = schema::open_read_only(&dir.db()).unwrap();
    let blocks: Vec<_> = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 12);
    for sql in blocks {
        let mut statement = reader.prepare(sql).unwrap_or_else(|error| panic!("{sql}\n{error}"));
        let count = statement.query([]).unwrap().mapped(|_| Ok(())).count();
        assert!(count > 0, "no answer to\n{sql}");
    }
    // Every table, view and column is explained.
    let names = "SELECT m.name, c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite_%'";
    let mut statement = reader.prepare(names).unwrap();
    let names = statement.query_map([], |row| Ok([row.get::<_, String>(0)?, row.get(1)?])).unwrap();
    let words: std::collections::HashSet<_> = page.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for name in names.flat_map(Result::unwrap) {
        assert!(words.contains(name.as_str()), "{name} is not explained");
    }
    for kind in EventKind::ALL {
        assert!(page.contains(kind.as_str()), "{kind} is not explained");
    }
}

#[test]
fn filters_select_and_use_the_index() {
    let dir = Dir::new();
    filled(&dir.db());
    let reader = Reader::open(&dir.db()).unwrap();
    let count = |filter: Filter| reader.rows(&filter).unwrap().len();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(count(Filter::default()), 8);
    assert_eq!(count(Filter { user: some("alice"), ..Filter::default() }), 5);
    assert_eq!(count(Filter { user: some("1001"), ..Filter::default() }), 5);
    assert_eq!(count(Filter { user: some("' OR 1=1 --"), ..Filter::default() }), 0);
    assert_eq!(count(Filter { server: some("internal-postgres"), ..Filter::default() }), 3);
    assert_eq!(count(Filter { server: some("internal-postgres@1.1.0"), ..Filter::default() }), 1);
    assert_eq!(count(Filter { event: Some(EventKind::Launch), ..Filter::default() }), 1);
    assert_eq!(count(Filter { outcome: some("refused"), ..Filter::default() }), 1);
    assert_eq!(count(Filter { outcome: some("Revoked"), ..Filter::default() }), 1);
    assert_eq!(count(Filter { since: Some("2026-04-15".parse().unwrap()), ..Filter::default() }), 7);
    assert_eq!(count(Filter { until: Some("2026-04-15T09:30:00Z".parse().unwrap()), ..Filter::default() }), 1);
    assert_eq!(count(Filter { since: Some("5m".parse().unwrap()), ..Filter::default() }), 0);
    let newest = reader.rows(&Filter { limit: Some(2), ..Filter::default() }).unwrap();
    assert_eq!(newest.iter().map(|row| row.number("seq").unwrap()).collect::<Vec<_>>(), [7, 99]);
    for bad in ["", "yesterday", "5", "m", "-5m", "5y", "2026-13-01", "éd", "99999999999d"] {
        assert!(bad.parse::<query::Moment>().is_err(), "{bad}");
    }
    let conn = schema::open_read_only(&dir.db()).unwrap();
    let plan: Vec<String> = conn
        .prepare("EXPLAIN QUERY PLAN SELECT * FROM access WHERE time_us >= 5 ORDER BY seq DESC LIMIT 100")
        .unwrap()
        .query_map([], |row| row.get(3))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(plan.iter().any(|step| step.contains("event_time")), "{plan:?}");
    // The list of columns is the view's.
    let columns: Vec<String> = conn
        .prepare("SELECT name FROM pragma_table_info('access')")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(columns, query::COLUMNS);
}

/// With `--nocapture` it says how fast; it fails only if senders no longer share commits.
#[test]
fn grouped_commits_do_not_wait_one_by_one() {
    let dir = Dir::new();
    let mut options = dir.options();
    options.folding.decisions.burst = 1_000_000;
    let audit = Audit::open(&options).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let started = Instant::now();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..256 {
            let audit = audit.clone();
            tasks.spawn(async move {
                for _ in 0..40 {
                    audit.record(launch()).await.unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    audit.close();
    let report = verify(&dir.db(), &[]).unwrap();
    println!("{} rows in {} commits, {:.0} rows/s", report.rows, report.seals, report.rows as f64 / seconds);
    assert_eq!(report.rows, 10_240);
    assert!(report.seals < report.rows / 4, "{report:?}");
}
