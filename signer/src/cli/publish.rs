//! The commands that read recipes and change sites.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use mcpfs_trust::digest::{Digest, Hasher};
use mcpfs_trust::entry::Status;
use mcpfs_trust::name::{RegistryName, ServerName, Version};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;
use serde_json::json;

use super::{Cli, print};
use crate::check::report::{Format, report};
use crate::check::{self, CheckOptions, Findings, Published};
use crate::fetch::{self, AllowedHost, FetchPolicy, Network};
use crate::files;
use crate::inspect as views;
use crate::key::{Keyring, SigningKey};
use crate::log::{Row, SignerState};
use crate::pack::{ChunkStore, KnownChunks};
use crate::policy::Gate;
use crate::recipe::Recipe;
use crate::release::{self, ReleaseError, Released};
use crate::revoke;
use crate::site::SiteFolder;
use crate::site::publish::{Outcome, Publisher, Step};
use crate::source::{self, Origin};
use crate::staging::Staging;
use crate::trust_cmd;

/// A command line that contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(String);

/// Where artefacts may come from.
#[derive(Debug, Args)]
struct FetchArgs {
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
}

/// The company's own demands.
#[derive(Debug, Args)]
struct GateArgs {
    /// What releases must be here: reviewers, data, hosts [default: policy.yaml beside servers/]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Findings that may pass, with reason and last day [default: waivers.yaml beside servers/]
    #[arg(long, value_name = "FILE")]
    waivers: Option<PathBuf>,
}

impl GateArgs {
    fn load(&self, recipe: Option<&Path>) -> Gate {
        Gate::load(recipe, self.policy.as_deref(), self.waivers.as_deref())
    }
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The recipe: servers/NAME.yaml
    file: PathBuf,
    /// The registry it is for: checks also that its statement can be signed
    #[arg(long)]
    registry: Option<RegistryName>,
    /// Leave the checked release in this folder, for `publish --staging`
    #[arg(long, value_name = "DIR")]
    staging: Option<PathBuf>,
    /// The form of the result: json is that of --json, sarif for code scanning, markdown for a
    /// comment on a pull request [default: text]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write the result in that form to this file, and show text on the terminal
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The published site's folder: shows what changed since the selected version
    #[arg(long, value_name = "DIR", requires = "trust")]
    site: Option<PathBuf>,
    /// The trust root that hosts use, for --site
    #[arg(long, value_name = "FILE", requires = "site")]
    trust: Option<PathBuf>,
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    fetch: FetchArgs,
}

#[derive(Debug, Args)]
pub(super) struct Bundle {
    /// The folder
    folder: PathBuf,
    /// The .tar to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What every command that moves a head needs.
#[derive(Debug, Args)]
struct SiteArgs {
    /// The site's folder; made if it does not exist
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// The trust root that hosts use
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// A key that signs the head; may be repeated
    #[arg(long = "head-key", value_name = "URI", required = true)]
    head_keys: Vec<String>,
    /// Days until the head expires (at most 30); sign it again daily: publish --resign
    #[arg(long, value_name = "DAYS", default_value = "7")]
    expires: NonZeroU16,
    /// Where this signer remembers its last head and its refusals
    /// [default: $MCPFS_SIGNER_STATE, $STATE_DIRECTORY or ~/.local/state/mcpfs-signer]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// The recipe: servers/NAME.yaml
    file: PathBuf,
    #[command(flatten)]
    site: SiteArgs,
    /// A key that signs the release; may be repeated. Not needed to select a published version again
    #[arg(long = "key", value_name = "URI")]
    keys: Vec<String>,
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    fetch: FetchArgs,
}

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The folder that `check --staging` left
    #[arg(long, value_name = "DIR", required_unless_present = "resign", conflicts_with = "resign")]
    staging: Option<PathBuf>,
    /// The recipe's file in its git repository: names the commit in the statement
    #[arg(long, value_name = "FILE", requires = "staging")]
    recipe: Option<PathBuf>,
    /// Only sign the head again, so that it does not expire
    #[arg(long)]
    resign: bool,
    #[command(flatten)]
    site: SiteArgs,
    /// A key that signs the release; may be repeated
    #[arg(long = "key", value_name = "URI")]
    keys: Vec<String>,
    #[command(flatten)]
    gate: GateArgs,
}

