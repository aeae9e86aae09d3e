//! Opening: the one place where access is decided, content fetched and a row written.
//!
//! The order is fixed: the caller's rights (`rights`), admission (at every open, for a revocation must count
//! at once), the verified file, the audit's rows, the reply. Nobody sees a byte before all five. `run` is
//! outside of all but the first: opening it shows nothing of a release, it must go on saying why when a
//! release is refused, and the launch that follows asks for itself and has a row of its own.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use mcpfs_trust::tree::{Kind, NodeId};

use super::access;
use super::ino::{Ino, ReleasePlace, ServerPlace};
use super::node::Asker;
use super::shares::Payer;
use super::threads::Task;
use super::vfs::{Place, STATEMENT, TREE};
use super::{Vfs, synth};
use crate::audit::{AuditEvent, EventKind, ReleaseRef};
use crate::caller::Caller;
use crate::content::ReleaseContent;
use crate::errno::FsError;
use crate::metrics::COUNTS;
use crate::refusal::{Refusal, with_cause};
use crate::registry::{Admitted, Freshness};

/// What an open gives.
#[derive(Debug)]
pub enum Opened {
    /// Bytes that the daemon made.
    Text(Arc<[u8]>),
    /// A whole, verified file, open for reading only; and by whom.
    File(File, Payer),
}

/// A tree's file that is being opened.
struct Wanted {
    node: NodeId,
    /// Below the mount point, as the audit has it.
    path: String,
    size: u64,
}

/// What a fetch cost; nothing if the file was in the cache.
#[derive(Default)]
struct Cost {
    fetched: u64,
    duration_us: u64,
}

impl Vfs {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// The verdict on the release, what stopped the fetch, or that it could not be recorded.
    pub async fn open(&self, ino: Ino, asker: Asker) -> Result<Opened, FsError> {
        let opened = self.open_place(ino, asker).await;
        match &opened {
            Ok(_) => COUNTS.open(None),
            Err(FsError::Refused(refusal)) => COUNTS.open(Some(refusal.code)),
            // What is no file, or is not there.
            Err(_) => {}
        }
        opened
    }

    async fn open_place(&self, ino: Ino, asker: Asker) -> Result<Opened, FsError> {
        let place = self.place(ino)?;
        self.check_rights(&place, asker).await?;
        match place {
            Place::Root | Place::Server(_, ServerPlace::Directory) | Place::Release(_, ReleasePlace::Directory) => {
                Err(FsError::IsADirectory)
            }
            Place::Server(server, ServerPlace::Run) => Ok(Opened::Text(synth::refused_run(&self.rundir, &server))),
            Place::Release(admitted, ReleasePlace::Run) => Ok(Opened::Text(synth::run(&self.rundir, &admitted))),
            Place::Release(admitted, ReleasePlace::Statement) => {
                let path = format!("{}/{}/{STATEMENT}", admitted.name(), admitted.version());
                let freshness = self.admit(&admitted, || path.clone(), asker).await?;
                self.record_access(&admitted, freshness, &path, admitted.payload.len() as u64, asker).await?;
                Ok(Opened::Text(admitted.payload.as_slice().into()))
            }
            Place::Release(admitted, ReleasePlace::Node(id)) => self.open_node(&admitted, id, asker).await,
        }
    }

    /// What an open file holds, for a handle that a predecessor of this process gave out.
    ///
    /// # Errors
    /// What stops the fetch of something that has left the cache meanwhile.
    pub(super) async fn reopen(&self, ino: Ino) -> Result<Opened, FsError> {
        match self.place(ino)? {
            Place::Root | Place::Server(_, ServerPlace::Directory) | Place::Release(_, ReleasePlace::Directory) => {
                Err(FsError::IsADirectory)
            }
            Place::Server(server, ServerPlace::Run) => Ok(Opened::Text(synth::refused_run(&self.rundir, &server))),
            Place::Release(admitted, ReleasePlace::Run) => Ok(Opened::Text(synth::run(&self.rundir, &admitted))),
            Place::Release(admitted, ReleasePlace::Statement) => Ok(Opened::Text(admitted.payload.as_slice().into())),
            Place::Release(admitted, ReleasePlace::Node(node)) => {
                let content = self.tree(&admitted).await?;
                match content.tree.node(node).map(|node| node.kind) {
                    Some(Kind::File { size: 0, .. }) => Ok(Opened::Text(Arc::from([]))),
                    Some(Kind::File { .. }) => {
                        let opened = self.content.file(&content, node).await;
                        opened.map(|opened| Opened::File(opened.file, None)).map_err(FsError::Refused)
                    }
                    Some(Kind::Directory) => Err(FsError::IsADirectory),
                    Some(Kind::Link { .. }) => Err(FsError::WrongKind),
                    None => Err(FsError::NoSuchName),
                }
            }
        }
    }

