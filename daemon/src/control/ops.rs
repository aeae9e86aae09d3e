//! What each operation of the socket does with the running daemon.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcpfs_trust::error::Code;
use mcpfs_trust::name::{ServerName, Version};
use serde::Serialize;
use serde_json::json;
use tokio::net::UnixListener;

use crate::audit::{Act, AuditEvent, EventKind, ReleaseRef};
use crate::caller::Caller;
use crate::config::Config;
use crate::control::credentials::{self, Turns};
use crate::control::facts::{Page, Reason, Refreshed, Row};
use crate::control::peer::Peer;
use crate::control::plan::{Terms, plan, stale_warning};
use crate::control::protocol::{ACTS, Fault, Launch, PAGE, Refused, Request};
use crate::control::server::{self, Reply};
use crate::daemon::Daemon;
use crate::errno::advice_for;
use crate::launch::Identity;
use crate::launched::Launched;
use crate::metrics::COUNTS;
use crate::refusal::{Refusal, with_cause};
use crate::registry::{Admitted, Server};

/// How long the registry may be asked before the caller is told that it takes too long;
/// below the clients' own deadline ([`Request::patience`]), so that they hear it.
const LOOKUP: Duration = Duration::from_secs(7);
/// The same for a look at the site that somebody asked for.
const LOOK: Duration = Duration::from_secs(55);

/// Serves the socket of `daemon` until it is dropped.
pub async fn serve(listener: UnixListener, daemon: Daemon) {
    let desk = Arc::new(Desk { daemon, turns: Arc::default() });
    server::serve(listener, move |peer, connection, request| {
        let desk = Arc::clone(&desk);
        async move { desk.answer(peer, connection, request).await }
    })
    .await;
}

pub(super) struct Desk {
    pub(super) daemon: Daemon,
    pub(super) turns: Arc<Turns>,
}

impl Desk {
    async fn answer(&self, peer: Peer, connection: OwnedFd, request: Request) -> Result<Reply, Refused> {
        match request {
            Request::Launch { identity, args } => {
                let (launch, with) = self.launch((&peer, connection), &identity, &args).await?;
                let reply = to_value(launch)?;
                Ok(Reply { with, ..reply })
            }
            Request::Unstarted { reason } => to_value(self.unstarted(&peer, &reason).await?),
            Request::Status {} => to_value(self.status()),
            Request::List { all, after } => to_value(self.list(&peer, all, after.as_deref())),
            Request::Explain { target } => to_value(self.explain(&peer, target).await?),
            Request::Refresh {} => {
                administer(&peer)?;
                to_value(self.refresh().await)
            }
            Request::Reload {} => {
                administer(&peer)?;
                let daemon = self.daemon.clone();
                let reloaded = async move {
                    let outcome = daemon.reload().await;
                    daemon.registry.shown().await;
                    outcome
                };
                self.within_limit(LOOK, reloaded).await?.map_err(|refusal| {
                    Refused::new(refusal.code, &refusal.message, "the configuration before it stays in force")
                })?;
                to_value(json!({}))
            }
            Request::Record { acts } => {
                administer(&peer)?;
                self.record(&peer, &acts).await?;
                to_value(json!({}))
            }
        }
    }

    /// Records what was done, as done by whoever asks: the kernel says who that is.
    async fn record(&self, peer: &Peer, acts: &[Act]) -> Result<(), Refused> {
        let caller = self.within(caller(peer)).await?;
        for act in acts.iter().take(ACTS) {
            let recorded = self.daemon.audit.record(act.event(caller.clone())).await;
            recorded.map_err(|error| Refused::new(error.code(), &with_cause(&error), ""))?;
        }
        Ok(())
    }

    /// Runs a future to its end, and waits for it within [`LOOKUP`]: a caller that gives up
    /// must not stop a decision halfway.
    pub(super) async fn within<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refused> {
        self.within_limit(LOOKUP, work).await
    }

    async fn within_limit<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refused> {
        match tokio::time::timeout(limit, self.daemon.runtime.spawn(work)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(Refused::fault(Fault::Internal, "the daemon failed at this", "see its log")),
            Err(_) => Err(Refused::new(
                Code::TooSlow,
                &format!("the registry did not answer within {} s", limit.as_secs()),
                "try again in a moment; mcpfs status says more",
            )),
        }
    }

