//! One row of each table, as it is written: its values, and what stands for it where others name it.

use mcpfs_trust::digest::Digest;
use rand::RngCore;
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Transaction, params_from_iter};

use super::boot::{BootFacts, Host};
use super::event::{AuditEvent, FIELD_BYTES, JSON_BYTES, PATH_BYTES, REASON_BYTES, ReleaseRef, clean};
use super::seal::{Row, Seal};
use crate::caller::Caller;

/// A row that events refer to: its number and what stands for it in their encoding.
pub(super) type Known = (i64, Digest);

fn blob(digest: &Digest) -> Value {
    Value::Blob(digest.as_bytes().to_vec())
}

fn text(text: &str) -> Value {
    Value::Text(clean(text, FIELD_BYTES))
}

fn maybe<T: AsRef<str>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, |value| text(value.as_ref()))
}

fn digest(value: Option<Digest>) -> Value {
    value.map_or(Value::Null, |digest| Value::Text(digest.to_string()))
}

/// A number; one that SQLite cannot hold is kept as the largest it can.
fn number<T: TryInto<i64>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, |value| Value::Integer(value.try_into().unwrap_or(i64::MAX)))
}

/// A JSON list of texts, each bounded; one that is too long altogether ends early.
fn list<T: std::fmt::Display>(items: &[T]) -> Value {
    let (mut kept, mut bytes) = (Vec::new(), 2);
    for item in items {
        let item = clean(&item.to_string(), FIELD_BYTES);
        bytes += item.len() + 3;
        if bytes > JSON_BYTES {
            break;
        }
        kept.push(item);
    }
    Value::Text(serde_json::json!(kept).to_string())
}

fn insert(tx: &Transaction<'_>, sql: &str, values: &[Value]) -> rusqlite::Result<i64> {
    tx.prepare_cached(sql)?.insert(params_from_iter(values))
}

pub(super) fn boot_row(tx: &Transaction<'_>, host: &Host, facts: &BootFacts) -> rusqlite::Result<Known> {
    let who = [maybe(host.machine_id.as_ref()), maybe(host.name.as_ref())];
    let found = tx
        .prepare_cached("SELECT host FROM host WHERE machine_id IS ?1 AND name IS ?2")?
        .query_row(params_from_iter(&who), |row| row.get::<_, i64>(0))
        .optional()?;
    let number_of_host = match found {
        Some(host) => host,
        None => insert(tx, "INSERT INTO host (machine_id, name) VALUES (?1, ?2)", &who)?,
    };
    let columns = [
        maybe(host.boot_uuid.as_ref()),
        Value::Integer(host.started_us),
        text(env!("CARGO_PKG_VERSION")),
        maybe(host.kernel.as_ref()),
        maybe(facts.reads),
        number(facts.trust_version),
        digest(facts.trust_sha256),
        digest(facts.config_sha256),
    ];
    let commitment = Row::of("boot").columns(&who).columns(&columns).commitment();
    // The same facts after a failed commit, or when they change back: the same row.
    let found = tx
        .prepare_cached("SELECT boot FROM boot WHERE host = ?1 AND started_us = ?2 AND commitment = ?3")?
        .query_row(params_from_iter([Value::Integer(number_of_host), columns[1].clone(), blob(&commitment)]), |row| {
            row.get(0)
        })
        .optional()?;
    if let Some(boot) = found {
        return Ok((boot, commitment));
    }
    let mut values = vec![blob(&commitment), Value::Integer(number_of_host)];
    values.extend(columns);
    let sql =
        "INSERT INTO boot (commitment, host, boot_uuid, started_us, daemon, kernel, reads, trust_version, trust_sha256,
               config_sha256) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    Ok((insert(tx, sql, &values)?, commitment))
}

pub(super) fn release_row(tx: &Transaction<'_>, release: &ReleaseRef) -> rusqlite::Result<Known> {
    let columns = [
        maybe(release.registry.as_ref()),
        text(&release.server_name),
        maybe(release.version.as_ref()),
        digest(release.artefact),
        digest(release.tree),
        digest(release.statement),
        list(&release.key_ids),
        maybe(release.maintainer.as_ref()),
        maybe(release.data_classification.as_ref()),
        maybe(release.lawful_basis.as_ref()),
        list(&release.scope),
        maybe(release.reviewed_at.as_ref()),
        list(&release.reviewers),
        maybe(release.repository.as_ref()),
        maybe(release.commit_id.as_ref()),
        maybe(release.pull_request.as_ref()),
        maybe(release.status.as_ref()),
    ];
    let commitment = Row::of("release").columns(&columns).commitment();
    let found = tx
        .prepare_cached("SELECT release FROM release WHERE commitment = ?1")?
        .query_row([commitment.as_bytes()], |row| row.get(0))
        .optional()?;
    if let Some(release) = found {
        return Ok((release, commitment));
    }
    let mut values = vec![blob(&commitment)];
    values.extend(columns);
    let sql = "INSERT INTO release (commitment, registry, server_name, version, artefact_sha256, tree_sha256, statement_sha256,
               key_ids, maintainer, data_classification, lawful_basis, scope, reviewed_at, reviewers, repository, commit_id,
               pull_request, status) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
    Ok((insert(tx, sql, &values)?, commitment))
}

