//! What monitoring is told: numbers, in Prometheus' text format.
//!
//! Two ways out, both off by default. A *text file* for node_exporter's textfile collector,
//! replaced by a rename every 15 s, in a directory of the worker's own; it opens no port. An
//! *endpoint* on a loopback address, for whoever scrapes. The worker may neither listen nor bind
//! (seccomp, Landlock), and that stays so: the socket listens before rights are given up, while
//! nothing hostile has been met.
//!
//! What happens is counted where it happens, in [`COUNTS`]: one process serves one mount, so one
//! set of counters is all there is. Counters begin at 0 with each worker; that is what
//! `rate()` expects. Everything else is asked of the daemon when the page is made.
//!
//! Names are public: docs/operating.md lists them, and a test compares.

mod counts;
mod endpoint;
mod page;
mod textfile;

use std::net::TcpListener;

use tokio::task::JoinSet;

pub(crate) use self::counts::COUNTS;
use crate::config::MetricsConfig;
use crate::daemon::Daemon;
use crate::supervisor::User;

/// Opens the ways out; for the time before rights are given up to become `user`.
///
/// One that cannot be had is left out and said so: no mount is missing for the sake of a number.
pub(crate) fn open(wanted: &mut MetricsConfig, user: Option<&User>) -> Option<TcpListener> {
    if let Some(file) = &wanted.textfile
        && let Err(error) = textfile::prepare(file, user)
    {
        tracing::error!(%error, file = %file.display(), "metrics.textfile is not written");
        wanted.textfile = None;
    }
    let address = wanted.listen?;
    let listening = endpoint::listen(address);
    listening.inspect_err(|error| tracing::error!(%error, %address, "metrics.listen is not answered")).ok()
}

/// Tells monitoring, for as long as this process serves; `generation` is the worker's number.
pub(crate) fn publish(daemon: &Daemon, generation: u64, endpoint: Option<TcpListener>, background: &mut JoinSet<()>) {
    if let Some(listener) = endpoint {
        let daemon = daemon.clone();
        background.spawn(endpoint::serve(listener, move || page::page(&daemon, generation)));
    }
    if let Some(file) = daemon.config().metrics.textfile.clone() {
        let daemon = daemon.clone();
        background.spawn(textfile::keep(file, move || page::page(&daemon, generation)));
    }
}

#[cfg(test)]
mod tests;