    /// Decides, records, and only then answers.
    async fn launch(
        &self,
        (peer, connection): (&Peer, OwnedFd),
        identity: &str,
        args: &[String],
    ) -> Result<(Launch, Vec<OwnedFd>), Refused> {
        let begun = Instant::now();
        let identity: Identity = identity.parse().map_err(|error: crate::launch::BadIdentity| {
            Refused::fault(Fault::BadRequest, &error.to_string(), "start the `run` of a mounted server")
        })?;
        let caller = self.within(caller(peer)).await?;
        let found = self.find(&identity).await;
        let config = self.daemon.config();
        let (release, admitted, stale, decided) = match found {
            // Names that nobody knows leave no row: anybody could fill the audit with them.
            Err(refused) if refused.outcome().is_none() => return Err(refused),
            // Why a server does not start is for those who may start it.
            Err(refused) => {
                let refused = self.permitted(peer, identity.name()).err().unwrap_or(refused);
                let registry = self.daemon.registry.snapshot().registry.to_string();
                let version = match &identity {
                    Identity::Release { version, .. } => Some(version.as_str()),
                    Identity::Refused { .. } => None,
                };
                let release = ReleaseRef::unverified(Some(&registry), identity.name().as_str(), version);
                (release, None, None, Err(refused))
            }
            Ok((server, admitted)) => {
                let (stale, decided) = match self.permitted(peer, &server.name) {
                    Ok(()) => self.decide(&config, (peer, args), &server, &admitted),
                    Err(refused) => (None, Err(refused)),
                };
                (release_ref(&admitted), Some(admitted), stale, decided)
            }
        };
        let (decided, with) = match decided {
            Ok(launch) => match self.fetch(peer, connection, &launch, (&config, begun)).await {
                Ok(with) => (Ok(launch), with),
                // Nothing was decided: the launcher asks again.
                Err(refused) if refused.is(Fault::Busy) => return Err(refused),
                Err(refused) => (Err(refused), Vec::new()),
            },
            Err(refused) => (Err(refused), Vec::new()),
        };
        let head = admitted.as_ref().map(|admitted| admitted.head_version);
        if let (Ok(_), Some(admitted)) = (&decided, admitted) {
            // Its content comes while the row is written and the program starts.
            let registry = self.daemon.registry.clone();
            self.daemon.runtime.spawn(async move {
                if let Err(refusal) = registry.bring(&admitted).await {
                    tracing::info!(%refusal, name = %admitted.name(), "not fetched ahead of its launch");
                }
            });
        }
        let mut event = AuditEvent::new(EventKind::Launch, caller.clone()).release(Arc::new(release));
        event.head_version = head;
        event.stale = stale;
        event.duration_us = u64::try_from(begun.elapsed().as_micros()).ok();
        match &decided {
            Ok(launch) => {
                let mut detail = json!({"sandbox": walls(launch)});
                if !launch.credentials.is_empty() {
                    detail["credentials"] = credentials::row(&launch.credentials);
                }
                event.detail = Some(detail);
            }
            Err(refused) => {
                event = event.refused(refused.outcome().unwrap_or(Code::PolicyRefused), refused.message.clone());
            }
        }
        COUNTS.launch(decided.as_ref().err().map(|refused| refused.outcome().unwrap_or(Code::PolicyRefused)));
        let seq = self.daemon.audit.record(event).await.map_err(|error| {
            Refused::new(error.code(), &with_cause(&error), "tell your administrator: nothing starts unrecorded")
        })?;
        // By process: `exec` keeps the number, so the launcher that asked is the server now.
        if let (Ok(_), Identity::Release { name, version, .. }) = (&decided, identity)
            && let (Some(pid), Some(start_us)) = (caller.pid, caller.pid_start_us)
        {
            let launches = self.daemon.launches.clone();
            if launches.add(pid, Launched { start_us, seq, name, version }) {
                self.daemon.runtime.spawn_blocking(move || launches.sweep());
            }
        }
        decided.map(|launch| (launch, with))
    }

    /// The launcher's word that the process it runs in did not become its server. It speaks of
    /// itself alone: the kernel says which process it is, and the table which launch.
    async fn unstarted(&self, peer: &Peer, reason: &str) -> Result<(), Refused> {
        let caller = self.within(caller(peer)).await?;
        let (pid, start_us) = (caller.pid.unwrap_or(0), caller.pid_start_us);
        let Some(launched) = self.daemon.launches.take(pid, start_us) else {
            return Err(Refused::fault(Fault::NotFound, "this process was not launched", ""));
        };
        let registry = self.daemon.registry.snapshot().registry.to_string();
        let (name, version) = (launched.name, launched.version);
        let server = self.server(&name).await;
        let release = match server {
            Ok(server) => self.version(&server, &version).await.ok().map(|admitted| release_ref(&admitted)),
            Err(_) => None,
        };
        let release =
            release.unwrap_or_else(|| ReleaseRef::unverified(Some(&registry), name.as_str(), Some(version.as_str())));
        let mut event = AuditEvent::new(EventKind::Exit, caller)
            .release(Arc::new(release))
            .refused(Code::LaunchUnsupported, format!("it never started: {reason}"));
        event.launch = Some(launched.seq);
        self.daemon
            .audit
            .record(event)
            .await
            .map(drop)
            .map_err(|error| Refused::new(error.code(), &with_cause(&error), ""))
    }

