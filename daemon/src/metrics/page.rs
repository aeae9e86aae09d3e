//! The page: which families there are, and their values now.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use mcpfs_trust::time::Timestamp;

use super::COUNTS;
use crate::config::Keep;
use crate::daemon::Daemon;
use crate::registry::now;

/// All families: name, type, what it says.
pub(super) const FAMILIES: [(&str, &str, &str); 39] = [
    ("mcpfs_build_info", "gauge", "1, labelled with the program's version, the registry and how files are read."),
    ("mcpfs_start_time_seconds", "gauge", "When this worker started, since 1970."),
    ("mcpfs_worker_generation", "gauge", "Number of this worker on its mount, 1 for the first."),
    ("mcpfs_takeovers_total", "counter", "Workers of this mount that were replaced."),
    ("mcpfs_trust_version", "gauge", "Version of the trust root in force."),
    ("mcpfs_head_version", "gauge", "Version of the accepted head."),
    ("mcpfs_head_issued_timestamp_seconds", "gauge", "When the accepted head was signed."),
    ("mcpfs_head_age_seconds", "gauge", "Time since the accepted head was signed."),
    ("mcpfs_head_expires_timestamp_seconds", "gauge", "When the accepted head expires."),
    ("mcpfs_stale", "gauge", "1 if what is opened counts as stale: no fresh word of the registry."),
    ("mcpfs_refresh_timestamp_seconds", "gauge", "When the registry was last looked at."),
    ("mcpfs_refresh_success", "gauge", "1 if the last look at the registry went well."),
    (
        "mcpfs_next_stop_timestamp_seconds",
        "gauge",
        "When registry.max_stale stops the first server if no newer head comes.",
    ),
    ("mcpfs_servers_admitted", "gauge", "Servers that start."),
    ("mcpfs_servers_refused", "gauge", "Servers that do not, by code; hidden ones are not counted."),
    ("mcpfs_launches_total", "counter", "Launches that were decided, by outcome."),
    ("mcpfs_opens_total", "counter", "Opens of files in the mount, by outcome."),
    ("mcpfs_open_handles", "gauge", "How often files in the mount are open, as far as this worker knows."),
    ("mcpfs_fetch_requests_total", "counter", "Requests to a mirror."),
    ("mcpfs_fetch_bytes_total", "counter", "Bytes that a mirror sent."),
    ("mcpfs_fetch_seconds_total", "counter", "Time that a mirror took for its answers."),
    (
        "mcpfs_fetch_failures_total",
        "counter",
        "Requests to a mirror that failed, and answers that did not verify, by code.",
    ),
    ("mcpfs_fetch_in_flight_bytes", "gauge", "Bytes of chunks in memory."),
    ("mcpfs_cache_bytes", "gauge", "Bytes of the cache on disk."),
    ("mcpfs_cache_quota_bytes", "gauge", "What the cache may hold."),
    ("mcpfs_cache_files", "gauge", "Files in the cache."),
    ("mcpfs_cache_evictions_total", "counter", "Cached files that made room for others."),
    ("mcpfs_cache_quarantines_total", "counter", "Cached files that were not what their name says."),
    ("mcpfs_audit_last_row", "gauge", "Number of the last row under a seal."),
    ("mcpfs_audit_oldest_row_timestamp_seconds", "gauge", "When the oldest row was written."),
    ("mcpfs_audit_retention_seconds", "gauge", "How long rows are kept; not there if it is for ever."),
    ("mcpfs_audit_rows_removed_total", "counter", "Rows that retention removed."),
    ("mcpfs_audit_sealed_timestamp_seconds", "gauge", "When this worker last sealed rows."),
    ("mcpfs_audit_failing", "gauge", "1 if the audit cannot be written: then nothing is opened or launched."),
    ("mcpfs_audit_failures_total", "counter", "Writes to the audit that failed."),
    ("mcpfs_audit_reserve", "gauge", "1 if the disk space set aside for the audit is there."),
    ("process_open_fds", "gauge", "Descriptors that the worker has open."),
    ("process_max_fds", "gauge", "Descriptors that it may have open."),
    ("process_resident_memory_bytes", "gauge", "Memory of the worker."),
];

/// The page of a running daemon; `generation` is its worker's number.
pub(super) fn page(daemon: &Daemon, generation: u64) -> String {
    let mut page = Page(String::new());
    build(&mut page, daemon, generation);
    head(&mut page, daemon);
    page.outcomes("mcpfs_launches_total", &COUNTS.launches.all());
    page.outcomes("mcpfs_opens_total", &COUNTS.opens.all());
    page.one("mcpfs_open_handles", COUNTS.open_handles() as f64);
    fetches(&mut page);
    cache(&mut page, daemon);
    audit(&mut page, daemon);
    process(&mut page);
    page.0
}

fn build(page: &mut Page, daemon: &Daemon, generation: u64) {
    let registry = daemon.registry.snapshot().registry.to_string();
    let reads = daemon.mount.reads.to_string();
    page.labelled(
        "mcpfs_build_info",
        [(&[("version", env!("CARGO_PKG_VERSION")), ("registry", &registry), ("reads", &reads)] as &[_], 1.0)],
    );
    page.one("mcpfs_start_time_seconds", seconds(daemon.started));
    page.one("mcpfs_worker_generation", generation as f64);
    page.one("mcpfs_takeovers_total", generation.saturating_sub(1) as f64);
}

