//! The running daemon: what the control socket may look at, and what a reload does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::Code;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::verify::{self, SeenTrust};
use mcpfs_trust::{json, limits};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::audit::{Audit, AuditEvent, BootFacts, EventKind};
use crate::caller::Caller;
use crate::config::{Config, ConfigError};
use crate::content::Content;
use crate::launched::Launches;
use crate::mount::Reads;
use crate::owned::{self, OwnedError};
use crate::refusal::{Refusal, with_cause};
use crate::registry::Registry;
use crate::site::{Secrets, Site, SiteSettings};
use crate::supervisor::wire::Message;

/// All parts of a running daemon.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Which releases are admitted.
    pub registry: Registry,
    /// Their files.
    pub content: Content,
    /// What is recorded.
    pub audit: Audit,
    /// Which processes belong to which launch.
    pub launches: Launches,
    /// The mount, as probed.
    pub mount: MountFacts,
    /// Who opens the files that hold secrets.
    pub secrets: Secrets,
    /// When this daemon started.
    pub started: Timestamp,
    /// For what is done in the background.
    pub runtime: Handle,
    /// One reload at a time.
    pub reloading: Arc<Mutex<()>>,
}

/// The two facts that are probed once per mount, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFacts {
    /// The mount point, without links.
    pub at: PathBuf,
    /// The mount point as it was configured: links may lead to it.
    pub named: PathBuf,
    /// Who reads the cache's files.
    pub reads: Reads,
    /// Whether a successor can take over the session when this process dies.
    pub takeover: bool,
}

impl Daemon {
    /// The configuration in force; a reload replaces it.
    pub fn config(&self) -> Arc<Config> {
        self.registry.config()
    }

    /// Takes over configuration and trust root as they are on the disk now, then looks at the site.
    ///
    /// What cannot be used is refused as a whole and the old stays in force; a trust root
    /// that is refused leaves the running one, with the new configuration. Either way the
    /// answer says so, and a row records it. The site, its mirrors among it, is the new one for
    /// everything that is fetched from then on. What [`Config::keep_fixed`] names and the longest wait of an
    /// open stay as they were at the start; the log says so.
    ///
    /// # Errors
    /// Why something was not taken over.
    pub async fn reload(&self) -> Result<(), Refusal> {
        // A successor begins with what was judged last, so that has to be what was taken over last.
        let _alone = self.reloading.lock().await;
        let old = self.config();
        let taken = self.take_over(&old).await;
        let judged = Message::Judged { config: taken.is_ok(), trust: matches!(taken, Ok(None)) };
        if let Secrets::Roots(link) = &self.secrets {
            // From now on a successor begins with it.
            link.tell(&judged);
        }
        let (kind, outcome) = match taken {
            Ok(None) => (EventKind::Config, Ok(())),
            Ok(Some(refusal)) => (EventKind::Trust, Err(refusal)),
            Err(refusal) => (EventKind::Config, Err(refusal)),
        };
        let mut row = AuditEvent::new(kind, Caller::daemon());
        row.reason = Some("reloaded".to_owned());
        if let Err(refusal) = &outcome {
            tracing::error!(%refusal, "the reload was not taken over");
            row = row.refused(refusal.code, refusal.message.clone());
        }
        self.audit.record(row).await.map_err(Refusal::from)?;
        outcome
    }

    /// Whether the configuration is in force now, and why its trust root is not if it is without.
    async fn take_over(&self, old: &Config) -> Result<Option<Refusal>, Refusal> {
        let (mut config, trust_root) = self.on_disk(old)?;
        let mut kept = config.keep_fixed(old);
        if old.network.object != config.network.object {
            kept.push("network.object, as the longest wait of an open,");
        }
        for key in kept {
            // A restart under systemd goes on with the same mount.
            let when = if key == "mount.reads" { "stopped and started" } else { "restarted" };
            tracing::warn!("{key} changed; it takes effect when mcpfs is {when}");
        }
        let site = site(&config, &self.runtime, &self.secrets)?;
        let running = self.registry.trust();
        let same = |root: &TrustRoot| Ok((root.registry == running.0.registry).then_some(running.1));
        let read = trust_root.and_then(|bytes| trust_of(&config.trust, &bytes, same));
        let (root, refused) = match read {
            Ok(root) => (root, None),
            Err(refusal) => (running.clone(), Some(refusal)),
        };
        let facts = boot_facts(&config, &root.0, &root.1, self.mount.reads);
        self.audit.describe(facts).await.map_err(Refusal::from)?;
        let access = Arc::clone(&config.access);
        self.registry.reconfigure(Arc::new(config), root, site).await?;
        let known = self.registry.snapshot();
        for name in access.names().filter(|name| known.servers.keys().all(|server| server.as_str() != *name)) {
            tracing::warn!("access.servers.{name}: the registry has no such server (yet)");
        }
        Ok(refused)
    }

