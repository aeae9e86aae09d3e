//! What no single value of a configuration can know: bounds that hang together, and places that must not meet.

use std::path::PathBuf;

use super::{Config, MetricsConfig, RUNDIR_BYTES, RegistryConfig};
use crate::words;

/// What a class may have less of, and under names that releases use.
pub(super) fn check_stale(registry: &RegistryConfig) -> Result<(), String> {
    const CLASSES: [&str; 4] = ["public", "internal", "confidential", "restricted"];
    if registry.max_stale < registry.refresh {
        return Err(format!(
            "registry.max_stale is shorter than registry.refresh ({}): everything would stop between two looks at the site",
            words::span(registry.refresh.as_secs())
        ));
    }
    for (class, span) in &registry.max_stale_for {
        if !CLASSES.contains(&class.as_str()) {
            return Err(format!("registry.max_stale_for.{class}: there is no such class, but {}", CLASSES.join(", ")));
        }
        if *span > registry.max_stale {
            return Err(format!(
                "registry.max_stale_for.{class} is longer than registry.max_stale ({}), which is the end for all: \
                 lengthen that one, or shorten this one",
                words::span(registry.max_stale.as_secs())
            ));
        }
    }
    Ok(())
}

/// Nobody but this host is told; and node_exporter reads what ends in `.prom`.
pub(super) fn check_metrics(metrics: &MetricsConfig) -> Result<(), String> {
    if let Some(listen) = metrics.listen
        && !listen.ip().is_loopback()
    {
        return Err(format!(
            "metrics.listen = \"{listen}\" is no loopback address: write 127.0.0.1 or [::1], and put what may be asked \
             from elsewhere in front of it"
        ));
    }
    if let Some(file) = &metrics.textfile {
        if !file.is_absolute() {
            return Err(format!("metrics.textfile = {file:?} is not an absolute path"));
        }
        if file.extension().is_none_or(|end| end != "prom") {
            return Err(format!("metrics.textfile = {file:?} does not end in .prom: node_exporter would not read it"));
        }
    }
    Ok(())
}

/// Paths are absolute (the daemon leaves the directory it was started in), and `rundir` fits a `#!` line.
pub(super) fn check_paths(config: &Config) -> Result<(), String> {
    let optional = |path: &'_ Option<PathBuf>| path.clone().unwrap_or_else(|| "/".into());
    let (ca_file, token_file) = (optional(&config.registry.ca_file), optional(&config.registry.token_file));
    let client_certificate = optional(&config.registry.client_certificate);
    let named = [
        ("trust", &config.trust),
        ("state", &config.state),
        ("rundir", &config.rundir),
        ("mount.at", &config.mount.at),
        ("cache.dir", &config.cache.dir),
        ("registry.ca_file", &ca_file),
        ("registry.token_file", &token_file),
        ("registry.client_certificate", &client_certificate),
    ];
    for (key, path) in named {
        if !path.is_absolute() {
            return Err(format!("{key} = {path:?} is not an absolute path"));
        }
    }
    for (name, path) in &config.runtimes {
        if !path.is_absolute() {
            return Err(format!("runtimes.{name} = {path:?} is not an absolute path"));
        }
    }
    if config.mount.at.parent().is_none() {
        return Err(
            "mount.at is the root directory, which cannot be a mount point; name an empty one, such as \"/mcp\""
                .to_owned(),
        );
    }
    for (key, path) in named.into_iter().filter(|(key, _)| *key != "mount.at") {
        if path.starts_with(&config.mount.at) {
            return Err(format!(
                "{key} = {path:?} lies below the mount point {:?}, where mcpfs would wait for itself",
                config.mount.at
            ));
        }
    }
    if config.state.starts_with(&config.cache.dir) || config.cache.dir.starts_with(&config.state) {
        return Err(format!(
            "state = {:?} and cache.dir = {:?} lie in each other: what is in the cache may be removed at any time, and \
             what is in the state never; give each a directory of its own",
            config.state, config.cache.dir
        ));
    }
    let rundir = config.rundir.as_os_str().as_encoded_bytes();
    if rundir.len() > RUNDIR_BYTES || rundir.iter().any(u8::is_ascii_whitespace) {
        return Err(format!(
            "rundir = {:?}: at most {RUNDIR_BYTES} bytes without spaces (the first line of every run carries it)",
            config.rundir
        ));
    }
    Ok(())
}
