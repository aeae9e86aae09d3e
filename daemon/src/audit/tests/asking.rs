//! What the store takes in, and what it answers.

use super::*;

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
    events[0].detail = Some(serde_json::json!({
        "sandbox": "host", "credentials": [{"ref": "finance-dw/readonly", "env": "PGPASSWORD"}],
    }));
    for event in &mut events {
        event.time_us = at("2026-04-15T09:30:00Z");
        event.head_version = Some(9);
    }
    store.append(&events.iter().collect::<Vec<_>>()).unwrap();
    store.close();
    let more = "INSERT INTO component SELECT 'npm', 'lodash', '4.17.20', release FROM release WHERE version = '1.2.0';
        INSERT INTO cut VALUES (0, 5, 0, x'00', '400d');
        INSERT INTO host (host, name) VALUES (2, 'behind');
        INSERT INTO boot (boot, commitment, host, started_us, daemon) VALUES (99, x'00', 2, 0, '0');
        INSERT INTO event (seq, time_us, boot, event, outcome, head_version) VALUES (99, 5, 99, 'refresh', 'ok', 8);";
    Connection::open(path).unwrap().execute_batch(more).unwrap();
}

#[test]
fn every_query_of_the_documentation_answers() {
    let page = include_str!("../../../../docs/audit.md");
    let dir = Dir::new();
    filled(&dir.db());
    let reader = schema::open_read_only(&dir.db()).unwrap();
    let blocks: Vec<_> = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 14);
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
    assert_eq!(count(Filter { user: some("71001"), ..Filter::default() }), 5);
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
