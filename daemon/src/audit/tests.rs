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
use crate::scratch;

mod asking;
mod chain;
mod lies;
mod retaining;
mod writing;

pub(super) struct Dir(tempfile::TempDir);

impl Dir {
    /// In memory if it can be: what a store says does not depend on the disk, and each commit would wait for it.
    pub(super) fn new() -> Self {
        Self::private(scratch::in_memory())
    }

    /// Where a commit takes as long as it does.
    pub(super) fn on_disk() -> Self {
        Self::private(tempfile::tempdir().unwrap())
    }

    fn private(dir: tempfile::TempDir) -> Self {
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
        user_id: Some(71001),
        user_name: Some("alice".to_owned()),
        login_uid: Some(71001),
        request_uid: Some(71001),
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
