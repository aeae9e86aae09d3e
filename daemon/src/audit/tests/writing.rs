//! Rows are on disk when their sender is answered, whatever happens to the disk.

use super::*;

#[test]
fn a_row_is_there_when_its_sender_is_answered() {
    let dir = Dir::on_disk();
    let audit = Audit::open(&dir.options()).unwrap();
    let seq = audit.record_blocking(launch()).unwrap();
    let found = rows(&dir.db());
    assert_eq!((seq, found.len()), (1, 1));
    let text = |column| found[0].text(column).unwrap();
    assert_eq!(text("user_id"), "71001");
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
    let dir = Dir::on_disk();
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
    let dir = Dir::on_disk();
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
    // On a busy machine three rows may take longer than a short window: then in a longer one.
    let (dir, audit) = (0..11)
        .find_map(|power| {
            let (dir, window) = (Dir::new(), Duration::from_millis(100 << power));
            let mut options = dir.options();
            options.folding.window = window;
            let audit = Audit::open(&options).unwrap();
            let begun = Instant::now();
            for _ in 0..3 {
                audit.record_blocking(refusal()).unwrap();
            }
            (begun.elapsed() < window).then_some((dir, audit))
        })
        .expect("three rows within two minutes");
    let deadline = Instant::now() + Duration::from_secs(300);
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
    // However long these rows take.
    options.folding.window = Duration::from_secs(3600);
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
    let bob = Caller { user_id: Some(71002), login_uid: Some(71002), user_name: Some("bob".to_owned()), ..alice() };
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
    let dir = Dir::on_disk();
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
pub(super) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(super) fn mount(at: &Path, bytes: &str) -> Option<Self> {
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
    let dir = Dir::on_disk();
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

/// With `--nocapture` it says how fast; it fails only if senders no longer share commits.
#[test]
fn grouped_commits_do_not_wait_one_by_one() {
    let dir = Dir::on_disk();
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
