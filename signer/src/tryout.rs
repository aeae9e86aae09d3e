//! A release on this machine in one go: demo key, site, mount, MCP.
//!
//! What an author wants to see is the server started from a mount, as its users will start it. All
//! of the real way is walked: the check, signing, publishing, a host's verification, the launcher.
//! Only the key is worthless (everybody has it) and so is the registry, `demo/try`, which no
//! host's trust root names. Everything lies in one private folder, the mount point too, and is gone
//! at the end, however that comes.

mod mounted;
mod walls;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpfs_trust::name::{RegistryName, ServerName};
use mcpfs_trust::time::Timestamp;

use crate::check::{CheckError, CheckOptions, Findings};
use crate::key::{KeyError, Keyring};
use crate::log::SignerState;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::release::{self, ReleaseError, Released};
use crate::site::Site;
use crate::site::publish::{LIFETIME_SECONDS, Publisher};
use crate::source::Origin;
use crate::staging::Staging;
use crate::trial::{CREDENTIAL, Trial, TrialOptions};
use crate::trust_cmd::{self, NewRoot, TrustError};

pub use mounted::{Mounted, Stop, find_mcpfs};
pub use walls::Walls;

/// Why a try came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TryError {
    /// The daemon's program.
    #[error(
        "mcpfs is neither beside mcpfs-signer nor in PATH: install the package mcpfs, or build it: cargo build -p mcpfs"
    )]
    NoMcpfs,
    /// A folder or file.
    #[error("cannot use {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The recipe did not pass.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The check could not be made.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The demo key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The trust root.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The mount is not served.
    #[error("mcpfs did not mount: {0}")]
    Mount(String),
    /// Ctrl-C.
    #[error("stopped")]
    Stopped,
}

/// The registry of a try; demo keys sign for no other kind.
pub const REGISTRY: &str = "demo/try";
/// How long a mount may take until it is served.
const MOUNT: Duration = Duration::from_secs(60);

/// A private folder with everything of a try in it. Gone on drop.
#[derive(Debug)]
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// Makes it.
    ///
    /// # Errors
    /// `Io`.
    pub fn make() -> Result<Self, TryError> {
        let make = |base: &Path| tempfile::Builder::new().prefix("mcpfs-try-").tempdir_in(base);
        let base = std::env::temp_dir();
        // A daemon's control socket must have a short path.
        let base = if base.as_os_str().len() > 24 { PathBuf::from("/tmp") } else { base };
        let folder = make(&base).map_err(io(&base))?;
        let place = Self { folder };
        for name in ["servers", "artefacts", "etc", "run", "state", "cache", "mcp", "home"] {
            std::fs::create_dir(place.path(name)).map_err(io(&place.path(name)))?;
        }
        Ok(place)
    }

    /// A path in it.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> TryError {
    let path = path.to_owned();
    move |source| TryError::Io { path: path.clone(), source }
}

/// Checks the recipe, and publishes it in the place's site by demo keys. What the check found comes too.
///
/// # Errors
/// Whatever keeps a release from being published anywhere.
pub fn publish(
    place: &Place,
    recipe: &Path,
    options: &CheckOptions,
    now: Timestamp,
) -> Result<(Released, Findings), TryError> {
    let mut keyring = Keyring::new(crate::pin::Pins::default());
    let registry: RegistryName =
        REGISTRY.parse().map_err(|error: mcpfs_trust::name::BadName| TryError::Mount(error.to_string()))?;
    let (head, release) = ("demo:head".to_owned(), "demo:release".to_owned());
    let one = std::num::NonZeroU32::MIN;
    let new = NewRoot {
        registry: registry.clone(),
        version: 1,
        epoch: 1,
        minimum_head: 1,
        head: vec![head.clone()],
        head_threshold: one,
        release: vec![release.clone()],
        release_threshold: one,
    };
    let root = trust_cmd::init(&mut keyring, new, &place.path("etc/trust.json"), true)?;
    let staging = place.path("staging");
    let options = CheckOptions { registry: Some(registry.clone()), ..options.clone() };
    let staging = release::ingest(recipe, &staging, &options)?;
    let state = SignerState::new(&place.path("signer"), &registry);
    let mut open = |uri: &str| keyring.open(&uri.parse()?);
    let (head_keys, keys) = ([open(&head)?], [open(&release)?]);
    lend(place, &staging)?;
    let site = Site::folder(&place.path("site"));
    let mut publisher = Publisher {
        site: &site,
        root: &root,
        state: &state,
        head_keys: &head_keys,
        now,
        lifetime: LIFETIME_SECONDS,
        progress: &mut |_| (),
        shown: Progress::silent(),
        public: None,
    };
    let released = release::publish(&mut publisher, &staging, &Origin::default(), &keys, "try")?;
    Ok((released, staging.findings))
}

/// Gives the host of a try a worthless text for each credential.
fn lend(place: &Place, staging: &Staging) -> Result<(), TryError> {
    let recipe = Recipe::parse(&staging.recipe, &staging.recipe_file).map_err(ReleaseError::from)?;
    let refs: BTreeSet<&str> = recipe.credentials.iter().map(|credential| credential.reference.as_str()).collect();
    if refs.is_empty() {
        return Ok(());
    }
    let (secret, folder) = (place.path("etc/credential"), place.path("etc/conf.d"));
    std::fs::write(&secret, CREDENTIAL).map_err(io(&secret))?;
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).map_err(io(&secret))?;
    std::fs::create_dir(&folder).map_err(io(&folder))?;
    let entry = |reference| {
        let (file, name) = (secret.display().to_string(), recipe.name.as_str());
        format!("[credentials.{reference:?}]\nfile = {file:?}\nservers = [{name:?}]\n")
    };
    let drop_in = folder.join("50-credentials.toml");
    std::fs::write(&drop_in, refs.into_iter().map(entry).collect::<String>()).map_err(io(&drop_in))
}

/// Starts the server from the mount and speaks to it.
///
/// # Errors
/// `Io` if `run` cannot be started.
pub fn launch(mounted: &Mounted<'_>, name: &ServerName, how: &TrialOptions, stop: &Stop) -> Result<Trial, TryError> {
    let mut server = mounted.server(name, stop.limit())?;
    Ok(crate::trial::talk(&mut server, how))
}

/// The configuration of a host that believes only the demo keys.
fn configuration(place: &Place, how: &TrialOptions, walls: &Walls) -> String {
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    let mut text = format!(
        "rundir = {}\nstate = {}\n\n[registry]\nurl = {:?}\n\n[mount]\nat = {}\n\n[cache]\ndir = {}\n\n[policy]\n\
         allow_root = true\n",
        quoted(place.path("run")),
        quoted(place.path("state")),
        format!("file://{}/", place.path("site").display()),
        quoted(place.path("mcp")),
        quoted(place.path("cache")),
    );
    let mut runtimes = how.runtimes.clone();
    match walls {
        Walls::Missing(_) => text.push_str("sandbox = \"off\"\n"),
        Walls::By(bwrap) => drop(runtimes.entry("bwrap".to_owned()).or_insert_with(|| bwrap.clone())),
    }
    if !runtimes.is_empty() {
        text.push_str("\n[runtimes]\n");
        for (name, path) in runtimes {
            text.push_str(&format!("{name:?} = {}\n", quoted(path)));
        }
    }
    text
}

/// `/mcp` as it is in a try.
pub fn run_path(place: &Place, name: &ServerName) -> PathBuf {
    place.path("mcp").join(name.as_str()).join("run")
}
