#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use clap::Parser;
use mcpfs_trust::error::Code;

use super::*;
use crate::audit::{Audit, AuditEvent, AuditOptions, ReleaseRef};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: AuditCommand,
}

fn said(words: &str, db: &Path, json: bool) -> Result<(u8, String), String> {
    let line =
        Line::try_parse_from(std::iter::once("audit").chain(words.split(' '))).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    let code = run(&line.command, db, json, &mut out).map_err(|error| error.to_string())?;
    Ok((code, String::from_utf8(out).unwrap()))
}

fn store() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = dir.path().join("audit.db");
    let audit = Audit::open(&AuditOptions { reserve_bytes: 0, ..AuditOptions::at(&path) }).unwrap();
    let caller = Caller {
        user_id: Some(0),
        user_name: Some("root".to_owned()),
        login_uid: Some(1001),
        process: Some("/usr/bin/node".to_owned()),
        host_app: Some("claude".to_owned()),
        pid: Some(7),
        ..Caller::default()
    };
    let release = Arc::new(ReleaseRef::unverified(None, "hello", Some("1.0.0")));
    audit.record_blocking(AuditEvent::new(EventKind::Launch, caller.clone()).release(Arc::clone(&release))).unwrap();
    let refused = AuditEvent::new(EventKind::Launch, caller).release(release).refused(Code::Revoked, "CVE-2026-1234");
    audit.record_blocking(refused).unwrap();
    audit.close();
    (dir, path)
}

#[test]
fn people_see_a_table_and_programs_json_lines() {
    let (_dir, path) = store();
    let (code, table) = said("query", &path, false).unwrap();
    assert_eq!((code, table.lines().count()), (0, 3), "{table}");
    let line = table.lines().nth(2).unwrap();
    for part in ["launch", "Revoked", "root (login 1001)", "hello 1.0.0", "claude → node[7]", "CVE-2026-1234"] {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(line.find("root"), table.lines().next().unwrap().find("USER"), "{table}");
    let (_, lines) = said("query --outcome refused", &path, true).unwrap();
    let row: serde_json::Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((&row["seq"], &row["user_id"], &row["verification_outcome"]), (&2.into(), &0.into(), &"Revoked".into()));
    assert_eq!(said("query --outcome Yanked", &path, false).unwrap().1, "no rows\n");
    let unseen = said("query --user 4000000000", &path, false).unwrap().1;
    assert_eq!(unseen, "no rows: this audit has none of user 4000000000\n");
    let unknown = said("query --user nosuchuser-mcpfs", &path, false).unwrap_err();
    assert!(unknown.contains("there is no user \"nosuchuser-mcpfs\""), "{unknown}");
    assert_eq!(said("tail -n 1", &path, true).unwrap().1.lines().count(), 1);
}

#[test]
fn verify_has_an_exit_code_and_an_anchor() {
    let (_dir, path) = store();
    let (code, text) = said("verify", &path, false).unwrap();
    assert!(code == 0 && text.contains("audit ok: 2 rows"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&said("verify", &path, true).unwrap().1).unwrap();
    let anchor = json["last_seal"].as_str().unwrap();
    assert_eq!(said(&format!("verify --anchor {anchor}"), &path, false).unwrap().0, 0);
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute("UPDATE event SET outcome = 'ok' WHERE seq = 2", []).unwrap();
    let (code, text) = said("verify", &path, false).unwrap();
    assert!(code == INTEGRITY && text.starts_with("row 2 altered\n") && text.contains("AUDIT ALTERED"), "{text}");
}

#[test]
fn what_goes_wrong_is_said_in_words() {
    let (dir, path) = store();
    let missing = said("query", &dir.path().join("none.db"), false).unwrap_err();
    assert!(missing.contains("there is no audit at") && !dir.path().join("none.db").exists(), "{missing}");
    assert!(said("query --since yesterday", &path, false).unwrap_err().contains("24h"));
    assert!(said("query --event lunch", &path, false).unwrap_err().contains("launch"));
    let unknown = said("query --outcome revokd", &path, false).unwrap_err();
    assert!(unknown.contains("did you mean Revoked?") && unknown.contains("TrustRootUnsafe"), "{unknown}");
    for known in ["ok", "refused", "Revoked"] {
        assert!(said(&format!("query --outcome {known}"), &path, false).is_ok(), "{known}");
    }
    assert!(said("verify --anchor abc", &path, false).unwrap_err().contains("HASH@SEQ"));
    fs::write(&path, "rubbish ".repeat(200)).unwrap();
    assert!(said("verify", &path, false).unwrap_err().contains("mcpfs audit restart"));
    let (_, text) = said("restart --reason rubbish", &path, false).unwrap();
    assert!(text.contains("moved to"), "{text}");
    assert!(said("query", &path, false).unwrap().1.contains("audit-restarted"));
}
