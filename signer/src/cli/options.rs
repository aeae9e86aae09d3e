//! Options that several commands share, and what they are made into.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;

use super::Cli;
use super::trial::TrialArgs;
use crate::bundle::{Registry, Tools};
use crate::check::advisories::{Asking, Program};
use crate::check::patterns::{Patterns, RuleSet, RuleSource};
use crate::check::{CheckOptions, Lookups, Published};
use crate::fetch::{AllowedHost, FetchPolicy, Logins, Network};
use crate::files;
use crate::key::{Keyring, SigningKey};
use crate::pack::{ChunkStore, KnownChunks};
use crate::policy::Gate;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::site::{Address, Site};
use crate::source::{self, Origin};
use crate::staging::Staging;
use crate::trust_cmd;

/// A command line that contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// Where artefacts may come from.
#[derive(Debug, Args)]
pub(super) struct FetchArgs {
    /// The folder that file: artefacts must lie in
    #[arg(long, value_name = "DIR")]
    file_root: Option<PathBuf>,
    /// A host that artefacts may be fetched from, such as registry.example.com; may be repeated
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<AllowedHost>,
    /// A private network that allowed hosts may lie in, such as 10.20.0.0/16; may be repeated
    #[arg(long, value_name = "CIDR")]
    allow_network: Vec<Network>,
    /// A further certificate authority (PEM); may be repeated
    #[arg(long, value_name = "FILE")]
    ca_file: Vec<PathBuf>,
    /// A registry that recipes may name packages of; where it is, npm's and pip's own
    /// configuration says; may be repeated
    #[arg(long, value_name = "KIND", value_enum)]
    allow_registry: Vec<Registry>,
    /// npm's configuration (.npmrc), beside that of the system
    #[arg(long, value_name = "FILE")]
    npmrc: Option<PathBuf>,
    /// pip's configuration (pip.conf), beside that of the system
    #[arg(long, value_name = "FILE")]
    pip_conf: Option<PathBuf>,
    /// Who may sign git tags, as ssh-keygen writes it; every tag must then be signed by one of them
    #[arg(long, value_name = "FILE")]
    allowed_signers: Option<PathBuf>,
    /// Run npm, pip and git without a sandbox, where bubblewrap cannot make one
    #[arg(long)]
    no_sandbox: bool,
    /// Logins of OCI registries and git hosts, a file in the form of docker's config.json
    /// [default: the systemd credential mcpfs-registry-auth, or $MCPFS_REGISTRY_AUTH_FILE]
    #[arg(long, value_name = "FILE")]
    registry_auth: Option<PathBuf>,
}

impl FetchArgs {
    pub(super) fn policy(&self, cli: &Cli) -> anyhow::Result<FetchPolicy> {
        let read = |path: &PathBuf| files::read_bounded(path, 1 << 20);
        Ok(FetchPolicy {
            file_root: self.file_root.clone(),
            hosts: self.allow_host.clone(),
            networks: self.allow_network.clone(),
            authorities: self.ca_file.iter().map(read).collect::<Result<_, _>>()?,
            registries: self.allow_registry.clone(),
            tools: Tools {
                npmrc: self.npmrc.clone(),
                pip_conf: self.pip_conf.clone(),
                allowed_signers: self.allowed_signers.clone(),
                sandbox: !self.no_sandbox,
            },
            logins: Logins::find(self.registry_auth.as_deref())?,
            shown: shown(cli),
            ..FetchPolicy::default()
        })
    }
}

/// The company's own demands.
#[derive(Debug, Args)]
pub(super) struct GateArgs {
    /// What releases must be here: reviewers, data, hosts [default: policy.yaml beside servers/]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Findings that may pass, with reason and last day [default: waivers.yaml beside servers/]
    #[arg(long, value_name = "FILE")]
    waivers: Option<PathBuf>,
}

impl GateArgs {
    /// What a folder that was carried here, or a release of another registry, must have been checked by. Who
    /// made it must not choose the policy, so it is named, or it is said that there is none.
    pub(super) fn of_publisher(&self, recipe: Option<&Path>, none: bool) -> anyhow::Result<Gate> {
        let gate = self.load(recipe);
        match (gate.has_policy(), none) {
            (false, false) => Err(Usage(
                "no policy is named: say by which one this registry publishes, --policy FILE (with publish also \
                 --recipe FILE, beside whose servers/ it lies), or --no-policy if it has none"
                    .to_owned(),
            )
            .into()),
            (true, true) => Err(Usage("--no-policy, and there is a policy.yaml beside servers/".to_owned()).into()),
            _ => Ok(gate),
        }
    }