#[derive(Debug, Args)]
pub(super) struct Withdraw {
    /// NAME@VERSION
    release: String,
    /// Why, in one line; every host shows it
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// `head`, NAME or NAME@VERSION
    what: String,
    /// The site's folder
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// The trust root that hosts use
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// Show what changed from version A to version B
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    diff: Option<Vec<Version>>,
}

pub(super) fn check(cli: &Cli, args: &Check) -> anyhow::Result<()> {
    let screen = match (cli.json, args.format, &args.out) {
        (true, None | Some(Format::Json), _) | (true, _, Some(_)) => Format::Json,
        (true, Some(_), None) => {
            return Err(Usage("--json is --format json: give one of them, or --out FILE".to_owned()).into());
        }
        (false, format, None) => format.unwrap_or(Format::Text),
        (false, _, Some(_)) => Format::Text,
    };
    let published = match (&args.site, &args.trust) {
        (Some(site), Some(trust)) => Some(Published { site: SiteFolder::new(site), root: trust_cmd::read(trust)? }),
        _ => None,
    };
    let root = published.as_ref().map(|published| &published.root.registry);
    let registry = match (&args.registry, root) {
        (Some(registry), Some(root)) if registry != root => {
            return Err(Usage(format!("--registry is {registry}, but --trust is of {root}")).into());
        }
        (registry, root) => registry.as_ref().or(root).cloned(),
    };
    let gate = args.gate.load(Some(&args.file));
    let options = CheckOptions { published, gate, ..options(&args.fetch, registry, KnownChunks::none())? };
    let checked = match &args.staging {
        Some(folder) => check::ingest(&args.file, folder, &options)?,
        None => check::check(&args.file, &options)?,
    };
    let file = args.file.display().to_string();
    if let Some(out) = &args.out {
        let format = args.format.unwrap_or(Format::Text);
        files::write_durably(out, report(format, &file, &checked).as_bytes(), true)?;
    }
    super::print_text(&report(screen, &file, &checked));
    match checked.findings.has_errors() {
        true => Err(anyhow::anyhow!("{file} did not pass: {}", checked.findings.summary())),
        false => Ok(()),
    }
}

