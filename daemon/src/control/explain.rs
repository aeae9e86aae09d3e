//! `explain`: all that is known of a name, a path or a process.

use std::path::{Component, Path};
use std::sync::Arc;

use mcpfs_trust::error::Code;
use mcpfs_trust::name::{ServerName, Version};

use super::credentials;
use super::ops::{Desk, caller};
use crate::config::Group;
use crate::control::facts::{Explained, GroupFacts, ProcessFacts, Reason, ReleaseFacts};
use crate::control::peer::Peer;
use crate::control::protocol::{Fault, Refused, Target};
use crate::registry::{Admitted, Server};

impl Desk {
    pub(super) async fn explain(&self, peer: &Peer, target: Target) -> Result<Explained, Refused> {
        match target {
            Target::Name(text) => {
                let (name, version) = text.split_once('@').map_or((text.as_str(), None), |(n, v)| (n, Some(v)));
                self.explain_name(peer, name, version).await
            }
            Target::Path(path) => self.explain_path(peer, &path).await,
            Target::Pid(pid) => self.explain_process(peer, pid).await,
        }
    }

    async fn explain_name(&self, peer: &Peer, name: &str, version: Option<&str>) -> Result<Explained, Refused> {
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
        // The kernel asks for that first, whatever else there is.
        let permitted = self.permitted(peer, &name);
        let yours = permitted.is_ok();
        let open = permitted.and(open);
        let config = self.daemon.config();
        let group = config.access.group_of(&name);
        let version_of = |admitted: &Arc<Admitted>| admitted.version().to_string();
        let refused = open.as_ref().err();
        let stale = open.as_ref().is_ok_and(|fresh| fresh.stale);
        Ok(Explained {
            name: name.to_string(),
            version: version.map(|version| version.to_string()).or(found.as_ref().ok().map(version_of)),
            selected: server.selected.as_ref().ok().map(version_of),
            admitted: server.admitted().iter().map(version_of).collect(),
            refused: refused.map(|why| Reason { code: why.code.clone(), message: why.message.clone() }),
            advice: refused.map(|why| why.advice.clone()),
            group: group.map(|Group { name, gid, setting }| GroupFacts { name, gid, setting, yours }),
            pin: config.pins.by_name.get(&name).map(ToString::to_string),
            head_version: found.as_ref().ok().map(|admitted| admitted.head_version),
            stale,
            stale_because: found.as_ref().ok().filter(|_| stale).map(|admitted| self.why_stale(admitted)),
            credentials: found
                .as_ref()
                .map_or_else(|_| vec![], |admitted| credentials::facts(&admitted.release, &config)),
            release: found.ok().map(|admitted| Box::new(release_facts(&admitted))),
            process: None,
        })
    }

    /// Why the word on which a release is opened is stale.
    fn why_stale(&self, admitted: &Admitted) -> String {
        let snapshot = self.daemon.registry.snapshot();
        match (&snapshot.refreshed.outcome, &snapshot.head) {
            (Err(refusal), _) => refusal.to_string(),
            (Ok(()), Some(head)) if head.version != admitted.head_version => {
                format!("head {} of the registry does not list it any more", head.version)
            }
            (Ok(()), _) => "its head has expired".to_owned(),
        }
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

    async fn explain_path(&self, peer: &Peer, path: &Path) -> Result<Explained, Refused> {
        let mount = &self.daemon.mount;
        let (name, version) = parts(path, &mount.at).or_else(|| parts(path, &mount.named)).ok_or_else(|| {
            Refused::fault(
                Fault::NotFound,
                &format!("{} is no path of a server below {}", path.display(), mount.named.display()),
                "for the names, see mcpfs ls",
            )
        })?;
        self.explain_name(peer, &name, version.as_deref()).await
    }

    /// Only for the process's own user and administrators: what runs is nobody else's business.
    async fn explain_process(&self, peer: &Peer, pid: u32) -> Result<Explained, Refused> {
        let process = self.within(caller(&Peer { pid, ..peer.clone() })).await?;
        let unknown = |message: String| Err(Refused::fault(Fault::NotFound, &message, ""));
        let Some(owner) = process.user_id else { return unknown(format!("there is no process {pid}")) };
        if owner != peer.uid && !peer.administers() {
            return Err(Refused::fault(
                Fault::NotPermitted,
                &format!("process {pid} belongs to another user"),
                "ask as root",
            ));
        }
        let launched = self.daemon.launches.of_process(pid, process.pid_start_us);
        let (known_by, name, version) = match launched {
            Some(one) => ("launch", one.name.to_string(), Some(one.version.to_string())),
            None => {
                let exe = process.process.as_deref().map(Path::new);
                match exe.and_then(|exe| parts(exe, &self.daemon.mount.at)) {
                    Some((name, version)) => ("exe", name, version),
                    None => return unknown(format!("process {pid} was not launched by this daemon since it started")),
                }
            }
        };
        let explained = self.explain_name(peer, &name, version.as_deref()).await?;
        Ok(Explained { process: Some(ProcessFacts { pid, known_by: known_by.to_owned() }), ..explained })
    }
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
}