    pub(super) fn load(&self, recipe: Option<&Path>) -> Gate {
        Gate::load(recipe, self.policy.as_deref(), self.waivers.as_deref())
    }
}

/// Where s3: sites are. Keys come from the systemd credential mcpfs-s3, AWS_ACCESS_KEY_ID and
/// AWS_SECRET_ACCESS_KEY, the profile in ~/.aws, or the machine's own identity.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// The S3 server, if it is not Amazon's, such as https://s3.example.com
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<String>,
    /// The bucket's region [default: AWS_REGION, or the profile's]
    #[arg(long, value_name = "REGION")]
    s3_region: Option<String>,
    /// How often a request that got lost is sent again
    #[arg(long, value_name = "N", default_value = "5")]
    s3_retries: u8,
}

impl StoreArgs {
    /// The site at `text`.
    pub(super) fn open(&self, text: &str) -> anyhow::Result<Site> {
        let mut address = Address::parse(text).map_err(|error| Usage(error.to_string()))?;
        if let Address::S3(s3) = &mut address {
            s3.endpoint = self.s3_endpoint.clone();
            s3.region = self.s3_region.clone();
            s3.retries = self.s3_retries.into();
        }
        Ok(Site::open(&address)?)
    }
}

/// A site that is looked at.
#[derive(Debug, Args)]
pub(super) struct LookArgs {
    /// The site: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "SITE")]
    site: String,
    #[command(flatten)]
    store: StoreArgs,
    /// The trust root that hosts use
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
}

impl LookArgs {
    /// The site, and what it is verified by.
    pub(super) fn open(&self) -> anyhow::Result<(Site, TrustRoot)> {
        let root = trust_cmd::read(&self.trust)?;
        Ok((self.store.open(&self.site)?, root))
    }
}

/// Where known vulnerabilities are looked up.
#[derive(Debug, Args)]
pub(super) struct LookupArgs {
    /// A snapshot of OSV advisories (a .zip as published for an ecosystem, or a folder of JSON); may
    /// be repeated
    #[arg(long, value_name = "FILE|DIR")]
    osv: Vec<PathBuf>,
    /// The SHA-256 that a snapshot must have, besides those of the policy; may be repeated
    #[arg(long, value_name = "HEX", requires = "osv")]
    osv_sha256: Vec<Digest>,
    /// Ask the network about known vulnerabilities, besides what the policy asks
    #[arg(long, value_enum, value_delimiter = ',')]
    audit: Vec<Program>,
    /// An OSV API for pip-audit, such as a mirror's https://…/v1/query [default: the API of PyPI]
    #[arg(long, value_name = "URL")]
    audit_osv_url: Option<url::Url>,
    /// Longest time for one of these programs, seconds
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    audit_timeout: NonZeroU16,
}

impl LookupArgs {
    pub(super) fn lookups(&self, cli: &Cli) -> Lookups {
        let limit = Duration::from_secs(self.audit_timeout.get().into());
        Lookups {
            snapshots: self.osv.clone(),
            pins: self.osv_sha256.clone(),
            audit: self.audit.clone(),
            asking: Asking { osv_url: self.audit_osv_url.clone(), limit },
            shown: shown(cli),
        }
    }
}

/// What code must not look like.
#[derive(Debug, Args)]
pub(super) struct PatternArgs {
    /// Look for malicious patterns by our own YARA rules (write: builtin), and by those of this
    /// folder besides; may be repeated. Needs mcpfs-yara beside this program or in PATH
    #[arg(long, value_name = "builtin|DIR")]
    patterns: Vec<RuleSource>,
}

impl PatternArgs {
    pub(super) fn load(&self) -> anyhow::Result<Option<Patterns>> {
        if self.patterns.is_empty() {
            return Ok(None);
        }
        let rules = RuleSet::new(&self.patterns)?;
        Ok(Some(Patterns { rules, engine: None, limit: Patterns::LIMIT }))
    }
}

