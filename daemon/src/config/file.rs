//! The shape of the TOML files, and how several become one [`Config`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mcpfs_trust::name::ServerName;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::access::PartialAccess;
use super::credentials::{self, credentials};
use super::place::place;
use super::retention::PartialRetention;
use super::texts::Text;
use super::value::{Listen, Mirrors, PinValue, Places, ProxyAddress, Size, Span, runtimes};
use super::whole::{check_metrics, check_paths, check_stale};
use super::{
    CacheConfig, Config, ConfigError, DowngradePolicy, LEAST_QUOTA, LogConfig, LogFormat, MetricsConfig, MountConfig,
    NetworkConfig, Pins, PinsDefault, Policy, ReadsWanted, RegistryConfig, SandboxPolicy,
};
use crate::words;

/// One file, or all of them merged: every key optional.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Partial {
    trust: Option<PathBuf>,
    state: Option<PathBuf>,
    rundir: Option<PathBuf>,
    user: Option<String>,
    registry: PartialRegistry,
    mount: PartialMount,
    cache: PartialCache,
    network: PartialNetwork,
    #[serde(deserialize_with = "pins")]
    pins: BTreeMap<ServerName, PinValue>,
    stops: BTreeMap<ServerName, String>,
    policy: PartialPolicy,
    access: PartialAccess,
    metrics: PartialMetrics,
    log: PartialLog,
    retention: PartialRetention,
    runtimes: BTreeMap<String, PathBuf>,
    credentials: BTreeMap<String, credentials::Written>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PartialMetrics {
    textfile: Option<PathBuf>,
    listen: Option<Listen>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PartialLog {
    format: Option<LogFormat>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PartialRegistry {
    url: Option<Mirrors>,
    refresh: Option<Span>,
    max_stale: Option<Span>,
    max_stale_for: BTreeMap<String, Span>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    proxy: Option<ProxyAddress>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PartialMount {
    at: Option<PathBuf>,
    reads: Option<WrittenReads>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum WrittenReads {
    Auto,
    Cached,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PartialCache {
    dir: Option<PathBuf>,
    quota: Option<Size>,
    keep_free: Option<Size>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PartialNetwork {
    connect: Option<Span>,
    stall: Option<Span>,
    metadata: Option<Span>,
    object: Option<Span>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct PartialPolicy {
    sandbox: Option<WrittenSandbox>,
    allow_root: bool,
    downgrade: Option<WrittenDowngrade>,
    tree_exec: Option<WrittenTreeExec>,
    expose: Vec<String>,
    hide: Vec<String>,
    scanners: Vec<String>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum WrittenSandbox {
    Required,
    Off,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum WrittenDowngrade {
    Allow,
    PinOnly,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum WrittenTreeExec {
    Allow,
    Deny,
}

/// The pins table. Its values are of two kinds by their key, which no type of a value can know.
fn pins<'de, D: serde::Deserializer<'de>>(table: D) -> Result<BTreeMap<ServerName, PinValue>, D::Error> {
    /// The value of `default`.
    #[derive(Deserialize)]
    #[serde(try_from = "String")]
    struct Word(PinsDefault);

    impl TryFrom<String> for Word {
        type Error = &'static str;

        fn try_from(text: String) -> Result<Self, Self::Error> {
            PinsDefault::from_word(&text).map(Self).ok_or(DEFAULTS)
        }
    }

    struct Table;

    impl<'de> Visitor<'de> for Table {
        type Value = BTreeMap<ServerName, PinValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table of names and versions")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pins = BTreeMap::new();
            while let Some(name) = map.next_key::<ServerName>()? {
                let value = match name.as_str() {
                    "default" => PinValue::Default(map.next_value::<Word>()?.0),
                    _ => map.next_value()?,
                };
                pins.insert(name, value);
            }
            Ok(pins)
        }
    }
    table.deserialize_map(Table)
}

/// Checks and merges all files; the first is the main one.
pub(super) fn merged(main: &Path, files: &[Text], places: Places) -> Result<Config, ConfigError> {
    let mut merged = toml::Table::new();
    for file in files {
        merge(&mut merged, table(file)?);
    }
    let incomplete = |problem: String| ConfigError::Incomplete { path: main.to_owned(), problem };
    // Each file has passed this already; together they can only fail where a table met a value.
    let partial = Partial::deserialize(merged).map_err(|error| incomplete(error.message().to_owned()))?;
    complete(main, partial, places).map_err(|problem| match place(&problem, files) {
        Some((path, line)) => ConfigError::Invalid { path, line, problem },
        None => incomplete(problem),
    })
}

/// One file as a table, once it has proved to be configuration by itself.
fn table(Text { path, text, public }: &Text) -> Result<toml::Table, ConfigError> {
    let invalid = |line, problem| ConfigError::Invalid { path: path.clone(), line, problem };
    let explain = |error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        invalid(line, explain(error.message()))
    };
    let partial: Partial = toml::from_str(text).map_err(explain)?;
    if *public && partial.registry.proxy.as_ref().is_some_and(|proxy| has_password(&proxy.0)) {
        let line = text.lines().position(|line| line.contains("proxy")).map_or(1, |at| at + 1);
        let problem = "registry.proxy has a password, and others can read this file: chmod 640 it, with the group of \
                       the user whom mcpfs runs as";
        return Err(invalid(line, problem.to_owned()));
    }
    toml::from_str(text).map_err(explain)
}

fn has_password(address: &str) -> bool {
    url::Url::parse(address).is_ok_and(|url| url.password().is_some())
}

/// serde's message for a person: an unknown key with the nearest known one, an unknown word with those that there are.
fn explain(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let (true, [unknown, known @ ..]) = (message.starts_with("unknown variant"), quoted.as_slice()) {
        return format!("{unknown:?} cannot stand here; it is one of: {}", known.join(", "));
    }
    let ("unknown field", [unknown, known @ ..]) = (message.get(..13).unwrap_or_default(), quoted.as_slice()) else {
        return message.to_owned();
    };
    let nearest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity > 0.7);
    match nearest {
        Some((_, name)) => format!("unknown key {unknown:?}; did you mean {name:?}?"),
        None => format!("unknown key {unknown:?}; here can stand: {}", known.join(", ")),
    }
}

/// Later values replace earlier ones; tables merge.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Fills in the defaults and checks what no single value can know.
fn complete(main: &Path, partial: Partial, places: Places) -> Result<Config, String> {
    let Partial {
        trust,
        state,
        rundir,
        user,
        registry,
        mount,
        cache,
        network,
        pins,
        stops,
        policy,
        access,
        metrics,
        log,
        retention,
        runtimes: written,
        credentials: refs,
    } = partial;
    let span = |given: Option<Span>, seconds| given.map_or(Duration::from_secs(seconds), |span| span.0);
    let config = Config {
        file: main.to_owned(),
        defaults: places.clone(),
        trust: trust.unwrap_or_else(|| main.with_file_name("trust.json")),
        state: state.unwrap_or(places.state),
        rundir: rundir.unwrap_or(places.rundir),
        user: user.unwrap_or_else(|| "mcpfs".to_owned()),
        registry: RegistryConfig {
            mirrors: registry
                .url
                .ok_or("[registry] has no url: write url = \"https://…\", the address of your site")?
                .0,
            refresh: span(registry.refresh, 300),
            max_stale: span(registry.max_stale, 30 * 86_400),
            max_stale_for: registry.max_stale_for.into_iter().map(|(class, span)| (class, span.0)).collect(),
            ca_file: registry.ca_file,
            token_file: registry.token_file,
            client_certificate: registry.client_certificate,
            proxy: registry.proxy.map(|proxy| proxy.0),
        },
        mount: MountConfig {
            at: mount.at.unwrap_or(places.at),
            reads: match mount.reads {
                Some(WrittenReads::Cached) => ReadsWanted::Cached,
                Some(WrittenReads::Auto) | None => ReadsWanted::Auto,
            },
        },
        cache: CacheConfig {
            dir: cache.dir.unwrap_or(places.cache),
            quota: cache.quota.map_or(20 << 30, |size| size.0),
            keep_free: cache.keep_free.map(|size| size.0),
        },
        network: NetworkConfig {
            connect: span(network.connect, 3),
            stall: span(network.stall, 5),
            metadata: span(network.metadata, 10),
            object: span(network.object, 30),
        },
        pins: Pins { stopped: stops, ..to_pins(pins)? },
        policy: to_policy(policy)?,
        access: Arc::new(access.into()),
        metrics: MetricsConfig { textfile: metrics.textfile, listen: metrics.listen.map(|listen| listen.0) },
        log: LogConfig { format: log.format.unwrap_or_default() },
        retention: retention.into(),
        runtimes: runtimes().chain(written).collect(),
        credentials: credentials(refs)?,
    };
    check_paths(&config)?;
    check_metrics(&config.metrics)?;
    check_stale(&config.registry)?;
    if config.cache.quota < LEAST_QUOTA {
        return Err(format!(
            "cache.quota = {}: no server could start; the least is {}, and \"20GiB\" is what it is without the line",
            words::size(config.cache.quota),
            words::size(LEAST_QUOTA)
        ));
    }
    Ok(config)
}

/// What `pins.default` can be.
const DEFAULTS: &str = "pins.default is \"catalogue\" (what the registry selects) or \"none\" (only what is pinned)";

fn to_pins(written: BTreeMap<ServerName, PinValue>) -> Result<Pins, String> {
    let mut pins = Pins::default();
    for (name, value) in written {
        match (name.as_str(), value) {
            ("default", PinValue::Default(default)) => pins.default = default,
            ("default", PinValue::Pin(_)) => return Err(DEFAULTS.to_owned()),
            (_, PinValue::Pin(pin)) => {
                pins.by_name.insert(name, pin);
            }
            (name, PinValue::Default(_)) => {
                return Err(format!("pins.{name} needs a version such as \"1.2.0\"; to unpin it, remove the line"));
            }
        }
    }
    Ok(pins)
}

fn to_policy(written: PartialPolicy) -> Result<Policy, String> {
    if let Some(WrittenTreeExec::Deny) = written.tree_exec {
        return Err("policy.tree_exec = \"deny\" is not enforced by this version of mcpfs: remove it. Files below \
                    tree/ can be executed directly, and the audit records that as access"
            .to_owned());
    }
    for pattern in written.expose.iter().chain(&written.hide) {
        let stem = pattern.strip_suffix('*').unwrap_or(pattern);
        if stem.contains('*') || pattern.is_empty() {
            return Err(format!("{pattern:?}: policy.expose and policy.hide take a name, or a prefix and one final *"));
        }
    }
    Ok(Policy {
        sandbox: match written.sandbox {
            Some(WrittenSandbox::Off) => SandboxPolicy::Off,
            Some(WrittenSandbox::Required) | None => SandboxPolicy::Required,
        },
        allow_root: written.allow_root,
        downgrade: match written.downgrade {
            Some(WrittenDowngrade::PinOnly) => DowngradePolicy::PinOnly,
            Some(WrittenDowngrade::Allow) | None => DowngradePolicy::Allow,
        },
        expose: written.expose,
        hide: written.hide,
        scanners: written.scanners,
    })
}
