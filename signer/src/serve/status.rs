//! How the signing server is, for people and for monitoring.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mcpfs_trust::name::RegistryName;
use mcpfs_trust::time::Timestamp;
use serde::Serialize;

/// What is known after the last pass.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Status {
    pub(super) registry: Option<RegistryName>,
    /// When a pass last began and when one last reached its end.
    pub(super) began: Option<Timestamp>,
    pub(super) succeeded: Option<Timestamp>,
    /// Why the last pass did not reach its end.
    pub(super) waiting: Option<String>,
    /// The tip that was read last.
    pub(super) tip: Option<String>,
    pub(super) recipes: usize,
    /// Recipes whose release is not the selected one.
    pub(super) pending: Vec<Waiting>,
    /// Servers without a recipe at the tip.
    pub(super) unlisted: Vec<String>,
    pub(super) head: Option<Head>,
    /// Whether the token could be used when it was last tried.
    pub(super) token: Option<bool>,
    pub(super) protection: Option<String>,
    #[serde(skip)]
    pub(super) counts: Counts,
}

/// A recipe that waits.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Waiting {
    pub(super) recipe: String,
    pub(super) reason: Option<String>,
    pub(super) failures: u32,
    pub(super) next: Option<Timestamp>,
}

/// The site's head.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Head {
    pub(super) version: u64,
    pub(super) issued: Timestamp,
    pub(super) expires: Timestamp,
}

/// Since the start.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) begun: u64,
    pub(super) passes: BTreeMap<&'static str, u64>,
    pub(super) pass_seconds: f64,
    pub(super) releases: u64,
    pub(super) release_seconds: f64,
    pub(super) signatures: u64,
    pub(super) heads: BTreeMap<&'static str, u64>,
    pub(super) refused: BTreeMap<&'static str, u64>,
    pub(super) hooks: BTreeMap<&'static str, u64>,
}

/// A head that is this near its end is an alarm, seconds.
const HEAD_ALARM: i64 = 2 * 86_400;

impl Status {
    /// Why it is not ready; nothing if it is. `poll` is the longest pause between passes.
    pub(super) fn alarms(&self, now: Timestamp, poll: u64) -> Vec<String> {
        let mut alarms = Vec::new();
        if let Some(reason) = &self.waiting {
            alarms.push(reason.clone());
        }
        match self.succeeded {
            None if self.waiting.is_none() => alarms.push("no pass has ended yet".to_owned()),
            Some(last) if now.unix() - last.unix() > 3 * poll as i64 + 60 => {
                alarms.push(format!("the last pass that ended was at {last}"));
            }
            _ => {}
        }
        match self.head {
            Some(head) if head.expires <= now => alarms.push(format!("the head expired at {}", head.expires)),
            Some(head) if head.expires <= now.plus(HEAD_ALARM.min((head.expires.unix() - head.issued.unix()) / 4)) => {
                alarms.push(format!("the head expires at {}", head.expires));
            }
            _ => {}
        }
        alarms
    }

    /// In one line, for `systemctl status`.
    pub(super) fn line(&self) -> String {
        let head = self.head.map_or("no head yet".to_owned(), |head| format!("head {}", head.version));
        let left = match (&self.waiting, self.pending.len()) {
            (Some(reason), _) => format!("waiting: {reason}"),
            (None, 0) => "nothing to release".to_owned(),
            (None, count) => format!("{count} not released, see /readyz"),
        };
        format!("{head}; {}", mcpfs_trust::error::bounded(&left))
    }

    /// In Prometheus' text format.
    pub(super) fn metrics(&self, now: Timestamp) -> String {
        let mut page = Page(String::new());
        let at = |time: Option<Timestamp>| time.map_or(0, Timestamp::unix) as f64;
        page.one("last_success_timestamp_seconds", "gauge", "When a pass last reached its end.", at(self.succeeded));
        page.one(
            "ready",
            "gauge",
            "1 if the last pass reached its end.",
            f64::from(u8::from(self.waiting.is_none() && self.succeeded.is_some())),
        );
        page.one(
            "token_usable",
            "gauge",
            "1 if the signing token could be used when it was last tried.",
            f64::from(u8::from(self.token == Some(true))),
        );
        page.one("recipes", "gauge", "Recipes at the tip of the branch.", self.recipes as f64);
        page.one("pending", "gauge", "Recipes whose release is not the selected one.", self.pending.len() as f64);
        page.one("unlisted", "gauge", "Published servers without a recipe at the tip.", self.unlisted.len() as f64);
        if let Some(head) = self.head {
            page.one("head_version", "gauge", "Version of the site's head.", head.version as f64);
            page.one(
                "head_age_seconds",
                "gauge",
                "Since the head was issued.",
                (now.unix() - head.issued.unix()) as f64,
            );
            page.one("head_expires_timestamp_seconds", "gauge", "When the head expires.", at(Some(head.expires)));
        }
        let counts = &self.counts;
        let begun = "Passes that began: one more than have ended while one is under way.";
        page.one("passes_begun_total", "counter", begun, counts.begun as f64);
        page.many("passes_total", "Passes, by how they ended.", "result", &counts.passes);
        page.one("pass_seconds_total", "counter", "Time spent in passes.", counts.pass_seconds);
        page.one("releases_total", "counter", "Releases that were selected.", counts.releases as f64);
        page.one(
            "release_seconds_total",
            "counter",
            "Time spent on them, from proof to published.",
            counts.release_seconds,
        );
        page.one("signatures_total", "counter", "Signatures made by keys in tokens.", counts.signatures as f64);
        page.many("heads_total", "Heads that were signed, by why.", "reason", &counts.heads);
        page.many("refused_total", "Recipes that were tried and refused, by why.", "reason", &counts.refused);
        page.many("hooks_total", "Webhooks and hints, by what became of them.", "result", &counts.hooks);
        page.0
    }
}

/// A page of metrics.
struct Page(String);

impl Page {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "mcpfs_signer_{name} {value}");
    }

    fn many(&mut self, name: &str, help: &str, label: &str, values: &BTreeMap<&'static str, u64>) {
        self.head(name, "counter", help);
        for (key, value) in values {
            let _ = writeln!(self.0, "mcpfs_signer_{name}{{{label}=\"{key}\"}} {value}");
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP mcpfs_signer_{name} {help}\n# TYPE mcpfs_signer_{name} {kind}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn ready_or_not() {
        let now = Timestamp::from_unix(10_000_000).unwrap();
        let head = |left: i64| Some(Head { version: 3, issued: now.plus(left - 7 * 86_400), expires: now.plus(left) });
        let good = Status { succeeded: Some(now), head: head(6 * 86_400), ..Status::default() };
        assert_eq!(good.alarms(now, 300), [""; 0]);
        for (status, alarm) in [
            (Status { succeeded: None, ..good.clone() }, "no pass"),
            (Status { succeeded: Some(now.plus(-961)), ..good.clone() }, "the last pass"),
            (Status { waiting: Some("no token mcpfs".to_owned()), ..good.clone() }, "no token"),
            (Status { head: head(0), ..good.clone() }, "expired"),
            (Status { head: head(3_600), ..good.clone() }, "expires"),
        ] {
            let alarms = status.alarms(now, 300);
            assert!(alarms.len() == 1 && alarms[0].contains(alarm), "{alarms:?}");
        }
        let text = good.metrics(now);
        assert!(text.contains("\nmcpfs_signer_head_age_seconds 86400\n"), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.starts_with("mcpfs_signer_") && line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}
