//! What each operation of the socket does with the running daemon.

use std::future::Future;
use std::num::NonZeroUsize;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use mcpfs_trust::error::Code;
use mcpfs_trust::name::{ServerName, Version};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::audit::{AuditEvent, EventKind, ReleaseRef};
use crate::caller::Caller;
use crate::config::SandboxPolicy;
use crate::control::facts::{
    Explained, Head, NextStop, Page, ProcessFacts, Reason, Refreshed, RefusedName, ReleaseFacts, Row, Status,
};
use crate::control::plan::{Terms, plan, stale_warning};
use crate::control::protocol::{Fault, Launch, PAGE, Refused, Request, Target};
use crate::control::server::{self, Peer};
use crate::daemon::Daemon;
use crate::errno::advice_for;
use crate::launch::Identity;
use crate::refusal::{Refusal, with_cause};
use crate::registry::{Admitted, Server, now};

/// How long the registry may be asked before the caller is told that it takes too long;
/// below the clients' own deadline, so that they hear it.
const LOOKUP: Duration = Duration::from_secs(7);
/// Started processes that `explain PID` remembers.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// Serves the socket of `daemon` until it is dropped.
pub async fn serve(listener: UnixListener, daemon: Daemon) {
    let desk = Arc::new(Desk { daemon, started: Mutex::new(LruCache::new(REMEMBERED)) });
    server::serve(listener, move |peer, request| {
        let desk = Arc::clone(&desk);
        async move { desk.answer(peer, request).await }
    })
    .await;
}

struct Desk {
    daemon: Daemon,
    /// By process. `exec` keeps the number, so the launcher that asked is the server now.
    started: Mutex<LruCache<u32, Started>>,
}

/// What a process became.
#[derive(Debug, Clone)]
struct Started {
    /// When the process began; with its number that names it for good.
    start_us: Option<u64>,
    name: ServerName,
    version: Version,
}

impl Desk {
    async fn answer(&self, peer: Peer, request: Request) -> Result<Value, Refused> {
        match request {
            Request::Launch { identity, args } => to_value(self.launch(peer, &identity, &args).await?),
            Request::Status {} => to_value(self.status()),
            Request::List { all, after } => to_value(self.list(all, after.as_deref())),
            Request::Explain { target } => to_value(self.explain(peer, target).await?),
            Request::Refresh {} => {
                administer(peer)?;
                to_value(self.refresh().await)
            }
            Request::Reload {} => {
                administer(peer)?;
                let daemon = self.daemon.clone();
                self.within(async move { daemon.reload().await }).await?.map_err(|refusal| {
                    Refused::new(refusal.code, &refusal.message, "the configuration before it stays in force")
                })?;
                to_value(json!({}))
            }
        }
    }

    /// Runs a future to its end, and waits for it within [`LOOKUP`]: a caller that gives up
    /// must not stop a decision halfway.
    async fn within<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, Refused> {
        match tokio::time::timeout(LOOKUP, self.daemon.runtime.spawn(work)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(Refused::fault(Fault::Internal, "the daemon failed at this", "see its log")),
            Err(_) => Err(Refused::new(
                Code::TooSlow,
                &format!("the registry did not answer within {} s", LOOKUP.as_secs()),
                "try again in a moment; mcpfs status says more",
            )),
        }
    }