    /// The admitted release that an identity names, by its statement.
    async fn find(&self, identity: &Identity) -> Result<(Arc<Server>, Arc<Admitted>), Refused> {
        let name = identity.name().clone();
        let server = self.server(&name).await?;
        match identity {
            Identity::Refused { .. } => match &server.selected {
                Err(refusal) => Err(self.refused(refusal, Some(&server), None)),
                Ok(now) => Err(Refused::fault(
                    Fault::Outdated,
                    &format!("{name} was refused when this `run` was read; now {} is admitted", now.version()),
                    "start it again",
                )),
            },
            Identity::Release { version, statement, .. } => {
                let admitted = self.version(&server, version).await?;
                match admitted.statement == *statement {
                    true => Ok((server, admitted)),
                    false => Err(Refused::new(
                        Code::PolicyRefused,
                        &format!("this `run` names another statement of {name} {version} than the admitted one"),
                        "restart your MCP host",
                    )),
                }
            }
        }
    }

    pub(super) async fn server(&self, name: &ServerName) -> Result<Arc<Server>, Refused> {
        let (registry, wanted) = (self.daemon.registry.clone(), name.clone());
        let found = self.within(async move { registry.server(&wanted).await }).await?;
        found.map_err(|refusal| self.refused(&refusal, None, None))?.ok_or_else(|| {
            Refused::fault(
                Fault::NotFound,
                &format!("the registry has no server {name}"),
                "for the names, see mcpfs ls",
            )
        })
    }

    pub(super) async fn version(&self, server: &Arc<Server>, version: &Version) -> Result<Arc<Admitted>, Refused> {
        let (registry, at, wanted) = (self.daemon.registry.clone(), Arc::clone(server), version.clone());
        match self.within(async move { registry.version(&at, &wanted).await }).await? {
            Some(Ok(admitted)) => Ok(admitted),
            Some(Err(refusal)) => Err(self.refused(&refusal, Some(server), Some(version))),
            None => Err(Refused::new(
                Code::PinUnknown,
                &format!("the registry has no version {version} of {}", server.name),
                current(server).unwrap_or_else(|| format!("for the versions, see mcpfs explain {}", server.name)),
            )),
        }
    }

    /// Whether the caller may use a server: asked again here, so that nobody has a launch, or its row, who
    /// could not have started it by its path.
    pub(super) fn permitted(&self, peer: &Peer, name: &ServerName) -> Result<(), Refused> {
        let access = &self.daemon.registry.snapshot().access;
        let admitted = access.admits(name, (peer.uid, peer.gid), |group| peer.has(group));
        admitted.map_err(|why| Refused::new(Code::PolicyRefused, &why, access.advice(name)))
    }

    /// What the host's rules make of an admitted release.
    fn decide(
        &self,
        config: &Config,
        (peer, args): (&Peer, &[String]),
        server: &Server,
        admitted: &Admitted,
    ) -> (Option<bool>, Result<Launch, Refused>) {
        let fresh = match self.daemon.registry.check_open(admitted) {
            Ok(fresh) => fresh,
            Err(refusal) => return (None, Err(self.refused(&refusal, Some(server), Some(admitted.version())))),
        };
        let at = &self.daemon.mount.at;
        let tree = at.join(admitted.name().as_str()).join(admitted.version().as_str()).join("tree");
        let (file, uid) = (config.file.as_path(), peer.uid);
        let Config { policy, runtimes, credentials, .. } = config;
        let terms = Terms { policy, runtimes, credentials, file, uid, args, tree: &tree };
        let decided = plan(&admitted.release, terms).map(|mut launch| {
            if fresh.stale {
                let (allowed, _) = config.registry.max_stale_of(&admitted.release.data_classification);
                launch.warning = stale_warning(admitted.head_issued, allowed, self.daemon.registry.time());
            }
            launch
        });
        (Some(fresh.stale), decided)
    }

