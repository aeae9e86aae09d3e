//! The one line about the mount that people see: in the log, on the terminal, and as long as it is
//! served in `systemctl status`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::daemon::Daemon;
use crate::supervisor::wire::Message;
use crate::words;
use crate::worker::Link;

/// How old what systemd shows may be where nothing tells of a change.
const PERIOD: Duration = Duration::from_secs(5);

/// Says that it is served.
pub(crate) fn served(daemon: &Daemon, link: Option<&Link>) {
    let line = line(daemon);
    tracing::info!("{line}");
    if let Some(link) = link {
        return link.tell(&Message::Ready(line));
    }
    // Whoever started us may be gone; the mount is there all the same.
    let mut out = std::io::stdout();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

/// Tells the supervisor each time that the line has become another.
pub(crate) async fn follow(daemon: Daemon, link: Arc<Link>) {
    let mut changes = daemon.registry.changes();
    let mut told = String::new();
    loop {
        let now = line(&daemon);
        if now != told {
            link.tell(&Message::Status(now.clone()));
            told = now;
        }
        // An error means that nothing changes any more; the line's age says the same.
        if let Ok(Err(_)) = timeout(PERIOD, changes.changed()).await {
            return;
        }
    }
}

fn line(daemon: &Daemon) -> String {
    let snapshot = daemon.registry.snapshot();
    let refused = snapshot.servers.values().filter(|server| server.selected.is_err()).count();
    let head = snapshot.head.as_ref().map_or_else(|| "no head yet".to_owned(), |head| format!("head {}", head.version));
    let trouble = match &snapshot.refreshed.outcome {
        Ok(()) => String::new(),
        Err(refusal) => format!(" · {refusal}"),
    };
    format!(
        "{} mounted at {} · {head} · {}, {refused} refused · reads {}{trouble}",
        snapshot.registry,
        daemon.mount.at.display(),
        words::count((snapshot.servers.len() - refused) as u64, "server"),
        daemon.mount.reads,
    )
}