    async fn open_node(&self, admitted: &Arc<Admitted>, node: NodeId, asker: Asker) -> Result<Opened, FsError> {
        let content = self.tree_for(admitted, asker).await?;
        let path = || format!("{}/{}/{TREE}/{}", admitted.name(), admitted.version(), content.tree.path(node));
        let (size, sha256) = match content.tree.node(node).map(|node| node.kind) {
            Some(Kind::File { size, sha256, .. }) => (size, sha256),
            Some(Kind::Directory) => return Err(FsError::IsADirectory),
            Some(Kind::Link { .. }) => return Err(FsError::WrongKind),
            None => return Err(FsError::NoSuchName),
        };
        let mut freshness = self.admit(admitted, path, asker).await?;
        // Nothing to fetch, and nothing that a cache would have to keep.
        if size == 0 {
            self.record_access(admitted, freshness, &path(), 0, asker).await?;
            return Ok(Opened::Text(Arc::from([])));
        }
        let known = self.accesses.threads.of(asker.pid).and_then(|thread| self.accesses.known(thread, admitted.slot));
        let ready = match (self.content.ready(&sha256, size), known) {
            (Some(file), Some(payer)) => return Ok(Opened::File(file, payer)),
            (other, _) => other,
        };
        let wanted = Wanted { node, path: path(), size };
        let (file, cost) = match ready {
            Some(file) => (file, Cost::default()),
            None => {
                let fetched = self.fetch(admitted, &content, &wanted, asker).await?;
                // That may have taken half a minute, in which a revocation or a reload may have come.
                self.check_rights(&Place::Release(Arc::clone(admitted), ReleasePlace::Node(node)), asker).await?;
                freshness = self.admit(admitted, path, asker).await?;
                fetched
            }
        };
        if cost.fetched > 0 {
            self.record_fetch(admitted, freshness, &wanted.path, &cost, asker).await?;
        }
        let payer = self.record_access(admitted, freshness, &wanted.path, wanted.size, asker).await?;
        // What a process opens first is seldom all that it will open.
        self.content.prefetch(&content);
        Ok(Opened::File(file, payer))
    }

    /// Asked at every open. A refusal has its row before anybody hears of it.
    async fn admit(
        &self,
        admitted: &Arc<Admitted>,
        path: impl FnOnce() -> String,
        asker: Asker,
    ) -> Result<Freshness, FsError> {
        match self.registry.check_open(admitted) {
            Ok(freshness) => Ok(freshness),
            Err(refusal) => Err(self.refused_release(admitted, refusal, path(), asker).await),
        }
    }

    async fn fetch(
        &self,
        admitted: &Arc<Admitted>,
        content: &Arc<ReleaseContent>,
        wanted: &Wanted,
        asker: Asker,
    ) -> Result<(File, Cost), FsError> {
        if let Some(scanner) = self.scanner(asker) {
            return Err(FsError::ScannerWouldFetch { scanner });
        }
        let started = Instant::now();
        match self.content.file(content, wanted.node).await {
            Ok(opened) => {
                let duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                Ok((opened.file, Cost { fetched: opened.fetched_bytes, duration_us }))
            }
            Err(refusal) => {
                let event = self.event(EventKind::Fetch, admitted, &wanted.path, asker).await;
                Err(self.record_refusal(event, refusal).await)
            }
        }
    }

    /// The asking program's name, if configuration calls it a scanner.
    fn scanner(&self, asker: Asker) -> Option<String> {
        let config = self.registry.config();
        if config.policy.scanners.is_empty() {
            return None;
        }
        let program = access::program(asker.pid)?;
        config.policy.scanners.contains(&program).then_some(program)
    }

    async fn record_fetch(
        &self,
        admitted: &Arc<Admitted>,
        freshness: Freshness,
        path: &str,
        cost: &Cost,
        asker: Asker,
    ) -> Result<(), FsError> {
        let mut row = self.event(EventKind::Fetch, admitted, path, asker).await;
        row.stale = Some(freshness.stale);
        row.bytes = Some(cost.fetched);
        row.duration_us = Some(cost.duration_us);
        self.record(row).await
    }