    fn list(&self, peer: &Peer, all: bool, after: Option<&str>) -> Page {
        let snapshot = self.daemon.registry.snapshot();
        let wanted = snapshot.servers.values().filter(|server| all || server.selected.is_ok());
        let mut rest = wanted.filter(|server| after.is_none_or(|after| server.name.as_str() > after));
        let servers: Vec<Row> = rest.by_ref().take(PAGE).map(|server| self.row(peer, server)).collect();
        let next = rest.next().and(servers.last()).map(|row| row.name.clone());
        Page { servers, next }
    }

    fn row(&self, peer: &Peer, server: &Server) -> Row {
        let release = server.selected.as_ref().ok().map(|admitted| &admitted.release);
        let group = self.daemon.registry.snapshot().access.group_of(&server.name);
        Row {
            name: server.name.to_string(),
            version: release.map(|release| release.version.to_string()),
            data_classification: release.map(|release| release.data_classification.clone()),
            description: release.map(|release| release.description.clone()),
            refused: server.selected.as_ref().err().map(reason),
            denied: group.is_some() && self.permitted(peer, &server.name).is_err(),
            group: group.map(|group| group.name),
        }
    }

    async fn refresh(&self) -> Refreshed {
        let registry = self.daemon.registry.clone();
        let version = || self.daemon.registry.snapshot().head.as_ref().map(|head| head.version);
        let before = version();
        let looking = async move {
            let outcome = registry.refresh_now().await;
            registry.shown().await;
            outcome
        };
        let looked = self.within_limit(LOOK, looking).await;
        let error = match looked {
            Ok(Ok(())) => None,
            Ok(Err(refusal)) => Some(reason(&refusal)),
            Err(refused) => Some(Reason { code: refused.code, message: refused.message }),
        };
        Refreshed { head_version: version(), before, error }
    }

    /// A refusal in the words of the socket, with what to do about it.
    pub(super) fn refused(&self, refusal: &Refusal, server: Option<&Server>, version: Option<&Version>) -> Refused {
        let other = server.filter(|server| {
            server.selected.as_ref().is_ok_and(|now| version.is_some_and(|version| version != now.version()))
        });
        let advice = match (refusal.code, other.and_then(current)) {
            (Code::Revoked | Code::Yanked | Code::PinUnknown | Code::HeadExpired, Some(current)) => current,
            (code, _) => advice_for(code).to_owned(),
        };
        Refused::new(refusal.code, &refusal.message, advice)
    }
}

/// What the audit says of a launch's walls.
fn walls(launch: &Launch) -> &'static str {
    match &launch.sandbox {
        None => "off",
        Some(confinement) if confinement.image => "image",
        Some(_) => "host",
    }
}

fn administer(peer: &Peer) -> Result<(), Refused> {
    match peer.administers() {
        true => Ok(()),
        false => {
            Err(Refused::fault(Fault::NotPermitted, "this is for root and the daemon's own user", "run it with sudo"))
        }
    }
}

/// /proc and the user database may be slow, so this is not for a runtime thread.
pub(super) fn caller(peer: &Peer) -> impl Future<Output = Caller> + use<> {
    let (pid, uid, gid) = (peer.pid, peer.uid, peer.gid);
    let nobody = move || Caller { request_uid: Some(uid), group_id: Some(gid), ..Caller::default() };
    let looked = tokio::task::spawn_blocking(move || Caller::of(pid, uid, gid));
    async move { looked.await.unwrap_or_else(|_| nobody()) }
}

fn to_value<T: Serialize>(facts: T) -> Result<Reply, Refused> {
    serde_json::to_value(facts)
        .map(Reply::from)
        .map_err(|error| Refused::fault(Fault::Internal, &error.to_string(), ""))
}

pub(super) fn reason(refusal: &Refusal) -> Reason {
    Reason { code: refusal.code.to_string(), message: refusal.message.clone() }
}

fn current(server: &Server) -> Option<String> {
    let now = server.selected.as_ref().ok()?;
    Some(format!("current is {}: restart your MCP host", now.version()))
}

fn release_ref(admitted: &Admitted) -> ReleaseRef {
    let status = if admitted.yanked.is_some() { "yanked" } else { "active" };
    ReleaseRef::verified(&admitted.release, &admitted.artefact, admitted.statement, &admitted.keys, status)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn administrators() {
        let peer = |uid| Peer { pid: 1, uid, gid: 0, groups: None };
        let own = rustix::process::geteuid().as_raw();
        assert!(administer(&peer(0)).is_ok() && administer(&peer(own)).is_ok());
        assert!(administer(&peer(own + 4711)).is_err_and(|refused| refused.is(Fault::NotPermitted)));
    }
}