    /// Decides, records, and only then answers.
    async fn launch(&self, peer: Peer, identity: &str, args: &[String]) -> Result<Launch, Refused> {
        let begun = Instant::now();
        let identity: Identity = identity.parse().map_err(|error: crate::launch::BadIdentity| {
            Refused::fault(Fault::BadRequest, &error.to_string(), "start the `run` of a mounted server")
        })?;
        let caller = self.within(caller(peer)).await?;
        let found = self.find(&identity).await;
        let (release, admitted, stale, decided) = match found {
            // Names that nobody knows leave no row: anybody could fill the audit with them.
            Err(refused) if refused.outcome().is_none() => return Err(refused),
            Err(refused) => {
                let registry = self.daemon.registry.snapshot().registry.to_string();
                let version = match &identity {
                    Identity::Release { version, .. } => Some(version.as_str()),
                    Identity::Refused { .. } => None,
                };
                let release = ReleaseRef::unverified(Some(&registry), identity.name().as_str(), version);
                (release, None, None, Err(refused))
            }
            Ok((server, admitted)) => {
                let (stale, decided) = self.decide(peer, &server, &admitted, args);
                (release_ref(&admitted), Some(admitted), stale, decided)
            }
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
            Ok(_) => event.detail = Some(json!({"sandbox": "off"})),
            Err(refused) => {
                event = event.refused(refused.outcome().unwrap_or(Code::PolicyRefused), refused.message.clone());
            }
        }
        self.daemon.audit.record(event).await.map_err(|error| {
            Refused::new(error.code(), &with_cause(&error), "tell your administrator: nothing starts unrecorded")
        })?;
        if let (Ok(_), Identity::Release { name, version, .. }) = (&decided, identity) {
            let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
            started.put(peer.pid, Started { start_us: caller.pid_start_us, name, version });
        }
        decided
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

    async fn server(&self, name: &ServerName) -> Result<Arc<Server>, Refused> {
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

    async fn version(&self, server: &Arc<Server>, version: &Version) -> Result<Arc<Admitted>, Refused> {
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

    /// What the host's rules make of an admitted release.
    fn decide(
        &self,
        peer: Peer,
        server: &Server,
        admitted: &Admitted,
        args: &[String],
    ) -> (Option<bool>, Result<Launch, Refused>) {
        let config = self.daemon.config();
        let fresh = match self.daemon.registry.check_open(admitted) {
            Ok(fresh) => fresh,
            Err(refusal) => return (None, Err(self.refused(&refusal, Some(server), Some(admitted.version())))),
        };
        let at = &self.daemon.mount.at;
        let tree = at.join(admitted.name().as_str()).join(admitted.version().as_str()).join("tree");
        let (file, uid) = (config.file.as_path(), peer.uid);
        let terms = Terms { policy: &config.policy, runtimes: &config.runtimes, file, uid, args, tree: &tree };
        let decided = plan(&admitted.release, terms).map(|mut launch| {
            if fresh.stale {
                launch.warning =
                    stale_warning(admitted.head_issued, config.registry.max_stale, self.daemon.registry.time());
            }
            launch
        });
        (Some(fresh.stale), decided)
    }

    fn status(&self) -> Status {
        let (snapshot, config) = (self.daemon.registry.snapshot(), self.daemon.config());
        let refused = || {
            snapshot.servers.values().filter_map(|server| {
                let refusal = server.selected.as_ref().err()?;
                // What is hidden on purpose is no fault.
                config.shows(&server.name).is_ok().then_some((server, refusal))
            })
        };
        let named = refused().take(PAGE);
        Status {
            now: now(),
            registry: snapshot.registry.to_string(),
            trust_version: snapshot.trust.version,
            head: snapshot.head.as_ref().map(|head| Head {
                version: head.version,
                issued: head.issued,
                expires: head.expires,
            }),
            next_stop: self.daemon.registry.next_stop().map(|stop| NextStop {
                name: stop.name.to_string(),
                issued: stop.issued,
                at: stop.at,
                share: stop.share,
            }),
            refreshed: snapshot.refreshed.at,
            refresh_error: snapshot.refreshed.outcome.as_ref().err().map(reason),
            servers: snapshot.servers.values().filter(|server| server.selected.is_ok()).count() as u64,
            refused: named
                .map(|(server, why)| RefusedName { name: server.name.to_string(), reason: reason(why) })
                .collect(),
            refused_count: refused().count() as u64,
            mount: self.daemon.mount.at.clone(),
            reads: self.daemon.mount.reads.to_string(),
            takeover: self.daemon.mount.takeover,
            cache_bytes: None,
            cache_quota: config.cache.quota,
            audit_error: self.daemon.audit.health().failing,
            sandbox: match config.policy.sandbox {
                SandboxPolicy::Required => "required",
                SandboxPolicy::Off => "off",
            }
            .to_owned(),
        }
    }

    fn list(&self, all: bool, after: Option<&str>) -> Page {
        let snapshot = self.daemon.registry.snapshot();
        let wanted = snapshot.servers.values().filter(|server| all || server.selected.is_ok());
        let mut rest = wanted.filter(|server| after.is_none_or(|after| server.name.as_str() > after));
        let servers: Vec<Row> = rest.by_ref().take(PAGE).map(|server| row(server)).collect();
        let next = rest.next().and(servers.last()).map(|row| row.name.clone());
        Page { servers, next }
    }

    async fn explain(&self, peer: Peer, target: Target) -> Result<Explained, Refused> {
        match target {
            Target::Name(text) => {
                let (name, version) = text.split_once('@').map_or((text.as_str(), None), |(n, v)| (n, Some(v)));
                self.explain_name(name, version).await
            }
            Target::Path(path) => self.explain_path(&path).await,
            Target::Pid(pid) => self.explain_process(peer, pid).await,
        }
    }

    async fn explain_name(&self, name: &str, version: Option<&str>) -> Result<Explained, Refused> {
        let bad = |error: mcpfs_trust::name::BadName| Refused::fault(Fault::BadRequest, &error.to_string(), "");
        let name: ServerName = name.parse().map_err(bad)?;
        let version: Option<Version> = version.map(str::parse).transpose().map_err(bad)?;
        let server = self.server(&name).await?;
        let found = match &version {
            Some(version) => match self.version(&server, version).await {
                Err(refused) if refused.outcome() == Some(Code::PinUnknown) => {
                    return Err(self.no_such_version(&server, version));
                }
                found => found,
            },
            None => server.selected.clone().map_err(|refusal| self.refused(&refusal, Some(&server), None)),
        };
        let open = match &found {
            Ok(admitted) => self
                .daemon
                .registry
                .check_open(admitted)
                .map_err(|refusal| self.refused(&refusal, Some(&server), Some(admitted.version()))),
            Err(refused) => Err(refused.clone()),
        };
        let config = self.daemon.config();
        let version_of = |admitted: &Arc<Admitted>| admitted.version().to_string();
        let refused = open.as_ref().err();
        Ok(Explained {
            name: name.to_string(),
            version: version.map(|version| version.to_string()).or(found.as_ref().ok().map(version_of)),
            selected: server.selected.as_ref().ok().map(version_of),
            admitted: server.admitted().iter().map(version_of).collect(),
            refused: refused.map(|why| Reason { code: why.code.clone(), message: why.message.clone() }),
            advice: refused.map(|why| why.advice.clone()),
            pin: config.pins.by_name.get(&name).map(ToString::to_string),
            head_version: found.as_ref().ok().map(|admitted| admitted.head_version),
            stale: open.is_ok_and(|fresh| fresh.stale),
            release: found.ok().map(|admitted| Box::new(release_facts(&admitted))),
            process: None,
        })
    }

    /// Nothing is known of a version that no release has; what a hidden name has is not said.
    fn no_such_version(&self, server: &Server, version: &Version) -> Refused {
        let name = &server.name;
        let hidden = !self.daemon.config().policy.exposes(name);
        let known = if hidden { Vec::new() } else { self.daemon.registry.versions(server) };
        let known: Vec<String> = known.iter().map(Version::to_string).collect();
        let advice = match known.as_slice() {
            [] => format!("for what there is, see mcpfs explain {name}"),
            known => format!("it has {}", known.join(", ")),
        };
        Refused::new(Code::PinUnknown, &format!("the registry has no version {version} of {name}"), advice)
    }

    async fn explain_path(&self, path: &Path) -> Result<Explained, Refused> {
        let (name, version) = parts(path, &self.daemon.mount.at).ok_or_else(|| {
            Refused::fault(
                Fault::NotFound,
                &format!("{} is no path of a server below {}", path.display(), self.daemon.mount.at.display()),
                "for the names, see mcpfs ls",
            )
        })?;
        self.explain_name(&name, version.as_deref()).await
    }

    /// Only for the process's own user and administrators: what runs is nobody else's business.
    async fn explain_process(&self, peer: Peer, pid: u32) -> Result<Explained, Refused> {
        let process = self.within(caller(Peer { pid, ..peer })).await?;
        let unknown = |message: String| Err(Refused::fault(Fault::NotFound, &message, ""));
        let Some(owner) = process.user_id else { return unknown(format!("there is no process {pid}")) };
        if owner != peer.uid && !peer.administers() {
            return Err(Refused::fault(
                Fault::NotPermitted,
                &format!("process {pid} belongs to another user"),
                "ask as root",
            ));
        }
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner).peek(&pid).cloned();
        let (known_by, name, version) = match started {
            Some(one) if one.start_us.is_some() && one.start_us == process.pid_start_us => {
                ("launch", one.name.to_string(), Some(one.version.to_string()))
            }
            _ => {
                let exe = process.process.as_deref().map(Path::new);
                match exe.and_then(|exe| parts(exe, &self.daemon.mount.at)) {
                    Some((name, version)) => ("exe", name, version),
                    None => return unknown(format!("process {pid} was not launched by this daemon since it started")),
                }
            }
        };
        let explained = self.explain_name(&name, version.as_deref()).await?;
        Ok(Explained { process: Some(ProcessFacts { pid, known_by: known_by.to_owned() }), ..explained })
    }

    async fn refresh(&self) -> Refreshed {
        let registry = self.daemon.registry.clone();
        let looked = self.within(async move { registry.refresh_now().await }).await;
        let error = match looked {
            Ok(Ok(())) => None,
            Ok(Err(refusal)) => Some(reason(&refusal)),
            Err(refused) => Some(Reason { code: refused.code, message: refused.message }),
        };
        Refreshed { head_version: self.daemon.registry.snapshot().head.as_ref().map(|head| head.version), error }
    }

    /// A refusal in the words of the socket, with what to do about it.
    fn refused(&self, refusal: &Refusal, server: Option<&Server>, version: Option<&Version>) -> Refused {
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

fn administer(peer: Peer) -> Result<(), Refused> {
    match peer.administers() {
        true => Ok(()),
        false => {
            Err(Refused::fault(Fault::NotPermitted, "this is for root and the daemon's own user", "run it with sudo"))
        }
    }
}

/// /proc and the user database may be slow, so this is not for a runtime thread.
async fn caller(peer: Peer) -> Caller {
    let Peer { pid, uid, gid } = peer;
    tokio::task::spawn_blocking(move || Caller::of(pid, uid, gid)).await.unwrap_or_else(|_| Caller {
        request_uid: Some(uid),
        group_id: Some(gid),
        ..Caller::default()
    })
}

fn to_value<T: Serialize>(facts: T) -> Result<Value, Refused> {
    serde_json::to_value(facts).map_err(|error| Refused::fault(Fault::Internal, &error.to_string(), ""))
}

fn reason(refusal: &Refusal) -> Reason {
    Reason { code: refusal.code.to_string(), message: refusal.message.clone() }
}

fn current(server: &Server) -> Option<String> {
    let now = server.selected.as_ref().ok()?;
    Some(format!("current is {}: restart your MCP host", now.version()))
}

/// Server and version of an absolute path in the mount; it need not exist.
fn parts(path: &Path, mount: &Path) -> Option<(String, Option<String>)> {
    let mut below = path.strip_prefix(mount).ok()?.components().map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let name = below.next()??.to_owned();
    let version = match below.next() {
        None | Some(Some("run")) => None,
        Some(version) => Some(version?.to_owned()),
    };
    Some((name, version))
}

fn row(server: &Server) -> Row {
    let release = server.selected.as_ref().ok().map(|admitted| &admitted.release);
    Row {
        name: server.name.to_string(),
        version: release.map(|release| release.version.to_string()),
        data_classification: release.map(|release| release.data_classification.clone()),
        description: release.map(|release| release.description.clone()),
        refused: server.selected.as_ref().err().map(reason),
    }
}

fn release_ref(admitted: &Admitted) -> ReleaseRef {
    let status = if admitted.yanked.is_some() { "yanked" } else { "active" };
    ReleaseRef::verified(&admitted.release, &admitted.artefact, admitted.statement, &admitted.keys, status)
}

fn release_facts(admitted: &Admitted) -> ReleaseFacts {
    let release = &admitted.release;
    ReleaseFacts {
        statement: admitted.statement,
        artefact: admitted.artefact.clone(),
        keys: admitted.keys.clone(),
        description: release.description.clone(),
        maintainer: release.maintainer.clone(),
        data_classification: release.data_classification.clone(),
        scope: release.scope.clone(),
        reviewers: release.reviewers.clone(),
        reviewed_at: release.reviewed_at,
        issued: release.issued,
        source: release.source.clone(),
        yanked: admitted.yanked.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn paths_of_the_mount() {
        let of = |path: &str| parts(Path::new(path), Path::new("/mcp"));
        let pair = |name: &str, version: Option<&str>| Some((name.to_owned(), version.map(str::to_owned)));
        assert_eq!(of("/mcp/a"), pair("a", None));
        assert_eq!(of("/mcp/a/run"), pair("a", None));
        assert_eq!(of("/mcp/a/1.0/run"), pair("a", Some("1.0")));
        assert_eq!(of("/mcp/a/1.0/tree/bin/x"), pair("a", Some("1.0")));
        for none in ["/mcp", "/", "/mcpx/a", "/mcp/..", "/mcp/../etc", "mcp/a"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn administrators() {
        let peer = |uid| Peer { pid: 1, uid, gid: 0 };
        let own = rustix::process::geteuid().as_raw();
        assert!(administer(peer(0)).is_ok() && administer(peer(own)).is_ok());
        assert!(administer(peer(own + 4711)).is_err_and(|refused| refused.is(Fault::NotPermitted)));
    }
}