fn head(page: &mut Page, daemon: &Daemon) {
    let snapshot = daemon.registry.snapshot();
    page.one("mcpfs_trust_version", snapshot.trust.version as f64);
    if let Some(head) = &snapshot.head {
        page.one("mcpfs_head_version", head.version as f64);
        page.one("mcpfs_head_issued_timestamp_seconds", seconds(head.issued));
        page.one("mcpfs_head_age_seconds", (seconds(now()) - seconds(head.issued)).max(0.0));
        page.one("mcpfs_head_expires_timestamp_seconds", seconds(head.expires));
    }
    page.one("mcpfs_stale", flag(snapshot.refreshed.stale));
    page.one("mcpfs_refresh_timestamp_seconds", seconds(snapshot.refreshed.at));
    page.one("mcpfs_refresh_success", flag(snapshot.refreshed.outcome.is_ok()));
    if let Some(stop) = daemon.registry.next_stop() {
        page.one("mcpfs_next_stop_timestamp_seconds", seconds(stop.at));
    }
    let config = daemon.config();
    let mut admitted = 0;
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    for server in snapshot.servers.values() {
        match &server.selected {
            Ok(_) => admitted += 1,
            Err(refusal) if config.shows(&server.name).is_ok() => {
                *refused.entry(refusal.code.to_string()).or_default() += 1;
            }
            Err(_) => {}
        }
    }
    page.one("mcpfs_servers_admitted", f64::from(admitted));
    let lines: Vec<_> = refused.iter().map(|(code, count)| ([("code", code.as_str())], *count as f64)).collect();
    page.labelled("mcpfs_servers_refused", lines.iter().map(|(labels, value)| (labels as &[_], *value)));
}

fn fetches(page: &mut Page) {
    let mirrors = COUNTS.mirrors.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut each = |name, value: fn(&super::counts::Fetches) -> f64| {
        let lines: Vec<_> = mirrors.iter().map(|(mirror, one)| ([("mirror", mirror.as_str())], value(one))).collect();
        page.labelled(name, lines.iter().map(|(labels, value)| (labels as &[_], *value)));
    };
    each("mcpfs_fetch_requests_total", |one| one.requests as f64);
    each("mcpfs_fetch_bytes_total", |one| one.bytes as f64);
    each("mcpfs_fetch_seconds_total", |one| one.spent.as_secs_f64());
    let failures = mirrors.iter().flat_map(|(mirror, one)| {
        one.failures.iter().map(move |(code, count)| (mirror.as_str(), code.to_string(), *count))
    });
    let failures: Vec<_> = failures.collect();
    let lines: Vec<_> = failures
        .iter()
        .map(|(mirror, code, count)| ([("mirror", *mirror), ("code", code.as_str())], *count as f64))
        .collect();
    page.labelled("mcpfs_fetch_failures_total", lines.iter().map(|(labels, value)| (labels as &[_], *value)));
}

fn cache(page: &mut Page, daemon: &Daemon) {
    let usage = daemon.content.usage();
    page.one("mcpfs_fetch_in_flight_bytes", usage.in_flight as f64);
    page.one("mcpfs_cache_bytes", usage.cached as f64);
    page.one("mcpfs_cache_quota_bytes", usage.quota as f64);
    page.one("mcpfs_cache_files", usage.files as f64);
    page.one("mcpfs_cache_evictions_total", COUNTS.evictions.load(Ordering::Relaxed) as f64);
    page.one("mcpfs_cache_quarantines_total", COUNTS.quarantines.load(Ordering::Relaxed) as f64);
}

fn audit(page: &mut Page, daemon: &Daemon) {
    let health = daemon.audit.health();
    page.one("mcpfs_audit_last_row", health.sealed as f64);
    if let Some(oldest) = health.kept.oldest_us {
        page.one("mcpfs_audit_oldest_row_timestamp_seconds", oldest as f64 / 1e6);
    }
    if let Keep::For(span) = daemon.config().retention.audit {
        page.one("mcpfs_audit_retention_seconds", span.as_secs_f64());
    }
    page.one("mcpfs_audit_rows_removed_total", COUNTS.audit_removed.load(Ordering::Relaxed) as f64);
    if let Some(sealed) = health.sealed_us {
        page.one("mcpfs_audit_sealed_timestamp_seconds", sealed as f64 / 1e6);
    }
    page.one("mcpfs_audit_failing", flag(health.failing.is_some()));
    page.one("mcpfs_audit_failures_total", COUNTS.audit_failures.load(Ordering::Relaxed) as f64);
    page.one("mcpfs_audit_reserve", flag(health.reserve));
}

fn process(page: &mut Page) {
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.one("process_open_fds", open.count() as f64);
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        page.one("process_max_fds", limit as f64);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    if let Some(kib) = resident.map(|kib: u32| f64::from(kib)) {
        page.one("process_resident_memory_bytes", kib * 1024.0);
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.unix() as f64
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Text in Prometheus' format 0.0.4.
pub(super) struct Page(pub(super) String);

impl Page {
    fn one(&mut self, name: &str, value: f64) {
        self.labelled(name, [(&[] as &[_], value)]);
    }

    fn outcomes(&mut self, name: &str, outcomes: &[(String, u64)]) {
        let lines: Vec<_> =
            outcomes.iter().map(|(word, count)| ([("outcome", word.as_str())], *count as f64)).collect();
        self.labelled(name, lines.iter().map(|(labels, value)| (labels as &[_], *value)));
    }

    pub(super) fn labelled<'a>(
        &mut self,
        name: &str,
        lines: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], f64)>,
    ) {
        let Some((_, kind, help)) = FAMILIES.iter().find(|family| family.0 == name) else {
            tracing::error!(name, "a metric that is not among those documented");
            return;
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let labels: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
            let _ = match labels.is_empty() {
                true => writeln!(self.0, "{name} {value}"),
                false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
            };
        }
    }
}

/// A label's value: backslash, quote and newline escaped.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