/// How a recipe is checked: by `check`, and by `release` before it signs.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    trial: TrialArgs,
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    lookups: LookupArgs,
    #[command(flatten)]
    patterns: PatternArgs,
    #[command(flatten)]
    fetch: FetchArgs,
}

impl CheckArgs {
    /// For the recipe at `file`; `published` is what it is compared with.
    pub(super) fn options(
        &self,
        cli: &Cli,
        file: &Path,
        registry: Option<RegistryName>,
        known: KnownChunks,
        published: Option<Published>,
    ) -> anyhow::Result<CheckOptions> {
        Ok(CheckOptions {
            published,
            gate: self.gate.load(Some(file)),
            lookups: self.lookups.lookups(cli),
            trial: self.trial.options()?,
            patterns: self.patterns.load()?,
            ..options(cli, &self.fetch, registry, known)?
        })
    }
}

/// What every command that moves a head needs.
#[derive(Debug, Args)]
pub(super) struct SiteArgs {
    /// The site: a folder, made if it does not exist, or s3://bucket/prefix
    #[arg(long, value_name = "SITE")]
    pub(super) site: String,
    #[command(flatten)]
    pub(super) store: StoreArgs,
    /// The address that hosts read, to read the new state back from there [default: the site itself]
    #[arg(long, value_name = "URL")]
    pub(super) public: Option<String>,
    /// The trust root that hosts use
    #[arg(long, value_name = "FILE")]
    pub(super) trust: PathBuf,
    /// A key that signs the head; may be repeated
    #[arg(long = "head-key", value_name = "URI", required = true)]
    pub(super) head_keys: Vec<String>,
    /// Days until the head expires (at most 30); sign it again daily: publish --resign
    #[arg(long, value_name = "DAYS", default_value = "7")]
    pub(super) expires: NonZeroU16,
    /// Where this signer remembers its last head and its refusals
    /// [default: $MCPFS_SIGNER_STATE, $STATE_DIRECTORY or ~/.local/state/mcpfs-signer]
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
}

pub(super) fn options(
    cli: &Cli,
    args: &FetchArgs,
    registry: Option<RegistryName>,
    known: KnownChunks,
) -> anyhow::Result<CheckOptions> {
    let fetch = args.policy(cli)?;
    Ok(CheckOptions {
        registry,
        fetch,
        known,
        level: ChunkStore::LEVEL,
        now: now()?,
        published: None,
        gate: Gate::default(),
        lookups: Lookups::default(),
        trial: None,
        patterns: None,
    })
}

/// What git says of the recipe, which must be the one that was checked.
pub(super) fn origin(recipe: &Path, staging: &Staging) -> anyhow::Result<Origin> {
    let origin = source::origin(recipe);
    // After git was asked: what it called committed is what was checked.
    if Digest::of(&files::read_bounded(recipe, Recipe::BYTES as u64)?) != staging.recipe_sha256 {
        anyhow::bail!("{} is not the recipe that was checked; check it again", recipe.display());
    }
    if let Some(warning) = &origin.warning {
        tell!("warning    {warning}");
    }
    Ok(origin)
}

pub(super) fn open(keyring: &mut Keyring, uris: &[String]) -> anyhow::Result<Vec<Box<dyn SigningKey>>> {
    Ok(uris.iter().map(|uri| keyring.open(&uri.parse()?)).collect::<Result<_, _>>()?)
}

pub(super) fn read_name(file: &Path) -> Option<ServerName> {
    let bytes = files::read_bounded(file, Recipe::BYTES as u64).ok()?;
    let recipe = Recipe::parse(std::str::from_utf8(&bytes).ok()?, &file.display().to_string()).ok()?;
    Some(recipe.name)
}

pub(super) fn name_and_version(text: &str) -> anyhow::Result<(ServerName, Option<Version>)> {
    let usage = |error: mcpfs_trust::name::BadName| Usage(error.to_string());
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(version.parse().map_err(usage)?)),
        None => (text, None),
    };
    Ok((name.parse().map_err(usage)?, version))
}

/// Progress for people, none for programs.
pub(super) fn shown(cli: &Cli) -> Progress {
    if cli.json { Progress::silent() } else { Progress::on_stderr() }
}

/// The one place that reads the clock.
pub(super) fn now() -> anyhow::Result<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|time| i64::try_from(time.as_secs()).ok());
    since.and_then(Timestamp::from_unix).context("this machine's clock is not in the years 1970 to 9999; set it")
}