    /// The configuration as it is on the disk, and the bytes of its trust root.
    fn on_disk(&self, old: &Config) -> Result<(Config, Result<Vec<u8>, Refusal>), Refusal> {
        match &self.secrets {
            Secrets::Own => {
                let config = old.reload().map_err(refused)?;
                let bytes = read_trust(&config.trust);
                Ok((config, bytes))
            }
            Secrets::Roots(link) => {
                let unread = |error| {
                    Refusal::new(Code::PolicyRefused, format!("the supervisor hands no configuration: {error}"))
                };
                let handed = link.configuration().map_err(unread)??;
                Ok((handed.after(old).map_err(refused)?, handed.trust.map_err(unsafe_root)))
            }
        }
    }
}

/// Reads and checks `trust.json`. `seen` says what was used last for the root's registry.
///
/// # Errors
/// As [`read_trust`] and [`trust_of`].
pub fn trust(
    path: &Path,
    seen: impl FnOnce(&TrustRoot) -> Result<Option<SeenTrust>, Refusal>,
) -> Result<(TrustRoot, SeenTrust), Refusal> {
    trust_of(path, &read_trust(path)?, seen)
}

/// Reads `trust.json`.
///
/// # Errors
/// `TrustRootUnsafe` if others could have written it, or it cannot be read.
pub fn read_trust(path: &Path) -> Result<Vec<u8>, Refusal> {
    owned::read(path, limits::TRUST_ROOT_BYTES).map_err(|error| {
        let advice = "trust.json comes from your own configuration management and never from the site, and nobody \
                      writes it but root and whoever mounts";
        unsafe_root(format!("{}; {advice}", with_cause(&error)))
    })
}

/// A trust root that cannot be read.
pub(crate) fn unsafe_root(why: String) -> Refusal {
    Refusal::new(Code::TrustRootUnsafe, why)
}

/// Checks what was read from `path`.
///
/// # Errors
/// `TrustRootUnsafe` if it contradicts itself; what [`verify::trust_root`] refuses.
pub fn trust_of(
    path: &Path,
    bytes: &[u8],
    seen: impl FnOnce(&TrustRoot) -> Result<Option<SeenTrust>, Refusal>,
) -> Result<(TrustRoot, SeenTrust), Refusal> {
    let named = |refusal: Refusal| match refusal.code {
        // Of a file nobody logs in to.
        Code::NotARegistry => Refusal::new(
            Code::Malformed,
            format!(
                "{} holds a web page (HTML) and not a trust root: perhaps the page of a log-in or of an error was \
                 saved under its name. Get the file again from whoever keeps your registry",
                path.display()
            ),
        ),
        Code::Malformed if refusal.message.contains(json::IN_THE_MIDDLE) => Refusal::new(
            Code::Malformed,
            format!("{}: {}. Write it beside that name, then mv it there", path.display(), refusal.message),
        ),
        _ => refusal.of(path.display()),
    };
    let root = TrustRoot::parse(bytes).map_err(|error| named(error.into()))?;
    let seen = seen(&root)?;
    verify::trust_root(bytes, seen.as_ref()).map_err(|error| named(error.into()))
}

/// The site that a configuration names.
///
/// # Errors
/// If a certificate, token or address cannot be used.
pub fn site(config: &Config, runtime: &Handle, secrets: &Secrets) -> Result<Site, Refusal> {
    let settings = SiteSettings {
        mirrors: config.registry.mirrors.iter().map(ToString::to_string).collect(),
        metadata_deadline: config.network.metadata,
        object_deadline: config.network.object,
        connect_timeout: config.network.connect,
        rate_window: config.network.stall,
        proxy: config.registry.proxy.clone(),
        ca_file: config.registry.ca_file.clone(),
        client_certificate: config.registry.client_certificate.clone(),
        token_file: config.registry.token_file.clone(),
        ..SiteSettings::default()
    };
    Site::with_secrets(settings, runtime.clone(), secrets.clone())
        .map_err(|error| Refusal::new(Code::Unreachable, with_cause(&error)))
}

/// The facts that a boot row of the audit carries.
pub fn boot_facts(config: &Config, root: &TrustRoot, seen: &SeenTrust, reads: Reads) -> BootFacts {
    BootFacts {
        reads: Some(match reads {
            Reads::Passthrough => "passthrough",
            Reads::Cached => "cached",
        }),
        trust_version: Some(root.version),
        trust_sha256: Some(seen.sha256),
        // Defaults are part of what is in force, so it is the merged result that is hashed.
        config_sha256: Some(Digest::of(format!("{config:?}").as_bytes())),
    }
}

/// A configuration error as a refusal.
pub fn refused(error: ConfigError) -> Refusal {
    unusable(with_cause(&error), matches!(&error, ConfigError::File(OwnedError::Unsafe { .. })))
}

/// A configuration that cannot be used; `unsafe_file` if others could have written it.
pub(crate) fn unusable(why: String, unsafe_file: bool) -> Refusal {
    Refusal::new(if unsafe_file { Code::TrustRootUnsafe } else { Code::PolicyRefused }, why)
}