    /// The row of a process's first access to a release; nothing for later ones.
    async fn record_access(
        &self,
        admitted: &Arc<Admitted>,
        freshness: Freshness,
        path: &str,
        bytes: u64,
        asker: Asker,
    ) -> Result<Payer, FsError> {
        let slot = admitted.slot;
        let thread = self.accesses.threads.of(asker.pid);
        if let Some(payer) = thread.and_then(|thread| self.accesses.known(thread, slot)) {
            return Ok(payer);
        }
        // Another thread of a process that has its row: a server has several that open files.
        if let Some(thread) = thread
            && let Some(caller) = Caller::in_brief(asker.pid, asker.uid)
            && let Some(process) = process_of(&caller)
            && self.accesses.has_row(process, slot)
        {
            let payer = caller.budget_uid();
            self.accesses.remember(thread, slot, payer);
            return Ok(payer);
        }
        let mut row = self.event(EventKind::Access, admitted, path, asker).await;
        row.stale = Some(freshness.stale);
        row.bytes = Some(bytes);
        let payer = row.caller.budget_uid();
        let (Some(thread), Some(process)) = (thread, process_of(&row.caller)) else {
            // Nobody we could know again: each open is a first one.
            return self.record(row).await.map(|()| payer);
        };
        self.accesses.of_process(process, slot).get_or_try_init(|| self.record(row)).await?;
        self.accesses.remember(thread, slot, payer);
        Ok(payer)
    }

    /// A refused version, or something else under a refused name.
    pub(super) async fn refused_name(
        &self,
        server: &mcpfs_trust::name::ServerName,
        below: &[u8],
        refusal: Refusal,
        asker: Asker,
    ) -> FsError {
        let below = String::from_utf8_lossy(below);
        let registry = self.registry.snapshot().registry.to_string();
        let release = ReleaseRef::unverified(Some(&registry), server.as_str(), None);
        let mut event = self.event_of(EventKind::Refusal, release, asker).await;
        event.path = Some(format!("{server}/{below}"));
        self.record_refusal(event, refusal).await
    }

    /// A release that verified and is refused all the same, or whose tree cannot be had.
    pub(super) async fn refused_release(
        &self,
        admitted: &Arc<Admitted>,
        refusal: Refusal,
        path: String,
        asker: Asker,
    ) -> FsError {
        let event = self.event(EventKind::Refusal, admitted, &path, asker).await;
        self.record_refusal(event, refusal).await
    }

    /// Records a refusal and gives the error that the caller will see: the refusal, or that
    /// not even that could be recorded.
    async fn record_refusal(&self, event: AuditEvent, refusal: Refusal) -> FsError {
        let event = event.refused(refusal.code, refusal.message.clone());
        match self.record(event).await {
            Ok(()) => FsError::Refused(refusal),
            Err(unrecorded) => unrecorded,
        }
    }

    async fn record(&self, event: AuditEvent) -> Result<(), FsError> {
        match self.audit.record(event).await {
            Ok(_row) => Ok(()),
            Err(error) => Err(FsError::Unrecorded(with_cause(&error))),
        }
    }

    async fn event(&self, kind: EventKind, admitted: &Arc<Admitted>, path: &str, asker: Asker) -> AuditEvent {
        let status = if admitted.yanked.is_some() { "yanked" } else { "active" };
        let release =
            ReleaseRef::verified(&admitted.release, &admitted.artefact, admitted.statement, &admitted.keys, status);
        let mut event = self.event_of(kind, release, asker).await;
        event.head_version = Some(admitted.head_version);
        event.path = Some(path.to_owned());
        event
    }

    async fn event_of(&self, kind: EventKind, release: ReleaseRef, asker: Asker) -> AuditEvent {
        let Asker { pid, uid, gid } = asker;
        let launches = self.launches.clone();
        // Reads /proc and the user database: not on a FUSE thread.
        let known = tokio::task::spawn_blocking(move || {
            let caller = Caller::of(pid, uid, gid);
            let launch = launches.row_of(caller.pid, caller.pid_start_us);
            (caller, launch)
        });
        let nobody = || (Caller { request_uid: Some(uid), group_id: Some(gid), ..Caller::default() }, None);
        let (caller, launch) = known.await.unwrap_or_else(|_| nobody());
        let mut event = AuditEvent::new(kind, caller).release(Arc::new(release));
        event.launch = launch;
        event
    }
}

fn process_of(caller: &Caller) -> Option<Task> {
    Some(Task { pid: caller.pid?, start: caller.pid_start_us? })
}