pub(super) fn bundle(cli: &Cli, args: &Bundle) -> anyhow::Result<()> {
    let mut hasher = Hasher::new();
    let mut bundled = Ok(());
    files::put_durably(&args.out, true, |file| {
        let mut out = std::io::BufWriter::new(file);
        bundled = fetch::bundle(&args.folder, Both(&mut out, &mut hasher));
        if bundled.is_err() {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        std::io::Write::flush(&mut out)
    })
    .or_else(|error| bundled.map_err(anyhow::Error::from).and(Err(error.into())))
    .with_context(|| format!("{} was not written", args.out.display()))?;
    let sha256 = hasher.finish();
    print(cli, &json!({"file": args.out, "sha256": sha256}), || format!("{sha256}  {}\n", args.out.display()));
    Ok(())
}

/// Writes to two places.
struct Both<'a, A, B>(&'a mut A, &'a mut B);

impl<A: std::io::Write, B: std::io::Write> std::io::Write for Both<'_, A, B> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(bytes)?;
        self.1.write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

pub(super) fn release(cli: &Cli, keyring: &mut Keyring, args: &ReleaseArgs) -> anyhow::Result<()> {
    let request = args.file.display().to_string();
    at_site(keyring, &args.site, "release", &request, |keyring, publisher| {
        let keys = open(keyring, &args.keys)?;
        let registry = publisher.root.registry.clone();
        // Only to find its server's chunks: the check reads the recipe again, and reports what is wrong with it.
        let known = match read_name(&args.file) {
            Some(name) => release::known_chunks(publisher.site, publisher.root, &name)?,
            None => KnownChunks::none(),
        };
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let gate = args.gate.load(Some(&args.file));
        let options = CheckOptions { gate, ..options(&args.fetch, Some(registry), known)? };
        let staging = match release::ingest(&args.file, folder.path(), &options) {
            Err(ReleaseError::Findings { file, findings }) => {
                eprintln!("{findings}");
                return Err(ReleaseError::Findings { file, findings }.into());
            }
            other => other?,
        };
        show_findings(&staging.findings);
        let origin = origin(&args.file, &staging)?;
        let released = release::publish(publisher, &staging, &origin, &keys, &request)?;
        print_released(cli, &released, &args.site);
        Ok(())
    })
}

pub(super) fn publish(cli: &Cli, keyring: &mut Keyring, args: &PublishArgs) -> anyhow::Result<()> {
    let Some(folder) = &args.staging else {
        return at_site(keyring, &args.site, "resign", "", |_, publisher| {
            let outcome = publisher.resign(Row { action: "resign".to_owned(), ..Row::default() })?;
            print_outcome(cli, &outcome);
            Ok(())
        });
    };
    let request = folder.display().to_string();
    at_site(keyring, &args.site, "release", &request, |keyring, publisher| {
        let keys = open(keyring, &args.keys)?;
        let staging = Staging::read(folder)?;
        staging.demand(&args.gate.load(args.recipe.as_deref()))?;
        show_findings(&staging.findings);
        let origin = match &args.recipe {
            Some(recipe) => origin(recipe, &staging)?,
            None => Origin::default(),
        };
        let released = release::publish(publisher, &staging, &origin, &keys, &request)?;
        print_released(cli, &released, &args.site);
        Ok(())
    })
}

pub(super) fn withdraw(cli: &Cli, keyring: &mut Keyring, args: &Withdraw, status: Status) -> anyhow::Result<()> {
    let (name, version) = name_and_version(&args.release)?;
    let version = version.ok_or_else(|| Usage(format!("{:?} names no version; write NAME@VERSION", args.release)))?;
    let action = if status == Status::Revoked { "revoke" } else { "yank" };
    at_site(keyring, &args.site, action, &args.release, |_, publisher| {
        let outcome = revoke::withdraw(publisher, &name, &version, status, &args.reason)?;
        print_outcome(cli, &outcome);
        Ok(())
    })
}

pub(super) fn inspect(cli: &Cli, args: &Inspect) -> anyhow::Result<()> {
    let root = trust_cmd::read(&args.trust)?;
    let site = SiteFolder::new(&args.site);
    let view = match (args.what.as_str(), args.diff.as_deref()) {
        ("head", None) => views::head(&site, &root)?,
        (what, diff) => {
            let (name, version) = name_and_version(what)?;
            match diff {
                Some([from, to]) => views::diff(&site, &root, &name, (from, to))?,
                _ => views::server(&site, &root, &name, version.as_ref())?,
            }
        }
    };
    print(cli, &view.value, || view.text);
    Ok(())
}

/// Runs one change of a site; if it is refused, the signer's journal says so.
fn at_site(
    keyring: &mut Keyring,
    args: &SiteArgs,
    action: &str,
    request: &str,
    work: impl FnOnce(&mut Keyring, &mut Publisher<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let root = trust_cmd::read(&args.trust)?;
    let base = args.state.clone().unwrap_or_else(SignerState::default_base);
    let state = SignerState::new(&base, &root.registry);
    let now = now()?;
    let result = prepared(keyring, args, &root, &state, now, work);
    if let Err(error) = &result {
        let reason = mcpfs_trust::error::bounded(&format!("{error:#}"));
        let (action, request) = (action.to_owned(), request.to_owned());
        let row = Row { time: Some(now), action, request, reason: Some(reason), ..Row::default() };
        if let Err(journal) = state.refuse(row) {
            eprintln!("mcpfs-signer: this refusal could not be noted: {:#}", anyhow::Error::from(journal));
        }
    }
    result
}

fn prepared(
    keyring: &mut Keyring,
    args: &SiteArgs,
    root: &TrustRoot,
    state: &SignerState,
    now: Timestamp,
    work: impl FnOnce(&mut Keyring, &mut Publisher<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let head_keys = open(keyring, &args.head_keys)?;
    let site = SiteFolder::new(&args.site);
    let mut progress = |step: Step| {
        if let Some(text) = step_text(step) {
            eprintln!("{text}");
        }
    };
    let mut publisher = Publisher {
        site: &site,
        root,
        state,
        head_keys: &head_keys,
        now,
        lifetime: i64::from(args.expires.get()) * 86_400,
        progress: &mut progress,
    };
    work(keyring, &mut publisher)
}

fn step_text(step: Step) -> Option<&'static str> {
    Some(match step {
        Step::Objects => "objects    stored",
        Step::Artefacts => "artefact   stored",
        Step::Entry => "entry      signed and stored",
        Step::Bins => return None,
        Step::Catalogue => "catalogue  stored",
        Step::Signed => "head       signed",
        Step::Verified => "verified   as a host would",
        Step::Server | Step::Log => return None,
        Step::Head => "published  the head has moved",
    })
}

fn show_findings(findings: &Findings) {
    eprintln!("{findings}");
}

fn print_released(cli: &Cli, released: &Released, site: &SiteArgs) {
    print(cli, released, || {
        let what = if released.site.changed { "released" } else { "unchanged" };
        let mut text = format!("{what}   {} {}\nstatement  {}\n", released.name, released.version, released.statement);
        for (platform, sha256) in &released.artefacts {
            text.push_str(&format!("artefact   {sha256} ({platform})\n"));
        }
        text + &outcome_text(&released.site) + &format!("site       {}\n", site.site.display())
    });
}

fn print_outcome(cli: &Cli, outcome: &Outcome) {
    print(cli, outcome, || {
        let what = if outcome.changed { "published" } else { "unchanged" };
        format!("{what}\n{}", outcome_text(outcome))
    });
}

fn outcome_text(outcome: &Outcome) -> String {
    format!(
        "head       {} ({} server{}), expires {}\n",
        outcome.head_version,
        outcome.servers,
        if outcome.servers == 1 { "" } else { "s" },
        outcome.expires
    )
}

fn options(args: &FetchArgs, registry: Option<RegistryName>, known: KnownChunks) -> anyhow::Result<CheckOptions> {
    let read = |path: &PathBuf| files::read_bounded(path, 1 << 20);
    let fetch = FetchPolicy {
        file_root: args.file_root.clone(),
        hosts: args.allow_host.clone(),
        networks: args.allow_network.clone(),
        authorities: args.ca_file.iter().map(read).collect::<Result<_, _>>()?,
        ..FetchPolicy::default()
    };
    Ok(CheckOptions {
        registry,
        fetch,
        known,
        level: ChunkStore::LEVEL,
        now: now()?,
        published: None,
        gate: Gate::default(),
    })
}

/// What git says of the recipe, which must be the one that was checked.
fn origin(recipe: &Path, staging: &Staging) -> anyhow::Result<Origin> {
    let origin = source::origin(recipe);
    // After git was asked: what it called committed is what was checked.
    if Digest::of(&files::read_bounded(recipe, Recipe::BYTES as u64)?) != staging.recipe_sha256 {
        anyhow::bail!("{} is not the recipe that was checked; check it again", recipe.display());
    }
    if let Some(warning) = &origin.warning {
        eprintln!("warning    {warning}");
    }
    Ok(origin)
}

fn open(keyring: &mut Keyring, uris: &[String]) -> anyhow::Result<Vec<Box<dyn SigningKey>>> {
    Ok(uris.iter().map(|uri| keyring.open(&uri.parse()?)).collect::<Result<_, _>>()?)
}

fn read_name(file: &Path) -> Option<ServerName> {
    let bytes = files::read_bounded(file, Recipe::BYTES as u64).ok()?;
    let recipe = Recipe::parse(std::str::from_utf8(&bytes).ok()?, &file.display().to_string()).ok()?;
    Some(recipe.name)
}

fn name_and_version(text: &str) -> anyhow::Result<(ServerName, Option<Version>)> {
    let usage = |error: mcpfs_trust::name::BadName| Usage(error.to_string());
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(version.parse().map_err(usage)?)),
        None => (text, None),
    };
    Ok((name.parse().map_err(usage)?, version))
}

/// The one place that reads the clock.
fn now() -> anyhow::Result<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|time| i64::try_from(time.as_secs()).ok());
    since.and_then(Timestamp::from_unix).context("this machine's clock is not in the years 1970 to 9999; set it")
}