pub(super) fn caller_row(tx: &Transaction<'_>, caller: &Caller) -> rusqlite::Result<Known> {
    let fields = [
        number(caller.user_id),
        maybe(caller.user_name.as_ref()),
        number(caller.login_uid),
        number(caller.request_uid),
        number(caller.group_id),
        caller.process.as_ref().map_or(Value::Null, |path| Value::Text(clean(path, PATH_BYTES))),
        maybe(caller.host_app.as_ref()),
        maybe(caller.unit.as_ref()),
    ];
    let sql = "SELECT caller, commitment FROM caller WHERE salt IS NOT NULL AND user_id IS ?1 AND user_name IS ?2
               AND login_uid IS ?3 AND request_uid IS ?4 AND group_id IS ?5 AND process IS ?6 AND host_app IS ?7 AND unit IS ?8";
    let found = tx
        .prepare_cached(sql)?
        .query_row(params_from_iter(&fields), |row| Ok((row.get(0)?, Digest::from_bytes(row.get(1)?))))
        .optional()?;
    if let Some(known) = found {
        return Ok(known);
    }
    let mut salt = [0; 32];
    rand::rng().fill_bytes(&mut salt);
    let salt = Value::Blob(salt.to_vec());
    let commitment = Row::of("caller").columns(std::slice::from_ref(&salt)).columns(&fields).commitment();
    let mut values = vec![blob(&commitment), salt];
    values.extend(fields);
    let sql =
        "INSERT INTO caller (commitment, salt, user_id, user_name, login_uid, request_uid, group_id, process, host_app,
               unit) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    Ok((insert(tx, sql, &values)?, commitment))
}

/// Writes one event and returns its leaf: the row with commitments in place of row numbers.
pub(super) fn event_row(
    tx: &Transaction<'_>,
    seq: i64,
    event: &AuditEvent,
    boot: Known,
    release: Option<Known>,
    caller: Option<Known>,
) -> rusqlite::Result<Digest> {
    let detail = event.detail.as_ref().map_or(Value::Null, |detail| {
        let text = detail.to_string();
        Value::Text(if text.len() > JSON_BYTES { r#"{"too_long":true}"#.to_owned() } else { text })
    });
    let mut values = [
        Value::Integer(seq),
        Value::Integer(event.time_us),
        Value::Integer(boot.0),
        Value::Text(event.kind.as_str().to_owned()),
        Value::Text(event.outcome_text()),
        number(release.map(|release| release.0)),
        number(caller.map(|caller| caller.0)),
        number(event.launch),
        number(event.caller.pid),
        number(event.caller.pid_start_us),
        number(event.head_version),
        number(event.stale.map(i64::from)),
        event.path.as_ref().map_or(Value::Null, |path| Value::Text(clean(path, PATH_BYTES))),
        number(event.bytes),
        number(event.duration_us),
        number(Some(event.count)),
        event.reason.as_ref().map_or(Value::Null, |reason| Value::Text(clean(reason, REASON_BYTES))),
        detail,
    ];
    let sql = "INSERT INTO event (seq, time_us, boot, event, outcome, release, caller, launch, pid, pid_start_us, head_version,
               stale, path, bytes, duration_us, count, reason, detail)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
    insert(tx, sql, &values)?;
    let stands_for = |known: Option<Known>| known.map_or(Value::Null, |known| blob(&known.1));
    values[2] = blob(&boot.1);
    values[5] = stands_for(release);
    values[6] = stands_for(caller);
    Ok(Row::of("event").columns(&values).leaf())
}

pub(super) fn seal_row(tx: &Transaction<'_>, seal: &Seal) -> rusqlite::Result<()> {
    let sql = "INSERT INTO seal (last_seq, first_seq, time_us, encoding, leaves, root, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let values = [
        Value::Integer(seal.last),
        Value::Integer(seal.first),
        Value::Integer(seal.time_us),
        Value::Integer(seal.encoding),
        seal.leaves.clone().map_or(Value::Null, Value::Blob),
        blob(&seal.root),
        blob(&seal.hash),
    ];
    insert(tx, sql, &values).map(drop)
}
